"""The prior of unseen tokens: how likely each token is that does not occur in the training tweets.

It is a log-linear model over the unseen tokens of each shape, with three features. The first is the log of the rank at
which GPT-2's tokenizer merged the token (a low rank means that it is frequent on the web), the second its square. The
third is how often the tweets use the same word in another form: if they use "Rockets", then " rockets" is likelier.
The weights of the features are fitted to the tokens that occur once in training: these are most like an unseen token
that occurs for the first time (Good 1953).
"""

from collections import defaultdict

import torch
from torch import Tensor

from model.tokenizer import Tokenizer

ZIPF = (-0.7, 0.0, 0.0)  # initial weights: p ~ rank^-0.7; with little text the fitted weights stay close to them
L2_PENALTY = 1.0  # nats added to the cost for a weight that is 1 away from its initial value


def unseen_log_weights(counts: Tensor, unseen: Tensor, shapes: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Log weight of every token, (50257,) float64: a softmax over the unseen tokens of one shape gives their prior.

    Args:
        counts: (50257,) how often each token occurs in the training tweets.
        unseen: (50257,) whether the token counts as unseen.
        shapes: (50257,) the shape of each token; see model/vocabulary.py.
    """
    features = features_of(counts, tokenizer)
    used = ~unseen & (counts > 0)
    rarest = used & (counts == counts[used].min()) if bool(used.any()) else used
    log_weights = torch.zeros(len(counts), dtype=torch.float64)
    for shape in shapes.unique():
        choice = (shapes == shape) & (unseen | rarest)
        log_weights[choice] = features[choice] @ fit(features[choice], rarest[choice])
    return log_weights


def fit(features: Tensor, chosen: Tensor) -> Tensor:
    """The weights (F,) that make the `chosen` (n,) of n tokens likeliest under softmax(features @ weights).

    The cost is their negative log likelihood plus the L2 penalty. It is convex; Newton's method minimises it, and a
    step that would not lower the cost is halved.
    """
    start = torch.tensor(ZIPF, dtype=torch.float64)
    penalty = 2 * L2_PENALTY * torch.eye(len(start), dtype=torch.float64)
    wanted, count = features[chosen].sum(0), chosen.sum()

    def cost(weights: Tensor) -> Tensor:
        return (
            count * (features @ weights).logsumexp(0)
            - wanted @ weights
            + L2_PENALTY * (weights - start) @ (weights - start)
        )

    weights = start
    for _ in range(50):
        expected = (features @ weights).softmax(0)
        centred = features - expected @ features
        gradient = count * expected @ features - wanted + penalty @ (weights - start)
        step = torch.linalg.solve(count * (centred * expected[:, None]).T @ centred + penalty, gradient)
        while bool(cost(weights - step) > cost(weights)) and bool(step.abs().max() > 1e-9):
            step = step / 2
        weights = weights - step
        if bool(step.abs().max() < 1e-6):
            break
    return weights


def features_of(counts: Tensor, tokenizer: Tokenizer) -> Tensor:
    """(50257, 3): log merge rank; its squared distance from the mean; log(1 + uses of the word in other forms)."""
    rank = torch.arange(1, len(counts) + 1, dtype=torch.float64).log()
    uses: defaultdict[bytes, int] = defaultdict(int)
    words = [token.strip().lower() for token in tokenizer.token_bytes]
    for word, count in zip(words, counts.tolist(), strict=True):
        uses[word] += count
    others = torch.tensor([uses[word] for word in words]) - counts
    return torch.stack([rank, (rank - rank.mean()).square(), others.double().log1p()], 1)
