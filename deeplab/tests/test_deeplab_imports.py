import ast
from pathlib import Path

import deeplab

LADDER = [  # a module imports only from those before it
    "classes", "photos", "network", "description", "transforms", "weights", "caffe", "checkpoints", "conversion", "hub",
    "rehead", "precision", "tiles", "inference", "report", "segment", "loading", "jobs", "datasets", "metrics",
    "evaluation", "scoreboard", "feature_cache", "training", "cli",
]  # fmt: skip
FOLDER = Path(deeplab.__file__).parent


def imported(name):
    """Full names of what a module imports, at its head or in a function."""
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            parents = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from parents if node.module == "deeplab" else [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_go_one_way():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"__init__", *LADDER}
    for place, name in enumerate(LADDER):
        used = {module.split(".")[1] for module in imported(name) if module.startswith("deeplab.")}
        assert used <= set(LADDER[:place]), f"{name}.py imports {used - set(LADDER[:place])}"


def test_evaluation_knows_neither_torch_nor_the_network():
    for name in ("datasets", "metrics", "evaluation", "photos", "classes"):
        assert not {module.split(".")[0] for module in imported(name)} & {"torch", "densecrf"}
    assert "deeplab.network" not in set(imported("evaluation"))
    assert not {"densecrf", "deeplab.segment"} & set(imported("network"))
