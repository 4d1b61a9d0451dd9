"""Code of other projects that the speed benchmarks compare with: `--peers transformers nanogpt=PATH llama.cpp=PATH`.

transformers is the version that the requirements install. For nanoGPT the command line names a checkout; its model.py
is imported from there unchanged. For llama.cpp it names the program llama-batched-bench, which its CMake builds.
"""

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

NANOGPT_ROWS = 50_304  # GPT-2's tokens, up to the next multiple of 64: nanoGPT's default
LLAMA_CPP = "llama.cpp"
TRIES = 5  # of its program, which now and then ends well without a word where a run takes a hundredth of a second
NEEDED = {  # what --peers names for each: a folder that holds a file, or a program
    "nanogpt": ("model.py", "make one with: git clone https://github.com/karpathy/nanoGPT"),
    LLAMA_CPP: ("", "build it with: cmake -B build && cmake --build build -t llama-batched-bench"),
}


def peers_of(given: Sequence[str]) -> dict[str, Path | None]:
    """The peers that `--peers` names, with nanoGPT's checkout and llama.cpp's program.

    Raises:
        SystemExit: in one line, what is missing.
    """
    found: dict[str, Path | None] = {}
    for text in given:
        name, _, path = text.partition("=")
        if name not in ("transformers", *NEEDED) or (name in NEEDED) != bool(path):
            raise SystemExit(
                f"error: --peers {text}: give transformers, nanogpt=PATH with a checkout of nanoGPT, or llama.cpp=PATH "
                "with its program llama-batched-bench"
            )
        if name in NEEDED:
            file, how = NEEDED[name]
            if not (Path(path) / file).is_file():
                raise SystemExit(f"error: --peers {text}: there is no {file or 'such program'} in {path}; {how}")
        if name == "transformers" and importlib.util.find_spec(name) is None:
            raise SystemExit("error: --peers transformers: pip install -r requirements-full.txt")
        found[name] = Path(path) if path else None
    return found


def llama_cpp(program: Path, model: Path, *, prompt: int, batch: int, tokens: int, threads: int) -> float:
    """Tokens a second of llama.cpp's own benchmark, which reads one prompt and goes on with it in `batch` texts.

    It feeds arbitrary tokens: it neither draws them nor turns them into text. Loading and its warm-up do not count.

    Args:
        program: llama-batched-bench.
        model: a GGUF file.
        prompt, tokens: the number of tokens that the texts share, and of those that each of them adds.
    """
    flags = {"-m": model, "-c": prompt + batch * tokens, "-npp": prompt, "-ntg": tokens, "-npl": batch, "-t": threads}
    given = [str(word) for pair in flags.items() for word in pair]
    command = [str(program), *given, "-pps", "--output-format", "jsonl"]
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if lines or done.returncode:
            break
    if not lines:
        told = " ".join(done.stderr.splitlines()[-3:])
        raise SystemExit(f"error: {' '.join(command)} failed with {done.returncode}: {told}")
    return batch * tokens / float(json.loads(lines[-1])["t"])


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
