"""What every model that predicts and writes tweets offers, be it one GPT or an ensemble."""

from typing import Any, Protocol

from torch import Tensor, nn

from config.schema import ModelConfig


class LanguageModel(Protocol):
    """What `score` and `generate` use of a model (model.transformer.GPT and its fast twin, model.ensemble.Ensemble).

    Shapes: B texts, T tokens given, V = vocab_size, K numbers a position, whose meaning is the model's own.
    A `cache` is the one that the same model's `new_cache` made.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def wte(self) -> nn.Embedding:
        """Its weight has the device and the type of the model."""
        ...

    def trunk(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Hidden states (B, T, K) of the ids (B, T): all that `head` needs."""
        ...

    def head(self, hidden: Tensor, /) -> Tensor:
        """Logits (..., V) from hidden states (..., K)."""
        ...

    def new_cache(self, batch_size: int) -> Any:
        """An empty cache for `batch_size` texts."""
        ...

    def num_parameters(self) -> int: ...
