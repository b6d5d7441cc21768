"""Inference on photos: device, precision, batches, test-time augmentation, and windows for large photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from deeplab.model.devices import bound_primitive_cache, device_from, free_memory, torch_memory
from deeplab.network.architecture import OUTPUT_STRIDE, DeepLab
from deeplab.network.bfloat16 import compute_dtype, to_bfloat16
from deeplab.network.preprocessing import Preparation, pad_to_legal, prepare
from deeplab.network.tiling import margin_of, windows
from deeplab.network.winograd import cached_bytes
from deeplab.photos import resize_photo
from deeplab.weights.exported import Exported
from deeplab.weights.store import MIN_SIDE
from densecrf import memory
from densecrf.threads import whole_number

NETWORK_BYTES_PER_PIXEL = 560
"""Memory of the network, mostly two activations of stage 1; 520 measured at 2 megapixels and 21 classes."""
MIN_CORE = 256
"""Smallest core of a window chosen for lack of memory; smaller windows would consist mostly of margins."""
MEMORY_SHARE = 0.5
"""Share of the free memory that windows chosen for lack of memory may take."""


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views of a photo at several scales and mirrored, over whose probabilities the mean is taken.

    Raises:
        ValueError: For no scales, a scale outside 0.05 to 20, or a size from 1 to 31.
        TypeError: For a size that is not a whole number.
    """

    scales: tuple[float, ...] = (1.0,)
    """Factors on height and width, applied after ``size``."""
    mirror: bool = False
    """Whether each view is also mirrored left to right."""
    size: int = 0
    """Length in pixels to which the longer side of larger photos is reduced; 0 for never."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0.05 <= scale <= 20 for scale in self.scales):
            raise ValueError(f"got scales {self.scales}, wanted at least one, each from 0.05 to 20")
        if whole_number("size", self.size) < MIN_SIDE and self.size != 0:
            raise ValueError(f"got size {self.size}, wanted at least {MIN_SIDE} pixels, or 0 for full size")

    def reduced_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a photo as the network sees it at scale 1.

        Args:
            height: Height of the photo in pixels.
            width: Width of the photo in pixels.

        Returns:
            Height and width in pixels, at least 1.
        """
        longer = max(height, width)
        if not self.size or longer <= self.size:
            return height, width
        return max(1, round(height * self.size / longer)), max(1, round(width * self.size / longer))


class Predictor:
    """A network on a device with the preprocessing of its weights.

    Args:
        network: Network in fp32, which stays as it is, or an exported one.
        preparation: Preprocessing that belongs to the weights.
        device: Name of the device; see ``device_from``. Exported networks run on the CPU.
        precision: "auto", "fp32" or "bf16"; exported networks have the one that they were opened with.
        compile: Run the network through ``torch.compile``.

    Raises:
        ValueError: If the device or precision is not available.
    """

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
            self.device = torch.device("cpu")
            self.dtype = network.dtype
            self.network = network
            self._full_scores = network.full_scores
        else:
            self.device = device_from(device)
            bound_primitive_cache()
            self.dtype = compute_dtype(precision, self.device)
            network = to_bfloat16(network) if self.dtype == torch.bfloat16 else network.eval()
            network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.network = network
            self._full_scores = torch.compile(network.full_scores) if compile else network.full_scores
        self._margin = margin_of(network.variant.name)

    @property
    def margin(self) -> int:
        """Pixels that a window must see beyond those it labels to get the scores of the whole photo."""
        return self._margin

    @property
    def cached_bytes(self) -> int:
        """Memory of the transformed weights that the network caches at its first prediction."""
        return 0 if isinstance(self.network, Exported) else cached_bytes(self.network)

    @torch.inference_mode()
    def probabilities(
        self,
        photos: Sequence[np.ndarray],
        *,
        views: TestTimeAugmentation = TestTimeAugmentation(),
        tile: int | None = None,
    ) -> np.ndarray:
        """Compute class probabilities at every pixel of photos of one size, in one batch.

        A photo is padded at the bottom and right with the mean colour to a size at which scores align with
        pixels. Its own rectangle is cut out of the scores before the softmax.

        Args:
            photos: Photos (H, W, 3) uint8 in R, G, B, all of one size.
            views: Scales and mirrored copies to average over.
            tile: Pixels in each direction that a window labels; it sees half a field of view more. None uses
                windows only if the whole photo does not fit into memory. The scores are those of the whole
                photo in either case.

        Returns:
            (B, K, H, W) float32.

        Raises:
            MemoryError: If even windows do not fit into memory.

        Source: DeepLab, sections 3.2 and 4; the release's test.prototxt.
        """
        with torch_memory(f"the network on {_photos(len(photos), *photos[0].shape[:2])}"):
            return self._mean_over_views(photos, views, tile).numpy()

    @torch.inference_mode()
    def scores(self, photo: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Compute class scores before they are upsampled.

        Args:
            photo: (H, W, 3) uint8 in R, G, B; the network runs on it once, as a whole.

        Returns:
            Scores (K, h, w) float32; their stride, which is 8, or 1 for multi-scale variants, whose scores
            are sums of maps of several strides; and the row and column of the upsampled scores where the
            photo begins.

        Raises:
            MemoryError: If memory runs out.
        """
        height, width = photo.shape[:2]
        variant = self.network.variant
        with torch_memory(f"the network on {_photos(1, height, width)}"):
            batch = pad_to_legal(prepare(photo, self.preparation).to(self.device), variant)
            batch = batch.contiguous(memory_format=torch.channels_last)
            if variant.multi_scale:
                full = self.network.full_scores(batch)[0, :, :height, :width]
                return full.float().cpu().numpy(), 1, 0
            return self.network(batch)[0].float().cpu().numpy(), OUTPUT_STRIDE, variant.score_offset

    def _mean_over_views(
        self, photos: Sequence[np.ndarray], views: TestTimeAugmentation, tile: int | None
    ) -> torch.Tensor:
        height, width = photos[0].shape[:2]
        base_height, base_width = views.reduced_size(height, width)
        if (base_height, base_width) != (height, width):
            needed = 4 * (self.network.classes + 1) * len(photos) * height * width
            what = f"probabilities of {self.network.classes} classes"
            memory.require(needed, f"{_photos(len(photos), height, width)} with {what}")
        total: torch.Tensor | None = None
        for scale in views.scales:
            size = max(1, round(base_height * scale)), max(1, round(base_width * scale))
            scaled = [resize_photo(photo, size) for photo in photos]
            for mirror in (False, True)[: 1 + views.mirror]:
                view = [photo[:, ::-1] for photo in scaled] if mirror else scaled
                probabilities = self._view_probabilities(view, tile)
                probabilities = probabilities.flip(-1) if mirror else probabilities
                if probabilities.shape[-2:] == (height, width):
                    total = probabilities if total is None else total.add_(probabilities)
                else:
                    total = _add_resized(total, probabilities, (height, width))
        assert total is not None
        count = len(views.scales) * (1 + views.mirror)
        return total if count == 1 else total.div_(count)

    def _view_probabilities(self, photos: Sequence[np.ndarray], tile: int | None) -> torch.Tensor:
        """Probabilities (B, K, H, W) of photos of one size, in main memory."""
        height, width = photos[0].shape[:2]
        core = tile or self._affordable_core(len(photos), height, width)
        if core is None:
            return self._window_probabilities(photos, slice(0, height), slice(0, width)).cpu()
        whole = torch.empty(len(photos), self.network.classes, height, width)
        for rows, columns in windows(height, width, core, self._margin):
            window = self._window_probabilities(
                photos, slice(rows.start, rows.stop), slice(columns.start, columns.stop)
            )
            whole[..., rows.first : rows.last, columns.first : columns.last] = window[
                ...,
                rows.first - rows.start : rows.last - rows.start,
                columns.first - columns.start : columns.last - columns.start,
            ]
        return whole

    def _window_probabilities(
        self, photos: Sequence[np.ndarray], rows: slice, columns: slice
    ) -> torch.Tensor:
        batch = torch.cat([prepare(photo[rows, columns], self.preparation) for photo in photos])
        height, width = batch.shape[-2:]
        batch = pad_to_legal(batch.to(self.device), self.network.variant)
        scores = self._full_scores(batch.contiguous(memory_format=torch.channels_last))
        return torch.softmax(scores[..., :height, :width], dim=1)

    def _affordable_core(self, photos: int, height: int, width: int) -> int | None:
        """Pixels that a window may label in each direction; None if the whole photos fit into memory."""
        free = free_memory(self.device)
        if free is not None and not isinstance(self.network, Exported):
            free -= cached_bytes(self.network, missing_only=True)
        pixels = photos * height * width
        if free is None or pixels * NETWORK_BYTES_PER_PIXEL <= free:
            return None
        result_bytes = pixels * self.network.classes * 4
        window_bytes = max(0.0, MEMORY_SHARE * free - result_bytes)
        core = int((window_bytes / (photos * NETWORK_BYTES_PER_PIXEL)) ** 0.5) - 2 * self._margin
        if core < MIN_CORE:
            smallest = photos * (MIN_CORE + 2 * self._margin) ** 2 * NETWORK_BYTES_PER_PIXEL + result_bytes
            needed = min(pixels * NETWORK_BYTES_PER_PIXEL, int(smallest / MEMORY_SHARE))
            memory.require(needed, _photos(photos, height, width))
        return max(core, MIN_CORE)


def _photos(count: int, height: int, width: int) -> str:
    """Photos of one size in words, for error messages."""
    return f"{'a photo' if count == 1 else f'{count} photos'} of {width}×{height}"


def _add_resized(
    total: torch.Tensor | None, probabilities: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Add probabilities (B, K, h, w), resized to ``size``, to ``total`` (B, K, H, W).

    Classes are resized one by one, so that only one is held at a time. Unlike ``network.upsample``, which
    aligns the corner pixels of a score map, this interpolates between pixel centres, as photos are resized.
    """
    first = total is None
    total = torch.empty(*probabilities.shape[:2], *size) if total is None else total
    for k in range(probabilities.shape[1]):
        plane = F.interpolate(probabilities[:, k : k + 1], size, mode="bilinear", align_corners=False)[:, 0]
        if first:
            total[:, k] = plane
        else:
            total[:, k] += plane
    return total
