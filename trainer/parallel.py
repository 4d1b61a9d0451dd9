"""Data-parallel training: several processes, each with its own device, take the same steps as one process would.

    torchrun --nproc_per_node 4 main.py train

Every process has the whole model. The examples of each step are divided among the processes. Each computes the gradient
of its examples, weighted by their share of the step's tokens, and the gradients are summed over all processes. So the
step is that of a single process, and the weights stay equal everywhere. Only rank 0 validates, writes files and prints.

torch's DistributedDataParallel is not used. It takes the mean over processes, where a mean over tokens is needed; it
needs a backward pass in every process, but a process may have no example; and it must be called for each part of a
batch that is cut into parts. It sums gradients while the backward pass still runs, which saves time only if steps are
long; here one call after the backward pass is enough.
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

TIMEOUT = timedelta(minutes=10)  # how long a process waits for another one before it fails
T = TypeVar("T")


class NoLog(RunLog):
    """A log that writes nothing, for all processes but the first."""

    def __init__(self) -> None:
        pass

    def write(self, **values: Any) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run. A collective method must be called by all processes, in the same order.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which validates, writes files and prints."""
        return self.rank == 0

    def seed_dropout(self, seed: int, step: int) -> None:
        """Seed dropout for this step: differently in each process, but equally if the step is repeated."""
        torch.manual_seed(zlib.crc32(f"{seed} {step} {self.rank}".encode()))

    def all_reduce(self, model: nn.Module, sums: Tensor) -> Tensor:
        """Sum the gradients of all processes in place, and return the sum of their `sums` (n,). Collective.

        All numbers are sent in one message: one for each parameter of the model.
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
        """Copy the weights of rank 0 to all processes. Collective."""
        if self.size > 1:
            with self.connected(), torch.no_grad():
                for parameter in model.parameters():
                    distributed.broadcast(parameter, 0)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process. Collective."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag))
        with self.connected():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return bool(found)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank. Collective."""
        values = [value] * self.size
        if self.size > 1:
            with self.connected():
                distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: T | None) -> T:
        """The value of rank 0. Collective."""
        values = [value]
        if self.size > 1:
            with self.connected():
                distributed.broadcast_object_list(values, 0)
        assert values[0] is not None
        return values[0]

    def rank_error(self, error: BaseException) -> BaseException:
        """What to raise if all processes end for the same reason: rank 0 reports it, the others exit silently."""
        return error if self.first else SystemExit(0)

    @contextmanager
    def on_all_ranks(self) -> Iterator[None]:
        """If the code inside the `with` fails in one process, end all processes. Collective.

        Raises:
            UserError: the code failed in this process or in another one. Only rank 0 reports it.
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

    def check_same(self, facts: dict[str, Any]) -> None:
        """Check that all processes have the same `facts`. Collective.

        Raises:
            UserError: a process has other tweets, other settings or another checkpoint than rank 0.
        """
        for rank, theirs in enumerate(self.gather(facts)):
            if other := [name for name, value in theirs.items() if value != facts[name]]:
                raise self.rank_error(
                    UserError(f"process {rank} does not have the same {other[0]} as process {self.rank}")
                )

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Turn a lost connection into an error that ends the process.

        Raises:
            UserError: another process ended or can't be reached. A SystemExit if this is not rank 0.
        """
        try:
            yield
        except RuntimeError:
            lost = "another process of this run ended or can't be reached: what was saved is intact, continue with "
            raise (UserError(lost + "--train.resume true") if self.first else SystemExit(1)) from None


SINGLE_PROCESS = Ranks()


@contextmanager
def process_group() -> Iterator[Ranks]:
    """The processes that torchrun started, or this process alone. Inside the `with`, only rank 0 prints.

    Raises:
        UserError: the processes can't connect to each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    with_gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo", timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the {size} processes can't connect to each other ({error}): start them with torchrun"
        ) from None
    ranks = Ranks(distributed.get_rank(), size)
    with ExitStack() as held:
        if not ranks.first:
            held.enter_context(redirect_stderr(held.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        yield ranks
    distributed.destroy_process_group()  # not after an error: it would wait for processes that have ended
