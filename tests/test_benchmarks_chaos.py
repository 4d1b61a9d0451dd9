"""A few kills of training at random moments; `python -m benchmarks.chaos` makes hundreds, of other commands too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes can't be forked here")
def test_a_killed_run_ends_with_the_same_bytes() -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--kills", "3", "--stages", "train"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    name, kills, _, resumed, equal, lost = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    assert (name, kills, resumed, lost) == ("train", "3", "3", "0")
    ended, runs = equal.split(" of ")
    assert ended == runs != "0"
