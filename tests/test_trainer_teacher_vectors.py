"""Teacher vectors: the embedding is a sum, what is learned of one token is learned of those like it, and the basis."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from config.cli import parse
from config.schema import Config
from model.checkpoint import Bundle
from model.transformer import GPT
from tests.conftest import TINY
from trainer.batches import TweetDataset
from trainer.job import Objective, prepare
from trainer.losses import cross_entropy
from trainer.subword_embedding import SubwordGroups, add_subword_features, merged_state_dict
from trainer.teacher_vectors import add_teacher_vectors, principal_components
from trainer.train import Trainer
from utils.preprocess import Corpus, Tweet

SettingsOf = Callable[..., Config]
CONFIG = parse("train", TINY)[0].model
SIZE = 12


def vectors_of(seed: int, width: int = 6) -> torch.Tensor:
    return torch.randn(SIZE, width, generator=torch.Generator().manual_seed(seed))


def test_the_merged_weights_are_a_plain_gpt_with_the_same_logits() -> None:
    torch.manual_seed(0)
    plain = GPT(CONFIG, SIZE).eval()
    model = copy.deepcopy(plain)
    groups = torch.randint(3, (SIZE, 4), generator=torch.Generator().manual_seed(1))
    add_subword_features(model, SubwordGroups(groups, torch.ones(SIZE, dtype=torch.bool)))
    before = model.wte.weight.detach().clone()
    add_teacher_vectors(model, vectors_of(2))
    part = dict(model.named_parameters())["wte.parametrizations.weight.1.projection"]
    with torch.no_grad():
        part.copy_(torch.randn_like(part))
    added = (model.wte.weight - before).detach()
    as_map = torch.linalg.pinv(vectors_of(2)) @ added
    torch.testing.assert_close(vectors_of(2) @ as_map, added)  # a linear map of the vectors, and nothing else
    assert merged_state_dict(model).keys() == plain.state_dict().keys()
    plain.load_state_dict(merged_state_dict(model))
    ids = torch.randint(SIZE, (3, 9))
    torch.testing.assert_close(plain(ids), model(ids))


def test_what_is_learned_of_a_token_is_learned_of_one_with_the_same_vector() -> None:
    torch.manual_seed(0)
    model, vectors = GPT(CONFIG, SIZE), vectors_of(3)
    vectors[7], vectors[9] = vectors[4], 0.0
    add_teacher_vectors(model, vectors)
    before = model.wte.weight.detach().clone()
    model.wte.weight[4].sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
    change = model.wte.weight.detach() - before
    assert float(change[7].abs().min()) > 0.0 and float(change[9].abs().max()) == 0.0


def test_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    known = torch.ones(SIZE, dtype=torch.bool)
    known[5] = False
    one, two = vectors_of(4), 100.0 * vectors_of(5, 4)
    found = principal_components([one, two], known, most=3)
    assert found.shape == (SIZE, 3) and float(found[5].abs().max()) == 0.0
    parts = [matrix[known].double().numpy() for matrix in (one, two)]
    centred = [(part - part.mean(0)) / (part - part.mean(0)).std(ddof=1) for part in parts]
    left, sizes, _ = np.linalg.svd(np.concatenate(centred, 1), full_matrices=False)
    expected = left[:, :3] * sizes[:3]
    expected /= expected.std(ddof=1)
    for column in range(3):
        ours = found[known][:, column].double().numpy()
        sign = np.sign(ours @ expected[:, column])
        np.testing.assert_allclose(ours, sign * expected[:, column], rtol=1e-3, atol=1e-4)


def test_fewer_dimensions_than_the_student_are_all_kept() -> None:
    assert principal_components([vectors_of(6)], torch.ones(SIZE, dtype=torch.bool), most=64).shape == (SIZE, 6)


@pytest.fixture
def corpus(tweets: list[Tweet]) -> Corpus:
    return Corpus(train=tweets[5:], val=tweets[:5], info={"split": {"hash": "made-up", "train": 0, "val": 5}})


def with_vectors(real: TweetDataset, sign: float = 1.0) -> Objective:
    """The tweets themselves, with random vectors."""
    vectors = torch.randn(real.vocabulary.vocab_size, 4, generator=torch.Generator().manual_seed(0))
    return Objective(real, cross_entropy, sign * vectors)


def test_a_resumed_run_goes_on_with_the_vectors_it_began_with(settings: SettingsOf, corpus: Corpus) -> None:
    """Principal components have no sign of their own: another machine may find the opposite ones."""
    config = settings("--train.epochs", "1", "--train.muon", "4", "--train.calibrate", "false")
    begun = Trainer(prepare(config, corpus, objective=with_vectors))
    begun.fit()
    resumed = Trainer(prepare(config, corpus, objective=partial(with_vectors, sign=-1.0)))
    resumed.resume()
    one, two = merged_state_dict(begun.model), merged_state_dict(resumed.model)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_embedding_of_a_trained_model_stays_as_it_is(
    settings: SettingsOf, corpus: Corpus, trained: tuple[Config, Bundle]
) -> None:
    start = settings("--model.init_from", str(trained[0].paths.best_model), "--train.calibrate", "false")
    job = prepare(start, corpus, objective=with_vectors)
    before = job.model.wte.weight.detach().clone()
    assert torch.equal(merged_state_dict(Trainer(job).model)["wte.weight"], before)
