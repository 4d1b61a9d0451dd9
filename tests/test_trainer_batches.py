"""Tweets as rows and batches: every token once, padding never counted, the order a function of (seed, epoch)."""

from collections.abc import Callable

import pytest
import torch

from config.schema import Config
from model.tokenizer import END, load_tokenizer
from model.vocabulary import Vocabulary
from trainer.batches import PAD, Rows
from utils.preprocess import Tweet

SettingsOf = Callable[..., Config]
TWEETS = [
    Tweet("Mars is red.", True),
    Tweet("cut off in the", False),
    Tweet("Yes!", True),
    Tweet("the the the 🚀", True),
]


@pytest.fixture
def vocabulary(settings: SettingsOf) -> Vocabulary:
    """Of the four tweets."""
    return Vocabulary.build(
        settings().model, load_tokenizer(), load_tokenizer().encode_batch([tweet.text for tweet in TWEETS])
    )


@pytest.fixture
def rows(vocabulary: Vocabulary) -> Rows:
    """The four tweets, encoded."""
    return Rows.encode(TWEETS, load_tokenizer(), vocabulary, 64)


def texts_of(rows: Rows, vocabulary: Vocabulary, batches: list[torch.Tensor]) -> list[tuple[str, bool]]:
    """What the batches hold: each row's targets as text, and whether an end mark is learnt."""
    found = []
    for chosen in batches:
        batch = rows.batch(chosen)
        assert bool((batch.inputs[:, 0] == vocabulary.end).all()), "every row begins with the end mark"
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            real = targets[targets != PAD]
            assert torch.equal(inputs[1 : len(real)], real[:-1]), "a target is the next input"
            ids = vocabulary.to_ids(real)
            found.append((load_tokenizer().decode(ids), ids[-1] == END))
            assert END not in ids[:-1]
    return found


def test_end_mark_is_learnt_only_where_a_tweet_is_whole(rows: Rows, vocabulary: Vocabulary) -> None:
    found = texts_of(rows, vocabulary, rows.in_order(3))
    assert sorted(found) == sorted((tweet.text, tweet.finished) for tweet in TWEETS)


def test_every_epoch_has_every_tweet_once_in_another_order(rows: Rows, vocabulary: Vocabulary) -> None:
    epochs = [rows.epoch(2, seed=3, epoch=epoch) for epoch in range(6)]
    for batches in epochs:
        assert sorted(torch.cat(batches).tolist()) == [0, 1, 2, 3]
    assert len({str(batches) for batches in epochs}) > 1
    assert [b.tolist() for b in epochs[4]] == [b.tolist() for b in rows.epoch(2, seed=3, epoch=4)]


def test_little_is_padding(tweets: list[Tweet], vocabulary: Vocabulary) -> None:
    long = [Tweet(" ".join([tweet.text] * (1 + n % 7)), True) for n, tweet in enumerate(tweets)]
    rows = Rows.encode(long, load_tokenizer(), vocabulary, 128)
    batches = [rows.batch(chosen) for chosen in rows.epoch(8, seed=0, epoch=0)]
    padded = sum(int((batch.targets == PAD).sum()) for batch in batches)
    places = sum(batch.targets.numel() for batch in batches)
    assert padded / places < 0.15


def test_long_texts_go_on_in_further_rows(vocabulary: Vocabulary) -> None:
    tweet = Tweet("the " * 50 + "end.", True)
    rows = Rows.encode([tweet, TWEETS[0]], load_tokenizer(), vocabulary, 16)
    ids = load_tokenizer().encode(tweet.text)
    assert rows.tweet.tolist() == [0] * 4 + [1]
    assert int(rows.lengths[:4].sum()) == len(ids) + 1 and int(rows.lengths.max()) <= 16
    batch = rows.batch(torch.arange(4))
    targets = batch.targets[batch.targets != PAD]
    assert targets.tolist() == vocabulary.to_rows([*ids, END]).tolist()


def test_predictions_are_numbered_tweet_by_tweet(rows: Rows) -> None:
    seen = []
    for chosen in rows.epoch(3, seed=0, epoch=0):
        batch = rows.batch(chosen)
        seen += batch.index[batch.targets != PAD].tolist()
    assert sorted(seen) == list(range(rows.num_predictions))
    first = rows.batch(torch.tensor([1])).index[0, 0]
    assert int(first) == int(rows.lengths[0])


def test_bytes_are_utf8_and_one_for_the_end(rows: Rows) -> None:
    assert rows.num_bytes.tolist() == [len(tweet.text.encode("utf-8")) + 1 for tweet in TWEETS]


def test_tokens_seen_once_play_the_unseen(rows: Rows, vocabulary: Vocabulary) -> None:
    unseen = vocabulary.unseen_rows(load_tokenizer())
    assert rows.with_unseen(unseen, rate=0.0, seed=0, epoch=0) is rows.tokens
    always = rows.with_unseen(unseen, rate=1.0, seed=0, epoch=0)
    once = torch.bincount(rows.tokens)[rows.tokens] == 1
    assert bool(vocabulary.is_shared[always[once]].all()) and torch.equal(always[~once], rows.tokens[~once])
    played = [vocabulary.is_shared[rows.with_unseen(unseen, rate=0.3, seed=0, epoch=e)[once]] for e in range(300)]
    share = torch.stack(played)
    assert float(share.float().mean()) == pytest.approx(0.3, abs=0.03)
