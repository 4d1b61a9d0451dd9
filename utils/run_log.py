"""What a run measures (metrics.jsonl, one object a line) and the facts it ran under (run.json)."""

import json
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from config.schema import UserError
from utils.files import atomic_write, naming


class RunLog:
    """Appends records to a JSON-lines file, each written out at once.

    Args:
        path: the file; its folder is made.
        keep: which earlier records stay (those up to the step a run goes on from); without it the file starts anew.
    """

    def __init__(self, path: Path, *, keep: Callable[[dict[str, Any]], bool] | None = None) -> None:
        old = [record for record in read_log(path) if keep(record)] if keep and path.is_file() else []
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in old), encoding="utf-8")
        self.path = path

    def write(self, **values: Any) -> None:
        """Add one record. Names may hold slashes: pass them as **{"train/loss": 1.0}."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line that a crash cut short is left out.

    Raises:
        UserError: no such file, or a line that is no JSON object.
    """
    if not path.is_file():
        raise UserError(f"no measurements at {path}: make some with `python main.py train`")
    lines = path.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            raise UserError(f"{path}, line {number}: not JSON: {line[:60]!r}") from None
    return records


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write a run's settings and surroundings to `path` as JSON."""
    surroundings = {
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in ("torch", "tokenizers", "numpy")},
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({**facts, **surroundings}, indent=2) + "\n", encoding="utf-8")
