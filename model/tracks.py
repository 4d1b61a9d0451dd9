"""Which texts and models a figure owes something to: three tracks, which no table mixes without saying so."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from config.schema import UserError
from model.checkpoint import Bundle, load_checkpoint
from model.language_model import LanguageModel

TWEETS, TEXT, MODEL = TRACKS = ("tweets only", "+ outside text", "+ outside model")


def highest(tracks: Iterable[str]) -> str:
    """The track of something that several others contributed to; TWEETS of nothing."""
    return max(tracks, key=TRACKS.index, default=TWEETS)


def origin(bundle: Bundle[LanguageModel]) -> tuple[str, list[str]]:
    """The track of a checkpoint of ours, and the names of the outside models that it started from or that taught it."""
    return origin_of(bundle.info, bundle.config.model.init_from)


def origin_of(info: dict[str, Any], init_from: str | None) -> tuple[str, list[str]]:
    """`origin`, from what the checkpoint says of itself.

    Args:
        info: of the checkpoint; `distill` writes `track` and `outside_models` into it.
        init_from: the setting model.init_from it was trained with.
    """
    tracks, models = [info.get("track", TWEETS)], list(info.get("outside_models", ()))
    if init_from and Path(init_from).suffix in (".pth", ".pt"):
        track, more = origin_of_file(Path(init_from), info.get("split_hash"))
        tracks.append(track)
        models += more
    elif init_from:
        tracks.append(MODEL)
        models.append(init_from)
    return highest(tracks), models


def origin_of_file(path: Path, split_hash: str | None) -> tuple[str, list[str]]:
    """The track of a checkpoint file that another one started from.

    One trained on another split was trained on other texts. So was, for all we know, one that is no longer there.
    """
    try:
        content = load_checkpoint(path)
    except UserError:
        return TEXT, []
    info = content.get("info", {})
    track, models = origin_of(info, content.get("config", {}).get("model", {}).get("init_from"))
    return (track if info.get("split_hash") == split_hash else highest((track, TEXT))), models
