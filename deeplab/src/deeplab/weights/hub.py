"""Download and publish weights on the Hugging Face hub through huggingface_hub (extra ``hub``)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from deeplab.network.architecture import DeepLab
from deeplab.optional import missing
from deeplab.weights.store import Card, save_weights

IMAGENET_REPOSITORY = "timm/vgg16.tv_in1k"
IMAGENET_FILE = "model.safetensors"
HUB_PREFIX = "hf-hub:"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"


def fetch(repository: str, file: str) -> Path:
    """Download a file of a repository on the hub, or find it in the local cache.

    Args:
        repository: "owner/name".
        file: Name of the file in the repository.

    Returns:
        Path of the file in the cache.

    Raises:
        ConnectionError: If it cannot be downloaded; says how to get it by hand.
        ModuleNotFoundError: If huggingface_hub is not installed.
    """
    try:
        import huggingface_hub as hub
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{_manual_download(repository, file)}, or: pip install 'deeplab-crf[hub]'"
        ) from None
    try:
        return Path(hub.hf_hub_download(repository, file))
    except Exception as error:  # its own errors, those of the HTTP library and of the system
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise ConnectionError(f"{_manual_download(repository, file)} ({reason})") from None


def _manual_download(repository: str, file: str) -> str:
    """Message that a file cannot be downloaded, and how to get it by hand."""
    return (
        f"cannot fetch {file} of {repository} from the Hugging Face hub; get it by hand from "
        f"https://huggingface.co/{repository}/resolve/main/{file} and give its path as weights"
    )


@cache
def _mixin() -> Any:
    """Class of a network with its card, with ``save_pretrained`` and ``push_to_hub`` of huggingface_hub."""
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
            return super().generate_model_card(
                *args,
                variant=self.card.variant,
                class_names=", ".join(self.card.class_names),
                provenance=json.dumps(self.card.provenance, indent=2, ensure_ascii=False),
                **kwargs,
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


def hub_model(network: DeepLab, card: Card) -> Any:
    """Wrap a network and its card as a ``ModelHubMixin`` of huggingface_hub.

    Args:
        network: Network to publish.
        card: Card of the network.

    Returns:
        An object with ``save_pretrained`` and ``push_to_hub``.

    Raises:
        ModuleNotFoundError: If huggingface_hub is not installed.
    """
    try:
        mixin = _mixin()
    except ModuleNotFoundError:
        raise missing("huggingface_hub", "publishing") from None
    return mixin(network, card)
