"""The network at work on photos: device, precision, batches, several scales, mirrored copies, windows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from deeplab.network.architecture import OUTPUT_STRIDE, PLAIN_OFFSET, PLAIN_TRUNK, DeepLab
from deeplab.network.bfloat16 import choose, reduced
from deeplab.network.preprocessing import Preparation, pad_to_legal, prepare
from deeplab.network.tiling import margin_of, windows
from deeplab.network.winograd import kept_bytes
from deeplab.weights.exported import Exported
from deeplab.weights.store import LEAST_SIDE
from densecrf import memory
from densecrf.threads import whole_number

NETWORK_BYTES_A_PIXEL = (
    560  # most of it two fp32 activations of stage 1; 520 measured at 2 megapixels, 21 classes
)
LEAST_CORE = 256  # of a window that memory forces: smaller ones would mostly look at their margins
# What torch says when there is no memory: on the CPU (Linux, Windows), on a GPU, in its libraries, in oneDNN.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "_ALLOC_FAILED",
    "could not create a primitive",
)
MOST_PRIMITIVES = 192  # a look takes 23 at one size, 35 with several scales; a training step 60 and 84
SHARE_OF_MEMORY = 0.5  # of what is free, that windows chosen here may take


@dataclass(frozen=True)
class TestTimeAugmentation:
    """How often the network looks at a photo, and at which sizes; probabilities are averaged over all
    combinations."""

    scales: tuple[float, ...] = (1.0,)
    """Factors on height and width, after ``size`` has been applied."""
    mirror: bool = False
    """Whether it also looks at a copy mirrored left to right."""
    size: int = 0
    """Pixels of the longer side to which larger photos are reduced; 0 for full size. Smaller ones stay as
    they are."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0.05 <= scale <= 20 for scale in self.scales):
            raise ValueError(f"got scales {self.scales}, wanted at least one, each from 0.05 to 20")
        if whole_number("size", self.size) < LEAST_SIDE and self.size != 0:
            raise ValueError(f"got size {self.size}, wanted at least {LEAST_SIDE} pixels, or 0 for full size")

    def reduced(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that a photo has for the network at scale 1."""
        longer = max(height, width)
        if not self.size or longer <= self.size:
            return height, width
        return max(1, round(height * self.size / longer)), max(1, round(width * self.size / longer))


def device_from(name: str) -> torch.device:
    """A torch device; "auto" is a GPU if torch sees one, and else the CPU.

    Raises:
        ValueError: for a name that torch does not know, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"got device {name!r}, which cannot be used here ({reason}); 'cpu' always works"
        ) from None
    return device


def bound_primitive_cache() -> None:
    """Bound what oneDNN keeps for sizes of photos that it has seen, unless the user has said how much.

    torch's convolutions on the CPU are made anew for every size, and the last 1,024 are kept, at half a
    megabyte each: 500 MB after 45 sizes. The bound still holds a training step of the largest network, twice.
    oneDNN reads it at the first convolution of a process.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(MOST_PRIMITIVES))


@contextmanager
def torch_memory(what: str) -> Iterator[None]:
    """Make what torch raises for want of memory, some RuntimeError, a MemoryError; ``what`` begins its
    message."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise MemoryError(f"{what} does not fit into memory; use a smaller image, or smaller tiles") from None


class Predictor:
    """A network with the preparation of its weights, on a device; an exported one is as it was opened."""

    network: DeepLab | Exported

    def __init__(
        self,
        network: DeepLab | Exported,
        preparation: Preparation,
        *,
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
    ):
        self.preparation = preparation
        if isinstance(network, Exported):
            self.device, self.dtype, self.network = torch.device("cpu"), network.dtype, network
            self._full_scores = network.full_scores
        else:
            self.device = device_from(device)
            bound_primitive_cache()
            self.dtype = choose(precision, self.device)
            network = reduced(network) if self.dtype == torch.bfloat16 else network.eval()
            network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.network = network
            self._full_scores = torch.compile(network.full_scores) if compile else network.full_scores
        self._margin = margin_of(network.variant.name)

    @torch.inference_mode()
    def probabilities(
        self,
        photos: Sequence[np.ndarray],
        *,
        views: TestTimeAugmentation = TestTimeAugmentation(),
        tile: int | None = None,
    ) -> np.ndarray:
        """Class probabilities at every pixel of photos of one size, in one batch.

        A photo is padded at the bottom and right with the mean colour to a size at which scores align with
        pixels, and its own rectangle is cut out of the scores, on which the softmax is taken.

        Args:
            photos: each (H, W, 3) uint8, R, G, B.
            views: scales and mirrored copies to average over.
            tile: look at the photo in windows that answer for so many pixels in each direction and see half a
                field of view more; None for windows only where the whole does not fit into memory. Either way
                the scores are those of the whole photo.

        Returns:
            (B, K, H, W) float32.

        Raises:
            MemoryError: if even windows do not fit, or memory ends on the way.

        Source: DeepLab, sections 3.2 and 4; the release's test.prototxt.
        """
        height, width = photos[0].shape[:2]
        with torch_memory(f"the network on {_photos(len(photos), height, width)}"):
            return self._averaged(photos, views, tile).numpy()

    def _averaged(
        self, photos: Sequence[np.ndarray], views: TestTimeAugmentation, tile: int | None
    ) -> torch.Tensor:
        height, width = photos[0].shape[:2]
        base = views.reduced(height, width)
        if base != (height, width):
            needed = 4 * (self.network.classes + 1) * len(photos) * height * width
            what = f"probabilities of {self.network.classes} classes"
            memory.require(needed, f"{_photos(len(photos), height, width)} with {what}")
        total: torch.Tensor | None = None
        for scale in views.scales:
            size = max(1, round(base[1] * scale)), max(1, round(base[0] * scale))
            scaled = [_resized(photo, size) for photo in photos]
            for mirror in (False, True)[: 1 + views.mirror]:
                shown = [photo[:, ::-1] for photo in scaled] if mirror else scaled
                found = self._look(shown, tile)
                found = found.flip(-1) if mirror else found
                if found.shape[-2:] == (height, width):
                    total = found if total is None else total.add_(found)
                else:
                    total = _add_enlarged(total, found, (height, width))
        assert total is not None
        count = len(views.scales) * (1 + views.mirror)
        return total if count == 1 else total.div_(count)

    @property
    def margin(self) -> int:
        """Pixels that a window must see beyond those it answers for, so that its scores are those of the
        whole."""
        return self._margin

    @property
    def kept_bytes(self) -> int:
        """Bytes that the network keeps beside its weights once it has looked at a photo."""
        return 0 if isinstance(self.network, Exported) else kept_bytes(self.network)

    @torch.inference_mode()
    def scores(self, photo: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Class scores before they are upsampled.

        Args:
            photo: (H, W, 3) uint8, R, G, B; looked at once, whole.

        Returns:
            (K, h, w) float32; their stride, 8, or 1 of the multi-scale variants, whose scores are sums of
            maps of many strides; and the row and column at which the photo starts once they are upsampled.

        Raises:
            MemoryError: if memory ends on the way.
        """
        with torch_memory(f"the network on {_photos(1, *photo.shape[:2])}"):
            return self._scores(photo)

    def _scores(self, photo: np.ndarray) -> tuple[np.ndarray, int, int]:
        variant = self.network.variant
        batch = pad_to_legal(prepare(photo, self.preparation).to(self.device), variant)
        batch = batch.contiguous(memory_format=torch.channels_last)
        if variant.multi_scale:
            full = self.network.full_scores(batch)[0, :, : photo.shape[0], : photo.shape[1]]
            return full.float().cpu().numpy(), 1, 0
        start = PLAIN_OFFSET if variant.trunk == PLAIN_TRUNK else 0
        return self.network(batch)[0].float().cpu().numpy(), OUTPUT_STRIDE, start

    def _look(self, photos: Sequence[np.ndarray], tile: int | None) -> torch.Tensor:
        """One look at photos of one size: (B, K, H, W) probabilities in main memory."""
        height, width = photos[0].shape[:2]
        classes = self.network.classes
        core = tile or self._affordable_core(len(photos), height, width)
        if core is None:
            return self._window(photos, slice(0, height), slice(0, width)).cpu()
        whole = torch.empty(len(photos), classes, height, width)
        for rows, columns in windows(height, width, core, self._margin):
            found = self._window(photos, slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            whole[..., rows.first : rows.last, columns.first : columns.last] = found[
                ...,
                rows.first - rows.start : rows.last - rows.start,
                columns.first - columns.start : columns.last - columns.start,
            ]
        return whole

    def _window(self, photos: Sequence[np.ndarray], rows: slice, columns: slice) -> torch.Tensor:
        batch = torch.cat([prepare(photo[rows, columns], self.preparation) for photo in photos])
        height, width = batch.shape[-2:]
        batch = pad_to_legal(batch.to(self.device), self.network.variant)
        scores = self._full_scores(batch.contiguous(memory_format=torch.channels_last))
        return torch.softmax(scores[..., :height, :width], dim=1)

    def _affordable_core(self, photos: int, height: int, width: int) -> int | None:
        """How many pixels a window may answer for in each direction; None if the whole photo fits."""
        free = _free(self.device)
        if free is not None and not isinstance(self.network, Exported):
            free -= kept_bytes(self.network, to_come=True)
        pixels = photos * height * width
        if free is None or pixels * NETWORK_BYTES_A_PIXEL <= free:
            return None
        kept = pixels * self.network.classes * 4
        side = int((max(0.0, SHARE_OF_MEMORY * free - kept) / (photos * NETWORK_BYTES_A_PIXEL)) ** 0.5)
        core = side - 2 * self._margin
        if core < LEAST_CORE:
            least = photos * (LEAST_CORE + 2 * self._margin) ** 2 * NETWORK_BYTES_A_PIXEL + kept
            needed = min(pixels * NETWORK_BYTES_A_PIXEL, int(least / SHARE_OF_MEMORY))
            memory.require(needed, _photos(photos, height, width))
        return max(core, LEAST_CORE)


def _photos(count: int, height: int, width: int) -> str:
    return f"{'a photo' if count == 1 else f'{count} photos'} of {width}×{height}"


def _resized(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if size == photo.shape[1::-1]:
        return photo
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))


def _add_enlarged(total: torch.Tensor | None, found: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Add maps (B, K, h, w), brought to (H, W), to ``total`` (B, K, H, W); class by class, so that only one
    is held."""
    first = total is None
    total = torch.empty(*found.shape[:2], *size) if total is None else total
    for number in range(found.shape[1]):
        plane = F.interpolate(found[:, number : number + 1], size, mode="bilinear", align_corners=False)[:, 0]
        if first:
            total[:, number] = plane
        else:
            total[:, number] += plane
    return total


def _free(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return memory.available() if device.type == "cpu" and os.name == "posix" else None
