"""GPT-2's tokenizer as files for other programs, with all tokens or those of a small vocabulary."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from torch import Tensor

from model.tokenizer import END_TEXT, Tokenizer, byte_stand_ins
from model.vocabulary import Vocabulary

Pairs = list[tuple[str, str]]


def tokens_and_merges(tokenizer: Tokenizer, ids: Tensor) -> tuple[list[str], Pairs]:
    """The tokens `ids` (n,) as GPT-2 spells them, in that order, and the merges that make them, in GPT-2's order."""
    token_of, merges = bpe(tokenizer)
    tokens = [token_of[index] for index in ids.tolist()]
    there = set(tokens)
    return tokens, [(left, right) for left, right in merges if left + right in there]


def bpe(tokenizer: Tokenizer) -> tuple[dict[int, str], Pairs]:
    """All of GPT-2's tokens by id, and its merges in order."""
    merges = json.loads(tokenizer.backend.to_str())["model"]["merges"]
    token_of = {index: token for token, index in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    return token_of, [(left, right) for left, right in merges]


def closed_ids(tokenizer: Tokenizer, vocabulary: Vocabulary) -> Tensor:
    """GPT-2 ids, ascending, of a small vocabulary. It splits a text as GPT-2 does if it holds all of the text's tokens.

    It holds the tokens with a vocabulary entry of their own, the commonest of each shared entry, the tokens that BPE
    merges to get all these, and the 256 bytes, so that it can write any text; other words are split into more tokens.
    """
    token_of, merges = bpe(tokenizer)
    halves = {left + right: (left, right) for left, right in merges}
    needed = set(byte_stand_ins().values())
    first = {row: index for index, row in reversed(list(enumerate(vocabulary.id_of.tolist())))}  # lower: commoner
    todo = [token_of[index] for index in first.values()]
    while todo:
        token = todo.pop()
        if token not in needed:
            needed.add(token)
            todo += halves.get(token, ())
    return torch.tensor([index for index, token in sorted(token_of.items()) if token in needed])


def save_tokenizer(folder: Path, tokens: list[str], merges: Pairs, *, context: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json as GPT-2's own are."""
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_TEXT, normalized=True, special=True)])
    backend.save(str(folder / "tokenizer.json"))
    marks = {"bos_token": END_TEXT, "eos_token": END_TEXT, "unk_token": END_TEXT}
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "model_max_length": context, **marks}
    config["clean_up_tokenization_spaces"] = False
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", marks)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
