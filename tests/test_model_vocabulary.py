"""The model's ids and GPT-2's: the probabilities of all 50,257 tokens sum to 1, whichever tokens share an id."""

from collections.abc import Callable

import pytest
import torch

from config.schema import Config, UserError
from model.tokenizer import END, NUM_TOKENS, load_tokenizer
from model.vocabulary import SHAPES, Vocabulary, shapes_of

SettingsOf = Callable[..., Config]


@pytest.mark.parametrize("flags", [("corpus", "1"), ("corpus", "2"), ("full", "1")])
def test_probabilities_sum_to_one(flags: tuple[str, str], settings: SettingsOf) -> None:
    config = settings("--model.vocabulary", flags[0], "--model.min_count", flags[1]).model
    vocabulary = Vocabulary.build(config, load_tokenizer(), [[5, 5, 7], [5, 40_000]])
    logits = 3 * torch.randn(4, vocabulary.vocab_size, dtype=torch.float64)
    total = vocabulary.log_probs(logits).exp().sum(-1)
    assert vocabulary.log_probs(logits).shape == (4, NUM_TOKENS)
    torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64), atol=1e-6, rtol=0)


def test_ids_of_the_corpus(settings: SettingsOf) -> None:
    vocabulary = Vocabulary.build(settings("--model.min_count", "2").model, load_tokenizer(), [[5, 5, 7], [9, 9, 9]])
    assert vocabulary.gpt2_ids.tolist() == [5, 9, END] + [-1] * len(SHAPES)  # not 7, as it occurs once; always END
    assert vocabulary.is_shared.tolist() == [False] * 3 + [True] * len(SHAPES)
    ids = vocabulary.from_gpt2([9, END, 7])
    assert ids.tolist()[:2] == [1, 2] and bool(vocabulary.is_shared[ids[2]])
    assert vocabulary.to_gpt2([0, 2]) == [5, END]


def test_unseen_tokens_share_by_shape(settings: SettingsOf) -> None:
    tokenizer = load_tokenizer()
    (small, capital, middle, start, other) = (tokenizer.encode(t)[0] for t in (" zinc", " Zion", "zbek", "Zip", "!!"))
    seen = tokenizer.encode("The the.")
    vocabulary = Vocabulary.build(settings().model, tokenizer, [seen])
    ids = vocabulary.from_gpt2([small, capital, middle, start, other]).tolist()
    assert len(set(ids)) == 5 and all(vocabulary.is_shared[index] for index in ids)
    unseen = vocabulary.unk_ids(tokenizer)
    assert unseen[vocabulary.from_gpt2(seen)].tolist() == [ids[3], ids[0], ids[4]]  # "The", " the", "."
    assert bool((unseen[vocabulary.is_shared] == -1).all())


def test_every_token_has_one_shape() -> None:
    shapes, tokenizer = shapes_of(load_tokenizer()), load_tokenizer()
    assert shapes.shape == (NUM_TOKENS,) and set(shapes.tolist()) == set(range(len(SHAPES)))
    for text, shape in ((" cat", 0), (" Cat", 1), (" CAT", 4), ("ing", 2), ("The", 3), ("1999", 4), ("\n", 4)):
        (index,) = tokenizer.encode(text)
        assert int(shapes[index]) == shape, text


def test_full_vocabulary_shares_nothing(settings: SettingsOf) -> None:
    vocabulary = Vocabulary.build(settings("--model.vocabulary", "full").model, load_tokenizer(), [[1]])
    assert not vocabulary.is_shared.any() and vocabulary.vocab_size == NUM_TOKENS
    assert vocabulary.to_gpt2(vocabulary.from_gpt2([0, 777, END])) == [0, 777, END]
    logits = torch.randn(2, NUM_TOKENS)
    assert torch.equal(vocabulary.forbid_shared(logits), logits)
    assert bool((vocabulary.unk_ids(load_tokenizer()) == -1).all())


def test_prior_falls_with_merge_rank(settings: SettingsOf) -> None:
    tokenizer = load_tokenizer()
    vocabulary = Vocabulary.build(settings().model, tokenizer, [[5]])
    early, late = tokenizer.encode(" and")[0], tokenizer.encode(" zinc")[0]
    ratio = (vocabulary.log_prior[early] - vocabulary.log_prior[late]).exp()
    assert float(ratio) == pytest.approx(((late + 1) / (early + 1)) ** 0.7, rel=1e-4)  # 1 / id^0.7, ids from 1


def test_a_shared_id_is_never_drawn(settings: SettingsOf) -> None:
    vocabulary = Vocabulary.build(settings().model, load_tokenizer(), [[5, 7]])
    probabilities = vocabulary.forbid_shared(torch.zeros(1, vocabulary.vocab_size)).softmax(-1)
    assert not probabilities[0, vocabulary.is_shared].any() and float(probabilities.sum()) == pytest.approx(1)


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="does not cover"):
        Vocabulary(torch.zeros(7), torch.zeros(7))
