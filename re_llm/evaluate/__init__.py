"""Scores of replies: empathy (EPITOME), emotion recognition, audits, significance. Knows no model of speech."""

from re_llm.evaluate.epitome import EmpathyScorer, load_scorer
from re_llm.evaluate.scoring import METRICS, ScoreReport, score_file

__all__ = ["METRICS", "EmpathyScorer", "ScoreReport", "load_scorer", "score_file"]
