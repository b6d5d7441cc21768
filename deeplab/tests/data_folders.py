"""Files and folders of small data sets, for tests."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

SHARED = Path(os.environ.get("DEEPLAB_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (SHARED / "voc").is_dir(), reason="the measuring data is not here (../shared/data, or DEEPLAB_DATA)"
)


def save(path, array, **options):
    """Save an array as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def text(path, content):
    """Write a string, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def photos(root, *names):
    """Write files that are no pictures: opening a data set must not open its photos."""
    for name in names:
        text(root / name, "opening a data set opens no photo")
