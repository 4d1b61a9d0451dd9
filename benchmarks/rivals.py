"""Code of other projects that the speed benchmarks compare with: `--peers transformers nanogpt=PATH`.

transformers is the version that the requirements install. For nanoGPT the command line names a checkout; its model.py
is imported from there unchanged.
"""

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

NAMES = ("transformers", "nanogpt")
NANOGPT_ROWS = 50_304  # GPT-2's tokens, up to the next multiple of 64: nanoGPT's default


def peers_of(given: Sequence[str]) -> dict[str, Path | None]:
    """The peers that `--peers` names, with nanoGPT's checkout.

    Raises:
        SystemExit: in one line, what is missing.
    """
    found: dict[str, Path | None] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if name not in NAMES or (name == "nanogpt") != bool(folder):
            raise SystemExit(f"error: --peers {text}: give transformers, or nanogpt=PATH with a checkout of nanoGPT")
        if folder and not (Path(folder) / "model.py").is_file():
            raise SystemExit(
                f"error: --peers {text}: there is no model.py in {folder}; "
                "make one with: git clone https://github.com/karpathy/nanoGPT"
            )
        if name == "transformers" and importlib.util.find_spec(name) is None:
            raise SystemExit("error: --peers transformers: pip install -r requirements-full.txt")
        found[name] = Path(folder) if folder else None
    return found


def import_nanogpt(checkout: Path) -> ModuleType:
    """nanoGPT's model.py as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks for its module there
    spec.loader.exec_module(module)
    return module


def nanogpt(checkout: Path, *, n_layer: int, n_head: int, n_embd: int, block_size: int, dropout: float) -> Any:
    """nanoGPT's GPT with random weights and with biases, as GPT-2 has; what it prints goes to standard error."""
    module = import_nanogpt(checkout)
    with contextlib.redirect_stdout(sys.stderr):
        return module.GPT(
            module.GPTConfig(
                n_layer=n_layer,
                n_head=n_head,
                n_embd=n_embd,
                block_size=block_size,
                dropout=dropout,
                vocab_size=NANOGPT_ROWS,
                bias=True,
            )
        )
