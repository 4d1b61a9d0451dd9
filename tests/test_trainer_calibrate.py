"""Calibration: shares equal those of counting again without each tweet, and the model's mean shares reach them."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from config.cli import parse
from model.ngram import NGram
from model.tokenizer import END, NUM_TOKENS, load_tokenizer
from model.transformer import GPT
from model.vocabulary import SHAPES, Vocabulary, shapes_of
from tests.conftest import TINY
from trainer.calibrate import KINDS, Calibration, left_out_shares, make_calibration
from trainer.job import framed_ids
from utils.preprocess import Tweet

CONFIG = parse("train", TINY)[0]
TOKENIZER = load_tokenizer()


def counted(tweets: list[list[int]]) -> Counter[int]:
    """How often each token occurs, without the end mark before each tweet."""
    return Counter(index for tweet in tweets for index in tweet[1:])


@pytest.mark.parametrize("least", [1, 2])
def test_shares_are_those_of_counting_again_without_each_tweet(tweets: list[Tweet], least: int) -> None:
    framed, shapes = framed_ids(tweets, TOKENIZER), shapes_of(TOKENIZER)
    framed += framed_ids([Tweet("A zebra, a zebra and one quokka!", True)], TOKENIZER)
    wanted = torch.full((KINDS,), 0.5)
    for place, tweet in enumerate(framed):
        others = counted(framed[:place] + framed[place + 1 :])
        for index in tweet[1:]:
            uses = others[index]
            kind = int(shapes[index]) if uses < least else len(SHAPES) + min(uses, 256).bit_length() - 1
            wanted[kind] += 1
    total = counted(framed)
    counts = torch.tensor([total[index] for index in range(NUM_TOKENS)])
    found = left_out_shares(framed, counts, shapes, least)
    torch.testing.assert_close(found, wanted / wanted.sum())
    # zebra and quokka occur in no other tweet
    assert found[: len(SHAPES)].sum() > 3 / sum(len(tweet) - 1 for tweet in framed)


def made(tweets: list[Tweet], *flags: str) -> tuple[Calibration, GPT, Vocabulary]:
    """The calibration of these tweets, and a random model whose probabilities are far from even."""
    config = parse("train", [*TINY, *flags])[0]
    framed = framed_ids(tweets, TOKENIZER)
    vocabulary = Vocabulary.build(config.model, TOKENIZER, [tweet[1:] for tweet in framed])
    torch.manual_seed(0)
    model = GPT(config.model, vocabulary.vocab_size).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 3
    return make_calibration(config, framed, NGram.fit(framed, 3), vocabulary, TOKENIZER), model, vocabulary


@torch.no_grad()
def mean_share(calibration: Calibration, model: GPT) -> Tensor:
    """The mean probability of each kind over all positions, (KINDS,), computed tweet by tweet."""
    places = []
    for example in range(len(calibration.contexts.starts)):
        batch = calibration.contexts.batch(torch.tensor([example]))
        places.append(model(batch.ids)[0].softmax(-1))
    expected = torch.cat(places).mean(0)
    return torch.stack([expected[calibration.kinds == kind].sum() for kind in range(KINDS)])


@pytest.mark.parametrize("flags", [(), ("--model.min_count", "2"), ("--model.vocabulary", "full")])
def test_a_calibrated_model_gives_each_kind_its_share(
    tweets: list[Tweet], flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.calibrate.CONTEXTS", 20)
    calibration, model, _ = made(tweets, *flags)
    before = mean_share(calibration, model)
    there = before > 0
    wanted = torch.where(there, calibration.expected, 0) / calibration.expected[there].sum()
    assert float((before - wanted).abs().max()) > 0.01
    assert model.head_bias is not None
    model.head_bias.data += calibration.offsets(model)
    torch.testing.assert_close(mean_share(calibration, model), wanted, atol=1e-3, rtol=1e-2)


def test_tokens_of_a_kind_keep_their_order(tweets: list[Tweet]) -> None:
    calibration, model, vocabulary = made(tweets)
    offsets = calibration.offsets(model)
    for kind in calibration.kinds.unique():
        assert len(offsets[calibration.kinds == kind].unique()) == 1
    counts = counted(framed_ids(tweets, TOKENIZER))
    often = [place for place, index in enumerate(vocabulary.gpt2_ids.tolist()) if 16 <= counts[index] < 32]
    assert len(often) > 1 and calibration.kinds[often].unique().tolist() == [len(SHAPES) + 4]
    assert calibration.kinds[vocabulary.is_shared].tolist() == list(range(len(SHAPES)))
    assert int(calibration.kinds[vocabulary.end]) == len(SHAPES) + min(counts[END], 256).bit_length() - 1


def test_the_drawn_tweets_are_new_and_always_the_same(tweets: list[Tweet]) -> None:
    first, second = (made(tweets)[0].contexts for _ in range(2))
    assert first.tokens.texts() == second.tokens.texts()
    written = [tuple(text) for text in first.tokens.texts()]
    assert len(set(written) - {tuple(tweet) for tweet in framed_ids(tweets, TOKENIZER)}) > 20


def test_a_text_of_one_tweet_is_enough() -> None:
    calibration, model, _ = made([Tweet("Hello there.", True)])
    assert bool(calibration.offsets(model).isfinite().all())
    assert replace(calibration, expected=calibration.expected * 2).offsets(model).isfinite().all()
