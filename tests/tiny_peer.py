"""A tiny random model of Hugging Face with GPT-2's tokenizer, made on the spot: no download, no stored weights."""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

from model.tokenizer import END_TEXT, load_tokenizer

logging.disable_progress_bar()


def make_model(folder: Path, *, vocab_size: int = 50_257, n_positions: int = 64, seed: int = 0) -> GPT2LMHeadModel:
    """Save a random GPT-2 without a tokenizer; its weights are large, so that its probabilities are far from even."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=1,
        n_head=2,
        n_embd=8,
        n_positions=n_positions,
        vocab_size=vocab_size,
        initializer_range=0.5,
        bos_token_id=vocab_size - 1,
        eos_token_id=vocab_size - 1,
    )
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(folder)
    return model


def make_peer(folder: Path, *, n_positions: int = 64, seed: int = 0) -> GPT2LMHeadModel:
    """Save a random GPT-2 with its tokenizer."""
    model = make_model(folder, n_positions=n_positions, seed=seed)
    save_gpt2_tokenizer(folder)
    return model


def save_gpt2_tokenizer(folder: Path) -> None:
    """Save GPT-2's tokenizer beside a model."""
    backend = load_tokenizer().backend
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=END_TEXT, eos_token=END_TEXT).save_pretrained(folder)
