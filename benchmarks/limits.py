"""The highest speed of this machine: `python -m benchmarks.limits`. The other speed benchmarks give shares of it.

Measured are matrix products in GFLOP/s (2 n m k operations each): square ones, of which the best is the limit, and
those of a training step, the N tokens of a batch through the MLP and through the head, forward and both products
backward. Also the bandwidth of a copy, read and written, in GB/s, and what calling one operation takes. With one thread
and with all. Prints a Markdown table and one line of JSON.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.timing import choose, clock, show, table
from config.cli import parse
from model.device import precision

SQUARES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
TOKENS = 450  # in a batch of 32 tweets, about
WIDTHS = (128, 384)
VOCABULARIES = (8_000, 50_257)  # the tokens that the tweets use, and GPT-2's
COPIED = {"cpu": 1 << 28, "cuda": 1 << 31}  # bytes: more than the caches hold


def best(work: Callable[[], object], device: torch.device, *, seconds: float) -> float:
    """Seconds that `work` takes: the least of 5 means, each over about `seconds`."""
    work()
    started = clock(device)
    work()
    count = max(1, round(seconds / max(1e-9, clock(device) - started)))
    means = []
    for _ in range(5):
        started = clock(device)
        for _ in range(count):
            work()
        means.append((clock(device) - started) / count)
    return min(means)


def product(n: int, k: int, m: int, device: torch.device, dtype: torch.dtype, *, seconds: float) -> float:
    """GFLOP/s of (n, k) x (k, m)."""
    a, b = (torch.randn(shape, device=device, dtype=dtype) for shape in ((n, k), (k, m)))
    out = torch.empty(n, m, device=device, dtype=dtype)
    return 2e-9 * n * k * m / best(lambda: torch.mm(a, b, out=out), device, seconds=seconds)


def step_shapes() -> dict[str, list[tuple[int, int, int]]]:
    """The products of a training step: forward, for the gradient of the input, for that of the weights."""
    shapes = {}
    for width in WIDTHS:
        for name, rows in [("MLP", 4 * width), *((f"head, {rows:,} ids", rows) for rows in VOCABULARIES)]:
            both_ways = [(TOKENS, width, rows), (TOKENS, rows, width), (rows, TOKENS, width)]
            shapes[f"{name}, {width} wide"] = both_ways
    return shapes


def makes_bf16(device: torch.device) -> bool:
    """Whether training multiplies in bfloat16 on this device unless told otherwise."""
    return precision(parse("train", [])[0].machine, device) == torch.bfloat16


def measure(device: torch.device, *, seconds: float = 0.1) -> dict[str, float]:
    """The best square product in "fp32" and, where training uses it, "bf16", GFLOP/s; and a "copy", GB/s."""
    found = {}
    for name, dtype in [("fp32", torch.float32), ("bf16", torch.bfloat16)][: 2 if makes_bf16(device) else 1]:
        found[name] = max(product(n, n, n, device, dtype, seconds=seconds) for n in SQUARES[device.type])
    source = torch.zeros(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2e-9 * COPIED[device.type] / best(lambda: target.copy_(source), device, seconds=seconds)
    return found


def measure_step(device: torch.device, *, seconds: float = 0.1) -> dict[str, float]:
    """GFLOP/s of the products of a training step, with the threads that are set; on a GPU in bf16."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    found = {}
    for name, shapes in step_shapes().items():
        speeds = [product(*shape, device, dtype, seconds=seconds) for shape in shapes]
        found[name] = statistics.harmonic_mean(speeds)  # each has as many operations as the others
    return found


def reading(numbers: int, device: torch.device, *, seconds: float) -> float:
    """GB/s of reading so many float32 numbers again and again: from a cache, if they fit one."""
    source = torch.ones(numbers, device=device)
    return 4e-9 * numbers / best(source.sum, device, seconds=seconds)


def kernel(device: torch.device, *, seconds: float) -> float:
    """Microseconds of an operation on so few numbers that only calling it takes time."""
    a, b = torch.ones(64, device=device), torch.ones(64, device=device)
    out = torch.empty_like(a)
    return 1e6 * best(lambda: torch.add(a, b, out=out), device, seconds=seconds)


def measure_all(device: torch.device, *, seconds: float) -> dict[str, dict[str, float]]:
    """Everything, by number of threads; a GPU has one column."""
    every, found = torch.get_num_threads(), {}
    try:
        for threads in [every] if device.type == "cuda" else sorted({1, every}):
            torch.set_num_threads(threads)
            found[str(threads)] = measure(device, seconds=seconds) | measure_step(device, seconds=seconds)
            found[str(threads)]["kernel"] = kernel(device, seconds=seconds)
    finally:
        torch.set_num_threads(every)
    return found


def rows_of(found: dict[str, dict[str, float]]) -> list[list[str]]:
    """The table's rows: one for each measure, with a column for each number of threads."""
    titles = {"fp32": "fp32 product, best, GFLOP/s", "bf16": "bf16 product, best, GFLOP/s", "copy": "copy, GB/s"}
    titles["kernel"] = "a small operation, microseconds"
    names = list(next(iter(found.values())))
    return [[titles.get(name, f"{name}, GFLOP/s"), *(f"{by[name]:,.1f}" for by in found.values())] for name in names]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each of the 5 means")
    options = parser.parse_args()
    device = choose(options.device)
    found: dict[str, Any] = measure_all(device, seconds=options.seconds)
    header = ["what", *(f"{threads} thread{'s' if threads != '1' else ''}" for threads in found)]
    show(table(header, rows_of(found)), {"limits": found}, device)


if __name__ == "__main__":
    main()
