"""Examples and batches: every token is predicted once, padding never; the order depends only on (seed, epoch)."""

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from config.schema import Config
from model.tokenizer import END, load_tokenizer
from model.vocabulary import Vocabulary
from trainer import batches as module
from trainer import tokens
from trainer.batches import TweetDataset, framed, of_similar_length
from trainer.parallel import Ranks
from trainer.tokens import Tokens
from utils.preprocess import Tweet

SettingsOf = Callable[..., Config]
FULL = Vocabulary.full()
TWEETS = [
    Tweet("Mars is red.", True),
    Tweet("cut off in the", False),
    Tweet("Yes!", True),
    Tweet("the the the 🚀", True),
]


@pytest.fixture
def vocabulary(settings: SettingsOf) -> Vocabulary:
    """The vocabulary of the four tweets."""
    return Vocabulary.build(
        settings().model, load_tokenizer(), load_tokenizer().encode_batch([tweet.text for tweet in TWEETS])
    )


@pytest.fixture
def dataset(vocabulary: Vocabulary) -> TweetDataset:
    """The four tweets, encoded."""
    return TweetDataset.encode(TWEETS, load_tokenizer(), vocabulary, 64)


def texts_of(dataset: TweetDataset, vocabulary: Vocabulary, batches: list[torch.Tensor]) -> list[tuple[str, bool]]:
    """For each example of the batches: its targets as text, and whether they end with the end mark."""
    found = []
    for chosen in batches:
        batch = dataset.batch(chosen)
        assert bool((batch.ids[:, 0] == vocabulary.end).all()), "every example of a tweet begins with the end mark"
        for read, targets in zip(batch.ids, batch.targets.split(dataset.lengths[chosen].tolist()), strict=True):
            assert torch.equal(read[1 : len(targets)], targets[:-1]), "a target is the next id that is read"
            ids = vocabulary.to_gpt2(targets.tolist())
            found.append((load_tokenizer().decode(ids), ids[-1] == END))
            assert END not in ids[:-1]
    return found


def test_only_a_complete_tweet_has_an_end_mark_as_target(dataset: TweetDataset, vocabulary: Vocabulary) -> None:
    found = texts_of(dataset, vocabulary, dataset.in_order(3))
    assert sorted(found) == sorted((tweet.text, tweet.finished) for tweet in TWEETS)


def test_every_epoch_has_every_tweet_once_in_another_order(dataset: TweetDataset, vocabulary: Vocabulary) -> None:
    epochs = [dataset.epoch(2, seed=3, number=number, unk_rate=0.0).steps for number in range(6)]
    for batches in epochs:
        assert sorted(torch.cat(list(batches)).tolist()) == [0, 1, 2, 3]
    assert len({str(batches) for batches in epochs}) > 1
    assert [b.tolist() for b in epochs[4]] == [
        b.tolist() for b in dataset.epoch(2, seed=3, number=4, unk_rate=0.0).steps
    ]


def test_less_than_a_seventh_is_padding(tweets: list[Tweet], vocabulary: Vocabulary) -> None:
    long = [Tweet(" ".join([tweet.text] * (1 + n % 7)), True) for n, tweet in enumerate(tweets)]
    dataset = TweetDataset.encode(long, load_tokenizer(), vocabulary, 128)
    batches = [dataset.batch(chosen) for chosen in dataset.epoch(8, seed=0, number=0, unk_rate=0.0).steps]
    padded = sum(batch.ids.numel() - len(batch.places) for batch in batches)
    places = sum(batch.ids.numel() for batch in batches)
    assert padded / places < 0.15


@pytest.mark.parametrize("multiple", [2, 5, 128])
def test_padding_to_a_multiple_keeps_the_tokens(tweets: list[Tweet], vocabulary: Vocabulary, multiple: int) -> None:
    dataset = TweetDataset.encode(tweets, load_tokenizer(), vocabulary, 128)
    added = set()
    for chosen in dataset.epoch(3, seed=0, number=0, unk_rate=0.0).steps:
        plain, more = dataset.batch(chosen), dataset.batch(chosen, pad_to_multiple_of=multiple)
        width = plain.ids.shape[1]
        added.add(-width % multiple)
        assert more.ids.shape[1] == width + -width % multiple
        assert torch.equal(more.ids[:, :width], plain.ids)
        hidden = torch.randn(*plain.ids.shape, 2)
        wider = F.pad(hidden, (0, 0, 0, more.ids.shape[1] - width))
        assert torch.equal(more.real(wider), plain.real(hidden))
        assert torch.equal(more.targets, plain.targets) and torch.equal(more.index, plain.index)
    assert len(added) > 1


def test_a_long_text_is_cut_into_several_examples(vocabulary: Vocabulary) -> None:
    tweet = Tweet("the " * 50 + "end.", True)
    dataset = TweetDataset.encode([tweet, TWEETS[0]], load_tokenizer(), vocabulary, 16)
    ids = load_tokenizer().encode(tweet.text)
    assert dataset.tweet.tolist() == [0] * 4 + [1]
    assert int(dataset.lengths[:4].sum()) == len(ids) + 1 and int(dataset.lengths.max()) <= 16
    assert dataset.batch(torch.arange(4)).targets.tolist() == vocabulary.from_gpt2([*ids, END]).tolist()


def test_examples_of_a_long_text_end_with_sentences() -> None:
    text = 'One two three. Four "five six!" Seven is 7.5 here? Eight nine ten eleven twelve. It costs $3.50 now.'
    dataset = TweetDataset.encode([Tweet(text, True)], load_tokenizer(), FULL, 12)
    batch = dataset.batch(torch.arange(len(dataset.starts)))
    examples = batch.targets.split(dataset.lengths.tolist())
    parts = [load_tokenizer().decode(targets.tolist()) for targets in examples]
    parts[-1] += "<end>" * int(examples[-1][-1] == END)
    assert parts == [
        'One two three. Four "five six!"',
        " Seven is 7.5 here?",
        " Eight nine ten eleven twelve.",
        " It costs $3.50 now.<end>",
    ]
    assert [END in targets for targets in examples] == [False, False, False, True]
    ends = [load_tokenizer().decode([index]) for index in batch.ids[:, 0].tolist()]
    assert ends == ["", '!"', "?", "."], "a later example begins with the token before it"


SENTENCES = st.lists(st.text("ab .!?…🚀。\n'\"é", max_size=40), max_size=12).map(" ".join)


@given(st.lists(st.tuples(SENTENCES, st.booleans()), min_size=1, max_size=5), st.integers(2, 20))
def test_every_token_of_any_text_is_predicted_once(texts: list[tuple[str, bool]], block: int) -> None:
    """Put together, the examples are the framed ids, and each example is as long as it may be."""
    tokenizer = load_tokenizer()
    tweets = [Tweet(text, finished) for text, finished in texts]
    dataset = TweetDataset.encode(tweets, tokenizer, FULL, block)
    whole = [[END, *tokenizer.encode(t.text), *([END] if t.finished else [])] for t in tweets]
    assert dataset.num_predictions == sum(len(ids) - 1 for ids in whole)
    assert dataset.num_bytes.tolist() == [len(t.text.encode()) + 1 for t in tweets]
    found: list[list[int]] = [[END] for _ in tweets]
    for number, owner in enumerate(dataset.tweet.tolist()):
        batch = dataset.batch(torch.tensor([number]))
        inputs, targets = batch.ids[0].tolist(), batch.targets.tolist()
        assert inputs[0] == found[owner][-1] and inputs[1:] == targets[:-1] and 1 <= len(targets) <= block
        found[owner] += targets
        rest = whole[owner][len(found[owner]) :]
        if rest:  # an example ends early only where a sentence ends and the next sentence would not fit
            window = [*targets, *rest][: block + 1]
            ends = [n for n in range(1, len(window)) if ends_sentence(window[n - 1], window[n])]
            assert len(targets) == (ends[-1] if ends else block)
    assert found == whole


def ends_sentence(index: int, following: int) -> bool:
    """Whether a sentence ends between two tokens, by their characters."""
    token, after = (load_tokenizer().token_bytes[i].decode("utf-8", "replace") for i in (index, following))
    bare = token.rstrip("\"')]}’”»")
    return token.endswith("。") or (bare.endswith((".", "!", "?", "…")) and after.startswith(" "))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_cutting_a_text_for_the_tokenizer_changes_no_token(text: str) -> None:
    tokenizer = load_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "PIECE", 10)
        parts = [text[start:end] for start, end in tokens.cuts(text)]
        encoded = Tokens.encode([Tweet(text, True)], tokenizer)
    assert "".join(parts) == text and tokenizer.decode(encoded.ids.tolist()) == text
    starts = list(accumulate(map(len, parts)))[:-1]
    if all(tokens.GAP.match(text, start) for start in starts):
        assert encoded.ids.tolist() == [END, *tokenizer.encode(text), END]


def test_many_texts_are_encoded_batch_by_batch(
    tweets: list[Tweet], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    long = Tweet(" ".join(tweet.text for tweet in tweets), False)
    monkeypatch.setattr(tokens, "SAY_SECONDS", 0.0)
    monkeypatch.setattr(tokens, "PIECE", 30)
    monkeypatch.setattr(tokens, "BATCH", 100)
    monkeypatch.setattr(tokens, "CHUNK", 16)
    found = Tokens.encode([*tweets, long, tweets[0]], load_tokenizer(), folder=tmp_path)
    bodies = load_tokenizer().encode_batch([tweet.text for tweet in (*tweets, long, tweets[0])])
    assert found.texts() == [
        framed(body, finished=tweet.finished) for body, tweet in zip(bodies, [*tweets, long, tweets[0]], strict=True)
    ]
    assert found.counts().tolist() == np.bincount(found.ids, minlength=50_257).tolist()
    wanted = found.counts() % 3 == 1
    assert found.places_of(wanted).tolist() == np.flatnonzero(wanted[found.ids]).tolist()
    assert isinstance(found.ids, np.memmap), "the ids need not fit into memory"
    assert not list(tmp_path.iterdir()), "the temporary file is deleted"
    assert "Tokenising: " in capsys.readouterr().err


def test_a_sample_has_evenly_spaced_examples(vocabulary: Vocabulary) -> None:
    long = [Tweet("the the red. " * 40 + "Mars!", n % 2 == 0) for n in range(6)]
    dataset = TweetDataset.encode([*TWEETS, *long], load_tokenizer(), vocabulary, 16)
    assert dataset.sample(dataset.num_predictions, load_tokenizer()) is dataset
    three = dataset.sample(-(-dataset.num_predictions // 3), load_tokenizer())
    assert len(three.starts) == pytest.approx(len(dataset.starts) / 3, abs=1)
    text = 0
    for owner in range(len(three.num_bytes)):
        mine = (three.tweet == owner).nonzero()[:, 0]
        for example in mine.tolist():
            start, length = int(three.starts[example]), int(three.lengths[example])
            ids = three.tokens.ids[start + 1 : start + length + 1].tolist()
            text += len(load_tokenizer().decode(ids).encode()) + (start + length + 1 in three.tokens.bounds[1:])
    assert text == int(three.num_bytes.sum())


def test_predictions_are_numbered_tweet_by_tweet(dataset: TweetDataset) -> None:
    seen = []
    for chosen in dataset.epoch(3, seed=0, number=0, unk_rate=0.0).steps:
        seen += dataset.batch(chosen).index.tolist()
    assert sorted(seen) == list(range(dataset.num_predictions))
    first = dataset.batch(torch.tensor([1])).index[0]
    assert int(first) == int(dataset.lengths[0])


def test_num_bytes_are_those_of_utf8_and_one_for_the_end(dataset: TweetDataset) -> None:
    assert dataset.num_bytes.tolist() == [len(tweet.text.encode("utf-8")) + 1 for tweet in TWEETS]


def test_tokens_seen_once_are_replaced_by_unk(
    dataset: TweetDataset, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    unk = vocabulary.unk_ids(load_tokenizer())
    everything = torch.arange(len(dataset))
    plain = dataset.batch(everything).targets
    once = torch.bincount(torch.cat([plain, torch.tensor([vocabulary.end])]))[plain] == 1

    def replaced(rate: float, number: int) -> torch.Tensor:
        epoch = dataset.epoch(4, seed=0, number=number, unk_rate=rate)
        return dataset.batch(everything, replaced=epoch).targets

    assert torch.equal(replaced(0.0, 0), plain)
    always = replaced(1.0, 0)
    assert torch.equal(always[once], unk[plain[once]]) and torch.equal(always[~once], plain[~once])
    assert bool(vocabulary.is_shared[always[once]].all())
    share = torch.stack([vocabulary.is_shared[replaced(0.3, number)[once]] for number in range(300)])
    assert float(share.float().mean()) == pytest.approx(0.3, abs=0.03)
    before = replaced(0.3, 5)
    monkeypatch.setattr(module, "CHUNK", 7)  # drawing in chunks gives the same numbers
    assert torch.equal(replaced(0.3, 5), before)


def test_inputs_have_the_same_replacements_as_targets(dataset: TweetDataset) -> None:
    batch = dataset.batch(torch.arange(4), replaced=dataset.epoch(4, seed=1, number=2, unk_rate=0.5))
    for read, targets in zip(batch.ids, batch.targets.split(dataset.lengths.tolist()), strict=True):
        assert torch.equal(read[1 : len(targets)], targets[:-1])


def test_singletons_may_be_counted_in_another_dataset(dataset: TweetDataset, vocabulary: Vocabulary) -> None:
    more = [*TWEETS, Tweet("Mars is red! Yes!", True)]
    both = TweetDataset.encode(more, load_tokenizer(), vocabulary, 64, counted_in=dataset)
    assert torch.equal(both.singletons, dataset.singletons)
    alone = TweetDataset.encode(more, load_tokenizer(), vocabulary, 64)
    assert len(alone.singletons) < len(dataset.singletons)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 9))
def test_the_parts_of_a_step_hold_each_prediction_once(processes: int, size: int, batch_size: int) -> None:
    dataset = TweetDataset.encode(TWEETS * 3, load_tokenizer(), FULL, 64)
    epoch = dataset.epoch(batch_size, seed=0, number=0, unk_rate=0.0)
    for step in epoch.steps:
        each = [Ranks(rank, processes) for rank in range(processes)]
        parts = [list(epoch.parts(step, ranks=ranks, size=size, device=torch.device("cpu"))) for ranks in each]
        shares = [sum(len(batch.ids) for batch in own) for own in parts]
        assert max(shares) - min(shares) <= 1, "the processes have equally many examples, or one more"
        batches = [batch for own in parts for batch in own]
        assert all(len(batch.ids) <= size for batch in batches)
        assert sum(batch.share for batch in batches) == pytest.approx(1.0)
        found = torch.cat([batch.index for batch in batches]).sort().values
        assert torch.equal(found, dataset.batch(step).index.sort().values)
        for batch in batches:
            assert batch.share == pytest.approx(len(batch.targets) / int(dataset.lengths[step].sum()))


@pytest.mark.parametrize(("count", "batch_size", "pool"), [(100, 8, 4), (7, 8, 4), (33, 4, 100)])
def test_batches_of_similar_length_have_each_example_once(count: int, batch_size: int, pool: int) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (count,), generator=generator)
    batches = of_similar_length(lengths, batch_size, generator, pool=pool)
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    assert sorted(map(len, batches)) == sorted(map(len, torch.arange(count).split(batch_size)))
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    at_random = [lengths[batch] for batch in torch.randperm(count, generator=generator).split(batch_size)]
    assert int(lengths.sum()) <= padded <= sum(int(found.max()) * len(found) for found in at_random)
    again = of_similar_length(lengths, batch_size, generator, pool=pool)
    assert len(batches) == 1 or [batch.tolist() for batch in again] != [batch.tolist() for batch in batches]
