"""What the parts of benchmarks/gpu.py share: their options, their records, and commands with a time limit.

`python -m benchmarks.gpu_shared COMMAND [--section.key value ...]` runs a command of main.py and then prints the memory
it took at most, in bytes, as one line of JSON on standard error.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "sample_tweets.csv"
TINY_TWEETS = 150
REMAINDER = 5.0  # seconds of a part's limit that a command within it leaves to the part


def options_of(description: str, parts: Sequence[str]) -> argparse.Namespace:
    """The options that benchmarks/gpu.py gives to a part."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--csv", type=Path, default=SAMPLE, help="tweets, where real ones are wanted")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--distill", default="", help="settings for distill, as one text")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for files worth keeping")
    parser.add_argument("--tiny", action="store_true", help="tiny settings on a few tweets")
    return parser.parse_args()


def record(what: str, measured: str, *, target: str = "", met: bool | None = None, **values: Any) -> None:
    """Print one line of the table, and the numbers behind it, as a line of JSON.

    Args:
        what, measured: in words; units included.
        target: what was hoped for, and `met` whether it was reached; None: nothing can be said.
        values: the numbers, for JSON.
    """
    print(json.dumps({"what": what, "measured": measured, "target": target, "met": met, **values}), flush=True)


def skip(what: str, reason: str) -> None:
    """Record that something can't be measured here."""
    record(what, f"skipped: {reason}", skipped=reason)


def tiny_flags(command: str) -> list[str]:
    """Settings so small that a command takes seconds on a CPU."""
    flags = "--model.n_layer 1 --model.n_embd 16 --model.n_head 2 --train.epochs 2 --train.batch_size 16"
    flags += " --train.sample_every 0 --machine.threads 1 --evaluate.samples 0"
    if command == "distill":
        flags += " --distill.teacher [ensemble,ngram]"
        flags += " --distill.members 2 --distill.member_epochs 1 --distill.sampled 0.5 --distill.epochs 1"
    return flags.split()


def tweets_of(options: argparse.Namespace, folder: Path) -> Path:
    """The tweets of a part: those it was given, or, where everything is tiny, the first of the sample."""
    if not options.tiny:
        return Path(options.csv)
    path = folder / "few_tweets.csv"
    with SAMPLE.open(encoding="utf-8", newline="") as sample, path.open("w", encoding="utf-8", newline="") as few:
        csv.writer(few).writerows(islice(csv.reader(sample), TINY_TWEETS))
    return path


@dataclass
class Command:
    """A command and what became of it.

    Attributes:
        process: it.
        started: when, on the clock of time.perf_counter.
        said: the lines of standard error, each with the seconds from the start.
        out: the lines of standard output.
        seconds: from its start to its end, once it has ended.
        ended: False where its time limit ended it.
    """

    process: subprocess.Popen[str]
    started: float
    said: list[tuple[float, str]] = field(default_factory=list)
    out: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = True
    readers: list[threading.Thread] = field(default_factory=list)

    @property
    def tail(self) -> str:
        """The last lines that it said, and whether its time was over."""
        told = [line for _, line in self.said[-6:] if line]
        return " | ".join(told if self.ended else [f"not done after {self.seconds:.0f} s", *told])

    @property
    def failed(self) -> bool:
        """Whether it went wrong, or was not done in time."""
        return not self.ended or self.process.returncode != 0

    def wait(self, limit: float) -> "Command":
        """Wait until it ends; after `limit` seconds it is killed."""
        try:
            self.process.wait(max(1.0, limit))
        except subprocess.TimeoutExpired:
            self.ended = False
            self.process.kill()
            self.process.wait()
        self.seconds = time.perf_counter() - self.started
        for reader in self.readers:
            reader.join(REMAINDER)
        return self


def python_process(
    arguments: Sequence[str], *, env: Mapping[str, str] | None = None, group: int | None = None
) -> subprocess.Popen[str]:
    """`python ARGUMENTS` in this checkout, with pipes for its output; `group`: its process group, 0 for a new one."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        process_group=group,
    )


def run_part(description: str, parts: Mapping[str, Callable[[argparse.Namespace, Path], None]]) -> int:
    """Do the part that the command line names, in a folder that is gone afterwards."""
    options = options_of(description, list(parts))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        parts[options.part](options, Path(folder))
    return 0


def start(*arguments: str, name: str = "", env: Mapping[str, str] | None = None) -> Command:
    """Start `python ARGUMENTS` in this checkout; what it says is repeated here on standard error, after its name."""
    command = Command(python_process(arguments, env=env), time.perf_counter())
    process = command.process

    def read(stream: IO[str], *, errors: bool) -> None:
        for line in stream:
            text = line.rstrip()
            if errors:
                command.said.append((round(time.perf_counter() - command.started, 2), text))
            else:
                command.out.append(text)
            print(f"{name}: {text}" if name else text, file=sys.stderr, flush=True)

    assert process.stdout is not None and process.stderr is not None
    for stream, errors in ((process.stdout, False), (process.stderr, True)):
        reader = threading.Thread(target=read, args=(stream,), kwargs={"errors": errors}, daemon=True)
        reader.start()
        command.readers.append(reader)
    return command


def last_json(lines: Sequence[str]) -> dict[str, Any]:
    """The last line that is a JSON object, or an empty one."""
    for line in reversed(lines):
        if line.startswith("{"):
            with suppress(json.JSONDecodeError):
                return dict(json.loads(line))
    return {}


def megabytes(count: float) -> str:
    """Bytes, as a person reads them."""
    return f"{count / 1e6:,.0f} MB"


def main() -> int:
    """Run a command of main.py, then tell the memory it took."""
    from config.cli import run_command

    code = run_command(sys.argv[1], sys.argv[2:])
    found: dict[str, int] = {}
    with suppress(ImportError):
        import resource  # not on Windows

        found["resident_max"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        found["gpu_allocated_max"] = torch.cuda.max_memory_allocated()
        found["gpu_reserved_max"] = torch.cuda.max_memory_reserved()
    print(json.dumps(found), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
