"""A judge: an independent language model that measures whether texts read as English, and as this person's tweets.

Fluency is the bits per byte of a text under the judge, less those of validation tweets of the same lengths. 0 is right;
either sign is wrong: nonsense costs more, and the same few words over and over cost less.

Voice is how many bits per byte a judge saves on a text once it has been fine-tuned on the person's tweets, on a scale
where another writer's tweets have 0 and validation tweets 1. Above 1 the person is exaggerated. The judge is fine-tuned
on validation tweets, which taught no model, so copies of training tweets gain nothing; it is fine-tuned on each half
of them, and judges the other half of every list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from config.schema import UserError
from evaluation.fine_tune import FineTuning, fine_tune
from evaluation.huggingface import HuggingFace
from evaluation.matching import excess, scaled
from model.hub import SMOLLM2
from model.ngram import Floats
from utils.preprocess import Tweet

LN2 = float(np.log(2))
MIN_TWEETS = 20  # of a list: with fewer there is no figure


@dataclass(frozen=True)
class Judgement:
    """What a judge found of a list of tweets, each (n,).

    Attributes:
        num_bytes: UTF-8 bytes, and one more for the end.
        bits: cost under the judge.
        saved: bits that the fine-tuned judge needs less; None: there is none.
    """

    num_bytes: Floats
    bits: Floats
    saved: Floats | None

    @property
    def bits_per_byte(self) -> float:
        """Total bits over total bytes."""
        return float(self.bits.sum() / self.num_bytes.sum())


def open_judge(name: str, device: torch.device, *, subject: str, outside_models: Sequence[str]) -> HuggingFace:
    """The model that judges the model `subject`.

    Args:
        name: a folder, a name on the hub, or smollm2.
        outside_models: what the subject started from, and what taught it.

    Raises:
        UserError: there is no such model, or it can't be independent of the subject.
    """
    other = "gpt2 (from the hub)" if is_same_model(name, SMOLLM2) else SMOLLM2
    for used in (subject, *outside_models):
        if is_same_model(name, used):
            why = "is the model to judge" if used == subject else f"taught {subject}"
            raise UserError(f"evaluate.judge {name} {why}, so it can't judge it: choose another one, such as {other}")
    return HuggingFace(name, device)


def is_same_model(name: str, other: str) -> bool:
    """Whether two names mean the same model, or models of one family that have read the same texts."""
    if all(SMOLLM2 in each.lower() for each in (name, other)):
        return True
    return name.lower() == other.lower() or Path(name).expanduser().resolve() == Path(other).expanduser().resolve()


def judge_lists(
    judge: HuggingFace, lists: Mapping[str, Sequence[Tweet]], *, validation: str, recipe: FineTuning | None
) -> dict[str, Judgement]:
    """What the judge finds of several lists of tweets.

    Args:
        validation: which of the lists the judge is fine-tuned on, half by half.
        recipe: how; None: not at all, so nothing is known of the voice.
    """
    scores = {name: judge.score(tweets)[0] for name, tweets in lists.items() if tweets}
    bits = {name: found.nats.numpy() / LN2 for name, found in scores.items()}
    saved = {name: np.zeros(len(cost)) for name, cost in bits.items()}
    halves = (0, 1) if recipe and len(lists[validation]) >= MIN_TWEETS else ()
    for half in halves:
        assert recipe
        tuned = fine_tune(judge, lists[validation][half::2], recipe)
        for name, cost in bits.items():
            if others := lists[name][1 - half :: 2]:
                tuned_bits = tuned.score(others)[0].nats.numpy() / LN2
                saved[name][1 - half :: 2] = cost[1 - half :: 2] - tuned_bits
        del tuned
    return {
        name: Judgement(scores[name].num_bytes.double().numpy(), cost, saved[name] if halves else None)
        for name, cost in bits.items()
    }


def fluency_gap(found: Judgement, validation: Judgement) -> dict[str, float] | None:
    """Bits per byte of a list less those of validation tweets of the same lengths, with a 95% interval.

    None with fewer than MIN_TWEETS tweets in one of them.
    """
    if min(len(found.bits), len(validation.bits)) < MIN_TWEETS:
        return None
    return excess((found.bits, found.num_bytes), (validation.bits, validation.num_bytes))


def voice(found: Judgement, validation: Judgement, other: Judgement | None) -> dict[str, float] | None:
    """Where a list lies between another writer (0) and validation tweets (1), with a 95% interval.

    None if there is no other writer, if a list is too short, or if the judge can't tell the two references apart.
    """
    if other is None or min(len(each.bits) for each in (found, validation, other)) < MIN_TWEETS:
        return None
    if found.saved is None or validation.saved is None or other.saved is None:
        return None
    zero, one = (other.saved, other.num_bytes), (validation.saved, validation.num_bytes)
    return scaled((found.saved, found.num_bytes), zero, one)
