"""Faster versions of model/transformer.py: `for_writing` for writing token by token, `for_training` for training.

They compute what the plain model computes, up to rounding; only dropout draws other random numbers. Tests compare the
two, and benchmarks/ measures the gain of each. Shapes as in model/transformer.py.
"""

import copy
from dataclasses import replace
from functools import cache, cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import Config
from model.cache import Cache
from model.causal_lm import CausalLM
from model.device import compile_blocks
from model.ensemble import Ensemble
from model.language_model import LanguageModel
from model.transformer import GPT, Block, DotProductAttention

FEW = 8  # rows of a matrix product; with more of them torch itself uses all cores
LARGE = 1 << 17  # numbers in a weight matrix; with fewer, sharing the product costs more time than it saves
LEVELS = 1 << 8  # a dropout probability is a multiple of 1 / LEVELS on a CPU
PACKED = 4  # rows of a product from which on oneDNN is faster
ROWS = 16  # for which it stores the weights: that is the best for 4 to 64 rows
Pair = tuple[Tensor, Tensor]  # weight and bias of a layer norm
Trainable = GPT | CausalLM


class Layer(NamedTuple):
    """The parameters of a block. Looking them up in the modules takes as long as some of the products."""

    ln_1: Pair
    c_attn: "Product"
    attn_proj: "Product"
    ln_2: Pair
    c_fc: "Product"
    mlp_proj: "Product"

    @classmethod
    def of(cls, block: Block) -> "Layer":
        """The parameters of `block`."""
        attn, mlp = block.attn, block.mlp
        c_attn, attn_proj, c_fc, mlp_proj = map(Product.of, (attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj))
        return cls(parameters(block.ln_1), c_attn, attn_proj, parameters(block.ln_2), c_fc, mlp_proj)


def parameters(norm: nn.LayerNorm) -> Pair:
    """Weight and bias of a layer norm."""
    return norm.weight.detach(), norm.bias.detach()


class Product:
    """x W^T + b with the weights (O, C) that a layer has now, stored in the layouts that are fastest for writing."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = column_major(weight.detach()), None if bias is None else bias.detach()

    @classmethod
    def of(cls, linear: nn.Linear) -> "Product":
        """The product of a module."""
        return cls(linear.weight, linear.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., O) from x (..., C)."""
        if x.dim() != 2 or len(x) < PACKED or self.packed is None:
            return product(x, self.weight, self.bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return found

    @cached_property
    def packed(self) -> Tensor | None:
        """The weights as oneDNN stores them on a CPU; None where it can't.

        With 4 to 64 rows its product takes 40% to 70% of the time of F.linear, which calls MKL.
        """
        on_cpu = self.weight.device.type == "cpu" and self.weight.dtype == torch.float32
        if not (on_cpu and torch.backends.mkldnn.is_available()):
            return None
        found: Tensor = torch.ops.mkldnn._reorder_linear_weight(self.weight, ROWS)
        return found


class Writer:
    """A copy of a GPT that reads one more token of each text in few calls of torch; see `for_writing`.

    It is a copy as long as the weights of the GPT stay as they are. It has no gradient and no dropout.
    """

    def __init__(self, model: GPT) -> None:
        self.model, self.config = model, model.config
        self.wte, self.wpe = model.wte, model.wpe.weight.detach()
        self.logits = Product(model.wte.weight, model.head_bias)
        self.layers = [Layer.of(block) for block in model.h]  # type: ignore[arg-type]
        self.ln_f = parameters(model.ln_f)

    def trunk(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """As GPT.trunk."""
        if cache is None or ids.shape[1] != 1:
            return self.model.trunk(ids, cache)
        return self.step(ids[:, 0], cache)[:, None]

    def head(self, hidden: Tensor) -> Tensor:
        """As GPT.head."""
        return self.logits(hidden)

    def new_cache(self, batch_size: int) -> Cache:
        """As GPT.new_cache."""
        return self.model.new_cache(batch_size)

    def num_parameters(self) -> int:
        """As GPT.num_parameters."""
        return self.model.num_parameters()

    def step(self, ids: Tensor, cache: Cache) -> Tensor:
        """Hidden states (B, C) of one more token of each text, ids (B,). The cache is updated."""
        config, B, seen = self.config, len(ids), max(cache.lengths)
        assert seen < config.block_size, f"{seen} + 1 tokens exceed the context of {config.block_size}"
        C, H = (config.n_embd,), config.n_head
        positions, mask = cache.positions(1), None
        if positions is not None:
            mask = torch.arange(seen + 1, device=ids.device) <= positions[:, None, :, None]  # (B, 1, 1, S)
        x = self.wte.weight.detach()[ids] + self.wpe[seen if positions is None else positions[:, 0]]
        for number, layer in enumerate(self.layers):
            qkv = layer.c_attn(torch.layer_norm(x, C, *layer.ln_1)).view(B, 3, H, 1, -1).transpose(0, 1)
            k, v = cache.append(number, qkv[1:], positions).unbind(0)  # (B, H, S, D)
            y = F.scaled_dot_product_attention(qkv[0], k, v, attn_mask=mask)  # (B, H, 1, D)
            x += layer.attn_proj(y.reshape(B, -1))
            y = layer.c_fc(torch.layer_norm(x, C, *layer.ln_2))
            x += layer.mlp_proj(F.gelu(y, approximate="tanh") if config.activation == "gelu" else F.relu(y))
        cache.lengths = [length + 1 for length in cache.lengths]
        return torch.layer_norm(x, C, *self.ln_f)


def column_major(weight: Tensor) -> Tensor:
    """The same matrix, stored column by column if it is on a CPU and has more outputs than inputs.

    With this layout a product of few rows is two to three times as fast.
    """
    wide = weight.dim() == 2 and weight.shape[0] > weight.shape[1]
    return weight.t().contiguous().t() if wide and weight.device.type == "cpu" else weight


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b, (..., O), for x (..., C), weight (O, C) and bias (O,). Equal to F.linear up to rounding.

    Writing one text takes products of one row, for which torch uses one core. Here each core computes a part of the
    outputs: a batched product with one part for each core.
    """
    rows, (outputs, C), cores = x.numel() // weight.shape[1], weight.shape, torch.get_num_threads()
    if weight.numel() < LARGE or x.device.type != "cpu" or cores == 1 or not fewest_rows() <= rows <= FEW:
        return F.linear(x, weight, bias)
    even = outputs - outputs % cores  # outputs that can be divided evenly among the cores
    shared = x.reshape(1, rows, C).expand(cores, rows, C)
    parts = weight[:even].unflatten(0, (cores, -1)).transpose(1, 2)  # (cores, C, even / cores)
    y = torch.bmm(shared, parts) if bias is None else torch.baddbmm(bias[:even].view(cores, 1, -1), shared, parts)
    y = y.transpose(0, 1).reshape(*x.shape[:-1], even)
    if even == outputs:
        return y
    return torch.cat([y, F.linear(x, weight[even:], None if bias is None else bias[even:])], dim=-1)


@cache
def fewest_rows() -> int:
    """The fewest rows for which sharing saves time. On Intel's processors MKL itself shares products of fewer rows."""
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return 4 if str(features.get("cpu_name", "")).startswith("Intel") else 1


class Dropout(nn.Dropout):
    """Dropout whose random numbers take a sixth of the time on a CPU, where torch draws each in double precision.

    One 64-bit random number decides over eight elements, so p is rounded to a multiple of 1 / 256 (never to 0 or 1).
    Compiled code uses torch's dropout, because torch can't trace this way of drawing.
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
    """The same, computed in float32. On a CPU its gradient takes torch four times as long in bfloat16."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(q.float(), k.float(), v.float(), mask, causal).to(q.dtype)


def for_writing(model: LanguageModel) -> LanguageModel:
    """The fastest version of a model for writing: a GPT, and each member of an ensemble, becomes a Writer.

    Make a new one when the weights of the model have changed.
    """
    if isinstance(model, GPT):
        return Writer(model)
    if isinstance(model, Ensemble):
        writing = copy.copy(model)
        writing.members = [replace(member, model=Writer(member.model)) for member in model.members]  # type: ignore[arg-type]
        return writing
    return model


def shape_multiple(config: Config, dtype: torch.dtype) -> int:
    """The padded length of a batch should be a multiple of this: making code for a new shape takes time."""
    if config.machine.compile:
        return config.model.block_size
    return 2 if dtype == torch.bfloat16 and config.model.block_size % 2 == 0 else 1


def for_training(model: Trainable, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> Trainable:
    """Move the model to `device` and change it in place so that a training step takes less time.

    The parameters keep their values and names.

    Args:
        dtype: of the matrix products.
        compiled: whether to compile the blocks with torch.compile.

    Raises:
        UserError: there is no C++ compiler, which torch.compile needs.
    """
    if not isinstance(model, GPT):
        return model.to(device)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
            elif type(child) is DotProductAttention and device.type == "cpu" and dtype == torch.bfloat16:
                setattr(module, name, Float32Attention())
    model.wte.sparse = device.type == "cpu"  # the gradient of the head is added to it without making it dense first
    if compiled:
        compile_blocks(model)
    return model.to(device)
