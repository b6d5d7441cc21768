import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from densecrf.torch import Lattice, fused, vertices  # noqa: E402


def splat(values, weights, order, pieces, wholes):
    corners = weights.shape[1]
    shares = weights.flatten()[order.long(), None] * values[order.long() // corners]
    parts = torch.stack([shares[a:b].sum(0) for a, b in pairwise(pieces)])
    assert int(pieces.diff().max()) <= vertices.SEGMENT_LENGTH
    if wholes is None:
        return parts
    return torch.stack([parts[a:b].sum(0) for a, b in pairwise(wholes)])


def slice_rows(rows, weights, corner, columns, factor, base=None):
    found = factor * (weights[:, :, None] * rows[corner.long(), :columns]).sum(1)
    return found if base is None else base + found


KERNELS = SimpleNamespace(
    splat=splat,
    slice_rows=slice_rows,
    blur=lambda rows, up, down: rows + 0.5 * (rows[up.long()] + rows[down.long()]),
)
"""What the Triton kernels are to give."""


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
@pytest.mark.parametrize("spread", [0.0, 0.5, 5.0])
def test_tables_for_kernels_are_the_plain_lattice(piece, spread, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    features, values = spread * torch.randn(300, 3, generator=rng), torch.rand(5, 300, generator=rng)
    wanted = Lattice(features).filter(values)
    monkeypatch.setattr(vertices, "SEGMENT_LENGTH", piece)
    monkeypatch.setattr(vertices, "kernels_for", lambda *_: KERNELS)
    values.requires_grad_()
    found = Lattice(features).filter(values)
    torch.testing.assert_close(found, wanted)
    slope = torch.rand(5, 300, generator=rng)
    (back,) = torch.autograd.grad(found, values, slope)
    torch.testing.assert_close((back * values).sum(), (slope * wanted).sum())


def test_no_kernels_on_the_cpu_nor_for_other_types():
    assert fused.kernels_for(torch.zeros(1)) is None
    assert fused.kernels_for(torch.zeros(1, dtype=torch.float64)) is None


def test_kernels_that_are_wrong_or_fail_are_told_once_and_left_out(monkeypatch):
    wrong = SimpleNamespace(failed_checks=lambda device: ["splat", "blur"])
    for module, message in (
        (wrong, r"gave other numbers than plain PyTorch \(splat, blur\)"),
        (object(), "failed"),
    ):
        monkeypatch.setattr(fused, "find_spec", lambda name: True)
        monkeypatch.setitem(sys.modules, "densecrf.torch.triton_kernels", module)
        monkeypatch.setattr(sys.modules["densecrf.torch"], "triton_kernels", module, raising=False)
        fused.checked_kernels.cache_clear()
        with pytest.warns(UserWarning, match=message):
            assert fused.checked_kernels(torch.device("cpu")) is None
        assert fused.checked_kernels(torch.device("cpu")) is None
        fused.checked_kernels.cache_clear()


@pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: its kernels are not interpreted"
)
def test_triton_kernels_interpreted():
    code = "import torch; from densecrf.torch import triton_kernels; print(triton_kernels.failed_checks(torch.device('cpu')))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    if "only 0-dimensional arrays" in run.stderr:
        pytest.skip("Triton's interpreter does not know this NumPy")
    assert run.stdout.strip() == "[]", run.stderr
