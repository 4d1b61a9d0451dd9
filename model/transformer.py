"""GPT-2, from token rows to logits, in the order the data flows.

    rows -> wte + wpe -> n_layer x [ ln_1 -> attention -> +  |  ln_2 -> MLP (GELU) -> + ] -> ln_f -> logits

Pre-norm, learned positions, GELU in its tanh form, biases, and a head that shares its weights with the embedding, as in
Radford et al. 2019 and OpenAI's released code, with its names, so that export is a renaming. One addition: a bias per
output row, which folds into a stock GPT-2 on export (export/export.py).

Shapes: B tweets, T tokens given, S tokens seen so far (in the cache, and given), C = n_embd, H = n_head, D = C / H,
V rows of the vocabulary.
"""

import math
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import ModelConfig
from model.cache import Cache
from model.dropout import Dropout
from model.linear import Linear, product
from model.step import Layer, step


def attend(q: Tensor, k: Tensor, v: Tensor, *, visible: Tensor | None, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for every head: (B, H, T, D) from q (B, H, T, D) and k, v (B, H, S, D).

    `visible` (B, 1, T, S) is true where a token may look; without it `causal` says whether later tokens are hidden.
    Training in bfloat16 on a CPU, this is done in float32: torch's gradient of it takes four times as long otherwise.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        with torch.autocast("cpu", enabled=False):
            q, k, v = q.float(), k.float(), v.float()
            return attend(q, k, v, visible=visible, causal=causal).to(torch.bfloat16)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=causal)


class Attention(nn.Module):
    """Each token asks (q) all tokens before it (k) what they have to say (v), once per head."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head = layer, config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.attend = attend  # inspection/attention.py puts an explicit path here to see the weights

    def forward(self, x: Tensor, *, cache: Cache | None, positions: Tensor | None, visible: Tensor | None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).unbind(2)  # each (B, T, H, D)
        if cache is not None:
            k, v = cache.append(self.layer, torch.stack((k, v)), positions)  # (B, S, H, D)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H, T or S, D)
        y = self.attend(q, k, v, visible=visible, causal=cache is None)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """What a token makes of what it has heard: out to 4C, through GELU, back to C."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)
        self.act = nn.GELU(approximate="tanh") if config.activation == "gelu" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    """Attention, then MLP; each adds its result to the stream (the skip connection) instead of replacing it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, *, cache: Cache | None, positions: Tensor | None, visible: Tensor | None) -> Tensor:
        heard = self.attn(self.ln_1(x), cache=cache, positions=positions, visible=visible)
        x = x + self.drop(heard)
        return x + self.drop(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    """The whole model. `forward(rows, cache=None)` gives logits, always.

    Args:
        config: the model's shape.
        vocab_size: V, the rows of its vocabulary (model/vocabulary.py).
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head_bias = nn.Parameter(torch.zeros(vocab_size)) if config.output_bias else None
        self.init_weights()

    def init_weights(self) -> None:
        """GPT-2's start: normal(0, 0.02), zero biases; what writes to the stream is scaled by 1/sqrt(2 n_layer)."""
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(".bias") or name == "head_bias":
                nn.init.zeros_(parameter)
            else:
                assert name.split(".")[-2].startswith("ln_"), f"{name} has no initial value"

    def forward(self, rows: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of the rows (B, T).

        With a cache the rows continue what it has read; it is updated. Together they may not exceed block_size.
        """
        return self.head(self.trunk(rows, cache))

    def trunk(self, rows: Tensor, cache: Cache | None = None) -> Tensor:
        """The stream after the last block and ln_f, (B, T, C), for rows (B, T)."""
        T = rows.shape[1]
        if T == 1 and cache is not None and not (self.training or torch.is_grad_enabled()):
            return step(self, rows[:, 0], cache)[:, None]
        seen = max(cache.lengths) if cache is not None else 0
        assert seen + T <= self.config.block_size, f"{seen} + {T} tokens exceed the context of {self.config.block_size}"
        positions = None if cache is None else cache.positions(T)
        place = self.wpe.weight[seen : seen + T] if positions is None else self.wpe(positions)
        x = self.wte(rows) + place
        visible = None  # without positions every row sees all there is, or all before it
        if positions is not None:
            visible = torch.arange(seen + T, device=rows.device) <= positions[:, None, :, None]  # (B, 1, T, S)
        x = self.drop(x)
        for block in self.h:
            x = block(x, cache=cache, positions=positions, visible=visible)
        if cache is not None:
            cache.lengths = [length + T for length in cache.lengths]
        return self.ln_f(x)

    @cached_property
    def layers(self) -> list[Layer]:
        """The parameters of each block, for `step`."""
        return [Layer.of(cast(Block, block)) for block in self.h]

    def head(self, x: Tensor) -> Tensor:
        """Logits (..., V) from the stream (..., C): the score of a row is its embedding times the stream."""
        return product(x, self.wte.weight, self.head_bias)

    def new_cache(self, batch_size: int) -> Cache:
        """An empty cache for `batch_size` rows, on the model's device."""
        weight = self.wte.weight
        return Cache(self.config, batch_size, device=weight.device, dtype=weight.dtype)

    def num_parameters(self) -> int:
        """Parameters, the shared embedding and head counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
