"""Average of the weights of two networks of one run, for example its best and its last.

Question: Does the average score better than each of the two?

Command:
    python average_weights.py runs/voc-gpu/weights.safetensors runs/voc-gpu/last.safetensors \
        --out averaged.safetensors

Writes: OUT, the averaged weights, with the card of the first file. ``deeplab evaluate`` scores them; the
shipped weights and results/gpu-training.md were made with it.

Source: "Averaging Weights Leads to Wider Optima and Better Generalization" (arXiv 1803.05407).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from deeplab.weights.store import load_weights, save_weights


def main() -> None:
    """Average the weights and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="weight of the second file in the average")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    network, card = load_weights(options.first)
    other, other_card = load_weights(options.second)
    if (card.variant, card.class_names) != (other_card.variant, other_card.class_names):
        parser.error(
            f"got weights of {card.variant} and of {other_card.variant}, wanted one network and its classes"
        )
    with torch.no_grad():
        for value, other_value in zip(network.parameters(), other.parameters(), strict=True):
            value.lerp_(other_value, options.share)
    steps = [each.provenance.get("step") for each in (card, other_card)]
    provenance = card.provenance | {
        "averaged": f"steps {steps[0]} and {steps[1]}, {options.share:g} of the second"
    }
    save_weights(options.out, network, replace(card, provenance=provenance))


if __name__ == "__main__":
    main()
