"""The device, threads and precision a run uses."""

import ctypes
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.utils.parametrize import cached

from config.schema import MachineConfig, UserError
from model.transformer import GPT
from utils.memory import threads_allowed


def choose_device(config: MachineConfig) -> torch.device:
    """Set the number of CPU threads and return the device; under torchrun each process has a GPU of its own.

    Raises:
        UserError: the device asked for by name is not there, or there are more processes than GPUs.
    """
    torch.set_num_threads(config.threads or threads_allowed(torch.get_num_threads()))
    place = os.environ.get("LOCAL_RANK")  # torchrun's: which of this machine's processes this is
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available() and place is None, "cpu": True}
    name = next(name for name, there in has.items() if there) if config.device == "auto" else config.device
    if not has[name]:
        raise UserError(f"machine.device is {name}, but torch finds none here: use auto or cpu")
    if name != "cuda" or place is None:
        return torch.device(name)
    if int(place) >= torch.cuda.device_count():
        raise UserError(
            f"there is no GPU for process {int(place) + 1} of this machine: torch finds {torch.cuda.device_count()}; "
            "give torchrun so many with --nproc_per_node, or --machine.device cpu"
        )
    torch.cuda.set_device(int(place))
    return torch.device("cuda", int(place))


def precision(config: MachineConfig, device: torch.device) -> torch.dtype:
    """The numbers in which training multiplies matrices; auto: bfloat16 where that is made for it, else float32.

    That is CUDA GPUs from Ampere on, and x86 CPUs with AVX512_BF16 or AMX.
    """
    if config.precision != "auto":
        return torch.bfloat16 if config.precision == "bf16" else torch.float32
    if device.type == "cpu":
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        quick = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    else:
        quick = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if quick else torch.float32


M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of mallopt, in glibc's malloc.h
PRODUCTS_KEPT = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # of oneDNN, and of torch's layer above it
SHAPES_KEPT = 256  # more than an epoch multiplies


def keep_memory() -> None:
    """Let this process keep the memory that it frees, for its next step; before its first product of matrices.

    glibc gives large blocks back to the system at once and then gets them anew, page by page: a step of training
    faulted 8,400 times, a sixth of its time. Other C libraries are left as they are. oneDNN keeps code and memory, up
    to half a megabyte, for each of the last 1,024 shapes that it multiplied; most come once, as in validation.
    """
    for name in PRODUCTS_KEPT:
        os.environ.setdefault(name, str(SHAPES_KEPT))
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


COMPILERS = ("g++", "clang++", "cl")


def compile_blocks(model: GPT) -> None:
    """Have torch.compile make code for the blocks: one for all of them, for each shape of a batch (torch's "regional").

    Raises:
        UserError: there is no compiler, which it needs.
    """
    given = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in (given, *COMPILERS) if name):
        raise UserError("machine.compile needs a C++ compiler such as g++, and none is found: install one, or leave it")
    for block in model.h:
        block.compile(dynamic=False, fullgraph=True)


@contextmanager
def mixed_precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """While entered, matrices are multiplied in `dtype`, and a parametrized weight is computed once.

    In float32 a CUDA GPU multiplies in TF32: eight times the speed, 10 bits of each number.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        with cached(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
