"""The way in: what was exported comes back to the bit, GPT-2's weights give GPT-2's logits, the rest is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from torch import Tensor

from config.schema import Config, UserError
from export.export import export
from export.pretrained import Pretrained, carry_over, load_pretrained
from model.checkpoint import Bundle, model_content, save_checkpoint
from model.tokenizer import NUM_TOKENS, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from tests.scrambled import full_vocabulary, scrambled
from tests.tiny_peer import make_model, make_peer
from trainer.job import prepare
from trainer.train import train
from utils.preprocess import Corpus
from utils.run_log import read_log

SettingsOf = Callable[..., Config]


def start_from(bundle: Bundle, name: Path) -> Pretrained:
    """What the settings of `bundle` would start from."""
    return load_pretrained(replace(bundle.config.model, init_from=str(name)), load_tokenizer())


def carried(bundle: Bundle, start: Pretrained, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The state of a fresh model of that vocabulary after it took the weights over."""
    model = GPT(replace(start.config, output_bias=bundle.config.model.output_bias), vocabulary.vocab_size)
    carry_over(start, model, vocabulary)
    return model.state_dict()


def assert_equal_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("exported", ["full", "rows"])
@pytest.mark.parametrize("vocabulary", ["full", "corpus"])
@pytest.mark.parametrize("output_bias", [True, False])
def test_export_then_import_is_bit_equal(
    trained: tuple[Config, Bundle],
    tmp_path: Path,
    exported: Literal["full", "rows"],
    vocabulary: str,
    output_bias: bool,
) -> None:
    own = full_vocabulary() if vocabulary == "full" else None
    bundle = scrambled(trained[1], vocabulary=own, output_bias=output_bias, n_layer=2)
    chosen = replace(bundle.config.export, output=str(tmp_path / "out"), vocabulary=exported)
    paths = replace(bundle.config.paths, root=str(tmp_path))
    export(bundle, replace(bundle.config, export=chosen, paths=paths))
    start = start_from(bundle, tmp_path / "out")
    assert_equal_bits(start.model.state_dict(), bundle.model.state_dict())
    assert_equal_bits(carried(bundle, start, bundle.vocabulary), bundle.model.state_dict())
    assert torch.equal(start.vocabulary.id_of, bundle.vocabulary.id_of)
    assert torch.equal(start.vocabulary.log_prior, bundle.vocabulary.log_prior)


@torch.no_grad()
def test_a_checkpoint_of_ours_on_other_text(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    old = scrambled(trained[1], n_layer=2)
    save_checkpoint(tmp_path / "old.pth", model_content(old.model, old.vocabulary, old.config, {}))
    start = start_from(old, tmp_path / "old.pth")
    assert_equal_bits(carried(old, start, old.vocabulary), old.model.state_dict())
    ids = [[5, 9000, 30_000, 464], [464, 13]]  # other tweets: some of their tokens were never seen before
    vocabulary = Vocabulary.build(old.config.model, old.tokenizer, ids)
    state = carried(old, start, vocabulary)
    assert old.model.head_bias is not None
    for index in (5, 13, 464, 9000, 30_000):
        row, before = vocabulary.id_of[index], old.vocabulary.id_of[index]
        assert not vocabulary.is_shared[row]
        assert torch.equal(state["wte.weight"][row], old.model.wte.weight[before])
        expected = old.model.head_bias[before] + old.vocabulary.log_prior[index]
        torch.testing.assert_close(state["head_bias"][row], expected)
    # A shared row's score is below the joint score of its tokens (Jensen), and not by much.
    model = GPT(start.config, vocabulary.vocab_size)
    model.load_state_dict(state)
    stream = torch.randn(200, model.config.n_embd)
    joint = old.model.head(stream)[:, old.vocabulary.id_of] + old.vocabulary.log_prior  # (200, 50257)
    for row in vocabulary.is_shared.nonzero()[:, 0].tolist():
        truth = joint[:, vocabulary.id_of == row].logsumexp(-1)
        assert bool((model.head(stream)[:, row] <= truth + 1e-4).all())


@torch.no_grad()
@pytest.mark.parametrize("make", [make_model, make_peer], ids=["without tokenizer", "with tokenizer"])
def test_gpt2_weights_give_gpt2_logits(settings: SettingsOf, tmp_path: Path, make: Callable[..., Any]) -> None:
    peer = make(tmp_path / "peer")
    config = settings("--model.init_from", str(tmp_path / "peer"), "--model.block_size", "200").model
    start = load_pretrained(config, load_tokenizer())
    assert (start.config.n_layer, start.config.n_embd, start.config.block_size) == (1, 8, 64)
    ids = torch.randint(NUM_TOKENS, (2, 64))
    torch.testing.assert_close(start.model(ids), peer(ids).logits, atol=1e-5, rtol=1e-5)
    short = load_pretrained(replace(config, block_size=20), load_tokenizer())
    torch.testing.assert_close(short.model(ids[:, :20]), peer(ids[:, :20]).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_openai_names_shards_and_padding(settings: SettingsOf, tmp_path: Path) -> None:
    peer = make_model(tmp_path / "peer", vocab_size=50_304).half()
    peer.save_pretrained(tmp_path / "peer")
    peer.save_pretrained(tmp_path / "sharded", max_shard_size="500KB")
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    tensors = load_file(tmp_path / "peer" / "model.safetensors")
    plain = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    plain["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)  # a mask, as OpenAI's own file has one
    save_file(plain, tmp_path / "peer" / "model.safetensors")
    ids = torch.randint(NUM_TOKENS, (2, 64))
    expected = peer.float()(ids).logits[..., :NUM_TOKENS]
    for folder in ("peer", "sharded"):
        start = load_pretrained(settings("--model.init_from", str(tmp_path / folder)).model, load_tokenizer())
        torch.testing.assert_close(start.model(ids), expected, atol=1e-5, rtol=1e-5)


def test_further_tokens_do_no_harm(settings: SettingsOf, tmp_path: Path) -> None:
    peer = make_peer(tmp_path / "peer")
    tokenizer = Backend.from_file(str(tmp_path / "peer" / "tokenizer.json"))
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(tmp_path / "peer" / "tokenizer.json"))
    peer.resize_token_embeddings(NUM_TOKENS + 1)
    peer.save_pretrained(tmp_path / "peer")
    start = load_pretrained(settings("--model.init_from", str(tmp_path / "peer")).model, load_tokenizer())
    assert torch.equal(start.model.wte.weight, peer.transformer.wte.weight[:NUM_TOKENS])


def change_config(**values: Any) -> Callable[[Path], None]:
    """Writes other values into config.json."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(found | values), encoding="utf-8")

    return change


def change_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Writes other tensors into model.safetensors."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def own_head(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1


def other_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    vocab = found["model"]["vocab"]
    vocab["Ġthe"], vocab["Ġa"] = vocab["Ġa"], vocab["Ġthe"]
    path.write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (change_config(model_type="llama"), "model_type is 'llama' in its config.json, and must be 'gpt2'"),
        (change_config(activation_function="silu"), "its activation is 'silu'"),
        (change_config(n_inner=99), "n_inner is 99"),
        (change_config(layer_norm_epsilon=1e-6), "layer_norm_epsilon is 1e-06"),
        (change_config(n_layer=2), "not those its config.json tells of .*h.1.ln_1.weight"),
        (change_config(n_embd=None), "does not tell the model's sizes"),
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json in it"),
        (lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"), "config.json is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "there is no model.safetensors in it$"),
        (pickled, "pytorch_model.bin may hold code, so it is not read"),
        (cut_short, "model.safetensors is damaged"),
        (change_weights(own_head), "its head is not its embedding"),
        (change_weights(lambda t: t.update({"transformer.wte.weight": torch.zeros(300, 8)})), "it has 300 tokens"),
        (change_weights(dict.clear), "not those of a GPT2LMHeadModel"),
        (other_tokens, "its tokenizer is not GPT-2's"),
        (lambda folder: (folder / "tokenizer.json").write_text("{", encoding="utf-8"), "tokenizer.json is damaged"),
    ],
)
def test_what_does_not_fit_is_one_line(
    settings: SettingsOf, tmp_path: Path, spoil: Callable[[Path], None], complaint: str
) -> None:
    make_peer(tmp_path / "peer")
    spoil(tmp_path / "peer")
    config = settings("--model.init_from", str(tmp_path / "peer")).model
    with pytest.raises(UserError, match=complaint) as caught:
        load_pretrained(config, load_tokenizer())
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model.init_from ")


def test_a_name_without_network_is_one_line(settings: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = settings("--model.init_from", "nobody/no-such-model").model
    with pytest.raises(
        UserError, match="neither a file, nor a folder, nor to be had from Hugging Face's hub"
    ) as caught:
        load_pretrained(config, load_tokenizer())
    assert "\n" not in str(caught.value)


def test_a_changed_export_is_refused(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    bundle = trained[1]
    chosen = replace(bundle.config.export, output=str(tmp_path / "out"), vocabulary="rows")
    export(bundle, replace(bundle.config, export=chosen))
    change_weights(lambda tensors: tensors["lm_head.weight"].mul_(1.1))(tmp_path / "out")
    with pytest.raises(UserError, match="they were changed after the export"):
        start_from(bundle, tmp_path / "out")
    (tmp_path / "out" / "elon_transformer.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="they were changed after the export"):
        start_from(bundle, tmp_path / "out")


@pytest.mark.parametrize("vocabulary", ["corpus", "full"])
def test_fine_tuning_lowers_the_loss(
    sample: tuple[Config, Corpus], settings: SettingsOf, tmp_path: Path, vocabulary: str
) -> None:
    make_model(tmp_path / "peer")
    flags = ["--model.init_from", str(tmp_path / "peer"), "--model.vocabulary", vocabulary, "--train.epochs", "1"]
    flags += ["--train.calibrate", "false"]  # it would help before the first step already
    config = settings(*flags, "--train.ngram_weight", "0", "--train.batch_size", "8")
    state = train(config, replace(sample[1], train=sample[1].train[:60], val=sample[1].val[:20]))
    losses = [record["val/loss"] for record in read_log(config.paths.metrics) if "val/loss" in record]
    assert state.best_nats == losses[-1] < losses[0] - 0.1


def test_a_run_says_what_it_started_from(sample: tuple[Config, Corpus], settings: SettingsOf, tmp_path: Path) -> None:
    make_model(tmp_path / "peer")
    job = prepare(settings("--model.init_from", str(tmp_path / "peer"), "--model.output_bias", "true"), sample[1])
    assert job.config.model.n_embd == job.model.config.n_embd == 8
    assert job.config.model.init_from == str(tmp_path / "peer")
    assert job.model.head_bias is not None
    weights = load_file(tmp_path / "peer" / "model.safetensors")["transformer.wte.weight"]
    own = ~job.vocabulary.is_shared
    assert torch.equal(job.model.wte.weight[own], weights[job.vocabulary.gpt2_ids[own]])
    assert not job.model.head_bias[own].any()
