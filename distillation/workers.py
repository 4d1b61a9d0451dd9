"""Several models trained at the same time, each in a process of its own.

A step of a small model consists of about two thousand small operations. A second core speeds them up by less than two
(at 4 x 128 from 222 to 131 ms), and a GPU waits between them. So models that do not depend on each other are trained
side by side, each with its share of the cores.
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
from distillation.runs import INTERRUPTED, DistillContext, TrainingRun, steps_if_made, train_once
from model.transformer import GPT
from trainer.job import bytes_of_step
from trainer.train import Interrupted
from utils.memory import memory
from utils.signals import StopSignal

PROCESS_BYTES = 1_000_000_000  # memory of a process that trains, without that of a step: mostly the program itself
POLL_SECONDS = 0.2  # between two checks whether the user asked to stop


def train_all(context: DistillContext, runs: Sequence[TrainingRun]) -> dict[Path, int]:
    """Make these models, `distill.workers` at a time; returns the steps that each was trained, by its checkpoint.

    Models that are there already and fresh are not trained again.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived; all runs are saved.
        UserError: one of the models can't be made, or its process was killed; the other runs are saved.
    """
    found = {planned.path: steps_if_made(context, planned) for planned in runs}
    missing = [planned for planned in runs if found[planned.path] is None]
    steps = {path: steps for path, steps in found.items() if steps is not None}
    workers = min(len(missing), context.config.distill.workers or affordable(context, missing))
    if workers > 1:
        return steps | side_by_side(context, missing, workers)
    return steps | {planned.path: train_once(context, planned) for planned in missing}


def affordable(context: DistillContext, runs: Sequence[TrainingRun]) -> int:
    """How many of these models to train at once: one for each core, fewer if there is not memory for so many."""
    if context.device.type not in ("cpu", "cuda") or len(runs) < 2:
        return 1
    config, vocab_size, device = runs[0].config, context.vocabulary.vocab_size, context.device  # all have the same size
    with torch.device("meta"):
        parameters = GPT(config.model, vocab_size).num_parameters()
    needed = PROCESS_BYTES + bytes_of_step(config, parameters, vocab_size, context.dataset("train").lengths, device)
    total, free = memory()
    limits = [torch.get_num_threads()]
    if available := free or (total or 0) // 2:
        limits.append(available // needed)
    if device.type == "cuda":
        limits.append(torch.cuda.mem_get_info(device)[0] // needed)
    return max(1, min(limits))


def side_by_side(context: DistillContext, runs: Sequence[TrainingRun], workers: int) -> dict[Path, int]:
    """Train these models in `workers` processes; returns the steps of each, by its checkpoint.

    Raises: as `train_all`.
    """
    spawn = multiprocessing.get_context("spawn")  # a forked process could use neither torch's threads nor a GPU
    stop, threads = spawn.Event(), max(1, torch.get_num_threads() // workers)
    steps: dict[Path, int] = {}
    pool = ProcessPoolExecutor(workers, spawn, initializer=init_worker, initargs=(stop,))
    with StopSignal() as signals, pool:
        with ignore_sigint():
            futures = {pool.submit(train_in_worker, context, planned, threads): planned.path for planned in runs}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
                if signals.arrived:
                    stop.set()
                steps |= {futures[future]: future.result() for future in done}
        except BrokenProcessPool:
            if signals.arrived:
                raise Interrupted(INTERRUPTED) from None
            raise UserError(
                "the system killed a training process, most likely because memory ran out. What was saved is whole: "
                f"continue with fewer at once, --distill.workers {workers - 1}"
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        context.made.update(steps)
        if signals.arrived:  # it arrived while the last run was ending
            raise Interrupted(INTERRUPTED)
    return steps


@contextmanager
def ignore_sigint() -> Iterator[None]:
    """While entered, Ctrl-C has no effect on this process nor, until they train, on the processes that it starts.

    The workers stop when `stop` is set. Without this a Ctrl-C in the terminal would also kill workers as they start.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if StopSignal.can_ask() else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def init_worker(stop: Event) -> None:
    """In a new process: save and end when `stop` is set.

    If the parent is gone, end at once without saving, because the user may have started the next `distill` already.
    """
    parent = multiprocessing.parent_process()

    def stop_requested() -> bool:
        if parent is not None and not parent.is_alive():
            os._exit(1)
        return stop.is_set()

    StopSignal.asked = staticmethod(stop_requested)


def train_in_worker(context: DistillContext, planned: TrainingRun, threads: int) -> int:
    """In a worker process: train one model on `threads` cores; its messages begin with its name."""
    if StopSignal.asked():
        raise Interrupted(INTERRUPTED)
    config = replace(planned.config, machine=replace(planned.config.machine, threads=threads))
    with redirect_stderr(LabelledStream(sys.stderr, planned.path.stem)):
        return train_once(context, replace(planned, config=config))


class LabelledStream(TextIOBase):
    """A stream whose lines begin with a label. Each is written in one go, so lines of several processes don't mix."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream, self.label, self.unfinished = stream, label, ""

    def write(self, text: str) -> int:
        """Write the lines that are whole now; the unfinished last one is kept for the next call."""
        *lines, self.unfinished = (self.unfinished + text).split("\n")
        if lines:
            self.stream.write("".join(f"{self.label}: {line}\n" for line in lines))
            self.stream.flush()
        return len(text)
