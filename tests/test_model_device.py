"""The memory that training keeps."""

import mmap
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from model.device import keep_memory

if sys.argv[1] == "kept":
    keep_memory()
for turn in range(24):
    if turn == 4:  # by then the heap has found its size
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(10_000_000).fill_(1.0)  # 40 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_faulted_in_again() -> None:
    faults = {}
    for how in ("kept", "given back"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    pages = 20 * 40_000_000 // mmap.PAGESIZE
    assert faults["kept"] < pages / 5 and faults["given back"] > pages / 2
