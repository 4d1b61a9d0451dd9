"""Kills commands at random moments, runs them again, and compares their results, bit for bit.

    python -m benchmarks.chaos --kills 200 --seed 0 --jobs 1

Each command has tiny settings and made-up tweets. It runs in a process of its own, forked from this one, which has
torch loaded already. Half of the kills come at a random moment, the others just when a file is being written. After
each kill every visible file must be complete. A run that cannot go on, or ends with other bytes, is counted as lost.
"""

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config.cli import COMMANDS, run_command
from config.schema import PathsConfig, UserError
from model.checkpoint import load_checkpoint
from utils.preprocess import load_processed
from utils.run_log import read_log

TINY = "--model.n_layer 1 --model.n_embd 16 --model.n_head 2 --train.batch_size 16 --train.epochs 4 --train.patience 9"
TINY += " --train.save_minutes 0 --train.sample_every 0 --machine.device cpu --machine.threads 1 --evaluate.samples 0"
TINY += " --distill.teacher [ensemble,ngram] --distill.members 2"
TINY += " --distill.member_epochs 2 --distill.sampled 0.5 --data.near_duplicate_words 9"
TIMES = ("seconds", "tokens_per_second")  # differ from run to run, as the settings' paths do


@dataclass(frozen=True)
class Stage:
    """A command to be killed."""

    words: str  # the command, and flags of its own
    writes: int  # a kill during writing comes at one of the first so many writes
    before: tuple[str, ...]  # commands that are run before it
    made: tuple[str, ...] = ()  # what must appear in results, complete or not at all


STAGES = {
    "preprocess": Stage("preprocess", 2, ("preprocess --data.punctuate false",)),  # other tweets, to be replaced
    "train": Stage("train", 12, ("preprocess",)),
    "distill": Stage("distill", 24, ("preprocess",)),
    "export": Stage("export", 1, ("preprocess", "train"), ("elon-transformer",)),
    "gguf": Stage("export --export.to gguf", 2, ("preprocess", "train"), ("elon-transformer.gguf", "Modelfile")),
}


@dataclass
class Tally:
    """The counts of one command: kills, runs, equal and lost results."""

    name: str
    kills: int = 0
    writing: int = 0  # kills that left a half-written temporary file
    runs: int = 0  # runs that came to their end
    equal: int = 0  # runs that ended with the bytes of the undisturbed one
    problems: list[str] = field(default_factory=list)

    def row(self) -> str:
        """Its line of the table."""
        resumed, equal = self.kills - len(self.problems), f"{self.equal} of {self.runs}"
        cells = (self.name, self.kills, self.writing, resumed, equal, len(self.problems))
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


def write_tweets(path: Path) -> None:
    """Made-up tweets in made-up words."""
    rng = random.Random(0)
    words = ["".join(rng.choice("bdfgklmnrst") + rng.choice("aeiou") for _ in range(2)) for _ in range(80)]
    lines = [" ".join(rng.choice(words) for _ in range(rng.randint(3, 8))) for _ in range(150)]
    path.write_text("text\n" + "\n".join(lines), encoding="utf-8")


def start(words: str, root: Path) -> int:
    """Run `main.py WORDS` in a process of its own, its output in root/said.txt; returns the process id."""
    command, *flags = words.split()
    flags = [*TINY.split(), "--paths.root", str(root), "--data.path", str(root.parent / "tweets.csv"), *flags]
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        said = os.open(root / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = run_command(command, flags)
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(number: int) -> int:
    """Wait for a process; returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def undisturbed_run(words: str, root: Path) -> float:
    """Run a command to its end; returns the seconds."""
    started = time.monotonic()
    code = finish(start(words, root))
    assert code == 0, (root / "said.txt").read_text(encoding="utf-8")
    return time.monotonic() - started


def half_written(root: Path) -> set[str]:
    """Temporary files and folders."""
    return {entry.name for folder in root.iterdir() if folder.is_dir() for entry in folder.rglob(".*.tmp")}


def kill_somewhen(number: int, root: Path, *, rng: random.Random, seconds: float, writes: int) -> int:
    """Kill a process at a random moment within `seconds`, or while its nth file is written; returns its exit code."""
    nth, end = rng.choice((0, rng.randint(1, writes))), time.monotonic() + rng.uniform(0.0, 1.2 * seconds)
    old = half_written(root)
    seen: set[str] = set()
    while nth or time.monotonic() < end:
        if os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return finish(number)
        if nth:
            now = half_written(root) - old
            nth -= bool(now - seen)
            seen = now
        time.sleep(0.0005)
    time.sleep(rng.uniform(0.0, 0.003))
    os.kill(number, signal.SIGKILL)
    return finish(number)


def digest(value: Any) -> str:
    """A hash of all tensors and values of a checkpoint, but for times and settings."""
    if isinstance(value, Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        kept = {str(key): digest(item) for key, item in value.items() if key not in (*TIMES, "config")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return repr([digest(item) for item in value]) if isinstance(value, list | tuple) else repr(value)


def files(folder: Path) -> dict[str, str]:
    """The hash of every file in a folder that is not a temporary one, which a kill may leave behind."""
    found = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def result(name: str, root: Path) -> dict[str, str]:
    """What the command `name` has made under `root`, as hashes.

    Raises:
        UserError: a checkpoint is not whole.
    """
    paths = PathsConfig(root=str(root), checkpoint=None)
    if name == "preprocess":
        return files(paths.data)
    if made := STAGES[name].made:
        return {path: value for path, value in files(paths.results).items() if path.split(os.sep)[0] in made}
    found = {path.name: digest(load_checkpoint(path)) for path in paths.checkpoints.rglob("[!.]*.pth")}
    for path in paths.results.glob("*metrics.jsonl"):
        found[path.name] = digest(read_log(path))
    return found


def check_whole(name: str, root: Path, expected: dict[str, str]) -> str:
    """Read all visible files under `root`; returns what is wrong, or an empty text."""
    paths = PathsConfig(root=str(root), checkpoint=None)
    try:
        found = result(name, root)
    except UserError as error:
        return f"half-written, but seen: {error}"
    recipe = {path: content for path, content in expected.items() if path == "Modelfile"}  # without the model beside it
    if STAGES[name].made and found not in ({}, recipe, expected):
        return f"a half-written export can be seen: {sorted(found)}"
    try:
        texts = [tweet.text for tweet in load_processed(paths).train]
    except UserError:
        return "" if name == "preprocess" else "the tweets are lost"  # rightly refused: one file of the two is missing
    ended = {text.endswith(".") for text in texts}
    return "" if ended in ({True}, {False}) else "two versions of the tweets are mixed"


def torture(name: str, *, kills: int, seed: int, folder: Path) -> Tally:
    """Kill the command `name` as often as asked, in one run after another; each run is continued to its end."""
    rng, tally, place = random.Random(f"{seed} {name}"), Tally(name), folder / name
    place.mkdir()
    write_tweets(place / "tweets.csv")
    before, quiet, root = place / "before", place / "quiet", place / "root"
    before.mkdir()
    for words in STAGES[name].before:
        undisturbed_run(words, before)
    shutil.copytree(before, quiet)
    seconds, expected = undisturbed_run(STAGES[name].words, quiet), result(name, quiet)
    kill = partial(kill_somewhen, rng=rng, seconds=seconds, writes=STAGES[name].writes)
    while tally.kills < kills:
        shutil.copytree(before, root)
        if problem := one_run(root, tally, expected, lambda *at: kill(*at) if tally.kills < kills else finish(at[0])):
            tally.problems.append(problem)
        shutil.rmtree(root)
    return tally


def one_run(root: Path, tally: Tally, expected: dict[str, str], wait: Callable[[int, Path], int]) -> str:
    """One run under `root`, killed by `wait` again and again until it ends by itself; returns what went wrong."""
    while True:
        resume = tally.name == "train" and (root / "checkpoints" / "last_model.pth").is_file()
        old = half_written(root)
        words = STAGES[tally.name].words + " --train.resume true" * resume
        code = wait(start(words, root), root)
        if code == -signal.SIGKILL:
            tally.kills += 1
            tally.writing += bool(half_written(root) - old)
            if problem := check_whole(tally.name, root, expected):
                return problem
            if not STAGES[tally.name].made or result(tally.name, root) != expected:
                continue
            code = 0  # it was complete; another export refuses to replace it
        tally.runs += 1
        if code != 0:
            return f"exit code {code}: {(root / 'said.txt').read_text(encoding='utf-8')[-500:]}"
        found = result(tally.name, root)
        tally.equal += found == expected
        if left := half_written(root):
            return f"left behind by killed runs: {', '.join(sorted(left))}"
        other = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
        return f"other bytes than the undisturbed run's: {', '.join(other)}" if other else ""


def main() -> int:
    """Kill all commands, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of all commands together (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--jobs", type=int, default=1, help="commands tested at a time (1)")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES), help="which commands")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for stage in STAGES.values():  # loaded once, not after every kill
        importlib.import_module(COMMANDS[stage.words.split()[0]].target.split(":")[0])
    for late in ("torch._dynamo", "matplotlib.pyplot", "ftfy", "gguf"):
        importlib.import_module(late)
    share = -(-chosen.kills // len(chosen.stages))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("fork").Pool(chosen.jobs) as pool:
        work = partial(torture, kills=share, seed=chosen.seed, folder=Path(folder))
        tallies = pool.map(work, chosen.stages, chunksize=1)
    print("| command | kills | while writing | resumed | bytes equal | lost |\n|---|---:|---:|---:|---:|---:|")
    print("\n".join(tally.row() for tally in tallies))
    problems = [f"{tally.name}: {problem}" for tally in tallies for problem in tally.problems]
    print(f"{sum(tally.kills for tally in tallies)} kills in {time.monotonic() - started:.0f} s", file=sys.stderr)
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
