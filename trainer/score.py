"""How many nats each tweet costs under a model: the one measure behind every quality figure."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.language_model import LanguageModel
from model.tokenizer import END
from model.vocabulary import Vocabulary
from trainer.batches import PAD, TweetDataset

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
def score(model: LanguageModel, vocabulary: Vocabulary, rows: TweetDataset, *, batch_size: int = 64) -> Scores:
    """Score every tweet of `rows`; the model is used as it stands (put it in evaluation mode first)."""
    device = model.wte.weight.device
    tweets = len(rows.num_bytes)
    nats = torch.zeros(tweets, dtype=torch.float64)
    tokens = torch.zeros(tweets, dtype=torch.int64)
    end_nats = torch.full((tweets,), math.nan, dtype=torch.float64)
    end = int(vocabulary.id_of[END])
    for chosen in rows.in_order(batch_size):
        batch = rows.batch(chosen)
        real = batch.targets != PAD
        hidden = model.trunk(batch.inputs.to(device))[real.to(device)]
        pairs = zip(hidden.split(AT_ONCE), batch.targets[real].to(device).split(AT_ONCE), strict=True)
        nats_of = [F.cross_entropy(model.head(part).float(), aim, reduction="none") for part, aim in pairs]
        cost = torch.zeros(real.shape, dtype=torch.float64)
        cost[real] = torch.cat(nats_of).double().cpu()
        cost[real] -= rows.prior_of(chosen)[real].double()
        owner = rows.tweet[chosen]
        nats.index_add_(0, owner, cost.sum(1))
        tokens.index_add_(0, owner, real.sum(1))
        last = rows.lengths[chosen] - 1
        ends = batch.targets.gather(1, last[:, None])[:, 0] == end
        end_nats[owner[ends]] = cost.gather(1, last[:, None])[ends, 0]
    return Scores(nats, tokens, rows.num_bytes, end_nats)
