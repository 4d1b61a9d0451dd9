"""Scores against a direct computation for each tweet."""

import math
from collections.abc import Callable

import pytest
import torch

from config.schema import Config
from model.tokenizer import END, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from trainer.batches import TweetDataset
from trainer.score import score
from utils.preprocess import Tweet


@torch.no_grad()
def test_scores_equal_the_distribution_over_all_tokens(settings: Callable[..., Config], tweets: list[Tweet]) -> None:
    tokenizer, config = load_tokenizer(), settings().model
    vocabulary = Vocabulary.build(config, tokenizer, tokenizer.encode_batch([tweet.text for tweet in tweets]))
    torch.manual_seed(0)
    model = GPT(config, vocabulary.vocab_size).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    unseen = [Tweet("Quantum zebras, naturally.", True), Tweet("A zebra cut off in the mid", False), tweets[0]]
    scores = score(model, TweetDataset.encode(unseen, tokenizer, vocabulary, config.block_size), batch_size=2)
    for number, tweet in enumerate(unseen):
        ids = tokenizer.encode(tweet.text) + ([END] if tweet.finished else [])
        logits = model(vocabulary.id_of[torch.tensor([END, *ids[:-1]])][None])[0]
        costs = -vocabulary.log_probs(logits.double())[torch.arange(len(ids)), torch.tensor(ids)]
        assert float(scores.nats[number]) == pytest.approx(float(costs.sum()), rel=1e-5)
        assert int(scores.tokens[number]) == len(ids)
        end = float(scores.end_nats[number])
        assert end == pytest.approx(float(costs[-1]), rel=1e-4) if tweet.finished else math.isnan(end)
    total_bytes = sum(len(tweet.text.encode()) + 1 for tweet in unseen)
    assert scores.bits_per_byte == pytest.approx(float(scores.nats.sum()) / math.log(2) / total_bytes)
    assert scores.nats_per_token == pytest.approx(float(scores.nats.sum()) / int(scores.tokens.sum()))


@torch.no_grad()
def test_a_long_text_is_one_tweet(settings: Callable[..., Config]) -> None:
    tokenizer, config = load_tokenizer(), settings("--model.block_size", "8").model
    tweet = Tweet("one two three four five six seven eight nine ten eleven.", True)
    vocabulary = Vocabulary.build(config, tokenizer, [tokenizer.encode(tweet.text)])
    model = GPT(config, vocabulary.vocab_size).eval()
    scores = score(model, TweetDataset.encode([tweet], tokenizer, vocabulary, 8))
    assert scores.tokens.tolist() == [len(tokenizer.encode(tweet.text)) + 1]
    assert bool(scores.end_nats.isfinite().all())
