"""A model of ours with random weights that make its export as hard as can be."""

from dataclasses import replace
from typing import Any

import torch

from model.checkpoint import Bundle
from model.transformer import GPT
from model.vocabulary import Vocabulary


@torch.no_grad()
def scrambled(bundle: Bundle, *, vocabulary: Vocabulary | None = None, seed: int = 0, **shape: Any) -> Bundle:
    """Another model of that vocabulary (or this one), with `shape` changed in its settings.

    Its last LayerNorm has a gain of 0, and biases over gains that sum to about 0; its output biases are large.
    """
    vocabulary = vocabulary or bundle.vocabulary
    config = replace(bundle.config, model=replace(bundle.config.model, **shape))
    torch.manual_seed(seed)
    model = GPT(config.model, vocabulary.vocab_size).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.3)
    gain, bias = model.ln_f.weight, model.ln_f.bias
    gain[0] = 0.0
    bias.sub_((bias[1:] / gain[1:]).mean() * gain)
    if model.head_bias is not None:
        model.head_bias.add_(torch.randn_like(model.head_bias))
        model.head_bias[vocabulary.is_shared] = -20.0  # our `generate` never draws these
    return Bundle(model, bundle.tokenizer, vocabulary, config, bundle.info)


def full_vocabulary() -> Vocabulary:
    """A row for each of GPT-2's tokens."""
    return Vocabulary(torch.arange(50_257), torch.zeros(50_257))
