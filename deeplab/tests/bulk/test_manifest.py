import csv
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deeplab.model.loading
from deeplab.bulk.inputs import Shard, plan
from deeplab.bulk.jobs import Job, Outcome, Settings, run_job, write_results
from deeplab.bulk.manifest import Manifest
from deeplab.bulk.memory_limiter import CRF_BYTES_PER_PIXEL, MemoryLimiter, estimate_bytes, limiter_for
from deeplab.bulk.workers import Workers, run
from deeplab.classes import VOC_CLASSES
from deeplab.cli import main
from deeplab.model.segmentation import Model
from deeplab.weights.store import Card

WORKERS = Workers(3, 1)


@pytest.fixture(scope="module")
def small(narrow):
    return Model(
        narrow("deeplab-largefov", classes=21), Card("deeplab-largefov", VOC_CLASSES), precision="fp32"
    )


@pytest.fixture
def photos(tmp_path):
    """Seven photos of different sizes and kinds in two folders."""
    return draw_photos(tmp_path / "photos", 7)


def draw_photos(folder, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("even" if i % 2 == 0 else "odd/deep") / f"{i}.{('png', 'jpg', 'webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = rng.integers(0, 256, size=(5 + i, 7, 3), dtype=np.uint8)
        Image.fromarray(levels).resize((60 + 3 * i, 40 + i)).save(path)
    return folder


@pytest.fixture
def command(small, monkeypatch, tmp_path):
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: small)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["segment", *map(str, arguments), "--out", "out"])


def contents(folder):
    """Name to bytes of all results."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.png")}


def lines(folder, name="manifest.jsonl"):
    """The photos' lines of a manifest."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [row for row in rows if "name" in row]


def labelled_one_by_one(folder, out, model, settings):
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for job in plan([folder], out)[0]:
        write_results(job, model, settings, threads=1)
    torch.set_num_threads(torch_threads)
    return contents(out)


@pytest.mark.parametrize(
    "settings", [Settings(compare=True), Settings(crf=False, scales=(0.5, 1.0), mirror=True)]
)
def test_workers_write_the_same_files_as_one_by_one(photos, small, tmp_path, settings):
    jobs, _ = plan([photos], tmp_path / "workers")
    outcomes = []
    run(jobs, partial(work, small, settings), outcomes.append, workers=WORKERS)
    assert contents(tmp_path / "workers") == labelled_one_by_one(photos, tmp_path / "single", small, settings)
    assert {outcome.job for outcome in outcomes} == set(jobs)
    for outcome in outcomes:
        assert sum(outcome.shares.values()) == pytest.approx(1)
        assert set(outcome.seconds) >= {"decode", "network", "write"}


def work(model, settings, job, threads):
    return run_job(job, model, settings, threads=threads)


def test_workers_share_the_processors():
    assert Workers.of(1000, processors=2) == Workers(2, 1)
    assert Workers.of(1000, processors=32) == Workers(8, 4)
    assert Workers.of(1, processors=6) == Workers(1, 6)
    assert Workers.of(0, processors=6) == Workers(1, 6)
    assert Workers.of(1000, processors=4, count=9) == Workers(9, 1)
    with pytest.raises(ValueError, match="got 0 workers"):
        Workers.of(5, count=0)


def test_threads_end_and_torchs_number_of_threads_is_restored(photos, tmp_path):
    before = torch.get_num_threads()
    numbers = []

    def count(job, threads):
        numbers.append((torch.get_num_threads(), threads))
        return Outcome(job)

    run(plan([photos], tmp_path / "out")[0], count, lambda _: None, workers=WORKERS)
    assert set(numbers) == {(1, 1)}
    later_numbers = []
    later = threading.Thread(target=lambda: later_numbers.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *later_numbers] == [before, before]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("deeplab worker")]


def test_the_memory_of_photos_in_work_is_bounded(tmp_path):
    for i, size in enumerate([(60, 50)] * 6 + [(150, 100)] + [(60, 50)] * 6):
        Image.new("RGB", size).save(tmp_path / f"{i:02}.png")
    limiter = MemoryLimiter(7000 * CRF_BYTES_PER_PIXEL)
    threads_of = {}
    running = peak = 0
    lock = threading.Lock()

    def label(job, threads):
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
            threads_of[job.photo.stem] = threads
            assert running == 1 or threads == 1  # a photo with all threads is alone
        time.sleep(0.005)
        with lock:
            running -= 1
        return Outcome(job)

    done = []
    run(
        plan([tmp_path], tmp_path / "out")[0],
        label,
        done.append,
        workers=Workers(4, 1),
        limiter=limiter,
    )
    assert len(done) == 13
    assert peak <= 2  # of 3,000 pixels each
    assert limiter.peak_bytes == 15000 * CRF_BYTES_PER_PIXEL  # the large one, alone
    assert [stem for stem, threads in threads_of.items() if threads == 4] == ["06"]


def test_the_limit_depends_on_the_free_memory():
    limiter = limiter_for(1000)
    with ExitStack() as admitted:
        assert not admitted.enter_context(limiter.admit(400))
        assert not admitted.enter_context(limiter.admit(200))
        assert limiter.peak_bytes == 600
    with limiter.admit(601) as is_alone:
        assert is_alone
    with limiter_for(None).admit(10**9) as is_alone:
        assert not is_alone


def test_the_memory_of_a_photo_depends_on_the_steps(small, tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "p.png")
    Image.new("RGB", (4000, 3000)).save(tmp_path / "large.png")
    pixels = 4000 * 3000

    def bytes_per_pixel(**options):
        return estimate_bytes(tmp_path / "large.png", Settings(**options), small) / pixels

    assert bytes_per_pixel() == CRF_BYTES_PER_PIXEL
    assert bytes_per_pixel(crf=False, size=500) < CRF_BYTES_PER_PIXEL / 5
    assert bytes_per_pixel(crf=False, size=0) > 560  # the network at full size
    assert bytes_per_pixel(crf=False, size=500, scales=(0.5, 2.0)) > bytes_per_pixel(crf=False, size=500)
    assert estimate_bytes(tmp_path / "p.png", Settings(crf=False, size=0), small) > 560 * 400 * 300
    assert estimate_bytes(tmp_path / "none.png", Settings(), small) == 0


@pytest.mark.parametrize(("option", "count"), [("--no-crf", 2), ("--crf", 1)])
def test_photos_without_the_crf_wait_less_for_memory(command, tmp_path, monkeypatch, option, count):
    for number in range(2):
        Image.new("RGB", (700, 500)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr("densecrf.memory.available", lambda: 10**9)  # 600 MB for photos; with CRF 525 MB each
    running = peak = 0
    lock = threading.Lock()

    def label(job, model, settings, *, threads):
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.3)
        with lock:
            running -= 1
        return Outcome(job)

    monkeypatch.setattr("deeplab.bulk.jobs.run_job", label)
    assert command(tmp_path / "0.png", tmp_path / "1.png", "--lanes", "2", option) == 0
    assert peak == count


def test_jobs_are_read_as_they_are_needed(tmp_path):
    read = finished = ahead = 0

    def endless():
        nonlocal read
        for i in range(200):
            read += 1
            yield Job(tmp_path / f"{i}.png", tmp_path / "out" / str(i))

    def count(_):
        nonlocal finished, ahead
        finished += 1
        ahead = max(ahead, read - finished)

    def slow(job, threads):
        time.sleep(0.0005)
        return Outcome(job)

    run(endless(), slow, count, workers=WORKERS)
    assert finished == 200
    assert ahead < 150  # the list is never read whole


def test_photos_in_work_are_recorded_when_a_job_is_interrupted(photos, tmp_path):
    recorded, started = [], []

    def record(outcome):
        recorded.append(outcome.job)
        if len(recorded) == 1:
            raise KeyboardInterrupt

    def label(job, threads):
        started.append(job)
        time.sleep(0.01)
        return Outcome(job)

    with pytest.raises(KeyboardInterrupt):
        run(plan([photos], tmp_path / "out")[0], label, record, workers=Workers(2, 1))
    assert set(recorded) == set(started)
    assert len(recorded) < 7


def test_a_full_disk_stops_at_once(photos, small, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("deeplab.bulk.jobs.write_whole", full)
    recorded = []
    with pytest.raises(OSError, match="No space left"):
        run(
            plan([photos], tmp_path / "out")[0],
            partial(work, small, Settings(crf=False)),
            recorded.append,
            workers=WORKERS,
        )
    assert recorded == []


def test_an_interrupted_job_resumes(command, photos, tmp_path, capsys):
    assert command(photos / "even", "--no-crf") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    (tmp_path / "out/2_overlay.png").unlink()
    os.utime(photos / "even/4.jpg", (1, 1))  # another photo with the same name
    capsys.readouterr()
    assert command(photos / "even", "--no-crf") == 0
    output = capsys.readouterr().out
    assert "2 of 4 photos already labelled" in output
    assert "4 of 4 photos labelled" in output
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed == {"2.png", "2_overlay.png", "4.png", "4_overlay.png"}
    with open(tmp_path / "out/classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(Path(row["photo"]).stem for row in rows)) == ["0", "2", "4", "6"]
    assert sum(float(row["share"]) for row in rows) == pytest.approx(4, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "finished"),
    [([], 4), (["--redo"], 0), (["--mirror"], 0), (["--compare"], 0), (["--tile", "64"], 4)],
)
def test_which_photos_are_labelled_again(command, photos, capsys, options, finished):
    command(photos / "even", "--no-crf")
    capsys.readouterr()
    assert command(photos / "even", "--no-crf", *options) == 0
    assert (f"{finished} of 4 photos already labelled" in capsys.readouterr().out) == (finished > 0)


def test_failed_photos_are_tried_again(command, photos, tmp_path, capsys):
    good = (photos / "even/2.webp").read_bytes()
    (photos / "even/2.webp").write_bytes(b"no photo")
    assert command(photos, "--no-crf") == 1
    (bad,) = (row for row in lines(tmp_path / "out") if "error" in row)
    assert bad["name"] == "even/2"
    assert "6 of 7 photos labelled" in capsys.readouterr().out
    (photos / "even/2.webp").write_bytes(good)
    assert command(photos, "--no-crf") == 0
    assert "6 of 7 photos already labelled" in capsys.readouterr().out


def test_incomplete_lines_of_a_killed_process(command, photos, tmp_path, capsys):
    command(photos, "--no-crf")
    manifest = tmp_path / "out/manifest.jsonl"
    whole = manifest.read_bytes()
    expected = contents(tmp_path / "out")
    for lost in (
        b"",
        whole[:20],
        whole[:-1],
        whole[:-30],
        b"[1]\n" + whole + b'"x',
        b"\xff\x00" + whole[:-5],
    ):
        manifest.write_bytes(lost)
        assert command(photos, "--no-crf") == 0
        assert (
            len({row["name"] for row in map(parsed, manifest.read_bytes().splitlines()) if "name" in row})
            == 7
        )
    assert contents(tmp_path / "out") == expected
    capsys.readouterr()
    assert command(photos, "--no-crf") == 0
    assert "7 of 7 photos already labelled" in capsys.readouterr().out


def parsed(line):
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def test_two_jobs_in_one_folder_are_refused(tmp_path, photos, small, command, capsys):
    (tmp_path / "out").mkdir()
    with Manifest(tmp_path / "out", {}):
        assert command(photos) == 1
        assert "another process writes its results here" in capsys.readouterr().err
    assert command(photos, "--no-crf") == 0


def test_the_latest_line_counts(tmp_path, photos):
    (tmp_path / "out").mkdir()
    (job,), _ = plan([photos / "even/0.png"], tmp_path / "out")
    for file in job.output_files():
        file.write_bytes(b"x")
    with Manifest(tmp_path / "out", {"a": 1}, shard=Shard(1, 2)) as manifest:
        manifest.add(Outcome(job, {"cat": 1.0}), [""])
    for _ in range(2):
        with Manifest(tmp_path / "out", {"a": 1}) as manifest:
            assert manifest.finished(job, [""])
            assert [row["shares"] for _, row in manifest.rows([job])] == [{"cat": 1.0}]
    with Manifest(tmp_path / "out", {"a": 2}) as manifest:
        assert not manifest.finished(job, [""])
        manifest.add(Outcome(job, error="photo: bad"), [""])
    with Manifest(tmp_path / "out", {"a": 1}) as manifest:
        assert not manifest.finished(job, [""])  # its files may be of the other settings


def test_shards_for_many_machines(command, photos, tmp_path, capsys):
    jobs, _ = plan([photos], tmp_path / "out")
    shards = [list(Shard(number, 3).select(jobs, tmp_path / "out")) for number in (1, 2, 3)]
    assert sorted(job.target for shard in shards for job in shard) == sorted(job.target for job in jobs)
    moved = [
        replace(job, target=tmp_path / "elsewhere" / job.target.relative_to(tmp_path / "out")) for job in jobs
    ]
    other = list(Shard(2, 3).select(reversed(moved), tmp_path / "elsewhere"))
    assert [job.photo for job in reversed(other)] == [job.photo for job in shards[1]]
    for number in (1, 2, 3):
        assert command(photos, "--no-crf", "--shard", f"{number}/3") == 0
        assert len(lines(tmp_path / "out", f"manifest-{number}-of-3.jsonl")) == len(shards[number - 1])
        assert (tmp_path / f"out/classes-{number}-of-3.csv").is_file()
    capsys.readouterr()
    assert command(photos, "--no-crf") == 0  # reads all manifests and writes the table of all
    assert "7 of 7 photos already labelled" in capsys.readouterr().out
    with open(tmp_path / "out/classes.csv", newline="") as file:
        assert len({row["photo"] for row in csv.DictReader(file)}) == 7


def test_photos_are_divided_evenly(tmp_path):
    jobs = [Job(tmp_path / f"{i:06}.jpg", tmp_path / "out" / f"{i:06}") for i in range(4_000)]
    counts = [len(list(Shard(number, 4).select(jobs, tmp_path / "out"))) for number in range(1, 5)]
    assert sum(counts) == 4_000
    assert max(counts) < 1.2 * min(counts)


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "a/b", "1/3/5", "-1/3", "1.5/3"])
def test_invalid_shards_are_refused(text, command, photos, capsys):
    assert command(photos, f"--shard={text}") == 1
    assert "wanted I/N with I from 1 to N" in capsys.readouterr().err


def test_patterns_keep_the_folders_after_the_first_wildcard(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs, errors = plan([Path("photos/**/*.jpg")], Path("out"))
    assert errors == []
    assert {job.photo.as_posix(): job.target.as_posix() for job in jobs} == {
        "photos/even/4.jpg": "out/even/4",
        "photos/odd/deep/1.jpg": "out/odd/deep/1",
    }
    jobs, _ = plan([photos / "*/[0-4].*"], tmp_path / "out")
    assert [job.target.relative_to(tmp_path).as_posix() for job in jobs] == [
        "out/even/0",
        "out/even/2",
        "out/even/4",
    ]
    jobs, errors = plan([Path("photos/*.gif"), Path("photos/**/*.jpg")], Path("out"))
    assert len(jobs) == 2
    assert errors[0].startswith("photos/*.gif: a pattern that fits no photos; wanted files ending in .jpg")
    Image.new("RGB", (20, 10)).save("odd[1].png")
    assert [job.target.as_posix() for job in plan([Path("odd[1].png")], Path("out"))[0]] == ["out/odd[1]"]


def test_results_never_replace_a_linked_photo(tmp_path):
    for folder in ("results", "links"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "results/a.png")
    (tmp_path / "links/a.jpg").symlink_to(tmp_path / "results/a.png")
    jobs, _ = plan([tmp_path / "links/a.jpg"], tmp_path / "results")
    assert jobs[0].output_files()[0].name != "a.png"
    assert plan([tmp_path / "links"], tmp_path / "results")[0] == []  # links to results are not photos
    (tmp_path / "same").symlink_to(tmp_path / "results")
    jobs, _ = plan([tmp_path / "results/a.png"], tmp_path / "same")
    assert jobs[0].output_files()[0].name != "a.png"


def test_a_killed_job_resumes(tmp_path):
    """With the shipped weights, in processes of their own."""
    photos, out = draw_photos(tmp_path / "photos", 30), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "deeplab",
        "segment",
        str(photos),
        "--out",
        str(out),
        "--lanes",
        "2",
        "--no-crf",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    manifest = out / "manifest.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if manifest.is_file() and manifest.read_bytes().count(b"\n") > 4:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    for file in out.rglob("*.png"):
        if not file.name.startswith("."):
            Image.open(file).load()  # complete, also those that are not in the manifest
    finished = {row["name"] for row in lines(out)}
    assert 4 <= len(finished) < 30
    before = {name: (out / f"{name}.png").stat().st_mtime_ns for name in finished}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{len(finished)} of 30 photos already labelled" in done.stdout
    assert all((out / f"{name}.png").stat().st_mtime_ns == when for name, when in before.items())
    rows = lines(out)
    assert len(rows) == len({row["name"] for row in rows}) == 30
    assert len(contents(out)) == 60 + len(list(out.rglob(".*.png")))
