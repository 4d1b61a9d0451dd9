"""How fast texts are written, beside peers.

    python -m benchmarks.generate_speed --peers transformers nanogpt=PATH llama.cpp=PATH

The model has random weights and a vocabulary of the tweets' tokens (--csv). It is exported as `python main.py export`
does it: over GPT-2's whole vocabulary, and with `--export.vocabulary rows`. transformers loads both folders. Each side
gets the same prompt as text and returns texts, drawn at temperature 1 from all tokens. All write the same number of
tokens, because the end mark's output bias is so low that no side ever draws it. nanoGPT has the same shape, its own
vocabulary of 50,304 and random weights; it has no key-value cache. llama.cpp (its program llama-batched-bench) gets the
exported models as GGUF files, in float32 and q8_0. It is fed arbitrary tokens, so it neither draws nor decodes. Before
anything is timed, the exported model's probabilities are compared with ours. Sides take turns; median of 5. Prints a
Markdown table and one line of JSON.

The limit, in float32: a step, which is one token of each text, can't be faster than this machine reads the weights that
take part in it, nor than it multiplies them with the texts at its best (benchmarks/limits.py). llama.cpp's q8_0 weights
have a quarter of the bytes, so that it can be faster than this limit.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import limits
from benchmarks.rivals import LLAMA_CPP, NANOGPT_ROWS, llama_cpp, nanogpt, peers_of
from benchmarks.timing import REPEATS, choose, clock, show, spread, table, take_turns, times
from config.cli import parse
from config.schema import Config, ModelConfig
from export.export import export
from generate.generate import generate
from model.checkpoint import Bundle
from model.tokenizer import END, NUM_TOKENS, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from utils.preprocess import preprocess

PROMPT = "The first people on Mars"
NEVER = -60.0  # output bias of the end mark: e^-60 is never drawn, and small enough to stay exact when it is folded in
NANOGPT = "nanoGPT"
OURS, FULL, ROWS = "ours", "transformers, all 50,257 tokens", "transformers, exported with the model's vocabulary"
EXPORTS: dict[str, Literal["full", "rows"]] = {FULL: "full", ROWS: "rows"}
QUANTIZED: tuple[Literal["f32", "q8_0"], ...] = ("f32", "q8_0")  # GGUF files for llama.cpp
SAMPLE = Path(__file__).parents[1] / "data" / "sample_tweets.csv"
Side = Callable[[], float]  # writes texts and returns tokens a second


def shape_of(text: str) -> tuple[int, int]:
    """Layers and width of "4x128"."""
    layers, _, width = text.partition("x")
    return int(layers), int(width)


def settings(csv: Path, root: Path, *, shape: str, device: torch.device) -> Config:
    """Settings of this shape, 4 heads or as many as there are 64s in the width, that draw from all tokens."""
    layers, width = shape_of(shape)
    heads = max(4, width // 64)
    flags = ["--paths.root", str(root), "--data.path", str(csv), "--machine.device", device.type]
    flags += ["--model.n_layer", str(layers), "--model.n_head", str(heads), "--model.n_embd", str(width)]
    flags += ["--generate.temperature", "1", "--generate.top_p", "1"]
    return parse("export", flags)[0]


def untrained(config: Config, device: torch.device) -> Bundle:
    """A model with random weights and the vocabulary of these tweets, which never ends a text."""
    tokenizer = load_tokenizer()
    ids = tokenizer.encode_batch([tweet.text for tweet in preprocess(config).train])
    vocabulary = Vocabulary.build(config.model, tokenizer, ids)
    torch.manual_seed(0)
    model = GPT(config.model, vocabulary.vocab_size)
    assert model.head_bias is not None
    model.head_bias.data[vocabulary.end] = NEVER
    return Bundle(model.eval().to(device), tokenizer, vocabulary, config, {})


def ours(bundle: Bundle, *, batch: int, tokens: int) -> Side:
    """Our `generate`."""
    drawing = replace(bundle.config.generate, num_samples=batch, max_new_tokens=tokens)
    device = bundle.model.wte.weight.device

    def write() -> float:
        started = clock(device)
        samples = generate(bundle, [PROMPT], drawing, raw=True)
        seconds = clock(device) - started
        written = sum(sample.tokens for sample in samples)
        assert written == batch * tokens, f"{written} tokens instead of {batch * tokens}"
        return written / seconds

    return write


def load_stock(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """Model and tokenizer of an exported folder, through transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).to(device).eval()
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def transformers_side(model: Any, tokenizer: Any, *, batch: int, tokens: int) -> Side:
    """transformers' `generate`."""
    from transformers import GenerationConfig

    device, drawing = model.device, {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    end = {"eos_token_id": None, "pad_token_id": tokenizer.eos_token_id}  # no side looks for an end
    model.generation_config = GenerationConfig(max_new_tokens=tokens, **drawing, **end)

    def write() -> float:
        started = clock(device)
        inputs = tokenizer([tokenizer.bos_token + PROMPT] * batch, return_tensors="pt").to(device)
        found = model.generate(**inputs)
        tokenizer.batch_decode(found)
        seconds = clock(device) - started
        assert found.shape == (batch, inputs["input_ids"].shape[1] + tokens)
        return batch * tokens / seconds

    return write


def nanogpt_side(model: Any, bundle: Bundle, *, batch: int, tokens: int) -> Side:
    """nanoGPT's `generate`."""
    device = next(model.parameters()).device

    def write() -> float:
        started = clock(device)
        ids = torch.tensor([[END, *bundle.tokenizer.encode(PROMPT)]] * batch, device=device)
        found = model.generate(ids, tokens, temperature=1.0)
        for row in found.tolist():
            bundle.tokenizer.decode(index for index in row if index < END)
        return batch * tokens / (clock(device) - started)

    return write


def llama_cpp_sides(bundle: Bundle, program: Path, folder: Path, *, batch: int, tokens: int) -> dict[str, Side]:
    """llama.cpp with each export of the model."""
    prompt, sides = 1 + len(bundle.tokenizer.encode(PROMPT)), dict[str, Side]()
    for rows, numbers in product(EXPORTS.values(), QUANTIZED):
        model = folder / f"{rows}_{numbers}" / "model.gguf"  # each has a Modelfile beside it
        if not model.is_file():
            wanted = replace(bundle.config.export, to="gguf", output=str(model), vocabulary=rows, quantize=numbers)
            export(bundle, replace(bundle.config, export=wanted))
        told = "all 50,257 tokens" if rows == "full" else "exported with the model's vocabulary"
        size = {"prompt": prompt, "batch": batch, "tokens": tokens, "threads": torch.get_num_threads()}
        sides[f"{LLAMA_CPP}, {numbers}, {told}"] = partial(llama_cpp, program, model, **size)
    return sides


@torch.inference_mode()
def difference(bundle: Bundle, model: Any) -> float:
    """The largest difference of a log probability, ours against a model exported over all of GPT-2's tokens."""
    device = bundle.model.wte.weight.device
    ids = [END, *bundle.tokenizer.encode(PROMPT)]
    logits = bundle.model(bundle.vocabulary.from_gpt2(ids)[None].to(device)).cpu()
    theirs = model(torch.tensor([ids], device=device)).logits.log_softmax(-1).cpu()
    return float((bundle.vocabulary.log_probs(logits) - theirs).abs().max())


def exported(bundle: Bundle, folder: Path) -> dict[str, tuple[Any, Any]]:
    """The model and its tokenizer as transformers loads them from each export."""
    loaded = {}
    for name, vocabulary in EXPORTS.items():
        output = folder / vocabulary
        wanted = replace(bundle.config.export, output=str(output), vocabulary=vocabulary)
        export(bundle, replace(bundle.config, export=wanted))
        loaded[name] = load_stock(output, bundle.model.wte.weight.device)
    return loaded


def measure(
    bundle: Bundle,
    peers: dict[str, Path | None],
    folder: Path,
    *,
    batches: Sequence[int],
    tokens: int,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Tokens a second of every side at this shape, by batch."""
    shape, device = bundle.config.model, bundle.model.wte.weight.device
    stocks = exported(bundle, folder) if "transformers" in peers else {}
    found: dict[str, Any] = {"rows": bundle.vocabulary.vocab_size, "speeds": {}}
    if stocks:
        found["log_probability_difference"] = difference(bundle, stocks[FULL][0])
        assert found["log_probability_difference"] < 1e-3, "the exported model is another one"
    for batch in batches:
        sides = {OURS: ours(bundle, batch=batch, tokens=tokens)}
        for name, stock in stocks.items():
            sides[name] = transformers_side(*stock, batch=batch, tokens=tokens)
        if checkout := peers.get("nanogpt"):
            sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd}
            model = nanogpt(checkout, **sizes, block_size=shape.block_size, dropout=0.0).to(device).eval()
            sides[NANOGPT] = nanogpt_side(model, bundle, batch=batch, tokens=tokens)
        if program := peers.get(LLAMA_CPP):
            sides |= llama_cpp_sides(bundle, program, folder, batch=batch, tokens=tokens)
        found["speeds"][str(batch)] = take_turns(sides, repeats=repeats)
    return found


def highest(
    shape: ModelConfig, found: dict[str, Any], device: torch.device, *, gflops: float
) -> dict[str, dict[str, float]]:
    """The limit of each side in tokens a second, by batch: what reading its weights and `gflops` allow."""
    own, limit = found["rows"], dict[str, dict[str, float]]()
    weights = {
        rows: 12 * shape.n_layer * shape.n_embd**2 + rows * shape.n_embd for rows in (own, NUM_TOKENS, NANOGPT_ROWS)
    }
    read = {rows: 4e-9 * count / limits.reading(count, device, seconds=0.1) for rows, count in weights.items()}
    for batch, speeds in found["speeds"].items():
        limit[batch] = {}
        for side in speeds:
            rows = NANOGPT_ROWS if side == NANOGPT else NUM_TOKENS if f"{NUM_TOKENS:,}" in side else own
            multiply = 2e-9 * weights[rows] * int(batch) / gflops
            limit[batch][side] = int(batch) / max(read[rows], multiply)
    return limit


def rows_of(shape: str, found: dict[str, Any]) -> list[list[str]]:
    """The table's rows: one for each side and batch size."""
    rows = []
    for batch, speeds in found["speeds"].items():
        for name, values in speeds.items():
            ratio = "" if name == OURS else f"{times(speeds[OURS], values):.1f}"
            title = f"{OURS}, {found['rows']:,} ids" if name == OURS else name
            share = statistics.median(values) / found["limits"][batch][name]
            rows.append([f"{shape}, {batch} at once: {title}", spread(values), ratio, f"{share:.0%}"])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=SAMPLE, help="tweets whose tokens make the vocabulary")
    parser.add_argument("--shapes", nargs="*", default=["4x128", "6x384"], help="layers x width")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 64])
    parser.add_argument("--tokens", type=int, default=60, help="new ones in each text")
    parser.add_argument("--peers", nargs="*", default=["transformers"], help="NAME or NAME=PATH, see above")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of every side; else torch's choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, peers = choose(options.device), peers_of(options.peers)
    rows, everything, gflops = [], {}, limits.measure(device)["fp32"]
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            bundle = untrained(settings(options.csv, Path(folder), shape=shape, device=device), device)
            found = measure(bundle, peers, Path(folder), batches=options.batches, tokens=options.tokens)
        found["limits"] = highest(bundle.config.model, found, device, gflops=gflops)
        rows += rows_of(shape, found)
        everything[shape] = found
    header = [
        "texts of one prompt",
        "tokens a second (lowest to highest of 5)",
        "ours is faster, times",
        "of the limit",
    ]
    show(table(header, rows), {"tokens": options.tokens, "shapes": everything}, device)


if __name__ == "__main__":
    main()
