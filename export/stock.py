"""Our model as a stock GPT-2 (transformers' GPT2LMHeadModel, llama.cpp's gpt2), and back: one table of names.

A stock GPT-2 has no place for two things of ours: a bias for each vocabulary entry, and tokens that share an entry,
each with a log prior. Both only add a constant to a token's logit, and the last LayerNorm leaves room for one. Before
its gain g and bias b its output n sums to zero, so for any row w of the head and any constant t

    w . (g * n + b) + t  =  v . (1 * n + 1)    with  v = w * g - mean(w * g) + (w . b + t) / C

for every n. Folded this way (a gain and bias of ones, a head of its own) the logits are the same, whatever g and b are.
What folding loses is kept in a file beside the weights, so that `from_stock` is exact to the bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from config.schema import ModelConfig
from model.transformer import GPT
from model.vocabulary import Vocabulary

# Our names, which are Hugging Face's but for a prefix, and llama.cpp's; {} is the layer.
LLAMA_CPP_NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "h.{}.ln_1": "blk.{}.attn_norm",
    "h.{}.attn.c_attn": "blk.{}.attn_qkv",
    "h.{}.attn.c_proj": "blk.{}.attn_output",
    "h.{}.ln_2": "blk.{}.ffn_norm",
    "h.{}.mlp.c_fc": "blk.{}.ffn_up",
    "h.{}.mlp.c_proj": "blk.{}.ffn_down",
    "ln_f": "output_norm",
    "lm_head": "output",
}
HEAD = "lm_head.weight"
PREFIX = "transformer."  # before Hugging Face's names, but for the head's; left out in OpenAI's own files


@dataclass(frozen=True)
class Stock:
    """A stock GPT-2.

    Attributes:
        config: its shape.
        ids: (n,) GPT-2 id of each of its tokens, ascending.
        tensors: float32 on the CPU, by our names, matrices as (out, in); a head only if it is not the embedding.
        kept: what the way back needs beside the tensors; empty where nothing was folded.
    """

    config: ModelConfig
    ids: Tensor
    tensors: dict[str, Tensor]
    kept: dict[str, Tensor]


def to_stock(model: GPT, vocabulary: Vocabulary, ids: Tensor) -> Stock:
    """The same model over the tokens `ids` (n,), ascending, at least one of each vocabulary entry.

    Over all of GPT-2's tokens the distribution is the same. Over fewer, the tokens that share a vocabulary entry divide
    its whole probability.
    """
    tensors = {name: value.detach().cpu().float() for name, value in model.state_dict().items()}
    bias = tensors.pop("head_bias", None)
    if bias is None and not vocabulary.is_shared.any():
        return Stock(model.config, ids, tensors, {})
    kept = {name: tensors[name] for name in ("ln_f.weight", "ln_f.bias")}
    kept |= {"id_of": vocabulary.id_of, "log_prior": vocabulary.log_prior, "exported": ids}
    kept |= {} if bias is None else {"head_bias": bias}
    tensors["wte.weight"] = tensors["wte.weight"][vocabulary.id_of[ids]]
    return Stock(model.config, ids, tensors | fold(tensors, constants(vocabulary, bias, ids)), kept)


def constants(vocabulary: Vocabulary, bias: Tensor | None, ids: Tensor) -> Tensor:
    """The constant for each of these tokens' logits, (n,): its vocabulary entry's bias and its log prior in it."""
    rows = vocabulary.id_of[ids]
    prior = vocabulary.log_prior[ids].double().exp()
    total = torch.zeros(vocabulary.vocab_size, dtype=torch.float64).index_add_(0, rows, prior)
    assert bool((total > 0).all()), "a vocabulary entry without a token would lose its probability"
    constant = (prior / total[rows]).log()
    return constant if bias is None else constant + bias.double()[rows]


def fold(tensors: dict[str, Tensor], constant: Tensor) -> dict[str, Tensor]:
    """Head and last LayerNorm that give the logits of the tied head plus `constant` (n,); see the top of this file."""
    w, g, b = (tensors[name].double() for name in ("wte.weight", "ln_f.weight", "ln_f.bias"))
    C = w.shape[1]
    head = w * g
    head += ((w @ b + constant - head.sum(1)) / C)[:, None]
    return {HEAD: head.float(), "ln_f.weight": torch.ones(C), "ln_f.bias": torch.ones(C)}


def from_stock(tensors: dict[str, Tensor], kept: dict[str, Tensor]) -> tuple[dict[str, Tensor], Vocabulary] | None:
    """State and vocabulary of our model, bit for bit, from the `tensors` and `kept` of a Stock.

    None if the tensors were changed since (by training, for example), so that `kept` does not fit them any more.
    """
    vocabulary, ids = Vocabulary(kept["id_of"], kept["log_prior"]), kept["exported"]
    state = tensors | {name: kept[name] for name in ("ln_f.weight", "ln_f.bias")}
    again = fold(state, constants(vocabulary, kept.get("head_bias"), ids))
    if not all(torch.allclose(tensors[name], value, atol=1e-5) for name, value in again.items()):
        return None
    del state[HEAD]
    embedding = torch.empty(vocabulary.vocab_size, tensors["wte.weight"].shape[1])
    embedding[vocabulary.id_of[ids]] = tensors["wte.weight"]
    state["wte.weight"] = embedding
    return state | {name: kept[name] for name in ("head_bias",) if name in kept}, vocabulary


def is_transposed(name: str) -> bool:
    """Whether Hugging Face holds this tensor as (in, out): its GPT-2 has Conv1D where others have Linear."""
    return name.startswith("h.") and name.endswith(".weight") and ".ln_" not in name


def to_hugging_face(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under Hugging Face's names, in its layout."""
    return {
        name if name == HEAD else PREFIX + name: value.T.contiguous() if is_transposed(name) else value.contiguous()
        for name, value in tensors.items()
    }


def from_hugging_face(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under our names, in our layout, in float32, without attention masks."""
    ours = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    return {
        name: (value.T if is_transposed(name) else value).float().contiguous()
        for name, value in ours.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }


def llama_cpp_name(name: str) -> str:
    """llama.cpp's name of one of our tensors; its matrices are ours, as (out, in)."""
    module, kind = name.rsplit(".", 1)
    parts = module.split(".")
    if parts[0] != "h":
        return f"{LLAMA_CPP_NAMES[module]}.{kind}"
    return f"{LLAMA_CPP_NAMES['.'.join(['h', '{}', *parts[2:]])].format(parts[1])}.{kind}"
