"""The original EPITOME scorer: reference values, padding, files, rationale spans, training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.biencoder import (
    BiEncoder,
    biencoder_loss,
    convert_checkpoint,
    load_biencoder,
    load_state,
    save_biencoder,
)
from re_llm.evaluate.empathy.biencoder_scorer import BiEncoderScorer, token_spans
from re_llm.evaluate.empathy.biencoder_start import BiEncoderOptions, read_start
from re_llm.evaluate.empathy.biencoder_training import train_biencoder
from re_llm.evaluate.empathy.epitome import MECHANISMS, EmpathyScorer, Pair
from re_llm.evaluate.empathy.loading import load_scorer
from re_llm.evaluate.empathy.rationales import rationale_measures
from re_llm.evaluate.empathy.scorer_files import convert_files

TOLERANCE = {"atol": 2e-4, "rtol": 1e-3}
LAMBDAS = {
    "readme_EI1_RE0.5": (1, 0.5),
    "argparse_default_EI0.5_RE0.5": (0.5, 0.5),
    "class_default_EI1_RE0.1": (1, 0.1),
}


@pytest.fixture(scope="module")
def reference(golden: Path) -> tuple[Path, dict[str, torch.Tensor], dict]:
    folder = golden / "epitome"
    outputs = load_file(folder / "outputs.safetensors")
    return folder, outputs, json.loads((folder / "outputs.json").read_text())


def run(model: BiEncoder, outputs: dict[str, torch.Tensor], width: int = 64):
    names = ("input_ids_SP", "attention_mask_SP", "input_ids_RP", "attention_mask_RP")
    return model(*(outputs[name][:, :width] for name in names))


def test_golden_logits(reference):
    folder, outputs, _ = reference
    with torch.no_grad():
        got = run(load_biencoder(folder, original=True), outputs)
    torch.testing.assert_close(got.empathy_logits, outputs["empathy_logits"], **TOLERANCE)
    torch.testing.assert_close(got.rationale_logits, outputs["rationale_logits"], **TOLERANCE)
    assert got.empathy_logits.argmax(-1).tolist() == outputs["predictions_empathy"].tolist()
    assert got.rationale_logits.argmax(-1).tolist() == outputs["predictions_rationale"].tolist()


def test_golden_losses_and_gradients(reference):
    folder, outputs, scalars = reference
    model = load_biencoder(folder, original=True)
    model.seeker_encoder.requires_grad_(False)
    for name, (empathy, rationale) in LAMBDAS.items():
        model.zero_grad()
        terms = biencoder_loss(
            run(model, outputs), outputs["empathy_labels"], outputs["rationale_labels"], outputs["attention_mask_RP"],
            empathy_weight=empathy, rationale_weight=rationale,
        )  # fmt: skip
        assert float(terms["loss"].detach()) == pytest.approx(scalars[name]["loss"], rel=1e-4)
        if name == "readme_EI1_RE0.5":
            terms["loss"].backward()
            norms = scalars["grad_norms_readme_lambdas_seeker_frozen"]
            got = {k: float(p.grad.norm()) for k, p in model.named_parameters() if p.grad is not None}
            assert got == {k: pytest.approx(v, rel=1e-3, abs=1e-6) for k, v in norms.items()}
            torch.testing.assert_close(
                model.attn.q_linear.weight.grad, outputs["grad.attn.q_linear.weight"], **TOLERANCE
            )


def test_golden_rationale_measures(reference):
    _, outputs, scalars = reference
    got = rationale_measures(
        outputs["predictions_rationale"].numpy(), outputs["rationale_labels"].numpy(), outputs["metric_lens"].tolist(),
        original=True,
    )  # fmt: skip
    want = scalars["metrics"]
    assert got == pytest.approx(
        {"accuracy": want["rationale_accuracy"], "f1": want["rationale_f1"], "iou_f1": want["iou_f1"]}
    )


TEXTS = ["I am so sorry to hear that.", "What happened to you?", "Try a walk.", "I feel alone and tired today."]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa with a tokenizer, as a local folder."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=80, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer_folder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trained mechanisms beside their tokenizer, as `--scorer FOLDER` takes them."""
    folder = tmp_path_factory.mktemp("scorer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((encoder / name).read_bytes())
    pairs = [
        Pair("a", TEXTS[3], TEXTS[0], 2, ((8, 13),)),
        Pair("b", TEXTS[3], TEXTS[1], 0, ()),
        Pair("c", "", TEXTS[2], 1, ((0, 3),)),
    ]
    for mechanism in MECHANISMS:
        options = BiEncoderOptions(lr=1e-2, epochs=12, batch_size=6)
        trained = train_biencoder(pairs * 4, read_start(str(encoder)), options)
        assert trained.losses[-1] < 0.5 * trained.losses[0], trained.losses
        save_biencoder(trained.model, folder / mechanism)
    return folder


def test_trains_scores_and_marks_rationales(scorer_folder: Path):
    scorer = load_scorer(str(scorer_folder))
    assert isinstance(scorer, EmpathyScorer)
    found = scorer.score([TEXTS[3], TEXTS[3], ""], TEXTS[:3])
    assert [each["ER"].level for each in found] == [2, 0, 1]
    assert found[1]["ER"].rationale == ()
    (start, end), *_ = found[0]["ER"].rationale
    assert "sorry" in TEXTS[0][start:end]
    assert sum(found[0]["EX"].probabilities) == pytest.approx(1)


def test_scores_do_not_depend_on_the_batch(scorer_folder: Path):
    long = " ".join(TEXTS * 3)
    batched = BiEncoderScorer.load(scorer_folder, batch_size=3).score([TEXTS[3], long, ""], [long, TEXTS[1], TEXTS[0]])
    single = BiEncoderScorer.load(scorer_folder, batch_size=1).score([TEXTS[3], long, ""], [long, TEXTS[1], TEXTS[0]])
    for a, b in zip(batched, single, strict=True):
        for mechanism in MECHANISMS:
            assert a[mechanism].probabilities == pytest.approx(b[mechanism].probabilities, abs=1e-5)


def test_the_original_pads_to_its_window_whatever_the_batch(scorer_folder: Path):
    original = load_scorer(str(scorer_folder), original=True)
    assert original.name == "biencoder-original-64"
    both = original.score([TEXTS[3], ""], [TEXTS[0], TEXTS[1]])
    (alone,) = original.score([""], [TEXTS[1]])
    ours = load_scorer(str(scorer_folder)).score([""], [TEXTS[1]])[0]
    for mechanism in MECHANISMS:
        assert both[1][mechanism].probabilities == pytest.approx(alone[mechanism].probabilities, abs=1e-5)
    # 62 of the 64 seeker tokens are padding here: attending to them changes the score.
    gaps = [abs(alone[m].probabilities[0] - ours[m].probabilities[0]) for m in MECHANISMS]
    assert max(gaps) > 1e-4


def test_window_hides_the_end(scorer_folder: Path):
    long = " ".join(["Try a walk."] * 12)
    (short,) = BiEncoderScorer.load(scorer_folder, window=16).score([""], [long])
    (wide,) = BiEncoderScorer.load(scorer_folder, window=78).score([""], [long])
    assert short["ER"].rationale == wide["ER"].rationale[: len(short["ER"].rationale)]
    assert short["ER"].rationale[-1][1] < 0.5 * len(long) < wide["ER"].rationale[-1][1]


def test_whole_replies_are_read_in_windows(scorer_folder: Path):
    scorer = BiEncoderScorer.load(scorer_folder, window=16)
    dull, sorry = "What happened to you? " * 6, TEXTS[0]
    texts = [dull + sorry, sorry, ""]
    assert scorer.exceeds(texts) == [True, False, False]
    cut, whole = scorer.score([TEXTS[3]] * 3, texts), scorer.score_whole([TEXTS[3]] * 3, texts)
    assert (cut[0]["ER"].level, whole[0]["ER"].level) == (0, 2)
    assert any("sorry" in texts[0][a:b] for a, b in whole[0]["ER"].rationale)
    for short in (1, 2):
        assert whole[short]["ER"].level == cut[short]["ER"].level
        assert whole[short]["ER"].probabilities == pytest.approx(cut[short]["ER"].probabilities, abs=1e-6)
    assert scorer.score([], []) == scorer.score_whole([], []) == []


def test_authors_file_converts(scorer_folder: Path, tmp_path: Path):
    model = load_biencoder(scorer_folder / "ER")
    state = dict(model.state_dict())
    width = model.config.hidden_size
    state |= {"norm.alpha": torch.ones(width), "seeker_encoder.roberta.pooler.dense.weight": torch.zeros(width, width)}
    state["seeker_encoder.roberta.embeddings.position_ids"] = torch.arange(80)[None]
    torch.save(state, tmp_path / "er.pth")
    convert_checkpoint(tmp_path / "er.pth", tmp_path / "ER", model.config)
    for name, tensor in load_biencoder(tmp_path / "ER").state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_authors_files_become_a_scorer(scorer_folder: Path, tmp_path: Path):
    with pytest.raises(RellmError, match="no file is named"):
        convert_files({}, tmp_path / "out")
    with pytest.raises(RellmError, match=r"no such file: .*er\.pth"):
        convert_files({"ER": tmp_path / "er.pth"}, tmp_path / "out")
    torch.save(load_biencoder(scorer_folder / "ER").state_dict(), tmp_path / "er.pth")
    with pytest.raises(RellmError, match=r"the tokenizer has .* tokens, er\.pth wants 50265"):
        convert_files({"ER": tmp_path / "er.pth"}, tmp_path / "out", tokenizer=str(scorer_folder))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Trap()}, tmp_path / "bad.pth")
    with pytest.raises(RellmError, match="cannot be read as a state dict"):
        convert_checkpoint(tmp_path / "bad.pth", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_files_of_another_kind_are_refused(scorer_folder: Path, tmp_path: Path):
    model = load_biencoder(scorer_folder / "ER")
    with pytest.raises(RellmError, match="lacks"):
        load_state(model, {"attn.out.bias": torch.zeros(32)}, "x.safetensors")
    wrong = {name: tensor[..., :1] for name, tensor in model.state_dict().items()}
    with pytest.raises(RellmError, match="has shape"):
        load_state(model, wrong, "x.safetensors")
    with pytest.raises(RellmError, match="re-llm score convert"):
        load_biencoder(tmp_path)
    torch.save({"model": "not tensors"}, tmp_path / "bad.pth")
    with pytest.raises(RellmError, match="no state dict"):
        convert_checkpoint(tmp_path / "bad.pth", tmp_path / "out")
    save_biencoder(model, tmp_path / "ER")
    with pytest.raises(RellmError, match="holds no tokenizer"):
        BiEncoderScorer.load(tmp_path)
    (tmp_path / "ER" / "config.json").write_text("{")
    with pytest.raises(RellmError, match="holds no EPITOME bi-encoder"):
        load_biencoder(tmp_path / "ER")


def test_token_spans_join_runs():
    offsets = [(0, 0), (0, 1), (1, 4), (5, 9), (9, 10), (0, 0)]
    assert token_spans(offsets, [True, True, True, False, True, True]) == ((0, 4), (9, 10))


def test_runs_at_the_end_count_by_default():
    marks = np.array([[0, 0, 0, 1]])
    assert rationale_measures(marks, marks, [3])["iou_f1"] == 1
    assert rationale_measures(marks, marks, [3], original=True)["iou_f1"] == 0


def test_rationale_measures_count_rows_not_batches():
    rng = np.random.default_rng(0)
    found, true = rng.integers(0, 2, (2, 7, 9))
    lengths = [8, 3, 5, 1, 8, 2, 0]
    whole = rationale_measures(found, true, lengths)
    batches = [rationale_measures(found[a : a + 4], true[a : a + 4], lengths[a : a + 4]) for a in (0, 4)]
    # The mean over batches, as the authors take it, differs: their last batch is smaller.
    assert abs(np.mean([each["f1"] for each in batches]) - whole["f1"]) > 1e-3
    weighed = (4 * batches[0]["f1"] + 2 * batches[1]["f1"]) / 6
    assert whole["f1"] == pytest.approx(weighed)
    with pytest.raises(ValueError, match="no row"):
        rationale_measures(found, true, [0] * 7)


def test_options_refuse_nonsense():
    with pytest.raises(RellmError, match="epochs is 0"):
        BiEncoderOptions.checked({"epochs": 0}, scratch=False)
