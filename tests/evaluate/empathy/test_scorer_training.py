"""`re-llm score train` at tiny size: csv files in, a folder out that scores, mistakes named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from epitome_world import PARTS, write_corpus, write_rows
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Score, read_records, write_records
from re_llm.evaluate.empathy.biencoder_start import BiEncoderOptions, scratch_start, train_tokenizer
from re_llm.evaluate.empathy.biencoder_training import encode_pairs, judge_pairs, train_biencoder
from re_llm.evaluate.empathy.epitome import CSV_NAMES, read_pairs, seeker_post
from re_llm.evaluate.empathy.loading import load_scorer
from re_llm.evaluate.empathy.scorer_training import BiEncoderPlan, find_csvs, split_pairs, train_biencoders

SIZES = {"width": 16, "layers": 1, "heads": 2, "vocabulary": 300}
TINY = BiEncoderOptions(**SIZES, window=32, batch_size=8)


def changed(**options: object) -> BiEncoderOptions:
    return BiEncoderOptions(**{**TINY.model_dump(), **options})


def settings(**options: object) -> list[str]:
    return [part for name, value in options.items() for part in ("--set", f"{name}={value}")]


def call(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("epitome"))


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scorer") / "all"
    done = call("score", "train", corpus, "--out", out, "--from-scratch",
                *settings(lr=5e-3, epochs=12, batch_size=8, **SIZES))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "rule: a question mark -> 2" in done.stdout
    return out


def test_the_folder_says_how_it_was_made_and_how_good_it_is(trained: Path):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics) == set(CSV_NAMES)
    for mechanism, found in metrics.items():
        assert json.loads((trained / mechanism / "metrics.json").read_text()) == found
        assert {"majority", "rule: a question mark -> 2", 'rule: "I\'m sorry" -> 2'} < set(found["measures"])
        ours = found["measures"]["bi-encoder"]
        assert len(ours["level_f1"]) == 3
        assert ours["macro_f1"] > found["measures"]["majority"]["macro_f1"]
        assert found["pairs"] == {"train": 72, "development": 0, "test": 18}
        assert set(found["rationales"]) == {"accuracy", "f1", "iou_f1"}
    assert not list(trained.rglob("*.pth")) + list(trained.rglob("*.bin"))
    for mechanism, name in CSV_NAMES.items():
        made = json.loads((trained / mechanism / "provenance.json").read_text())
        assert (made["seed"], set(made["inputs"])) == (12, {name})
        assert "rationale_weight: 0.5" in (trained / mechanism / "recipe.resolved.yaml").read_text()


def test_the_folder_scores_replies_under_both_truncations(trained: Path, tmp_path: Path):
    dull = "Here is the number. Do it step by step. " * 8
    replies = [
        ReplyRecord(key="1", system="s", text="Post 1.", response=PARTS["EX"][2]),
        ReplyRecord(key="2", system="s", text="Post 2.", response=dull + PARTS["EX"][2]),
        ReplyRecord(key="3", system="s", text="Post 3.", response=dull),
    ]
    write_records(tmp_path / "r.jsonl", replies)
    out = tmp_path / "s.jsonl"
    done = call("score", tmp_path / "r.jsonl", "--out", out, "--scorer", trained, "--truncation", "both")
    assert done.exit_code == 0, done.output
    assert "truncation 64 and none" in done.stdout
    assert "2 replies (67 %) are longer" in done.stdout
    rows = {row.key: row for row in read_records(out, Score) if row.metric == "EX"}
    assert rows["1"].model_extra["levels"] == {"64": 2, "none": 2}
    assert rows["2"].model_extra["levels"] == {"64": 0, "none": 2}
    assert (rows["2"].value, rows["2"].model_extra["over_64"], "over_64" in rows["1"].model_extra) == (0, True, False)
    group = rows["*"].model_extra
    assert (group["truncation"], group["window"], group["over_64"]) == ("64", 64, pytest.approx(2 / 3, abs=1e-4))
    assert group["truncations"]["none"]["mean"] > group["truncations"]["64"]["mean"] == rows["*"].value


def test_the_same_seed_gives_the_same_weights(corpus: Path, tmp_path: Path):
    pairs = read_pairs(corpus / CSV_NAMES["EX"])[:20]
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(99 + len(states))
        trained = train_biencoder(pairs, scratch_start([p.response for p in pairs], TINY), changed(seed=seed, epochs=1))
        states.append(trained.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_seeker_encoder_is_frozen_unless_asked(corpus: Path):
    pairs = read_pairs(corpus / CSV_NAMES["EX"])[:16]
    start = scratch_start([p.response for p in pairs], TINY)
    for freeze in (True, False):
        trained = train_biencoder(pairs, start, changed(epochs=2, lr=1e-2, freeze_seeker=freeze, max_grad_norm=100.0))
        before = changed(epochs=1, batch_size=16, lr=1e-12, freeze_seeker=freeze)
        initial = train_biencoder(pairs, start, before).model.seeker_encoder.state_dict()
        moved = [
            name for name, tensor in trained.model.seeker_encoder.state_dict().items()
            if not torch.allclose(tensor, initial[name], atol=1e-6)
        ]  # fmt: skip
        assert bool(moved) != freeze


def test_early_stopping_keeps_the_best_epoch(corpus: Path):
    pairs = read_pairs(corpus / CSV_NAMES["ER"])
    train, dev, test = split_pairs(pairs, 0.2, 0.2, seed=0)
    options = changed(epochs=40, lr=5e-3, patience=2)
    start = scratch_start([p.response for p in train], TINY)
    trained = train_biencoder(train, start, options, dev=dev)
    seen = trained.dev_macro_f1
    assert len(seen) < 40
    assert trained.best_epoch == int(np.argmax(seen)) == len(seen) - 1 - options.patience
    levels, _ = judge_pairs(trained.model, start.tokenizer, dev, options)
    assert (levels == [pair.level for pair in dev]).mean() > 0.5
    with pytest.raises(RellmError, match="development pairs"):
        train_biencoder(train, start, options)
    assert test


def test_measures_do_not_depend_on_the_batch(corpus: Path):
    pairs = read_pairs(corpus / CSV_NAMES["ER"])[:21]
    start = scratch_start([p.response for p in pairs], TINY)
    model = train_biencoder(pairs, start, changed(epochs=3, lr=5e-3)).model
    one, many = (judge_pairs(model, start.tokenizer, pairs, changed(batch_size=size)) for size in (4, 21))
    assert one[0].tolist() == many[0].tolist()
    assert one[1] == many[1]


def test_odd_rationales_mark_their_tokens(tmp_path: Path):
    rows = [
        ("Hello.", "Why? (really) I care.", 2, "Why? (really)|"),
        ("Hello.", "Me too. Yes. Me too.", 1, "Me too.|Me too."),
        ("Hello.", "Fine.", 0, ""),
    ]
    pairs = read_pairs(write_rows(tmp_path / "x.csv", rows))
    tokenizer = train_tokenizer([pair.response for pair in pairs], 300)
    data = encode_pairs(tokenizer, pairs, 32)
    marked = [
        tokenizer.decode(ids[marks.bool()]).strip()
        for ids, marks in zip(data["response_ids"], data["rationales"], strict=True)
    ]
    assert marked == ["Why? (really)", "Me too. Me too.", ""]
    assert not (data["rationales"] & (1 - data["response_mask"])).any()


def test_responses_to_one_post_stay_together(corpus: Path):
    pairs = {m: read_pairs(corpus / name) for m, name in CSV_NAMES.items()}
    parts = {m: split_pairs(each, 0.1, 0.3, seed=5) for m, each in pairs.items()}
    for each in parts.values():
        posts = [{seeker_post(pair) for pair in part} for part in each]
        assert not (posts[0] & posts[1] | posts[0] & posts[2] | posts[1] & posts[2])
        assert sum(map(len, each)) == 90
    assert [p.seeker_id for p in parts["ER"][2]] != [p.seeker_id for p in split_pairs(pairs["ER"], 0.1, 0.3, seed=6)[2]]
    with pytest.raises(RellmError, match="too few"):
        split_pairs(pairs["ER"][:2], 0.1, 0.3, seed=5)


def test_one_mechanism_at_a_time(corpus: Path, tmp_path: Path):
    out = tmp_path / "scorer"
    options = changed(epochs=1, batch_size=16, lr=1e-3, window=64)
    train_biencoders(BiEncoderPlan(find_csvs(corpus, ["ex"]), options=options), out)
    scorer = load_scorer(str(out))
    assert (scorer.mechanisms, scorer.window) == (("EX",), 64)
    assert set(scorer.score(["a"], ["b"])[0]) == {"EX"}
    write_records(tmp_path / "r.jsonl", [ReplyRecord(key="1", system="s", text="a", response="b")])
    done = call("score", tmp_path / "r.jsonl", "--out", tmp_path / "s.jsonl", "--scorer", out, "--metric", "ER")
    assert done.exit_code == 2
    assert "not trained for ER" in done.stderr
    with pytest.raises(RellmError, match="another window"):
        train_biencoders(BiEncoderPlan(find_csvs(corpus, ["ER"]), tokenizer=str(out), options=TINY), out)
    options = options.model_copy(update={"seed": 5})
    train_biencoders(BiEncoderPlan(find_csvs(corpus, ["ER"]), tokenizer=str(out), options=options), out)
    seeds = {m: json.loads((out / m / "provenance.json").read_text())["seed"] for m in ("ER", "EX")}
    assert seeds == {"ER": 5, "EX": 12} and not (out / "provenance.json").exists()  # each as it was made
    assert load_scorer(str(out)).mechanisms == ("ER", "EX")
    assert set(json.loads((out / "metrics.json").read_text())) == {"ER", "EX"}


def test_a_checkpoint_folder_is_a_start(trained: Path, corpus: Path, tmp_path: Path):
    from transformers import RobertaConfig, RobertaModel

    settings = json.loads((trained / "ER" / "config.json").read_text())
    RobertaModel(RobertaConfig(**settings), add_pooling_layer=False).save_pretrained(tmp_path / "roberta")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "roberta" / name).write_bytes((trained / name).read_bytes())
    file = corpus / CSV_NAMES["IP"]
    done = call(
        "score", "train", file, "--out", tmp_path / "out", "--encoder", tmp_path / "roberta", "--set", "epochs=1"
    )
    assert done.exit_code == 0, done.output
    assert load_scorer(str(tmp_path / "out")).mechanisms == ("IP",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kind", "small", "--set", "epochs=3"], "--set has no meaning with --kind small"),
        (["--kind", "small", "--mechanism", "ER"], "--mechanism has no meaning with --kind small"),
        (["--encoder", "x", "--from-scratch"], "--encoder has no meaning with --from-scratch"),
        (["--encoder", "nowhere/x", "--set", "width=8"], "width has no meaning with a trained encoder"),
        (["--from-scratch", "--set", "width=10", "--set", "heads=4"], "no multiple of heads"),
        (["--from-scratch", "--set", "vocabulary=100"], "vocabulary is 100"),
        (["--from-scratch", "--mechanism", "UX"], "no such mechanism: 'UX'"),
        (["--from-scratch", "--set", "epochs=0"], "epochs is 0"),
        (["--from-scratch", "--set", "test_fraction=0.9"], "test_fraction is 0.9"),
        (["--from-scratch", "--set", "rate=1"], "unknown key 'rate'"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(flags, message, corpus: Path, tmp_path: Path):
    done = call("score", "train", corpus, "--out", tmp_path / "out", *flags)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_which_csv_files(corpus: Path, tmp_path: Path):
    assert set(find_csvs(corpus)) == set(CSV_NAMES)
    (tmp_path / "mine.csv").write_bytes((corpus / CSV_NAMES["ER"]).read_bytes())
    assert find_csvs(tmp_path / "mine.csv", ["er"]) == {"ER": tmp_path / "mine.csv"}
    for where, mechanisms, message in (
        (tmp_path / "mine.csv", [], "the mechanism of"),
        (tmp_path, [], "holds no EPITOME csv file"),
        (tmp_path / "none", [], "no such file"),
    ):
        with pytest.raises(RellmError, match=message):
            find_csvs(where, mechanisms)
