"""A pretrained causal language model of `transformers` as a `LanguageModel`, with GPT-2's tokens.

`distill` makes such models (distillation/transplant.py) and fine-tunes them. They are kept as Hugging Face folders, so
other programs can load them, too. Shapes: B texts, T new tokens, S tokens in all, D numbers a head; H heads read, and
Hkv heads of keys and values, each of which serves H / Hkv of them (Ainslie et al. 2023, arXiv 2305.13245).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import ModelConfig, UserError
from model.cache import Cache
from model.hub import load_hugging_face
from model.tokenizer import NUM_TOKENS, Tokenizer

CONTEXT = 1024  # tokens of context, at most: many such models have 8,192, for which no tweet has a use
ATTENTION = "elon_transformer"  # the name of `attention` in transformers' table of attention functions
ROOM = 64  # tokens of each text that a new cache has room for
EXACT = 1e-3  # how far our logits may be from those of the model itself, relative to the largest


class CausalLM(nn.Module):
    """A model of `transformers` whose tokens are GPT-2's 50,257; more rows, which pad some models, are never predicted.

    Args:
        model: a causal language model of `transformers`.
        name: what it is called in messages.
        block_size: the context in tokens; None: the model's own, up to CONTEXT.

    Raises:
        UserError: it is no decoder of the usual kind, so its logits are not its head's product.
    """

    head_bias: Tensor | None = None  # the models that transformers calls causal have none, but for a few; see `check`

    def __init__(self, model: Any, name: str, *, block_size: int | None = None) -> None:
        super().__init__()
        self.name, sizes = name, model.config.get_text_config()
        if model.get_output_embeddings() is None or getattr(model, "base_model", model) is model:
            raise UserError(f"{name} has no trunk with a head on it: give a causal language model")
        self.kv_heads = int(getattr(sizes, "num_key_value_heads", None) or sizes.num_attention_heads)
        self.head_size = int(getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads)
        self.config = ModelConfig(
            tokenizer="gpt2",
            vocabulary="full",
            min_count=1,
            n_layer=int(sizes.num_hidden_layers),
            n_head=int(sizes.num_attention_heads),
            n_embd=int(sizes.hidden_size),
            block_size=min(block_size or CONTEXT, int(getattr(sizes, "max_position_embeddings", None) or CONTEXT)),
            dropout=0.0,
            activation="gelu",
            output_bias=False,
            init_from=None,
        )
        self.model = model
        self.check()

    @property
    def wte(self) -> nn.Embedding:
        """The embedding."""
        found: nn.Embedding = self.model.get_input_embeddings()
        return found

    @property
    def head_weight(self) -> Tensor:
        """The matrix (V, C) of the head."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight[:NUM_TOKENS] if len(weight) > NUM_TOKENS else weight

    @torch.no_grad()
    def check(self) -> None:
        """Switch to our attention, and raise UserError unless trunk and head give the model's own logits."""
        ids = torch.arange(6)[None]
        own = self.model(input_ids=ids, use_cache=False).logits[..., :NUM_TOKENS].float()
        register_attention()
        self.model.set_attn_implementation(ATTENTION)
        cache = self.new_cache(1)
        hidden = torch.cat(
            [self.trunk(ids[:, :4], cache), self.trunk(ids[:, 4:5], cache), self.trunk(ids[:, 5:], cache)], 1
        )
        for found in (self.head(self.trunk(ids)), self.head(hidden)):
            if float((found.float() - own).abs().max()) > EXACT * max(1.0, float(own.abs().max())):
                kind = self.model.config.model_type
                raise UserError(f"{self.name}: a model of the kind {kind} computes its logits in a way not known here")

    def trunk(self, ids: Tensor, cache: "HubCache | None" = None) -> Tensor:
        """Hidden states (B, T, C) of the ids (B, T), the input of `head`; as GPT.trunk."""
        T, base = ids.shape[1], self.model.base_model
        if cache is None:
            hidden: Tensor = base(input_ids=ids, use_cache=False).last_hidden_state
            return hidden
        seen = max(cache.lengths)
        assert seen + T <= self.config.block_size, f"{seen} + {T} tokens exceed the context of {self.config.block_size}"
        where = torch.tensor(cache.lengths, device=ids.device)[:, None] + torch.arange(T, device=ids.device)
        later = torch.arange(cache.make_room(T), device=ids.device) > where[:, None, :, None]  # (B, 1, T, S)
        mask = torch.zeros(later.shape, device=ids.device, dtype=self.wte.weight.dtype).masked_fill_(later, -torch.inf)
        cache.where = cache.positions(T)
        found: Tensor = base(
            input_ids=ids, position_ids=where, attention_mask=mask, past_key_values=cache, use_cache=True
        ).last_hidden_state
        cache.lengths = [length + T for length in cache.lengths]
        return found

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) from hidden states (..., C)."""
        return F.linear(hidden, self.head_weight)

    def forward(self, ids: Tensor, cache: "HubCache | None" = None) -> Tensor:
        """Logits (B, T, V) of the token after each of the ids (B, T)."""
        return self.head(self.trunk(ids, cache))

    def new_cache(self, batch_size: int) -> "HubCache":
        """An empty cache for `batch_size` texts."""
        weight = self.wte.weight
        return HubCache(
            batch_size,
            n_layer=self.config.n_layer,
            block_size=min(ROOM, self.config.block_size),
            heads=self.kv_heads,
            head_size=self.head_size,
            device=weight.device,
            dtype=weight.dtype,
        )

    def num_parameters(self) -> int:
        """Number of parameters. Weights that embedding and head share are counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


class HubCache(Cache):
    """A `Cache` with the methods that the models of `transformers` call."""

    is_compileable = False
    where: Tensor | None = None  # the positions of the tokens that are read; see Cache.positions

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, Hkv, T, D) of new tokens; returns all places of this layer, (B, Hkv, S, D)."""
        self.append(layer, torch.stack((keys, values)), self.where)
        k, v = self.store[layer, :, : len(keys)]
        return k, v

    def join(self, other: Cache) -> None:
        """As Cache.join."""
        self.make_room(max(other.lengths) - max(self.lengths, default=0))
        super().join(other)

    def make_room(self, T: int) -> int:
        """Have places for T more tokens in the longest text; returns S, how many there are.

        Attention looks at all of them, and the mask hides those that are not used: products of a part of each text's
        places take a CPU three times as long. So there are few places as long as the texts are short.
        """
        room, needed = self.store.shape[4], max(self.lengths, default=0) + T
        if needed > room:
            more = list(self.store.shape)
            more[4] = max(needed, 2 * room) - room
            self.store = torch.cat([self.store, self.store.new_zeros(more)], dim=4)
        return self.store.shape[4]

    def get_seq_length(self, *_: Any) -> int:
        """The length of the longest text."""
        return max(self.lengths)


def attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None = None, **more: Any
) -> tuple[Tensor, None]:
    """softmax(q k^T) v, (B, T, H, D), of q (B, H, T, D) and k, v (B, Hkv, S, D); computed in float32 in training.

    In bfloat16 its gradient takes a CPU four times as long. Without a mask, attention is causal. The heads that share
    keys and values are computed as if they were more tokens, so that nothing is copied.
    """
    B, H, T, D = q.shape
    shared = H // k.shape[1]
    dropout = float(more.get("dropout", 0.0))
    if mask is None:
        with torch.autocast(q.device.type, enabled=False):
            k, v = (part.float().repeat_interleave(shared, 1) for part in (k, v))
            y = F.scaled_dot_product_attention(q.float(), k, v, dropout_p=dropout, is_causal=T > 1, scale=scaling)
        return y.transpose(1, 2).to(q.dtype), None
    q = q.reshape(B, -1, shared * T, D)
    if T > 1:
        mask = mask.repeat(1, 1, shared, 1)
    if T == 1 and q.device.type == "cpu":  # of one token of each text, plain products take half the time
        weights = (q * (scaling or D**-0.5)) @ k.transpose(-1, -2) + mask
        y = weights.softmax(-1) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return y.view(B, H, T, D).transpose(1, 2), None


def register_attention() -> None:
    """Make `attention` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)


def load_causal_lm(folder: Path | str, tokenizer: Tokenizer, *, block_size: int | None = None) -> CausalLM:
    """A model of Hugging Face that has GPT-2's tokens, in float32 on the CPU, in evaluation mode.

    Raises:
        UserError: there is no such model, or its tokens are others.
    """
    model, theirs = load_hugging_face(str(folder))
    if not has_gpt2_tokens(theirs, tokenizer) or model.get_input_embeddings().num_embeddings < NUM_TOKENS:
        raise UserError(f"{folder}: its tokens are not GPT-2's: fine-tune it with `main.py distill` first")
    return CausalLM(model.eval(), str(folder), block_size=block_size).eval()


def has_gpt2_tokens(theirs: Any, tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer of `transformers` has the tokens of GPT-2's, under the same ids."""
    return bool(theirs.get_vocab() == tokenizer.backend.get_vocab(with_added_tokens=True))
