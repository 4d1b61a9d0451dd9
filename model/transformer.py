"""GPT-2, from token ids to logits, in the order the data flows.

    ids -> wte + wpe -> n_layer x [ ln_1 -> attention -> +  |  ln_2 -> MLP (GELU) -> + ] -> ln_f -> logits

Pre-norm, learned positions, GELU in its tanh form, biases, and a head that shares its weights with the embedding, as in
Radford et al. 2019 and OpenAI's released code. The modules have the names of that code, so export only renames weights.
There is one addition: a bias for each output. Export turns it into weights of a standard GPT-2 (export/stock.py).

Shapes: B texts, T new tokens, S tokens in all (those in the cache and the new ones), C = n_embd, H = n_head, D = C / H,
V = vocab_size.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import ModelConfig
from model.cache import Cache


class DotProductAttention(nn.Module):
    """softmax(q k^T / sqrt(D)) v for every head: (B, H, T, D) from q (B, H, T, D) and k, v (B, H, S, D).

    `mask` (B, 1, T, S) is true where a token may attend. Without a mask, `causal` hides later tokens. It has no
    parameters; it is a module so that a hook can read its inputs (inspection/attention.py).
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


class Attention(nn.Module):
    """Compares a token's query q with the keys k of all tokens up to it; the result is a mean of their values v."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head = layer, config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.dot_product = DotProductAttention()

    def forward(self, x: Tensor, *, cache: Cache | None, positions: Tensor | None, mask: Tensor | None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).unbind(2)  # each (B, T, H, D)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H, T, D)
        if cache is not None:
            k, v = cache.append(self.layer, torch.stack((k, v)), positions)  # (B, H, S, D)
        y = self.dot_product(q, k, v, mask, cache is None)
        out: Tensor = self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return out


class MLP(nn.Module):
    """Transforms each token separately: from C to 4C numbers, GELU, and back to C."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.act = nn.GELU(approximate="tanh") if config.activation == "gelu" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(self.act(self.c_fc(x)))
        return out


class Block(nn.Module):
    """Attention, then MLP. The result of each is added to its input (a skip connection): the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, *, cache: Cache | None, positions: Tensor | None, mask: Tensor | None) -> Tensor:
        x = x + self.drop(self.attn(self.ln_1(x), cache=cache, positions=positions, mask=mask))
        out: Tensor = x + self.drop(self.mlp(self.ln_2(x)))
        return out


class GPT(nn.Module):
    """The whole model. `forward(ids, cache=None)` returns logits.

    Args:
        config: the model's shape.
        vocab_size: V, the number of the model's ids (model/vocabulary.py).
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head_bias = nn.Parameter(torch.zeros(vocab_size)) if config.output_bias else None
        self.init_weights()

    def init_weights(self) -> None:
        """GPT-2's initial weights: normal(0, 0.02), but c_proj is scaled by 1/sqrt(2 n_layer); biases are zero."""
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(".bias") or name == "head_bias":
                nn.init.zeros_(parameter)
            else:
                assert name.split(".")[-2].startswith("ln_"), f"{name} has no initial value"

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of the ids (B, T).

        With a cache, the ids continue its texts, and their keys and values are added to it. A text may have at most
        block_size tokens in all.
        """
        return self.head(self.trunk(ids, cache))

    def trunk(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states after the last block and ln_f, (B, T, C), for ids (B, T)."""
        T, seen = ids.shape[1], max(cache.lengths) if cache is not None else 0
        assert seen + T <= self.config.block_size, f"{seen} + {T} tokens exceed the context of {self.config.block_size}"
        positions = None if cache is None else cache.positions(T)  # None: positions are the same in every text
        wpe = self.wpe.weight[seen : seen + T] if positions is None else self.wpe(positions)
        mask = None  # not needed without positions: then T is 1, or attention is causal
        if positions is not None:
            mask = torch.arange(seen + T, device=ids.device) <= positions[:, None, :, None]  # (B, 1, T, S)
        x = self.drop(self.wte(ids) + wpe)
        for block in self.h:
            x = block(x, cache=cache, positions=positions, mask=mask)
        if cache is not None:
            cache.lengths = [length + T for length in cache.lengths]
        hidden: Tensor = self.ln_f(x)
        return hidden

    @property
    def head_weight(self) -> Tensor:
        """The matrix (V, C) of the head: the embedding."""
        return self.wte.weight

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) from hidden states (..., C): a token's logit is its embedding times the hidden state."""
        logits = F.linear(hidden, self.head_weight)
        return logits if self.head_bias is None else logits + self.head_bias

    def new_cache(self, batch_size: int) -> Cache:
        """An empty cache for `batch_size` texts, on the model's device."""
        config, weight = self.config, self.wte.weight
        return Cache(
            batch_size,
            n_layer=config.n_layer,
            block_size=config.block_size,
            heads=config.n_head,
            head_size=config.n_embd // config.n_head,
            device=weight.device,
            dtype=weight.dtype,
        )

    def num_parameters(self) -> int:
        """Number of parameters. The weights that embedding and head share are counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
