"""Counters in Prometheus' text format (version 0.0.4). They hold numbers and names of routes, nothing of a request."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # s


class Histogram:
    """How long things took, in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for limit, count in zip((*map(str, BUCKETS), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{limit}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """All counters of one server; safe from several threads.

    Args:
        waiting: asked for the number of requests in the queue.
    """

    def __init__(self, waiting: Callable[[], int]):
        self._waiting, self._lock = waiting, threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._answer_seconds, self._first_piece_seconds = Histogram(), Histogram()
        self._totals = {"audio_seconds": 0.0, "prompt_tokens": 0, "answer_tokens": 0, "cancelled": 0}

    def request(self, route: str, status: int) -> None:
        with self._lock:
            self._requests[route, status] += 1

    def add(self, name: str, amount: float = 1) -> None:
        """Adds to one of the totals."""
        with self._lock:
            self._totals[name] += amount

    def answered(self, seconds: float) -> None:
        """An answer was finished this long after its request had been read."""
        with self._lock:
            self._answer_seconds.observe(seconds)

    def began(self, seconds: float) -> None:
        """The first piece of an answer was there this long after its request had been read."""
        with self._lock:
            self._first_piece_seconds.observe(seconds)

    def text(self) -> str:
        """The page /metrics."""
        with self._lock:
            return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _head("re_llm_requests_total", "counter", "Requests by route and status.")
        for (route, status), count in sorted(self._requests.items()):
            yield f're_llm_requests_total{{route="{route}",status="{status}"}} {count}'
        for name, help_text in (
            ("audio_seconds", "Seconds of audio heard."),
            ("prompt_tokens", "Tokens of the rows answered, speech tokens included."),
            ("answer_tokens", "Tokens of the answers."),
            ("cancelled", "Answers that nobody waited for any more."),
        ):
            yield from _head(f"re_llm_{name}_total", "counter", help_text)
            yield f"re_llm_{name}_total {self._totals[name]:g}"
        for name, help_text, histogram in (
            ("answer", "From the request to the end of the answer.", self._answer_seconds),
            ("first_piece", "From the request to the first piece of the answer.", self._first_piece_seconds),
        ):
            yield from _head(f"re_llm_{name}_seconds", "histogram", help_text)
            yield from histogram.lines(f"re_llm_{name}_seconds")
        yield from _head("re_llm_queue_length", "gauge", "Requests that wait for the model.")
        yield f"re_llm_queue_length {self._waiting()}"


def _head(name: str, kind: str, help_text: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"
