"""A GGUF file: its numbers and names are right, and llama.cpp itself says what we say."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import pytest
import torch

from config.schema import Config, UserError
from export.export import export
from export.stock import llama_cpp_name, to_stock
from export.stock_tokenizer import closed_ids
from generate.generate import generate
from model.checkpoint import Bundle
from model.tokenizer import END, END_TEXT
from tests.scrambled import scrambled
from utils.preprocess import Corpus

Quantize = Literal["f32", "f16", "q8_0"]
ROOT = Path(__file__).parents[1]
CONTEXT = 40
PROMPTS = ["", "The", "It is", "What if 🚀", "I don't", "On Mars,", "2+2 =", "Why", "New", "We're", "é", "This is the"]
PROMPTS += ["A  b", "x" * 9, "Tonight\u00a0we", "中文", "100%", "#hash tag", "(well)", "I"]


def to_file(bundle: Bundle, path: Path, **settings: Any) -> Path:
    """Export to `path` with these settings of the section `export`."""
    chosen = replace(bundle.config.export, to="gguf", output=str(path), **settings)
    export(bundle, replace(bundle.config, export=chosen))
    return path


@pytest.fixture(scope="module")
def hard(trained: tuple[Config, Bundle]) -> Bundle:
    """A scrambled model of two layers, whose rows are not all a multiple of 32 long."""
    return scrambled(trained[1], n_layer=2, n_embd=48, n_head=4, block_size=CONTEXT)


def written_tensors(path: Path) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    """Name, form and numbers of each tensor in a GGUF file, as the library gguf reads them."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = (tensor.tensor_type.name, numbers)
    return found


@pytest.mark.parametrize(("quantize", "error"), [("f32", 0.0), ("f16", 2e-3), ("q8_0", 2e-2)])
def test_tensors_come_back(hard: Bundle, tmp_path: Path, quantize: Quantize, error: float) -> None:
    stock = to_stock(hard.model, hard.vocabulary, closed_ids(hard.tokenizer, hard.vocabulary))
    found = written_tensors(to_file(hard, tmp_path / "model.gguf", quantize=quantize, vocabulary="rows"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 2)  # llama.cpp's own, from Hugging Face's names
    assert len(found) == len(stock.tensors)
    for ours, value in stock.tensors.items():
        theirs = names.get_name(ours if ours.startswith("lm_head") else f"transformer.{ours}", (".weight", ".bias"))
        assert theirs == llama_cpp_name(ours)
        kind, numbers = found[theirs]
        small = value.dim() == 1 or ours == "wpe.weight"
        assert kind == ("F32" if small else "F16" if quantize == "q8_0" and value.shape[1] % 32 else quantize.upper())
        np.testing.assert_allclose(numbers, value.numpy(), rtol=0, atol=error * float(value.abs().max()))
        assert not small or np.array_equal(numbers, value.numpy())


def test_facts_of_the_file(hard: Bundle, tmp_path: Path) -> None:
    path = to_file(hard, tmp_path / "elon.gguf", vocabulary="rows")
    fields = gguf.GGUFReader(path).fields
    facts = {name: field.contents() for name, field in fields.items() if "tokens" not in name and "merges" not in name}
    assert facts["general.architecture"] == "gpt2"
    assert (facts["gpt2.context_length"], facts["gpt2.embedding_length"], facts["gpt2.block_count"]) == (40, 48, 2)
    assert (facts["tokenizer.ggml.model"], facts["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert facts["tokenizer.ggml.bos_token_id"] == facts["tokenizer.ggml.eos_token_id"] == tokens.index(END_TEXT)
    assert facts["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.ggml.merges"].contents()[0] == "Ġ t"
    recipe = (tmp_path / "Modelfile").read_text(encoding="utf-8")
    assert recipe.startswith("FROM ./elon.gguf\n")
    assert "PARAMETER num_ctx 40\n" in recipe and f'PARAMETER stop "{END_TEXT}"\n' in recipe


def test_what_is_there_is_not_touched(hard: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder: name the file"):
        to_file(hard, tmp_path)
    for name in ("model.gguf", "Modelfile"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
        with pytest.raises(UserError, match=f"{name} is there already"):
            to_file(hard, tmp_path / "model.gguf")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_relu_is_refused(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="activation is relu"):
        to_file(scrambled(trained[1], activation="relu"), tmp_path / "out" / "model.gguf")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    """node-llama-cpp's module, from the folder named by LLAMA_NODE_MODULES or .node/node_modules."""
    folder = Path(os.environ.get("LLAMA_NODE_MODULES", ROOT / ".node" / "node_modules"))
    module = folder / "node-llama-cpp" / "dist" / "index.js"
    if not shutil.which("node") or not module.is_file():
        pytest.skip("llama.cpp is not there: npm install --prefix .node node-llama-cpp")
    return module


def ask(module: Path, model: Path, prompts: list[str], *, limit: int) -> list[dict[str, list[int]]]:
    """llama.cpp's token ids of each prompt, and what it writes after it; see llama_cpp.mjs."""
    job = {"module": str(module), "model": str(model), "context": CONTEXT, "limit": limit, "prompts": prompts}
    command = ["node", str(Path(__file__).with_name("llama_cpp.mjs"))]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, list[int]]] = json.loads(done.stdout)
    return answers


def greedy(bundle: Bundle, prompts: list[str], *, limit: int) -> list[list[int]]:
    """Our ids after each prompt, the end mark included."""
    settings = replace(bundle.config.generate, temperature=0.0, num_samples=1, max_new_tokens=limit)
    samples = generate(bundle, prompts, settings, raw=True)
    bodies = [sample.ids[len(bundle.tokenizer.encode(sample.prompt)) :] for sample in samples]
    return [ids + [END] * (sample.finish_reason == "stop") for ids, sample in zip(bodies, samples, strict=True)]


@torch.no_grad()
def gap(bundle: Bundle, before: list[int], ours: int, theirs: int) -> float:
    """By how many nats we prefer our next token to theirs."""
    logits = bundle.model(bundle.vocabulary.id_of[torch.tensor([[END, *before]])])[0, -1]
    log_probs = bundle.vocabulary.log_probs(logits)
    return float(log_probs[ours] - log_probs[theirs])


def same_texts(bundle: Bundle, prompts: list[str], ours: list[list[int]], theirs: list[list[int]]) -> int:
    """How many texts are equal. The others part where two tokens are as good as equally likely.

    llama.cpp looks GELU up in a table of 16-bit numbers, so it may find another of two equals the better.
    """
    equal = 0
    for prompt, mine, other in zip(prompts, ours, theirs, strict=True):
        if mine == other:
            equal += 1
            continue
        place = next(i for i, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1])
        before = bundle.tokenizer.encode(prompt) + mine[:place]
        assert gap(bundle, before, mine[place], other[place]) < 0.02, f"after {prompt!r}: {mine} != {other}"
    return equal


@pytest.mark.parametrize("which", ["trained", "hard"])
def test_llama_cpp_writes_the_same(
    trained: tuple[Config, Bundle], hard: Bundle, tmp_path: Path, llama_cpp: Path, which: str
) -> None:
    bundle, limit = {"trained": trained[1], "hard": hard}[which], CONTEXT - 10
    answers = ask(llama_cpp, to_file(bundle, tmp_path / "model.gguf"), PROMPTS, limit=limit)
    ours = greedy(bundle, PROMPTS, limit=limit)
    assert [answer["ids"] for answer in answers] == bundle.tokenizer.encode_batch(PROMPTS)
    assert len(PROMPTS) == 20
    assert same_texts(bundle, PROMPTS, ours, [answer["written"] for answer in answers]) >= 18
    if which == "hard":
        assert len({index for ids in ours for index in ids}) > 50  # not one word again and again


def test_llama_cpp_knows_the_small_vocabulary(trained: tuple[Config, Bundle], tmp_path: Path, llama_cpp: Path) -> None:
    bundle = trained[1]
    path = to_file(bundle, tmp_path / "model.gguf", vocabulary="rows")
    tokens = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    stock = bundle.tokenizer.backend.get_vocab()
    unseen = bundle.vocabulary.is_shared[bundle.vocabulary.id_of]
    prompts = [prompt for prompt in PROMPTS if not unseen[bundle.tokenizer.encode(prompt)].any()]
    assert len(prompts) > 5
    ours = greedy(bundle, prompts, limit=20)
    theirs = [
        [stock[tokens[index]] for index in answer["written"]] for answer in ask(llama_cpp, path, prompts, limit=20)
    ]
    assert same_texts(bundle, prompts, ours, theirs) > len(prompts) - 2
    assert any(ids[-1] == END for ids in theirs)


def test_llama_cpp_reads_tweets_as_we_do(
    hard: Bundle, sample: tuple[Config, Corpus], tmp_path: Path, llama_cpp: Path
) -> None:
    texts = [tweet.text for tweet in sample[1].train[:200] if len(hard.tokenizer.encode(tweet.text)) < CONTEXT - 1]
    answers = ask(llama_cpp, to_file(hard, tmp_path / "model.gguf", quantize="q8_0"), texts, limit=1)
    assert [answer["ids"] for answer in answers] == hard.tokenizer.encode_batch(texts)
    assert all(len(answer["written"]) == 1 for answer in answers)  # q8_0 loads and speaks
