import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import deeplab.bulk.ray
from deeplab.bulk.inputs import plan
from deeplab.bulk.jobs import Job, Outcome, Settings
from deeplab.bulk.ray import Labeller, file_clock
from deeplab.bulk.ray_cluster import ClusterShare, share_cluster
from deeplab.bulk.workers import Workers
from deeplab.cli import main

PHOTOS = 36
CLUSTER = """
import sys, ray
from deeplab.cli import main
for _ in range(4):  # Ray's processes must start within 30 seconds, which may not suffice on a busy machine
    try:
        ray.init(num_cpus=3, object_store_memory=10**8, include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR")
        break
    except Exception as error:
        print(error, file=sys.stderr)
        ray.shutdown()
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for i in range(PHOTOS):
        path = folder / str(i % 3) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size=(6, 9, 3), dtype=np.uint8)).resize((120 + i, 90)).save(path)
    return folder


def lines(manifest):
    rows = [
        json.loads(line) for line in manifest.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
    ]
    return [row for row in rows if "name" in row]


def test_a_job_survives_a_killed_worker(photos, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    (photos / "0/bad.jpg").write_bytes(b"no photo")
    command = [sys.executable, "-c", CLUSTER, "segment", "photos", "--out", "out", "--no-crf", "--ray"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # only the loopback interface
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    killed, deadline = None, time.monotonic() + 900
    while process.poll() is None and time.monotonic() < deadline:
        rows = lines(out / "manifest.jsonl") if (out / "manifest.jsonl").is_file() else []
        if rows:
            killed = int(rows[0]["worker"].rpartition(":")[2])
            os.kill(killed, signal.SIGKILL)
            break
        time.sleep(0.005)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 1, errors  # for bad.jpg alone
    assert killed is not None, errors
    assert len(rows) < PHOTOS // 2
    assert f"{PHOTOS} of {PHOTOS + 1} photos labelled" in output
    assert [text for text in errors.splitlines() if text.startswith("deeplab: error:")] == [
        "deeplab: error: photos/0/bad.jpg: not an image that can be read; "
        "wanted JPEG, PNG, TIFF, WebP or the like"
    ]
    rows = lines(out / "manifest.jsonl")
    assert sorted(row["name"] for row in rows) == sorted([f"{i % 3}/{i}" for i in range(PHOTOS)] + ["0/bad"])
    workers = {row["worker"] for row in rows}
    assert len(workers) >= 2
    assert len([row for row in rows if row["worker"].endswith(f":{killed}")]) < PHOTOS
    written = sorted(file for file in out.rglob("*.png") if not file.name.startswith("."))
    assert len(written) == 2 * PHOTOS
    model = deeplab.load()
    for i in (0, 17, PHOTOS - 1):
        expected = model.segment(photos / f"{i % 3}/{i}.png", crf=False).labels
        with Image.open(out / f"{i % 3}/{i}.png") as ids:
            assert (np.asarray(ids) == expected).mean() > 0.99
    assert main(["segment", str(photos), "--out", str(out), "--no-crf"]) == 1  # resumes without the cluster
    assert len(lines(out / "manifest.jsonl")) == PHOTOS + 2  # the bad photo, again


def test_results_of_a_dead_worker_are_not_done_again(photos, tmp_path, model, monkeypatch):
    monkeypatch.setattr(deeplab.bulk.ray, "load", lambda **_: model)
    (tmp_path / "out").mkdir()
    since = file_clock(tmp_path / "out")
    jobs, _ = plan([photos / "0/0.png", photos / "1/1.png"], tmp_path / "out")
    block = {key: np.array([str(getattr(job, key)) for job in jobs]) for key in ("photo", "target")}
    first = Labeller({}, Settings(crf=False), Workers(1, 1), since)(block)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert len(before) == 4
    again = Labeller({}, Settings(crf=False), Workers(2, 1), since)(block)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before
    one, other = (
        {Path(photo).stem: row["shares"] for photo, _, row in map(json.loads, result["outcome"])}
        for result in (first, again)
    )
    assert one.keys() == other.keys() == {"0", "1"}
    for stem, shares in one.items():
        assert list(shares) == list(other[stem])
        assert shares == pytest.approx(other[stem])
    Labeller({}, Settings(crf=False), Workers(1, 1), time.time_ns() + 10**9)(block)
    assert all(file.stat().st_mtime_ns > when for file, when in before.items())


def test_photos_of_blocks_that_kill_workers_are_tried_one_by_one(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs, _ = plan([Path("photos/0")], Path("out"))
    deadly, unlucky = jobs[2], jobs[3]
    calls = []

    def stream(_, jobs, engine, settings, since, *, one_by_one):
        calls.append((one_by_one, len(jobs)))
        for job in jobs:
            if job != deadly and (one_by_one or job != unlucky):
                yield Outcome(
                    Job(job.photo.absolute(), job.target.absolute()), {"cat": 1.0}, worker="somewhere:7"
                )

    ray = SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setattr(deeplab.bulk.ray, "import_ray", lambda local: ray)
    monkeypatch.setattr(deeplab.bulk.ray, "stream_outcomes", stream)
    outcomes = []
    deeplab.bulk.ray.run_on_ray(jobs, {}, Settings(), outcomes.append)
    assert calls == [(False, len(jobs)), (True, 2)]
    assert sorted(outcome.job.photo for outcome in outcomes) == sorted(job.photo for job in jobs)
    (failed,) = (outcome for outcome in outcomes if outcome.error)
    assert failed == Outcome(
        deadly, error=f"{deadly.photo}: its worker died 3 times; it may lack memory for it"
    )


def test_the_error_names_the_missing_extra(photos, tmp_path, monkeypatch, model, capsys):
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: model)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["segment", str(photos), "--out", str(tmp_path / "out"), "--ray", "local"]) == 1
    assert capsys.readouterr().err.strip().endswith("ray is not installed: pip install 'deeplab-crf[ray]'")


def test_photos_come_before_ray(photos, tmp_path, capsys):
    assert main(["segment", "--out", str(tmp_path / "out"), "--ray", "local", str(photos)]) == 1
    assert "wanted photos first, then --ray [ADDRESS]" in capsys.readouterr().err


def test_a_cluster_is_shared_among_processes():
    assert share_cluster({"CPU": 6.0}, "auto", 64) == ClusterShare(6, Workers(1, 1), {"num_cpus": 1})
    with_gpus = {"CPU": 16.0, "GPU": 2.0}
    per_gpu = ClusterShare(2, Workers(8, 1), {"num_cpus": 8, "num_gpus": 1})
    assert share_cluster(with_gpus, "auto", 64) == per_gpu
    assert share_cluster(with_gpus, "cpu", 64) == ClusterShare(16, Workers(1, 1), {"num_cpus": 1})
    assert share_cluster({}, "auto", 64) == ClusterShare(1, Workers(1, 1), {"num_cpus": 1})
