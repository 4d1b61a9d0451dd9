"""One more token without modules, against the modules; these are held to transformers' in test_model_transformer.py."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import model.linear
from config.schema import Config
from model.linear import lay_out_for_writing
from model.transformer import GPT

V, CONTEXT = 37, 10
SettingsOf = Callable[..., Config]


@pytest.fixture
def make(settings: SettingsOf) -> Callable[..., GPT]:
    def build(*flags: str) -> GPT:
        shape = ["--model.n_layer", "2", "--model.n_embd", "24", "--model.n_head", "3", "--model.block_size", "10"]
        torch.manual_seed(0)
        model = GPT(settings(*shape, *flags).model, V).eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        return model

    return build


def read_on(model: GPT, texts: Tensor, lengths: list[int], more: Tensor, *, modules: bool) -> tuple[Tensor, list[int]]:
    """Logits (B, V) after one more token each, where each text has read so many of `texts` (B, T)."""
    with torch.no_grad():
        cache = model.new_cache(len(texts))
        model(texts, cache)
        cache.lengths = list(lengths)
        with torch.set_grad_enabled(modules):
            return model(more[:, None], cache)[:, 0].detach(), cache.lengths


@pytest.mark.parametrize("flags", [[], ["--model.activation", "relu"], ["--model.output_bias", "false"]])
@pytest.mark.parametrize("laid_out", [False, True])
def test_it_gives_what_the_modules_give(
    make: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch, flags: list[str], laid_out: bool
) -> None:
    monkeypatch.setattr(model.linear, "LARGE", 500)  # some products are shared by the cores, some are not
    gpt = make(*flags)
    if laid_out:
        lay_out_for_writing(gpt)

    @settings(max_examples=40)
    @given(st.lists(st.integers(0, CONTEXT - 1), min_size=1, max_size=12), st.integers(0, 1000))
    def check(lengths: list[int], seed: int) -> None:
        torch.manual_seed(seed)
        texts, more = torch.randint(V, (len(lengths), max(lengths))), torch.randint(V, (len(lengths),))
        found, expected = (read_on(gpt, texts, lengths, more, modules=modules) for modules in (False, True))
        torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
        assert found[1] == expected[1] == [length + 1 for length in lengths]

    check()


def test_no_module_is_asked(make: Callable[..., GPT]) -> None:
    gpt, asked = make(), []
    cache = gpt.new_cache(1)
    for module in gpt.h.modules():
        module.register_forward_hook(lambda module, given, found: asked.append(module))
    with torch.no_grad():
        gpt(torch.zeros(1, 2, dtype=torch.long), cache)
        assert asked
        asked.clear()
        gpt(torch.zeros(1, 1, dtype=torch.long), cache)
        assert not asked


def test_it_sees_new_weights_and_a_copy_its_own(make: Callable[..., GPT]) -> None:
    gpt = make()
    where = torch.randint(V, (2, 4)), [2, 4], torch.randint(V, (2,))
    before, _ = read_on(gpt, *where, modules=False)
    other = copy.deepcopy(gpt)
    other.load_state_dict({name: 0.5 * value for name, value in gpt.state_dict().items()})
    for one in (gpt, other, other.double()):
        found, expected = (read_on(one, *where, modules=modules)[0] for modules in (False, True))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read_on(gpt, *where, modules=False)[0], before)
    assert not torch.allclose(before, read_on(other, *where, modules=False)[0].float())


def test_it_minds_the_context(make: Callable[..., GPT]) -> None:
    with pytest.raises(AssertionError, match="context of 10"):
        read_on(make(), torch.zeros(1, 10, dtype=torch.long), [10], torch.zeros(1, dtype=torch.long), modules=False)
