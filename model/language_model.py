"""The interface of every model that can be scored and can write tweets: one GPT, or an ensemble."""

from typing import Any, Protocol

from torch import Tensor, nn

from config.schema import ModelConfig


class LanguageModel(Protocol):
    """What `score` and `generate` need of a model: model.transformer.GPT, model.fast.Writer, model.ensemble.Ensemble.

    Shapes: B texts, T tokens given, V = vocab_size, K numbers in a hidden state (their meaning depends on the model).
    A `cache` must come from `new_cache` of the same model.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def wte(self) -> nn.Embedding:
        """The embedding. Its weight has the device and the number format of the model."""
        ...

    def trunk(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Hidden states (B, T, K) of the ids (B, T): the input of `head`."""
        ...

    def head(self, hidden: Tensor, /) -> Tensor:
        """Logits (..., V) from hidden states (..., K)."""
        ...

    def new_cache(self, batch_size: int) -> Any:
        """An empty cache for `batch_size` texts."""
        ...

    def num_parameters(self) -> int: ...
