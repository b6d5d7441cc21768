import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_the_same_code_runs_on_the_cpu(tmp_path):
    done = run("--out", tmp_path / "gpu", "--device", "cpu", "--small", "--groups", "crf,network,late")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert {
        "set-up",
        "parity with the CPU",
        "lattice",
        "exact",
        "backward, 5 iterations",
        "network",
        "photo to labels",
    } <= set(record)
    failed = [value for results in record.values() for value in results.values() if "failed" in str(value)]
    assert failed == []
    assert {name: value["ended with"] for name, value in record["groups"].items()} == {
        "crf": 0,
        "network": 0,
        "late": 0,
    }
    for name, value in record["parity with the CPU"].items():
        if "bf16" not in name:
            assert max(value.values()) < 1e-5
    table = (tmp_path / "gpu.md").read_text()
    assert "10 iterations" in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_reported_in_one_line(tmp_path):
    done = run("--out", tmp_path / "gpu")
    assert done.returncode == 1
    assert "sees no GPU here; '--device cpu --small' runs the same code" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_tests_that_need_a_gpu_are_found():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    tests = gpu.gpu_tests()
    assert {path.relative_to(gpu.ROOT).parts[0] for path in tests} == {"densecrf", "deeplab"}
    assert all("mark.cuda" in path.read_text(encoding="utf-8") for path in tests)


def test_unknown_groups_are_refused(tmp_path):
    done = run("--out", tmp_path / "gpu", "--device", "cpu", "--groups", "crf,networks")
    assert done.returncode == 1
    assert "got groups networks, wanted some of: crf, network" in done.stderr
