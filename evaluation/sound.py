"""Does it sound like the person? Fluency and voice under a judge, and a reverse n-gram, of samples and of references.

The references are training tweets (the best there can be), another writer's tweets, and training tweets with their
words in random order. Samples are drawn three times: from the model's own distribution, with the settings of
`generate`, and as people see them, each the best of several.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from config.schema import Config
from evaluation import metrics
from evaluation.baselines import frame_all
from evaluation.fine_tune import FineTuning
from evaluation.huggingface import HuggingFace
from evaluation.judge import Judgement, fluency_gap, judge_lists, voice
from evaluation.metrics import Written, spread
from evaluation.other_texts import read_tweets
from generate.copies import CopyCheck, normalise
from model.device import precision
from model.ngram import Floats, NGram
from model.tokenizer import Tokenizer
from model.tracks import MODEL
from utils.kaggle import SAMPLE
from utils.preprocess import Corpus, Tweet

JUDGED = 500  # tweets of a list that the judge reads: with SmolLM2 about half a minute on two cores
JUDGED_REFERENCES = 250  # and of references other than validation tweets, whose figures are only there to compare
NGRAM_TWEETS = 5000  # samples that a reverse n-gram is fitted to, at most
ORDER = 3  # of the reverse n-gram
# Samples at temperature 1; with the settings of `generate`; and the best of several of these, which people see.
SAMPLED, RAW, SHIPPED = "sampled", "raw", "shipped"
VALIDATION, TRAINING, OTHER, SHUFFLED = "validation", "training", "other_writer", "shuffled"
SAME_WRITER = 0.1  # share of the other writer's tweets among ours, above which it is no other writer


@dataclass(frozen=True)
class Lists:
    """The lists of tweets that are compared, by name; and what to say about them."""

    tweets: Mapping[str, Sequence[Tweet]]
    notes: list[str]


def measure_sound(
    judge: HuggingFace,
    config: Config,
    corpus: Corpus,
    *,
    samples: Mapping[str, Sequence[Written]],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """The part `judge` of the result: its name and zero-shot figures, a line for each list, and notes.

    Args:
        samples: the model's tweets, by SAMPLED, RAW and SHIPPED.
    """
    lists = make_lists(config, corpus, samples)
    lines = measure_lists(judge, config, corpus, lists=lists.tweets, tokenizer=tokenizer)
    main = lines[SAMPLED]
    return {
        "name": judge.name,
        "track": MODEL,
        "zero_shot": {name: lines[name]["bits_per_byte"] for name in (VALIDATION, TRAINING) if lines[name]["judged"]},
        "fluency_gap": main["fluency_gap"] and main["fluency_gap"]["difference"],
        "voice": main["voice"] and main["voice"]["value"],
        "reverse_ngram": main["reverse_ngram"] and main["reverse_ngram"]["bits_per_byte"],
        "lists": lines,
        "notes": [*lists.notes, *judge.notes],
    }


def measure_lists(
    judge: HuggingFace, config: Config, corpus: Corpus, *, lists: Mapping[str, Sequence[Tweet]], tokenizer: Tokenizer
) -> dict[str, dict[str, Any]]:
    """The figures of each list, by its name. VALIDATION is among them; without OTHER there is no figure for voice."""
    chosen = {name: judged_tweets(name, tweets) for name, tweets in lists.items()}
    recipe = FineTuning(dtype=precision(config.machine, judge.device)) if OTHER in chosen else None
    found = judge_lists(judge, chosen, validation=VALIDATION, recipe=recipe)
    copies = CopyCheck([tweet.text for tweet in corpus.train])
    return {
        name: {
            **judged_figures(name, found),
            "reverse_ngram": reverse_ngram(tweets, corpus, tokenizer) if name != VALIDATION else None,
            "exact_copies": metrics.mean([copies.exact(tweet.text) for tweet in tweets if tweet.text.strip()]),
            "ngram8_in_train": metrics.mean([copies.has_span(tweet.text) for tweet in tweets]),
            "tweets": len(tweets),
        }
        for name, tweets in lists.items()
    }


def make_lists(config: Config, corpus: Corpus, samples: Mapping[str, Sequence[Written]]) -> Lists:
    """All lists: the samples, validation and training tweets, another writer, and shuffled words."""
    train = spread(corpus.train, min(len(corpus.train), NGRAM_TWEETS))
    lists: dict[str, Sequence[Tweet]] = {
        name: [Tweet(sample.text, sample.ended) for sample in written] for name, written in samples.items()
    }
    lists |= {VALIDATION: list(corpus.val), TRAINING: train}
    other, notes = other_writer(config, corpus)
    if other:
        lists[OTHER] = other
    lists[SHUFFLED] = [shuffled(tweet, seed) for seed, tweet in enumerate(train)]
    return Lists(lists, notes)


def other_writer(config: Config, corpus: Corpus) -> tuple[list[Tweet], list[str]]:
    """Tweets by somebody else, cleaned with the same rules; or none, and why.

    Raises:
        UserError: evaluate.other_writer can't be read as tweets.
    """
    path = config.evaluate.other_writer or str(SAMPLE)
    found = read_tweets(path, config.data, key="evaluate.other_writer")
    ours = {normalise(tweet.text) for side in (corpus.train, corpus.val) for tweet in side}
    if metrics.mean([normalise(tweet.text) in ours for tweet in found]) > SAME_WRITER:
        what_to_do = "give tweets of another person with --evaluate.other_writer FILE"
        return [], [f"no figure for voice: {path} holds the tweets of this model's author; {what_to_do}"]
    return found, []


def shuffled(tweet: Tweet, seed: int) -> Tweet:
    """The same words in random order."""
    words = tweet.text.split()
    random.Random(seed).shuffle(words)
    return Tweet(" ".join(words), tweet.finished)


def judged_tweets(name: str, tweets: Sequence[Tweet]) -> list[Tweet]:
    """The tweets of a list that the judge reads, evenly spaced. Only whole ones: a cut tweet's end can't be judged."""
    whole = [tweet for tweet in tweets if tweet.finished]
    most = JUDGED_REFERENCES if name in (TRAINING, OTHER, SHUFFLED) else JUDGED
    return spread(whole, min(len(whole), most))


def judged_figures(name: str, found: Mapping[str, Judgement]) -> dict[str, Any]:
    """The figures of one list under the judge."""
    if name not in found:
        return {"judged": 0, "bits_per_byte": None, "fluency_gap": None, "voice": None}
    return {
        "judged": len(found[name].bits),
        "bits_per_byte": found[name].bits_per_byte,
        "fluency_gap": fluency_gap(found[name], found[VALIDATION]),
        "voice": voice(found[name], found[VALIDATION], found.get(OTHER)),
    }


def reverse_ngram(tweets: Sequence[Tweet], corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """Bits per byte on validation tweets of a 3-gram fitted to these tweets, with a 95% interval.

    As many are used as there are training tweets (NGRAM_TWEETS at most), so that figures can be compared; None if there
    are fewer.
    """
    number = min(len(corpus.train), NGRAM_TWEETS)
    if len(tweets) < number:
        return None
    model = NGram.fit(frame_all(spread(tweets, number), tokenizer), ORDER)
    bits = np.array([-model.log_probs(framed).sum() for framed in frame_all(corpus.val, tokenizer)]) / np.log(2)
    num_bytes: Floats = np.array([len(tweet.text.encode()) + 1 for tweet in corpus.val], dtype=np.float64)
    low, high = metrics.interval(metrics.resampled_ratios(bits, num_bytes, seed=0))
    return {"bits_per_byte": float(bits.sum() / num_bytes.sum()), "low": low, "high": high}
