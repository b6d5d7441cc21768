"""The table of a run on a GPU, made from its JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deeplab.tables import markdown_table

NOT_TIMES = ("set-up", "sections", "seconds", "groups")


def write_table(source: Path, target: Path) -> None:
    """Write Markdown from JSON; of what is not there yet the table has no lines."""
    data: dict[str, Any] = json.loads(source.read_text()) if source.is_file() else {}
    target.write_text(text_of(data), encoding="utf-8")


def text_of(data: dict[str, Any]) -> str:
    """The report."""
    machine = data.get("set-up", {}).get("machine", {})
    facts = ", ".join(
        f"{name} {_text(value)}" for name, value in machine.items() if name not in ("device", "date")
    )
    lines = [
        "# On a GPU",
        "",
        f"{machine.get('device', 'unknown device')}, {machine.get('date', '')}. {facts}.",
        "",
    ]
    for name, value in data.get("set-up", {}).items():
        if name != "machine":
            lines += [f"{name}: {_text(value)}", ""]
    for section, results in data.items():
        if section in NOT_TIMES:
            continue
        rows = [["what", "median ms", "ms a photo", "more"]]
        for name, value in results.items():
            value = value if isinstance(value, dict) else {"": value}
            median, photos = value.get("median ms"), value.get("photos")
            more = {
                key: one
                for key, one in value.items()
                if key not in ("median ms", "photos", "runs", "traceback")
            }
            rows.append(
                [
                    name.replace("|", "/"),
                    "" if median is None else f"{median:.2f}",
                    "" if median is None or not photos else f"{median / photos:.2f}",
                    _text(more).replace("|", "/"),
                ]
            )
        lines += [f"## {section}", "", markdown_table(rows), ""]
    tests = data.get("groups", {}).get("tests", {})
    if tests:
        lines += ["## Tests", "", (tests.get("last lines") or ["no output"])[-1], ""]
    failed = [
        f"- {section}: {name}: {value.get('failed') or value.get('left out')}"
        for section, results in data.items()
        for name, value in results.items()
        if isinstance(value, dict) and ("failed" in value or "left out" in value)
    ]
    failed += [
        f"- group {name} ended with {value['ended with']}"
        for name, value in data.get("groups", {}).items()
        if value["ended with"]
    ]
    return "\n".join([*lines, "## What failed or was left out", "", *(failed or ["Nothing."]), ""])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_text(one)}".strip() for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ".".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1 else str(value)
