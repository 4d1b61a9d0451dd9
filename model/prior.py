"""Which of the tokens that training never saw are likely: a prior from what is known of them without having seen them.

A log-linear model over the unseen tokens of each shape, with three features: where GPT-2's tokenizer merged the token
(early means frequent, on the web; once plain and once squared), and how often the tweets use the same word in another
form: a tweet that says "Rockets" makes " rockets" likelier. How much each counts is fitted to the tokens that training
saw once: those are what the unseen look like when one of them comes (Good 1953).
"""

from collections import defaultdict

import torch
from torch import Tensor

from model.tokenizer import Tokenizer

ZIPF = (-0.7, 0.0, 0.0)  # frequency falls with merge rank; where the fit begins, and where little text leaves it
STIFFNESS = 1.0  # nats that a weight costs which is 1 away from there


def unseen_log_weights(counts: Tensor, unseen: Tensor, shapes: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Log weight of every token, (50257,) float64, to be compared among the unseen of one shape.

    Args:
        counts: (50257,) uses of each token in the training tweets.
        unseen: (50257,) the tokens to choose from.
        shapes: (50257,) the shape of each.
    """
    features = features_of(counts, tokenizer)
    used = ~unseen & (counts > 0)
    seldom = used & (counts == counts[used].min()) if bool(used.any()) else used
    log_weights = torch.zeros(len(counts), dtype=torch.float64)
    for shape in shapes.unique():
        choice = (shapes == shape) & (unseen | seldom)
        log_weights[choice] = features[choice] @ fit(features[choice], seldom[choice])
    return log_weights


def fit(features: Tensor, chosen: Tensor) -> Tensor:
    """Weights (F,) under which softmax(features @ weights) gives the `chosen` (n,) of n tokens most probability.

    Newton's method; the cost is convex, and a step that would not lower it is halved.
    """
    start = torch.tensor(ZIPF, dtype=torch.float64)
    stiffness = 2 * STIFFNESS * torch.eye(len(start), dtype=torch.float64)
    wanted, count = features[chosen].sum(0), chosen.sum()

    def cost(weights: Tensor) -> Tensor:
        return (
            count * (features @ weights).logsumexp(0)
            - wanted @ weights
            + STIFFNESS * (weights - start) @ (weights - start)
        )

    weights = start
    for _ in range(50):
        expected = (features @ weights).softmax(0)
        away = features - expected @ features
        gradient = count * expected @ features - wanted + stiffness @ (weights - start)
        step = torch.linalg.solve(count * (away * expected[:, None]).T @ away + stiffness, gradient)
        while bool(cost(weights - step) > cost(weights)) and bool(step.abs().max() > 1e-9):
            step = step / 2
        weights = weights - step
        if bool(step.abs().max() < 1e-6):
            break
    return weights


def features_of(counts: Tensor, tokenizer: Tokenizer) -> Tensor:
    """(50257, 3): log merge rank, its square about its mean, and log(1 + uses of the same word in other forms)."""
    rank = torch.arange(1, len(counts) + 1, dtype=torch.float64).log()
    uses: defaultdict[bytes, int] = defaultdict(int)
    words = [token.strip().lower() for token in tokenizer.token_bytes]
    for word, count in zip(words, counts.tolist(), strict=True):
        uses[word] += count
    others = torch.tensor([uses[word] for word in words]) - counts
    return torch.stack([rank, (rank - rank.mean()).square(), others.double().log1p()], 1)
