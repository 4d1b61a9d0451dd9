"""What the documents tell people to type exists, and is understood; what takes no network and no end is typed."""

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from config.cli import COMMANDS, help_text, parse, run_command, settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
CELLS = json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
TEXTS["notebook"] = "\n\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
TEXT = "\n".join(TEXTS.values())
SPANS = re.sub(r"`[^`]+`", lambda span: span[0].replace("\n", " "), TEXT.replace("```", "").replace("\\|", "|"))
TABLE = dict(
    re.findall(r"^\| `python main\.py (\w+(?: \"[^\"]+\")?)` \| (.+) \|$", TEXTS["docs/commands.md"], re.MULTILINE)
)
COMMAND = re.compile(r"python (main\.py|-m [\w.]+|[\w/]+\.py)([^`\n#|]*)")
TYPED = sorted(set(COMMAND.findall(SPANS)))
FLAGS = sorted(set(re.findall(r"(--\w+\.\w+)[ =]([^\s`|]*[^\s`|.,;:)])", COMMAND.sub("", SPANS))))

SMALL = "--data.path my_tweets.csv --model.n_layer 1 --model.n_embd 16 --model.n_head 2 --train.epochs 1"
SMALL += " --evaluate.samples 20 --generate.max_new_tokens 8 --machine.device cpu --machine.threads 1"
LEFT = ("run", "distill", "download", "serve", "COMMAND", "--version")  # in the fixture; own tests; network; no end
LINES = {rest.replace("--data.path my_tweets.csv", "").strip() for what, rest in TYPED if what == "main.py"}
OPEN = ("...", "FILE", "student.pth")  # to be filled in by the reader; made by distill
RUN = sorted(line for line in LINES if line and line.split()[0] not in LEFT and not any(part in line for part in OPEN))


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
            assert words in ([], ["COMMAND"], ["--version"]), words
        elif module != "app":  # that one comes with an exported space
            found = importlib.util.find_spec(module)
            assert found and found.origin, f"{what} is not there"
            text = Path(found.origin).read_text(encoding="utf-8")
            assert all(f'add_argument("{word}"' in text for word in words if word.startswith("--")), f"{what} {rest}"
    assert seen == set(COMMANDS), "the documents show every command"


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


@pytest.mark.parametrize(("flag", "value"), [pair for pair in FLAGS if not pair[1].isupper()])
def test_every_flag_that_is_given_a_value_takes_it(flag: str, value: str) -> None:
    """Capitals stand for what the reader has to fill in."""
    parse("run", [flag, value])


def test_the_table_has_every_command_and_says_of_it_what_its_help_says() -> None:
    """In other words, maybe, but in more of the same ones than any other command's help."""

    def words(text: str) -> set[str]:
        return set(re.findall(r"[a-z]{4,}", re.sub(r"\S*[/_.]\w+\S*", "", text.lower())))

    def likeness(name: str, text: str) -> float:
        one, other = words(COMMANDS[name].help), words(text)
        return len(one & other) / len(one | other)

    commands = [shlex.split(command) for command in TABLE]
    assert sorted(name for name, *_ in commands) == sorted(COMMANDS)
    for (name, *prompt), text in zip(commands, TABLE.values(), strict=True):
        assert COMMANDS[name].prompt or not prompt
        assert COMMANDS[name].json or "--json" not in text
        assert name == max(COMMANDS, key=lambda other: likeness(other, text)), text


def test_the_tree_names_what_is_there_and_every_python_file() -> None:
    """In docs/commands.md a folder stands at the margin, its files below it; commas stand between names of one line."""
    named, folder = set(), ""
    for line in re.findall(r"^    (?:  )?\S.*", TEXTS["docs/commands.md"].split("## The files")[1], re.MULTILINE):
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        if not line.startswith("      "):
            folder = names[0] if names[0].endswith("/") else ""
            paths = names
        else:
            paths = [folder + name for name in names]
        assert all((ROOT / path).exists() for path in paths), line
        named |= set(paths)
    elsewhere = ("tests", "benchmarks", "docs")  # these folders are named as a whole
    code = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*.py")} | {"main.py"}
    assert {path for path in code if not path.startswith((".", *elsewhere))} <= named


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_its_help_is_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(name, ["--help"]) == 0
    assert capsys.readouterr().out == help_text(name) + "\n"
    words = shlex.split(COMMANDS[name].example)
    assert words[:3] == ["python", "main.py", name]
    parse(name, words[3:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with my_tweets.csv and a finished run in it, and elon-hf, which one of the commands starts from."""
    folder = tmp_path_factory.mktemp("typed")
    lines = (ROOT / "data" / "sample_tweets.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "my_tweets.csv").write_text("".join(lines[:301]), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert typed("run --data.path my_tweets.csv") == typed("export --export.output elon-hf") == 0
    return folder


def typed(line: str) -> int:
    """The exit code of `python main.py LINE` in this folder, on tiny settings and the file that is here."""
    name, *words = shlex.split(line)
    return run_command(name, [*SMALL.split(), "--paths.root", ".", *words])


@pytest.mark.parametrize("line", RUN)
def test_the_documents_commands_run(folder: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = shutil.copytree(folder, tmp_path / "here")
    outputs = [here / name for name in re.findall(r"--export.output (\S+)", line)]
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)
    monkeypatch.chdir(here)
    assert typed(line) == 0
    assert all(output.exists() for output in outputs)


def test_without_a_run_there_is_nothing_to_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("plot", ["--paths.root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: no measurements at")
