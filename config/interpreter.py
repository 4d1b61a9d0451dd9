"""Which Python runs a command: the one that was called, or that of .venv, where `make run` installs the packages.

Older Pythons than the project needs can read this file, so that they too get a clear line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

OLDEST = (3, 11)
PACKAGES = ("yaml", "torch")  # every command needs these; where they are, the rest of requirements.txt is too
RERUN = "ELON_TRANSFORMER_RERUN"  # an environment variable: this process was started by `run_elsewhere`
PROGRAM = Path("Scripts", "python.exe") if sys.platform == "win32" else Path("bin", "python")


def run_elsewhere(script: Path, argv: Sequence[str]) -> int | None:
    """Run `script` with the Python of the .venv beside it, if this Python can't run the command line `argv`.

    Returns:
        None if this Python can run it. Else the exit code: that of the other Python (on Linux and macOS it takes this
        process over, so nothing is returned), or 1 after an error line if there is no other one.
    """
    rerun = os.environ.pop(RERUN, "")
    if not (lack := what_is_lacking(argv)):
        return None
    python = script.parent / ".venv" / PROGRAM
    if rerun or not python.is_file():
        print(f"error: {sys.executable} {lack}: type {what_to_type()}", file=sys.stderr)
        return 1
    command, environment = [str(python), str(script), *argv], {**os.environ, RERUN: "1"}
    if sys.platform == "win32":
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the other process answers it
        return subprocess.run(command, env=environment, check=False).returncode
    os.execve(command[0], command, environment)


def what_is_lacking(argv: Sequence[str]) -> str:
    """Why this Python can't run the command line `argv`, in words; empty if it can."""
    if sys.version_info[:2] < OLDEST:
        return "is Python {}.{}, and {}.{} or newer is needed".format(*sys.version_info[:2], *OLDEST)
    if not argv or argv[0] in ("help", "--version") or {"-h", "--help"} & set(argv):
        return ""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    return f"has no {' and no '.join(missing)}" if missing else ""


def what_to_type() -> str:
    """The commands that install the packages."""
    if sys.platform == "win32":
        return r"`python -m venv .venv`, then `.venv\Scripts\pip install -r requirements.txt`"
    return "`make run`, or `python3 -m venv .venv && .venv/bin/pip install -r requirements.txt`"
