"""Checkpoints: an intact one is loaded, any other is refused in one line, and code in a file is never run."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from config.schema import Config, UserError
from model.checkpoint import Bundle, load_bundle, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


class Bomb:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_saved_model_is_loaded_with_equal_weights(trained: tuple[Config, Bundle]) -> None:
    config, bundle = trained
    again = load_bundle(config.paths.best_model, CPU)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), bundle.model.parameters(), strict=True))
    assert again.config.to_dict() == config.to_dict()
    assert torch.equal(again.vocabulary.id_of, bundle.vocabulary.id_of) and not again.model.training


def test_a_missing_or_cut_off_file_is_refused(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pth")
    whole = trained[0].paths.best_model.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "short.pth"
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut short"):
            load_checkpoint(path)


def test_bit_flips_are_noticed(trained: tuple[Config, Bundle], tmp_path: Path) -> None:
    whole = bytearray(trained[0].paths.best_model.read_bytes())
    with zipfile.ZipFile(trained[0].paths.best_model) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    whole[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path = tmp_path / "flipped.pth"
    path.write_bytes(whole)
    with pytest.raises(UserError, match="checksum"):
        load_checkpoint(path)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    inside = tmp_path / "zip.pth"
    torch.save({"format": 1, "model": Bomb(mark)}, inside)
    with pytest.raises(UserError, match="nothing in it was run"):
        load_checkpoint(inside)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps({"format": 1, "model": Bomb(mark)}))
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(plain)
    assert not mark.exists()
    pickle.loads(plain.read_bytes())
    assert mark.exists(), "loading the pickle without the check runs its code"


def test_foreign_files_are_refused(tmp_path: Path, trained: tuple[Config, Bundle]) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weights": torch.ones(3)}, path)
    with pytest.raises(UserError, match="not a checkpoint of elon-transformer"):
        load_checkpoint(path)
    torch.save({"format": 99}, path)
    with pytest.raises(UserError, match="format 99"):
        load_checkpoint(path)
    content = load_checkpoint(trained[0].paths.best_model)
    content["config"]["model"]["n_embd"] = 32
    save_checkpoint(path, {key: value for key, value in content.items() if key != "format"})
    with pytest.raises(UserError, match="not a whole model"):
        load_bundle(path, CPU)
    (tmp_path / "text.pth").write_text("hello", encoding="utf-8")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "text.pth")


def test_a_failed_write_keeps_the_previous_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no limits on files here")
    path = tmp_path / "model.pth"
    save_checkpoint(path, {"value": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 100, 5_000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(OSError, match=r"File too large: '.*/model\.pth'"):
                save_checkpoint(path, {"value": torch.randn(10_000), "more": torch.ones(7)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(path)["value"] == 1
    assert [item.name for item in tmp_path.iterdir()] == ["model.pth"]


def test_settings_of_another_version(
    tmp_path: Path, trained: tuple[Config, Bundle], settings: Callable[..., Config]
) -> None:
    content = load_checkpoint(trained[0].paths.best_model)
    content["config"]["model"]["from_the_future"] = 1
    save_checkpoint(tmp_path / "new.pth", {key: value for key, value in content.items() if key != "format"})
    with pytest.raises(UserError, match="another version"):
        load_bundle(tmp_path / "new.pth", CPU)
    content["config"]["distill"] |= {"gone_since": 1, "epochs": None}  # as written when null was its default
    del content["config"]["model"]["from_the_future"], content["config"]["evaluate"], content["config"]["train"]["seed"]
    save_checkpoint(tmp_path / "old.pth", {key: value for key, value in content.items() if key != "format"})
    assert load_bundle(tmp_path / "old.pth", CPU).config == trained[0], "a setting that the file lacks is the default"


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    """The bytes depend neither on the name of the file nor on the process that wrote it."""
    for name in ("one.pth", "two.pth"):
        save_checkpoint(tmp_path / name, {"model": {"w": torch.arange(5.0)}, "info": {"epoch": 1}})
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()
