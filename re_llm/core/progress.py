"""Progress of long work on stderr: rate and time left on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    what: str, total: int | None, *, done: int = 0, unit: str = "utt", show: bool = True
) -> Iterator[Callable]:
    """Yields `advance(n)`. Silent when `show` is false or stderr is not a terminal.

    Args:
        total: None when it is not known beforehand.
        done: how many of `total` an earlier, interrupted run has finished.
    """
    if not (show and sys.stderr.isatty()):
        yield lambda n=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task):  # type: ignore[no-untyped-def]
            return Text(f"{task.speed or 0:.1f} {unit}/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda n=1: progress.advance(task, n)
