"""Weights to start from (`model.init_from`): our checkpoint, a Hugging Face folder, or a name on its hub.

`load_pretrained` makes a GPT and a Vocabulary of them; `carry_over` then copies the weights to the vocabulary of the
tweets, token by token.
"""

import json
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from torch import Tensor

from config.schema import ModelConfig, UserError
from export.stock import HEAD, constants, from_hugging_face, from_stock
from model.checkpoint import load_bundle
from model.tokenizer import NUM_TOKENS, Tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary

EXTRA_FILE = "elon_transformer.npz"  # beside the weights of an export: what a stock GPT-2 has no place for
WANTED = [EXTRA_FILE, "config.json", "model*.safetensors", "model.safetensors.index.json"]
WANTED += ["tokenizer.json", "vocab.json", "merges.txt"]
SIZES = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "block_size": "n_positions"}  # in config.json
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu": "relu"}
FIXED = {  # keys of config.json, and the values that our transformer supports
    "model_type": ("gpt2",),
    "layer_norm_epsilon": (None, 1e-5),
    "scale_attn_weights": (None, True),
    "scale_attn_by_inverse_layer_idx": (None, False),
    "add_cross_attention": (None, False),
}


@dataclass(frozen=True)
class Pretrained:
    """A model to start from.

    Attributes:
        model, vocabulary: as they were trained, except for the context length, which may be shorter.
        config: the settings asked for, with sizes that follow the weights.
    """

    model: GPT
    vocabulary: Vocabulary
    config: ModelConfig


def load_pretrained(config: ModelConfig, tokenizer: Tokenizer) -> Pretrained:
    """The model that `config.init_from` names: a file, a folder or a hub name.

    Raises:
        UserError: there is no such model, or it is not a GPT-2 with GPT-2's tokens.
    """
    name = str(config.init_from)
    path, where = Path(name).expanduser(), f"model.init_from {name}"
    if path.is_file() or path.suffix in (".pth", ".pt"):
        bundle = load_bundle(path, torch.device("cpu"))
        sizes = {key: getattr(bundle.model.config, key) for key in (*SIZES, "activation")}
        state, vocabulary = bundle.model.state_dict(), bundle.vocabulary
    else:
        folder = path if path.is_dir() else download_model(name)
        sizes = read_sizes(read_hub_json(folder / "config.json", where), where)
        state, vocabulary = load_folder(folder, where, tokenizer)
    sizes["block_size"] = min(config.block_size, sizes["block_size"])
    config = replace(config, **sizes)
    model = GPT(replace(config, output_bias="head_bias" in state), vocabulary.vocab_size)
    state["wpe.weight"] = state["wpe.weight"][: config.block_size]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise UserError(f"{where}: its weights are not those its config.json tells of ({lines[:200]})") from None
    return Pretrained(model.eval(), vocabulary, config)


def download_model(name: str) -> Path:
    """The folder in which the hub's client stores the model `name`; downloads only what is missing."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except Exception as error:  # the hub's client raises many classes; all mean the same here
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model.init_from {name}: neither a file, nor a folder, nor to be had from Hugging Face's hub ({reason})"
        ) from None


def load_folder(folder: Path, where: str, tokenizer: Tokenizer) -> tuple[dict[str, Tensor], Vocabulary]:
    """State and vocabulary of a GPT2LMHeadModel, maybe an export of ours."""
    tensors = from_hugging_face(read_tensors(folder, where))
    if not {"wte.weight", "wpe.weight"} <= tensors.keys():
        raise UserError(f"{where}: its weights are not those of a GPT2LMHeadModel (wte or wpe is missing)")
    if (folder / EXTRA_FILE).is_file():
        return from_export(tensors, folder / EXTRA_FILE, where)
    embedding = tensors["wte.weight"]
    if len(embedding) < NUM_TOKENS:
        raise UserError(
            f"{where}: it has {len(embedding):,} tokens, GPT-2 has {NUM_TOKENS:,}: its tokenizer is another"
        )
    if not torch.equal(tensors.pop(HEAD, embedding), embedding):
        raise UserError(f"{where}: its head is not its embedding, and this model has one matrix for both")
    check_tokens(folder, tokenizer, where)
    tensors["wte.weight"] = embedding[:NUM_TOKENS]  # some are padded to a rounder number
    return tensors, Vocabulary.full()


def from_export(tensors: dict[str, Tensor], path: Path, where: str) -> tuple[dict[str, Tensor], Vocabulary]:
    """State and vocabulary of an export of ours."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = from_stock(tensors, {name: torch.from_numpy(value) for name, value in file.items()})
    except (KeyError, ValueError, RuntimeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error):
        found = None
    if found is None:
        raise UserError(f"{where}: {path.name} does not fit the weights beside it: they were changed after the export")
    return found


def read_hub_json(path: Path, where: str) -> dict[str, Any]:
    """The JSON object in a file of a Hugging Face folder.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{where}: there is no {path.name} in it") from None
    except ValueError:
        raise UserError(f"{where}: {path.name} is damaged") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: {path.name} holds no JSON object")
    return found


def read_sizes(found: dict[str, Any], where: str) -> dict[str, Any]:
    """Our settings for a config.json of Hugging Face."""
    for key, allowed in FIXED.items():
        if found.get(key) not in allowed:
            raise UserError(f"{where}: {key} is {found.get(key)!r} in its config.json, and must be {allowed[-1]!r}")
    activation = found.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"{where}: its activation is {activation!r}, and must be one of {', '.join(ACTIVATIONS)}")
    try:
        sizes = {key: int(found[given]) for key, given in SIZES.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: its config.json does not tell the model's sizes ({error})") from None
    if found.get("n_inner") not in (None, 4 * sizes["n_embd"]):
        raise UserError(f"{where}: n_inner is {found['n_inner']!r} in its config.json, and must be four times n_embd")
    return {**sizes, "activation": ACTIVATIONS[activation]}


def read_tensors(folder: Path, where: str) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the files that its index names."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file() and not (folder / "model.safetensors").is_file():
        names = {Path(part).name for part in read_hub_json(index, where).get("weight_map", {}).values()}
    tensors: dict[str, Tensor] = {}
    try:
        for name in sorted(names):
            tensors |= load_file(folder / name)
    except FileNotFoundError:
        hint = ": pytorch_model.bin may hold code, so it is not read; save the model as safetensors"
        pickled = (folder / "pytorch_model.bin").is_file()
        raise UserError(f"{where}: there is no {name} in it" + (hint if pickled else "")) from None
    except SafetensorError as error:
        raise UserError(f"{where}: {name} is damaged ({error})") from None
    return tensors


def check_tokens(folder: Path, tokenizer: Tokenizer, where: str) -> None:
    """Refuse a model whose own tokenizer, if it has one, gives GPT-2's tokens other ids; it may have more tokens."""
    ours = tokenizer.backend.get_vocab(with_added_tokens=True)
    if (folder / "tokenizer.json").is_file():
        try:
            theirs = Backend.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
        except Exception:  # the library raises nothing narrower
            raise UserError(f"{where}: tokenizer.json is damaged") from None
    else:
        theirs = read_hub_json(folder / "vocab.json", where) if (folder / "vocab.json").is_file() else ours
    if not ours.items() <= theirs.items():
        raise UserError(f"{where}: its tokenizer is not GPT-2's, so its tokens mean something else")


@torch.no_grad()
def carry_over(start: Pretrained, model: GPT, vocabulary: Vocabulary) -> None:
    """Copy the pretrained weights into `model`; each token keeps its embedding.

    The embedding of a shared vocabulary entry becomes the mean of its tokens' embeddings, weighted by their prior q.
    Its bias becomes the mean of their biases less log q. So its logit is a lower bound on the log of the summed
    exponentials of theirs (Jensen's inequality). An entry of the same tokens in both keeps its weights, bit for bit.
    """
    everything = torch.arange(NUM_TOKENS)
    state = start.model.state_dict()
    bias = constants(start.vocabulary, state.pop("head_bias", None), everything)
    embedding = state.pop("wte.weight").double()[start.vocabulary.id_of]
    prior = constants(vocabulary, None, everything)
    share = prior.exp()  # of each token in its vocabulary entry; 1 for a token with an entry of its own
    rows = torch.zeros(vocabulary.vocab_size, embedding.shape[1], dtype=torch.float64)
    state["wte.weight"] = rows.index_add_(0, vocabulary.id_of, embedding * share[:, None]).float()
    if model.head_bias is not None:
        biases = torch.zeros(vocabulary.vocab_size, dtype=torch.float64)
        state["head_bias"] = biases.index_add_(0, vocabulary.id_of, (bias - prior) * share).float()
    model.load_state_dict(state)
