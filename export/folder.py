"""A fine-tuned model of `transformers`, with GPT-2's tokens, as a folder that `transformers` and `load_folder` read."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from export.export import new_folder, write_json
from export.stock_tokenizer import save_tokenizer, tokens_and_merges
from model.causal_lm import CausalLM
from model.folder import INFO_FILE
from model.tokenizer import NUM_TOKENS, Tokenizer


def save_folder(path: Path, model: CausalLM, tokenizer: Tokenizer, info: dict[str, Any]) -> None:
    """Write the folder, in place of one that is there. The weights are in bfloat16, which halves its size.

    Args:
        info: what `read_info` gives back.
    """
    half = copy.deepcopy(model.model).to("cpu", torch.bfloat16)
    if path.is_dir():
        shutil.rmtree(path)
    with new_folder(path) as folder:
        half.save_pretrained(folder)
        tokens, merges = tokens_and_merges(tokenizer, torch.arange(NUM_TOKENS))
        save_tokenizer(folder, tokens, merges, context=model.config.block_size)
        write_json(folder / INFO_FILE, info)
