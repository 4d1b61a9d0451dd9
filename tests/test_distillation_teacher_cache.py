"""distillation/teacher_cache.py: the cached probabilities are those of the teachers reading the tweets again."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from config.cli import parse
from distillation.teacher_cache import TeacherCache, cache_hidden_states
from model.ensemble import Ensemble, Member
from model.soft_targets import compress, dense
from model.tokenizer import load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from tests.conftest import TINY
from trainer.batches import TweetDataset
from trainer.job import framed_ids
from utils.preprocess import Tweet

SHAPE = replace(parse("train", TINY)[0].model, block_size=32)
TOKENIZER = load_tokenizer("gpt2")


@pytest.fixture(scope="module")
def ensemble(tweets: list[Tweet]) -> Ensemble:
    """Two random models with equal shares."""
    vocabulary = Vocabulary.build(SHAPE, TOKENIZER, TOKENIZER.encode_batch([tweet.text for tweet in tweets]))
    members = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = GPT(SHAPE, vocabulary.vocab_size).eval()
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter) / 3
        members.append(Member(model, vocabulary, 1.0))
    return Ensemble(members, vocabulary, config=SHAPE)


@torch.no_grad()
def direct(ensemble: Ensemble, tweets: list[Tweet]) -> Tensor:
    """Probabilities at each position of these tweets, tweet by tweet, computed from the members."""
    found = []
    for framed in framed_ids(tweets, TOKENIZER):
        ids = ensemble.vocabulary.from_gpt2(framed[:-1])[None]
        found.append(torch.stack([member.model(ids)[0].softmax(-1) for member in ensemble.members]).mean(0))
    return torch.cat(found)


def test_probabilities_are_those_of_the_ensemble(ensemble: Ensemble, tweets: list[Tweet]) -> None:
    dataset = TweetDataset.encode(tweets[:50], TOKENIZER, ensemble.vocabulary, 32)
    cache = TeacherCache(cache_hidden_states(ensemble, dataset), size=dataset.num_predictions)
    expected = direct(ensemble, tweets[:50])
    assert len(cache) == len(expected) == dataset.num_predictions
    for examples in dataset.in_order(16):
        batch = dataset.batch(examples)
        index = batch.index
        torch.testing.assert_close(cache.at(index), expected[index], atol=1e-6, rtol=1e-4)


def test_an_n_gram_teaches_where_there_are_no_hidden_states(ensemble: Ensemble, tweets: list[Tweet]) -> None:
    dataset = TweetDataset.encode(tweets[:3], TOKENIZER, ensemble.vocabulary, 32)
    first, size = int(dataset.lengths[0]), dataset.num_predictions
    base = torch.full((ensemble.vocabulary.vocab_size,), 1 / ensemble.vocabulary.vocab_size)
    left_out = compress(torch.rand(first, len(base)), base, 4)
    states = cache_hidden_states(ensemble, dataset, torch.tensor([1, 2]))
    found = TeacherCache(states, size=size, left_out=left_out).at(torch.arange(size))
    torch.testing.assert_close(found[:first], dense(left_out, torch.arange(first)))
    torch.testing.assert_close(found[first:], direct(ensemble, tweets[1:3]), atol=1e-6, rtol=1e-4)
    alone = TeacherCache(None, size=first, left_out=left_out)
    torch.testing.assert_close(alone.at(torch.arange(first)), dense(left_out, torch.arange(first)))
