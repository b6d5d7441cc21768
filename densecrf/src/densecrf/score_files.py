"""Class scores from files: probabilities, logits, energies, label maps, masks and saliency maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densecrf import array_files
from densecrf.images import open_image
from densecrf.scores import KINDS
from densecrf.unary import unary_from_labels

FILE_KINDS = ("auto", *KINDS, "labels", "foreground")
SUFFIXES = (".npy", ".npz", ".png", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of the files that are looked for in a folder of scores."""
ARRAY_NAMES = ("probabilities", "scores", "logits", "energies")
VOID = 255
MOST_LABELS = 64
"""Grey images with more different levels than this are not taken as labels unless one says so."""


@dataclass(frozen=True)
class FileScores:
    """Class scores of one file, and what they were taken as."""

    values: np.ndarray
    """(K, H, W), or (H, W) of the foreground alone."""
    kind: str
    """One of ``scores.KINDS``."""
    taken_as: str
    """What the file was taken as, in words."""
    palette: bytes | None = None
    """Colours of a label map, 3 bytes each."""

    def labels(self) -> np.ndarray:
        """(H, W) the most probable labels."""
        if self.values.ndim == 2:
            return (self.values > (0.5 if self.kind == "probabilities" else 0)).astype(np.intp)
        return self.values.argmin(axis=0) if self.kind == "energies" else self.values.argmax(axis=0)


def read_scores(
    path: Path,
    size: tuple[int, int],
    *,
    kind: str = "auto",
    confidence: float = 0.9,
    ignore: int = VOID,
    upsample: bool = False,
) -> FileScores:
    """Read class scores.

    Args:
        path: .npy; .npz with one array, or one named "probabilities", "scores", "logits" or "energies"; or an
            image of class ids, a mask or a saliency map.
        size: (H, W) of the photo in pixels.
        kind: what the file holds, one of ``FILE_KINDS``. With "auto", arrays with a label axis and (H, W)
            floating-point arrays are probabilities unless their name in a .npz file says otherwise; integers
            and images are class ids, or a mask if they are grey and only 0 and 255.
        confidence: probability of the labels of class ids and masks.
        ignore: class id of pixels without a label.
        upsample: whether scores may have another size than the photo.

    Returns:
        The scores.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a file, or of another size.
    """
    palette, is_image = None, path.suffix.lower() not in array_files.SUFFIXES
    if is_image:
        values, palette = _read_ids(path)
    else:
        values, name = array_files.read_array(path, ARRAY_NAMES)
        kind = name if kind == "auto" and name in KINDS else kind
        values = _labels_first(path, values, size, kind, upsample)
    if values.shape[-2:] != size and not upsample:
        advice = "; for coarse scores --upsample" if values.shape[-1] <= size[1] and not is_image else ""
        wanted = f"(K, {size[0]}, {size[1]})" if values.ndim == 3 else f"{size}"
        raise ValueError(f"{path}: got scores {values.shape}, wanted {wanted}, the size of the photo{advice}")
    if values.ndim == 3:
        if kind in ("labels", "foreground"):
            raise ValueError(f"{path}: got an array {values.shape} for --kind {kind}, wanted {size}")
        kind = "probabilities" if kind == "auto" else kind
        return FileScores(values, kind, f"{kind} of {len(values)} labels")
    try:
        return _of_one_plane(values, kind, confidence, ignore, palette)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _labels_first(
    path: Path, values: np.ndarray, size: tuple[int, int], kind: str, upsample: bool
) -> np.ndarray:
    """(K, H, W) of an array whose labels come first or last, or (H, W)."""
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(f"{path}: got an array {values.shape}, wanted (K, H, W) or (H, W, K), or (H, W)")
    if values.ndim == 3 and values.shape[1:] != size and values.shape[:2] == size:
        values = np.moveaxis(values, 2, 0)
    if values.ndim == 2 or len(values) > 1:
        return values
    if kind != "foreground":
        raise ValueError(
            f"{path}: got an array of 1 label, whose marginals are 1 everywhere; wanted --kind foreground "
            "for the probability of the foreground, or an array of at least 2 labels"
        )
    return values[0]


def _of_one_plane(
    values: np.ndarray, kind: str, confidence: float, ignore: int, palette: bytes | None
) -> FileScores:
    """Scores of an (H, W) array: of the foreground, or class ids."""
    if kind in KINDS or (kind == "auto" and values.dtype.kind == "f"):
        kind = "probabilities" if kind == "auto" else kind
        return FileScores(values, kind, f"{kind} of the foreground")
    is_mask = values.dtype.kind == "b" or (palette is None and set(np.unique(values)) == {0, 255})
    if is_mask and kind != "labels":
        mask = np.where(values > 0, confidence, 1 - confidence).astype(np.float32)
        return FileScores(mask, "probabilities", f"a mask, right with probability {confidence}")
    if kind == "foreground":
        most = (
            1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max if values.itemsize <= 2 else 65535
        )
        shares = (values / most).astype(np.float32)
        return FileScores(shares, "probabilities", f"probabilities of the foreground, 0 to {most}")
    if values.dtype.kind == "f":
        raise ValueError(f"got class ids of {values.dtype}, wanted integers")
    if kind == "auto" and palette is None and (count := len(np.unique(values))) > MOST_LABELS:
        raise ValueError(
            f"got a grey image of {count} different levels; wanted --kind foreground for a saliency map (a "
            "soft mask), or --kind labels for class ids"
        )
    labelled = values[values != ignore]
    count = max(2, int(labelled.max()) + 1) if labelled.size else 2
    energies = unary_from_labels(values, count, confidence=confidence, ignore=ignore)
    return FileScores(
        energies, "energies", f"{count} class ids, right with probability {confidence}", palette
    )


def _read_ids(path: Path) -> tuple[np.ndarray, bytes | None]:
    """The levels of a grey image or the numbers of a palette image, and the palette."""
    image = open_image(path)
    if image.mode == "P":
        colours = image.getpalette() or []
        return np.asarray(image), bytes(colours)
    if image.mode not in ("1", "L", "I;16", "I;16B", "I"):
        raise ValueError(
            f"{path}: got a {image.mode} image, wanted class ids, a mask or a saliency map as a palette or "
            "grey PNG, or .npy scores"
        )
    return np.asarray(image), None
