"""Training by several processes as if they were one, each on a device of its own.

    torchrun --nproc_per_node 4 main.py train

Every process has the whole model. Each step's examples are shared out among them. Each process computes the gradient of
its examples, weighted by their share of the real tokens, and the gradients are added up. So all take the very step that
one process would take, and the weights stay the same everywhere. Rank 0 alone validates, writes files and prints.

torch's DistributedDataParallel is not used: it takes the mean over processes where the tokens must be weighed, needs a
backward pass from every process (here one may have no example at all), and must know of each part of a cut batch.
Adding up while the backward pass still runs would pay where a step takes long; here one call after it is enough.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from config.schema import UserError
from utils.run_log import RunLog

TIMEOUT = timedelta(minutes=10)  # to wait for another process before giving up
T = TypeVar("T")


class NoLog(RunLog):
    """Where all processes but the first write their measurements: nowhere."""

    def __init__(self) -> None:
        pass

    def write(self, **values: Any) -> None:
        """Forget these."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run. Methods "for all to call" must be called by every one of them, in the same order.

    Attributes:
        rank: which of them this is, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that validates, writes and prints."""
        return self.rank == 0

    def seed_dropout(self, seed: int, step: int) -> None:
        """Start dropout's random numbers for this step: others in each process, the same when it is taken again."""
        torch.manual_seed(zlib.crc32(f"{seed} {step} {self.rank}".encode()))

    def all_reduce(self, model: nn.Module, sums: Tensor) -> Tensor:
        """Add up the gradients of all processes in place, and return the total of `sums` (n,); for all to call.

        Everything goes in one message: as many numbers as the model has parameters.
        """
        parameters = list(model.parameters())
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]  # None: it had no examples
        flat = torch.cat([*(part.flatten() for part in parts), sums])
        with self.connected():
            distributed.all_reduce(flat)
        *totals, sums = flat.split([*(p.numel() for p in parameters), len(sums)])
        for parameter, total in zip(parameters, totals, strict=True):
            parameter.grad = total.view_as(parameter)
        return sums

    def broadcast_parameters(self, model: nn.Module) -> None:
        """Give the first process's weights to all; for all to call."""
        if self.size > 1:
            with self.connected(), torch.no_grad():
                for parameter in model.parameters():
                    distributed.broadcast(parameter, 0)

    def any(self, flag: bool) -> bool:
        """Whether any process says so; for all to call."""
        if self.size == 1:
            return flag
        anyone = torch.tensor(int(flag))
        with self.connected():
            distributed.all_reduce(anyone, distributed.ReduceOp.MAX)
        return bool(anyone)

    def gather(self, value: T) -> list[T]:
        """What each process gave, in order; for all to call."""
        values = [value] * self.size
        if self.size > 1:
            with self.connected():
                distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: T | None) -> T:
        """What the first process gave; for all to call."""
        values = [value]
        if self.size > 1:
            with self.connected():
                distributed.broadcast_object_list(values, 0)
        assert values[0] is not None
        return values[0]

    def rank_error(self, error: BaseException) -> BaseException:
        """What to raise where all processes end for the same reason: rank 0 reports it, the others just end."""
        return error if self.first else SystemExit(0)

    @contextmanager
    def on_all_ranks(self) -> Iterator[None]:
        """Work of each process by itself, after which all go on or none does; for all to enter.

        Raises:
            UserError: of this process, or of another one: the first process tells of it.
        """
        if self.size == 1:
            yield
            return
        problem: Exception | None = None
        try:
            yield
        except (UserError, OSError) as error:
            problem = error
        found = self.gather(str(problem) if problem else None)
        for rank, text in enumerate(found):
            if text is not None:
                raise self.rank_error(problem or UserError(f"process {rank} of {self.size}: {text}"))

    def check_alike(self, facts: dict[str, Any]) -> None:
        """Refuse to train on different things without noticing; for all to call.

        Raises:
            UserError: a process has other tweets, other settings or another checkpoint than the first one.
        """
        for rank, theirs in enumerate(self.gather(facts)):
            if other := [name for name, value in theirs.items() if value != facts[name]]:
                raise self.rank_error(UserError(f"process {rank} has not the same {other[0]} as process {self.rank}"))

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Turn a lost connection into an end.

        Raises:
            UserError: another process ended or can't be reached; SystemExit where this is not the first one.
        """
        try:
            yield
        except RuntimeError:
            lost = "another process of this run ended or can't be reached: what was saved before is whole, go on with "
            raise (UserError(lost + "--train.resume true") if self.first else SystemExit(1)) from None


SINGLE_PROCESS = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started, of which only rank 0 prints; without torchrun, this process alone.

    Raises:
        UserError: the processes do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    both = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the {size} processes don't find each other ({error}): start them with torchrun") from None
    ranks = Ranks(distributed.get_rank(), size)
    with ExitStack() as held:
        if not ranks.first:
            held.enter_context(redirect_stderr(held.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        yield ranks
    distributed.destroy_process_group()  # not after an error: it would wait for those that are gone
