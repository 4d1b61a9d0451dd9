"""What a person sees while a model trains: a bar on a terminal, and one line an epoch everywhere."""

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """A live bar on a terminal (nothing elsewhere), and lines that stay above it; all on standard error.

    Args:
        total: steps of the whole run.
        done: steps already done, if it goes on from a checkpoint.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.description}"), TimeRemainingColumn())
        self.bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self.task = self.bar.add_task("", total=total, completed=done)
        self.bar.start()

    def step(self, *, loss: float, tokens_per_second: float) -> None:
        """One more update is done."""
        if not self.bar.disable:
            text = f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s"
            self.bar.update(self.task, advance=1, description=text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.stop()
