"""Faster twins of model/transformer.py: `for_writing` writes tokens one by one, `for_training` trains on a CPU.

They give the same numbers as the plain model, to a rounding (dropout: with other random numbers). The tests hold that;
benchmarks/ has what each of them gains. Shapes as in model/transformer.py.
"""

import copy
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import Config
from model.cache import Cache
from model.device import compile_blocks
from model.ensemble import Ensemble
from model.language_model import LanguageModel
from model.transformer import GPT, Block, DotProductAttention

FEW = 8  # rows; with more of them torch's own product keeps all cores busy
LARGE = 1 << 17  # weights; a smaller product is done before a second core could begin
LEVELS = 1 << 8  # a dropout probability is a multiple of 1 / LEVELS on a CPU
Pair = tuple[Tensor, Tensor]  # weight and bias


class Layer(NamedTuple):
    """The parameters of a block. Asking the modules for them takes as long as some of the products."""

    ln_1: Pair
    c_attn: Pair
    attn_proj: Pair
    ln_2: Pair
    c_fc: Pair
    mlp_proj: Pair

    @classmethod
    def of(cls, block: Block) -> "Layer":
        """Of this block, each weight laid out for writing."""
        attn, mlp = block.attn, block.mlp
        modules = block.ln_1, attn.c_attn, attn.c_proj, block.ln_2, mlp.c_fc, mlp.c_proj
        return cls(*((laid_out(module.weight.detach()), module.bias.detach()) for module in modules))


class Writer:
    """A GPT that writes: one more token of each text takes as few calls as it can. Made by `for_writing`.

    It sees the weights as they were when it was made. No gradient, no dropout.
    """

    def __init__(self, model: GPT) -> None:
        self.model, self.config = model, model.config
        self.wte, self.wpe = model.wte, model.wpe.weight.detach()
        self.embedding, self.bias = laid_out(model.wte.weight.detach()), model.head_bias
        self.layers = [Layer.of(block) for block in model.h]  # type: ignore[arg-type]
        self.ln_f = model.ln_f.weight.detach(), model.ln_f.bias.detach()

    def trunk(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """As GPT.trunk."""
        if cache is None or ids.shape[1] != 1:
            return self.model.trunk(ids, cache)
        return self.step(ids[:, 0], cache)[:, None]

    def head(self, hidden: Tensor) -> Tensor:
        """As GPT.head."""
        return product(hidden, self.embedding, self.bias)

    def new_cache(self, batch_size: int) -> Cache:
        """As GPT.new_cache."""
        return self.model.new_cache(batch_size)

    def num_parameters(self) -> int:
        """As GPT.num_parameters."""
        return self.model.num_parameters()

    def step(self, ids: Tensor, cache: Cache) -> Tensor:
        """Hidden states (B, C) after one more token of each text, ids (B,); the cache is updated."""
        config, B, seen = self.config, len(ids), max(cache.lengths)
        assert seen < config.block_size, f"{seen} + 1 tokens exceed the context of {config.block_size}"
        C, H = (config.n_embd,), config.n_head
        positions, mask = cache.positions(1), None
        if positions is not None:
            mask = torch.arange(seen + 1, device=ids.device) <= positions[:, None, :, None]  # (B, 1, 1, S)
        linear = product if B <= FEW else F.linear
        x = self.embedding[ids] + self.wpe[seen if positions is None else positions[:, 0]]
        for number, layer in enumerate(self.layers):
            qkv = linear(torch.layer_norm(x, C, *layer.ln_1), *layer.c_attn)
            qkv = qkv.view(B, 3, 1, H, -1).transpose(0, 1)  # (3, B, 1, H, D)
            k, v = cache.append(number, qkv[1:], positions).transpose(2, 3).unbind(0)  # (B, H, S, D)
            y = F.scaled_dot_product_attention(qkv[0].transpose(1, 2), k, v, attn_mask=mask)  # (B, H, 1, D)
            x += linear(y.reshape(B, -1), *layer.attn_proj)
            y = linear(torch.layer_norm(x, C, *layer.ln_2), *layer.c_fc)
            y = F.gelu(y, approximate="tanh") if config.activation == "gelu" else F.relu(y)
            x += linear(y, *layer.mlp_proj)
        cache.lengths = [length + 1 for length in cache.lengths]
        return torch.layer_norm(x, C, *self.ln_f)


def laid_out(weight: Tensor) -> Tensor:
    """A matrix with more outputs than inputs, column by column in memory, if it is on a CPU; else as it is.

    The numbers and the shape are the same, but torch reads it two to three times as fast for a product of few rows.
    """
    wide = weight.dim() == 2 and weight.shape[0] > weight.shape[1]
    return weight.t().contiguous().t() if wide and weight.device.type == "cpu" else weight


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, (..., O), of x (..., C), weight (O, C) and bias (O,): F.linear, to a rounding.

    A text is written by products of one row, and torch gives these to one core. Here each core computes a part of the
    outputs, as one product of a batch.
    """
    rows, (outputs, C), cores = x.numel() // weight.shape[1], weight.shape, torch.get_num_threads()
    if weight.numel() < LARGE or x.device.type != "cpu" or cores == 1 or not fewest_rows() <= rows <= FEW:
        return F.linear(x, weight, bias)
    even = outputs - outputs % cores  # those that can be shared evenly
    shared = x.reshape(1, rows, C).expand(cores, rows, C)
    parts = weight[:even].unflatten(0, (cores, -1)).transpose(1, 2)  # (cores, C, even / cores)
    y = torch.bmm(shared, parts) if bias is None else torch.baddbmm(bias[:even].view(cores, 1, -1), shared, parts)
    y = y.transpose(0, 1).reshape(*x.shape[:-1], even)
    if even == outputs:
        return y
    return torch.cat([y, F.linear(x, weight[even:], None if bias is None else bias[even:])], dim=-1)


@cache
def fewest_rows() -> int:
    """Rows from which on sharing pays. MKL itself shares fewer on Intel's processors, and on no others."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return 4 if str(able.get("cpu_name", "")).startswith("Intel") else 1


class Dropout(nn.Dropout):
    """torch's, with random numbers that cost a sixth on a CPU, where torch draws each in double precision.

    Eight numbers share one 64-bit random number, and p is the nearest multiple of 1 / 256 between 0 and 1. (Not where
    this is compiled: torch can't trace such a draw.)
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        zeroed = min(max(1, round(self.p * LEVELS)), LEVELS - 1)
        drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None).view(torch.int8)
        kept = drawn[: x.numel()].view(x.shape) >= zeroed - LEVELS // 2
        return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - zeroed))


class Float32Attention(DotProductAttention):
    """The same in float32: in bfloat16 torch's gradient of it takes four times as long on a CPU."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(q.float(), k.float(), v.float(), mask, causal).to(q.dtype)


def for_writing(model: LanguageModel) -> LanguageModel:
    """The model as it writes fastest: a GPT, and the members of an ensemble, as a Writer. It sees today's weights."""
    if isinstance(model, GPT):
        return Writer(model)
    if isinstance(model, Ensemble):
        writing = copy.copy(model)
        writing.members = [replace(member, model=Writer(member.model)) for member in model.members]  # type: ignore[arg-type]
        return writing
    return model


def shape_multiple(config: Config, device: torch.device, dtype: torch.dtype) -> int:
    """Of what number a batch should have a multiple of places, for there is code to be made for each shape."""
    if config.machine.compile:
        return config.model.block_size
    return 2 if dtype == torch.bfloat16 and config.model.block_size % 2 == 0 else 1


def for_training(model: GPT, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> GPT:
    """The model on `device`, changed in place so that a step takes less time; its parameters stay as they are.

    Args:
        dtype: of the matrix products.
        compiled: the blocks go through torch.compile.

    Raises:
        UserError: there is no compiler, which torch.compile needs.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
            elif type(child) is DotProductAttention and device.type == "cpu" and dtype == torch.bfloat16:
                setattr(module, name, Float32Attention())
    model.wte.sparse = device.type == "cpu"  # its gradient joins the head's without being made dense first
    if compiled:
        compile_blocks(model)
    return model.to(device)
