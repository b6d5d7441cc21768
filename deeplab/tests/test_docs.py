"""The pages say what is true: their Python runs, their links lead somewhere, their commands exist. Without
Sphinx."""

import contextlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deeplab
import densecrf
import densecrf.torch
from deeplab import cli
from deeplab.model.loading import load as load_weights
from densecrf import cli as densecrf_cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OWN = sorted([*DOCS.glob("*.md"), *(DOCS / "api").glob("*.md")])
READMES = [ROOT / "README.md", ROOT / "deeplab/README.md", ROOT / "densecrf/README.md"]
READMES += [ROOT / "densecrf/COMING_FROM_PYDENSECRF.md", ROOT / "CONTRIBUTING.md"]
MADE_AT_BUILD = ("made/", "gallery/")
NOT_HERE = ("imagenet", "hub", ".caffemodel", '"cuda"', ".npz", "http", ".onnx", ".xml")
"""Words of Python that needs the network, a device or somebody's file."""
PROGRAMS = {
    "deeplab": (cli.main, tuple(cli.COMMANDS)),
    "densecrf": (densecrf_cli.main, ("refine", "sharpen", "doctor")),
}


def named(path):
    return str(path.relative_to(ROOT))


def fences(path):
    """Language and text of each fenced block of a page."""
    found = re.findall(
        r"^(`{3,}|:{3,})(\S*)[^\n]*\n(.*?)^\1\s*$", path.read_text(encoding="utf-8"), re.M | re.S
    )
    return [(language, text) for _, language, text in found]


def prose(path):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```\s*$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def module(file="generate.py"):
    spec = importlib.util.spec_from_file_location(Path(file).stem, DOCS / file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@cache
def load(*arguments, **options):
    """``deeplab.load``, once for all pages."""
    return load_weights(*arguments, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a photo, its scores and the tutorial's data set; and names that READMEs do not define."""
    folder = tmp_path_factory.mktemp("docs")
    photo = Image.open(ROOT / "examples/photos/cat.jpg").resize((92, 61))
    photo.save(folder / "photo.jpg", quality=95)
    photo.save(folder / "large.jpg", quality=95)
    image = np.asarray(Image.open(folder / "photo.jpg"))
    scores = np.random.default_rng(0).normal(size=(3, *image.shape[:2]))
    probabilities = np.exp(-densecrf.unary_from_logits(scores)).astype(np.float32)
    np.save(folder / "scores.npy", probabilities)
    draw = [sys.executable, ROOT / "examples/draw_shapes.py", folder / "shapes", "--photos", "8"]
    subprocess.run(draw, check=True, capture_output=True)
    H, W = image.shape[:2]
    given = {
        "image": image,
        "probabilities": probabilities,
        "H": H,
        "W": W,
        "densecrf": densecrf,
        "torch": torch,
        "unary": densecrf.unary_from_probabilities(probabilities),
        "F": np.zeros((H * W, 2)),
        "RECIPES": ROOT / "deeplab/recipes",
        "paths": [folder / "photo.jpg"] * 2,
    }
    tensors = {
        "images": torch.rand(1, 3, 20, 28) * 255,
        "logits": torch.randn(1, 21, 20, 28, requires_grad=True),
        "targets": torch.randint(0, 21, (1, 20, 28)),
        "F": torch.nn.functional,
    }
    return folder, given, tensors


def python(path):
    """The Python of a page that can run here, block by block."""
    blocks = [text for language, text in fences(path) if language == "python"]
    return [text for text in blocks if not any(word in text for word in NOT_HERE)]


@pytest.mark.parametrize("path", [path for path in (*OWN, *READMES) if python(path)], ids=named)
def test_python_runs(path, place, monkeypatch):
    folder, given, tensors = place
    monkeypatch.chdir(folder)
    monkeypatch.setattr(deeplab, "load", load)
    names = dict(given)
    for number, text in enumerate(python(path), 1):
        if "F.cross_entropy" in text:
            names |= tensors
        code = compile(text, f"{named(path)}, block {number}", "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)


@pytest.mark.parametrize("path", [*OWN, *READMES], ids=named)
def test_links_lead_somewhere(path):
    text = prose(path)
    targets = re.findall(r"\]\(([^()\s]+)\)", text)
    for target in targets:
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file).resolve() if file else path
        inside = goal.relative_to(ROOT)
        if inside.parts[0] == "docs" and "/".join(inside.parts[1:]).startswith(MADE_AT_BUILD):
            assert made_at_build("/".join(inside.parts[1:])), f"{named(path)}: nothing makes {target}"
            continue
        assert goal.exists(), f"{named(path)}: no {target}"
        if anchor:
            assert anchor in anchors(goal), (
                f"{named(path)}: no heading #{anchor} in {file}, only {anchors(goal)}"
            )


def made_at_build(target):
    """Whether a page or picture that only a build makes has something it is made from."""
    if target.startswith("gallery/"):
        example = re.fullmatch(r"gallery/(?:images/sphx_glr_)?(\w+?)(?:_\d{3})?\.(?:rst|png)", target)
        return target == "gallery/index.rst" or (ROOT / "examples" / f"{example[1]}.py").is_file()
    if target.startswith("made/results/"):
        return Path(target).stem in module().measured()
    return target == "made/commands.md" or re.fullmatch(
        r"made/parts/(networks|layers|accuracy|speed|phases)\.md", target
    )


def anchors(path):
    """Names of a page's headings, as MyST makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(path), re.M)
    return [re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads]


@pytest.mark.parametrize("path", OWN, ids=named)
def test_what_is_included_is_there(path):
    page = path.read_text(encoding="utf-8")
    includes = re.findall(r"^```\{(?:literal)?include\} (\S+)\n(.*?)^```", page, re.M | re.S)
    for file, options in includes:
        if file.startswith("made/"):
            assert made_at_build(file)
            continue
        content = (path.parent / file).read_text(encoding="utf-8")
        for key in ("start-after", "end-before"):
            mark = re.search(rf'^:{key}: "?(.*?)"?$', options, re.M)
            if mark:
                assert mark[1] in content, f"{named(path)}: {file} has no {mark[1]!r} any more"
                content = content.partition(mark[1])[2] if key == "start-after" else content


def test_every_page_is_in_the_contents():
    entries = "\n".join(
        text for language, text in fences(DOCS / "index.md") if language == "{toctree}"
    ).split()
    for path in OWN:
        name = path.relative_to(DOCS).with_suffix("").as_posix()
        listed = name in entries or any(
            name.startswith(entry[:-1]) for entry in entries if entry.endswith("*")
        )
        assert listed or name == "index", f"docs/index.md lists no {name}"


@pytest.fixture(scope="module")
def options():
    """What each command's --help shows, by program and command."""
    make = module()
    return {
        (program, command): make.help_of(main, command)
        for program, (main, commands) in PROGRAMS.items()
        for command in commands
    }


@pytest.mark.parametrize("path", [*OWN, *READMES], ids=named)
def test_commands_exist(path, options):
    shell = [text for language, text in fences(path) if language in ("", "text", "console", "bash", "sh")]
    lines = [line.partition("  #")[0] for text in shell for line in text.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", prose(path))]:
        found = re.match(r"\s*(?:\$ )?(?:torchrun .* -m )?(deeplab|densecrf) ([a-z][a-z-]*)\b(.*)", line)
        if not found:
            continue
        program, command, rest = found.groups()
        assert (program, command) in options, f"{named(path)}: no command {program} {command}"
        for flag in re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", rest.replace("--help", "")):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", options[program, command]), (
                f"{named(path)}: {program} {command} has no {flag}"
            )


def test_the_api_pages_name_everything_public():
    pages = {
        name: (DOCS / "api" / f"{name}.md").read_text(encoding="utf-8") for name in ("densecrf", "deeplab")
    }
    for package in (deeplab, densecrf, densecrf.torch):
        page = pages[package.__name__.partition(".")[0]]
        for name in package.__all__:
            assert re.search(rf"{package.__name__}\.{name}\b", page), (
                f"no {package.__name__}.{name} on the API page"
            )


def test_gallery_examples_begin_with_a_title():
    for path in (ROOT / "examples").glob("*.py"):
        if path.name != "draw_shapes.py":
            title, line = path.read_text(encoding="utf-8").removeprefix('"""').split("\n")[:2]
            assert line == "=" * len(title), (
                f"{path.name}: a line of {len(title)} = below the title, for the gallery"
            )


def test_docstrings_become_markup():
    lines = ["The kernel exp(−|f_i|² / 2), ``a | b``.", "", "Raises:", "    ValueError: if not.", ""]
    lines += ["Source: Somebody,", "page 3."]
    module("extensions/docstrings.py").prepare(None, "", "", None, None, lines)
    assert lines[0] == "The kernel exp(−∣f_i∣² / 2), ``a | b``."
    assert lines[2:] == ["Raises:", "    ValueError: if not.", "", "Source:", "    Somebody,", "    page 3."]


def test_results_become_tables(tmp_path):
    make = module()
    times = {"a|b": {"ours": {"median s": 0.123456, "runs": 3}, "theirs": {"median s": 1234.5}}}
    content = {
        "date": "2026-01-02",
        "seconds": times,
        "photos": 1449,
        "list": [1, 2],
        "flags": {"x": True, "y": None},
    }
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(content))
    page = make.result_page(file)
    assert page.startswith("# speed\n")
    assert "| date | 2026-01-02 |" in page
    assert "| photos | 1,449 |" in page
    assert "| list | 1, 2 |" in page
    assert "|  |  | median s | runs |" in page
    assert "| a\\|b | ours | 0.1235 | 3 |" in page
    assert "| a\\|b | theirs | 1,234 |  |" in page
    assert "| x | yes |" in page
    assert "| y | – |" in page


def test_all_pages_are_made(tmp_path):
    make = module()
    results = tmp_path / "results"
    results.mkdir()
    summary = {"summary": {"mIoU-3": 12.345, "pixel accuracy": 50.0}}
    (results / "mine.json").write_text(json.dumps({"scores": {"network": summary, "network + CRF": summary}}))
    (results / "mine.md").write_text("# Mine\n\n## First\n\n| a |\n| --- |\n| 1 |\n")
    (results / "grid.csv").write_text("w1,mIoU\n5,60\n")
    make.write_all(tmp_path / "made", results)
    made = tmp_path / "made"
    assert "| mine | mIoU-3 | 12.35 | 12.35 |" in (made / "parts/accuracy.md").read_text().replace(
        "12.34 ", "12.35 "
    )
    assert (
        (made / "results/mine.md").read_text().startswith("# Mine\n\nFrom `results/mine.md`.\n\n## First\n")
    )
    assert "| 5 | 60 |" in (made / "results/grid.md").read_text()
    assert "20,505,429" in (made / "parts/networks.md").read_text()
    commands = (made / "commands.md").read_text()
    assert all(f"## deeplab {name}\n" in commands for name in cli.COMMANDS)
    assert "--crf-params" in commands
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.md")}
    (results / "grid.csv").unlink()
    make.write_all(made, results)
    after = {path: path.stat().st_mtime_ns for path in made.rglob("*.md")}
    assert set(before) - set(after) == {made / "results/grid.md"}
    assert all(before[path] == after[path] for path in after)


def test_every_measurement_of_this_repository_becomes_a_page():
    make = module()
    found = make.measured()
    assert {"voc-val80", "bench-densecrf"} <= set(found)
    for path in found.values():
        page = make.result_page(path)
        assert page.startswith("# ")
        assert "| ---" in page
