"""Counters for Prometheus. They hold numbers and names of routes, nothing of a request."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # s

disable_created_metrics()


class Metrics:
    """All counters of one server; safe from several threads.

    Args:
        waiting: gives the number of requests in the queue.
    """

    def __init__(self, waiting: Callable[[], int]):
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "re_llm_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self.audio_seconds = Counter("re_llm_audio_seconds", "Seconds of audio encoded.", registry=registry)
        self.prompt_tokens = Counter(
            "re_llm_prompt_tokens", "Tokens of the rows answered, speech tokens included.", registry=registry
        )
        self.answer_tokens = Counter("re_llm_answer_tokens", "Tokens of the answers.", registry=registry)
        self.cancelled = Counter("re_llm_cancelled", "Answers whose client had gone.", registry=registry)
        self.answer_seconds = Histogram(
            "re_llm_answer_seconds", "From the request to the end of the answer.", buckets=BUCKETS, registry=registry
        )
        self.first_piece_seconds = Histogram(
            "re_llm_first_piece_seconds",
            "From the request to the first piece of the answer.",
            buckets=BUCKETS,
            registry=registry,
        )
        Gauge("re_llm_queue_length", "Requests that wait for the model.", registry=registry).set_function(waiting)

    def text(self) -> bytes:
        """The page /metrics."""
        return generate_latest(self._registry)
