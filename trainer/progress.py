"""What is shown while something takes long: bars on a terminal, lines elsewhere. All of it goes to standard error."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


def make_console() -> Console:
    """Standard error, with text as it is."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


class Progress:
    """The progress of training: a bar (only on a terminal), and lines of text above it.

    Args:
        total: steps of the whole run.
        done: steps that were done before, if the run continues from a checkpoint.
        epochs: of the whole run.
    """

    def __init__(self, total: int, done: int = 0, *, epochs: int = 1) -> None:
        self.console, self.total, self.epochs = make_console(), total, epochs
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[speed]}  time left"),
            TimeRemainingColumn(),
        )
        self.bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self.task = self.bar.add_task(self.epoch(done), total=total, completed=done, speed="")
        self.bar.start()

    def epoch(self, done: int) -> str:
        """The epoch that runs after so many steps."""
        number = min(self.epochs, done * self.epochs // max(1, self.total) + 1)
        return f"Training, epoch {number} of {self.epochs}"

    def step(self, *, loss: float, tokens_per_second: float) -> None:
        """Advance the bar by one step."""
        if not self.bar.disable:
            done = int(self.bar.tasks[self.task].completed) + 1
            speed = f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s"
            self.bar.update(self.task, completed=done, description=self.epoch(done), speed=speed)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.stop()


class Stages:
    """A bar for a job of several parts that take differently long; elsewhere than on a terminal, a line for each part.

    Args:
        total: number of parts.
    """

    def __init__(self, total: int) -> None:
        self.console = make_console()
        columns = (SpinnerColumn(), BarColumn(20), TextColumn("{task.description}"), TimeElapsedColumn())
        self.bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self.task = self.bar.add_task("", total=total, completed=-1)
        self.bar.start()

    def __call__(self, text: str) -> None:
        """Begin the next part."""
        if self.bar.disable:
            self.console.print(text)
        else:
            self.bar.update(self.task, advance=1, description=text)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.stop()


@contextmanager
def busy(text: str) -> Iterator[None]:
    """A line that moves while something takes long; elsewhere than on a terminal, the text."""
    console = make_console()
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text)
        yield
