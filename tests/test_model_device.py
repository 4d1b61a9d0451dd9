"""`keep_memory`: freed memory is reused, and products of many shapes do not fill the memory."""

import mmap
import os
import platform
import subprocess
import sys

import pytest
import torch

from model.device import CACHE_VARIABLES

FAULTS = """
import resource, sys
import torch
from model.device import keep_memory

if sys.argv[1] == "kept":
    keep_memory()
for turn in range(24):
    if turn == 4:  # by then the heap no longer grows
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(10_000_000).fill_(1.0)  # 40 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_reused_memory_causes_few_page_faults() -> None:
    faults = {}
    for how in ("kept", "given back"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    pages = 20 * 40_000_000 // mmap.PAGESIZE
    assert faults["kept"] < pages / 5 and faults["given back"] > pages / 2


SHAPES = """
import os, sys
import torch
from model.device import keep_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "few":
    keep_memory()
weight = torch.randn(8000, 64, dtype=torch.bfloat16)
for number in range(900, 0, -1):  # the largest first, so that no later one needs more room
    torch.randn(number, 64, dtype=torch.bfloat16) @ weight.T
    if number == 600:
        before = resident()
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not (sys.platform == "linux" and torch.cpu.get_capabilities().get("avx512_bf16")),
    reason="oneDNN may do these products in another way",
)
def test_products_of_many_shapes_do_not_fill_the_memory() -> None:
    grown = {}
    usual = {name: value for name, value in os.environ.items() if name not in CACHE_VARIABLES}  # other tests set them
    for how in ("few", "all"):
        command = [sys.executable, "-c", SHAPES, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=usual)
        grown[how] = int(done.stdout)
    assert grown["few"] < grown["all"] / 4
