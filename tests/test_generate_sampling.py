"""Sampling against closed forms and against transformers' own logits processors."""

from collections.abc import Callable

import pytest
import torch

from config.schema import Config, GenerateConfig
from generate import sampling

LOGITS = torch.tensor([[2.0, 1.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0, 5.0]])


def kept(logits: torch.Tensor) -> list[list[int]]:
    """Which places may still be drawn."""
    return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]


def test_top_k_keeps_exactly_k_also_when_scores_tie() -> None:
    assert [len(row) for row in kept(sampling.top_k(LOGITS, 2))] == [2, 2]
    assert kept(sampling.top_k(LOGITS, 2))[1][-1] == 4
    assert sampling.top_k(LOGITS, 9) is LOGITS


@pytest.mark.parametrize("p", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_filters_equal_those_of_transformers(p: float) -> None:
    from transformers import MinPLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(50, 1, dtype=torch.long)
    assert torch.equal(sampling.top_p(logits, p), TopPLogitsWarper(p)(ids, logits))
    assert torch.equal(sampling.min_p(logits, p), MinPLogitsWarper(p)(ids, logits))


def test_repetition_penalty_equals_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(30, (4, 6), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(4, 30, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(ids, logits)
    torch.testing.assert_close(sampling.repetition_penalty(logits, seen, 1.7), expected)


def test_settings_are_applied_together(settings: Callable[..., Config]) -> None:
    config: GenerateConfig = settings(
        "--generate.temperature", "0.5", "--generate.top_k", "3", "--generate.top_p", "1", "--generate.min_p", "0.2"
    ).generate
    # at temperature 0.5 the scores are 4, 2, 2: the twos have e^-2 = 0.135 of the first and fall below 0.2
    assert kept(sampling.filtered(LOGITS, config))[0] == [0]


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0])
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    drawn = sampling.draw(probabilities.log().expand(40_000, 5), uniform, temperature=1.0)
    counts = torch.bincount(drawn, minlength=5).double()
    expected = 40_000 * probabilities.double()
    chi_squared = float(((counts - expected) ** 2 / expected)[:4].sum())
    assert counts[4] == 0 and chi_squared < 16.3  # 3 degrees of freedom, p = 0.001


def test_extreme_random_numbers_stay_inside() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 0.0], [0.0, float("-inf"), 0.0]])
    edge = torch.tensor([0.0, 1.0 - 2**-24])
    assert sampling.draw(logits, edge, temperature=1.0).tolist() == [0, 2]


def test_temperature_zero_is_the_likeliest() -> None:
    assert sampling.draw(LOGITS, torch.tensor([0.9, 0.1]), temperature=0).tolist() == [0, 4]
