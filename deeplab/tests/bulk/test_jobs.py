"""Photos, file names and lines of the manifest that must not end the job of a whole folder."""

import csv
import json
import os

import numpy as np
import pytest
import torch

import deeplab.model.loading
from data_folders import save
from deeplab.bulk.inputs import Shard, plan
from deeplab.bulk.jobs import Job, Outcome, Settings
from deeplab.bulk.manifest import Manifest
from deeplab.bulk.ray import Labeller
from deeplab.bulk.workers import Workers
from deeplab.classes import VOC_CLASSES
from deeplab.cli import main
from deeplab.datasets.opening import open_dataset
from deeplab.datasets.splits import split_by_hash
from deeplab.files import write_whole
from deeplab.model.predictor import Predictor
from deeplab.model.segmentation import Model
from deeplab.network.preprocessing import Preparation
from deeplab.weights.store import Card

PHOTO = np.full((40, 56, 3), 90, np.uint8)
LATIN = os.fsdecode("caf\u00e9".encode("latin-1"))  # a file name in another encoding than UTF-8


@pytest.fixture(scope="module")
def small(narrow):
    return Model(
        narrow("deeplab-largefov", classes=21), Card("deeplab-largefov", VOC_CLASSES), precision="fp32"
    )


@pytest.fixture
def command(small, monkeypatch, tmp_path):
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: small)
    monkeypatch.chdir(tmp_path)
    return lambda *options: main(["segment", "photos", "--no-crf", "--out", "out", *options])


@pytest.fixture
def latin(tmp_path):
    """A folder with a photo whose name is not UTF-8, and another."""
    try:
        save(tmp_path / "photos" / f"{LATIN}.png", PHOTO)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    save(tmp_path / "photos/z.png", PHOTO)
    return tmp_path


def rows_of(manifest):
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return {row["name"]: row for row in rows if "name" in row}


def test_a_name_that_is_not_utf8(latin, command, capsys):
    (latin / "photos/a.png").write_bytes(b"no photo")
    (latin / "photos" / f"{LATIN}-bad.png").write_bytes(b"no photo")
    assert command() == 1
    output = capsys.readouterr()
    assert "2 of 4 photos labelled" in output.out
    assert "caf\\udce9-bad.png: not an image" in output.err
    rows = rows_of(latin / "out/manifest.jsonl")
    assert {name for name, row in rows.items() if "error" not in row} == {LATIN, "z"}
    assert (latin / "out" / f"{LATIN}.png").is_file()
    with open(latin / "out/classes.csv", encoding="utf-8", newline="") as file:
        assert {row["photo"] for row in csv.DictReader(file)} == {"photos/caf\\udce9.png", "photos/z.png"}
    assert command() == 1
    assert "2 of 4 photos already labelled" in capsys.readouterr().out


def test_a_name_that_is_not_utf8_in_shards_and_on_ray(latin, small, monkeypatch):
    jobs, _ = plan([latin / "photos"], latin / "out")
    selected = [job for number in (1, 2) for job in Shard(number, 2).select(jobs, latin / "out")]
    assert sorted(selected, key=str) == sorted(jobs, key=str)
    monkeypatch.setattr("deeplab.bulk.ray.load", lambda **_: small)
    block = {
        "photo": np.array([os.fsencode(job.photo) for job in jobs], object),
        "target": np.array([os.fsencode(job.target) for job in jobs], object),
    }
    outcomes = Labeller({}, Settings(crf=False), Workers(1, 1), 0)(block)["outcome"]
    assert [json.loads(text)[2]["error"] for text in outcomes] == [None, None]
    assert (latin / "out" / f"{LATIN}.png").is_file()


def test_a_name_that_is_not_utf8_in_a_data_set(latin, capsys):
    for name in (LATIN, "z"):
        save(latin / "data/images" / f"{name}.jpg", PHOTO)
        save(latin / "data/masks" / f"{name}.png", np.tile(np.uint8([0, 1]), (40, 28)))
    assert {pair.name for pair in open_dataset(latin / "data", "all")} == {LATIN, "z"}
    assert split_by_hash(LATIN) in ("train", "val")
    assert main(
        ["check-data", str(latin / "data"), "--split", "all", "--out", str(latin / "report.json")]
    ) in (0, 3)
    json.loads((latin / "report.json").read_text(encoding="utf-8"))


def test_long_names_are_written(tmp_path, command):
    longest = "n" * (255 - len("_overlay.png"))
    save(tmp_path / "photos" / f"{longest}.png", PHOTO)
    save(tmp_path / "photos" / ("m" * 235 + ".png"), PHOTO)
    assert command() == 0
    assert (tmp_path / "out" / f"{longest}_overlay.png").is_file()
    write_whole(tmp_path / ("é" * 127), b"x")  # of two bytes each
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".part"]


def test_a_name_too_long_for_its_results_is_reported_in_one_line(tmp_path, command, capsys):
    save(tmp_path / "photos" / ("n" * 250 + ".png"), PHOTO)
    save(tmp_path / "photos/a.png", PHOTO)
    assert command() == 1
    output = capsys.readouterr()
    assert "1 of 2 photos labelled" in output.out
    assert "File name too long" in output.err


LINE = {
    "name": "a",
    "photo": "photos/a.png",
    "time": 1e6,
    "files": ["a.png"],
    "shares": {"cat": 1.0},
    "seconds": {},
}


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": None},
        {"seconds": [1]},
        {"seconds": {"CRF": "long"}},
        {"shares": None},
        {"shares": 1},
        {"shares": {"cat": None}},
        {"time": "now"},
        {"time": float("nan")},
        {"time": [1]},
        {"name": ["a"]},
        {"name": {"a": 1}},
        {"name": None},
        {"name": 5},
    ],
)
def test_incomplete_lines_of_a_manifest_are_ignored(tmp_path, command, change, capsys):
    save(tmp_path / "photos/a.png", PHOTO)
    assert command() == 0
    manifest = tmp_path / "out/manifest.jsonl"
    first, last = manifest.read_text().splitlines()
    row = {key: value for key, value in (json.loads(last) | LINE | change).items() if value is not None}
    manifest.write_text("\n".join([first, json.dumps(row), "[" * 100_000]) + "\n")
    capsys.readouterr()
    assert command() == 0
    output = capsys.readouterr().out
    assert "already labelled" not in output
    assert "1 of 1 photos labelled" in output


def test_a_line_without_seconds_is_ignored(tmp_path):
    (tmp_path / "out").mkdir()
    job = Job(tmp_path / "a.png", tmp_path / "out/a")
    with Manifest(tmp_path / "out", {}) as manifest:
        manifest.add(Outcome(job, {"cat": 1.0}), [""])
    path = tmp_path / "out/manifest.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"seconds"', '"second"'))
    with Manifest(tmp_path / "out", {}) as manifest:
        assert list(manifest.rows([job])) == []
    path.write_text(text)
    with Manifest(tmp_path / "out", {}) as manifest:
        assert [row["shares"] for _, row in manifest.rows([job])] == [{"cat": 1.0}]


MESSAGES = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 164249856 bytes. Error code 12 (Cannot allocate memory)",
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_photo_too_large_for_torch_is_reported_in_one_line(
    tmp_path, command, narrow, monkeypatch, capsys, message
):
    for name, height in (("a", 40), ("b", 64), ("c", 40)):
        save(tmp_path / "photos" / f"{name}.png", PHOTO[:1].repeat(height, axis=0))
    network = narrow("deeplab-largefov", classes=21)
    full_scores = network.full_scores

    def scores(batch):
        if batch.shape[2] > 50:
            raise (torch.OutOfMemoryError if "CUDA" in message else RuntimeError)(message)
        return full_scores(batch)

    network.full_scores = scores
    model = Model(network, Card("deeplab-largefov", VOC_CLASSES), device="cpu", precision="fp32")
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: model)
    assert command() == 1
    output = capsys.readouterr()
    assert "2 of 3 photos labelled" in output.out
    (line,) = [line for line in output.err.splitlines() if "error:" in line]
    assert (
        "photos/b.png: the network on a photo of 56×64 does not fit into memory; use a smaller image" in line
    )


def predictor_with(network, full_scores):
    network.full_scores = full_scores
    return Predictor(network, Preparation(), device="cpu", precision="fp32")


def test_other_errors_of_torch_are_not_reported_as_memory(narrow):
    def broken(_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    predictor = predictor_with(narrow("deeplab-largefov"), broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        predictor.probabilities([PHOTO])


def test_the_error_of_torchs_allocator_is_recognized(narrow):
    predictor = predictor_with(
        narrow("deeplab-largefov"), lambda batch: torch.empty(2**60, dtype=torch.uint8)
    )
    with pytest.raises(MemoryError, match="the network on a photo of 3×2 does not fit into memory"):
        predictor.probabilities([PHOTO[:2, :3]])
