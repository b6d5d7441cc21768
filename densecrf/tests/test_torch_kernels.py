import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import Lattice, fused, vertices  # noqa: E402


def splat(values, weights, order, segments, segments_of_vertex):
    corners = weights.shape[1]
    shares = weights.flatten()[order.long(), None] * values[order.long() // corners]
    parts = torch.stack([shares[a:b].sum(0) for a, b in pairwise(segments)])
    assert int(segments.diff().max()) <= vertices.SEGMENT_LENGTH
    if segments_of_vertex is None:
        return parts
    return torch.stack([parts[a:b].sum(0) for a, b in pairwise(segments_of_vertex)])


def slice_rows(rows, weights, corners, columns, factor, base=None):
    result = factor * (weights[:, :, None] * rows[corners.long(), :columns]).sum(1)
    return result if base is None else base + result


KERNELS = SimpleNamespace(
    splat=splat,
    slice_rows=slice_rows,
    blur=lambda rows, up, down: rows + 0.5 * (rows[up.long()] + rows[down.long()]),
)
"""Plain PyTorch with the interface of the Triton kernels."""


@pytest.mark.parametrize("length", [1, 7, 64, 1000])
@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0])
def test_kernels_give_the_same_as_the_plain_lattice(length, spread, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    features, values = spread * torch.randn(300, 3, generator=rng), torch.rand(5, 300, generator=rng)
    expected = Lattice(features).filter(values)
    monkeypatch.setattr(vertices, "SEGMENT_LENGTH", length)
    monkeypatch.setattr(vertices, "kernels_for", lambda *_: KERNELS)
    values.requires_grad_()
    result = Lattice(features).filter(values)
    torch.testing.assert_close(result, expected)
    slope = torch.rand(5, 300, generator=rng)
    (back,) = torch.autograd.grad(result, values, slope)
    torch.testing.assert_close((back * values).sum(), (slope * expected).sum())


def test_no_kernels_on_the_cpu_nor_for_other_types():
    assert fused.kernels_for(torch.zeros(1)) is None
    assert fused.kernels_for(torch.zeros(1, dtype=torch.float64)) is None


def test_kernels_that_fail_or_differ_are_not_used_after_one_warning(monkeypatch):
    monkeypatch.setattr(fused, "find_spec", lambda name: True)
    differing = SimpleNamespace(failed_checks=lambda device: ["splat", "blur"])
    for checks, message in (
        (differing, r"gave other numbers than plain PyTorch \(splat, blur\)"),
        (object(), "failed"),
    ):
        for name, module in (("triton_kernels", object()), ("triton_checks", checks)):
            monkeypatch.setitem(sys.modules, f"densecrf.torch.{name}", module)
            monkeypatch.setattr(sys.modules["densecrf.torch"], name, module, raising=False)
        fused.checked_kernels.cache_clear()
        with pytest.warns(UserWarning, match=message):
            assert fused.checked_kernels(torch.device("cpu")) is None
        assert fused.checked_kernels(torch.device("cpu")) is None
        fused.checked_kernels.cache_clear()


@pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: its kernels are not interpreted"
)
def test_triton_kernels_interpreted():
    code = (
        "import torch; from densecrf.torch import triton_checks;"
        "print(triton_checks.failed_checks(torch.device('cpu')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    if "only 0-dimensional arrays" in run.stderr:
        pytest.skip("Triton's interpreter does not support this NumPy")
    assert run.stdout.strip() == "[]", run.stderr
