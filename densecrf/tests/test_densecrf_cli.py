import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import densecrf
from densecrf.cli import main
from scenes import scene


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo, probabilities, areas = scene()
    Image.fromarray(photo).save("photo.png")
    np.save("p.npy", probabilities)
    np.savez("many.npz", logits=np.log(probabilities) + 3, other=np.zeros(2))
    np.save("last.npy", np.moveaxis(probabilities, 0, -1))
    noisy = np.where(np.random.default_rng(0).uniform(size=areas.shape) < 0.2, 255, areas).astype(np.uint8)
    Image.fromarray(noisy).save("labels.png")
    return photo, probabilities, areas


def read(name):
    with Image.open(name) as image:
        return np.asarray(image)


def png_of_size(png, width, height):
    """A PNG whose header claims another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_scores_of_every_kind(files, capsys):
    photo, probabilities, areas = files
    expected = densecrf.refine(photo, probabilities).argmax(0)
    for scores in ("p.npy", "many.npz", "last.npy"):
        assert main(["refine", "photo.png", scores, "-o", "out.png"]) == 0
        assert (read("out.png") != expected).mean() < 1e-3
    assert "52×36, 4 labels" in capsys.readouterr().out
    assert main(["refine", "photo.png", "p.npy", "-o", "q.npy", "--iterations", "3", "--threads", "1"]) == 0
    assert np.array_equal(np.load("q.npy"), densecrf.refine(photo, probabilities, iterations=3))
    assert main(["refine", "photo.png", "labels.png", "-o", "filled.png", "--confidence", "0.7"]) == 0
    assert (read("filled.png") == areas).mean() > 0.97


def test_parameter_file(files, tmp_path):
    photo, probabilities, _ = files
    params = {"appearance_weight": 2.0, "appearance_rgb_std": 9, "normalization": "after"}
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert main(["refine", "photo.png", "p.npy", "-o", "q.npy", "--params", "params.json"]) == 0
    assert np.array_equal(
        np.load("q.npy"), densecrf.refine(photo, probabilities, params=densecrf.Params(**params))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png", "p.npy", "-o", "o.png"], "missing.png"),
        (["photo.png", "missing.npy", "-o", "o.png"], "missing.npy"),
        (["photo.png", "p.npy", "-o", "o.jpg"], "wanted a name ending in .png"),
        (["text.npy", "p.npy", "-o", "o.png"], "not an array that can be read"),
        (["bad.json", "p.npy", "-o", "o.png"], "not an image that can be read"),
        (["photo.png", "text.npy", "-o", "o.png"], "not an array that can be read"),
        (["photo.png", "pickle.npy", "-o", "o.png"], "not an array that can be read"),
        (["photo.png", "small.npy", "-o", "o.png"], "wanted (K, 36, 52), the size of the photo"),
        (["photo.png", "flat.npy", "-o", "o.png"], "wanted (K, H, W) or (H, W, K), or (H, W)"),
        (["photo.png", "two.npz", "-o", "o.png"], "wanted one, or one named"),
        (["photo.png", "pickle.npz", "-o", "o.png"], "not an array that can be read"),
        (["photo.png", "empty.npy", "-o", "o.png"], "got an array (0, 36, 52)"),
        (["bomb.png", "p.npy", "-o", "o.png"], "bomb.png: too large: Image size (40000000000 pixels)"),
        (["photo.png", "p.npy", "-o", "o.png", "--params", "huge.json"], "wanted a finite number"),
        (
            ["photo.png", "p.npy", "-o", "o.png", "--params", "deep.json"],
            "deep.json: not a file of parameters",
        ),
        (["photo.png", "photo.png", "-o", "o.png"], "wanted class ids"),
        (["photo.png", "p.npy", "-o", "nowhere/o.png"], "nowhere"),
        (
            ["photo.png", "p.npy", "-o", "o.png", "--params", "bad.json"],
            "unknown key 'w1'; known: appearance_weight",
        ),
        (["photo.png", "p.npy", "-o", "o.png", "--iterations", "-2"], "wanted at least 0"),
    ],
)
def test_unusable_arguments_get_one_line(files, arguments, message, tmp_path, capsys):
    (tmp_path / "text.npy").write_text("hello")
    np.save("pickle.npy", np.array([{}]), allow_pickle=True)
    np.save("small.npy", np.zeros((2, 5, 6)))
    np.save("flat.npy", np.zeros(30))
    np.savez("two.npz", a=np.zeros(2), b=np.zeros(2))
    np.savez("pickle.npz", np.array([{}]))
    np.save("empty.npy", np.zeros((0, 36, 52)))
    whole = (tmp_path / "photo.png").read_bytes()
    (tmp_path / "bomb.png").write_bytes(png_of_size(whole, 200_000, 200_000))
    (tmp_path / "bad.json").write_text('{"w1": 3}')
    (tmp_path / "huge.json").write_text('{"appearance_weight": 1' + "0" * 400 + "}")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert main(["refine", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("densecrf: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("o.*"))
    assert not list(tmp_path.glob(".*part"))


DAMAGE = {
    "no zip": lambda whole: b"PK\3\4 and then nothing that is a zip file",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "a byte": lambda whole: whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
    "no array": lambda whole: whole.replace(b"NUMPY", b"NAMPY"),
    "brackets": lambda whole: whole.replace(b"(4, 36, 52)", b"((4,36, 52)"),  # tokenize.TokenError
    "syntax": lambda whole: whole.replace(b"'<f8'", b"'(8,'"),  # SyntaxError
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_damaged_scores_get_one_line(files, tmp_path, capsys, damage, ending):
    path = tmp_path / f"bad.{ending}"
    if ending == "npz":
        np.savez(path, probabilities=np.load("p.npy"))
    else:
        np.save(path, np.load("p.npy"))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    done = main(["refine", "photo.png", str(path), "-o", "o.png"])
    if (damage, ending) == ("a byte", "npy"):  # one number is another one, which cannot be noticed
        return
    assert done == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"bad.{ending}: not an array that can be read" in error


@pytest.mark.parametrize("array", [np.array([["text"]]), np.zeros((2, 36, 52), complex), np.array(None)])
def test_scores_that_are_not_numbers_get_one_line(files, tmp_path, capsys, array):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    assert main(["refine", "photo.png", str(tmp_path / "bad.npy"), "-o", "o.png"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "bad.npy: " in error


def test_a_result_with_a_long_name(files, tmp_path):
    name = "n" * 250 + ".png"
    assert main(["refine", "photo.png", "p.npy", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / name).is_file()


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"densecrf {densecrf.__version__}" in out
    assert "instruction set: " in out
    assert "fine" in out


def test_ctrl_c_and_absurd_numbers_get_one_line(files, monkeypatch, capsys):
    assert main(["refine", "photo.png", "p.npy", "-o", "out.png", "--threads", "99999999999"]) == 1
    assert capsys.readouterr().err.startswith("densecrf: error: got 99999999999 threads, wanted at least 1")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("densecrf.jobs.refine", interrupted)
    assert main(["refine", "photo.png", "p.npy", "-o", "out.png"]) == 130
    assert capsys.readouterr().err == "densecrf: interrupted\n"
