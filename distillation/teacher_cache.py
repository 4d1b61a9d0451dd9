"""The teachers' probabilities at every position of a dataset, kept in little memory.

Probabilities at 200,000 positions over 8,000 tokens would take 6 GB. They can be computed from far less: from each
model's hidden state before its head, and from the last two tokens for the n-gram. That is what is kept. Nothing is
rounded.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.ensemble import Ensemble
from model.soft_targets import SoftTargets, dense
from trainer.batches import TweetDataset

BATCH_SIZE = 64  # examples that the ensemble reads at once


@dataclass(frozen=True)
class HiddenStates:
    """The hidden states of an ensemble at some predictions of a dataset.

    Attributes:
        ensemble: whose hidden states they are.
        positions: (n,) which of the dataset's predictions, counted tweet by tweet.
        hidden: (n, K) what `ensemble.trunk` gave there.
    """

    ensemble: Ensemble
    positions: Tensor
    hidden: Tensor


@torch.no_grad()
def cache_hidden_states(ensemble: Ensemble, dataset: TweetDataset, examples: Tensor | None = None) -> HiddenStates:
    """The ensemble's hidden states at each prediction of these examples (n,) of the dataset; None: of all of them."""
    examples = torch.arange(len(dataset.starts)) if examples is None else examples
    positions, hidden = [torch.zeros(0, dtype=torch.long)], []
    device = ensemble.wte.weight.device
    for chosen in examples[dataset.lengths[examples].argsort(stable=True)].split(BATCH_SIZE):
        batch = dataset.batch(chosen, device)
        positions.append(batch.index.cpu())
        hidden.append(batch.real(ensemble.trunk(batch.ids)))
    return HiddenStates(ensemble, torch.cat(positions), torch.cat(hidden) if hidden else torch.zeros(0, 0))


class TeacherCache:
    """What the teachers predict at `size` predictions of a dataset: an ensemble at some of them, an n-gram elsewhere.

    Args:
        states: the ensemble's; None: there are only n-gram targets.
        size: predictions in the dataset.
        left_out: the n-gram's targets for the first predictions, each tweet left out of its counts; None: none.
        dtype: in which the heads multiply.
    """

    def __init__(
        self,
        states: HiddenStates | None,
        *,
        size: int,
        left_out: SoftTargets | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        assert states or left_out, "a cache of teachers needs an ensemble or an n-gram"
        self.states, self.left_out, self.dtype = states, left_out, dtype
        self.vocab_size = states.ensemble.vocabulary.vocab_size if states else len(left_out.base)  # type: ignore[union-attr]
        self.slot = torch.full((size,), -1)  # where in `states` each prediction stands; -1: the n-gram has it
        if states:
            self.slot[states.positions] = torch.arange(len(states.positions))

    def __len__(self) -> int:
        return len(self.slot)

    @torch.no_grad()
    def at(self, index: Tensor) -> Tensor:
        """Probabilities (n, V) at the predictions `index` (n,), on its device."""
        index_cpu = index.cpu()
        slot = self.slot[index_cpu]
        probs, by_ensemble = torch.zeros(len(slot), self.vocab_size), slot >= 0
        if self.states and bool(by_ensemble.any()):
            with torch.autocast(index.device.type, self.dtype, enabled=self.dtype != torch.float32):
                probs[by_ensemble] = self.states.ensemble.probs(self.states.hidden[slot[by_ensemble]]).cpu()
        if self.left_out and not bool(by_ensemble.all()):
            probs[~by_ensemble] = dense(self.left_out, index_cpu[~by_ensemble])
        return probs.to(index.device)
