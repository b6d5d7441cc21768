"""Nothing is written when Python ends, whatever is still alive."""

import subprocess
import sys

import pytest

NUMPY = """
import numpy as np
import densecrf
crf = densecrf.DenseCRF([densecrf.Gaussian((8, 12), 3)])
lattice = densecrf.Lattice(np.zeros((5, 2)))
marginals = crf.infer(np.zeros((2, 8, 12)))
"""
TORCH = """
import torch
from densecrf.torch import DenseCRF
crf = DenseCRF(iterations=2, compatibility=1 - torch.eye(3))
logits = torch.randn(1, 3, 8, 12, requires_grad=True)
scores = crf(torch.rand(1, 3, 8, 12) * 255, logits)
loss = scores.square().sum()
loss.backward()
"""


@pytest.mark.parametrize("code", [NUMPY, TORCH, TORCH.replace("loss.backward()", "")])
def test_no_leaks_are_reported(code):
    if "torch" in code:
        pytest.importorskip("torch", reason="torch is not installed")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")
