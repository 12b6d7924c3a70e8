"""Every tensor and every scalar recorded of the EPITOME scorer; a name that nothing here reproduces fails."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from golden_folder import FOLDER
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

from re_llm.evaluate.empathy.biencoder import biencoder_loss, load_biencoder
from re_llm.evaluate.empathy.biencoder_training import rationale_measures

EPITOME = FOLDER / "epitome"
GIVEN = ("input_ids_", "attention_mask_", "empathy_labels", "rationale_labels", "metric_lens")
WEIGHTS = {  # of empathy and rationale, by the name of the recorded losses
    "readme_EI1_RE0.5": (1, 0.5),
    "argparse_default_EI0.5_RE0.5": (0.5, 0.5),
    "class_default_EI1_RE0.1": (1, 0.1),
}


@cache
def tensors():
    return load_file(EPITOME / "outputs.safetensors")


@cache
def scalars():
    return json.loads((EPITOME / "outputs.json").read_text())


@cache
def model(original=True):
    made = load_biencoder(EPITOME, original=original)
    made.seeker_encoder.requires_grad_(False)
    return made


def texts(sample=None, *, trimmed=False):
    """Ids and masks of seekers and responders, of all texts or of one, with or without its padding."""
    found = [tensors()[f"{kind}_{who}"] for who in ("SP", "RP") for kind in ("input_ids", "attention_mask")]
    if sample is not None:
        found = [each[sample : sample + 1] for each in found]
    if trimmed:
        found = [each[:, : found[i // 2 * 2 + 1].sum()] for i, each in enumerate(found)]
    return found


def losses(key):
    empathy, rationale = WEIGHTS[key]
    given = [tensors()[name] for name in ("empathy_labels", "rationale_labels", "attention_mask_RP")]
    return biencoder_loss(model()(*texts()), *given, empathy_weight=empathy, rationale_weight=rationale)


@cache
def gradients():
    model().zero_grad()
    losses("readme_EI1_RE0.5")["loss"].backward()
    return {name: p.grad for name, p in model().named_parameters() if p.grad is not None}


@cache
@torch.no_grad()
def reproduced():
    output, (seeker_ids, seeker_mask, ids, mask) = model()(*texts()), texts()
    alone = [model()(*texts(i, trimmed=True)).empathy_logits for i in range(len(ids))]
    encoders = (model().seeker_encoder, model().responder_encoder)
    seeker, responder = (encoder["roberta"] for encoder in encoders)
    return {
        "empathy_logits": output.empathy_logits,
        "empathy_logits_if_padding_trimmed": torch.cat(alone),
        "rationale_logits": output.rationale_logits,
        "predictions_empathy": output.empathy_logits.argmax(-1),
        "predictions_rationale": output.rationale_logits.argmax(-1),
        "seeker_last_hidden": seeker(seeker_ids, attention_mask=seeker_mask).last_hidden_state,
        "responder_last_hidden": responder(ids, attention_mask=mask).last_hidden_state,
    }


@pytest.mark.parametrize("name", sorted(name for name in tensors() if not name.startswith(GIVEN)))
def test_golden_epitome_tensor(name):
    found = gradients()[name.removeprefix("grad.")] if name.startswith("grad.") else reproduced().get(name)
    assert found is not None, f"nothing reproduces epitome/outputs.safetensors: {name}"
    if found.is_floating_point():
        torch.testing.assert_close(found, tensors()[name], atol=2e-4, rtol=1e-3)
    else:
        assert found.tolist() == tensors()[name].tolist()


@pytest.mark.parametrize("name", sorted(scalars()))
def test_golden_epitome_scalars(name):
    expected = scalars()[name]
    if name in WEIGHTS:
        found = {("loss" if k == "loss" else f"loss_{k}"): v.item() for k, v in losses(name).items()}
        assert found == pytest.approx(expected, rel=1e-4)
    elif name == "grad_norms_readme_lambdas_seeker_frozen":
        assert {k: v.norm().item() for k, v in gradients().items()} == pytest.approx(expected, rel=1e-3, abs=1e-6)
    elif name == "metrics":
        check_metrics(expected)
    else:
        assert name == "max_abs_diff_trimmed_vs_padded_to_64", f"nothing reproduces epitome/outputs.json: {name}"
        gap = reproduced()["empathy_logits"] - reproduced()["empathy_logits_if_padding_trimmed"]
        assert gap.abs().max().item() == pytest.approx(expected, rel=1e-3)


def check_metrics(expected):
    found, labels = reproduced()["predictions_empathy"], tensors()["empathy_labels"]
    # The original hands over predictions as truth: its weighted mean counts what was predicted, not what is.
    means = [f1_score(found, labels, average=kind) for kind in ("weighted", "micro", "macro")]
    spans = rationale_measures(
        reproduced()["predictions_rationale"].numpy(), tensors()["rationale_labels"].numpy(),
        tensors()["metric_lens"].tolist(), original=True,
    )  # fmt: skip
    named = {"rationale_accuracy": "accuracy", "rationale_f1": "f1", "iou_f1": "iou_f1"}
    together = {"accuracy": accuracy_score(labels, found), **{k: spans[v] for k, v in named.items()}}
    assert together == pytest.approx({k: v for k, v in expected.items() if k in together})
    assert expected.keys() - together.keys() == {"f1_weighted_micro_macro"}
    assert means == pytest.approx(expected["f1_weighted_micro_macro"])


@torch.no_grad()
def test_golden_epitome_with_padding_masked_equals_trimmed():
    """Ours masks the seeker's padding: the batch gives what each pair gives on its own without padding."""
    found = model(original=False)(*texts()).empathy_logits
    torch.testing.assert_close(found, tensors()["empathy_logits_if_padding_trimmed"], atol=2e-4, rtol=1e-3)
