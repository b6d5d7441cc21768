import ast
from pathlib import Path

import deeplab

LADDER = [  # a module imports only from those before it
    "classes", "paths", "jpeg_scans", "photos", "winograd", "network", "description", "transforms", "weights", "claims",
    "caffe",
    "checkpoints", "conversion", "hub", "rehead", "precision", "backends", "tiles", "inference", "report", "segment",
    "loading",
    "mosaic", "label_tiff", "score_grid", "mosaic_blocks", "mosaic_job",
    "export", "refusals", "workers", "decoding", "decoder", "uploads", "guard", "service", "stored", "page_upload",
    "page_gate", "shelf", "page_parts", "comparison", "several", "app", "connections", "serving", "jobs",
    "share_table", "manifest", "pipeline", "ray_job",
    "faults", "splits", "pairs", "partners", "label_colours", "class_files", "outlines", "voc_layout",
    "folder_pairs", "labelme", "coco", "datasets", "inspection", "checking", "metrics", "contours", "calibration",
    "evaluation", "predictions", "rows", "scoreboard", "score_tables", "charts", "evaluation_page",
    "evaluation_report", "score_file", "score_cache", "trials", "search", "search_report", "recipes", "losses",
    "augmentation", "teacher", "batches", "memory_batches", "optimisation", "feature_cache", "head_norm",
    "snapshots", "runs", "study", "training", "cli", "__main__",
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
        used -= {"commands"} if name == "cli" else set()
        assert used <= set(LADDER[:place]), f"{name}.py imports {used - set(LADDER[:place])}"


def test_commands_are_above_everything_and_light():
    for path in (FOLDER / "commands").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        heads = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in heads}
        light = {
            "__future__",
            "dataclasses",
            "json",
            "pathlib",
            "sys",
            "typing",
            "tyro.conf",
            "deeplab.commands.engine",
        }
        assert modules <= light, f"{path.name} imports {modules - light} at its head; heavy modules load when needed"


def test_evaluation_knows_neither_torch_nor_the_network():
    for name in ("datasets", "metrics", "evaluation", "contours", "calibration", "predictions", "photos", "classes"):
        assert not {module.split(".")[0] for module in imported(name)} & {"torch", "densecrf"}
    assert "deeplab.network" not in set(imported("evaluation"))
    assert not {"densecrf", "deeplab.segment"} & set(imported("network"))
