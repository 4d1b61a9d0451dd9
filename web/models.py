"""The models of the playground: the served one, and the others of the same root, to compare with."""

import threading
from pathlib import Path

import gradio as gr

from config.schema import Config, UserError
from model.folder import INFO_FILE, load_model
from server.engine import Engine

NO_SECOND_MODEL = "no second model"
OTHER_FILES = ("last_model.pth", "written.pth")  # a run's state to resume from; tweets that teachers wrote


class Models:
    """Loads a second model when it is first asked for, and again when its file has changed.

    Args:
        engine: of the served model; the others get the same width, queue and copy check.
        config: of the server; its paths are used.
    """

    def __init__(self, engine: Engine, config: Config) -> None:
        self.engine, self.paths = engine, config.paths
        self._opened: dict[str, tuple[int, Engine]] = {}  # time of its file in ns, engine
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name of the served model."""
        return self.paths.best_model.stem

    def others(self) -> dict[str, Path]:
        """The other checkpoints of this root by name: student, control, teachers/member_1, ..."""
        folder, served = self.paths.checkpoints, self.paths.best_model.resolve()
        files = [*sorted(folder.glob("*.pth")), *sorted(folder.glob("teachers/*.pth"))]
        files += [file.parent for file in sorted(folder.glob(f"teachers/*/{INFO_FILE}"))]
        return {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for path in files
            if path.name not in OTHER_FILES and path.resolve() != served
        }

    def choices(self) -> gr.Dropdown:
        """The choices of the second model as they are now; hidden where there is none."""
        others = self.others()
        return gr.Dropdown(choices=[NO_SECOND_MODEL, *others], visible=bool(others))

    def open(self, name: str) -> Engine:
        """The engine of another model.

        Raises:
            UserError: there is no model of that name, or it can't be read.
        """
        path = self.others().get(name)
        if path is None:
            raise UserError(f"there is no model {name!r} any more: choose another")
        written = path.stat().st_mtime_ns
        with self._lock:
            before = self._opened.get(name)
            if before and before[0] == written:
                return before[1]
            served = self.engine
            bundle = load_model(path, served.bundle.model.wte.weight.device)
            engine = Engine(bundle, served.copies, width=served.width, queue=served.queue)
            engine.start()
            self._opened[name] = (written, engine)
        if before:
            before[1].close()
        return engine
