"""Weights on the Hugging Face hub, fetched and published through huggingface_hub (extra ``hub``)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from deeplab.network.architecture import DeepLab
from deeplab.optional import missing
from deeplab.weights.store import Card, save_weights

IMAGENET_REPOSITORY, IMAGENET_FILE = "timm/vgg16.tv_in1k", "model.safetensors"
HUB_PREFIX = "hf-hub:"
WEIGHTS_FILE, CARD_FILE = "model.safetensors", "model.json"


def fetch(repository: str, file: str) -> Path:
    """A file of a repository on the hub, from the local cache if it is there.

    Args:
        repository: "owner/name".
        file: its name in the repository.

    Raises:
        ConnectionError: if it cannot be had; says how to get it by hand.
        ModuleNotFoundError: if huggingface_hub is not installed.
    """
    try:
        import huggingface_hub as hub
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{_by_hand(repository, file)}, or: pip install 'deeplab-crf[hub]'"
        ) from None
    try:
        return Path(hub.hf_hub_download(repository, file))
    except (
        Exception
    ) as error:  # of its own, of the HTTP library beneath, of the system: all mean that it is not there
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise ConnectionError(f"{_by_hand(repository, file)} ({reason})") from None


def _by_hand(repository: str, file: str) -> str:
    return (
        f"cannot fetch {file} of {repository} from the Hugging Face hub; get it by hand from "
        f"https://huggingface.co/{repository}/resolve/main/{file} and give its path as weights"
    )


@cache
def _mixin() -> Any:
    """A class with huggingface_hub's ``save_pretrained`` and ``push_to_hub`` for a network with its card."""
    from huggingface_hub import ModelHubMixin

    class Published(
        ModelHubMixin,
        library_name="deeplab-crf",
        pipeline_tag="image-segmentation",
        model_card_template=_README,
        tags=["semantic-segmentation", "deeplab", "densecrf"],
    ):
        def __init__(self, network: Any, card: Any):
            self.network, self.card = network, card

        def _save_pretrained(self, save_directory: Path) -> None:
            save_weights(Path(save_directory) / WEIGHTS_FILE, self.network, self.card)

        def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
            names, provenance = (
                ", ".join(self.card.class_names),
                json.dumps(self.card.provenance, indent=2, ensure_ascii=False),
            )
            return super().generate_model_card(
                *args, variant=self.card.variant, class_names=names, provenance=provenance, **kwargs
            )

    return Published


_README = """---
{{ card_data }}
---

# {{ variant }}

Semantic segmentation with an atrous VGG-16 and a fully connected CRF (DeepLab, arXiv 1412.7062).

    import deeplab

    model = deeplab.load(weights="hf-hub:OWNER/NAME")
    model.segment("photo.jpg").save("labels.png")

Classes: {{ class_names }}

    {{ provenance | indent(4) }}
"""


def published(network: DeepLab, card: Card) -> Any:
    """A network with its card as huggingface_hub's ``ModelHubMixin``, to ``save_pretrained`` or
    ``push_to_hub``.

    Raises:
        ModuleNotFoundError: if huggingface_hub is not installed.
    """
    try:
        mixin = _mixin()
    except ModuleNotFoundError:
        raise missing("huggingface_hub", "publishing") from None
    return mixin(network, card)
