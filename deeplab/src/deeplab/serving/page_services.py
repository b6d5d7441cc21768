"""What the tabs of the page share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deeplab.model.segmentation import Model
from deeplab.serving.decoder_process import DecoderPool
from deeplab.serving.limits import Limits
from deeplab.serving.queue import WorkQueue
from deeplab.serving.result_cache import ResultCache
from deeplab.serving.upload_store import UploadStore


@dataclass(frozen=True)
class PageServices:
    """The parts of a server that label photos, and store uploads and results."""

    model: Model
    limits: Limits
    queue: WorkQueue
    decoder: DecoderPool
    uploads: UploadStore
    results: ResultCache


def upload_path(file: Any) -> Any:
    """Return the path in a file as the browser sends it, ``{"path": …}``; None for anything else."""
    return file.get("path") if isinstance(file, dict) else None
