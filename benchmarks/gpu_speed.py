"""Parts of benchmarks/gpu.py: speed and memory on tweets.

    steps     a training step at 2x256 and 4x128, compiled and not, in bfloat16 and float32; of the first of each, how
              long the GPU is busy in a step, and with which kernels
    ensemble  8 members of an ensemble: one alone, and all side by side
    writing   one text and 64 texts beside transformers (benchmarks/generate_speed.py)

Of `steps`, each side is alone in the GPU's memory; after a warm-up come 5 turns, each timed between two moments at
which the GPU has done all that was asked of it; the median counts.
"""

import argparse
import gc
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import generate_speed, rivals, train_speed
from benchmarks.gpu_shared import megabytes, record, run_part, skip, tiny_flags, tweets_of
from benchmarks.timing import spread
from benchmarks.train_speed import Side
from config.cli import parse
from config.schema import Config
from model.tokenizer import load_tokenizer
from trainer.job import framed_ids
from utils.preprocess import Corpus, preprocess

TURNS = 5
COMPILE = ("--machine.compile", "true")
MEMBERS_TARGET = 2.0  # times the seconds of one
WRITING_TARGETS = {("4x128", 1): 10, ("4x128", 64): 10, ("6x384", 1): 5, ("6x384", 64): 10}


def alone(device: torch.device) -> None:
    """Free what the side before has left, compiled code too, and begin to watch the memory."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int:
    """The most GPU memory allocated since `alone`, bytes."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def speeds(side: Side, *, seconds: float) -> list[float]:
    """Tokens a second of each turn, after two turns to warm up."""
    for _ in range(2):
        side.train(seconds)
    return [tokens / passed for tokens, passed in (side.train(seconds) for _ in range(TURNS))]


def attempt(what: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; if it fails that is recorded, and None returned."""
    try:
        return work()
    except Exception as error:
        traceback.print_exc()
        record(what, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", met=False)
        return None


# ---- tweets ----------------------------------------------------------------------------------------------------------


def steps(options: argparse.Namespace, folder: Path) -> None:
    """Training steps on tweets."""
    device, csv = torch.device(options.device), tweets_of(options, folder)
    size = parse("train", [])[0].train.batch_size
    corpus = preprocess(parse("train", ["--paths.root", str(folder), "--data.path", str(csv)])[0])
    corpus = replace(corpus, train=corpus.train[: len(corpus.train) // size * size])  # no batch is smaller: one shape
    a_step = sum(len(tweet) - 1 for tweet in framed_ids(corpus.train, load_tokenizer())) * size / len(corpus.train)
    variants = {"bfloat16": ["--machine.precision", "bf16"], "float32": ["--machine.precision", "f32"]}
    if not options.tiny:
        variants = {
            new: [*flags, *more]
            for name, flags in variants.items()
            for new, more in ((name, ()), (f"{name}, compiled", COMPILE))
        }
    for name, flags in variants.items():
        for shape in ["1x16"] if options.tiny else ["2x256", "4x128"]:
            config = train_speed.settings(csv, folder, shape=shape, device=device, flags=flags)
            what = f"step on tweets, {shape}, {name}"
            alone(device)
            attempt(what, partial(time_step, what, config, corpus, tokens=a_step, watched=name == "bfloat16"))


def time_step(what: str, config: Config, corpus: Corpus, *, tokens: float, watched: bool) -> None:
    """Time the Trainer's step, which learns from so many tokens; if `watched`, also what the GPU does in it."""
    device = torch.device(config.machine.device)
    side = train_speed.ours(config, corpus)
    found = speeds(side, seconds=0.05 if device.type == "cpu" else 0.5)
    step = [1e3 * tokens / value for value in found]
    told = f"{spread(step, ',.2f')} ms a step, {statistics.median(found):,.0f} tokens/s, {megabytes(peak(device))}"
    record(what, told, step_ms=step, tokens_per_second=found, peak_bytes=peak(device))
    if watched and device.type == "cuda":
        attempt(f"{what}: the GPU", lambda: profile(what, side, tokens, statistics.median(step)))


def profile(what: str, side: Side, tokens: float, step_ms: float) -> None:
    """How long kernels run in a step, and which."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    with watch(activities=[ProfilerActivity.CUDA]) as found:
        steps_taken = side.train(0.3)[0] / tokens
        torch.cuda.synchronize()
    events = found.key_averages()  # those of the CPU may count the time of kernels again
    kernels = [event for event in events if getattr(event.device_type, "name", "") == "CUDA"]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    busy = sum(event.self_device_time_total for event in kernels) / 1e3 / steps_taken
    count = sum(event.count for event in kernels) / steps_taken
    most = [(event.key[:80], event.self_device_time_total / 1e3 / steps_taken) for event in kernels[:12]]
    told = f"kernels run {busy:.2f} of {step_ms:.2f} ms ({busy / step_ms:.0%}); {count:,.0f} kernels a step"
    record(f"{what}: the GPU", told, busy_ms=busy, kernels=count, most=most)


def ensemble(options: argparse.Namespace, folder: Path) -> None:
    """Members of an ensemble."""
    from benchmarks.ensemble_speed import seconds_of

    members, epochs = (2, 1) if options.tiny else (8, 4)
    flags = [*(tiny_flags("distill") if options.tiny else []), "--machine.device", options.device]
    corpus = preprocess(
        parse("distill", ["--paths.root", str(folder), "--data.path", str(tweets_of(options, folder))])[0]
    )
    taken: dict[str, float] = {}

    def measure(name: str, count: int, workers: int) -> None:
        given = argparse.Namespace(epochs=epochs, flags=flags)
        taken[name], at_once = seconds_of(given, corpus, members=count, workers=workers)
        what = f"ensemble, {epochs} epochs, {count} members {name}" + (f" ({at_once} at once)" if count > 1 else "")
        told, target, met = f"{taken[name]:.1f} s", "", None
        if count > 1 and "alone" in taken:
            told += f", {taken[name] / taken['alone']:.2f} times one; one after another about {count} times"
            target, met = f"{MEMBERS_TARGET:.0f} times one", taken[name] <= MEMBERS_TARGET * taken["alone"]
        record(what, told, target=target, met=met, seconds=taken[name], at_once=at_once)

    for side in (("alone", 1, 1), ("side by side", members, 0)):
        attempt(f"ensemble: {side[0]}", partial(measure, *side))


def writing(options: argparse.Namespace, folder: Path) -> None:
    """Texts, beside transformers."""
    device, csv = torch.device(options.device), tweets_of(options, folder)
    peers = ["transformers"] if find_spec("transformers") else []
    if not peers:
        skip("writing beside transformers", "transformers is not installed")
    shapes, batches, tokens = (["1x16"], [2], 3) if options.tiny else (["4x128", "6x384"], [1, 64], 60)
    for shape in shapes:
        alone(device)
        attempt(f"writing, {shape}", partial(write, csv, folder / shape, shape, device, peers, batches, tokens))


def write(
    csv: Path, folder: Path, shape: str, device: torch.device, peers: Sequence[str], batches: Sequence[int], tokens: int
) -> None:
    """One shape."""
    bundle = generate_speed.untrained(generate_speed.settings(csv, folder, shape=shape, device=device), device)
    repeats = 1 if len(batches) == 1 else 3
    with_peers = rivals.peers_of(peers)
    found = generate_speed.measure(bundle, with_peers, folder, batches=batches, tokens=tokens, repeats=repeats)
    if "log_probability_difference" in found:
        record(
            f"writing, {shape}: log probabilities beside transformers'", f"{found['log_probability_difference']:.1e}"
        )
    for batch, by_side in found["speeds"].items():
        ours = statistics.median(by_side[generate_speed.OURS])
        for name, values in by_side.items():
            theirs = statistics.median(values)
            told = f"{spread(values)} tokens/s" + (
                "" if name == generate_speed.OURS else f": {ours / theirs:.1f} times"
            )
            target = WRITING_TARGETS.get((shape, int(batch))) if name == generate_speed.FULL else None
            shown = "" if target is None else f"{target} times"
            met = None if target is None else ours / theirs >= target
            record(f"writing, {shape}, {batch} at once: {name}", told, target=shown, met=met, tokens_per_second=values)


PARTS = {"steps": steps, "ensemble": ensemble, "writing": writing}


if __name__ == "__main__":
    sys.exit(run_part(__doc__ or "", PARTS))
