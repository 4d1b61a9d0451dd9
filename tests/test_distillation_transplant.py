"""distillation/transplant.py: against models whose probabilities are known."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from config.schema import UserError
from distillation.transplant import correspond, token_spellings, transplant
from model.causal_lm import CausalLM
from model.tokenizer import END, END_TEXT, NUM_TOKENS, load_tokenizer
from tests.tiny_peer import digit_tokenizer, make_llama, make_peer
from trainer.batches import framed

# A world of six texts. Each digit is a token of the teacher's, and $44 and 10% are two words of GPT-2's or more.
WORLD = {
    "In 2024 it rained.": 4,
    "In 2025 it rained.": 2,
    "In May it cost $44B.": 3,
    "In June it cost $10.": 1,
    "In all 10% rained.": 3,
    "In all 100 rained.": 3,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PreTrainedTokenizerFast]:
    """A small Llama that has learnt the world by heart, in its own tokens."""
    texts = [text for text, count in WORLD.items() for _ in range(count)]
    folder = tmp_path_factory.mktemp("world")
    model, theirs = make_llama(folder, list(WORLD), hidden_size=64), digit_tokenizer(list(WORLD))
    ids = [[0, *theirs(text, add_special_tokens=False)["input_ids"], 0] for text in texts]
    longest = max(map(len, ids))
    batch = torch.tensor([each + [0] * (longest - len(each)) for each in ids])
    labels = torch.tensor([each + [-100] * (longest - len(each)) for each in ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = model(input_ids=batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), theirs


def truth(begun: list[int]) -> Tensor:
    """The probability (50257,) of each token of GPT-2's after these, by counting the texts of the world."""
    counts = torch.zeros(NUM_TOKENS)
    for text, count in WORLD.items():
        ids = framed(load_tokenizer().encode(text), finished=True)
        if ids[: len(begun)] == begun:
            counts[ids[len(begun)]] += count
    return counts / counts.sum()


def carried_over(teacher: tuple[Any, PreTrainedTokenizerFast], *, counted: bool) -> CausalLM:
    """The teacher with GPT-2's tokens; `counted`: M is counted on the world, else on nothing that it says."""
    original, theirs = teacher
    model = copy.deepcopy(original)
    texts = [text for text, count in WORLD.items() for _ in range(count)]
    ours = load_tokenizer()
    found = correspond(theirs, 0, ours, texts if counted else ["#"])
    transplant(model.eval(), found, [framed(ours.encode(text), finished=True) for text in texts])
    return CausalLM(model, "teacher")


def kl(expected: Tensor, logits: Tensor) -> float:
    """The nats that the model needs more than the truth."""
    there = expected > 0
    return float((expected[there] * (expected[there].log() - logits.log_softmax(-1)[there])).sum())


def after(model: CausalLM, begin: str) -> Tensor:
    """Logits (50257,) of the token after this beginning of a text."""
    with torch.no_grad():
        return model(torch.tensor([[END, *load_tokenizer().encode(begin)]]))[0, -1]


def test_digits_are_neither_suppressed_nor_counted_several_times(teacher: tuple[Any, PreTrainedTokenizerFast]) -> None:
    """After tokens that both have: all numbers together get what the world gives them, and each its counted share."""
    ours, found, naive = load_tokenizer(), carried_over(teacher, counted=True), carried_over(teacher, counted=False)
    numbers = torch.tensor([spelt[:1] == b" " and spelt[1:].isdigit() for spelt in ours.token_bytes])
    for begin in ("", "In", "In all", "In May it cost"):
        expected = truth([END, *ours.encode(begin)])
        probs = after(found, begin).softmax(-1)
        assert float(probs.sum()) == pytest.approx(1.0, abs=1e-3)
        assert float(probs[numbers].sum()) == pytest.approx(float(expected[numbers].sum()), abs=0.06), begin
    assert float(after(naive, "In").softmax(-1)[numbers].sum()) < 0.01  # without the counts nobody would write them
    shares = {" 2024": 4, " 2025": 2, " 10": 3, " 100": 3}  # of all places where a number begins
    for number, count in shares.items():
        part = after(found, "In").softmax(-1)[ours.encode(number)[0]] / (6 / 16)
        assert float(part) == pytest.approx(count / sum(shares.values()), abs=0.08), number


@pytest.mark.slow
def test_fine_tuning_corrects_the_rest(teacher: tuple[Any, PreTrainedTokenizerFast]) -> None:
    """After a short training every probability is the world's, also within "$44B" and "10%"."""
    found, ours = carried_over(teacher, counted=True).train(), load_tokenizer()
    texts = [framed(ours.encode(text), finished=True) for text, count in WORLD.items() for _ in range(count)]
    longest = max(map(len, texts))
    batch = torch.tensor([ids + [END] * (longest - len(ids)) for ids in texts])
    real = torch.tensor([[True] * (len(ids) - 1) + [False] * (longest - len(ids)) for ids in texts])
    optimizer = torch.optim.AdamW(found.parameters(), lr=2e-3)
    for _ in range(60):
        logits = found.head(found.trunk(batch[:, :-1])[real])
        loss = torch.nn.functional.cross_entropy(logits, batch[:, 1:][real])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found.eval()
    for begin in (
        "",
        "In",
        "In 2024",
        "In all",
        "In all 10",
        "In May it cost",
        "In May it cost $",
        "In May it cost $44",
    ):
        ids = [END, *ours.encode(begin)]
        assert kl(truth(ids), after(found, begin)) < 0.15, begin


def test_every_token_is_spelt_by_its_pieces(teacher: tuple[Any, PreTrainedTokenizerFast]) -> None:
    ours, (_, theirs) = load_tokenizer(), teacher
    spelling = token_spellings(theirs)
    found = correspond(theirs, 0, ours, list(WORLD))
    for index in range(0, NUM_TOKENS - 1, 7):
        assert b"".join(spelling[piece] for piece in found.pieces[index]) == ours.token_bytes[index]
    assert list(found.pieces[END]) == [0]
    shares = torch.zeros(len(theirs)).index_add_(0, found.first, found.log_share.exp())
    assert float(shares.max()) < 1.0 + 1e-3  # what begins with a piece never gets more than the piece has
    assert float(shares[found.first.unique()].min()) > 0.99


def test_a_model_with_the_same_tokens_in_another_order_keeps_its_probabilities(tmp_path: Path) -> None:
    """All tokens coincide, so nothing may change: against the model itself."""
    original = make_peer(tmp_path, seed=1)
    order = torch.randperm(NUM_TOKENS, generator=torch.Generator().manual_seed(0))  # their id of each of ours
    ours = load_tokenizer()
    stored = ours.backend.get_vocab(with_added_tokens=True)
    content = json.loads(ours.backend.to_str())
    content["model"]["vocab"] = {token: int(order[index]) for token, index in stored.items()}
    for added in content["added_tokens"]:
        added["id"] = int(order[stored[added["content"]]])
    theirs = PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(json.dumps(content)), eos_token=END_TEXT)
    model = make_peer(tmp_path / "again", seed=1)
    with torch.no_grad():
        model.transformer.wte.weight[order] = original.transformer.wte.weight.clone()
    texts = ["Mars is next.", "The rocket hums at dawn!"]
    found = correspond(theirs, int(order[END]), ours, texts)
    assert float(found.log_share.abs().max()) < 1e-6
    transplant(model, found, [framed(ours.encode(text), finished=True) for text in texts])
    ids = torch.tensor([framed(ours.encode("The van sleeps 10% of 2024"), finished=True)])
    with torch.no_grad():
        torch.testing.assert_close(CausalLM(model, "again")(ids), original(ids).logits, atol=1e-4, rtol=1e-4)


def test_sentencepiece_spells_spaces_and_bytes() -> None:
    vocab = {"<unk>": 0, "</s>": 1, "▁the": 2, "the": 3, "▁": 4, "<0x0A>": 5, "é": 6}
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=Backend(models.WordLevel(vocab, unk_token="<unk>")), unk_token="<unk>", eos_token="</s>"
    )
    assert token_spellings(theirs) == {2: b" the", 3: b"the", 4: b" ", 5: b"\n", 6: "é".encode()}


def test_tokens_that_cannot_be_spelt_are_refused() -> None:
    vocab = {f"слово{number}": number for number in range(10)}
    theirs = PreTrainedTokenizerFast(tokenizer_object=Backend(models.WordLevel(vocab, unk_token="слово0")))
    with pytest.raises(UserError, match="small: its tokens can't be spelt as bytes"):
        token_spellings(theirs, "small")


def test_the_direction_of_the_bias_is_constant(teacher: tuple[Any, PreTrainedTokenizerFast]) -> None:
    """On texts it was not fitted to, a logit is raised by log M within a few hundredths at most places."""
    found = carried_over(teacher, counted=True)
    ours = load_tokenizer()
    with torch.no_grad():
        hidden = found.trunk(torch.tensor([[END, *ours.encode("In May it rained.")]]))[0]
        five, six = (ours.encode(f" {number}")[0] for number in (2024, 2025))  # both begin with the piece " "
        head = found.head_weight
        difference = hidden @ (head[five] - head[six])
    assert float((difference - math.log(4.0 / 2.0)).abs().median()) < 0.05
