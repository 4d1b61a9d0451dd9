"""The models of the playground: the one it serves, and others of the same root that may write beside it."""

import threading
from pathlib import Path

import gradio as gr

from config.schema import Config, UserError
from model.checkpoint import load_bundle
from server.engine import Engine

ALONE = "no second model"
NO_MODEL = ("last_model.pth", "written.pth")  # a run to go on with; tweets by teachers


class Models:
    """Opens a second model when it is first asked for, and again when its file has changed.

    Args:
        engine: of the served model; the others get the same width and queue, and share its copy check.
        config: of the server; its paths say where models lie.
    """

    def __init__(self, engine: Engine, config: Config) -> None:
        self.engine, self.paths = engine, config.paths
        self._opened: dict[str, tuple[int, Engine]] = {}  # when its file was written, and its engine
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What the served model is called on the page."""
        return self.paths.best_model.stem

    def others(self) -> dict[str, Path]:
        """The other checkpoints of this root by name: student, control, teachers/member_1, ..."""
        folder, served = self.paths.checkpoints, self.paths.best_model.resolve()
        files = [*sorted(folder.glob("*.pth")), *sorted(folder.glob("teachers/*.pth"))]
        return {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for path in files
            if path.name not in NO_MODEL and path.resolve() != served
        }

    def choices(self) -> gr.Dropdown:
        """What there is to choose from now."""
        return gr.Dropdown(choices=[ALONE, *self.others()])

    def open(self, name: str) -> Engine:
        """The engine of another model.

        Raises:
            UserError: there is none of that name, or it can't be read.
        """
        path = self.others().get(name)
        if path is None:
            raise UserError(f"there is no model {name!r} in {self.paths.checkpoints} any more: choose another")
        written = path.stat().st_mtime_ns
        with self._lock:
            before = self._opened.get(name)
            if before and before[0] == written:
                return before[1]
            served = self.engine
            bundle = load_bundle(path, served.bundle.model.wte.weight.device)
            engine = Engine(bundle, served.copies, width=served.width, queue=served.queue)
            engine.start()
            self._opened[name] = (written, engine)
        if before:
            before[1].close()
        return engine
