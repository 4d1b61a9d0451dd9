"""The rules of the house that a machine can hold: imports go down only, files and functions stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    "config",
    "utils",
    "model",
    "generate",
    "inspection",
    "export",
    "trainer",
    "server",
    "evaluation",
    "web",
    "distillation",
    "pipeline",
    "main",
)
FILES = [path for name in LAYERS[:-1] for path in sorted((ROOT / name).glob("*.py"))] + [ROOT / "main.py"]
KNOW_NO_MODEL = ("utils",)


def imported(path: Path) -> set[str]:
    """Our own top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found & set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    layer = path.parent.name if path.parent != ROOT else "main"
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 420, "split the file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"
            assert node.returns is not None, f"{node.name} does not say what it returns"
            if not node.name.startswith("_") and lines > 12:
                assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_importing_does_nothing(path: Path) -> None:
    """Modules hold definitions and constants; what runs is under a function or the __main__ check."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        assert not isinstance(node, ast.For | ast.While | ast.With | ast.Try), f"line {node.lineno} runs at import"
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"line {node.lineno} runs at import"


def test_no_path_edits() -> None:
    assert not [path for path in FILES if "sys.path" in path.read_text(encoding="utf-8")]
