"""The transformer: equal to a GPT2LMHeadModel with the same weights, causal, and equal with and without a cache."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from config.schema import Config
from model.fast import Float32Attention
from model.transformer import GPT, Attention, Block

V = 61
SettingsOf = Callable[..., Config]


@pytest.fixture
def model(settings: SettingsOf) -> GPT:
    """Two layers, with weights so large that every part changes the result."""
    torch.manual_seed(0)
    config = settings("--model.n_layer", "2", "--model.n_embd", "24", "--model.n_head", "3", "--model.block_size", "20")
    model = GPT(config.model, V).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def peer_of(model: GPT) -> Any:
    """transformers' GPT-2 with the same weights (its Conv1D stores matrices transposed)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = model.config
    config = GPT2Config(vocab_size=V, n_positions=shape.block_size, n_embd=shape.n_embd, n_layer=shape.n_layer)
    config.n_head = shape.n_head
    config.tie_word_embeddings = True
    peer = GPT2LMHeadModel(config).eval()
    ours = {name: value for name, value in model.state_dict().items() if name != "head_bias"}
    turned = {
        f"transformer.{name}": value.T if value.dim() == 2 and name.startswith("h.") else value
        for name, value in ours.items()
    }
    missing, unexpected = peer.load_state_dict(turned, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return peer


@torch.no_grad()
def test_logits_equal_those_of_transformers(model: GPT) -> None:
    ids = torch.randint(V, (3, 20))
    assert model.head_bias is not None
    expected = peer_of(model)(ids).logits + model.head_bias
    torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_later_tokens_do_not_change_earlier_logits(model: GPT) -> None:
    ids = torch.randint(V, (1, 20))
    before = model(ids)
    for t in range(20):
        changed = ids.clone()
        changed[0, t] = (changed[0, t] + 1) % V
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.equal(after[:, t], before[:, t])


@pytest.mark.parametrize("chunks", [[1] * 20, [7, 1, 1, 4, 7], [20], [1, 19], [19, 1]])
@torch.no_grad()
def test_cache_changes_nothing(model: GPT, chunks: list[int]) -> None:
    ids = torch.randint(V, (3, 20))
    cache = model.new_cache(3)
    parts = [model(part, cache) for part in ids.split(chunks, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_texts_of_different_length_share_a_cache(model: GPT) -> None:
    texts = [torch.randint(V, (n,)) for n in (3, 9, 6)]
    padded = torch.stack([torch.cat([text, torch.zeros(9 - len(text), dtype=torch.long)]) for text in texts])
    cache = model.new_cache(3)
    model(padded, cache)
    cache.lengths = [3, 9, 6]  # forget the padding
    cache.keep([2, 0, 1, 0])
    more = torch.randint(V, (4, 5))
    logits = torch.cat([model(more[:, t : t + 1], cache) for t in range(5)], 1)
    for place, (text, tail) in enumerate(zip([texts[i] for i in (2, 0, 1, 0)], more, strict=True)):
        alone = model(torch.cat([text, tail])[None])[0, -5:]
        torch.testing.assert_close(logits[place], alone, atol=1e-5, rtol=1e-5)


def test_head_shares_the_embedding(model: GPT) -> None:
    names = [name for name, _ in model.named_parameters()]
    assert "wte.weight" in names and not any("lm_head" in name for name in names)
    C, T, L = 24, 20, 2
    block = 2 * 2 * C + (C * 3 * C + 3 * C) + (C * C + C) + (C * 4 * C + 4 * C) + (4 * C * C + C)
    assert model.num_parameters() == V * C + T * C + L * block + 2 * C + V
    x = torch.randn(2, C)
    bias = model.state_dict()["head_bias"]
    torch.testing.assert_close(model.head(x), x @ model.wte.weight.T + bias)


def test_more_tokens_than_the_context_are_refused(model: GPT) -> None:
    with pytest.raises(AssertionError, match="context of 20"):
        model(torch.zeros(1, 21, dtype=torch.long))


@torch.no_grad()
def test_blocks_add_to_the_stream(model: GPT) -> None:
    block = model.h[0]
    assert isinstance(block, Block)
    for projection in (block.attn.c_proj, block.mlp.c_proj):
        projection.weight.zero_()
        projection.bias.zero_()
    x = torch.randn(1, 5, 24)
    assert torch.equal(block(x, cache=None, positions=None, mask=None), x)


def test_activation_can_be_relu(settings: SettingsOf) -> None:
    model = GPT(settings("--model.activation", "relu").model, V)
    block = model.h[0]
    assert isinstance(block, Block) and isinstance(block.mlp.act, torch.nn.ReLU)


def test_dropout_acts_only_in_training(settings: SettingsOf) -> None:
    model = GPT(settings("--model.dropout", "0.5").model, V)
    ids = torch.randint(V, (1, 10))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_attention_trained_in_bfloat16_is_only_rounded_to_it() -> None:
    q, k, v, g = torch.randn(4, 2, 3, 9, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    sides = []
    for dtype in (torch.bfloat16, torch.float64):
        given = [part.detach().to(dtype).requires_grad_() for part in (q, k, v)]
        if dtype == torch.bfloat16:
            with torch.autocast("cpu", torch.bfloat16):
                y = Float32Attention()(*given, None, True)
        else:
            scores = given[0] @ given[1].transpose(2, 3) / 8**0.5
            y = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf).softmax(-1) @ given[2]
        assert y.dtype == dtype
        y.backward(g.to(dtype))
        sides.append([y, *(part.grad for part in given)])
    for ours, exact in zip(*sides, strict=True):
        torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=2**-8)


def test_initial_weights_are_those_of_gpt2(settings: SettingsOf) -> None:
    torch.manual_seed(0)
    model = GPT(settings("--model.n_layer", "8", "--model.n_embd", "64", "--model.n_head", "2").model, 500)
    attention = model.h[3].attn
    assert isinstance(attention, Attention)

    def spread(weight: Tensor) -> float:
        return float(weight.detach().std())

    assert spread(model.wte.weight) == pytest.approx(0.02, rel=0.05)
    assert spread(attention.c_attn.weight) == pytest.approx(0.02, rel=0.05)
    assert spread(attention.c_proj.weight) == pytest.approx(0.02 / 4, rel=0.05)  # 1 / sqrt(2 * 8)
    assert not attention.c_attn.bias.any()
