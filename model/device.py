"""The device, the threads, the precision and the memory that a run uses."""

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
    """Set the number of CPU threads and return the device. Under torchrun, each process gets its own GPU.

    Raises:
        UserError: this machine does not have the device named in the settings, or has fewer GPUs than processes.
    """
    torch.set_num_threads(config.threads or threads_allowed(torch.get_num_threads()))
    local_rank = os.environ.get("LOCAL_RANK")  # set by torchrun: the number of this process on this machine
    has_mps = torch.backends.mps.is_available() and local_rank is None
    has = {"cuda": torch.cuda.is_available(), "mps": has_mps, "cpu": True}
    name = next(name for name, there in has.items() if there) if config.device == "auto" else config.device
    if not has[name]:
        raise UserError(f"machine.device is {name}, but torch finds none here: use auto or cpu")
    if name != "cuda" or local_rank is None:
        return torch.device(name)
    if int(local_rank) >= torch.cuda.device_count():
        raise UserError(
            f"there is no GPU for process {int(local_rank) + 1} of this machine: torch finds "
            f"{torch.cuda.device_count()}; start at most that many processes with torchrun --nproc_per_node, "
            "or give --machine.device cpu"
        )
    torch.cuda.set_device(int(local_rank))
    return torch.device("cuda", int(local_rank))


def precision(config: MachineConfig, device: torch.device) -> torch.dtype:
    """The number format in which training multiplies matrices.

    auto is bfloat16 where the hardware has instructions for it, else float32. CUDA GPUs from Ampere on have them, and
    x86 CPUs with AVX512_BF16 or AMX.
    """
    if config.precision != "auto":
        return torch.bfloat16 if config.precision == "bf16" else torch.float32
    if device.type == "cpu":
        features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        supported = features.get("avx512_bf16", False) or features.get("amx_bf16", False)
    else:
        supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if supported else torch.float32


M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # options of mallopt, from glibc's malloc.h
CACHE_VARIABLES = (
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "LRU_CACHE_CAPACITY",
)  # read by oneDNN, and by torch's code that calls it
SHAPES_CACHED = 256  # more shapes than the matrix products of an epoch have


def keep_memory() -> None:
    """Make this process reuse the memory that it frees. Call it before the first product of matrices.

    glibc returns large blocks to the system when they are freed and gets new ones page by page: that was 8,400 page
    faults in a training step, a sixth of its time. Other C libraries are left as they are. oneDNN caches code and
    memory, up to half a megabyte, for each of the last 1,024 shapes of a product. Most shapes occur only once, as in
    validation, so fewer are cached.
    """
    for name in CACHE_VARIABLES:
        os.environ.setdefault(name, str(SHAPES_CACHED))
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


COMPILERS = ("g++", "clang++", "cl")


def compile_blocks(model: GPT) -> None:
    """Compile the blocks with torch.compile: once for each shape of a batch, and all blocks share that code.

    torch calls this regional compilation.

    Raises:
        UserError: there is no C++ compiler.
    """
    given = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in (given, *COMPILERS) if name):
        raise UserError(
            "machine.compile needs a C++ compiler such as g++, and none was found: install one, or set it to false"
        )
    for block in model.h:
        block.compile(dynamic=False, fullgraph=True)


@contextmanager
def mixed_precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inside the `with`, matrices are multiplied in `dtype`, and a parametrized weight is computed only once.

    In float32 a CUDA GPU multiplies in TF32, which is eight times as fast and has a mantissa of 10 bits.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        with cached(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
