"""Shared by the speed benchmarks: clocks, sides that take turns, figures as a table and as one line of JSON."""

import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

REPEATS = 5
LONG = 15.0  # seconds: a side whose warm-up takes longer has that as its only figure


def choose(name: str) -> torch.device:
    """The device of this name; "auto" is a CUDA GPU where there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def clock(device: torch.device) -> float:
    """Seconds, read when the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def take_turns(sides: Mapping[str, Callable[[], float]], *, repeats: int = REPEATS) -> dict[str, list[float]]:
    """Figures of each side: after a warm-up, which does not count, one side after the other, again and again.

    So a minute in which the machine is busy with something else affects all sides alike.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    repeated = dict(sides)
    for name, measure in sides.items():
        started = time.perf_counter()
        figure = measure()
        if time.perf_counter() - started > LONG:
            found[name].append(figure)
            del repeated[name]
        print(f"  {name}: {figure:,.4g} ({time.perf_counter() - started:.1f} s, warm-up)", file=sys.stderr)
    for _ in range(repeats):
        for name, measure in repeated.items():
            found[name].append(measure())
    return found


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """The median, and the lowest and the highest where there are several."""
    around = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else " (once)"
    return f"{statistics.median(values):{form}}{around}"


def times(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of ours divided by the median of theirs."""
    return statistics.median(ours) / statistics.median(theirs)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown: the first column is text, the others are figures."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def machine(device: torch.device) -> str:
    """The machine as text: processor, cores, torch."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.is_file() else None
    parts = [named[1] if named else platform.processor() or platform.machine()]
    parts += [f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"]
    if device.type == "cuda":
        parts.insert(0, torch.cuda.get_device_name(device))
    return ", ".join(parts)


def show(text: str, found: Mapping[str, Any], device: torch.device) -> None:
    """Print a table, the machine, and everything measured as one line of JSON."""
    print(f"{text}\n\n{machine(device)}\n")
    print(json.dumps({"machine": machine(device), **found}))
