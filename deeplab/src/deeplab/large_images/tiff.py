"""Large TIFFs read window by window, so that memory does not grow with the image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from deeplab.large_images.geo_tags import ORIENTATION
from deeplab.large_images.tiff_reader import PageReader, import_tifffile
from deeplab.photos import PhotoError

MAX_PIXELS = 10**11
"""Largest number of pixels that is accepted: a small file can claim any size."""
MAX_SEGMENT_BYTES = 2**27
"""Largest size of a decoded tile or strip, which is held in memory as a whole."""
MAX_MASK_PAGES = 64
"""Number of pages at the start of a file among which its mask is searched."""
_NODATA = 42113  # code of GDAL's tag for the level that means "no data"
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of alpha in the tag ExtraSamples
_GREY, _RGB, _YCBCR = 1, 2, 6  # of the tag PhotometricInterpretation
_JPEG = (6, 7)  # of the tag Compression; the decoder turns YCbCr into RGB


class UnsupportedTiffError(PhotoError):
    """A TIFF that cannot be read window by window; Pillow may be able to decode it as a whole."""


class LargeTiff:
    """A large TIFF (or BigTIFF, GeoTIFF, COG) that is read in windows.

    The image may have tiles or strips of any compression that imagecodecs decodes. One band is grey; of three
    or more, the first three are R, G and B. Alpha is composited on white, as in ``photos``. Other bands take
    no memory beyond that of one tile or strip. Of several pages the first is read.

    Levels of 8 bits are used unchanged. Levels of more bits are scaled so that the largest number that the
    bits in use can hold becomes 255: 12 bits in a 16-bit file are scaled by 255/4095, all 16 bits by 1/257.
    The bits in use are found in one pass over the file, unless ``levels`` is given.

    Close the file after use, or use the object in a ``with`` statement.

    Args:
        path: the file.
        levels: levels that become 0 and 255; levels outside are clipped.

    Raises:
        ModuleNotFoundError: if tifffile or imagecodecs is not installed; says how to get them.
        UnsupportedTiffError: if the image can only be decoded as a whole.
        PhotoError: if there is no such file, or it is damaged or too large.
        ValueError: if ``levels`` is not a pair with the lower level first.
    """

    def __init__(self, path: str | Path, *, levels: tuple[float, float] | None = None):
        self.path = Path(path)
        if levels is not None and not (len(levels) == 2 and 0 <= levels[0] < levels[1] < math.inf):
            raise ValueError(f"got levels {levels}, wanted two numbers from 0 up, the lower first")
        tifffile = import_tifffile()
        if self.path.is_dir():
            raise PhotoError(f"{self.path}: a folder, wanted a TIFF")
        with self._one_line_errors():
            self._file = tifffile.TiffFile(self.path)
        self._levels = levels
        try:
            with self._one_line_errors():
                self._page = self._file.pages[0]
                self._check_kind()
                self._choose_bands()
                self._nodata = self._nodata_level()
                self._reader = PageReader(self._file, self._page, fill=self._nodata or 0)
                self._check_segments()
                self._mask = self._find_mask()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LargeTiff:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self._page.imagelength), int(self._page.imagewidth)

    def window(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Read a rectangle of the image.

        Args:
            rows: start and stop in pixels, inside the image.
            columns: start and stop in pixels, inside the image.

        Returns:
            (h, w, 3) uint8, R, G, B; and (h, w) bool, True for pixels without data: where alpha or the file's
            mask is 0, or all bands have the level that means "no data".

        Raises:
            PhotoError: if that part of the file is damaged.
        """
        with self._one_line_errors():
            samples = self._reader.read(rows, columns, self._bands)
            empty = self._empty(samples, rows, columns)
            photo = self._level_table[self._colours(samples)]
            if self._alpha is not None:
                photo = self._on_white(photo, samples[:, :, -1:])
        return (photo if self._is_colour else np.repeat(photo, 3, axis=2)), empty

    def _check_kind(self) -> None:
        """Check size, colours, depth and orientation, which are known before a pixel is read."""
        page, (height, width) = self._page, self.size
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise PhotoError(f"has {width}×{height} pixels, wanted 1 to {MAX_PIXELS // 10**9} gigapixels")
        kind, bits = page.photometric, page.bitspersample
        if kind not in (_GREY, _RGB) and not (kind == _YCBCR and page.compression in _JPEG):
            raise UnsupportedTiffError(
                f"has colours of the kind {getattr(kind, 'name', kind)}, wanted grey or RGB"
            )
        if page.dtype is None or page.dtype.kind != "u" or not 8 <= bits <= 16:
            raise UnsupportedTiffError(
                f"has samples of {bits} bits ({page.dtype}), wanted whole numbers of 8 to 16 bits"
            )
        orientation = page.tags.get(ORIENTATION)
        if page.imagedepth != 1 or (orientation is not None and orientation.value != 1):
            raise UnsupportedTiffError(
                "is a volume or is rotated (tag Orientation); wanted a flat, upright image"
            )

    def _choose_bands(self) -> None:
        """Choose the bands to read: grey or R, G, B, then alpha if there is one."""
        page = self._page
        colours = page.samplesperpixel - len(page.extrasamples)
        if page.photometric != _GREY and colours < 3:
            raise UnsupportedTiffError(f"has {colours} bands of colour, wanted 1 or at least 3")
        # Many programs write R, G, B as grey with two more bands.
        self._is_colour = page.samplesperpixel >= 3
        alphas = [i for i, kind in enumerate(page.extrasamples) if kind in (_ASSOCIATED, _UNASSOCIATED)]
        self._alpha = colours + alphas[0] if alphas else None
        self._is_associated = bool(alphas) and page.extrasamples[alphas[0]] == _ASSOCIATED
        self._bands = [*range(3 if self._is_colour else 1), *([] if self._alpha is None else [self._alpha])]

    def _check_segments(self) -> None:
        """Check the tiles or strips: whether all are there, and none is too large to be held in memory."""
        self._reader.check_segments(self.path.stat().st_size)
        size = self._reader.segment_bytes
        if size > MAX_SEGMENT_BYTES and not self._reader.is_raw:
            raise UnsupportedTiffError(
                f"has strips or tiles of {size / 1e6:.0f} MB; gdal_translate -co TILED=YES makes smaller ones"
            )

    def _nodata_level(self) -> int | None:
        tag = self._page.tags.get(_NODATA)
        try:
            level = float(str(tag.value).strip("\x00 ")) if tag is not None else math.nan
        except ValueError:
            return None
        return int(level) if level.is_integer() and 0 <= level < 2**16 else None

    def _find_mask(self) -> PageReader | None:
        """Reader of the page that masks the image (GDAL's internal mask), if there is one."""
        for number in range(1, min(len(self._file.pages), MAX_MASK_PAGES)):
            page = self._file.pages[number]
            if page.subfiletype & 4 and page.shape[:2] == self._page.shape[:2] and page.samplesperpixel == 1:
                return PageReader(self._file, page, fill=self._nodata or 0)
        return None

    def _colours(self, samples: np.ndarray) -> np.ndarray:
        """The colour bands of samples, without alpha."""
        return samples[:, :, : 3 if self._is_colour else 1]

    def _on_white(self, photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Composite a photo on white."""
        if alpha.dtype != np.uint8:  # opaque may be 65535, 4095 or 255, so any alpha above 0 counts as opaque
            return np.where(alpha > 0, photo, np.uint8(255))
        opacity = alpha.astype(np.float32) / 255
        shown = photo if self._is_associated else photo * opacity
        return np.rint(np.clip(shown + 255 * (1 - opacity), 0, 255)).astype(np.uint8)

    def _empty(self, samples: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """(h, w) bool: pixels without data."""
        empty = np.zeros(samples.shape[:2], bool)
        if self._alpha is not None:
            empty |= samples[:, :, -1] == 0
        if self._nodata is not None:
            empty |= (self._colours(samples) == self._nodata).all(axis=2)
        if self._mask is not None:
            empty |= self._mask.read(rows, columns, [0])[:, :, 0] == 0
        return empty

    @cached_property
    def _level_table(self) -> np.ndarray:
        """The 8-bit level of each level that the samples' dtype can hold, uint8."""
        dtype = np.iinfo(self._page.dtype)
        if self._levels is None and dtype.bits == 8:
            return np.arange(256, dtype=np.uint8)
        low, high = self._levels or (0.0, float(2 ** self._bits_in_use() - 1))
        scaled = (np.arange(dtype.max + 1.0) - low) * (255 / (high - low))
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)

    def _bits_in_use(self) -> int:
        """Number of bits that the highest level of the image needs, at least 8."""
        if self._page.bitspersample < 16:
            return int(self._page.bitspersample)
        highest = 0
        for rows, columns in self._reader.windows():
            samples = self._reader.read(rows, columns, self._bands)
            visible = self._colours(samples)[~self._empty(samples, rows, columns)]
            highest = max(highest, int(visible.max(initial=0)))
        return max(8, highest.bit_length())

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Turn whatever decoders raise for a damaged file into a PhotoError of one line."""
        try:
            yield
        except FileNotFoundError:
            raise PhotoError(f"{self.path}: no such file") from None
        except PermissionError:
            raise PhotoError(f"{self.path}: may not be read (permissions)") from None
        except PhotoError as error:
            raise type(error)(f"{self.path}: {error}") from None
        except MemoryError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno:  # an error of the disk, not of the file
                raise
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise PhotoError(f"{self.path}: damaged, or no TIFF that can be read ({reason})") from None
