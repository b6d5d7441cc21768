"""Pictures of label maps: overlays, palette PNGs, legends and comparisons."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deeplab.classes import palette

MARGIN = 8
TEXT_COLOUR = (30, 30, 30)
BACKGROUND_COLOUR = (255, 255, 255)


def overlay(photo: np.ndarray, labels: np.ndarray, *, alpha: float = 0.5) -> np.ndarray:
    """Colour the classes of a photo and draw white outlines between them; background (id 0) is not coloured.

    Args:
        photo: (H, W, 3) uint8 in R, G, B.
        labels: (H, W) uint8 class ids.
        alpha: Opacity of the colours, 0 to 1. With 0 no outlines are drawn either.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: If ``alpha`` is outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"got alpha = {alpha}, wanted 0 to 1")
    out = np.empty_like(photo)
    coloured = labels > 0
    for channel, levels in enumerate(palette().T):  # one plane at a time takes half as long as all at once
        mixed = photo[:, :, channel] * np.float32(1 - alpha)
        mixed += (levels * np.float32(alpha)).take(labels)
        out[:, :, channel] = np.where(
            coloured, np.rint(mixed, out=mixed).astype(np.uint8), photo[:, :, channel]
        )
    if alpha > 0:
        outline = np.zeros(labels.shape, bool)
        outline[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        outline[1:, :] |= labels[1:, :] != labels[:-1, :]
        out[outline] = 255
    return out


def palette_png(labels: np.ndarray) -> bytes:
    """Encode class ids (H, W) uint8 as a palette PNG with VOC's colours."""
    image = Image.fromarray(np.ascontiguousarray(labels, np.uint8)).convert("L")
    image.putpalette(palette().tobytes())
    return png(image)


def png(image: Image.Image | np.ndarray) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def with_legend(picture: np.ndarray, shares: Mapping[str, float], class_names: Sequence[str]) -> Image.Image:
    """Draw a legend below a picture: colour, name and share of each class.

    Args:
        picture: (H, W, 3) uint8.
        shares: Share of the pixels of each class, 0 to 1. Classes below 0.05 % are left out.
        class_names: K names in the order of their ids, which decide the colours.

    Returns:
        The picture with the legend, as wide as the picture or as its longest entry.
    """
    font, swatch = _font_for_width(picture.shape[1])
    texts = {name: f"{name} {100 * share:.1f} %" for name, share in shares.items() if share >= 0.0005}
    lengths = {name: swatch + MARGIN // 2 + int(font.getlength(text)) for name, text in texts.items()}
    width = max(picture.shape[1], *(length + 5 * MARGIN // 2 for length in lengths.values()))
    positions = _wrapped(lengths, width, swatch + MARGIN)
    bottom = max((y for _, y in positions.values()), default=MARGIN)
    legend = Image.new("RGB", (width, bottom + swatch + MARGIN), BACKGROUND_COLOUR)
    draw = ImageDraw.Draw(legend)
    colours = palette()
    for name, (x, y) in positions.items():
        colour = tuple(int(level) for level in colours[class_names.index(name)])
        draw.rectangle((x, y, x + swatch, y + swatch), fill=colour, outline=TEXT_COLOUR)
        draw.text((x + swatch + MARGIN // 2, y + swatch // 2), texts[name], TEXT_COLOUR, font, anchor="lm")
    out = Image.new("RGB", (width, picture.shape[0] + legend.height), BACKGROUND_COLOUR)
    out.paste(Image.fromarray(picture), (0, 0))
    out.paste(legend, (0, picture.shape[0]))
    return out


def _wrapped(lengths: Mapping[str, int], width: int, line_height: int) -> dict[str, tuple[int, int]]:
    """Upper left corners (x, y) of entries of the given lengths, set in lines of at most ``width`` pixels."""
    positions = {}
    x = y = MARGIN
    for name, length in lengths.items():
        if x > MARGIN and x + length + MARGIN > width:
            x = MARGIN
            y += line_height
        positions[name] = (x, y)
        x += length + 2 * MARGIN
    return positions


def side_by_side(pictures: Mapping[str, np.ndarray]) -> Image.Image:
    """Put pictures of one size next to each other, each under its title.

    Args:
        pictures: Pictures (H, W, 3) uint8 by title.

    Returns:
        One picture of all of them.
    """
    height, width = next(iter(pictures.values())).shape[:2]
    font, font_size = _font_for_width(width)
    cell = max(width, *(int(font.getlength(title)) for title in pictures))
    title_height = font_size + 2 * MARGIN
    sheet_size = (len(pictures) * (cell + MARGIN) - MARGIN, title_height + height)
    sheet = Image.new("RGB", sheet_size, BACKGROUND_COLOUR)
    draw = ImageDraw.Draw(sheet)
    for column, (title, picture) in enumerate(pictures.items()):
        left = column * (cell + MARGIN)
        draw.text((left + cell // 2, title_height // 2), title, TEXT_COLOUR, font, anchor="mm")
        sheet.paste(Image.fromarray(picture), (left + (cell - width) // 2, title_height))
    return sheet


def _font_for_width(width: int) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, int]:
    """A font for a picture of this width, and its size in pixels."""
    size = min(max(width // 30, 12), 60)
    return ImageFont.load_default(float(size)), size
