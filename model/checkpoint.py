"""Checkpoints: files that hold a model, or a training run.

A checkpoint is a zip file of tensors and plain values, as torch writes it. `best_model.pth` holds what is needed to
use a model, `last_model.pth` what is needed to continue its training. A checkpoint is written to a temporary file that
is then renamed, so it is never half-written. Reading one runs no code that it may contain.
"""

import pickle
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic

import torch
import yaml
from torch import nn
from typing_extensions import TypeVar

from config.cli import CONFIG_FILE
from config.schema import RENAMED, SECTIONS, Config, UserError
from model.language_model import LanguageModel
from model.tokenizer import Tokenizer, load_tokenizer
from model.transformer import GPT
from model.vocabulary import Vocabulary
from utils.files import atomic_write

FORMAT = 1
Model = TypeVar("Model", bound=LanguageModel, covariant=True, default=GPT)


@dataclass
class Bundle(Generic[Model]):
    """A model and what is needed to use it. A `Bundle` holds a GPT; a `Bundle[LanguageModel]` may hold an ensemble.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: converts text to GPT-2 ids and back.
        vocabulary: converts GPT-2 ids to the model's ids and back.
        config: the settings it was trained with.
        info: facts about the training run: epoch, step, val_nats_per_token, split_hash, ...
    """

    model: Model
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    config: Config
    info: dict[str, Any]


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values to `path`. If that fails, the file that was there before stays as it was.

    Raises:
        OSError: the disk is full, or can't be written to.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({"format": FORMAT, **content}, file)
        except RuntimeError as error:  # what torch raises if a write fails; the OSError is its context
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, with all tensors on the CPU.

    Raises:
        UserError: the file is missing, cut short or damaged, contains code, or is not a checkpoint of this program.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: make one with `python main.py run`, or give --paths.checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # compares each part with its checksum
        if damaged:
            raise UserError(f"{path} is damaged ({damaged} does not match its checksum): use another copy")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile:
        raise UserError(f"{path} is not a checkpoint, or is cut short: use another copy, or train again") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and plain values; it was refused and nothing in it was run"
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} can't be read as a checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path} is a PyTorch file, but not a checkpoint of elon-transformer")
    if content["format"] != FORMAT:
        raise UserError(f"{path} has format {content['format']}, this version reads {FORMAT}: train again")
    return content


@cache
def defaults() -> dict[str, dict[str, Any]]:
    """The settings as config.yaml has them."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(CONFIG_FILE.read_text(encoding="utf-8"))
    return found


def config_from_dict(values: dict[str, dict[str, Any]], path: Path) -> Config:
    """The settings stored in a checkpoint, which an earlier version may have written.

    Outside the section `model`, a setting that the checkpoint lacks, or that is null there and is not by default, gets
    its default, and one that no longer exists is left out. The section `model` must have exactly the settings of this
    version.

    Raises:
        UserError: it has not.
    """
    known = {}
    for name, section in defaults().items():
        stored = {RENAMED.get(f"{name}.{key}", key): value for key, value in values.get(name, {}).items()}
        usable = {k: value for k, value in stored.items() if k in section and (value is not None or section[k] is None)}
        known[name] = section | usable
    known["model"] = values.get("model", {})
    try:
        return Config(**{name: kind(**known[name]) for name, kind in SECTIONS.items()})
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} was made by another version of elon-transformer ({error}): train again") from None


def load_bundle(path: Path, device: torch.device) -> Bundle:
    """The model of a checkpoint, in evaluation mode, on `device`.

    Raises:
        UserError: see `load_checkpoint`; or the weights do not have the shapes that the settings give.
    """
    content = load_checkpoint(path)
    try:
        config = config_from_dict(content["config"], path)
        vocabulary = Vocabulary(content["row_of"], content["log_prior"])
        model = GPT(config.model, vocabulary.vocab_size)
        model.load_state_dict(content["model"])
    except (KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} is not a whole model of elon-transformer: {str(error).splitlines()[0]}") from None
    tokenizer = load_tokenizer(config.model.tokenizer)
    return Bundle(model.eval().to(device), tokenizer, vocabulary, config, content["info"])


def model_content(model: nn.Module, vocabulary: Vocabulary, config: Config, info: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that `load_bundle` reads."""
    return {
        "model": model.state_dict(),
        "row_of": vocabulary.id_of,  # the key is part of the file format
        "log_prior": vocabulary.log_prior,
        "config": config.to_dict(),
        "info": info,
    }
