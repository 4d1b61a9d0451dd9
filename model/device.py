"""The device and threads a run uses."""

import torch

from config.schema import MachineConfig, UserError


def choose_device(config: MachineConfig) -> torch.device:
    """Set the number of CPU threads and return the device.

    Raises:
        UserError: the device asked for by name is not there.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if config.device == "auto":
        return torch.device(next(name for name, there in has.items() if there))
    if not has[config.device]:
        raise UserError(f"machine.device is {config.device}, but torch finds none here: use auto or cpu")
    return torch.device(config.device)
