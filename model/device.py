"""The device, threads and precision a run uses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from config.schema import MachineConfig, UserError


def choose_device(config: MachineConfig) -> torch.device:
    """Set the number of CPU threads and return the device; under torchrun each process has a GPU of its own.

    Raises:
        UserError: the device asked for by name is not there, or there are more processes than GPUs.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
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
    """The numbers in which training multiplies matrices; auto: bfloat16 on GPUs that are made for it, else float32."""
    if config.precision == "auto":
        quick = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if quick else torch.float32
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


@contextmanager
def quick_products(device: torch.device) -> Iterator[None]:
    """While entered, a CUDA GPU multiplies float32 matrices in TF32: eight times the speed, 10 bits of each number."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
