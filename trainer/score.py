"""How many nats each tweet costs under a model: the one measure behind every quality figure."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.language_model import LanguageModel
from trainer.batches import TweetDataset

AT_ONCE = 2048  # tokens at the head together: with all 50,257 rows their logits take 0.4 GB


@dataclass(frozen=True)
class Scores:
    """Per tweet, each scored on its own.

    Attributes:
        nats: (n,) cost of all its tokens and of its end mark (if it is whole), over all of GPT-2's 50,257 tokens.
        tokens: (n,) predictions made: tokens, and the end mark if it is whole.
        num_bytes: (n,) UTF-8 bytes, and one more for the end.
        end_nats: (n,) cost of the end mark alone; nan where the tweet was cut off.
    """

    nats: Tensor
    tokens: Tensor
    num_bytes: Tensor
    end_nats: Tensor

    @property
    def nats_per_token(self) -> float:
        """Mean cost of a prediction."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Total bits over total bytes: comparable across tokenizers."""
        return float(self.nats.sum() / math.log(2) / self.num_bytes.sum())


@torch.no_grad()
def score(model: LanguageModel, dataset: TweetDataset, *, batch_size: int = 64) -> Scores:
    """Score every tweet; the model is used as it stands (put it in evaluation mode first)."""
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
