"""Shared vectors: who shares, that sums are what they say, and that a plain model is left."""

import copy
from functools import cache

import pytest
import torch

from config.cli import parse
from model.tokenizer import load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from tests.conftest import TINY
from trainer.subword_embedding import (
    SubwordEmbedding,
    SubwordGroups,
    add_subword_features,
    merged_state_dict,
    shape,
    stem,
    subword_groups_of,
    traits,
)

CONFIG = parse("train", TINY)[0].model
TOKENIZER = load_tokenizer()
TEXT = "rocket Rocket. The rockets land; landing is hard, Land"


@cache
def vocabulary() -> Vocabulary:
    """That of one line."""
    return Vocabulary.build(CONFIG, TOKENIZER, [TOKENIZER.encode(TEXT)])


def relations() -> SubwordGroups:
    """Of its rows, by how often they stand in the line."""
    counts = torch.bincount(vocabulary().from_gpt2(TOKENIZER.encode(TEXT)), minlength=vocabulary().vocab_size)
    return subword_groups_of(vocabulary(), TOKENIZER, counts)


def row(text: str) -> int:
    """The row of a token."""
    (index,) = TOKENIZER.encode(text)
    return int(vocabulary().id_of[index])


def test_forms_share_a_word_and_endings_a_stem() -> None:
    groups = relations().groups
    word, stems = groups[:, 0].tolist(), groups[:, 1].tolist()
    assert word[row("rocket")] == word[row(" Rocket")] > 0 == word[row(" rockets")]
    assert stems[row("rocket")] == stems[row(" Rocket")] == stems[row(" rockets")] > 0
    assert word[row(" land")] == word[row(" Land")] > 0 == word[row(" landing")]
    assert stems[row(" land")] == stems[row(" landing")] == stems[row(" Land")] != stems[row("rocket")]
    assert word[row(" hard")] == stems[row(" hard")] == 0  # nobody to share with
    assert not groups[vocabulary().is_shared].any()
    assert sorted(set(groups.flatten().tolist())) == list(range(int(groups.max()) + 1))


def test_stems() -> None:
    found = [stem(word) for word in (b"rockets", b"rocket", b"landing", b"landed", b"land", b"as", b"bed", b"")]
    assert found == [b"rocket", b"rocket", b"land", b"land", b"land", b"as", b"bed", b""]


def test_traits_are_of_letters_spaces_and_kinds() -> None:
    assert traits(b" Rockets") == [b"rockets", b"rocket", b" Aa", b"7 ", b"roc", b"rock", b"s ", b"ts ", b"ets "]
    assert traits(b"ion") == [b"ion", b"ion", b"a", b"3", b"", b"", b"n", b"", b""]
    assert traits(b" 2023") == [b"2023", b"2023", b" 9", b"", b"", b"", b"", b"", b""]
    assert len({len(traits(token)) for token in TOKENIZER.token_bytes}) == 1
    assert {shape(token) for token in (b"McDonald", b"iPhone", b"!!", b"A4b")} == {b"AaAa", b"aAa", b"!!", b"A9a"}


def test_those_who_share_a_trait_share_a_group_and_nobody_else() -> None:
    groups = relations().groups
    tokens = [TOKENIZER.token_bytes[index] if index >= 0 else b"" for index in vocabulary().gpt2_ids.tolist()]
    for column in range(groups.shape[1]):
        for one, mine in enumerate(tokens):
            for other, theirs in enumerate(tokens[:one]):
                alike = traits(mine)[column] == traits(theirs)[column] != b""
                together = groups[one, column] == groups[other, column] != 0
                assert alike == bool(together), (mine, theirs, column)


def test_a_word_seen_once_has_no_vector_of_its_own() -> None:
    single = relations().single
    assert not single[row(" rockets")] and not single[row(" hard")]
    assert single[row(",")] == single[row(".")] and bool(single[row(";")])  # no words
    assert bool(single[vocabulary().is_shared].all())


def test_a_row_is_the_sum_of_its_own_and_its_groups() -> None:
    torch.manual_seed(0)
    model, groups = GPT(CONFIG, vocabulary().vocab_size), relations().groups
    add_subword_features(model, relations())
    own, shared = dict(model.named_parameters())["wte.parametrizations.weight.original"], None
    for name, parameter in model.named_parameters():
        shared = parameter if name.endswith(".shared") else shared
    assert shared is not None
    for place, mine in enumerate(groups.tolist()):
        alone = own[place] if relations().single[place] else torch.zeros_like(own[0])
        expected = alone + sum((shared[group] for group in mine if group), torch.zeros_like(own[0]))
        torch.testing.assert_close(model.wte.weight[place], expected)
    model.wte.weight[row("rocket")].sum().backward()
    assert shared.grad is not None
    touched = shared.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert touched == sorted(group for group in groups[row("rocket")].tolist() if group)


@pytest.mark.parametrize("most", [0, 1, 6])
def test_sums_and_gradients_are_those_of_a_matrix_product(most: int) -> None:
    generator = torch.Generator().manual_seed(most)
    groups = torch.randint(most + 1, (11, 4), generator=generator)
    groups[3] = 0
    part = SubwordEmbedding(SubwordGroups(groups, torch.rand(11, generator=generator) < 0.5), width=5).double()
    own = torch.randn(11, 5, dtype=torch.float64, generator=generator)
    matrix = torch.zeros(11, len(part.shared), dtype=torch.float64)
    for row, mine in enumerate(groups.tolist()):
        for group in filter(None, mine):
            matrix[row, group] += 1
    copied = part.shared.detach().clone().requires_grad_()
    ours, exact = part(own), own * part.single + matrix @ copied
    torch.testing.assert_close(ours, exact)
    weight = torch.randn(5, 11, dtype=torch.float64, generator=generator).T  # not contiguous, as gradients can be
    (ours * weight).sum().backward()
    (exact * weight).sum().backward()
    torch.testing.assert_close(part.shared.grad, copied.grad)


def test_what_is_left_is_a_plain_gpt_with_the_same_logits() -> None:
    torch.manual_seed(0)
    plain = GPT(CONFIG, vocabulary().vocab_size).eval()
    model = copy.deepcopy(plain)
    add_subword_features(model, relations())
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 3
    assert merged_state_dict(model).keys() == plain.state_dict().keys()
    plain.load_state_dict(merged_state_dict(model))
    rows = torch.randint(vocabulary().vocab_size, (3, 9))
    torch.testing.assert_close(plain(rows), model(rows))


def test_without_relatives_a_model_is_itself() -> None:
    model = GPT(CONFIG, 10)
    assert all(torch.equal(value, merged_state_dict(model)[name]) for name, value in model.state_dict().items())
