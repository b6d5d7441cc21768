"""The command line: results, errors, exit codes and help."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import caffe_file
import deeplab.model.loading
from deeplab.bulk.inputs import plan
from deeplab.cli import COMMANDS, main
from deeplab.commands.app import App, is_local
from deeplab.commands.option_names import option_names


@pytest.fixture
def command(model, monkeypatch, tmp_path):
    """``deeplab segment`` with random weights; results go to tmp_path/out."""
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: model)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["segment", *map(str, arguments), "--out", "out"])


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_results_of_one_photo(command, photo_file, photo, tmp_path, capsys):
    assert command(photo_file, "--compare") == 0
    assert names(tmp_path / "out") == [
        "classes.csv",
        "manifest.jsonl",
        "photo.png",
        "photo_compare.png",
        "photo_overlay.png",
    ]
    with (
        Image.open(tmp_path / "out/photo.png") as ids,
        Image.open(tmp_path / "out/photo_overlay.png") as overlay,
    ):
        assert (ids.mode, ids.size) == ("P", (70, 45))
        assert overlay.height > 45  # the legend lies below
        labels = np.asarray(ids)
    with Image.open(tmp_path / "out/photo_compare.png") as sheet:
        assert sheet.width > 3 * 70
    with open(tmp_path / "out/classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)
    shares = {row["class"]: float(row["share"]) for row in rows}
    counted = {deeplab.VOC_CLASSES[i]: (labels == i).mean() for i in np.unique(labels)}
    assert shares == pytest.approx(counted, abs=1e-5)
    assert "1 of 1 photos labelled" in capsys.readouterr().out
    assert np.array_equal(np.asarray(Image.open(photo_file)), photo)


def test_without_crf(command, photo_file, model, photo, tmp_path):
    assert command(photo_file, "--no-crf") == 0
    with Image.open(tmp_path / "out/photo.png") as ids:
        assert np.array_equal(np.asarray(ids), model.segment(photo, crf=False).labels)


def test_one_bad_file_does_not_stop_the_others(command, photo, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "c.png", "e.webp"):
        Image.fromarray(photo).save(folder / name)
    (folder / "b.jpg").write_text("no photo")
    noise = np.random.default_rng(0).integers(0, 256, size=photo.shape, dtype=np.uint8)
    Image.fromarray(noise).save(folder / "d.png")
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:4000])
    (folder / "notes.txt").write_text("not meant")
    assert command(folder, tmp_path / "missing.jpg") == 1
    assert names(tmp_path / "out") == [
        "a.png",
        "a_overlay.png",
        "c.png",
        "c_overlay.png",
        "classes.csv",
        "e.png",
        "e_overlay.png",
        "manifest.jsonl",
    ]
    errors = capsys.readouterr().err.strip().splitlines()
    assert sorted(line.split(":")[2].split("/")[-1] for line in errors) == ["b.jpg", "d.png", "missing.jpg"]
    assert all(line.startswith("deeplab: error: ") for line in errors)


def test_no_photos(command, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert command("empty") == 1
    assert "empty: a folder without photos" in capsys.readouterr().err
    assert command() == 1
    assert "no photos given" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(command, photo_file, tmp_path, capsys):
    (tmp_path / "out").write_text("a file where the folder should be")
    assert command(photo_file) == 1
    assert "deeplab: error:" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "a file where the folder should be"


def test_names_do_not_collide_and_photos_are_not_replaced(tmp_path):
    for name in ("a.jpg", "a.png", "sub/a.jpg", "sub/.hidden.jpg", "out/old.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    jobs, complaints = plan([tmp_path], tmp_path / "out")
    assert complaints == []
    assert {
        str(j.photo.relative_to(tmp_path)): str(j.target.relative_to(tmp_path / "out")) for j in jobs
    } == {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "sub/a.jpg": "sub/a",
    }
    jobs, _ = plan([tmp_path / "a.png", tmp_path / "sub/a.jpg", tmp_path / "a.png"], tmp_path)
    assert [j.photo.parent.name for j in jobs] == [tmp_path.name, "sub"]
    targets = {f"{j.target}.png" for j in jobs}
    assert len(targets) == 2
    assert str(tmp_path / "a.png") not in targets


def test_the_overlay_of_one_photo_is_not_the_labels_of_another(tmp_path):
    for name in ("a.jpg", "a_overlay.jpg", "a_compare.png"):
        (tmp_path / name).touch()
    jobs, _ = plan([tmp_path], tmp_path / "out")
    written = [f"{job.target}{kind}.png" for job in jobs for kind in ("", "_overlay", "_compare")]
    assert len(written) == len(set(written)) == 9


def test_usage_errors(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["segment", "--colour"])
    assert caught.value.code == 2


def test_help_and_import_do_not_load_torch():
    for code in ("import deeplab", "import deeplab.cli"):
        run = subprocess.run(
            [sys.executable, "-c", f"{code}; import sys; print('torch' in sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == "False"


def test_convert_writes_weights_that_segment_takes(model, photo_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    layers = {}
    for name, value in model.network.state_dict().items():
        layers.setdefault(name.rpartition(".")[0], []).append(value.numpy())
    Path("net.caffemodel").write_bytes(caffe_file.model(layers, age="layers"))
    assert main(["convert", "net.caffemodel", "--out", "net.safetensors"]) == 0
    assert "deeplab-largefov, 21 classes; every layer fits" in capsys.readouterr().out
    assert names(tmp_path) == ["net.caffemodel", "net.json", "net.safetensors", "photo.png"]
    for weights in ("net.safetensors", "net.caffemodel"):
        assert (
            main(["segment", "photo.png", "--weights", weights, "--out", weights + ".out", "--no-crf"]) == 0
        )
    ids = [
        np.asarray(Image.open(f"{weights}.out/photo.png"))
        for weights in ("net.safetensors", "net.caffemodel")
    ]
    assert (
        ids[0] == ids[1]
    ).mean() > 0.95  # one is stored as fp16, and with random weights classes are close
    assert main(["convert", "net.caffemodel", "--out", "net.pth"]) == 1
    assert capsys.readouterr().err.endswith("got net.pth, wanted a file ending in .safetensors\n")


def test_options_of_the_network_reach_it(photo_file, tmp_path, monkeypatch, model):
    loaded_with = {}

    def load(**options):
        loaded_with.update(options)
        return model

    monkeypatch.setattr(deeplab.model.loading, "load", load)
    views = ["--scales", "0.5", "1", "--mirror", "--tile", "64"]
    model_options = ["--device", "cpu", "--precision", "fp32", "--variant", "deeplab-largefov"]
    assert (
        main(["segment", str(photo_file), "--out", str(tmp_path / "out"), "--no-crf", *views, *model_options])
        == 0
    )
    assert loaded_with == {
        "weights": None,
        "variant": "deeplab-largefov",
        "device": "cpu",
        "precision": "fp32",
        "compile": False,
    }
    expected = model.segment(photo_file, crf=False, scales=(0.5, 1), mirror=True, tile=64).labels
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/photo.png")), expected)


def test_a_device_that_is_not_there(photo_file, capsys):
    assert main(["segment", str(photo_file), "--device", "cuda:77"]) == 1
    assert "'cpu' always works" in capsys.readouterr().err


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("torch", "CRF", "a photo of 500×375", "deeplab-largefov, 21 classes", "poor at", "passed"):
        assert word in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_the_known_options_are_those_of_the_help(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    listed = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", capsys.readouterr().out.partition("options")[2]))
    known = set(option_names(COMMANDS[name][0]))
    usage = {option for option in listed if option in known}
    assert known == usage | {option for option in known if option.startswith("--no-")}
    assert all(option.replace("--no-", "--") in listed for option in known)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["segment", "x.jpg", "--output", "y"],
            "deeplab segment has no option --output; did you mean --out?",
        ),
        (["segment", "x.jpg", "-o", "y"], "no option -o; did you mean --out?"),
        (["export", "--to", "onnx", "--output=x"], "no option --output; did you mean --out?"),
        (["segment", "--no-crff"], "no option --no-crff; did you mean --no-crf?"),
        (["app", "--hots", "::1"], "no option --hots; did you mean --host?"),
        (["segment", "--colour"], "no option --colour; deeplab segment --help lists all"),
        (["segmnt", "x.jpg"], "there is no command segmnt; did you mean segment?"),
    ],
)
def test_misspelt_options_and_commands(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_values_that_look_like_options_are_none(tmp_path, capsys):
    assert main(["describe", "--size", "-3", "4"]) == 1
    assert "got -3×4" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "segment"]])
def test_version(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"deeplab {deeplab.__version__}\n"


def test_an_error_of_the_operating_system_is_a_sentence(tmp_path, capsys, monkeypatch):
    def fail(**_):
        (tmp_path / "missing").read_text()

    monkeypatch.setattr(deeplab.model.loading, "load", fail)
    assert main(["export", "--to", "onnx", "--out", str(tmp_path / "net.onnx")]) == 1
    error = capsys.readouterr().err
    assert error == f"deeplab: error: {tmp_path / 'missing'}: no such file or directory\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes as on POSIX")
@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["describe"]])
def test_a_closed_output_is_no_traceback(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "deeplab", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert run.stderr == ""
    assert run.returncode in (1, 141)  # rich ends the program with 1


def test_doctor_prints_names_of_extras_in_brackets(monkeypatch, capsys, model):
    monkeypatch.setattr(deeplab, "load", lambda: model, raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(["doctor"]) == 0
    printed = "".join(capsys.readouterr().out.split())
    assert "pipinstall'deeplab-crf[train]'" in printed


@pytest.mark.parametrize(
    ("options", "local"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "127.0.0.5"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "192.168.1.7"}, False),
        ({"host_names": ("labels.example.org",)}, False),
    ],
)
def test_a_server_that_others_can_use_is_not_local(options, local):
    assert is_local(App(**options)) is local
