"""The notebook runs from top to bottom, offline, in a process of its own, as a kernel would run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]

# Each cell in turn; what its last line is worth is shown, as a notebook shows it. No way out to the network.
RUNNER = """
import ast, json, socket, sys

def refuse(*where):
    raise OSError(f"no network here: {where}")

socket.socket.connect = socket.getaddrinfo = refuse
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"], start=1):
    if cell["cell_type"] == "code":
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = last and eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        if hasattr(value, "_repr_png_"):
            assert value._repr_png_().startswith(b"\\x89PNG")
            print(f"(a picture under cell {number})")
        elif value is not None:
            print(value)
"""


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(NOTEBOOK)],
        cwd=NOTEBOOK.parent,
        env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(a picture under cell") == 2
    assert "[Epoch 8] Train Loss: " in done.stderr and "layers, heads, tokens, tokens: (1, 4, " in done.stdout
    assert done.stdout.count("The rover") >= 4, "what is asked for begins so"
    bits = {name: float(value) for name, value in re.findall(r"^([\w ]+?) +(\d\.\d{3})", done.stdout, re.MULTILINE)}
    assert {"this model", "unigram", "bigram", "ngram", "xz", "bzip2"} == set(bits)
    assert bits["this model"] < bits["unigram"], "it has learnt more than how often words occur"


def test_it_holds_no_results_and_no_magic() -> None:
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile("".join(cell["source"]), cell["id"], "exec")


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", NOTEBOOK.read_text(encoding="utf-8")))
def test_links_lead_somewhere(link: str) -> None:
    assert (NOTEBOOK.parent / link).is_file()
