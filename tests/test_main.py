"""The commands as a user runs them, in a process of their own, on tweets of the sample that ships."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.cli import COMMANDS, run_command
from config.console import ESCAPE, prepare_streams

ROOT = Path(__file__).parents[1]
TINY = ["--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--train.epochs", "2"]
TINY += ["--evaluate.samples", "40", "--machine.threads", "1"]


def python(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python on these arguments in the checkout; fails the test if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, sample_file: Path) -> Path:
    """A root in which `run` has done its job."""
    root = tmp_path_factory.mktemp("run")
    done = python("main.py", "run", "--paths.root", str(root), "--data.path", str(sample_file), *TINY)
    assert "A * marks the best epoch" in done.stderr and "[Epoch 2] Train Loss: " in done.stderr
    parts = ("Tweets by your model:", "ended by itself", "Trained 2 epochs", "How good is your model?", "What next?")
    places = [done.stdout.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), "tweets first, then how good it is, then what to do"
    assert re.findall(r"python main.py (\w+)", done.stdout) == ["serve", "attention", "distill"]
    return root


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"], ["doctor"]])
def test_a_reader_that_leaves_is_no_fault(arguments: list[str], sample_file: Path, tmp_path: Path) -> None:
    """As in `main.py --help | head -1`."""
    settings = ["--data.path", str(sample_file), "--paths.root", str(tmp_path)] if arguments == ["doctor"] else []
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as output:
        done = subprocess.run(
            [sys.executable, "main.py", *arguments, *settings],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_there_is_one_ngram_figure(root: Path) -> None:
    """In metrics.jsonl, which the plot and the playground show, and in the evaluation."""
    lines = (root / "results" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [found["baseline/ngram"] for line in lines if "baseline/ngram" in (found := json.loads(line))]
    evaluation = json.loads((root / "results" / "evaluation.json").read_text(encoding="utf-8"))
    assert logged == [pytest.approx(evaluation["baselines"]["ngram"], abs=1e-9)]
    assert f"n-gram {logged[0]:.3f}" in (root / "results" / "report.html").read_text(encoding="utf-8")


def test_run_leaves_everything(root: Path) -> None:
    assert (root / "checkpoints" / "best_model.pth").stat().st_size > 10_000
    assert (root / "results" / "loss_plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    samples = (root / "results" / "samples.txt").read_text(encoding="utf-8")
    assert samples.count("Prompt: ") == 20 and samples.startswith("Settings: ")
    for name in ("metrics.jsonl", "run.json", "evaluation.json", "report.html"):
        assert (root / "results" / name).stat().st_size > 0
    assert (root / "data" / "processed.txt").is_file()


def test_run_takes_tweets_of_two_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """None is long enough for a prompt to be taken from it, so there are samples without a prompt only."""
    names = [one + two for one in ("ro", "ve", "ka", "mi", "lu", "ta") for two in ("bin", "don", "sel", "rix", "pum")]
    pairs = [f"{one} {two}" for one, two in zip(names * 2, names[1:] + names[2:] + names[:3], strict=True)]
    (tmp_path / "short.csv").write_text("text\n" + "\n".join(pairs), encoding="utf-8")
    flags = ["--data.path", str(tmp_path / "short.csv"), "--paths.root", str(tmp_path), *TINY]
    assert run_command("run", [*flags, "--generate.max_new_tokens", "8"]) == 0
    assert "Trained 2 epochs" in capsys.readouterr().out
    assert (tmp_path / "results" / "samples.txt").read_text(encoding="utf-8").count("Prompt: ''") == 4


def test_the_users_three_commands(sample_file: Path, tmp_path: Path) -> None:
    here = ["--paths.root", str(tmp_path)]
    table = python("-m", "utils.preprocess", *here, "--data.path", str(sample_file))
    assert "duplicates" in table.stderr
    python("-m", "trainer.train", *here, *TINY)
    written = python("-m", "generate.generate", "Biscuit is", *here, "--generate.num_samples", "3")
    assert written.stdout.count("Biscuit is") == 3
    python("-m", "utils.plot_loss", *here)
    assert (tmp_path / "results" / "loss_plot.png").is_file()


def test_generate_speaks_json(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One object on standard output, and nothing else there."""
    flags = ["--json", "--paths.root", str(root), "--generate.num_samples", "2"]
    assert run_command("generate", ["Mars", *flags]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert set(answer) == {"samples", "seconds", "tokens_per_second"} and len(answer["samples"]) == 2
    for sample in answer["samples"]:
        assert {"text", "finish_reason", "tokens", "novel", "seed"} <= set(sample)
        assert sample["text"].startswith("Mars") and sample["finish_reason"] in ("stop", "length")


def test_same_seed_same_tweets(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and in another one."""
    flags = ["--paths.root", str(root), "--generate.seed"]
    here = []
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for seed in "50":
        assert run_command("generate", [*flags, seed]) == 0
        here.append(capsys.readouterr().out)
    assert python("main.py", "generate", *flags, "5").stdout == here[0] != here[1]


@pytest.mark.parametrize("last", ["quit\n", "\x04"])
def test_generate_asks_when_there_is_no_prompt(root: Path, last: str) -> None:
    import pty

    flags = ["--paths.root", str(root)]

    master, slave = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "main.py", "generate", *flags],
        cwd=ROOT,
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(slave)
    os.write(master, f"Mars\n/help\nMars\n{last}".encode())
    out, err = asking.communicate(timeout=60)
    os.close(master)
    assert asking.returncode == 0, err
    assert out.count("Enter a prompt: ") == 4 and out.count("Generated text:") == 2
    assert "Ctrl-D ends" in out  # the help
    seeds = re.findall(r"^    \[.*; seed (\d+)\]$", out, re.MULTILINE)
    assert len(seeds) == len(set(seeds)) == 10  # new ones for each prompt
    assert [int(seed) - int(seeds[0]) for seed in seeds] == list(range(10))
    tweets = [part.splitlines() for part in re.split(r"Generated text:\n\n|\n\n", out) if part.startswith("Mars")]
    assert len(tweets) == 10 and all(len(lines) == 2 for lines in tweets)  # a blank line between them
    again = python("main.py", "generate", "Mars", *flags, "--generate.num_samples", "1", "--generate.seed", seeds[7])
    assert again.stdout.splitlines() == tweets[7]


def test_prompts_come_from_standard_input(root: Path) -> None:
    command = [sys.executable, "main.py", "generate", "--paths.root", str(root), "--generate.num_samples", "2"]
    piped: dict[str, Any] = {"cwd": ROOT, "input": "Mars is\nThe van\n"}
    piped |= {"capture_output": True, "text": True, "check": True}
    plain, as_json = (subprocess.run([*command, *more], **piped).stdout for more in ([], ["--json"]))
    samples = json.loads(as_json)["samples"]
    assert [sample["prompt"] for sample in samples] == ["Mars is"] * 2 + ["The van"] * 2
    assert [part.splitlines()[0] for part in plain.split("\n\n")] == [sample["text"] for sample in samples]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_training_takes_several_processes(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", rank)
    for name in COMMANDS.keys() - {"train"}:
        assert run_command(name, []) == (2 if rank == "0" else 0)
        told = capsys.readouterr().err
        assert told.startswith(f"error: `{name}` is work for one process, not 4: ") == (rank == "0")
        assert told.count("\n") == (rank == "0")


# ---- which Python, and which version ---------------------------------------------------------------------------------

BARE = [sys.executable, "-S"]  # a Python that finds no installed packages


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what main.py needs to begin, with no .venv."""
    for name in ("main.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "config", tmp_path / "config", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "utils", tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def bare(copy: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of main.py under a Python without packages."""
    done = subprocess.run([*BARE, "main.py", *arguments], cwd=copy, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def make_venv(copy: Path, command: list[str]) -> None:
    """A .venv whose Python is this command."""
    program = copy / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)


def test_without_packages_one_line_says_what_to_type(copy: Path) -> None:
    code, out, err = bare(copy, "plot")
    assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1
    assert "has no yaml and no torch: type `make run`, or `python3 -m venv .venv && " in err
    code, out, err = bare(copy, "--help")
    assert code == 0 and not err and all(name in out for name in COMMANDS)
    assert bare(copy, "plot", "--help")[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for the Python of .venv")
def test_the_python_of_venv_takes_over(copy: Path) -> None:
    make_venv(copy, [sys.executable])
    code, out, err = bare(copy, "plot", "--paths.root", "a folder")
    measurements = Path("a folder") / "results" / "metrics.jsonl"
    assert (code, out) == (1, "") and err.startswith(f"error: no measurements at {measurements}")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for the Python of .venv")
def test_a_venv_without_packages_is_tried_once(copy: Path) -> None:
    make_venv(copy, BARE)
    code, _, err = bare(copy, "plot")
    assert code == 1 and err.count("\n") == 1 and "has no yaml and no torch: type" in err


def test_an_old_python_can_read_the_file_that_turns_it_away() -> None:
    for name in ("main.py", "config/interpreter.py"):
        ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_the_version_is_the_newest_of_the_changelog(copy: Path) -> None:
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest and bare(copy, "--version") == (0, f"elon-transformer {newest[1]}\n", "")
    (copy / "pyproject.toml").unlink()  # as in an exported Space
    assert bare(copy, "--version")[1].startswith("elon-transformer (a copy of unknown version")


# Terminals that are not UTF-8, and streams that are closed ---------------------------------------------------------


def run_in(shell: str, root: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A shell command in the checkout, in which $PY is `python main.py` and $ROOT the folder of the run."""
    env = {**os.environ, "PY": f"{sys.executable} {ROOT / 'main.py'}", "ROOT": str(root), **environment}
    return subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, env=env, check=False, timeout=120)


def in_encoding(name: str) -> dict[str, str]:
    """An environment in which the standard streams have this encoding; "C" is a system without any."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return plain if name == "C" else {"PYTHONIOENCODING": name}


@pytest.mark.parametrize("name", ["cp1252", "C"])
def test_what_a_terminal_cannot_show_is_escaped(root: Path, name: str) -> None:
    prompt = "Mars 🤣 é"
    flags = "--generate.num_samples 1 --paths.root $ROOT --generate.max_new_tokens 3"
    shown = run_in(f"$PY generate '{prompt}' {flags}", root, **in_encoding(name))
    assert shown.returncode == 0, shown.stderr
    codec = "ascii" if name == "C" else name
    text = shown.stdout.decode(codec)
    assert text.startswith("Mars \\ud83e\\udd23 ")
    told = run_in(f"$PY generate '{prompt}' --json {flags}", root, **in_encoding(name))
    assert told.returncode == 0 and told.stdout.isascii()
    assert json.loads(told.stdout)["samples"][0]["text"].startswith(prompt)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_what_is_escaped_is_json(text: str) -> None:
    prepare_streams()  # registers the handler
    assert json.loads(json.dumps([text], ensure_ascii=False).encode("ascii", ESCAPE)) == [text]


@pytest.mark.parametrize("name", ["C", "cp1252", "gbk"])
@pytest.mark.parametrize("command", ["preprocess --data.path data/sample_tweets.csv", "preprocess --help"])
def test_commands_work_in_any_encoding(tmp_path: Path, command: str, name: str) -> None:
    done = run_in(f"$PY {command} --paths.root {tmp_path}", tmp_path, **in_encoding(name))
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


def test_a_config_file_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: {column: Größe 大小}\n", encoding="utf-8")
    code = f"import config.cli as c; print(ascii(c.parse('preprocess', ['--config', {str(mine)!r}])[0].data.column))"
    done = run_in(f'{sys.executable} -c "{code}"', tmp_path, **in_encoding("C"))
    assert done.stdout.decode().strip() == ascii("Größe 大小"), done.stderr


def test_closed_streams(root: Path, tmp_path: Path) -> None:
    flags = "--generate.max_new_tokens 5 --paths.root $ROOT"
    written = run_in(f"$PY generate {flags} <&-", root)
    assert written.returncode == 0 and written.stdout.count(b"; seed ") == 5, written.stderr
    for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = run_in(f"$PY plot --paths.root $ROOT {closed}", root)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, (closed, done.stderr)
    reading = run_in(f"$PY preprocess --data.path - --paths.root {tmp_path} <&-", root)
    assert reading.returncode == 1
    assert reading.stderr.startswith(b"error: standard input is closed") and reading.stderr.count(b"\n") == 1


def test_what_is_printed_never_goes_into_a_file_of_ours(root: Path, sample_file: Path, tmp_path: Path) -> None:
    before = (root / "data" / "processed.txt").read_bytes()
    done = run_in(f"$PY preprocess --data.path {sample_file} --paths.root {tmp_path} <&- >&- 2>&-", root)
    assert done.returncode == 0 and (tmp_path / "data" / "processed.txt").read_bytes() == before
