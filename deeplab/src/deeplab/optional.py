"""Optional dependencies: the extra that installs each, and the error where one is missing."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

EXTRAS = {
    "train": ("lightning_fabric", "tensorboard"),
    "hub": ("huggingface_hub",),
    "report": ("matplotlib",),
    "search": ("optuna",),
    "app": ("gradio", "fastapi", "uvicorn", "python_multipart"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "nncf"),
    "mosaic": ("tifffile", "imagecodecs"),
    "ray": ("ray",),
}
"""Modules installed by each extra of the distribution."""


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra can be imported."""
    return all(find_spec(module) is not None for module in EXTRAS[extra])


def require(module: str, purpose: str = "") -> None:
    """Check that an optional module is installed.

    Args:
        module: Name of the module, one of those in ``EXTRAS``.
        purpose: What needs it, as the subject of a sentence: "the web page".

    Raises:
        ModuleNotFoundError: If it is not installed; names the command that installs it.
    """
    if find_spec(module) is None:
        raise missing(module, purpose)


def missing(module: str, purpose: str = "") -> ModuleNotFoundError:
    """The error for an optional module that is not installed. For the arguments see ``require``."""
    extra = next(name for name, modules in EXTRAS.items() if module in modules)
    subject = f"{purpose} needs {module}, which is not installed" if purpose else f"{module} is not installed"
    return ModuleNotFoundError(f"{subject}: pip install 'deeplab-crf[{extra}]'", name=module)


def import_quietly(module: str, purpose: str = "") -> Any:
    """Import an optional module without its warnings and without usage reports over the network.

    Args:
        module: Name of the module, one of those in ``EXTRAS``.
        purpose: What needs it; see ``require``.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    require(module, purpose)
    # OpenVINO and NNCF report every use through this module. If it cannot be imported, they report nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(module)
