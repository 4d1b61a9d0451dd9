"""The prior of unseen tokens: the fit recovers a known exponent, and without text the initial weights stay."""

import pytest
import torch

from model.prior import features_of, fit, unseen_log_weights
from model.tokenizer import NUM_TOKENS, load_tokenizer
from model.vocabulary import shapes_of


@pytest.mark.parametrize("exponent", [-0.3, -1.5])
def test_the_exponent_of_the_merge_rank_is_found(exponent: float) -> None:
    tokenizer = load_tokenizer()
    shapes = shapes_of(tokenizer)
    law = torch.arange(1, NUM_TOKENS + 1, dtype=torch.float64) ** exponent
    law[shapes != 0] = 0  # only lower-case words after a space occur; no two of them are forms of one word
    seen = law.multinomial(2000, generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(NUM_TOKENS, dtype=torch.long)
    counts[seen] = 1
    weights = unseen_log_weights(counts, counts == 0, shapes, tokenizer)
    early, late = ((shapes == 0) & (counts == 0)).nonzero()[:, 0][[1000, 12_000]].tolist()
    slope = float((weights[late] - weights[early]) / (torch.tensor(late + 1.0) / (early + 1)).log())
    assert slope == pytest.approx(exponent, abs=0.25)


def test_fit_minimises_the_cost() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    chosen = torch.rand(500, generator=generator) < 0.1
    start = torch.tensor([-0.7, 0.0, 0.0], dtype=torch.float64)

    def cost(weights: torch.Tensor) -> float:
        nats = -(features @ weights).log_softmax(0)[chosen].sum()
        return float(nats + (weights - start).square().sum())

    best = fit(features, chosen)
    for _ in range(50):
        assert cost(best) < cost(best + 0.01 * torch.randn(3, generator=generator, dtype=torch.float64))


def test_a_word_used_in_another_form_is_likelier() -> None:
    tokenizer = load_tokenizer()
    forms = [tokenizer.encode(text)[0] for text in ("rocket", " Rocket", " rocket")]
    counts = torch.zeros(NUM_TOKENS, dtype=torch.long)
    shapes = shapes_of(tokenizer)
    lower = {token.strip().lower(): index for index, token in enumerate(tokenizer.token_bytes) if shapes[index] == 0}
    pairs = [
        (index, lower[token.lower()[1:]])
        for index, token in enumerate(tokenizer.token_bytes)
        if shapes[index] == 1 and token.lower()[1:] in lower and index not in forms
    ][:300]
    for capital, small in pairs[:150]:  # both forms occur, the lower-case one once
        counts[capital], counts[small] = 5, 1
    counts[forms[1]] = 5
    weights = unseen_log_weights(counts, counts == 0, shapes, tokenizer)
    unused = tokenizer.encode(" cricket")[0]
    assert counts[forms[2]] == counts[unused] == 0
    assert weights[forms[2]] - weights[unused] > 1.0


def test_without_text_it_is_the_rank_alone() -> None:
    tokenizer = load_tokenizer()
    counts = torch.zeros(NUM_TOKENS, dtype=torch.long)
    weights = unseen_log_weights(counts, counts == 0, shapes_of(tokenizer), tokenizer)
    expected = -0.7 * torch.arange(1, NUM_TOKENS + 1, dtype=torch.float64).log()
    torch.testing.assert_close(weights, expected)


def test_features_count_only_other_forms() -> None:
    tokenizer = load_tokenizer()
    ids = [tokenizer.encode(text)[0] for text in (" Mars", "Mars", " mars")]
    counts = torch.zeros(NUM_TOKENS, dtype=torch.long)
    counts[ids[0]], counts[ids[1]] = 3, 4
    others = features_of(counts, tokenizer)[ids, 2].expm1()
    expected = torch.tensor([4.0, 3.0, 7.0], dtype=torch.float64)
    assert tokenizer.token_bytes[ids[2]].lower().strip() == b"mars"
    torch.testing.assert_close(others, expected)
