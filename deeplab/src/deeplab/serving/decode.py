"""Pictures of strangers, decoded by formats that are only pictures, within limits.

``main`` is the program of a process for it, which can be ended; ``decoder.Decoder`` starts it and talks with
it.
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

READY = b"!"  # is said once, before the first request
REQUEST = struct.Struct(">QQQ")  # bytes of the file that follows, pixels at most, pixels to be shrunk to
PHOTO = struct.Struct(">IIII")  # height and width as decoded, and as they follow: (height, width, 3) bytes
REFUSAL = struct.Struct(">II")  # status, bytes of kind and detail that follow, a line feed between them
BASE_BYTES, PIXEL_BYTES = 3 << 30, 60  # of address space that decoding may take, at all and for each pixel
_DECODING = threading.Lock()  # Python's filters of warnings belong to the process, not to a thread


def photo_from_bytes(content: bytes, limits: Limits) -> np.ndarray:
    """A photo from the bytes of its file, upright; its size is looked at before it is decoded.

    Returns:
        (H, W, 3) uint8, R, G, B.

    Raises:
        HTTPError: 413 for too many pixels, 422 for what is no picture, or a damaged one.
    """
    try:
        with _DECODING, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # decoders warn of odd metadata, and of size, which is checked here
            with Image.open(io.BytesIO(content), formats=known_formats()) as image:
                _require_pixels(image, limits.decoded_pixels)
                photo = photo_from_image(image)
                _require_pixels(image, limits.decoded_pixels)  # some decoders learn the size late
                return photo
    except HTTPError:
        raise
    except Image.DecompressionBombError:
        raise HTTPError(413, "too-many-pixels", f"wanted at most {limits.decoded_pixels} pixels") from None
    except UnidentifiedImageError:
        raise HTTPError(
            422, "no-photo", f"not a picture that can be read; wanted {', '.join(FORMATS)}"
        ) from None
    except PhotoError as error:
        raise HTTPError(422, "no-photo", str(error)) from None
    except MemoryError:
        raise HTTPError(
            503, "memory", "the picture needs more memory than may be used to decode it"
        ) from None
    except Exception as error:  # decoders of damaged files raise whatever they like
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise HTTPError(422, "damaged", f"the picture is damaged and cannot be decoded ({reason})") from None


def shrunk(photo: np.ndarray, most: int) -> np.ndarray:
    """A photo of at most so many pixels, (H, W, 3) uint8; the same one if it has no more."""
    height, width = photo.shape[:2]
    if height * width <= most:
        return photo
    factor = (most / (height * width)) ** 0.5
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))


def _require_pixels(image: Image.Image, most: int) -> None:
    width, height = image.size
    if width * height > most:
        raise HTTPError(413, "too-many-pixels", f"got {width}×{height} pixels, wanted at most {most}")


def _answer(source: IO[bytes], sink: IO[bytes]) -> bool:
    """Answer one request; False once there are no more."""
    head = source.read(REQUEST.size)
    if len(head) < REQUEST.size:
        return False
    size, pixels, small = REQUEST.unpack(head)
    content = source.read(size)
    if len(content) < size:
        return False
    _bound_memory(BASE_BYTES + PIXEL_BYTES * pixels)
    try:
        photo = photo_from_bytes(content, Limits(bytes=max(1, size), decoded_pixels=pixels))
        answer = shrunk(photo, small) if small else photo
    except HTTPError as refusal:
        text = f"{refusal.kind}\n{refusal.detail}".encode()
        sink.write(b"R" + REFUSAL.pack(refusal.status, len(text)) + text)
    else:
        sink.write(b"P" + PHOTO.pack(*photo.shape[:2], *answer.shape[:2]))
        sink.write(np.ascontiguousarray(answer).data)
    sink.flush()
    return True


def _bound_memory(most: int) -> None:
    """So much address space at most, where the system can bound it: a bomb then ends in MemoryError here."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(
            resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )


def _write_no_files() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> None:
    """Answer requests from standard input on standard output until there are no more."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # nothing that a decoder prints may get between the answers
        os.dup2(quiet, number)
    _write_no_files()
    Image.init()
    with suppress(BrokenPipeError):
        sink.write(READY)
        sink.flush()
        while _answer(source, sink):
            pass
