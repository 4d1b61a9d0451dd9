"""Several models trained at once, each in a process of its own.

A step of a small model is two thousand small pieces of work: a second core takes less than half of the time off
them (222 ms became 131 at 4 x 128), and a GPU waits between them. So models that do not need each other are trained
side by side, each on its share of the cores.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from io import TextIOBase
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TextIO

import torch

from config.schema import UserError
from distillation.runs import GOES_ON, DistillContext, TrainingRun, steps_made, train_once
from model.transformer import GPT
from trainer.job import bytes_of_step
from trainer.train import Interrupted
from utils.memory import memory
from utils.signals import StopSignal

PROCESS = 1_000_000_000  # bytes: a process that trains beside what a step takes, the program most of all
POLL = 0.2  # seconds between looks at whether the user wants an end


def train_all(context: DistillContext, runs: Sequence[TrainingRun]) -> dict[Path, int]:
    """Make these models, those not there yet `distill.workers` at a time; returns the steps each was trained.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived; all of them are saved.
        UserError: one of them can't be made, or its process was ended; the others are saved.
    """
    found = {run.path: steps_made(context, run) for run in runs}
    missing = [run for run in runs if found[run.path] is None]
    steps = {path: steps for path, steps in found.items() if steps is not None}
    workers = min(len(missing), context.config.distill.workers or affordable(context, missing))
    if workers > 1:
        return steps | side_by_side(context, missing, workers)
    return steps | {run.path: train_once(context, run) for run in missing}


def affordable(context: DistillContext, runs: Sequence[TrainingRun]) -> int:
    """How many of these models may be trained at once: one for each core, if there is memory for so many."""
    if context.device.type not in ("cpu", "cuda") or len(runs) < 2:
        return 1
    config, rows, device = runs[0].config, context.vocabulary.vocab_size, context.device  # all are of one size
    with torch.device("meta"):
        parameters = GPT(config.model, rows).num_parameters()
    needed = bytes_of_step(config, parameters, rows, context.rows("train").lengths, device)
    total, free = memory()
    rooms = [torch.get_num_threads()]
    if at_hand := free or (total or 0) // 2:
        rooms.append(at_hand // (PROCESS + needed))
    if device.type == "cuda":
        rooms.append(torch.cuda.mem_get_info(device)[0] // (PROCESS + needed))
    return max(1, min(rooms))


def side_by_side(context: DistillContext, runs: Sequence[TrainingRun], workers: int) -> dict[Path, int]:
    """Train each of these in one of so many processes; returns the steps of each."""
    spawn = multiprocessing.get_context("spawn")  # a forked process could use neither torch's threads nor a GPU
    stop, threads = spawn.Event(), max(1, torch.get_num_threads() // workers)
    steps: dict[Path, int] = {}
    pool = ProcessPoolExecutor(workers, spawn, initializer=init_worker, initargs=(stop,))
    with StopSignal() as asked, pool:
        with ignore_sigint():
            futures = {pool.submit(train_in_worker, context, run, threads): run.path for run in runs}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, POLL, FIRST_COMPLETED)
                if asked.arrived:
                    stop.set()
                steps |= {futures[future]: future.result() for future in done}
        except BrokenProcessPool:
            if asked.arrived:
                raise Interrupted(GOES_ON) from None
            raise UserError(
                "a process that trained was ended by the system, for want of memory most likely: what was saved is "
                f"whole; go on with fewer at once, --distill.workers {workers - 1}"
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        context.made.update(steps)
        if asked.arrived:  # as the last of them ended
            raise Interrupted(GOES_ON)
    return steps


@contextmanager
def ignore_sigint() -> Iterator[None]:
    """While entered, Ctrl-C is not heard: neither here nor, until they train, by the processes that are started.

    They shall end when they are asked to, not each in its own way.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if StopSignal.can_ask() else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def init_worker(stop: Event) -> None:
    """In a new process: end when asked to; at once if whoever would ask is gone, for the next run may be at work."""
    parent = multiprocessing.parent_process()

    def asked() -> bool:
        if parent is not None and not parent.is_alive():
            os._exit(1)
        return stop.is_set()

    StopSignal.asked = staticmethod(asked)


def train_in_worker(context: DistillContext, run: TrainingRun, threads: int) -> int:
    """In such a process: train one model; what is said of it begins with its name."""
    if StopSignal.asked():
        raise Interrupted(GOES_ON)
    config = replace(run.config, machine=replace(run.config.machine, threads=threads))
    with redirect_stderr(Labelled(sys.stderr, run.path.stem)):
        return train_once(context, replace(run, config=config))


class Labelled(TextIOBase):
    """A stream whose lines begin with a label and are written whole, so that those of several processes don't mix."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream, self.label, self.begun = stream, label, ""

    def write(self, text: str) -> int:
        """Keep what is no whole line yet."""
        *lines, self.begun = (self.begun + text).split("\n")
        if lines:
            self.stream.write("".join(f"{self.label}: {line}\n" for line in lines))
            self.stream.flush()
        return len(text)
