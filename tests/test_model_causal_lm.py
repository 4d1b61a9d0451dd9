"""model/causal_lm.py: several kinds of models give the logits of `transformers`, also text by text in a cache."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from config.cli import parse, run_command
from config.schema import UserError
from generate.generate import generate
from inspection.attention import with_gpt
from model.causal_lm import CausalLM, load_causal_lm
from model.folder import INFO_FILE, load_model
from model.tokenizer import END, NUM_TOKENS, load_tokenizer
from server.engine import Engine
from server.schemas import MODEL_NAME
from tests.serving import served, serving
from tests.tiny_peer import make_peer, save_gpt2_tokenizer
from web.tab_about import about

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": NUM_TOKENS,
    "max_position_embeddings": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
}
SIZES |= {"num_attention_heads": 4, "intermediate_size": 32, "initializer_range": 0.3}


def tiny(kind: str) -> Any:
    """A random model of this kind with GPT-2's tokens."""
    torch.manual_seed(0)
    if kind == "llama":  # two heads share keys and values; the head has weights of its own, and rows that pad it
        sizes = {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": False, "vocab_size": NUM_TOKENS + 47}
        return LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=1)).eval()
    if kind == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)).eval()
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3)).eval()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_logits_are_those_of_transformers(kind: str) -> None:
    """All at once, and token by token in a cache whose texts differ in length, end, and are replaced by new ones."""
    theirs = tiny(kind)
    texts = [torch.randint(NUM_TOKENS, (length,)) for length in (9, 5, 7)]
    with torch.no_grad():
        expected = [copy.deepcopy(theirs)(text[None]).logits[0, :, :NUM_TOKENS] for text in texts]
        found = CausalLM(theirs, kind)
        assert found.num_parameters() == sum(part.numel() for part in theirs.parameters())
        for text, logits in zip(texts, expected, strict=True):
            torch.testing.assert_close(found(text[None])[0], logits, atol=1e-4, rtol=1e-4)
        cache = found.new_cache(2)
        read, places = [0, 0], [0, 1]  # tokens read of the texts in the two places
        for _ in range(12):
            ids = torch.stack([texts[number][count] for number, count in zip(places, read, strict=True)])
            logits = found(ids[:, None], cache)[:, 0]
            for place, (number, count) in enumerate(zip(places, read, strict=True)):
                torch.testing.assert_close(logits[place], expected[number][count], atol=1e-4, rtol=1e-4)
                read[place] += 1
                if read[place] == len(texts[number]):
                    places[place], read[place] = 2 - place, 0
                    cache.lengths[place] = 0


@torch.no_grad()
def test_long_texts_find_room_in_the_cache_of_short_ones() -> None:
    """Texts of 150, 3 and 70 tokens, read token by token, join one cache, the shortest first."""
    theirs = LlamaForCausalLM(LlamaConfig(**{**SIZES, "max_position_embeddings": 256}, num_key_value_heads=2)).eval()
    found, texts = CausalLM(theirs, "llama"), [torch.randint(NUM_TOKENS, (length,)) for length in (150, 3, 70)]
    expected = [found(text[None])[0, -1] for text in texts]
    cache = found.new_cache(0)
    for text in sorted(texts, key=len):
        own = found.new_cache(1)
        for index in text[:-1]:
            found(index.view(1, 1), own)
        cache.join(own)
    logits = found(torch.stack([text[-1:] for text in sorted(texts, key=len)]), cache)[:, 0]
    for place, number in enumerate((1, 2, 0)):
        torch.testing.assert_close(logits[place], expected[number], atol=1e-4, rtol=1e-4)


def test_the_gradient_is_that_of_transformers() -> None:
    theirs, ids = tiny("llama").train(), torch.randint(NUM_TOKENS, (3, 8))
    found = CausalLM(copy.deepcopy(theirs), "llama").train()
    theirs(ids).logits[..., :NUM_TOKENS].logsumexp(-1).sum().backward()
    found(ids).logsumexp(-1).sum().backward()
    for (name, ours), other in zip(found.model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_a_folder_writes_like_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`generate` in its folder gives the greedy continuation of `transformers`; a seed gives its text again."""
    make_peer(tmp_path / "peer", seed=3)
    flags = ["--paths.root", str(tmp_path), "--paths.checkpoint", str(tmp_path / "peer"), "--generate.max_new_tokens"]
    config = parse("generate", [*flags, "8", "--generate.temperature", "0", "--generate.num_samples", "1"])[0]
    bundle = load_model(config.paths.best_model, CPU)
    text = generate(bundle, ["Mars is"], config.generate)[0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "peer")
    prompt = torch.tensor([[END, *load_tokenizer().encode("Mars is")]])
    expected = model.generate(prompt, do_sample=False, max_new_tokens=8, eos_token_id=END, pad_token_id=END)[0, 1:]
    assert text.ids == [index for index in expected.tolist() if index != END]
    answers = []
    for _ in range(2):
        assert run_command("generate", ["Mars is", *flags, "8", "--json", "--generate.seed", "5"]) == 0
        answers.append([sample["text"] for sample in json.loads(capsys.readouterr().out)["samples"]])
    assert answers[0] == answers[1] and len(set(answers[0])) > 1


def test_a_folder_is_served_like_a_checkpoint(tmp_path: Path) -> None:
    """The engine's texts, several at once, are those of `generate`; the tab About says what it is."""
    make_peer(tmp_path / "peer", seed=3)
    config = parse("serve", ["--paths.root", str(tmp_path), "--generate.max_new_tokens", "8"])[0]
    bundle = load_model(tmp_path / "peer", CPU)
    settings = replace(config.generate, num_samples=1, best_of=1)
    with Engine(bundle, None, width=3, queue=8) as engine:
        prompts = ["Mars is", "", "The van", "Hello"]
        found = [engine.submit(prompt, settings, seed=7 + number).result() for number, prompt in enumerate(prompts)]
    for number, (prompt, sample) in enumerate(zip(prompts, found, strict=True)):
        alone = generate(bundle, [prompt], replace(settings, seed=7 + number), raw=True)[0]
        assert (sample.text, sample.finish_reason) == (alone.text, alone.finish_reason)
    assert "a pretrained model of Hugging Face (+ outside model: peer)" in about(bundle, config.paths)
    with pytest.raises(UserError, match=r"peer is a model of transformers: only the attention of this program's own"):
        with_gpt(bundle, "peer")


def test_openai_s_client_gets_a_folder_s_texts(tmp_path: Path) -> None:
    """Over HTTP: `n` texts with their seeds, at once and streamed, and the log-probabilities of transformers."""
    peer = make_peer(tmp_path / "peer", seed=3)
    bundle = load_model(tmp_path / "peer", CPU)
    with serving(bundle, width=4) as (address, _), OpenAI(base_url=f"{address}/v1", api_key="any") as client:
        asked: dict[str, Any] = {"model": MODEL_NAME, "prompt": "Mars is", "seed": 5, "n": 3, "max_tokens": 8}
        whole = client.completions.create(**asked, logprobs=0)
        streamed = ["", "", ""]
        for chunk in client.completions.create(**asked, stream=True):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
    settings = replace(served().generate, num_samples=3, seed=5, max_new_tokens=8, best_of=1)
    expected = generate(bundle, ["Mars is"], settings, raw=True)
    assert ["Mars is" + choice.text for choice in whole.choices] == [sample.text for sample in expected]
    assert streamed == [choice.text for choice in whole.choices] and len(set(streamed)) > 1
    read = [END, *load_tokenizer().encode("Mars is")]
    for choice, sample in zip(whole.choices, expected, strict=True):
        with torch.no_grad():
            logits = peer(torch.tensor([[*read, *sample.ids[len(read) - 1 :]]])).logits[0].log_softmax(-1)
        written = sample.ids[len(read) - 1 :]
        theirs = [float(logits[len(read) - 1 + place, index]) for place, index in enumerate(written)]
        assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
        assert choice.logprobs.token_logprobs[: len(written)] == pytest.approx(theirs, abs=0.05)


def test_models_that_do_not_fit_get_one_line(tmp_path: Path) -> None:
    llama = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": 300}))
    llama.save_pretrained(tmp_path / "other")
    save_gpt2_tokenizer(tmp_path / "other")
    with pytest.raises(UserError, match=r"the tokenizer has|tokens are not GPT-2's"):
        load_causal_lm(tmp_path / "other", load_tokenizer())
    make_peer(tmp_path / "peer")
    (tmp_path / "peer" / INFO_FILE).write_text("nonsense", encoding="utf-8")
    with pytest.raises(UserError, match="is damaged: delete"):
        load_model(tmp_path / "peer", CPU)


def test_a_model_with_logits_of_its_own_way_is_refused() -> None:
    theirs = tiny("llama")
    original = theirs.forward

    def scaled(*args: Any, **more: Any) -> Any:
        found = original(*args, **more)
        found.logits = 30.0 * torch.tanh(found.logits / 30.0)  # as Gemma 2 does
        return found

    theirs.forward = scaled
    with pytest.raises(UserError, match="computes its logits in a way not known here"):
        CausalLM(theirs, "soft-capped")
