"""All that is to be measured on a GPU, in at most 10 minutes of one: `python -m benchmarks.gpu --out DIR --csv FILE`.

    machine    packages, `main.py doctor`, the limits of the device
    same       training, resuming, writing and export on the GPU, beside the CPU
    run        `main.py run`: seconds, memory, bits per byte
    distill    `main.py distill` with SmolLM2 and 64 written tweets for each real one, as far as it comes
    gpt2       GPT-2's 124 M shape beside nanoGPT (--nanogpt PATH, a checkout), with and without the fused head
    ensemble   8 members at once
    writing    one text and 64 texts beside transformers
    steps      training steps on tweets, compiled and not, in bfloat16 and float32

The most wanted comes first. Each part is a process of its own with a time limit; one that fails is recorded with the
last lines of its output, and the next begins. In --out lie, written as it goes: results.jsonl (a line for everything
measured, and one for the end of each part), report.md (the table), parts.log (all output, with seconds), gpu.csv (use
and memory of the GPU, by nvidia-smi) and distillation.json. Needs no network. --tiny does it all on a CPU in a minute.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from benchmarks.gpu_shared import SAMPLE, python_process

LEAST = 15.0  # seconds: no part begins with less left
TAIL = 15  # lines of a failed part's output that are recorded
PATIENCE = 5  # times the usual limits, where everything is tiny
ASKED = ("utilization.gpu", "memory.used", "clocks.sm", "power.draw")  # of nvidia-smi, once a second


@dataclass(frozen=True)
class Part:
    """A part: what python runs, and its time limit in seconds."""

    arguments: tuple[str, ...]
    limit: float


def module(name: str, part: str, limit: float) -> Part:
    """A part that is one of a module's."""
    return Part(("-m", f"benchmarks.{name}", part), limit)


PARTS = {
    "machine": module("gpu_commands", "machine", 30),
    "same": module("gpu_same", "same", 80),
    "run": module("gpu_commands", "run", 45),
    "distill": module("gpu_commands", "distill", 190),
    "gpt2": module("gpu_gpt2", "gpt2", 105),
    "ensemble": module("gpu_speed", "ensemble", 55),
    "writing": module("gpu_speed", "writing", 40),
    "steps": module("gpu_speed", "steps", 25),
}


class Watch:
    """Asks nvidia-smi once a second, where there is one, and writes what it says to a CSV."""

    def __init__(self, path: Path) -> None:
        self.seen: list[tuple[float, list[float]]] = []
        self.command = shutil.which("nvidia-smi")
        self.over = threading.Event()
        self.path = path
        if self.command:
            threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        """Until the end."""
        query = [f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits"]
        started = time.monotonic()
        with self.path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["seconds", *ASKED])
            while not self.over.wait(1.0):
                with suppress(OSError, subprocess.SubprocessError, ValueError):
                    done = subprocess.run([str(self.command), *query], capture_output=True, text=True, timeout=10)
                    values = [float(text) for text in done.stdout.splitlines()[0].split(",")]
                    self.seen.append((time.monotonic(), values))
                    rows.writerow([round(time.monotonic() - started, 1), *values])
                    file.flush()

    def since(self, moment: float) -> dict[str, float]:
        """The mean use in percent and the most memory in MiB since `moment`."""
        values = [values for when, values in self.seen if when >= moment]
        if not values:
            return {}
        use = sum(each[0] for each in values) / len(values)
        return {"gpu_use_percent": round(use, 1), "gpu_memory_mib": max(each[1] for each in values)}


class Session:
    """One call of this program: where it writes, and how much time is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.started = options, time.monotonic()
        self.records: list[dict[str, Any]] = []
        self.running: list[subprocess.Popen[str]] = []
        self.lock = threading.Lock()
        self.out = Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.results = (self.out / "results.jsonl").open("a", encoding="utf-8")
        self.log = (self.out / "parts.log").open("a", encoding="utf-8")
        self.watch = Watch(self.out / "gpu.csv")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs, and close the files."""
        self.watch.over.set()
        for process in self.running:
            kill(process)
        with self.lock:
            self.results.close()
            self.log.close()

    def write(self, **values: Any) -> None:
        """One line of results.jsonl, on the disk when this returns."""
        with self.lock:
            self.records.append(values)
            self.results.write(json.dumps(values) + "\n")
            self.results.flush()
            os.fsync(self.results.fileno())

    def hear(self, part: str, stream: IO[str], tail: deque[str]) -> None:
        """Read a part's output to its end: what is a record is written, the rest goes to the log."""
        for line in stream:
            text = line.rstrip()
            at = round(time.monotonic() - self.started, 1)
            with suppress(json.JSONDecodeError, AttributeError):
                if text.startswith("{") and "what" in (found := json.loads(text)):
                    self.write(part=part, at=at, **found)
                    continue
            tail.append(text[:300])
            with self.lock:
                self.log.write(f"{at:7.1f} {part}: {text}\n")
                self.log.flush()

    def do(self, name: str, part: Part) -> str:
        """Run a part to its end or to its limit; returns how it ended, which is recorded."""
        left = self.options.seconds - (time.monotonic() - self.started)
        if left < LEAST:
            self.write(part=name, status="skipped", reason=f"only {left:.0f} s were left")
            return "skipped"
        began, limit = time.monotonic(), min(part.limit, left)
        tail: deque[str] = deque(maxlen=TAIL)
        env = {"PYTHONUNBUFFERED": "1", **({"OMP_NUM_THREADS": "1"} if self.options.tiny else {})}
        process = python_process([*part.arguments, *self.flags(limit)], env=env, group=0)
        self.running.append(process)
        streams = [each for each in (process.stdout, process.stderr) if each is not None]
        readers = [threading.Thread(target=self.hear, args=(name, each, tail), daemon=True) for each in streams]
        for reader in readers:
            reader.start()
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        kill(process)
        process.wait()
        self.running.remove(process)
        for reader, stream in zip(readers, streams, strict=True):
            reader.join(5)
            if not reader.is_alive():
                stream.close()
        status = "timed out" if code is None else "failed" if code else "done"
        found: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1), "limit": limit}
        found |= self.watch.since(began)
        if status != "done":
            found |= {"code": code, "tail": list(tail)}
        self.write(part=name, status=status, **found)
        return status

    def flags(self, limit: float) -> list[str]:
        """What a part is told."""
        options = self.options
        found = ["--csv", str(options.csv), "--device", options.device, "--out", str(self.out)]
        found += ["--limit", f"{limit:.0f}"]
        found += ["--nanogpt", str(options.nanogpt)] if options.nanogpt else []
        found += [f"--distill={options.distill}"] if options.distill else []
        return [*found, "--tiny"] if options.tiny else found

    def report(self) -> str:
        """The table of all that has been recorded, and how each part ended; also written to report.md."""
        order, answers = list(PARTS), {None: "", True: "yes", False: "no"}
        found = sorted((each for each in self.records if "what" in each), key=lambda each: order.index(each["part"]))
        rows = [
            [*(each[key] for key in ("part", "what", "measured", "target")), answers[each["met"]]] for each in found
        ]
        ends, tails = [], []
        for each in self.records:
            if "status" in each:
                used = f"{each['gpu_use_percent']:.0f} %" if "gpu_use_percent" in each else ""
                memory = f"{each['gpu_memory_mib']:,.0f} MiB" if "gpu_memory_mib" in each else ""
                ends.append([each["part"], each["status"], f"{each.get('seconds', 0):.0f} s", used, memory])
                if "tail" in each:
                    tails.append(f"The last lines of {each['part']}:\n\n```\n" + "\n".join(each["tail"]) + "\n```")
        text = "\n\n".join(
            [
                markdown(["part", "what", "measured", "target", "met"], rows),
                markdown(["part", "ended", "seconds", "GPU in use", "GPU memory at most"], ends),
                *tails,
            ]
        )
        (self.out / "report.md").write_text(text + "\n", encoding="utf-8")
        return text


def kill(process: subprocess.Popen[str]) -> None:
    """End a part and all that it started; what has ended already stays so."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text (benchmarks.timing has one for figures, and loads torch)."""
    lines = [
        header,
        ["---"] * len(header),
        *([cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results, report and log")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--csv", type=Path, default=SAMPLE, help="tweets; else the sample")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--distill", default="", help='settings for distill as one text, e.g. "--distill.members 4"')
    parser.add_argument("--seconds", type=float, default=sum(part.limit for part in PARTS.values()), help="for all")
    parser.add_argument("--limits", nargs="*", default=[], metavar="PART=SECONDS", help="other time limits")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="else cuda; with --tiny cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny settings: does everything work?")
    options = parser.parse_args(arguments)
    options.device = options.device or ("cpu" if options.tiny else "cuda")
    options.csv, options.out = options.csv.absolute(), options.out.absolute()
    options.nanogpt = options.nanogpt.absolute() if options.nanogpt else None
    return options


def main() -> int:
    """Do the parts that were asked for, in this order, and print the table."""
    options = parse_options()
    limits = {name: float(seconds) for name, _, seconds in (text.partition("=") for text in options.limits)}
    more = PATIENCE if options.tiny else 1  # a machine on which tests run may be busy
    parts = {name: Part(each.arguments, limits.get(name, more * each.limit)) for name, each in PARTS.items()}
    pool = ThreadPoolExecutor(2 if options.tiny else 1)
    with Session(options) as session:
        ends = {name: pool.submit(session.do, name, parts[name]) for name in PARTS if name in options.parts}
        try:
            for name, end in ends.items():
                told = f"{name}: {end.result()} at {time.monotonic() - session.started:.0f} s"
                print(told, file=sys.stderr, flush=True)
                session.report()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        print(session.report())
    return 0 if {"failed", "timed out"}.isdisjoint(end.result() for end in ends.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
