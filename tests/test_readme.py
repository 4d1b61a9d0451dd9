"""What the documents tell people to type exists, and is understood; what is quick is typed."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from config.cli import COMMANDS, help_text, parse, run_command, settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]
TEXTS = {page.name if page.parent == ROOT else page.parent.name: page.read_text(encoding="utf-8") for page in PAGES}
TEXT = "\n".join(TEXTS.values())
SPANS = re.sub(r"`[^`]+`", lambda span: span[0].replace("\n", " "), TEXT.replace("```", "").replace("\\|", "|"))
TYPED = sorted(set(re.findall(r"python (main\.py|-m [\w.]+|[\w/]+\.py)([^`\n#|]*)", SPANS)))


def test_every_command_is_understood() -> None:
    """Ours are parsed; of others, the file must be there."""
    seen = set()
    for what, rest in TYPED:
        module = what.removeprefix("-m ").removesuffix(".py").replace("/", ".")
        words = shlex.split(rest.strip().rstrip(".,;:)"))
        if what == "main.py" and words and words[0] in COMMANDS:
            seen.add(words[0])
            parse(words[0], [word for word in words[1:] if word != "--help"])
        elif what == "main.py":
            assert words in ([], ["COMMAND"]), words
        elif module != "app":  # that one comes with an exported space
            assert importlib.util.find_spec(module), f"{what} is not there"
    assert seen == set(COMMANDS), "the README shows every command"


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", TEXT, re.MULTILINE))
    assert {"run", "serve", "test", "lint"} <= named <= targets


def test_every_setting_that_is_named_exists() -> None:
    known, sections = set(settings()), {name.split(".")[0] for name in settings()}
    flags = set(re.findall(r"--(\w+\.\w+)", TEXT))
    named = {name for name in re.findall(r"`(\w+\.\w+)`", TEXT) if name.split(".")[0] in sections}
    files = {name for name in named if name.endswith((".py", ".md", ".json", ".yaml"))}
    assert flags and flags - {"section.key"} <= known
    assert named - files <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_its_help_is_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(name, ["--help"]) == 0
    assert capsys.readouterr().out == help_text(name) + "\n"
    words = shlex.split(COMMANDS[name].example)
    assert words[:3] == ["python", "main.py", name]
    parse(name, words[3:])


def test_the_quick_ones_do_what_they_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """preprocess and plot as the README shows them, on a file of one's own."""
    path, here = tmp_path / "my_tweets.csv", ["--paths.root", str(tmp_path)]
    path.write_bytes((ROOT / "data" / "sample_tweets.csv").read_bytes())
    assert run_command("preprocess", ["--data.path", str(path), *here]) == 0
    assert "my_tweets.csv" in capsys.readouterr().err
    assert run_command("plot", here) == 1
    assert capsys.readouterr().err.startswith("error: no measurements at")
