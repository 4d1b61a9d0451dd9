"""An evaluation in plain words. Every sentence is made from the figures, and says them."""

import math
from typing import Any

LEAK_COPIES = 0.01  # share of validation tweets that are training tweets; preprocess leaves none
LEAK_SPANS = 0.05  # share of validation tweets with a long span of a training tweet; a clean split has next to none
HARDLY, CLEARLY = 1.15, 1.5  # validation loss over training loss: below, hardly over-fitted; above, clearly
STOPS, RARELY = 0.95, 0.5  # share of samples that end by themselves
FEW_TWEETS = 200  # validation tweets, below which an interval is too wide to rank recipes


def verdict(result: dict[str, Any]) -> list[str]:
    """Sentences on what the figures of `evaluation.evaluate` mean, the most important first."""
    sentences = [*leak(result), beats(result["against_ngram"], f"the {result['against_ngram']['order']}-gram model")]
    if result["against"]:
        sentences.append(beats(result["against"], result["against"]["model"]))
    sentences += fit(result)
    if result["sampling"]["samples"]:
        sentences += [*stops(result), *copies(result), *variety(result)]
    if result["val"]["tweets"] < FEW_TWEETS:
        sentences.append(
            f"Only {result['val']['tweets']} validation tweets: every figure here is rough. Look at the intervals."
        )
    return sentences


def leak(result: dict[str, Any]) -> list[str]:
    """A leak, if there are signs of one: validation tweets among the training tweets."""
    copied, gap, sentences = result["memorisation"], result["memorisation"]["gap"], []
    if copied["real_exact_copies"] > LEAK_COPIES or copied["real_ngram8_in_train"] > LEAK_SPANS:
        sentences.append(
            f"A leak is suspected: {percent(copied['real_exact_copies'])} of the validation tweets are training tweets "
            f"word for word, and {percent(copied['real_ngram8_in_train'])} share 8 tokens in a row with one. "
            "No other figure on this page can be trusted: preprocess again."
        )
    if result["model"]["kind"] == "checkpoint" and gap["low"] <= 0 and result["against_ngram"]["high"] < 0:
        sentences.append(
            "A leak is suspected: validation tweets cost this model no more than those it trained on "
            f"({loss(copied)}), though it beats the n-gram model. It has probably trained on both."
        )
    return sentences


def beats(comparison: dict[str, Any], other: str) -> str:
    """Which of two models is better on the same tweets, and how sure that is."""
    low, high = comparison["low"], comparison["high"]
    figures = f"{comparison['ours']:.3f} against {comparison['theirs']:.3f} bits per byte"
    if low == high == 0:
        return f"It predicts exactly as well as {other}: {comparison['ours']:.3f} bits per byte."
    if high < 0:
        less = f"{-comparison['difference']:.3f} less (95% interval {-high:.3f} to {-low:.3f})"
        return f"It beats {other}: {figures}, {less}."
    if low > 0:
        more = f"{comparison['difference']:.3f} more (95% interval {low:.3f} to {high:.3f})"
        return f"It does not beat {other}: {figures}, {more}."
    return f"It can't be told from {other}: {figures}, a difference of {signed(comparison)}, which may be chance."


def fit(result: dict[str, Any]) -> list[str]:
    """Whether it knows its training tweets better than others."""
    copied = result["memorisation"]
    if result["model"]["kind"] != "checkpoint":
        return [f"What it was trained on is unknown; here, {loss(copied)}."]
    if copied["gap"]["low"] <= 0:
        return [f"It is not over-fitted: {loss(copied)}."]
    ratio = result["val"]["nats_per_token"] / max(copied["train_nats_per_token"], 1e-9)
    degree = "hardly" if ratio <= HARDLY else "somewhat" if ratio <= CLEARLY else "clearly"
    return [f"It is {degree} over-fitted: {loss(copied)}."]


def loss(copied: dict[str, Any]) -> str:
    """The losses on both sides of the split."""
    return (
        f"training tweets cost it {copied['train_nats_per_token']:.2f} nats per token, "
        f"validation tweets {copied['val_nats_per_token']:.2f}, a gap of {signed(copied['gap'])}"
    )


def stops(result: dict[str, Any]) -> list[str]:
    """Whether tweets end by themselves, and as long as real ones."""
    found = result["stopping"]
    rate = found["stop_rate"]
    if rate == 0:
        first = "It never ends a tweet: all samples ran into the length limit."
    elif rate < RARELY:
        first = f"It rarely ends a tweet: only {percent(rate)} of the samples end by themselves."
    elif rate < STOPS:
        first = f"It mostly knows where to stop: {percent(rate)} of the samples end by themselves."
    else:
        first = f"It knows where to stop: {percent(rate)} of the samples end by themselves."
    lengths = (
        f"Its tweets have {found['mean_length']:.1f} tokens on average, real ones {found['real_mean_length']:.1f} "
        f"(the lengths differ by {found['length_ks']:.2f} on a scale from 0, the same, to 1)."
    )
    empty = f"{percent(found['empty'])} of the samples are empty." if found["empty"] > 0 else ""
    return [sentence for sentence in (first, lengths, empty) if sentence]


def copies(result: dict[str, Any]) -> list[str]:
    """Whether it copies more than people do."""
    found, excess = result["memorisation"], result["memorisation"]["ngram8_excess"]
    figures = (
        f"{percent(found['ngram8_in_train'])} of its tweets share 8 tokens in a row with a training tweet, "
        f"of unseen real tweets {percent(found['real_ngram8_in_train'])}"
    )
    exact = f"{percent(found['exact_copies'])} of its tweets are training tweets word for word, short ones included"
    if not math.isnan(repeated := found["real_repeats"]):
        exact += f"; of the real ones {percent(repeated)} repeated an earlier one, before duplicates were dropped"
    if excess["low"] > 0:
        return [f"It copies more than people do: {figures}.", f"{exact}."]
    return [f"It does not copy more than people do: {figures}.", f"{exact}."]


def variety(result: dict[str, Any]) -> list[str]:
    """Whether samples differ from each other, and from real tweets."""
    found = result["diversity"]
    sentences = [
        f"{percent(found['unique'])} of its tweets differ from all the others. Of its pairs of tokens "
        f"{percent(found['distinct2'])} are different ones, in as many real tweets {percent(found['real_distinct2'])}."
    ]
    area = found["classifier_auc"]
    if area == area:  # not nan: too few tweets to train a classifier on
        word = "hardly" if area < 0.6 else "often" if area < 0.8 else "easily"
        sentences.append(
            f"A simple classifier {word} tells them from real ones: AUC {area:.2f}, where 0.5 is guessing."
        )
    return sentences


def percent(share: float) -> str:
    """A share as people read it; small ones keep a digit."""
    return f"{share:.1%}" if 0 < share < 0.1 or 0.9 < share < 1 else f"{share:.0%}"


def signed(difference: dict[str, float]) -> str:
    """A difference with its 95% interval."""
    return f"{difference['difference']:+.3f} (95% interval {difference['low']:+.3f} to {difference['high']:+.3f})"
