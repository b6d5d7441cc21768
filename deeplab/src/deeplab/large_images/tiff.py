"""Large TIFFs, window by window: memory does not grow with the picture."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from deeplab.optional import import_quietly
from deeplab.photos import PhotoError

MOST_PIXELS = 10**11
"""Larger pictures are refused: a small file can claim any size."""
MOST_SEGMENT_BYTES = 2**27
"""Of a tile or strip once it is decoded; it is held as a whole."""
MOST_RAW_BYTES = 2**24
"""That are read at once of a row that is not compressed: a pixel may have thousands of bands."""
MOST_MASKS_SEEN = 64
"""Pages of a file among which its mask is looked for."""

GEO_TAGS = {
    33550: "ModelPixelScale",
    33922: "ModelTiepoint",
    34264: "ModelTransformation",
    34735: "GeoKeyDirectory",
    34736: "GeoDoubleParams",
    34737: "GeoAsciiParams",
    50844: "RPCCoefficient",
}
"""Tags that say where on Earth a picture lies."""
_NODATA, _ORIENTATION = 42113, 274
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of alpha, as the tag ExtraSamples has them
_GREY, _RGB, _YCBCR = 1, 2, 6  # of the tag PhotometricInterpretation
_JPEG = (6, 7)  # of the tag Compression: decoded, YCbCr is RGB


class NotInWindows(PhotoError):
    """A picture that cannot be read window by window; decoded whole it may be readable."""


class LargeTiff:
    """A large TIFF (or BigTIFF, GeoTIFF, COG) of which windows are read; close it, or use it in a ``with``.

    Tiles or strips of any compression that imagecodecs has; 1 band (grey) or more, of which the first three
    are taken as R, G, B; alpha lies on white, as in ``photos``. Other bands take no memory beyond that of one
    tile or strip. Of several pages the first is taken. 8 bits are taken as they are; more are scaled so that
    the largest number that their bits in use can hold becomes 255: 12 bits in a file of 16 by 255/4095, all
    16 by 1/257. Bits in use are found in one pass over the file; ``levels`` says otherwise.

    Args:
        path: the file.
        levels: which levels become 0 and 255; others are cut off there.

    Raises:
        ModuleNotFoundError: without tifffile and imagecodecs; says how to get them.
        NotInWindows: for a kind that only decoding as a whole can read.
        PhotoError: if there is no such file, or it is damaged or too large.
        ValueError: for levels that are not a pair, the lower first.
    """

    def __init__(self, path: str | Path, *, levels: tuple[float, float] | None = None):
        self.path = Path(path)
        if levels is not None and not (len(levels) == 2 and 0 <= levels[0] < levels[1] < math.inf):
            raise ValueError(f"got levels {levels}, wanted two numbers from 0 up, the lower first")
        tifffile = tifffile_module()
        if self.path.is_dir():
            raise PhotoError(f"{self.path}: a folder, wanted a TIFF")
        with self._damage_in_one_line():
            self._file = tifffile.TiffFile(self.path)
        self._levels = levels
        try:
            with self._damage_in_one_line():
                self._page = self._file.pages[0]
                self._check()
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
        """(H, W) in pixels."""
        return int(self._page.imagelength), int(self._page.imagewidth)

    @property
    def may_be_empty(self) -> bool:
        """Whether the file can say of pixels that they are none: by alpha, a mask, or a level for no data."""
        return self._alpha is not None or self._nodata is not None or self._mask is not None

    def window(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """A rectangle of the picture.

        Args:
            rows: start and stop, inside the picture.
            columns: likewise.

        Returns:
            (h, w, 3) uint8, R, G, B; and (h, w) bool, where there is no picture: alpha or the file's mask is
            0, or all bands have the level for no data.

        Raises:
            PhotoError: if that part of the file is damaged.
        """
        with self._damage_in_one_line():
            samples = self._read(self._page, rows, columns, self._bands)
            empty = self._empty(samples, rows, columns)
            photo = self._table[self._colours(samples)]
            if self._alpha is not None:
                photo = self._on_white(photo, samples[:, :, -1:])
        return (photo if self._coloured else np.repeat(photo, 3, axis=2)), empty

    def _check(self) -> None:
        """Everything that can be known before a pixel is read."""
        page, (height, width) = self._page, self.size
        if height < 1 or width < 1 or height * width > MOST_PIXELS:
            raise PhotoError(f"has {width}×{height} pixels, wanted 1 to {MOST_PIXELS // 10**9} gigapixels")
        orientation = page.tags.get(_ORIENTATION)
        kind, bits = page.photometric, page.bitspersample
        if kind not in (_GREY, _RGB) and not (kind == _YCBCR and page.compression in _JPEG):
            raise NotInWindows(f"has colours of the kind {getattr(kind, 'name', kind)}, wanted grey or RGB")
        if page.dtype is None or page.dtype.kind != "u" or not 8 <= bits <= 16:
            raise NotInWindows(
                f"has samples of {bits} bits ({page.dtype}), wanted whole numbers of 8 to 16 bits"
            )
        if page.imagedepth != 1 or (orientation is not None and orientation.value != 1):
            raise NotInWindows(
                "is a volume, or turned (tag Orientation); wanted a flat picture that is upright"
            )
        colours = page.samplesperpixel - len(page.extrasamples)
        if kind != _GREY and colours < 3:
            raise NotInWindows(f"has {colours} bands of colour, wanted 1 or at least 3")
        self._coloured = (
            page.samplesperpixel >= 3
        )  # grey with two more bands is how many programs write R, G, B
        alphas = [
            colours + place
            for place, kind in enumerate(page.extrasamples)
            if kind in (_ASSOCIATED, _UNASSOCIATED)
        ]
        self._alpha = alphas[0] if alphas else None
        self._associated = bool(alphas) and page.extrasamples[alphas[0] - colours] == _ASSOCIATED
        self._bands = [*range(3 if self._coloured else 1), *alphas[:1]]  # all that is looked at, alpha last
        self._nodata = self._level_of_no_data()
        across = -(-width // page.tilewidth) if page.is_tiled else 1
        self._tile = (
            (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
        )
        self._grid = -(-height // self._tile[0]), across
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        if len(page.dataoffsets) < self._grid[0] * across * planes:
            raise PhotoError(
                f"damaged: lists {len(page.dataoffsets)} tiles or strips of {math.prod(self._grid) * planes}"
            )
        ends = np.asarray(page.dataoffsets, np.float64) + np.asarray(page.databytecounts, np.float64)
        if ends.max() > self.path.stat().st_size:
            raise PhotoError(
                f"damaged: ends after {self.path.stat().st_size} of {int(ends.max())} bytes; copy it again"
            )
        held = math.prod(self._tile) * page.dtype.itemsize * page.samplesperpixel // planes
        if held > MOST_SEGMENT_BYTES and not self._is_raw(page):
            raise NotInWindows(
                f"has strips or tiles of {held / 1e6:.0f} MB; gdal_translate -co TILED=YES makes smaller ones"
            )

    @staticmethod
    def _is_raw(page: Any) -> bool:
        """Whether pixels lie in the file one after another, so that any of them can be read alone."""
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_tiled
        return bool(plain and page.bitspersample in (8, 16) and page.planarconfig == 1 and page.is_contiguous)

    def _level_of_no_data(self) -> int | None:
        tag = self._page.tags.get(_NODATA)
        try:
            level = float(str(tag.value).strip("\x00 ")) if tag is not None else math.nan
        except ValueError:
            return None
        return int(level) if level.is_integer() and 0 <= level < 2**16 else None

    def _find_mask(self) -> Any:
        """The page that says which pixels are pictures (GDAL's internal mask), if there is one."""
        for number in range(1, min(len(self._file.pages), MOST_MASKS_SEEN)):
            page = self._file.pages[number]
            if page.subfiletype & 4 and page.shape[:2] == self._page.shape[:2] and page.samplesperpixel == 1:
                return page
        return None

    def _colours(self, samples: np.ndarray) -> np.ndarray:
        return samples[:, :, : 3 if self._coloured else 1]

    def _on_white(self, photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Of 8 bits; with more, what is 65535 here is 255 or 4095 there, so that it is a picture or none."""
        if alpha.dtype != np.uint8:
            return np.where(alpha > 0, photo, np.uint8(255))
        share = alpha.astype(np.float32) / 255
        shown = photo if self._associated else photo * share
        return np.rint(np.clip(shown + 255 * (1 - share), 0, 255)).astype(np.uint8)

    def _empty(self, samples: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        empty = np.zeros(samples.shape[:2], bool)
        if self._alpha is not None:
            empty |= samples[:, :, -1] == 0
        if self._nodata is not None:
            empty |= (self._colours(samples) == self._nodata).all(axis=2)
        if self._mask is not None:
            empty |= self._read(self._mask, rows, columns, [0])[:, :, 0] == 0
        return empty

    @cached_property
    def _table(self) -> np.ndarray:
        """What each level becomes: uint8, as many entries as the samples' type has levels."""
        kind = np.iinfo(self._page.dtype)
        if self._levels is None and kind.bits == 8:
            return np.arange(256, dtype=np.uint8)
        low, high = self._levels or (0.0, float(2 ** self._bits_in_use() - 1))
        return np.rint(np.clip((np.arange(kind.max + 1.0) - low) * (255 / (high - low)), 0, 255)).astype(
            np.uint8
        )

    def _bits_in_use(self) -> int:
        if self._page.bitspersample < 16:
            return int(self._page.bitspersample)
        most = 0
        for rows, columns in self._pieces():
            samples = self._read(self._page, rows, columns, self._bands)
            shown = self._colours(samples)[~self._empty(samples, rows, columns)]
            most = max(most, int(shown.max(initial=0)))
        return max(8, most.bit_length())

    def _pieces(self) -> Iterator[tuple[slice, slice]]:
        """All of the picture in windows in which no tile or strip is read twice, of bounded size for
        tiles."""
        height, width = self.size
        tall, wide = self._tile
        down = max(1, 1024 // tall) * tall if self._page.is_tiled else max(1, 2**20 // (tall * width)) * tall
        down = min(down, 2**20 // width + 1) if self._is_raw(self._page) else down
        right = max(1, 1024 // wide) * wide
        for top in range(0, height, down):
            for left in range(0, width, right):
                yield slice(top, min(top + down, height)), slice(left, min(left + right, width))

    def _read(self, page: Any, rows: slice, columns: slice, bands: list[int]) -> np.ndarray:
        """(h, w, bands) of a page, in the numbers of the file; only the bands asked for are held."""
        if self._is_raw(page):
            return self._read_raw(page, rows, columns, bands)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        tall, wide = (
            (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        )
        across, down = -(-page.imagewidth // wide), -(-page.imagelength // tall)
        fill = self._nodata or 0  # of tiles that the file leaves out
        out = np.full((height, width, len(bands)), fill, page.dtype)
        # Of planes each band has tiles of its own; else a tile holds all of them.
        parts = [(band, [0], slice(at, at + 1)) for at, band in enumerate(bands)]
        parts = parts if page.planarconfig == 2 else [(0, bands, slice(None))]
        for y in range(rows.start // tall, -(-rows.stop // tall)):
            for x in range(columns.start // wide, -(-columns.stop // wide)):
                for plane, taken, into in parts:
                    found = self._decoded(page, (plane * down + y) * across + x)
                    if found is None:
                        continue
                    top, left = y * tall, x * wide
                    part = found[
                        max(rows.start - top, 0) : rows.stop - top,
                        max(columns.start - left, 0) : columns.stop - left,
                    ]
                    down_to, right_to = max(top - rows.start, 0), max(left - columns.start, 0)
                    target = out[down_to : down_to + part.shape[0], right_to : right_to + part.shape[1]]
                    target[:, :, into] = part[:, :, taken]
        return out

    def _read_raw(self, page: Any, rows: slice, columns: slice, bands: list[int]) -> np.ndarray:
        """The same of a page that is not compressed, from the places in the file."""
        handle, samples = self._file.filehandle, page.samplesperpixel
        stored = page.dtype.newbyteorder(self._file.byteorder)
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, len(bands)), page.dtype)
        step = max(1, MOST_RAW_BYTES // (samples * stored.itemsize))
        for row in range(out.shape[0]):
            for first in range(0, out.shape[1], step):
                count = min(step, out.shape[1] - first)
                start = (rows.start + row) * page.imagewidth + columns.start + first
                handle.seek(page.dataoffsets[0] + start * samples * stored.itemsize)
                found = np.frombuffer(handle.read(count * samples * stored.itemsize), stored)
                out[row, first : first + count] = found.reshape(count, samples)[:, bands]
        return out

    def _decoded(self, page: Any, place: int) -> np.ndarray | None:
        """One tile or strip, (h, w, samples), as far as it lies in the picture; None for one left out of the
        file."""
        if not page.databytecounts[place]:
            return None
        handle = self._file.filehandle
        handle.seek(page.dataoffsets[place])
        data = handle.read(page.databytecounts[place])
        found = page.decode(data, place, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
        return None if found is None else found[0]

    @contextmanager
    def _damage_in_one_line(self) -> Iterator[None]:
        """Decoders of damaged files raise and log whatever they like; here all of it is one PhotoError."""
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
            if isinstance(error, OSError) and error.errno:  # of the disk, not of the file
                raise
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise PhotoError(f"{self.path}: damaged, or no TIFF that can be read ({reason})") from None


def geo_tags_of(path: Path) -> list[tuple[int, int, int, Any, bool]]:
    """Where a picture lies on Earth: tags as tifffile's ``extratags`` takes them, their values as they are in
    the file.

    None of a file that is no TIFF, or whose picture is turned when it is read, so that they would not fit it.
    """
    tifffile = tifffile_module()
    try:
        with tifffile.TiffFile(path) as file:
            tags = file.pages[0].tags
            if _ORIENTATION in tags and tags[_ORIENTATION].value != 1:
                return []
            found = [tags[code] for code in GEO_TAGS if code in tags]
            return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found]
    except tifffile.TiffFileError:
        return []


def identity_of(path: Path) -> list[int | str]:
    """What tells a file from others and from itself after a change: bytes, time, and a digest of both its
    ends."""
    facts, ends = path.stat(), 2**16
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(ends))
        file.seek(max(0, facts.st_size - ends))
        digest.update(file.read(ends))
    return [facts.st_size, facts.st_mtime_ns, digest.hexdigest()[:16]]


def tifffile_module() -> Any:
    """tifffile, with what it needs for compressed files; it logs only where the program has set up logging.

    What matters of its complaints about a file is raised, too.

    Raises:
        ModuleNotFoundError: if one of them is not installed; says how to get it.
    """
    import_quietly("imagecodecs")
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return import_quietly("tifffile")
