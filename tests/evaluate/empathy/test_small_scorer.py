"""The shipped empathy scorer, and its training on pairs made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from epitome_world import write_corpus
from sklearn.feature_extraction.text import TfidfTransformer
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.evaluate import EmpathyScorer, load_scorer
from re_llm.evaluate.empathy.epitome import ASSET, CSV_NAMES, MECHANISMS, read_pairs
from re_llm.evaluate.empathy.small_scorer import (
    SmallScorer,
    decision_features,
    level_probabilities,
    present,
    tfidf,
)
from re_llm.evaluate.empathy.small_training import train_small

SEEKER = "I failed my exam today and nobody cares."


def levels(response: str, seeker: str = SEEKER) -> dict[str, int]:
    return {mechanism: got.level for mechanism, got in load_scorer().score([seeker], [response])[0].items()}


def test_plain_cases():
    assert levels("I'm so sorry to hear that.")["ER"] == 2
    assert levels("I'm so sorry to hear that.")["EX"] == 0
    assert levels("Why do you think that nobody cares about your exam?")["EX"] == 2
    assert levels("What happened?")["EX"] == 1
    assert levels("You should study more next time.") == {"ER": 0, "IP": 0, "EX": 0}
    assert levels("I failed mine as well last year and felt so alone, I know what you are going through.")["IP"] > 0


def test_a_question_at_the_end_of_a_long_reply_is_seen():
    long = "You could go for a walk and drink some water. " * 12
    assert levels(long)["EX"] == 0
    assert levels(long + "Why do you feel that nobody cares?")["EX"] > 0


def test_rationales_are_the_carrying_sentences():
    response = "That is the way it goes. I'm so sorry to hear that."
    got = load_scorer().score([SEEKER], [response])[0]["ER"]
    assert [response[a:b].strip() for a, b in got.rationale] == ["I'm so sorry to hear that."]
    assert sum(got.probabilities) == pytest.approx(1)
    assert 1 < got.expected <= 2


def test_batch_equals_single():
    scorer = load_scorer()
    assert isinstance(scorer, EmpathyScorer)
    responses = ["Sorry.", "", "?", "What happened? " * 50, "naïve 😀", "I know how you feel.\n\nMe too."] * 60
    batched = scorer.score([SEEKER] * len(responses), responses)
    # The first and the last batch, which is shorter.
    for response, *both in zip(responses, batched[:6], batched[-6:], strict=False):
        (alone,) = scorer.score([SEEKER], [response])
        for got in both:
            for mechanism in MECHANISMS:
                assert got[mechanism].level == alone[mechanism].level
                assert got[mechanism].probabilities == pytest.approx(alone[mechanism].probabilities, abs=1e-9)
    assert scorer.score([], []) == []
    with pytest.raises(ValueError, match="1 seekers but 2"):
        scorer.score([""], ["", ""])


def test_shipped_file_is_small_and_says_how_good_it_is():
    assert ASSET.stat().st_size < 2 * 2**20
    measured = SmallScorer.load().meta["cross_validation"]
    report = json.loads(ASSET.with_suffix(".json").read_text())
    for mechanism in MECHANISMS:
        table = report["mechanisms"][mechanism]["measures"]
        assert measured[mechanism] == table["small"]
        rivals = [m["macro_f1"] for name, m in table.items() if name != "small"]
        assert len(rivals) >= 3
        assert measured[mechanism]["macro_f1"] > max(rivals)
    assert "University of Washington" in (ASSET.parent / "NOTICE.md").read_text()


def test_broken_files_are_refused(tmp_path: Path):
    path = tmp_path / "x.npz"
    with pytest.raises(RellmError, match="no such file"):
        SmallScorer.load(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(RellmError, match="not a small empathy scorer"):
        SmallScorer.load(path)
    np.savez(tmp_path / "y.npz", meta=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RellmError, match="not a small empathy scorer"):
        SmallScorer.load(tmp_path / "y.npz")


def test_a_file_of_another_version_is_refused(tmp_path: Path):
    with np.load(ASSET) as stored:
        arrays = dict(stored)
    for change, message in (({"format": 2}, "another version"), ({"vocabulary": ["a"]}, "differ in length")):
        meta = {**json.loads(bytes(arrays["meta"])), **change}
        path = tmp_path / f"{message}.npz"
        np.savez(path, **{**arrays, "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})
        with pytest.raises(RellmError, match=message):
            SmallScorer.load(path)


def test_term_weights():
    counts = sp.csr_matrix([[0, 0, 1], [2, 1, 0], [0, 0, 0]], dtype=float)
    twice = 1 + np.log(2)
    got = tfidf(counts, np.array([1.0, 2.0, 5.0])).toarray()
    np.testing.assert_allclose(got, [[0, 0, 1], np.array([twice, 2, 0]) / np.hypot(twice, 2), [0, 0, 0]])
    # Two words with log-count ratios 1 and 2: a row of length sqrt(5), however often they stand there.
    np.testing.assert_allclose(present(counts, np.array([1.0, 2.0, 0.0])).toarray()[1], [5**-0.5, 2 * 5**-0.5, 0])
    assert counts[1, 0] == 2


def test_tfidf_is_that_of_scikit_learn():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(0.5, (20, 30)).astype(float))
    theirs = TfidfTransformer(sublinear_tf=True).fit(counts)
    np.testing.assert_allclose(tfidf(counts, theirs.idf_).toarray(), theirs.transform(counts).toarray())


def test_decision_arithmetic():
    assert level_probabilities(np.zeros((1, 2))).tolist() == [[pytest.approx(1 / 3)] * 3]
    sentences = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.98, 0.01, 0.01]])
    got = decision_features(sentences, np.array([0, 2]), np.zeros((2, 2)))
    assert got.shape == (2, 16)
    assert got[0, 2] == pytest.approx(np.log(0.9 / 0.1))
    assert got[0, 7] == pytest.approx(np.log((1 - 0.7 * 0.1) / (0.7 * 0.1)))
    assert got[0, 12] == pytest.approx(np.log(2))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("epitome"))


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    done = CliRunner().invoke(app, ["score", "train", str(corpus), "--kind", "small", "--out", str(out), "--seed", "1"])
    assert done.exit_code == 0, done.output
    assert "measured on 5-fold cross-validation" in done.stdout
    return out


@pytest.mark.slow
def test_training_learns_and_reports(trained: Path, corpus: Path):
    report = json.loads((trained / "empathy_small.json").read_text())
    for mechanism in MECHANISMS:
        result = report["mechanisms"][mechanism]
        assert result["measures"]["small"]["macro_f1"] > 0.8
        assert result["seeker_posts"] <= 90
        assert result["rationales_not_located"] == 0
        assert len(result["folds"]) == 5
    page = (trained / "empathy_small.md").read_text()
    assert "| EX | rule: a question mark -> 2 |" in page
    assert "| IP | rule: a question mark -> 2 |" in page
    assert "| ER | majority |" in page
    for result in report["mechanisms"].values():
        low, high = result["macro_f1_interval"]
        assert low <= result["measures"]["small"]["macro_f1"] <= high
        assert f"[{100 * low:.1f}, {100 * high:.1f}]" in page
    scorer = load_scorer(str(trained))
    pairs = read_pairs(corpus / CSV_NAMES["EX"])
    found = scorer.score([p.seeker for p in pairs], [p.response for p in pairs])
    assert np.mean([each["EX"].level == pair.level for each, pair in zip(found, pairs, strict=True)]) > 0.9


@pytest.mark.slow
def test_same_seed_same_file(trained: Path, corpus: Path, tmp_path: Path):
    train_small(corpus, tmp_path, seed=1)
    assert (tmp_path / "empathy_small.npz").read_bytes() == (trained / "empathy_small.npz").read_bytes()
