"""Ctrl-C and SIGTERM, noted instead of obeyed at once, so that what is saved is whole."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import ClassVar


class StopSignal:
    """While it is entered, the first Ctrl-C or SIGTERM only sets `arrived`; a second one interrupts at once.

    Attributes:
        asked: another way of being asked to end, for all of this process (distillation/workers.py).
    """

    asked: ClassVar[Callable[[], bool]] = staticmethod(lambda: False)

    def __init__(self) -> None:
        self.noted = False

    @property
    def arrived(self) -> bool:
        """Whether this process has been asked to end."""
        return self.noted or StopSignal.asked()

    @staticmethod
    def can_ask() -> bool:
        """Whether signals can be had here: no other thread may set handlers."""
        return threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "StopSignal":
        self.before = {}
        if self.can_ask():
            self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
