import ast
import subprocess
import sys
from pathlib import Path

import densecrf

ORDER = [
    "validation",
    "user_warnings",
    "params",
    "memory",
    "threads",
    "arrays",
    "probabilities",
    "unary",
    "levels",
    "feature_offsets",
    "kernels",
    "exact",
    "lattice",
    "pairwise",
    "crf",
    "scores",
    "refinement",
    "mask_band",
    "mask_sharpening",
    "workers",
    "bulk",
    "tiff",
    "array_files",
    "images",
    "score_files",
    "label_files",
    "jobs",
    "progress",
    "folders",
    "sharpen_command",
    "doctor",
    "simplecrf",
    "cli",
]  # a module imports only from those before it
TORCH_ORDER = [  # the same for densecrf.torch, which imports from all modules but cli
    "triton_kernels",
    "triton_checks",
    "fused",
    "tiles",
    "attention",
    "grid",
    "vertices",
    "lattice",
    "native",
    "kernel",
    "inference",
    "module",
    "loss",
]


def test_importing_loads_numpy_and_nothing_heavier():
    code = (
        "import sys, numpy; before = set(sys.modules); import densecrf;"
        "roots = lambda names: {name.split('.')[0] for name in names};"
        "print(sorted(roots(sys.modules) - roots(before) - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['densecrf']"


def test_imports_go_one_way():
    folder = Path(densecrf.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", *ORDER}
    for name in ORDER:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("densecrf"):
                parts = node.module.split(".")
                used = parts[1:2] or [alias.name for alias in node.names]
                allowed = [*ORDER[: ORDER.index(name)], "_native"]
                assert set(used) <= set(allowed), f"{name}.py imports {used}"


def test_imports_of_the_torch_package_go_one_way():
    folder = Path(densecrf.__file__).parent / "torch"
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", *TORCH_ORDER}
    for name in TORCH_ORDER:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("densecrf"):
                parts = node.module.split(".")
                if parts[1:2] == ["torch"]:
                    used = parts[2:3] or [alias.name for alias in node.names]
                    assert set(used) <= set(TORCH_ORDER[: TORCH_ORDER.index(name)]), (
                        f"torch/{name}.py imports {used}"
                    )
                else:
                    used = parts[1:2] or [alias.name for alias in node.names]
                    assert set(used) <= {*ORDER[:-1], "_native"}, f"torch/{name}.py imports {used}"


def test_no_other_module_imports_torch():
    for path in Path(densecrf.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any("torch" in name.split(".") for name in names), f"{path.name} imports torch"
