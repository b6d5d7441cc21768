"""Memory stays bounded over many photos, and freed memory is returned to the system."""

import gc
import os
import platform
import subprocess
import sys
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
from PIL import Image

import deeplab.model.loading
from data_folders import save
from deeplab.bulk import workers
from deeplab.bulk.inputs import plan
from deeplab.bulk.jobs import Outcome
from deeplab.bulk.workers import Workers, run
from deeplab.classes import VOC_CLASSES
from deeplab.cli import main
from deeplab.datasets.mask_files import read_ids
from deeplab.large_images.tiff import LargeTiff
from deeplab.model.segmentation import Model
from deeplab.photos import read_photo
from deeplab.weights.store import Card
from densecrf import memory

PHOTO = np.full((40, 56, 3), 90, np.uint8)
SIZES = """
import ctypes, os
import numpy as np, torch
from deeplab.model.devices import MAX_PRIMITIVES
from deeplab.model.predictor import Predictor
from deeplab.network.architecture import build
from deeplab.network.preprocessing import Preparation

torch.set_num_threads(1)
predictor = Predictor(build(), Preparation(), device="cpu", precision="fp32")
print("capacity", os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], flush=True)

def predict(width):
    print("size", width, flush=True)
    predictor.probabilities([np.zeros((65, width, 3), np.uint8)])
    ctypes.CDLL(None).fflush(None)  # oneDNN's lines before our next one

for width in range(65, 65 + 8 * (MAX_PRIMITIVES // 8), 8):  # a size takes 9 or 10
    predict(width)
predict(width)  # the last size again
predict(65)  # the first size again
"""


def created(environment):
    """Capacity of oneDNN's cache, and number of convolutions it had to create for each prediction."""
    environment = os.environ | {"ONEDNN_VERBOSE": "2", "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        [sys.executable, "-c", SIZES], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    capacity, counts = None, []
    for line in done.stdout.splitlines():
        if line.startswith("capacity"):
            capacity = int(line.split()[1])
        elif line.startswith("size"):
            counts.append(0)
        elif "create:cache_miss" in line and ",convolution," in line and counts:
            counts[-1] += 1
    return capacity, counts


def test_cached_convolutions_are_bounded():
    capacity, counts = created({})
    if not counts[0]:
        pytest.skip("torch has no oneDNN here")
    assert 0 < capacity < 1024  # oneDNN's default
    *_, again, first = counts
    assert again == 0
    assert first > 0  # evicted since


def test_a_bound_set_by_the_user_is_kept():
    capacity, counts = created({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1000"})
    assert capacity == 1000
    assert counts[-1] == 0


@pytest.fixture
def given_back(monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "give_back", lambda: calls.append(threading.current_thread().name))
    return calls


def test_a_job_returns_memory_in_between(tmp_path, monkeypatch, given_back):
    monkeypatch.setattr(workers, "GIVE_BACK_SECONDS", -1.0)
    for number in range(5):
        save(tmp_path / f"{number}.png", PHOTO)
    run(
        plan([tmp_path], tmp_path / "out")[0],
        lambda job, threads: Outcome(job),
        lambda _: None,
        workers=Workers(2, 1),
    )
    assert len(given_back) == 5
    monkeypatch.setattr(workers, "GIVE_BACK_SECONDS", 3600.0)
    run(
        plan([tmp_path], tmp_path / "out")[0],
        lambda job, threads: Outcome(job),
        lambda _: None,
        workers=Workers(2, 1),
    )
    assert len(given_back) == 5


def test_a_servers_worker_returns_memory_after_each_job(given_back):
    pytest.importorskip("starlette")
    from deeplab.serving.queue import WorkQueue

    with WorkQueue() as workers:
        assert workers.submit(lambda: 5).result() == 5
        with pytest.raises(ZeroDivisionError):
            workers.submit(lambda: 1 / 0).result()
    assert len(given_back) == 2


HOLES = """
import asyncio, gc
from pathlib import Path
import numpy as np
from deeplab.serving.queue import WorkQueue

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000

survivors = []

def work():
    arrays = [np.ones(8000) for _ in range(8000)]  # 500 MB of arrays, of which a few survive
    survivors.extend(arrays[::40])

with WorkQueue() as workers:
    before = held()
    workers.submit(work).result()
    gc.collect()
    print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no freed memory")
def test_memory_freed_by_a_job_is_returned():
    pytest.importorskip("starlette")
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100


def test_expired_results_are_dropped():
    from deeplab.serving.result_cache import Batch, ResultCache

    cache = ResultCache(seconds=0.05)
    name = cache.put(Batch(b"x"))
    assert cache.get(name) is not None
    gone = weakref.ref(cache.get(name))
    deadline = time.monotonic() + 30
    while gone() is not None and time.monotonic() < deadline:  # nobody asks for it
        time.sleep(0.01)
        gc.collect()
    assert gone() is None
    assert cache.get(name) is None
    long = ResultCache(2, seconds=3600)
    names = [long.put(Batch(bytes([number]))) for number in range(3)]
    assert [long.get(name) is not None for name in names] == [False, True, True]


def test_readers_in_threads_leave_the_filters_of_warnings(tmp_path):
    save(tmp_path / "a.png", PHOTO)
    save(tmp_path / "ids.png", PHOTO[:, :, 0])
    before, ready = list(warnings.filters), threading.Barrier(8)

    def read():
        ready.wait()
        for _ in range(50):
            read_photo(tmp_path / "a.png")
            read_ids(tmp_path / "ids.png")

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_large_tiffs_leave_the_filters_of_warnings(tmp_path, monkeypatch):
    pytest.importorskip("tifffile")
    save(tmp_path / "large.tif", PHOTO)
    LargeTiff(tmp_path / "large.tif").close()  # the first import may change them
    monkeypatch.setattr(warnings, "catch_warnings", lambda *_, **__: pytest.fail("changes the filters"))
    with LargeTiff(tmp_path / "large.tif") as image:
        image.window(slice(0, 40), slice(0, 56))


def test_commands_do_not_show_pillows_warnings(tmp_path, narrow, monkeypatch, capsys):
    small = Model(
        narrow("deeplab-largefov", classes=21), Card("deeplab-largefov", VOC_CLASSES), precision="fp32"
    )
    monkeypatch.setattr(deeplab.model.loading, "load", lambda **_: small)
    (tmp_path / "photos").mkdir()
    odd = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # ends within its first entry
    Image.fromarray(PHOTO).save(tmp_path / "photos/odd.jpg", exif=odd)
    with (
        pytest.warns(UserWarning, match="Corrupt EXIF data"),
        Image.open(tmp_path / "photos/odd.jpg") as image,
    ):
        image.getexif()
    before = list(warnings.filters)
    arguments = ["segment", str(tmp_path / "photos"), "--no-crf", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "EXIF" not in capsys.readouterr().err
    assert warnings.filters == before
