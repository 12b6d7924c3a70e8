"""JSON-lines files that a build writes piece by piece and resumes, if the settings are those of the first run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from re_llm.core.appending import RecordAppender
from re_llm.core.product import Product, State

Setting = str | int | float | bool | None


@contextmanager
def growing(
    out: Path, settings: Mapping[str, Setting], made: Mapping[str, Setting] | None = None
) -> Iterator[RecordAppender]:
    """Opens `out` to append whole pieces; what says how it was made stands beside it.

    Rows go to the disk in one write, so a process that is killed loses the piece it was making and nothing else.
    When the block ends without an error, the file is marked as complete.

    Args:
        settings: what decides the rows; a run with others may not go on.
        made: what else is to be said about this run.

    Raises:
        RellmError: another process is writing the file, or it was started with other settings.
    """
    product = Product(out, "small build 1", {}, settings, grows=True)
    with product.making(run=made) as before, RecordAppender(out, logged=True) as rows:
        there = rows.rows
        yield rows
        if before.state is not State.SAME or rows.rows != there:
            product.finish()
