"""Used by gpu.py: makes the table OUT.md from OUT.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deeplab.tables import markdown_table

NO_TIMES = ("set-up", "sections", "seconds", "groups")
"""Sections of the record that get no table of times."""
NOT_IN_LAST_COLUMN = ("median ms", "photos", "runs", "traceback")


def write_table(source: Path, target: Path) -> None:
    """Write Markdown from JSON; what is not measured yet has no rows.

    Args:
        source: the JSON file.
        target: the Markdown file.
    """
    data: dict[str, Any] = json.loads(source.read_text()) if source.is_file() else {}
    target.write_text(report(data), encoding="utf-8")


def report(data: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["# GPU benchmark", "", *_set_up(data.get("set-up", {}))]
    for section, results in data.items():
        if section not in NO_TIMES:
            rows = [["measurement", "median ms", "ms per photo", "more"]]
            rows += [_row(name, value) for name, value in results.items()]
            lines += [f"## {section}", "", markdown_table(rows), ""]
    tests = data.get("groups", {}).get("tests", {})
    if tests:
        lines += ["## Tests", "", (tests.get("last lines") or ["no output"])[-1], ""]
    failures = _failures(data) or ["Nothing."]
    return "\n".join([*lines, "## Failed or skipped measurements", "", *failures, ""])


def _set_up(results: dict[str, Any]) -> list[str]:
    machine = results.get("machine", {})
    facts = [f"{name} {_text(value)}" for name, value in machine.items() if name not in ("device", "date")]
    lines = [f"{machine.get('device', 'unknown device')}, {machine.get('date', '')}. {', '.join(facts)}.", ""]
    for name, value in results.items():
        if name != "machine":
            lines += [f"{name}: {_text(value)}", ""]
    return lines


def _row(name: str, value: Any) -> list[str]:
    value = value if isinstance(value, dict) else {"": value}
    median, photos = value.get("median ms"), value.get("photos")
    more = {key: one for key, one in value.items() if key not in NOT_IN_LAST_COLUMN}
    return [
        name.replace("|", "/"),
        "" if median is None else f"{median:.2f}",
        "" if median is None or not photos else f"{median / photos:.2f}",
        _text(more).replace("|", "/"),
    ]


def _failures(data: dict[str, Any]) -> list[str]:
    lines = [
        f"- {section}: {name}: {value.get('failed') or value.get('left out')}"
        for section, results in data.items()
        for name, value in results.items()
        if isinstance(value, dict) and ("failed" in value or "left out" in value)
    ]
    lines += [
        f"- group {name}: {end if isinstance(end, str) else f'exit code {end}'}"
        for name, value in data.get("groups", {}).items()
        if (end := value["ended with"])
    ]
    return lines


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_text(one)}".strip() for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ".".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1 else str(value)
