"""Ctrl-C and SIGTERM, noted instead of obeyed at once, so that what is saved is whole."""

import signal
import threading
from types import FrameType, TracebackType


class StopSignal:
    """While it is entered, the first Ctrl-C or SIGTERM only sets `arrived`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.arrived = False

    def __enter__(self) -> "StopSignal":
        self.before = {}
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.arrived:
            raise KeyboardInterrupt
        self.arrived = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
