"""What reads and writes here has in common: a GPT, its fast twin, several models as one."""

from typing import Any, Protocol

from torch import Tensor

from config.schema import ModelConfig


class LanguageModel(Protocol):
    """Gives the next token's logits in two steps: hidden states, then a head.

    Shapes: B texts, T tokens, K numbers of a hidden state, V ids of the vocabulary.
    """

    @property
    def config(self) -> ModelConfig:
        """The model's shape; `block_size` is the longest text that it reads."""

    def trunk(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Hidden states (B, T, K) after each of the ids (B, T); with a cache they continue what it has read."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of the next token, from hidden states (..., K)."""

    def new_cache(self, batch_size: int) -> Any:
        """An empty cache for `batch_size` texts."""
