"""The key-value cache: the attention keys and values of the tokens that a model has already read.

Shapes: B texts, T new tokens, S tokens in all (those in the cache and the new ones), H heads of D numbers each.
"""

import torch
from torch import Tensor


class Cache:
    """Keys and values of a batch of texts. With them, one more token of a text costs one step and not a new pass.

    The texts may differ in length: `lengths[b]` is how many tokens of text b were read. Set it to a smaller number to
    remove the last tokens (the padding after a short prompt, for example). What is stored beyond a text's length is
    never used, and is overwritten.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        n_layer: int,
        block_size: int,
        heads: int,
        head_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (n_layer, 2, batch_size, heads, block_size, head_size)
        self.store = torch.zeros(shape, device=device, dtype=dtype)  # layer, key or value, B, H, S, D
        self.lengths = [0] * batch_size

    def keep(self, texts: list[int]) -> None:
        """Keep only these texts, in this order. A text that is named several times is copied."""
        self.store = self.store[:, :, texts]
        self.lengths = [self.lengths[text] for text in texts]

    def join(self, other: "Cache") -> None:
        """Append the texts of another cache."""
        here, total = len(self.lengths), len(self.lengths) + len(other.lengths)
        if total > self.store.shape[2]:  # grow by more than is needed, so that growing is rare
            room = list(self.store.shape)
            room[2] = max(total, 2 * here) - here
            self.store = torch.cat([self.store[:, :, :here], self.store.new_zeros(room)], dim=2)
        longest = max(other.lengths)
        self.store[:, :, here:total, :, :longest] = other.store[:, :, : len(other.lengths), :, :longest]
        self.lengths += other.lengths

    def drop(self, text: int) -> None:
        """Remove a text. The last text takes its place, so that only one text is copied."""
        length = self.lengths[-1]
        if text != len(self.lengths) - 1:
            self.store[:, :, text, :, :length] = self.store[:, :, len(self.lengths) - 1, :, :length]
            self.lengths[text] = length
        self.lengths.pop()

    def positions(self, T: int) -> Tensor | None:
        """Position of each of T new tokens, (B, T); None if T is 1 and the position is the same in every text."""
        if T == 1 and min(self.lengths) == max(self.lengths):
            return None
        lengths = torch.tensor(self.lengths, device=self.store.device)
        return lengths[:, None] + torch.arange(T, device=self.store.device)

    def append(self, layer: int, new: Tensor, positions: Tensor | None) -> Tensor:
        """Write the keys and values (2, B, H, T, D) of new tokens; return all of this layer's, (2, B, H, S, D).

        `positions` is what the method of that name returned.
        """
        B, T = new.shape[1], new.shape[3]
        stored = self.store[layer, :, :B, :, : max(self.lengths) + T]
        if positions is None:
            stored[..., -T:, :] = new
        else:
            text = torch.arange(B, device=new.device)[:, None]
            stored[:, text, :, positions] = new.permute(1, 3, 0, 2, 4).to(stored.dtype)  # (B, T, 2, H, D)
        return stored
