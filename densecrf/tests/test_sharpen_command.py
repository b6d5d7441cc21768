import numpy as np
import pytest

from densecrf import sharpen
from densecrf.cli import main

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.fixture
def files(tmp_path):
    """A folder with a photo of a bright box, a mask of it that is 3 pixels short, and the mask."""
    photo = np.full((40, 54, 3), 60, np.uint8)
    photo[10:30, 15:40] = (200, 150, 90)
    mask = np.zeros((40, 54), bool)
    mask[13:30, 15:37] = True
    Image.fromarray(photo).save(tmp_path / "photo.png")
    return tmp_path, photo, mask


def save_mask(path, mask, kind):
    levels = (255 * mask).astype(np.uint8)
    image = {
        "black and white": lambda: Image.fromarray(levels).convert("1"),
        "grey": lambda: Image.fromarray(levels),
        "0 and 1": lambda: Image.fromarray(mask.astype(np.uint8)),
        "palette": lambda: Image.fromarray(mask.astype(np.uint8)).convert("P"),
        "RGB": lambda: Image.fromarray(np.dstack([levels] * 3)),
        "alpha": lambda: Image.fromarray(np.dstack([np.full((*mask.shape, 3), 7, np.uint8), levels])),
        "grey and alpha": lambda: Image.merge(
            "LA", [Image.new("L", mask.shape[::-1]), Image.fromarray(levels)]
        ),
    }[kind]()
    image.save(path)


@pytest.mark.parametrize(
    "kind", ["black and white", "grey", "0 and 1", "palette", "RGB", "alpha", "grey and alpha"]
)
def test_masks_of_all_kinds(files, kind, capsys):
    folder, photo, mask = files
    save_mask(folder / "mask.png", mask, kind)
    words = [str(folder / "photo.png"), str(folder / "mask.png"), "-o", str(folder / "out.png")]
    assert main(["sharpen", *words, "--radius", "6"]) == 0
    result = Image.open(folder / "out.png")
    assert result.mode == "L"
    assert np.array_equal(np.asarray(result), 255 * sharpen(photo, mask, radius=6))
    assert (np.asarray(result) == 255).sum() == 20 * 25
    assert "54×40, 5." in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["mask.png", "out.png", "photo.png"]


def test_soft_masks_stay_soft(files):
    folder, photo, mask = files
    levels = np.where(mask, 230, 20).astype(np.uint8)
    Image.fromarray(levels).save(folder / "mask.png")
    words = [str(folder / "photo.png"), str(folder / "mask.png"), "-o", str(folder / "out.png")]
    assert main(["sharpen", *words]) == 0
    expected = sharpen(photo, levels.astype(np.float32) / 255)
    assert np.array_equal(np.asarray(Image.open(folder / "out.png")), np.rint(255 * expected))


def test_one_clear_line_for_what_does_not_fit(files, capsys):
    folder, _, mask = files
    cases = {
        "got a picture in colour, wanted a mask": np.dstack([mask, mask, ~mask]).astype(np.uint8) * 255,
        "got values 0, 15 …, wanted 0 and 1": mask.astype(np.uint8) * 15,
        "got a mask (39, 54), wanted (40, 54), the size of the photo": mask[1:],
    }
    words = [str(folder / "photo.png"), str(folder / "mask.png"), "-o"]
    for message, values in cases.items():
        Image.fromarray(values).save(folder / "mask.png")
        assert main(["sharpen", *words, str(folder / "out.png")]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (folder / "out.png").exists()
    Image.fromarray(mask).save(folder / "mask.png")
    assert main(["sharpen", *words, str(folder / "out.jpg")]) == 1
    assert "wanted a name ending in .png" in capsys.readouterr().err
    assert main(["sharpen", *words, str(folder / "out.png"), "--radius", "0"]) == 1
    assert "got 0 radius, wanted at least 1" in capsys.readouterr().err
    assert main(["sharpen", str(folder / "none.png"), *words[1:], str(folder / "out.png")]) == 1
    assert "none.png" in capsys.readouterr().err
