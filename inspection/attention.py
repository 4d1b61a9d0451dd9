"""What a model computes on the way: attention weights, surprise, the logit lens, and the logits without one head.

Every number comes from the model's own weights.

Shapes: T tokens (the end mark before the text, then the text's), L layers, H heads, V entries of the vocabulary.
"""

import copy
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from config.schema import UserError
from model.checkpoint import Bundle
from model.language_model import LanguageModel
from model.tokenizer import END
from model.transformer import GPT, Attention


def with_gpt(bundle: Bundle[LanguageModel], name: str) -> Bundle[GPT]:
    """The same bundle, if its model is one of ours.

    Raises:
        UserError: it is a model of `transformers`.
    """
    if not isinstance(bundle.model, GPT):
        raise UserError(f"{name} is a model of transformers: only the attention of this program's own models is shown")
    return cast("Bundle[GPT]", bundle)


def read(bundle: Bundle, text: str) -> list[int]:
    """GPT-2 ids (T,) of a text as the model reads it: after an end mark, without spaces at its end.

    Raises:
        UserError: the text does not fit into the model's context.
    """
    ids = bundle.tokenizer.encode(text.rstrip())
    room = bundle.model.config.block_size - 1
    if len(ids) > room:
        raise UserError(f"the text has {len(ids)} tokens, and this model can read {room}: shorten it")
    return [END, *ids]


def twin(model: GPT) -> GPT:
    """A copy of a model that shares its weights, and can be changed while others use the original."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


@contextmanager
def explicit_attention(model: GPT, *, off: Collection[tuple[int, int]] = ()) -> Iterator[list[Tensor]]:
    """Inside the block each attention of `model` adds its weights (B, H, T, T) to the list, layer by layer.

    torch's fast attention never holds its weights in one piece. A forward hook computes them from the same q and k, in
    plain steps, and gives weights @ v as the result.

    Args:
        model: in evaluation mode, and in no other thread's use (see `twin`).
        off: (layer, head) pairs that are switched off: their result is replaced by zeros.
    """
    assert not model.training, "looking inside is for models in evaluation mode"
    seen: list[Tensor] = []

    def explicit(module: nn.Module, given: Any, result: Tensor, heads: list[int]) -> Tensor:
        q, k, v, mask, causal = given
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, S)
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        seen.append(scores.softmax(-1))
        y = seen[-1] @ v
        y[:, heads] = 0.0
        return y

    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    hooks = []
    for layer, attention in enumerate(attentions):
        heads = [head for place, head in off if place == layer]
        hooks.append(attention.dot_product.register_forward_hook(partial(explicit, heads=heads)))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def attention_weights(model: GPT, rows: Tensor) -> Tensor:
    """How much each token listens to each, (L, H, T, T) for rows (T,): from (second last) to (last); rows sum to 1."""
    with explicit_attention(model) as seen:
        model.trunk(rows[None])
    return torch.cat(seen)


@torch.no_grad()
def logits_without(model: GPT, rows: Tensor, *, layer: int, head: int) -> Tensor:
    """Logits (T, V) for rows (T,) when one head is switched off."""
    with explicit_attention(model, off=[(layer, head)]):
        return model(rows[None])[0]


@torch.no_grad()
def logit_lens(model: GPT, ids: Tensor) -> Tensor:
    """The logits (L + 1, T, V) of the model if it ended after 0, 1, ... L layers, for ids (T,) of its vocabulary.

    The hidden states after each layer go straight to the last norm and the head ("logit lens", nostalgebraist 2020).
    """
    states: list[Tensor] = []

    def keep(module: nn.Module, given: object, hidden: Tensor) -> None:
        states.append(hidden)

    hooks = [module.register_forward_hook(keep) for module in (model.drop, *model.h)]
    try:
        model.trunk(ids[None])
    finally:
        for hook in hooks:
            hook.remove()
    return model.head(model.ln_f(torch.cat(states)))


def surprise(bundle: Bundle, ids: list[int], logits: Tensor) -> Tensor:
    """Surprise in bits (T - 1,) at each token after the first: 1 bit means a probability of 1/2, 10 bits of 1/1,024.

    Args:
        ids: (T,) GPT-2 ids of the text.
        logits: (T, V) of the model after each of them.
    """
    expected = bundle.vocabulary.log_probs(logits[:-1].float().cpu())
    return -expected.gather(1, torch.tensor(ids[1:])[:, None])[:, 0] / math.log(2)
