"""An evaluation in plain words: sentences made from its figures."""

import math
from typing import Any

LEAK_COPIES = 0.01  # share of validation tweets that are training tweets; preprocessing leaves none
LEAK_SPANS = 0.05  # share of validation tweets with a long span of a training tweet; a clean split has next to none
HARDLY, CLEARLY = 1.15, 1.5  # validation loss over training loss: below, hardly over-fitted; above, clearly
STOPS, RARELY = 0.95, 0.5  # share of samples that end by themselves
FEW_TWEETS = 200  # validation tweets; with fewer an interval is too wide to rank recipes
WEAK, GOOD = 0.6, 0.8  # AUC of the classifier: below, it hardly separates samples from real tweets; above, easily


def make_verdict(result: dict[str, Any]) -> list[str]:
    """Sentences on the figures of `evaluation.evaluate.evaluate`, the most important first."""
    ngram = f"the {result['against_ngram']['order']}-gram model"
    sentences = [*leak_sentences(result), comparison_sentence(result["against_ngram"], ngram)]
    if result["against"]:
        sentences.append(comparison_sentence(result["against"], result["against"]["model"]))
    sentences += overfitting_sentences(result)
    if result["sampling"]["samples"]:
        sentences += [*stopping_sentences(result), *copying_sentences(result), *variety_sentences(result)]
    if result["judge"]:
        sentences += sound_sentences(result["judge"])
    if result["val"]["tweets"] < FEW_TWEETS:
        sentences.append(
            f"There are only {result['val']['tweets']} validation tweets, so every figure is rough: look at the "
            "intervals."
        )
    return sentences


def make_summary(result: dict[str, Any]) -> list[str]:
    """The same in about five sentences, without terms of the field, of the tweets as people see them."""
    found, ngram, lines = result["memorisation"], result["against_ngram"], leak_sentences(result)
    how = "better than" if ngram["high"] < 0 else "worse than" if ngram["low"] > 0 else "about as well as"
    lines.append(
        f"It predicts tweets that it has never seen {how} counting words does: {ngram['ours']:.3f} bits per byte, "
        f"where the {ngram['order']}-gram has {ngram['theirs']:.3f} (less is better)."
    )
    ratio = result["val"]["nats_per_token"] / max(found["train_nats_per_token"], 1e-9)
    if result["model"]["kind"] != "checkpoint":
        lines.append("It is not known which tweets it was trained on.")
    elif found["gap"]["low"] <= 0:
        lines.append("It has not learnt its tweets by heart: new ones are no harder for it to predict.")
    else:
        degree = "hardly" if ratio <= HARDLY else "somewhat" if ratio <= CLEARLY else "clearly"
        lines.append(
            f"It has {degree} learnt its tweets by heart: new ones are {ratio:.2f} times as hard for it to predict."
        )
    if result["sampling"]["samples"]:
        lines += shown_sentences(result)
    return lines


def shown_sentences(result: dict[str, Any]) -> list[str]:
    """Of the tweets as people see them: ends, copies, and whether they read like real ones."""
    ends, copied, area = (result["shown"][name] for name in ("stopping", "memorisation", "diversity"))
    area = area["classifier_auc"]
    lines = [
        f"{percent(ends['stop_rate'])} of its tweets end by themselves; they have {ends['mean_length']:.0f} tokens on "
        f"average, real ones {ends['real_mean_length']:.0f}.",
        f"{percent(copied['exact_copies'])} of its tweets are training tweets word for word, and "
        f"{percent(copied['ngram8_in_train'])} have 8 words in a row from one.",
    ]
    gap = result["judge"] and result["judge"]["lists"]["shipped"]["fluency_gap"]
    if gap:
        how = "less fluent than" if gap["low"] > 0 else "as fluent as" if gap["high"] >= 0 else "simpler than"
        lines.append(
            f"They are {how} real tweets: {gap['difference']:+.2f} bits per byte for another language model "
            f"({result['judge']['name']})."
        )
    elif not math.isnan(area):
        degree = "can hardly" if area < WEAK else "can often" if area < GOOD else "can easily"
        lines.append(f"A simple program {degree} tell them from real tweets (it is right in {percent(area)} of pairs).")
    return lines


def leak_sentences(result: dict[str, Any]) -> list[str]:
    """A warning, if there are signs that validation tweets are among the training tweets."""
    found, sentences = result["memorisation"], []
    if found["real_exact_copies"] > LEAK_COPIES or found["real_ngram8_in_train"] > LEAK_SPANS:
        sentences.append(
            f"A leak is suspected: {percent(found['real_exact_copies'])} of the validation tweets are training tweets "
            f"word for word, and {percent(found['real_ngram8_in_train'])} share 8 words in a row with one. "
            "No other figure on this page can be trusted: preprocess again."
        )
    beats_ngram = result["against_ngram"]["high"] < 0
    if result["model"]["kind"] == "checkpoint" and found["gap"]["low"] <= 0 and beats_ngram:
        sentences.append(
            "A leak is suspected: validation tweets cost this model no more than those it trained on "
            f"({loss_figures(found)}), though it beats the n-gram model. It has probably trained on both."
        )
    return sentences


def comparison_sentence(comparison: dict[str, Any], other: str) -> str:
    """Which of two models predicts the same tweets better, and how certain that is."""
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
    return f"It is not clearly different from {other}: {figures}, a difference of {signed(comparison)}."


def overfitting_sentences(result: dict[str, Any]) -> list[str]:
    """Whether it predicts its training tweets better than unseen ones."""
    found = result["memorisation"]
    if result["model"]["kind"] != "checkpoint":
        return [f"It is unknown what it was trained on; here, {loss_figures(found)}."]
    if found["gap"]["low"] <= 0:
        return [f"It is not over-fitted: {loss_figures(found)}."]
    ratio = result["val"]["nats_per_token"] / max(found["train_nats_per_token"], 1e-9)
    degree = "hardly" if ratio <= HARDLY else "somewhat" if ratio <= CLEARLY else "clearly"
    return [f"It is {degree} over-fitted: {loss_figures(found)}."]


def loss_figures(found: dict[str, Any]) -> str:
    """The losses on both sides of the split."""
    return (
        f"training tweets cost it {found['train_nats_per_token']:.2f} nats per token, "
        f"validation tweets {found['val_nats_per_token']:.2f}, a difference of {signed(found['gap'])}"
    )


def stopping_sentences(result: dict[str, Any]) -> list[str]:
    """Whether its tweets end by themselves, and are as long as real ones."""
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
        f"(the length distributions differ by {found['length_ks']:.2f}; 0 would be equal, 1 nothing in common)."
    )
    empty = f"{percent(found['empty'])} of the samples are empty." if found["empty"] > 0 else ""
    return [sentence for sentence in (first, lengths, empty) if sentence]


def copying_sentences(result: dict[str, Any]) -> list[str]:
    """Whether it copies more than people do."""
    found, excess = result["memorisation"], result["memorisation"]["ngram8_excess"]
    figures = (
        f"{percent(found['ngram8_in_train'])} of its tweets share 8 words in a row with a training tweet, "
        f"of unseen real tweets {percent(found['real_ngram8_in_train'])}"
    )
    exact = f"{percent(found['exact_copies'])} of its tweets are training tweets word for word, short ones included"
    if not math.isnan(repeated := found["real_repeats"]):
        exact += f"; of the real ones {percent(repeated)} repeated an earlier one, before duplicates were dropped"
    more = "copies more than people do" if excess["low"] > 0 else "does not copy more than people do"
    return [f"It {more}: {figures}.", f"{exact}."]


def variety_sentences(result: dict[str, Any]) -> list[str]:
    """Whether samples differ from each other and from real tweets."""
    found = result["diversity"]
    sentences = [
        f"{percent(found['unique'])} of its tweets differ from all the others. Of its pairs of tokens "
        f"{percent(found['distinct2'])} are different, in as many real tweets {percent(found['real_distinct2'])}."
    ]
    area = found["classifier_auc"]
    if not math.isnan(area):  # with too few tweets there is no classifier
        degree = "hardly" if area < WEAK else "often" if area < GOOD else "easily"
        sentences.append(
            f"A simple classifier {degree} separates them from real ones: AUC {area:.2f}, where 0.5 is guessing."
        )
    return sentences


def sound_sentences(found: dict[str, Any]) -> list[str]:
    """Whether its tweets at temperature 1 read as English and as the person's, by what the judge found."""
    line, sentences = found["lists"]["sampled"], []
    if gap := line["fluency_gap"]:
        if gap["low"] > 0:
            how = "is less fluent than real tweets"
        elif gap["high"] < 0:
            how = "is easier to predict than real tweets, which means that it repeats itself or says little"
        else:
            how = "is as fluent as real tweets"
        sentences.append(f"At temperature 1 its text {how}: {signed(gap)} bits per byte under {found['name']}.")
    if voice := line["voice"]:
        interval = f"{voice['value']:.2f} (95% interval {voice['low']:.2f} to {voice['high']:.2f})"
        sentences.append(f"Its voice is {interval}, where another writer has 0 and the person 1.")
    reverse, real = line["reverse_ngram"], found["lists"]["training"]["reverse_ngram"]
    if reverse and real:
        sentences.append(
            f"A 3-gram fitted to its tweets has {reverse['bits_per_byte']:.3f} bits per byte on validation tweets; one "
            f"fitted to as many real tweets has {real['bits_per_byte']:.3f}."
        )
    return sentences


def percent(share: float | None) -> str:
    """A share between 0 and 1 as a percentage. One near 0 or 1 keeps a digit; nan (None in JSON) becomes a dash."""
    if share is None or math.isnan(share):
        return "-"
    return f"{share:.1%}" if 0 < share < 0.1 or 0.9 < share < 1 else f"{share:.0%}"


def with_digits(value: float, digits: int = 3) -> str:
    """A figure with so many digits after the point; nan becomes a dash."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def signed(difference: dict[str, float]) -> str:
    """A difference with its 95% interval."""
    return f"{difference['difference']:+.3f} (95% interval {difference['low']:+.3f} to {difference['high']:+.3f})"
