"""Settings of the example gallery: order, command-line options, and pictures that examples write to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst

WRITTEN = Path(__file__).parents[1] / "made" / "pictures"
OPTIONS = {
    "hole_algorithm.py": "--out",
    "learn_crf.py": "--picture",
    "video_crf.py": "--picture",
    "volume_crf.py": "--picture",
}
FIRST = ("segment_photo.py", "refine_scribbles.py", "lattice_kernel.py", "hole_algorithm.py")


class Order:
    """Sort key of the examples: those in ``FIRST``, then by name."""

    def __init__(self, folder: str):
        pass

    def __call__(self, name: str) -> tuple[int, str]:
        """The key of a file name."""
        return FIRST.index(name) if name in FIRST else len(FIRST), name


def arguments(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """Command-line arguments of an example: where to write its picture."""
    script = Path(script_vars["src_file"])
    if script.name not in OPTIONS:
        return []
    WRITTEN.mkdir(parents=True, exist_ok=True)
    return [OPTIONS[script.name], str(WRITTEN / f"{script.stem}.png")]


def written_pictures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Move the picture that an example wrote into the gallery, and return the markup that shows it."""
    picture = WRITTEN / f"{Path(block_vars['src_file']).stem}.png"
    if not picture.is_file():
        return ""
    place = Path(next(block_vars["image_path_iterator"]))
    place.parent.mkdir(parents=True, exist_ok=True)
    picture.replace(place)
    return str(figure_rst([str(place)], gallery_conf["src_dir"]))


def _get_sg_image_scraper() -> Any:
    """The hook by which sphinx-gallery finds this scraper."""
    return written_pictures
