"""Subword embeddings: which tokens share vectors, the sums and their gradients, and the plain model afterwards."""

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
    find_subword_groups,
    merged_state_dict,
    shape,
    stem,
    subword_features,
)

CONFIG = parse("train", TINY)[0].model
TOKENIZER = load_tokenizer()
TEXT = "rocket Rocket. The rockets land; landing is hard, Land"


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary of TEXT."""
    return Vocabulary.build(CONFIG, TOKENIZER, [TOKENIZER.encode(TEXT)])


def subword_groups() -> SubwordGroups:
    """The groups of its ids, with their counts in TEXT."""
    counts = torch.bincount(vocabulary().from_gpt2(TOKENIZER.encode(TEXT)), minlength=vocabulary().vocab_size)
    return find_subword_groups(vocabulary(), TOKENIZER, counts)


def id_of(text: str) -> int:
    """The model's id of a token."""
    (index,) = TOKENIZER.encode(text)
    return int(vocabulary().id_of[index])


def test_forms_share_a_word_and_endings_a_stem() -> None:
    groups = subword_groups().groups
    word, stems = groups[:, 0].tolist(), groups[:, 1].tolist()
    assert word[id_of("rocket")] == word[id_of(" Rocket")] > 0 == word[id_of(" rockets")]
    assert stems[id_of("rocket")] == stems[id_of(" Rocket")] == stems[id_of(" rockets")] > 0
    assert word[id_of(" land")] == word[id_of(" Land")] > 0 == word[id_of(" landing")]
    assert stems[id_of(" land")] == stems[id_of(" landing")] == stems[id_of(" Land")] != stems[id_of("rocket")]
    assert word[id_of(" hard")] == stems[id_of(" hard")] == 0  # no other token has this word or stem
    assert not groups[vocabulary().is_shared].any()
    assert sorted(set(groups.flatten().tolist())) == list(range(int(groups.max()) + 1))


def test_stems() -> None:
    found = [stem(word) for word in (b"rockets", b"rocket", b"landing", b"landed", b"land", b"as", b"bed", b"")]
    assert found == [b"rocket", b"rocket", b"land", b"land", b"land", b"as", b"bed", b""]


def test_features_of_words_numbers_and_other_tokens() -> None:
    assert subword_features(b" Rockets") == [
        b"rockets",
        b"rocket",
        b" Aa",
        b"7 ",
        b"roc",
        b"rock",
        b"s ",
        b"ts ",
        b"ets ",
    ]
    assert subword_features(b"ion") == [b"ion", b"ion", b"a", b"3", b"", b"", b"n", b"", b""]
    assert subword_features(b" 2023") == [b"2023", b"2023", b" 9", b"", b"", b"", b"", b"", b""]
    assert len({len(subword_features(token)) for token in TOKENIZER.token_bytes}) == 1
    assert {shape(token) for token in (b"McDonald", b"iPhone", b"!!", b"A4b")} == {b"AaAa", b"aAa", b"!!", b"A9a"}


def test_tokens_are_in_one_group_if_and_only_if_they_share_the_feature() -> None:
    groups = subword_groups().groups
    tokens = [TOKENIZER.token_bytes[index] if index >= 0 else b"" for index in vocabulary().gpt2_ids.tolist()]
    for column in range(groups.shape[1]):
        for one, mine in enumerate(tokens):
            for other, theirs in enumerate(tokens[:one]):
                alike = subword_features(mine)[column] == subword_features(theirs)[column] != b""
                same_group = groups[one, column] == groups[other, column] != 0
                assert alike == bool(same_group), (mine, theirs, column)


def test_a_word_seen_once_has_no_vector_of_its_own() -> None:
    own_vector = subword_groups().own_vector
    assert not own_vector[id_of(" rockets")] and not own_vector[id_of(" hard")]
    assert own_vector[id_of(",")] == own_vector[id_of(".")] and bool(own_vector[id_of(";")])  # no words
    assert bool(own_vector[vocabulary().is_shared].all())


def test_an_embedding_is_the_sum_of_its_own_vector_and_those_of_its_groups() -> None:
    torch.manual_seed(0)
    model, groups = GPT(CONFIG, vocabulary().vocab_size), subword_groups().groups
    add_subword_features(model, subword_groups())
    own, shared = dict(model.named_parameters())["wte.parametrizations.weight.original"], None
    for name, parameter in model.named_parameters():
        shared = parameter if name.endswith(".shared") else shared
    assert shared is not None
    for place, mine in enumerate(groups.tolist()):
        alone = own[place] if subword_groups().own_vector[place] else torch.zeros_like(own[0])
        expected = alone + sum((shared[group] for group in mine if group), torch.zeros_like(own[0]))
        torch.testing.assert_close(model.wte.weight[place], expected)
    model.wte.weight[id_of("rocket")].sum().backward()
    assert shared.grad is not None
    touched = shared.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert touched == sorted(group for group in groups[id_of("rocket")].tolist() if group)


@pytest.mark.parametrize("with_own", [0.5, 2.0], ids=["some ids have a vector of their own", "all have"])
@pytest.mark.parametrize("most", [0, 1, 6])
def test_sums_and_gradients_are_those_of_a_matrix_product(most: int, with_own: float) -> None:
    generator = torch.Generator().manual_seed(most)
    groups = torch.randint(most + 1, (11, 4), generator=generator)
    groups[3] = 0
    own_vector = torch.rand(11, generator=generator) < with_own
    part = SubwordEmbedding(SubwordGroups(groups, own_vector), width=5).double()
    own = torch.randn(11, 5, dtype=torch.float64, generator=generator)
    matrix = torch.zeros(11, len(part.shared), dtype=torch.float64)
    for place, mine in enumerate(groups.tolist()):
        for group in filter(None, mine):
            matrix[place, group] += 1
    copied = part.shared.detach().clone().requires_grad_()
    ours, exact = part(own), own * own_vector[:, None] + matrix @ copied
    torch.testing.assert_close(ours, exact)
    weight = torch.randn(5, 11, dtype=torch.float64, generator=generator).T  # not contiguous, as gradients can be
    (ours * weight).sum().backward()
    (exact * weight).sum().backward()
    torch.testing.assert_close(part.shared.grad, copied.grad)


def test_the_merged_weights_are_a_plain_gpt_with_the_same_logits() -> None:
    torch.manual_seed(0)
    plain = GPT(CONFIG, vocabulary().vocab_size).eval()
    model = copy.deepcopy(plain)
    add_subword_features(model, subword_groups())
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 3
    assert merged_state_dict(model).keys() == plain.state_dict().keys()
    plain.load_state_dict(merged_state_dict(model))
    ids = torch.randint(vocabulary().vocab_size, (3, 9))
    torch.testing.assert_close(plain(ids), model(ids))


def test_merging_a_model_without_subword_features_changes_nothing() -> None:
    model = GPT(CONFIG, 10)
    assert all(torch.equal(value, merged_state_dict(model)[name]) for name, value in model.state_dict().items())
