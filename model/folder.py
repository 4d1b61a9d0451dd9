"""Folders of Hugging Face as models to write with: those of `distill`, and others with GPT-2's tokens."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from config.schema import UserError
from model.causal_lm import CausalLM, load_causal_lm
from model.checkpoint import Bundle, config_from_dict, load_bundle
from model.device import precision
from model.language_model import LanguageModel
from model.tokenizer import load_tokenizer
from model.vocabulary import Vocabulary

INFO_FILE = "elon_transformer.json"  # beside the weights of a teacher: what `info` holds in a checkpoint


def load_model(path: Path, device: torch.device) -> Bundle[LanguageModel]:
    """The model at `path`, ready to write: a checkpoint of ours, or a folder of Hugging Face with GPT-2's tokens.

    Raises:
        UserError: see `load_bundle` and `load_folder`.
    """
    return load_folder(path, device) if path.is_dir() else load_bundle(path, device)


def load_folder(path: Path, device: torch.device) -> Bundle[CausalLM]:
    """A folder of Hugging Face. Its weights are in bfloat16 where the device has instructions for it.

    Raises:
        UserError: there is no model in it that writes GPT-2's tokens.
    """
    tokenizer, info = load_tokenizer(), read_info(path)
    model = load_causal_lm(path, tokenizer, block_size=info.get("block_size"))
    config = config_from_dict({"model": vars(model.config)}, path)
    if "track" not in info:
        config = replace(config, model=replace(config.model, init_from=str(path)))
    dtype = precision(config.machine, device)
    return Bundle(model.to(device, dtype), tokenizer, Vocabulary.full(), config, info)


def read_info(path: Path) -> dict[str, Any]:
    """What the folder says of how it was made; nothing if it is not one of `distill`.

    Raises:
        UserError: the file is damaged.
    """
    file = path / INFO_FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: delete {path}, and run `main.py distill` again")
    return found
