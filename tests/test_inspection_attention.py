"""The numbers of the look inside, against transformers' GPT-2, the fast path, and brute force."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from config.schema import Config, UserError
from inspection.attention import (
    attention_weights,
    explicit_attention,
    logit_lens,
    logits_without,
    read,
    surprise,
    twin,
)
from model.checkpoint import Bundle
from model.tokenizer import END
from model.transformer import GPT, Attention

V, C, L, H, T = 61, 24, 3, 4, 20
HEADS = [(layer, head) for layer in range(L) for head in range(H)]


@pytest.fixture
def model(settings: Callable[..., Config]) -> GPT:
    """Three layers of four heads, with weights large enough that every part matters."""
    torch.manual_seed(0)
    shape = ("--model.n_layer", str(L), "--model.n_embd", str(C), "--model.n_head", str(H), "--model.block_size", "20")
    model = GPT(settings(*shape).model, V).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture
def rows() -> Tensor:
    """As many tokens as the context holds."""
    return torch.randint(V, (T,), generator=torch.Generator().manual_seed(1))


def attentions(model: GPT) -> list[Attention]:
    return [module for module in model.modules() if isinstance(module, Attention)]


def test_rows_sum_to_one_and_nobody_looks_ahead(model: GPT, rows: Tensor) -> None:
    weights = attention_weights(model, rows)
    assert weights.shape == (L, H, T, T)
    torch.testing.assert_close(weights.sum(-1), torch.ones(L, H, T))
    assert not weights.triu(1).any()


@torch.no_grad()
def test_weights_times_values_is_what_the_fast_path_gives(model: GPT, rows: Tensor) -> None:
    asked: list[dict[str, Any]] = []

    def note(module: nn.Module, given: Any, heard: Tensor) -> None:
        asked.append({"v": given[2], "heard": heard})

    hooks = [attention.dot_product.register_forward_hook(note) for attention in attentions(model)]
    model(rows[None])
    for hook in hooks:
        hook.remove()
    assert len(asked) == L
    for layer, weights in enumerate(attention_weights(model, rows)):
        heard = weights @ asked[layer]["v"][0]
        torch.testing.assert_close(heard, asked[layer]["heard"][0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_weights_equal_those_of_transformers(model: GPT, rows: Tensor) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_positions": T, "n_embd": C, "n_layer": L, "n_head": H}
    peer = GPT2LMHeadModel(GPT2Config(vocab_size=V, attn_implementation="eager", **shape)).eval()
    turned = {
        f"transformer.{name}": value.T if value.dim() == 2 and name.startswith("h.") else value
        for name, value in model.state_dict().items()
        if name != "head_bias"
    }
    missing, unexpected = peer.load_state_dict(turned, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    expected = torch.cat(peer(rows[None], output_attentions=True).attentions)
    torch.testing.assert_close(attention_weights(model, rows), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_explicit_path_serves_a_cache_too(model: GPT) -> None:
    texts = torch.randint(V, (2, 12))

    def read_on() -> Tensor:
        cache = model.new_cache(2)
        model(texts[:, :7], cache)
        cache.lengths = [4, 7]  # the rows need not have read equally much
        return model(texts[:, 7:], cache)

    expected = read_on()
    with explicit_attention(model):
        torch.testing.assert_close(read_on(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("layer", "head"), HEADS)
@torch.no_grad()
def test_a_head_that_is_off_is_a_slice_of_zeros_before_c_proj(model: GPT, rows: Tensor, layer: int, head: int) -> None:
    def zero(module: nn.Module, given: tuple[Tensor]) -> Tensor:
        heard = given[0].clone()
        heard[..., head * C // H : (head + 1) * C // H] = 0.0
        return heard

    without = logits_without(model, rows, layer=layer, head=head)
    whole = model(rows[None])[0]
    hook = attentions(model)[layer].c_proj.register_forward_pre_hook(zero)
    torch.testing.assert_close(without, model(rows[None])[0], atol=1e-5, rtol=1e-5)
    hook.remove()
    assert not torch.allclose(without, whole, atol=1e-3)


@torch.no_grad()
def test_the_lens_ends_with_what_the_model_says(model: GPT, rows: Tensor) -> None:
    lens = logit_lens(model, rows)
    assert lens.shape == (L + 1, T, V)
    torch.testing.assert_close(lens[-1], model(rows[None])[0])


@pytest.mark.parametrize("layers", [0, 1, 2])
@torch.no_grad()
def test_the_lens_is_the_model_with_later_layers_cut_off(model: GPT, rows: Tensor, layers: int) -> None:
    lens = logit_lens(model, rows)[layers]
    model.h = model.h[:layers]
    torch.testing.assert_close(lens, model(rows[None])[0])


@torch.no_grad()
def test_surprise_is_the_cost_of_each_token_read_one_at_a_time(trained: tuple[Config, Bundle]) -> None:
    bundle = trained[1]
    ids = read(bundle, "The van hums 🚀 zyzzyva")
    rows = bundle.vocabulary.id_of[torch.tensor(ids)]
    bits = surprise(bundle, ids, bundle.model(rows[None])[0])
    for t in range(1, len(ids)):
        chances = bundle.vocabulary.log_probs(bundle.model(rows[None, :t])[0, -1]).exp()
        assert chances.sum() == pytest.approx(1.0, abs=1e-4)
        assert bits[t - 1] == pytest.approx(-math.log2(chances[ids[t]]), abs=1e-3)


def test_reading_frames_the_text_and_refuses_what_does_not_fit(trained: tuple[Config, Bundle]) -> None:
    bundle = trained[1]
    room = bundle.model.config.block_size - 1
    assert read(bundle, "") == [END]
    assert read(bundle, "Mars is ") == [END, *bundle.tokenizer.encode("Mars is")]
    assert len(read(bundle, "a" + " a" * (room - 1))) == room + 1
    with pytest.raises(UserError, match=f"has {room + 1} tokens, and this model can read {room}"):
        read(bundle, "a" + " a" * room)


def test_the_model_is_left_as_it_was(model: GPT, rows: Tensor) -> None:
    with pytest.raises(RuntimeError, match="stop"), explicit_attention(model, off=HEADS):
        raise RuntimeError("stop")
    logit_lens(model, rows)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_twin_shares_the_weights_and_nothing_else(model: GPT, rows: Tensor) -> None:
    other = twin(model)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)
    with explicit_attention(other, off=HEADS):
        assert not any(module._forward_hooks for module in model.modules())
        assert not torch.equal(model(rows[None]), other(rows[None]))


def test_training_is_not_for_looking_inside(model: GPT, rows: Tensor) -> None:
    with pytest.raises(AssertionError, match="evaluation mode"):
        attention_weights(model.train(), rows)
