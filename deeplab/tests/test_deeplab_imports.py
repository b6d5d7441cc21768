"""Which package of deeplab may import which, and no import cycle inside a package."""

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import deeplab

FOLDER = Path(deeplab.__file__).parent
MODULES = {
    ".".join(path.relative_to(FOLDER).with_suffix("").parts): path
    for path in sorted(FOLDER.rglob("*.py"))
    if path.name != "__init__.py"
}
BASE = {"base"}  # classes, photos, files, optional, drawing, tables …: modules of deeplab itself
MODEL = BASE | {"network", "weights", "model"}
MAY_IMPORT = {
    "base": set(),
    "network": BASE,
    "weights": BASE | {"network"},
    "model": BASE | {"network", "weights"},
    "datasets": BASE,
    "evaluation": BASE | {"datasets", "model"},
    "crf_search": MODEL | {"datasets", "evaluation"},
    "training": MODEL | {"datasets", "evaluation"},
    "large_images": MODEL,
    "bulk": MODEL | {"large_images"},
    "serving": MODEL,
}
ABOVE = {"cli", "__main__"}
PACKAGES = [name for name in MAY_IMPORT if name != "base"]


def package_of(module):
    return module.split(".")[0] if "." in module else "base"


def imported(module):
    """Full names of what a module imports, at its head or in a function."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            packages = {"deeplab", *(f"deeplab.{name}" for name in PACKAGES)}
            yield from whole if node.module in packages else [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def own(module):
    """Modules of deeplab that a module imports."""
    names = {name.removeprefix("deeplab.") for name in imported(module) if name.startswith("deeplab.")}
    return {name for name in names if name in MODULES}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_one_way(package):
    for module in MODULES:
        if package_of(module) == package and module not in ABOVE:
            used = {package_of(name) for name in own(module)} - {package}
            assert used <= MAY_IMPORT[package], f"{module} imports {sorted(used - MAY_IMPORT[package])}"


def test_every_package_has_its_line_in_the_table():
    assert {package_of(module) for module in MODULES} == {*MAY_IMPORT, "commands"}


def test_no_import_cycle():
    order = TopologicalSorter({module: own(module) - {module} for module in MODULES})
    order.prepare()  # raises CycleError with the cycle


@pytest.mark.parametrize("package", ["deeplab", *(f"deeplab.{name}" for name in PACKAGES)])
def test_public_names_are_there_and_listed(package):
    module = importlib.import_module(package)
    if package == "deeplab.serving":
        pytest.importorskip("gradio", reason="needs pip install 'deeplab-crf[app]'")
    for name in module.__all__:
        found = getattr(module, name)
        assert getattr(found, "__module__", package).startswith("deeplab") or not callable(found)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_without_torch(package):
    code = f"import deeplab.{package}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_commands_load_heavy_modules_when_needed():
    light = {
        "__future__",
        "dataclasses",
        "json",
        "pathlib",
        "sys",
        "typing",
        "tyro.conf",
        "deeplab.commands.common",
    }
    for path in (FOLDER / "commands").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        heads = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        modules = {n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in heads}
        assert modules <= light, f"{path.name} imports {modules - light} at its head"


def test_evaluation_of_labels_needs_neither_torch_nor_the_network():
    modules = [name for name in MODULES if package_of(name) == "datasets"]
    modules += [
        f"evaluation.{name}"
        for name in (
            "metrics",
            "scoring",
            "windows",
            "boundary_f1",
            "boundary_iou",
            "boundary_accuracy",
            "calibration",
            "predictions",
        )
    ]
    for module in [*modules, "photos", "classes"]:
        assert not {name.split(".")[0] for name in imported(module)} & {"torch", "densecrf"}, module
    assert not any(
        name.startswith("densecrf")
        for module in MODULES
        if package_of(module) == "network"
        for name in imported(module)
    )


def test_files_are_of_readable_size():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert max(lengths.values()) <= 400
    assert sorted(lengths.values())[len(lengths) // 2] < 150
