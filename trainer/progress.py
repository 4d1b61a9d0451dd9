"""The progress shown during training: one line for each epoch, and on a terminal also a progress bar."""

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """A progress bar (only on a terminal) with lines of text above it. All of it goes to standard error.

    Args:
        total: steps of the whole run.
        done: steps that were done before, if the run continues from a checkpoint.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.description}"), TimeRemainingColumn())
        self.bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self.task = self.bar.add_task("", total=total, completed=done)
        self.bar.start()

    def step(self, *, loss: float, tokens_per_second: float) -> None:
        """Advance the bar by one step."""
        if not self.bar.disable:
            text = f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s"
            self.bar.update(self.task, advance=1, description=text)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.stop()
