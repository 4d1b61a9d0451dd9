"""The faster versions against the plain model, which test_model_transformer.py compares with that of transformers."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import model.fast
from config.schema import Config
from model.ensemble import Ensemble, Member
from model.fast import FEW, PACKED, Dropout, Product, Writer, for_training, for_writing, product
from model.language_model import LanguageModel
from model.transformer import GPT
from model.vocabulary import Vocabulary

CONTEXT = 10
SettingsOf = Callable[..., Config]


@pytest.fixture(params=[1, 2, 3])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def make(settings: SettingsOf) -> Callable[..., GPT]:
    def build(*flags: str, vocab_size: int = 37) -> GPT:
        shape = ["--model.n_layer", "2", "--model.n_embd", "24", "--model.n_head", "3", "--model.block_size", "10"]
        torch.manual_seed(0)
        gpt = GPT(settings(*shape, *flags).model, vocab_size).eval()
        for parameter in gpt.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        return gpt

    return build


@torch.no_grad()
def one_more(model: LanguageModel, texts: Tensor, lengths: list[int], more: Tensor) -> tuple[Tensor, list[int]]:
    """Logits (B, V) after one more token of each text; the cache holds the first `lengths` tokens of `texts` (B, T)."""
    cache = model.new_cache(len(texts))
    model.trunk(texts, cache)
    cache.lengths = list(lengths)
    return model.head(model.trunk(more[:, None], cache))[:, 0], cache.lengths


@pytest.mark.parametrize("flags", [[], ["--model.activation", "relu"], ["--model.output_bias", "false"]])
def test_a_writer_gives_the_numbers_of_the_plain_model(
    make: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch, cores: int, flags: list[str]
) -> None:
    monkeypatch.setattr(model.fast, "LARGE", 500)  # some products are shared by the cores, some are not
    gpt = make(*flags)
    before = copy.deepcopy(gpt.state_dict())
    writer = for_writing(gpt)

    @settings(max_examples=20)
    @given(st.lists(st.integers(0, CONTEXT - 1), min_size=1, max_size=12), st.integers(0, 1000))
    def check(lengths: list[int], seed: int) -> None:
        torch.manual_seed(seed)
        texts, more = torch.randint(37, (len(lengths), max(lengths))), torch.randint(37, (len(lengths),))
        found, expected = (one_more(one, texts, lengths, more) for one in (writer, gpt))
        torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
        assert found[1] == expected[1] == [length + 1 for length in lengths]

    check()
    assert all(torch.equal(weight, before[name]) for name, weight in gpt.state_dict().items())


def test_the_members_of_an_ensemble_become_writers_and_the_ensemble_stays(make: Callable[..., GPT]) -> None:
    vocabulary: Vocabulary = Vocabulary.full()
    gpt = make(vocab_size=vocabulary.vocab_size)
    ensemble = Ensemble([Member(gpt, vocabulary, 1.0), Member(gpt, vocabulary, 2.0)], vocabulary, config=gpt.config)
    writing = for_writing(ensemble)
    assert isinstance(writing, Ensemble) and all(isinstance(member.model, Writer) for member in writing.members)
    assert all(member.model is gpt for member in ensemble.members)
    where = torch.tensor([[5, 6], [7, 8]]), [2, 1], torch.tensor([9, 10])
    torch.testing.assert_close(one_more(writing, *where)[0], one_more(ensemble, *where)[0], atol=1e-4, rtol=1e-4)


def test_a_writer_refuses_more_tokens_than_the_context(make: Callable[..., GPT]) -> None:
    with pytest.raises(AssertionError, match="context of 10"):
        one_more(for_writing(make()), torch.zeros(1, 10, dtype=torch.long), [10], torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("outputs", [2, 7, 60, 61])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (FEW, 1), (FEW + 1, 1), (0, 1), (1,), ()])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_equals_the_sum_over_the_inputs(
    monkeypatch: pytest.MonkeyPatch, cores: int, outputs: int, shape: tuple[int, ...], with_bias: bool
) -> None:
    monkeypatch.setattr(model.fast, "LARGE", 1)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*shape, 5), torch.randn(outputs, 5), torch.randn(outputs) if with_bias else None
    truth = sum_over_inputs(x, weight, bias)
    for x_, weight_ in ((x, weight), (x.mT.contiguous().mT if x.dim() > 1 else x, weight.T.contiguous().T)):
        torch.testing.assert_close(product(x_, weight_, bias).double(), truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("outputs", [2, 7, 60, 1300])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_of_any_number_of_rows_equals_it(cores: int, outputs: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, 48), torch.randn(outputs) if with_bias else None
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        multiply = Product(weight.to(dtype), None if bias is None else bias.to(dtype))
        for rows in (0, 1, 2, PACKED - 1, PACKED, PACKED + 1, 16, 63, 64, 200):
            x = torch.randn(2, rows, 48).to(dtype)
            truth = sum_over_inputs(x, multiply.weight, multiply.bias)
            for part in (0, 1):
                torch.testing.assert_close(multiply(x[part]).double(), truth[part], atol=10 * allowed, rtol=allowed)
            torch.testing.assert_close(multiply(x).double(), truth, atol=10 * allowed, rtol=allowed)


def sum_over_inputs(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.einsum("...c,oc->...o", x.double(), weight.double()) + (0.0 if bias is None else bias.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_has_the_gradients_of_the_plain_model(make: Callable[..., GPT], dtype: torch.dtype) -> None:
    plain, device = make("--model.dropout", "0").train(), torch.device("cpu")
    fast = for_training(copy.deepcopy(plain), device, dtype, compiled=False)
    ids, goal = torch.randint(37, (3, 7)), torch.randn(3, 7, 37)
    for one in (plain, fast):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = one(ids)
        (logits.float() * goal).sum().backward()
    for weight, twin in zip(plain.parameters(), fast.parameters(), strict=True):
        assert weight.grad is not None and twin.grad is not None
        gradient = twin.grad.to_dense() if twin.grad.is_sparse else twin.grad
        if dtype == torch.float32:
            torch.testing.assert_close(weight.grad, gradient, atol=1e-5, rtol=1e-5)
        else:  # two roundings to 8 bits
            assert F.cosine_similarity(weight.grad.flatten(), gradient.flatten(), dim=0) > 0.999


def dropped(x: Tensor, p: float) -> Tensor:
    found: Tensor = Dropout(p)(x)
    return found


@pytest.mark.parametrize("p", [0.001, 0.1, 0.4, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_a_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropped(torch.ones(1001, 999, dtype=dtype), p)  # not a multiple of the eight that share a number
    assert (found == 0).double().mean().item() == pytest.approx(p, abs=0.004)
    assert found.double().mean().item() == pytest.approx(1.0, rel=0.02)
    assert len(found.unique()) == 2


def test_dropped_places_are_independent() -> None:
    torch.manual_seed(0)
    kept = (dropped(torch.ones(400_000), 0.3) > 0).double() - 0.7
    for apart in (1, 2, 3, 4, 7, 8, 16):
        correlation = (kept[apart:] * kept[:-apart]).mean().item() / 0.21
        assert abs(correlation) < 0.01, apart


def test_gradient_flows_where_numbers_are_kept() -> None:
    torch.manual_seed(0)
    x = torch.full((50, 50), 2.0, requires_grad=True)
    found = dropped(x, 0.25)
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, found.detach() / 2.0)


def test_the_seed_decides_and_evaluation_changes_nothing() -> None:
    layer, x = Dropout(0.5), torch.randn(7, 3)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    before = torch.get_rng_state()
    assert layer.eval()(x) is x and dropped(x, 0.0) is x
    assert torch.equal(torch.get_rng_state(), before)
