"""A folder that runs the playground and the API as a Hugging Face Space: the code, the model, and a start script.

The tweets are left out, because they are not ours to publish; so a Space can't mark copies of them.
"""

import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from config.schema import PathsConfig, UserError
from export.card import limits, parody_notice, read_data, read_evaluation, recipe, summary
from model.checkpoint import Bundle

CODE = Path(__file__).parents[1]
FOLDERS = ("config", "evaluation", "export", "generate", "inspection", "model", "server", "trainer", "utils", "web")
COPIED_TYPES = {".py", ".yaml", ".html", ".css", ".js"}
START = '''"""Starts the playground and the API; a Space runs this file and shows what listens on port 7860."""

import sys

from config.cli import run_command

if __name__ == "__main__":
    flags = ["--serve.host", "0.0.0.0", "--serve.port", "7860"]
    sys.exit(run_command("serve", [*flags, *sys.argv[1:]]))
'''


def write_space(folder: Path, bundle: Bundle, paths: PathsConfig, *, name: str) -> None:
    """Fill the empty `folder`.

    Raises:
        UserError: this checkout is not complete.
    """
    wanted = [CODE / "requirements.txt", CODE / "requirements-full.txt", *(CODE / part for part in FOLDERS)]
    if missing := [path.name for path in wanted if not path.exists()]:
        raise UserError(f"a Space is made from a whole checkout, and {', '.join(missing)} is missing from {CODE}")
    for path in sorted(path for part in FOLDERS for path in (CODE / part).rglob("*")):
        if path.suffix in COPIED_TYPES:
            copy_file(path, folder / path.relative_to(CODE))
    for file in ("LICENSE", "main.py"):
        copy_file(CODE / file, folder / file)
    copy_file(paths.best_model, folder / "checkpoints" / "best_model.pth")
    if paths.metrics.is_file():  # for the playground's page on training
        copy_file(paths.metrics, folder / "results" / paths.metrics.name)
    if evaluation := read_evaluation(bundle, paths):
        kept = {**evaluation, "model": {**evaluation["model"], "name": "best_model.pth"}, "against": None}
        (folder / "results").mkdir(exist_ok=True)
        (folder / "results" / "evaluation.json").write_text(json.dumps(kept), encoding="utf-8")
    (folder / "app.py").write_text(START, encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(), encoding="utf-8")
    (folder / "README.md").write_text(space_card(bundle, paths, name=name), encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file, not its permissions; makes the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def requirements() -> str:
    """Everything that `make serve` installs, as one file."""
    lines: list[str] = []
    for name in ("requirements.txt", "requirements-full.txt"):
        lines += (CODE / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith(("#", "-r"))) + "\n"


def space_card(bundle: Bundle, paths: PathsConfig, *, name: str) -> str:
    """The README.md of the Space; the hub reads the settings at its top."""
    data = read_data(bundle, paths)
    front = {
        "title": name,
        "emoji": "🚀",
        "colorFrom": "gray",
        "colorTo": "blue",
        "sdk": "gradio",
        "sdk_version": gradio_version(),
        "python_version": "3.11",
        "app_file": "app.py",
        "pinned": False,
        "license": "unknown",
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {name}\n\n{summary(bundle, bundle.vocabulary.vocab_size)}",
        parody_notice(invented=bool(data and data["source"].get("fiction"))),
        "The playground is at `/`, an OpenAI-compatible API at `/v1`. `python app.py` starts both here as well, once "
        "`pip install -r requirements.txt` has run.",
        "## Recipe\n\n" + recipe(bundle),
        limits(bundle),
    ]
    return "\n\n".join(parts) + "\n"


def gradio_version() -> str:
    """The version of Gradio that is installed, or else the required one."""
    try:
        return version("gradio")
    except PackageNotFoundError:
        pinned = [line for line in requirements().splitlines() if line.startswith("gradio==")]
        return pinned[0].removeprefix("gradio==")
