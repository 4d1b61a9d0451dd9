"""The cost in nats of each tweet under a model. Every measure of quality is computed from it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.language_model import LanguageModel
from trainer.batches import TweetDataset

AT_ONCE = 2048  # tokens whose logits are computed together: with 50,257 ids these take 0.4 GB


@dataclass(frozen=True)
class Scores:
    """The scores of n tweets, each scored separately.

    Attributes:
        nats: (n,) -log p of all tokens, and of the end mark if the tweet is complete; p is over GPT-2's 50,257 tokens.
        tokens: (n,) number of predictions: the tokens, and the end mark if the tweet is complete.
        num_bytes: (n,) UTF-8 bytes, plus one for the end.
        end_nats: (n,) -log p of the end mark; nan if the tweet was cut off.
    """

    nats: Tensor
    tokens: Tensor
    num_bytes: Tensor
    end_nats: Tensor

    @property
    def nats_per_token(self) -> float:
        """Mean nats of a prediction."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Total bits divided by total bytes, so models with different tokenizers can be compared."""
        return float(self.nats.sum() / math.log(2) / self.num_bytes.sum())


@torch.no_grad()
def score(model: LanguageModel, dataset: TweetDataset, *, batch_size: int = 64) -> Scores:
    """Score every tweet. The model must be in evaluation mode."""
    tweets, end, device = len(dataset.num_bytes), dataset.vocabulary.end, model.wte.weight.device
    nats = torch.zeros(tweets, dtype=torch.float64)
    tokens = torch.zeros(tweets, dtype=torch.int64)
    end_nats = torch.full((tweets,), math.nan, dtype=torch.float64)
    for examples in dataset.in_order(batch_size):
        batch = dataset.batch(examples, device)
        hidden = batch.real(model.trunk(batch.ids))
        pairs = zip(hidden.split(AT_ONCE), batch.targets.split(AT_ONCE), strict=True)
        cost = torch.cat([F.cross_entropy(model.head(part).float(), aim, reduction="none") for part, aim in pairs])
        cost = cost.cpu().double() - dataset.vocabulary.log_prior[dataset.target_gpt2_ids(examples)].double()
        lengths, owner = dataset.lengths[examples], dataset.tweet[examples]
        nats.index_add_(0, owner.repeat_interleave(lengths), cost)
        tokens.index_add_(0, owner, lengths)
        last = lengths.cumsum(0) - 1
        ends = batch.targets.cpu()[last] == end
        end_nats[owner[ends]] = cost[last][ends]
    return Scores(nats, tokens, dataset.num_bytes, end_nats)
