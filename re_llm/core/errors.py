"""The error that a user's mistake raises; everything else that escapes is a bug of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RellmError(Exception):
    """Something the user can put right. Raised with up to three parts, shown as one message.

    Args:
        what: what is wrong, with the file and line, or the option, it was found in.
        allowed: what would have been accepted, if that can be listed.
        todo: what to do next.

    Attributes:
        code: exit code of the command line.
    """

    code = 2

    def __init__(self, what: str, *, allowed: str | None = None, todo: str | None = None):
        self.what, self.allowed, self.todo = what, allowed, todo
        parts = [what.rstrip(".") + "."]
        if allowed:
            parts.append(f"Allowed: {allowed.rstrip('.')}.")
        if todo:
            parts.append(todo.rstrip(".") + ".")
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        # An error of a worker comes back from another process, whatever arguments its class takes.
        return _rebuilt, (type(self), self.what, self.allowed, self.todo)


def _rebuilt(kind: type[RellmError], what: str, allowed: str | None, todo: str | None) -> RellmError:
    error = kind.__new__(kind)
    RellmError.__init__(error, what, allowed=allowed, todo=todo)
    return error


class Failed(RellmError):
    """The input was right, and the work on it failed."""

    code = 1


class MissingExtra(RellmError):
    """A feature needs a package that only an extra of re-llm installs."""

    def __init__(self, package: str, extra: str, feature: str):
        super().__init__(
            f"{feature} needs the package {package}, which is not installed",
            todo=f'Install it with: pip install "re-llm[{extra}]"',
        )

    @classmethod
    @contextmanager
    def unless(cls, package: str, extra: str, feature: str) -> Iterator[None]:
        """Around the import of a package: its absence is this error."""
        try:
            yield
        except ImportError:
            raise cls(package, extra, feature) from None
