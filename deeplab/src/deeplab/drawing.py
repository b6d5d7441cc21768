"""Pictures and tables of label maps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deeplab.classes import palette

MARGIN = 8
INK, PAPER = (30, 30, 30), (255, 255, 255)


def overlay(photo: np.ndarray, labels: np.ndarray, *, alpha: float = 0.5) -> np.ndarray:
    """A photo with its classes in colour and their outlines drawn; background (id 0) stays as it is.

    Args:
        photo: (H, W, 3) uint8.
        labels: (H, W) uint8 ids.
        alpha: strength of the colours, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"got alpha = {alpha}, wanted 0 to 1")
    out, coloured = np.empty_like(photo), labels > 0
    for channel, levels in enumerate(palette().T):  # plane by plane: half the time of all at once
        mixed = photo[:, :, channel] * np.float32(1 - alpha)
        mixed += (levels * np.float32(alpha)).take(labels)
        out[:, :, channel] = np.where(
            coloured, np.rint(mixed, out=mixed).astype(np.uint8), photo[:, :, channel]
        )
    if alpha > 0:
        edge = np.zeros(labels.shape, bool)
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edge[1:, :] |= labels[1:, :] != labels[:-1, :]
        out[edge] = 255
    return out


def palette_png(labels: np.ndarray) -> bytes:
    """Class ids (H, W) uint8 as the bytes of a palette PNG with VOC's colours."""
    image = Image.fromarray(np.ascontiguousarray(labels, np.uint8)).convert("L")
    image.putpalette(palette().tobytes())
    return png(image)


def png(image: Image.Image | np.ndarray) -> bytes:
    """An image as the bytes of a PNG."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def with_legend(picture: np.ndarray, shares: Mapping[str, float], class_names: Sequence[str]) -> Image.Image:
    """A picture with a legend below it: colour, name and share of each class, wrapped to the picture's width.

    Args:
        picture: (H, W, 3) uint8.
        shares: share of the pixels by class, 0–1; classes under 0.05 % are left out.
        class_names: K names, id order; their place gives the colour.
    """
    font, swatch = _font(picture.shape[1])
    entries = [(name, f"{name} {100 * share:.1f} %") for name, share in shares.items() if share >= 0.0005]
    width = max(picture.shape[1], *(swatch + 3 * MARGIN + int(font.getlength(text)) for _, text in entries))
    places, x, y = [], MARGIN, MARGIN
    for name, text in entries:
        length = swatch + MARGIN // 2 + int(font.getlength(text))
        if x > MARGIN and x + length + MARGIN > width:
            x, y = MARGIN, y + swatch + MARGIN
        places.append((x, y, name, text))
        x += length + 2 * MARGIN
    legend = Image.new("RGB", (width, y + swatch + MARGIN), PAPER)
    draw, colours = ImageDraw.Draw(legend), palette()
    for x, y, name, text in places:
        colour = tuple(int(level) for level in colours[class_names.index(name)])
        draw.rectangle((x, y, x + swatch, y + swatch), fill=colour, outline=INK)
        draw.text((x + swatch + MARGIN // 2, y + swatch // 2), text, INK, font, anchor="lm")
    out = Image.new("RGB", (width, picture.shape[0] + legend.height), PAPER)
    out.paste(Image.fromarray(picture), (0, 0))
    out.paste(legend, (0, picture.shape[0]))
    return out


def side_by_side(pictures: Mapping[str, np.ndarray]) -> Image.Image:
    """Pictures of one size next to each other, each under its title.

    Args:
        pictures: title to (H, W, 3) uint8.
    """
    height, width = next(iter(pictures.values())).shape[:2]
    font, size = _font(width)
    cell = max(width, *(int(font.getlength(title)) for title in pictures))
    head = size + 2 * MARGIN
    sheet = Image.new("RGB", (len(pictures) * (cell + MARGIN) - MARGIN, head + height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, (title, picture) in enumerate(pictures.items()):
        left = place * (cell + MARGIN)
        draw.text((left + cell // 2, head // 2), title, INK, font, anchor="mm")
        sheet.paste(Image.fromarray(picture), (left + (cell - width) // 2, head))
    return sheet


def _font(width: int) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, int]:
    """A font that suits a picture of this width, and its size in pixels."""
    size = min(max(width // 30, 12), 60)
    return ImageFont.load_default(float(size)), size
