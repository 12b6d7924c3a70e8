"""Scores of replies: empathy (EPITOME), emotion recognition, audits, significance. Knows no model of speech."""

from re_llm.evaluate.empathy.epitome import EmpathyScorer
from re_llm.evaluate.empathy.loading import load_scorer
from re_llm.evaluate.scoring import METRICS, ScoreReport, score_file

__all__ = ["METRICS", "EmpathyScorer", "ScoreReport", "load_scorer", "score_file"]
