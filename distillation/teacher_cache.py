"""What teachers expect of a text, kept small.

A teacher's probabilities at 200,000 places over 8,000 tokens are 6 GB. But they follow from little: each model's last
hidden state before its head, and for the n-gram the two tokens before. That is what is kept, and it is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.ensemble import Ensemble
from model.soft_targets import SoftTargets, dense
from trainer.batches import TweetDataset

AT_ONCE = 64  # examples read together


@dataclass(frozen=True)
class CachedStates:
    """What one ensemble has to say: at the places (n,) whose memory (n, K) is kept."""

    ensemble: Ensemble
    places: Tensor
    memory: Tensor


@torch.no_grad()
def cache_hidden_states(ensemble: Ensemble, rows: TweetDataset, chosen: Tensor | None = None) -> CachedStates:
    """Let a ensemble read these rows (n,) of a text (None: all) and keep what it knows at each prediction of them."""
    chosen = torch.arange(len(rows.starts)) if chosen is None else chosen
    places, memory = [torch.zeros(0, dtype=torch.long)], []
    device = ensemble.wte.weight.device
    for some in chosen[rows.lengths[chosen].argsort(stable=True)].split(AT_ONCE):
        batch = rows.batch(some).to(device)
        places.append(batch.index.cpu())
        memory.append(batch.real(ensemble.trunk(batch.ids)))
    return CachedStates(ensemble, torch.cat(places), torch.cat(memory) if memory else torch.zeros(0, 0))


class TeacherCache:
    """What teachers expect at N places, found once, made into probabilities when they are asked for.

    Args:
        parts: who speaks where; at most one at each place.
        places: N.
        ngram: an n-gram's own answers at the first places, each with its tweet left out; None: there are none.
        ngram_share: its share there; the rest is what `parts` say, if anybody does.
        dtype: in which the heads multiply.
    """

    def __init__(
        self,
        parts: Sequence[CachedStates],
        *,
        places: int,
        ngram: SoftTargets | None = None,
        ngram_share: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parts, self.ngram, self.ngram_share, self.dtype = parts, ngram, ngram_share, dtype
        self.speaker = torch.full((places,), -1)
        self.slot = torch.zeros(places, dtype=torch.long)
        for number, part in enumerate(parts):
            assert bool((self.speaker[part.places] < 0).all()), "two ensembles speak at one place"
            self.speaker[part.places] = number
            self.slot[part.places] = torch.arange(len(part.places))

    def __len__(self) -> int:
        return len(self.speaker)

    @torch.no_grad()
    def at(self, index: Tensor) -> Tensor:
        """Probabilities (n, V) at the places `index` (n,), on its device."""
        here = index.cpu()
        base = self.ngram.base if self.ngram else None
        vocab_size = self.parts[0].ensemble.vocabulary.vocab_size if self.parts else len(base)  # type: ignore[arg-type]
        found = torch.zeros(len(here), vocab_size)
        for number, part in enumerate(self.parts):
            mine = self.speaker[here] == number
            if bool(mine.any()):
                with torch.autocast(index.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    found[mine] = part.ensemble.expect(part.memory[self.slot[here[mine]]]).cpu()
        if self.ngram is not None:
            real = here < len(self.ngram)
            alone = self.speaker[here[real]] < 0
            share = torch.where(alone, 1.0, self.ngram_share)[:, None]
            found[real] = (1.0 - share) * found[real] + share * dense(self.ngram, here[real])
        return found.to(index.device)
