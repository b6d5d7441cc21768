"""The import name ``pydensecrf``, provided by ``install()`` or by the distribution pydensecrf-densecrf."""

import subprocess
import sys
from pathlib import Path

import pytest

import densecrf.pydensecrf.densecrf
import densecrf.pydensecrf.utils

SHIM = Path(__file__).parents[2] / "pydensecrf-shim" / "src"
SCRIPT = """
import numpy as np
import pydensecrf.densecrf as dcrf
from pydensecrf import densecrf, utils
from pydensecrf.utils import unary_from_labels, create_pairwise_bilateral
from pydensecrf.eigen import MatrixXf
import densecrf.pydensecrf as ours

assert dcrf.DenseCRF2D is densecrf.DenseCRF2D is ours.DenseCRF2D, dcrf.__file__
assert utils.unary_from_labels is unary_from_labels
labels = np.arange(35).reshape(5, 7) % 3
crf = dcrf.DenseCRF2D(7, 5, 3)
crf.setUnaryEnergy(unary_from_labels(labels, 3, 0.7, zero_unsure=False))
crf.addPairwiseGaussian(sxy=3, compat=1, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
print(np.argmax(np.array(crf.inference(5)), axis=0).shape, isinstance(crf.inference(1), MatrixXf))
"""


def run(code, path=None):
    """Standard output of a fresh interpreter, which finds ``path`` before installed packages."""
    start = "" if path is None else f"import sys; sys.path.insert(0, {str(path)!r})\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)


def test_install():
    done = run(f"import densecrf.pydensecrf as d; d.install(); d.install()\n{SCRIPT}")
    assert done.stdout == "(35,) True\n", done.stderr


@pytest.mark.skipif(not SHIM.is_dir(), reason="pydensecrf-shim is not beside this package")
def test_the_distribution():
    done = run(f"{SCRIPT}\nours.install(); import pydensecrf; print(pydensecrf.__file__)", SHIM)
    assert done.stdout.startswith("(35,) True\n"), done.stderr
    assert str(SHIM) in done.stdout
    project = (SHIM.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{densecrf.__version__}"' in project
    assert f'dependencies = ["densecrf=={densecrf.__version__}"]' in project
    done = run("import pydensecrf; print(pydensecrf.densecrf.DenseCRF2D.__module__)", SHIM)
    assert done.stdout == "densecrf.pydensecrf.densecrf\n", done.stderr


def test_another_pydensecrf_is_not_replaced(tmp_path):
    package = tmp_path / "pydensecrf"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "densecrf.py").write_text("class DenseCRF: pass\n")
    for name in ("pydensecrf", "pydensecrf.densecrf"):
        done = run(f"import {name}, densecrf.pydensecrf as d; d.install()", tmp_path)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("RuntimeError: got pydensecrf already imported from"), done.stderr
        assert str(package) in last


@pytest.mark.parametrize("name", ["densecrf", "utils", "eigen"])
def test_star_imports_give_the_public_names(name):
    module = sys.modules[f"densecrf.pydensecrf.{name}"]
    names = {}
    exec(f"from densecrf.pydensecrf.{name} import *", names)
    assert set(module.__all__) <= set(names)
    assert "np" not in names


def test_the_public_names_of_pydensecrf_are_there():
    for name, module in (
        ("densecrf", densecrf.pydensecrf.densecrf),
        ("utils", densecrf.pydensecrf.utils),
        ("eigen", densecrf.pydensecrf.eigen),
    ):
        theirs = pytest.importorskip(f"pydensecrf.{name}", reason="pydensecrf2 is not installed")
        names = {word for word in dir(theirs) if not word.startswith("_")}
        assert names - {"np", "Number", "warning", "eigen"} <= set(dir(module))
