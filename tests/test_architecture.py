"""The house rules that a machine can hold. Each test lists every place that breaks its rule."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = (  # the lowest first: a folder imports from itself and from the folders before it
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
FILE_LINES, FUNCTION_LINES, DOCSTRING_LINES = 400, 40, 12
LONG = "# long: "  # a comment in a longer function, with the reason for its length
Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache
def files(root: Path) -> list[tuple[str, str, ast.Module]]:
    """The path below `root`, the text and the syntax tree of every file that is held to the rules."""
    paths = [*(path for layer in LAYERS for path in sorted((root / layer).rglob("*.py"))), root / "main.py"]
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return [(path, text, ast.parse(text)) for path, text in texts.items()]


def imported(tree: ast.Module) -> set[str]:
    """Every dotted name that a file imports anywhere in it, for type checking only too; "a.b" for `from a import b`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def wrong_imports(root: Path) -> list[str]:
    """Imports from a higher folder, relative ones, and circles of files."""
    wrong, graph = [], {}
    for path, _, tree in files(root):
        names = imported(tree)
        own = LAYERS.index(path.removesuffix(".py").split("/")[0])
        above = {name.split(".")[0] for name in names} & set(LAYERS[own + 1 :])
        wrong += [f"{path} imports {folder}, which is above it" for folder in sorted(above)]
        wrong += [f"{path} has a relative import" for name in names if name.startswith(".")]
        graph[path] = [f for name in sorted(names) if (root / (f := name.replace(".", "/") + ".py")).is_file()]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        wrong.append("a circle: " + " -> ".join(error.args[1][::-1]))
    return wrong


def wrong_sizes(root: Path) -> list[str]:
    """Files and functions that are too long, and functions that do not say what they return or do."""
    wrong = []
    for path, text, tree in files(root):
        lines = text.splitlines()
        if len(lines) > FILE_LINES:
            wrong.append(f"{path} has {len(lines)} lines")
        for node in ast.walk(tree):
            if isinstance(node, Function):
                wrong += [f"{path}:{node.lineno}: {node.name} {what}" for what in wrong_function(node, lines)]
    return wrong


def wrong_function(node: Function, lines: list[str]) -> Iterator[str]:
    """What is wrong with one function of a file of these lines."""
    body = lines[node.lineno - 1 : node.end_lineno]
    reasons = [line.strip().removeprefix(LONG) for line in body if line.strip().startswith(LONG)]
    if len(body) > FUNCTION_LINES and not any(reasons):
        yield f"has {len(body)} lines"
    if node.returns is None:
        yield "does not say what it returns"
    if len(body) > DOCSTRING_LINES and not node.name.startswith("_") and not ast.get_docstring(node):
        yield "has no docstring"


def wrong_modules(root: Path) -> list[str]:
    """Code that runs when a file is imported, and edits of sys.path."""
    wrong = []
    for path, text, tree in files(root):
        for node in tree.body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(node, ast.Expr | ast.For | ast.While | ast.With | ast.Try) and not docstring:
                wrong.append(f"{path}:{node.lineno} runs when the file is imported")
        if "sys.path" in text:
            wrong.append(f"{path} edits sys.path")
    return wrong


def test_imports_go_down_only_and_never_in_a_circle() -> None:
    assert wrong_imports(ROOT) == []


def test_files_and_functions_stay_small_and_say_what_they_do() -> None:
    """A function over 40 lines is allowed where a comment in it gives the reason: `# long: <reason>`."""
    assert wrong_sizes(ROOT) == []


def test_importing_does_nothing() -> None:
    """Modules hold definitions and constants; what runs is in a function or under the __main__ check."""
    assert wrong_modules(ROOT) == []


def test_each_rule_finds_what_breaks_it(tmp_path: Path) -> None:
    body = "    x = 1\n" * 40
    texts = {
        "config/a.py": "from config import b\n\nimport model.deep.c\nfrom . import b\n",
        "config/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from config.a import A\n",
        "model/deep/c.py": f"def short():\n    pass\n\n\ndef long() -> None:\n{body}",
        "model/d.py": f'def long() -> None:\n    """It has a reason."""\n    # long: a table\n{body}' + "\n" * 360,
        "main.py": '"""Words."""\nimport sys\n\nsys.path.append("x")\nfor x in ():\n    pass\n',
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert sorted(wrong_imports(tmp_path)) == [
        "a circle: config/a.py -> config/b.py -> config/a.py",
        "config/a.py has a relative import",
        "config/a.py has a relative import",
        "config/a.py imports model, which is above it",
    ]
    assert wrong_sizes(tmp_path) == [
        "model/d.py has 403 lines",
        "model/deep/c.py:1: short does not say what it returns",
        "model/deep/c.py:5: long has 41 lines",
        "model/deep/c.py:5: long has no docstring",
    ]
    assert wrong_modules(tmp_path) == [
        "main.py:4 runs when the file is imported",
        "main.py:5 runs when the file is imported",
        "main.py edits sys.path",
    ]
