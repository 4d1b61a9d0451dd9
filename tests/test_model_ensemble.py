"""An ensemble against its members computed one by one, when it reads a whole text and when it writes one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from config.cli import parse
from generate.generate import generate
from model.checkpoint import Bundle
from model.ensemble import Ensemble, Member
from model.ngram import NGram, to_vocabulary
from model.tokenizer import NUM_TOKENS, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from tests.conftest import TINY
from trainer.batches import TweetDataset
from trainer.job import framed_ids
from trainer.score import score
from utils.preprocess import Tweet

CONFIG = parse("train", TINY)[0]
SHAPE = replace(CONFIG.model, block_size=32)
TOKENIZER = load_tokenizer("gpt2")
UNSEEN = [Tweet("The rocket zyzzyva 🚀 hums.", True), Tweet("Cut in the mid", False)]


def model(seed: int, vocab_size: int, *, width: int = 16) -> GPT:
    """A random model whose probabilities are far from even."""
    torch.manual_seed(seed)
    made = GPT(replace(SHAPE, n_embd=width), vocab_size).eval()
    for parameter in made.parameters():
        parameter.data += torch.randn_like(parameter) / 3
    return made


@pytest.fixture(scope="module")
def vocabulary(tweets: list[Tweet]) -> Vocabulary:
    """The vocabulary of the made-up tweets."""
    return Vocabulary.build(CONFIG.model, TOKENIZER, TOKENIZER.encode_batch([tweet.text for tweet in tweets]))


@pytest.fixture(scope="module")
def ensemble(vocabulary: Vocabulary, tweets: list[Tweet]) -> Ensemble:
    """Two models with unequal shares, one with GPT-2's whole vocabulary, and a 3-gram."""
    whole = Vocabulary.full()
    members = [
        Member(model(1, vocabulary.vocab_size), vocabulary, 2.0),
        Member(model(2, NUM_TOKENS, width=8), whole, 1.0),
    ]
    ngram = NGram.fit(framed_ids(tweets, TOKENIZER), 3)
    return Ensemble(members, vocabulary, config=SHAPE, ngram=ngram, ngram_share=1.0)


@torch.no_grad()
def one_by_one(ensemble: Ensemble, tweet: list[int]) -> Tensor:
    """Probabilities at each position of a framed tweet whose tokens all have an id of their own."""
    first, second = ensemble.members
    ours = first.model(first.vocabulary.from_gpt2(tweet[:-1])[None])[0].softmax(-1)
    theirs = torch.zeros_like(ours).index_add_(
        1, ensemble.vocabulary.id_of, second.model(torch.tensor([tweet[:-1]]))[0].softmax(-1)
    )
    assert ensemble.ngram is not None
    counted = [ensemble.ngram.distribution(tweet[: n + 1]) for n in range(len(tweet) - 1)]
    grams = torch.from_numpy(np.stack([to_vocabulary(one, ensemble.vocabulary) for one in counted])).float()
    return 0.5 * ours + 0.25 * theirs + 0.25 * grams


def test_is_the_weighted_mean_of_its_members(ensemble: Ensemble, tweets: list[Tweet]) -> None:
    for tweet in framed_ids(tweets[:6], TOKENIZER):
        found = ensemble(ensemble.vocabulary.from_gpt2(tweet[:-1])[None])[0].exp()
        torch.testing.assert_close(found, one_by_one(ensemble, tweet), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found.sum(-1), torch.ones(len(found)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_text_read_in_parts_gives_what_it_gives_at_once(ensemble: Ensemble, tweets: list[Tweet]) -> None:
    ids = torch.stack([ensemble.vocabulary.from_gpt2(tweet[:7]) for tweet in framed_ids(tweets[:40:13], TOKENIZER)])
    at_once = ensemble(ids)
    cache = ensemble.new_cache(len(ids))
    parts = [ensemble(ids[:, :3], cache)]
    cache.keep([2, 0, 1, 3])
    ids, at_once = ids[[2, 0, 1, 3]], at_once[[2, 0, 1, 3]]
    more = ensemble.new_cache(1)
    ensemble(ids[:1, :3], more)
    cache.join(more)
    cache.drop(1)  # the one that joined, a copy of the first, takes its place
    ids[1], at_once[1] = ids[0], at_once[0]
    parts = [at_once[:, :3]] + [ensemble(ids[:, n : n + 1], cache) for n in range(3, 7)]
    torch.testing.assert_close(torch.cat(parts, 1), at_once, atol=1e-4, rtol=1e-4)


def test_writing_token_by_token_gives_the_likeliest_tokens(ensemble: Ensemble) -> None:
    """At temperature 0, each token that was written is the likeliest one when the whole text is read at once."""
    bundle = Bundle(ensemble, TOKENIZER, ensemble.vocabulary, CONFIG, {})
    settings = replace(CONFIG.generate, num_samples=20, temperature=0.0, max_new_tokens=12)
    for prompt in ("", "The rocket"):
        for sample in generate(bundle, [prompt], replace(settings, num_samples=1), raw=True):
            (framed,) = framed_ids([Tweet(sample.text, False)], TOKENIZER)
            ids = ensemble.vocabulary.from_gpt2([framed[0], *sample.ids])
            allowed = ensemble.vocabulary.forbid_shared(ensemble(ids[None])[0])
            given = len(TOKENIZER.encode(prompt))
            chosen = ensemble.vocabulary.to_gpt2(allowed.argmax(-1)[given : len(sample.ids)].tolist())
            assert sample.ids[given:] == chosen and len(chosen) >= 1


def test_scores_of_unseen_tokens_equal_those_over_all_of_gpt2s_tokens(
    vocabulary: Vocabulary, tweets: list[Tweet]
) -> None:
    models = [model(seed, vocabulary.vocab_size) for seed in (1, 2)]
    ngram = NGram.fit(framed_ids(tweets, TOKENIZER), 3)
    members = [Member(one, vocabulary, 1.0) for one in models]
    whole = Ensemble(members, vocabulary, config=SHAPE, ngram=ngram, ngram_share=2.0)
    nats = score(whole, TweetDataset.encode(UNSEEN, TOKENIZER, vocabulary, 32)).nats
    for tweet, cost in zip(framed_ids(UNSEEN, TOKENIZER), nats.tolist(), strict=True):
        with torch.no_grad():
            ids = vocabulary.from_gpt2(tweet[:-1])[None]
            averaged = torch.stack([vocabulary.log_probs(one(ids)[0]).exp() for one in models]).mean(0)
        counted = torch.from_numpy(np.stack([ngram.distribution(tweet[: n + 1]) for n in range(len(tweet) - 1)]))
        mixed = torch.zeros(len(tweet) - 1, vocabulary.vocab_size, dtype=torch.float64)
        mixed.index_add_(1, vocabulary.id_of, 0.5 * averaged.double() + 0.5 * counted)
        target = torch.tensor(tweet[1:])
        chances = mixed.gather(1, vocabulary.id_of[target][:, None])[:, 0] * vocabulary.log_prior[target].exp()
        assert cost == pytest.approx(-float(chances.log().sum()), rel=1e-4)
