"""`python main.py export`: a trained model in a form that other programs load without our code.

A file or folder appears whole or not at all; existing files are never changed.
"""

import hashlib
import json
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from config.cli import run_command
from config.schema import Config, ExportConfig, GenerateConfig, UserError
from export.card import model_card
from export.gguf_file import modelfile, write_gguf
from export.pretrained import EXTRA_FILE
from export.space import write_space
from export.stock import HEAD, Stock, to_hugging_face, to_stock
from export.stock_tokenizer import closed_ids, save_tokenizer, tokens_and_merges
from model.checkpoint import Bundle, load_bundle
from model.tokenizer import END, NUM_TOKENS
from utils.files import atomic_write, temporary_beside

DEFAULT_NAMES = {"hf": "elon-transformer", "gguf": "elon-transformer.gguf", "space": "elon-transformer-space"}
CHOOSE_ANOTHER = "give another --export.output, or remove it first"


def export(bundle: Bundle, config: Config) -> list[Path]:
    """Write `bundle` as `config.export` says; returns the files.

    Raises:
        UserError: the output exists already, or can't be written; nothing is left there then.
    """
    output = output_path(config)
    try:
        return (
            export_space(output, bundle, config)
            if config.export.to == "space"
            else export_stock(output, bundle, config)
        )
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{output} could not be written ({reason}); nothing was left there") from None


def export_stock(output: Path, bundle: Bundle, config: Config) -> list[Path]:
    """The model as a stock GPT-2, in either form."""
    ids = torch.arange(NUM_TOKENS)
    if config.export.vocabulary == "rows":
        ids = closed_ids(bundle.tokenizer, bundle.vocabulary)
    stock = to_stock(bundle.model, bundle.vocabulary, ids)
    write = export_hugging_face if config.export.to == "hf" else export_gguf
    return write(output, stock, bundle, config)


def output_path(config: Config) -> Path:
    """The folder or file to write.

    Raises:
        UserError: it exists already.
    """
    usual = config.paths.results / DEFAULT_NAMES[config.export.to]
    output = (Path(config.export.output).expanduser() if config.export.output else usual).resolve()
    if config.export.to != "gguf":
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise UserError(f"{output} is there already, and not empty: {CHOOSE_ANOTHER}")
        return output
    if output.is_dir():
        raise UserError(f"{output} is a folder: name the file, {output / 'model.gguf'} say")
    if output.exists():
        raise UserError(f"{output} is there already: {CHOOSE_ANOTHER}")
    return output


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder that is renamed to `output` when the block ends, and deleted if it raises."""
    temporary = temporary_beside(output)
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
        if output.is_dir():
            output.rmdir()  # it is empty
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def export_hugging_face(output: Path, stock: Stock, bundle: Bundle, config: Config) -> list[Path]:
    """A folder that transformers' AutoModelForCausalLM and AutoTokenizer load."""
    tokens, merges = tokens_and_merges(bundle.tokenizer, stock.ids)
    end = stock.ids.tolist().index(END)
    with new_folder(output) as folder:
        save_file(to_hugging_face(stock.tensors), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only
        write_json(folder / "config.json", model_config(stock, end))
        write_json(folder / "generation_config.json", generation_config(config.generate, end, stock.config.block_size))
        save_tokenizer(folder, tokens, merges, context=stock.config.block_size)
        if stock.kept:
            arrays: dict[str, Any] = {name: value.numpy() for name, value in stock.kept.items()}
            np.savez_compressed(folder / EXTRA_FILE, **arrays)
        card = model_card(bundle, config.paths, name=output.name, num_tokens=len(tokens))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return sorted(output.iterdir())


def export_space(output: Path, bundle: Bundle, config: Config) -> list[Path]:
    """A folder that runs the playground as a Hugging Face Space."""
    with new_folder(output) as folder:
        write_space(folder, bundle, config.paths, name=output.name)
    return sorted(path for path in output.rglob("*") if path.is_file())


def export_gguf(output: Path, stock: Stock, bundle: Bundle, config: Config) -> list[Path]:
    """A GGUF file, and a Modelfile beside it.

    The Modelfile is put there first. If the export is stopped then, the Modelfile names a file that does not exist, so
    it is not mistaken for a whole export; and as the next export would write the same, it does not prevent that.

    Raises:
        UserError: there is a different Modelfile already.
    """
    tokens, merges = tokens_and_merges(bundle.tokenizer, stock.ids)
    beside = output.with_name("Modelfile")
    recipe = modelfile(output.name, config.generate, stock.config.block_size).encode()
    if beside.exists() and not (beside.is_file() and beside.read_bytes() == recipe):
        raise UserError(f"{beside} is there already: {CHOOSE_ANOTHER}")
    with atomic_write(output) as temporary:
        write_gguf(temporary, stock, tokens, merges, quantize=config.export.quantize, name=output.stem)
        with atomic_write(beside) as temporary_recipe:
            temporary_recipe.write_bytes(recipe)
    return [output, beside]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, indented."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def model_config(stock: Stock, end: int) -> dict[str, Any]:
    """config.json of a GPT2LMHeadModel."""
    shape = stock.config
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": len(stock.ids),
        "n_positions": shape.block_size,
        "n_ctx": shape.block_size,
        "n_embd": shape.n_embd,
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_inner": None,
        "activation_function": "gelu_new" if shape.activation == "gelu" else "relu",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.dropout,
        "resid_pdrop": shape.dropout,
        "tie_word_embeddings": HEAD not in stock.tensors,
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": "float32",
    }


def generation_config(settings: GenerateConfig, end: int, context: int) -> dict[str, Any]:
    """generation_config.json: the settings of `generate`, and the end mark at which transformers stops."""
    found: dict[str, Any] = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "max_length": context}
    found["repetition_penalty"] = settings.repetition_penalty
    if settings.temperature == 0:
        return {**found, "do_sample": False}
    drawing = {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}
    return {**found, "do_sample": True, **drawing, **({"min_p": settings.min_p} if settings.min_p else {})}


def file_facts(path: Path) -> dict[str, Any]:
    """A file's path, size and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}


def next_step(settings: ExportConfig, files: list[Path]) -> str:
    """What to do with the exported files, in one line."""
    if settings.to == "space":
        return "Push the folder to a Space of yours, or try it here: python app.py in that folder"
    if settings.to == "hf":
        return f"Load it with transformers: the lines are in {files[0].parent / 'README.md'}"
    return f"Run it: ollama create {files[0].stem} -f {files[1]} && ollama run {files[0].stem}"


def run(config: Config, arguments: Namespace) -> None:
    """`python main.py export`."""
    output_path(config)  # fail before the work
    bundle = load_bundle(config.paths.best_model, torch.device("cpu"))
    files = export(bundle, config)
    described = [file_facts(path) for path in files]
    if arguments.json:
        print(json.dumps({"to": config.export.to, "vocabulary": config.export.vocabulary, "files": described}))
        return
    for item in described:
        print(f"{item['bytes']:>13,}  {item['sha256'][:12]}  {item['path']}")
    print(next_step(config.export, files))


if __name__ == "__main__":
    sys.exit(run_command("export", sys.argv[1:]))
