"""What a model keeps of the tokens it has read.

Shapes: B texts, T tokens given, S tokens seen so far (in the cache, and given), H heads of D numbers each.
"""

import torch
from torch import Tensor

from config.schema import ModelConfig


class Cache:
    """Keys and values of the tokens a model has already read, so that each new token costs one step.

    Every row may have read a different number of tokens: `lengths[b]` says how many. Lower it to forget the newest
    (the padding behind a short prompt, say); what lies beyond is never looked at and gets overwritten.
    """

    def __init__(self, config: ModelConfig, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.n_layer, 2, batch_size, config.block_size, config.n_head, config.n_embd // config.n_head)
        self.store = torch.zeros(shape, device=device, dtype=dtype)  # layer, key or value, B, S, H, D
        self.lengths = [0] * batch_size

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only, in this order; a row may be named several times."""
        self.store = self.store[:, :, rows]
        self.lengths = [self.lengths[row] for row in rows]

    def join(self, other: "Cache") -> None:
        """Take the rows of another cache in, behind those that are here."""
        here, all_rows = len(self.lengths), len(self.lengths) + len(other.lengths)
        if all_rows > self.store.shape[2]:  # make room for more than is asked, so that this is rare
            room = list(self.store.shape)
            room[2] = max(all_rows, 2 * here) - here
            self.store = torch.cat([self.store[:, :, :here], self.store.new_zeros(room)], dim=2)
        longest = max(other.lengths)
        self.store[:, :, here:all_rows, :longest] = other.store[:, :, : len(other.lengths), :longest]
        self.lengths += other.lengths

    def drop(self, row: int) -> None:
        """Forget a row; the last one takes its place, so that only one is moved."""
        length = self.lengths[-1]
        if row != len(self.lengths) - 1:
            self.store[:, :, row, :length] = self.store[:, :, len(self.lengths) - 1, :length]
            self.lengths[row] = length
        self.lengths.pop()

    def positions(self, T: int) -> Tensor | None:
        """Position of each of T new tokens, (B, T); None for one that has the same position in every row."""
        if T == 1 and min(self.lengths) == max(self.lengths):
            return None
        lengths = torch.tensor(self.lengths, device=self.store.device)
        return lengths[:, None] + torch.arange(T, device=self.store.device)

    def append(self, layer: int, new: Tensor, positions: Tensor | None) -> Tensor:
        """Write keys and values, (2, B, T, H, D), at `positions`; returns that layer's up to there, (2, B, S, H, D)."""
        B, T = new.shape[1:3]
        there = self.store[layer, :, :B, : max(self.lengths) + T]
        if positions is None:
            there[:, :, -T:] = new
        else:
            there[:, torch.arange(B, device=new.device)[:, None], positions] = new.to(there.dtype)
        return there
