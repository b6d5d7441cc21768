"""A folder belongs to one job: what it was made with lies in it, and another job is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deeplab.weights import write_whole

MOST_SHOWN = 60


def claim(path: Path, facts: Mapping[str, Any]) -> None:
    """Write down what a folder's results depend on, or make sure that it is what was written down before.

    Args:
        path: the JSON file in the folder.
        facts: what the results depend on, by name; numbers, texts and lists of them.

    Raises:
        ValueError: if the file holds other facts, with the first that differs, or cannot be read.
    """
    wanted = json.loads(json.dumps(facts))  # as it will be read: lists for tuples
    if not path.is_file():
        write_whole(path, (json.dumps(wanted, indent=2, ensure_ascii=False) + "\n").encode())
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove the folder or name another") from None
    for name in [*wanted, *sorted(set(found) - set(wanted))]:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path.parent}: was made with {name} = {_shown(found.get(name))}, now wanted with "
                f"{_shown(wanted.get(name))}; remove the folder or name another"
            )


def _shown(value: Any) -> str:
    text = f"{len(value)} of them: {', '.join(map(str, value))}" if isinstance(value, list) else repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
