import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densecrf
from densecrf.cli import main
from densecrf.label_files import voc_palette
from densecrf.progress import ProgressBar
from scenes import scene


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densecrf.threads.processors", lambda: 2)
    for name in ("photos", "scores"):
        (tmp_path / name).mkdir()
    made = {}
    for number in range(4):
        name = f"p{number}"
        photo, probabilities, _ = scene(20 + number, 31 - number, seed=number)
        Image.fromarray(photo).save(f"photos/{name}.png")
        np.save(f"scores/{name}.npy", probabilities)
        made[name] = photo, probabilities
    return made


def read(path):
    with Image.open(path) as image:
        return image.mode, bytes(image.getpalette() or []), np.asarray(image)


def test_a_folder_is_refined(photos, capsys, tmp_path):
    assert main(["refine", "photos", "scores", "-o", "new/out", "--iterations", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{Path('new/out')}: 4 photos refined, 0 skipped, 0 failed\n"
    assert shown.err == ""  # no bar, as this is no terminal
    for name, (photo, probabilities) in photos.items():
        mode, palette, labels = read(f"new/out/{name}.png")
        assert mode == "P"
        assert palette == voc_palette()[: len(palette)]
        assert np.array_equal(labels, densecrf.refine(photo, probabilities, iterations=3).argmax(0))
    assert not list((tmp_path / "new/out").glob(".*"))


def test_a_run_goes_on_where_it_stopped(photos, capsys, tmp_path):
    words = ["refine", "photos", "scores", "-o", "out", "--format", "npy"]
    assert main(words) == 0
    (tmp_path / "out/p2.npy").unlink()
    (tmp_path / "out/p1.npy").write_bytes(b"mine")
    capsys.readouterr()
    assert main(words) == 0
    assert "1 photos refined, 3 skipped, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "out/p1.npy").read_bytes() == b"mine"
    assert main([*words, "--overwrite"]) == 0
    assert "4 photos refined, 0 skipped, 0 failed" in capsys.readouterr().out
    assert np.load("out/p1.npy").shape == (4, 21, 30)


def test_failures_are_one_line_each_and_the_rest_is_done(photos, capsys, tmp_path):
    (tmp_path / "scores/p0.npy").unlink()
    (tmp_path / "scores/p2.npy").write_bytes(b"damaged")
    np.save("scores/p3.npy", np.zeros((4, 5, 6)))
    assert main(["refine", "photos", "scores", "-o", "out"]) == 1
    shown = capsys.readouterr()
    assert "1 photos refined, 0 skipped, 3 failed" in shown.out
    lines = shown.err.splitlines()
    assert [line.split(": ")[:3] for line in lines] == [["densecrf", "error", f"p{n}.png"] for n in (0, 2, 3)]
    assert "no scores p0.npy" in lines[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p1.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "scores", "-o", "photos"], "wanted another folder for results"),
        (["photos", "empty", "-o", "out"], "got no scores, wanted files ending in .npy"),
        (["empty", "scores", "-o", "out"], "got no photos"),
        (["photos", "missing", "-o", "out"], "missing"),
        (["photos/p0.png", "scores", "-o", "out"], "p0.png"),
        (["both", "scores", "-o", "out"], "wanted one file of each name"),
    ],
)
def test_unusable_folders_get_one_line(photos, capsys, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    for ending in ("png", "jpg"):
        Image.new("RGB", (4, 3)).save(f"both/a.{ending}")
    assert main(["refine", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("densecrf: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_palette_is_kept(photos):
    labels = Image.fromarray(photos["p0"][1].argmax(0).astype(np.uint8))
    colours = bytes(range(12)) + bytes(756)
    labels.putpalette(colours)
    labels.save("labels.png")
    assert main(["refine", "photos/p0.png", "labels.png", "-o", "out.png"]) == 0
    mode, palette, _ = read("out.png")
    assert mode == "P"
    assert palette[:12] == colours[:12]


def test_the_palette_is_that_of_pascal_voc():
    colours = [tuple(voc_palette()[3 * n : 3 * n + 3]) for n in (0, 1, 2, 15, 20, 255)]
    assert colours == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192)]


def test_the_bar_is_for_terminals():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with ProgressBar(2, stream) as bar:
            bar.advance()
            bar.print("a line")
            bar.advance()
    assert "] 0/2" in terminal.getvalue()
    assert f"[{'#' * 30}] 2/2" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")
    assert file.getvalue() == "a line\n"
