"""The page for the browser: one file, served by `re-llm serve`, that loads nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

# What the page may do: talk to its own server; its script and style are part of it, the recorder runs from a blob.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; style-src 'unsafe-inline'; "
    "connect-src 'self'; media-src 'self' blob:; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def page() -> str:
    """The page as text."""
    return (files(__package__) / "page.html").read_text(encoding="utf-8")
