"""Gives a pretrained model GPT-2's tokens in place of its own, so that it can teach a model of ours.

Most of GPT-2's tokens are tokens of any other byte-level vocabulary too, and keep their vectors. Each of the others is
written by the model as several pieces. It is read as the mean of their vectors (Gee et al. 2022, arXiv 2402.09977), and
predicted like its first piece t, from which it gets the share

    M[t, s] = how often GPT-2's token s begins where the model's token t begins, as a share of all such places

counted on the training tweets. So p(s) = p(t) M[t, s], and digits or names, which GPT-2 has in one token, are not
counted several times. The head of such a model has no bias to hold log M. A direction u with u . h = 1 for all hidden
states h does the same: log M u is added to the output vector. What is not exact is corrected by the fine-tuning.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from config.schema import UserError
from model.tokenizer import END, NUM_TOKENS, Tokenizer, byte_stand_ins

SPACE = "\u2581"  # SentencePiece writes a space so
PRIOR = 0.5  # places added to those counted for a token of the model, divided among the tokens it may stand for
OWN_SHARE = 0.9  # of these, what the same token of GPT-2's gets; the rest is for longer tokens that begin with it
RIDGE = 1e-4  # penalty on the length of u, relative to the mean square of a hidden state's numbers
PROBED = 200  # tweets whose hidden states u is fitted to


@dataclass(frozen=True)
class Correspondence:
    """How GPT-2's tokens are made of a model's tokens.

    Attributes:
        pieces: the model's tokens that spell each of GPT-2's, (50257,) lists.
        log_share: (50257,) log M[first piece, token].
    """

    pieces: Sequence[Sequence[int]]
    log_share: Tensor

    @property
    def first(self) -> Tensor:
        """(50257,) the first piece of each token."""
        return torch.tensor([pieces[0] for pieces in self.pieces])


def token_spellings(theirs: Any, name: str = "the model") -> dict[int, bytes]:
    """The bytes of each token of a tokenizer of `transformers`, without special tokens.

    Raises:
        UserError: its tokens can't be spelt: it is neither byte-level nor SentencePiece.
    """
    special = set(theirs.all_special_ids) | set(theirs.added_tokens_decoder)
    tokens = {index: token for token, index in theirs.get_vocab().items() if index not in special}
    byte_of = {stand_in: byte for byte, stand_in in byte_stand_ins().items()}
    pieces = any(token.startswith(SPACE) for token in tokens.values())
    found = {}
    for index, token in tokens.items():
        if pieces:
            hexadecimal = len(token) == 6 and token.startswith("<0x")
            found[index] = bytes([int(token[3:5], 16)]) if hexadecimal else token.replace(SPACE, " ").encode()
        elif all(character in byte_of for character in token):
            found[index] = bytes(byte_of[character] for character in token)
    if len(found) < len(tokens) // 2 or b" " not in b"".join(found.values()):
        raise UserError(
            f"{name}: its tokens can't be spelt as bytes, as those of byte-level tokenizers and SentencePiece can"
        )
    return found


def correspond(theirs: Any, end: int, ours: Tokenizer, texts: Sequence[str]) -> Correspondence:
    """How GPT-2's tokens are made of those of a tokenizer of `transformers`.

    Args:
        theirs: the tokenizer.
        end: its token for the end of a text.
        texts: on which M is counted.
    """
    spelling = token_spellings(theirs)
    token_of = {spelt: index for index, spelt in reversed(spelling.items())}
    pieces = [
        [end] if index == END else split(spelt, theirs, spelling, token_of) or [end]
        for index, spelt in enumerate(ours.token_bytes)
    ]
    counts = count_places(theirs, spelling, ours, texts)
    total = Counter[int]()
    for (token, _), count in counts.items():
        total[token] += count
    share = torch.zeros(NUM_TOKENS)
    same = {pieces[index][0] for index in range(NUM_TOKENS) if len(pieces[index]) == 1}
    children = Counter(each[0] for each in pieces)
    for index, (first, *rest) in enumerate(pieces):
        prior = 1.0 / children[first]
        if first in same and children[first] > 1:
            prior = (1.0 - OWN_SHARE) / (children[first] - 1) if rest else OWN_SHARE
        share[index] = (counts[first, index] + PRIOR * prior) / (total[first] + PRIOR)
    return Correspondence(pieces, share.log())


def split(spelt: bytes, theirs: Any, spelling: dict[int, bytes], token_of: dict[bytes, int]) -> list[int]:
    """The tokens that spell `spelt`: as the tokenizer splits it, else the longest ones from the left."""
    if spelt in token_of:
        return [token_of[spelt]]
    try:
        found: list[int] = theirs(spelt.decode(), add_special_tokens=False)["input_ids"]
        if b"".join(spelling.get(index, b"?") for index in found) == spelt:
            return found
    except UnicodeDecodeError:
        pass
    found, begin = [], 0
    while begin < len(spelt):
        end = next((end for end in range(len(spelt), begin, -1) if spelt[begin:end] in token_of), None)
        if end is not None:
            found.append(token_of[spelt[begin:end]])
        begin = end or begin + 1  # a byte that the model has no token for is left out
    return found


def count_places(
    theirs: Any, spelling: dict[int, bytes], ours: Tokenizer, texts: Sequence[str]
) -> Counter[tuple[int, int]]:
    """How often a token of theirs and a token of ours begin at the same byte of `texts`."""
    found: Counter[tuple[int, int]] = Counter()
    their_ids = theirs(list(texts), add_special_tokens=False)["input_ids"]
    for text, our_ids, other_ids in zip(texts, ours.encode_batch(list(texts)), their_ids, strict=True):
        spelt = [spelling.get(index, b"") for index in other_ids]
        if b"".join(spelt) != text.encode():
            continue  # the tokenizer changes the text, so places can't be compared
        begins, place = {}, 0
        for index, part in zip(other_ids, spelt, strict=True):
            begins[place] = index
            place += len(part)
        place = 0
        for index in our_ids:
            if place in begins:
                found[begins[place], index] += 1
            place += len(ours.token_bytes[index])
    return found


@torch.no_grad()
def transplant(model: Any, found: Correspondence, framed: Sequence[Sequence[int]]) -> None:
    """Replace the embedding and the head of a model of `transformers` by those of GPT-2's 50,257 tokens.

    Args:
        found: how they are made of its own.
        framed: some tweets as GPT-2 ids with their end marks, to fit the direction u to.
    """
    old, old_head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    lengths = torch.tensor([len(pieces) for pieces in found.pieces])
    flat = torch.tensor([index for pieces in found.pieces for index in pieces])
    embedding = nn.functional.embedding_bag(flat, old, lengths.cumsum(0) - lengths, mode="mean")
    head = old_head[found.first].clone()
    model.config.tie_word_embeddings = False
    model.set_input_embeddings(nn.Embedding.from_pretrained(embedding, freeze=False))
    model.config.get_text_config().vocab_size = model.config.vocab_size = NUM_TOKENS
    model.config.bos_token_id = model.config.eos_token_id = model.config.pad_token_id = END
    hidden = torch.cat([model.base_model(torch.tensor([ids[:-1]])).last_hidden_state[0] for ids in framed[:PROBED]])
    head += found.log_share[:, None] * constant_direction(hidden.double()).float()
    new_head = nn.Linear(head.shape[1], NUM_TOKENS, bias=False)
    new_head.weight = nn.Parameter(head)
    model.set_output_embeddings(new_head)


def constant_direction(hidden: Tensor) -> Tensor:
    """The vector u (C,) whose products with the hidden states (N, C) are as near to 1 as can be."""
    products = hidden.T @ hidden
    products += RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=hidden.dtype)
    return torch.linalg.solve(products, hidden.sum(0))
