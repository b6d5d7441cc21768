"""Untrusted pictures, decoded within limits by those of Pillow's formats that are only pictures.

``main`` is the program of a decoder process; ``decoder_process.DecoderPool`` starts such processes and sends
them pictures.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
from contextlib import suppress
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplab.photos import FORMATS, PhotoError, known_formats, photo_from_image
from deeplab.serving.limits import HTTPError, Limits

READY = b"!"  # written once, before the first request
PHOTO_TAG, ERROR_TAG = b"P", b"R"  # first byte of an answer
REQUEST = struct.Struct(">QQQ")  # bytes of the file that follows, maximum pixels, pixels to shrink to or 0
PHOTO = struct.Struct(">IIII")  # height and width as decoded, height and width of the array that follows
ERROR = struct.Struct(">II")  # status, bytes of the kind and detail that follow, separated by a line feed
BASE_BYTES = 3 << 30  # address space that decoding may take, and that for each pixel
PIXEL_BYTES = 60
_DECODING = threading.Lock()  # the warning filters of Python belong to the process, not to a thread


def photo_from_bytes(content: bytes, limits: Limits) -> np.ndarray:
    """Decode a photo and turn it upright; its size is checked before it is decoded.

    Args:
        content: bytes of the file.
        limits: ``decoded_pixels`` is the maximum number of pixels.

    Returns:
        (H, W, 3) uint8, R, G, B.

    Raises:
        HTTPError: 413 for too many pixels, 422 for a damaged picture or a file that is not a picture, 503 if
            memory runs out.
    """
    try:
        with _DECODING, warnings.catch_warnings():
            # Pillow warns of odd metadata, and of large sizes, which are checked here.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=known_formats()) as image:
                _check_pixels(image, limits.decoded_pixels)
                photo = photo_from_image(image)
                _check_pixels(image, limits.decoded_pixels)  # some formats tell their size only now
                return photo
    except HTTPError:
        raise
    except Image.DecompressionBombError:
        raise HTTPError(413, "too-many-pixels", f"wanted at most {limits.decoded_pixels} pixels") from None
    except UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise HTTPError(422, "no-photo", f"not a picture that can be read; wanted {formats}") from None
    except PhotoError as error:
        raise HTTPError(422, "no-photo", str(error)) from None
    except MemoryError:
        raise HTTPError(
            503, "memory", "the picture needs more memory than may be used to decode it"
        ) from None
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise HTTPError(422, "damaged", f"the picture is damaged and cannot be decoded ({reason})") from None


def shrink(photo: np.ndarray, max_pixels: int) -> np.ndarray:
    """Shrink a photo to at most so many pixels.

    Args:
        photo: (H, W, 3) uint8.
        max_pixels: maximum of H · W.

    Returns:
        (h, w, 3) uint8; ``photo`` itself if it is small enough.
    """
    height, width = photo.shape[:2]
    if height * width <= max_pixels:
        return photo
    factor = (max_pixels / (height * width)) ** 0.5
    size = (max(1, int(width * factor)), max(1, int(height * factor)))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise HTTPError(413, "too-many-pixels", f"got {width}×{height} pixels, wanted at most {max_pixels}")


def _answer(source: IO[bytes], sink: IO[bytes]) -> bool:
    """Answer one request; return False at the end of the requests."""
    header = source.read(REQUEST.size)
    if len(header) < REQUEST.size:
        return False
    size, max_pixels, shrink_to = REQUEST.unpack(header)
    content = source.read(size)
    if len(content) < size:
        return False
    _limit_memory(BASE_BYTES + PIXEL_BYTES * max_pixels)
    try:
        photo = photo_from_bytes(content, Limits(bytes=max(1, size), decoded_pixels=max_pixels))
        answer = shrink(photo, shrink_to) if shrink_to else photo
    except HTTPError as error:
        text = f"{error.kind}\n{error.detail}".encode()
        sink.write(ERROR_TAG + ERROR.pack(error.status, len(text)) + text)
    else:
        sink.write(PHOTO_TAG + PHOTO.pack(*photo.shape[:2], *answer.shape[:2]))
        sink.write(np.ascontiguousarray(answer).data)
    sink.flush()
    return True


def _limit_memory(max_bytes: int) -> None:
    """Limit the address space where the system can; a decompression bomb then raises MemoryError."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _forbid_writing_files() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> None:
    """Answer the requests on standard input on standard output, until the input ends."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # nothing that a decoding library prints may get between the answers
        os.dup2(null, number)
    _forbid_writing_files()
    Image.init()
    with suppress(BrokenPipeError):
        sink.write(READY)
        sink.flush()
        while _answer(source, sink):
            pass
