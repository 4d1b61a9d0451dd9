"""A committee against its members asked one by one, written with and read in one go."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from config.cli import parse
from generate.generate import generate
from model.checkpoint import Bundle
from model.ngram import NGram, into_rows
from model.soft_targets import compress, dense
from model.tokenizer import NUM_TOKENS, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from tests.conftest import TINY
from trainer.batches import PAD, Rows
from trainer.committee import Committee, Memory, Voice, listen
from trainer.prepare import framed_ids
from trainer.score import score
from utils.preprocess import Tweet

CONFIG = parse("train", TINY)[0]
SHAPE = replace(CONFIG.model, block_size=32)
TOKENIZER = load_tokenizer("gpt2")
UNSEEN = [Tweet("The rocket zyzzyva 🚀 hums.", True), Tweet("Cut in the mid", False)]


def model(seed: int, rows: int, *, width: int = 16) -> GPT:
    """A random model with opinions."""
    torch.manual_seed(seed)
    made = GPT(replace(SHAPE, n_embd=width), rows).eval()
    for parameter in made.parameters():
        parameter.data += torch.randn_like(parameter) / 3
    return made


@pytest.fixture(scope="module")
def vocabulary(tweets: list[Tweet]) -> Vocabulary:
    """That of the made-up tweets."""
    return Vocabulary.build(CONFIG.model, TOKENIZER, TOKENIZER.encode_batch([tweet.text for tweet in tweets]))


@pytest.fixture(scope="module")
def committee(vocabulary: Vocabulary, tweets: list[Tweet]) -> Committee:
    """Two models with unequal shares, one with GPT-2's whole vocabulary, and a 3-gram."""
    whole = Vocabulary(torch.arange(NUM_TOKENS), torch.zeros(NUM_TOKENS))
    voices = [Voice(model(1, vocabulary.num_rows), vocabulary, 2.0), Voice(model(2, NUM_TOKENS, width=8), whole, 1.0)]
    ngram = NGram.fit(framed_ids(tweets, TOKENIZER), 3)
    return Committee(voices, vocabulary, config=SHAPE, ngram=ngram, ngram_share=1.0)


@torch.no_grad()
def one_by_one(committee: Committee, tweet: list[int]) -> Tensor:
    """Probabilities at each place of a framed tweet whose tokens all have a row of their own."""
    first, second = committee.voices
    ours = first.model(first.vocabulary.to_rows(tweet[:-1])[None])[0].softmax(-1)
    theirs = torch.zeros_like(ours).index_add_(
        1, committee.vocabulary.row_of, second.model(torch.tensor([tweet[:-1]]))[0].softmax(-1)
    )
    assert committee.ngram is not None
    counted = [committee.ngram.distribution(tweet[: n + 1]) for n in range(len(tweet) - 1)]
    grams = torch.from_numpy(np.stack([into_rows(one, committee.vocabulary) for one in counted])).float()
    return 0.5 * ours + 0.25 * theirs + 0.25 * grams


def test_is_the_weighted_mean_of_its_voices(committee: Committee, tweets: list[Tweet]) -> None:
    for tweet in framed_ids(tweets[:6], TOKENIZER):
        found = committee(committee.vocabulary.to_rows(tweet[:-1])[None])[0].exp()
        torch.testing.assert_close(found, one_by_one(committee, tweet), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found.sum(-1), torch.ones(len(found)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_reading_bit_by_bit_is_reading_at_once(committee: Committee, tweets: list[Tweet]) -> None:
    rows = torch.stack([committee.vocabulary.to_rows(ids[:7]) for ids in framed_ids(tweets[:40:13], TOKENIZER)])
    at_once = committee(rows)
    cache = committee.new_cache(len(rows))
    parts = [committee(rows[:, :3], cache)]
    cache.keep([2, 0, 1, 3])
    rows, at_once = rows[[2, 0, 1, 3]], at_once[[2, 0, 1, 3]]
    more = committee.new_cache(1)
    committee(rows[:1, :3], more)
    cache.join(more)
    cache.drop(1)  # the one that joined, a copy of the first, takes its place
    rows[1], at_once[1] = rows[0], at_once[0]
    parts = [at_once[:, :3]] + [committee(rows[:, n : n + 1], cache) for n in range(3, 7)]
    torch.testing.assert_close(torch.cat(parts, 1), at_once, atol=1e-4, rtol=1e-4)


def test_writes_as_a_model_does(committee: Committee) -> None:
    """What it wrote, read again in one go, is what inverting its distributions gives: see generate/sampling.py."""
    bundle = Bundle(committee, TOKENIZER, committee.vocabulary, CONFIG, {})  # type: ignore[arg-type]
    settings = replace(CONFIG.generate, num_samples=20, temperature=0.0, max_new_tokens=12)
    for prompt in ("", "The rocket"):
        for sample in generate(bundle, [prompt], replace(settings, num_samples=1)):
            (framed,) = framed_ids([Tweet(sample.text, False)], TOKENIZER)
            rows = committee.vocabulary.to_rows([framed[0], *sample.ids])
            allowed = committee.vocabulary.forbid_shared(committee(rows[None])[0])
            given = len(TOKENIZER.encode(prompt))
            chosen = committee.vocabulary.to_ids(allowed.argmax(-1)[given : len(sample.ids)].tolist())
            assert sample.ids[given:] == chosen and len(chosen) >= 1


def test_costs_of_gpt2s_tokens_sum_over_shared_rows(vocabulary: Vocabulary, tweets: list[Tweet]) -> None:
    """On tweets with tokens nobody saw, against probabilities over all 50,257."""
    members = [model(seed, vocabulary.num_rows) for seed in (1, 2)]
    ngram = NGram.fit(framed_ids(tweets, TOKENIZER), 3)
    voices = [Voice(member, vocabulary, 1.0) for member in members]
    whole = Committee(voices, vocabulary, config=SHAPE, ngram=ngram, ngram_share=2.0)
    nats = score(whole, vocabulary, Rows.encode(UNSEEN, TOKENIZER, vocabulary, 32)).nats  # type: ignore[arg-type]
    for tweet, cost in zip(framed_ids(UNSEEN, TOKENIZER), nats.tolist(), strict=True):
        with torch.no_grad():
            rows = vocabulary.to_rows(tweet[:-1])[None]
            said = torch.stack([vocabulary.log_probs(member(rows)[0]).exp() for member in members]).mean(0)
        counted = torch.from_numpy(np.stack([ngram.distribution(tweet[: n + 1]) for n in range(len(tweet) - 1)]))
        mixed = torch.zeros(len(tweet) - 1, vocabulary.num_rows, dtype=torch.float64)
        mixed.index_add_(1, vocabulary.row_of, 0.5 * said.double() + 0.5 * counted)
        target = torch.tensor(tweet[1:])
        chances = mixed.gather(1, vocabulary.row_of[target][:, None])[:, 0] * vocabulary.log_prior[target].exp()
        assert cost == pytest.approx(-float(chances.log().sum()), rel=1e-4)


def test_memory_gives_what_was_said_at_each_place(committee: Committee, tweets: list[Tweet]) -> None:
    some = tweets[:50]
    rows = Rows.encode(some, TOKENIZER, committee.vocabulary, 32)
    memory = Memory([listen(committee, rows)], places=rows.num_predictions)
    expected = torch.cat([one_by_one(committee, tweet) for tweet in framed_ids(some, TOKENIZER)])
    assert len(memory) == len(expected) == rows.num_predictions
    for chosen in rows.epoch(16, seed=0, epoch=0):
        batch = rows.batch(chosen)
        index = batch.index[batch.targets != PAD]
        found = memory.at(index)
        torch.testing.assert_close(found, expected[index], atol=1e-6, rtol=1e-4)
        kl = (expected[index] * (expected[index].log() - found.clamp(min=1e-12).log())).sum(-1).mean()
        entropy = -(expected[index] * expected[index].log()).sum(-1).mean()
        assert abs(float(kl)) < 1e-4 * float(entropy)


def test_memory_mixes_in_an_n_gram_that_left_the_tweet_out(committee: Committee, tweets: list[Tweet]) -> None:
    rows = Rows.encode(tweets[:3], TOKENIZER, committee.vocabulary, 32)
    first = int(rows.lengths[0])
    uniform = torch.full((first, committee.vocabulary.num_rows), 1 / committee.vocabulary.num_rows)
    base = torch.full((committee.vocabulary.num_rows,), 1 / committee.vocabulary.num_rows)
    left_out = compress(uniform, base, 4)
    spoken = listen(committee, rows)
    memory = Memory([spoken], places=rows.num_predictions, ngram=left_out, ngram_share=0.25)
    plain = Memory([spoken], places=rows.num_predictions)
    index = torch.arange(rows.num_predictions)
    expected = plain.at(index)
    expected[:first] = 0.75 * expected[:first] + 0.25 * uniform
    torch.testing.assert_close(memory.at(index), expected, atol=1e-6, rtol=1e-4)
    alone = Memory([listen(committee, rows, torch.tensor([1, 2]))], places=rows.num_predictions, ngram=left_out)
    torch.testing.assert_close(alone.at(torch.arange(first)), dense(left_out, torch.arange(first)))
