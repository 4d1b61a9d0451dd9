"""One more token of each text: GPT.trunk once more, in as few calls as it takes.

A text is written token by token, and at 4 layers of 128 the calls of modules take half of a token's time. So here the
layers stand without modules; tests/test_model_step.py holds the two together. Shapes as in model/transformer.py.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from model.cache import Cache
from model.linear import FEW, product

if TYPE_CHECKING:
    from model.transformer import GPT, Attention, Block

Pair = tuple[Tensor, Tensor]  # weight and bias


class Layer(NamedTuple):
    """What a block holds: asking the modules for it takes as long as some of the products."""

    attn: "Attention"
    ln_1: Pair
    c_attn: Pair
    attn_proj: Pair
    ln_2: Pair
    c_fc: Pair
    mlp_proj: Pair

    @classmethod
    def of(cls, block: "Block") -> "Layer":
        """Of this block; as long as its parameters are not replaced by others."""
        attn, mlp = block.attn, block.mlp
        modules = block.ln_1, attn.c_attn, attn.c_proj, block.ln_2, mlp.c_fc, mlp.c_proj
        return cls(attn, *((module.weight, module.bias) for module in modules))


def step(model: "GPT", rows: Tensor, cache: Cache) -> Tensor:
    """The stream (B, C) after one more token of each text, rows (B,); the cache is updated. No gradient, no dropout.

    The same numbers as `model.trunk(rows[:, None], cache)[:, 0]` through the modules, to a rounding.
    """
    config, B, seen = model.config, len(rows), max(cache.lengths)
    assert seen < config.block_size, f"{seen} + 1 tokens exceed the context of {config.block_size}"
    C, H = (config.n_embd,), config.n_head
    positions, visible = cache.positions(1), None
    if positions is not None:
        visible = torch.arange(seen + 1, device=rows.device) <= positions[:, None, :, None]  # (B, 1, 1, S)
    linear = product if B <= FEW else F.linear
    x = model.wte.weight[rows] + model.wpe.weight[seen if positions is None else positions[:, 0]]
    for number, layer in enumerate(model.layers):
        qkv = linear(torch.layer_norm(x, C, *layer.ln_1), *layer.c_attn)
        qkv = qkv.view(B, 3, 1, H, -1).transpose(0, 1)  # (3, B, 1, H, D)
        k, v = cache.append(number, qkv[1:], positions).transpose(2, 3).unbind(0)  # (B, H, S, D)
        q = qkv[0].transpose(1, 2)  # (B, H, 1, D)
        heard = layer.attn.attend(q, k, v, visible=visible, causal=False)  # (B, H, 1, D)
        x += linear(heard.reshape(B, -1), *layer.attn_proj)
        hidden = linear(torch.layer_norm(x, C, *layer.ln_2), *layer.c_fc)
        hidden = F.gelu(hidden, approximate="tanh") if config.activation == "gelu" else F.relu(hidden)
        x += linear(hidden, *layer.mlp_proj)
    cache.lengths = [length + 1 for length in cache.lengths]
    return torch.layer_norm(x, C, model.ln_f.weight, model.ln_f.bias)
