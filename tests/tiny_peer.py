"""A tiny random model of Hugging Face with GPT-2's tokenizer, made on the spot: no download, no stored weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
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


def digit_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of a few hundred tokens that splits digits, as those of many newer models do."""
    backend = Backend(models.BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END_TEXT], initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_TEXT)


def make_llama(folder: Path, texts: Sequence[str], *, hidden_size: int = 32) -> LlamaForCausalLM:
    """Save a small random Llama with a tokenizer of its own, fitted to these texts."""
    tokenizer = digit_tokenizer(texts)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(shape).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
