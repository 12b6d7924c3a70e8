"""Corpora: one file each, found by their constant `INFO`; `prepare` writes the manifest of one of them.

A new corpus is one new file: copy the nearest reader, change `INFO` and `read` (docs/corpora.md).
"""

from re_llm.data.corpora.base import CorpusInfo, Filters, Scan
from re_llm.data.corpora.recordings import VadEstimator
from re_llm.data.corpora.registry import get, infos, names
from re_llm.data.corpora.run import PrepareReport, prepare
from re_llm.data.manifest import Problem

__all__ = [
    "CorpusInfo", "Filters", "PrepareReport", "Problem", "Scan", "VadEstimator", "get", "infos", "names", "prepare"
]  # fmt: skip
