"""What a pretrained teacher writes and expects: against the model asked directly, text by text."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from config.cli import parse
from distillation import recorded, writing
from distillation.recorded import REST, TOP_K, Recorded, draw
from distillation.writing import Draft, never_first, respelt, write_drafts
from model.causal_lm import CausalLM
from model.soft_targets import dense
from model.tokenizer import END, NUM_TOKENS, Tokenizer, load_tokenizer
from model.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def teacher() -> CausalLM:
    """A small random Llama that ends its texts after about six tokens, and likes a few tokens much more than others."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(shape).eval()
    with torch.no_grad():
        model.lm_head.weight *= 3.0
        hidden = model.model(torch.randint(NUM_TOKENS, (64, 4))).last_hidden_state.flatten(0, 1)
        everywhere = torch.linalg.lstsq(hidden, torch.full((len(hidden), 1), 13.0)).solution[:, 0]
        model.lm_head.weight[END] = everywhere
    return CausalLM(model, "teacher", block_size=32)


def direct(teacher: CausalLM, ids: list[int]) -> Tensor:
    """Probabilities (len(ids), 50257) at the place of each of the ids."""
    with torch.no_grad():
        return teacher(torch.tensor([[END, *ids[:-1]]]))[0].softmax(-1)


def test_every_draft_is_what_the_model_writes_alone(teacher: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where places are taken by new tweets, and where the last ones leave."""
    monkeypatch.setattr(writing, "SIDE_BY_SIDE", 5)
    finished: list[int] = []
    drafts = write_drafts(teacher, 23, max_new_tokens=12, seed=1, step=finished.append)
    assert len(drafts) == 23 and finished[-1] == 23 and finished == sorted(finished)
    lengths = {len(draft.ids) for draft in drafts}
    assert len(lengths) > 3 and max(lengths) <= 12
    for draft in drafts:
        assert draft.ended or len(draft.ids) == 12
        assert END not in draft.ids[:-1]
        expected, found = direct(teacher, draft.ids), Recorded.join(draft.expected)
        assert len(found) == len(draft.ids)
        for place, (ids, probs, rest) in enumerate(zip(found.ids, found.probs, found.rest, strict=True)):
            assert len(rest) == REST and not set(rest) & set(ids)
            assert draft.ids[place] in ids or draft.ids[place] in rest
            wanted = expected[place][torch.from_numpy(ids.astype("int64"))]
            torch.testing.assert_close(torch.from_numpy(probs.astype("float32")), wanted, atol=1e-3, rtol=1e-2)
            assert END in ids and len(set(ids.tolist())) == TOP_K
            top = set(expected[place].topk(TOP_K - 1).indices.tolist())
            assert len(top - set(ids.tolist())) <= 1  # equal ones may change places
    again = write_drafts(teacher, 23, max_new_tokens=12, seed=1)
    assert [draft.ids for draft in again] == [draft.ids for draft in drafts]


def test_a_text_is_read_in_the_tokens_of_gpt2() -> None:
    """A word that was written in other tokens: what was expected where one of them begins is kept."""
    tokenizer = load_tokenizer()
    pieces = ["See", " Ber", "ks", "hire", " now", ".", " It", " is 5", "36", "9", "!"]
    written = [index for piece in pieces for index in tokenizer.encode(piece)] + [END]
    expected = [Recorded.certain(1000 + place) for place in range(len(written))]
    found = respelt(Draft(written, [Recorded.join(expected[:4]), *expected[4:]]), tokenizer)  # as a file has it, too
    text = "See Berkshire now. It is 5369!"
    assert found.text(tokenizer) == text and found.ids == [*tokenizer.encode(text), END] != written
    begins = dict(zip(byte_places(written, tokenizer), range(len(written)), strict=True))
    kept = 0
    for index, start, record in zip(found.ids, byte_places(found.ids, tokenizer), found.expected, strict=True):
        token, probability = int(record.ids[0, 0]), float(record.probs.sum())
        assert probability == 1.0 and token == (1000 + begins[start] if start in begins else index)
        kept += start in begins
    assert 5 < kept <= len(found.ids)
    unended = Draft(tokenizer.encode("Mars is"), expected[:2])
    assert respelt(unended, tokenizer) is unended


def byte_places(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    return [len(tokenizer.decode(ids[:count]).encode()) for count in range(len(ids))]


def test_tokens_are_drawn_as_often_as_they_are_expected(teacher: CausalLM) -> None:
    """The first tokens of 4,000 tweets, the likeliest one by one and the rest together: a chi-squared test."""
    count = 4000
    probs = direct(teacher, [0])[0]
    drawn = Counter(draft.ids[0] for draft in write_drafts(teacher, count, max_new_tokens=1, seed=7))
    likeliest = [index for index in probs.topk(30).indices.tolist() if count * float(probs[index]) > 8]
    rest = 1.0 - sum(float(probs[index]) for index in likeliest)
    kept = Recorded.of(probs.log()[None], torch.zeros(1)).ids[0].tolist()
    beyond = sum(number for index, number in drawn.items() if index not in kept)
    assert beyond == pytest.approx(count * (1.0 - float(probs[kept].sum())), abs=5 * (count * rest) ** 0.5)
    cells = [(drawn[index], count * float(probs[index])) for index in likeliest]
    cells.append((count - sum(found for found, _ in cells), count * rest))
    statistic = sum((found - expected) ** 2 / expected for found, expected in cells)
    assert statistic < 2.2 * len(cells) + 15, statistic  # far beyond the 99.9% quantile of so many cells


def test_targets_are_the_teachers_probabilities() -> None:
    """Where it kept a token, its probability; the end mark never more than it expected; in all as much as there is."""
    tokenizer = load_tokenizer()
    config = parse("train", [])[0]
    texts = ["Mars is next.", "The rocket hums at dawn!", "mars and the van"]
    vocabulary = Vocabulary.build(config.model, tokenizer, tokenizer.encode_batch(texts))
    torch.manual_seed(0)
    logits = 2.0 * torch.randn(7, NUM_TOKENS)
    logits[:, tokenizer.encode(" rocket")[0]] = 14.0
    logits[:, END] = torch.tensor([-20.0, -3.0, 0.0, 3.0, 8.0, 14.0, 16.0])
    kept = Recorded.of(logits, torch.rand(7))
    found = dense(kept.targets(vocabulary), torch.arange(7))
    assert found.sum(-1).tolist() == pytest.approx([1.0] * 7, abs=1e-5)
    assert float(found.min()) >= 0.0
    probs = logits.softmax(-1)
    assert found[:, vocabulary.end].tolist() == pytest.approx(probs[:, END].tolist(), abs=1e-3)
    rocket = int(vocabulary.id_of[tokenizer.encode(" rocket")[0]])
    assert found[:, rocket].tolist() == pytest.approx(probs[:, tokenizer.encode(" rocket")[0]].tolist(), abs=1e-3)
    mapped = torch.zeros(7, vocabulary.vocab_size).index_add_(1, vocabulary.id_of, probs)
    for place in range(7):
        left = 1.0 - float(kept.probs[place].astype("float32").sum())
        assert float((found[place] - mapped[place]).abs().sum()) < 2.0 * left + 0.01


def test_the_mean_target_of_many_draws_is_what_the_teacher_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them sums to 1, and is nearer to it than the likeliest tokens alone."""
    tokenizer, config = load_tokenizer(), parse("train", [])[0]
    texts = ["Mars is next.", "The rocket hums at dawn!", "mars and the van"]
    vocabulary = Vocabulary.build(config.model, tokenizer, tokenizer.encode_batch(texts))
    torch.manual_seed(0)
    logits = torch.full((NUM_TOKENS,), -60.0)
    likely = vocabulary.gpt2_ids[vocabulary.gpt2_ids >= 0]
    logits[likely] = 2.0 * torch.randn(len(likely))
    monkeypatch.setattr(recorded, "TOP_K", 4)
    count = 200
    kept = Recorded.of(logits.expand(count, -1), torch.rand(count))
    assert len(np.unique(kept.rest)) > 3
    found = dense(kept.targets(vocabulary), torch.arange(count))
    torch.testing.assert_close(found.sum(-1), torch.ones(count))
    mapped = torch.zeros(vocabulary.vocab_size).index_add_(0, vocabulary.id_of, logits.softmax(-1))
    torch.testing.assert_close(found.mean(0), mapped, atol=4e-3, rtol=0.0)
    alone = torch.zeros(vocabulary.vocab_size)
    alone[vocabulary.id_of[torch.from_numpy(kept.ids[0].astype("int64"))]] = torch.from_numpy(kept.probs[0]).float()
    assert float((found - mapped).abs().sum(-1).max()) < float((alone - mapped).abs().sum())


def test_draws_fall_as_often_as_they_should() -> None:
    """On each token, within one, as often as its share of all draws: they are evenly spaced."""
    probs = torch.tensor([[0.0, 0.1, 0.0, 0.05, 0.2, 0.0, 0.15], [0.3, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0]])
    share = REST * probs / probs.sum(-1, keepdim=True)
    seen = torch.zeros(probs.shape)
    for uniform in torch.linspace(0.0005, 0.9995, 1000):
        drawn = draw(probs, uniform.repeat(2))
        times = torch.stack([torch.bincount(row, minlength=probs.shape[1]) for row in drawn])
        assert bool(((times - share).abs() < 1.0 + 1e-5).all())
        seen += times / 1000
    torch.testing.assert_close(seen, share, atol=5e-3, rtol=0.0)


def test_no_tweet_begins_with_a_space(teacher: CausalLM) -> None:
    """The probability of the tokens that do goes to the others, where tweets begin and nowhere else."""
    forbidden = never_first(load_tokenizer())
    assert forbidden[load_tokenizer().encode(" Mars")[0]] and not forbidden[load_tokenizer().encode("Mars")[0]]
    before = direct(teacher, [0])[0]
    assert float(before[forbidden].sum()) > 0.1
    drafts = write_drafts(teacher, 60, max_new_tokens=12, seed=1, forbidden=forbidden)
    assert not any(forbidden[draft.ids[0]] for draft in drafts)
    assert any(forbidden[index] for draft in drafts for index in draft.ids[1:])
    allowed = before.masked_fill(forbidden, 0.0) / before[~forbidden].sum()
    first = drafts[0].expected[0]
    wanted = allowed[torch.from_numpy(first.ids[0].astype("int64"))]
    torch.testing.assert_close(torch.from_numpy(first.probs[0].astype("float32")), wanted, atol=1e-3, rtol=1e-2)
