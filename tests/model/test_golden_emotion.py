"""Every tensor and every scalar recorded of the dimensional emotion model; a name that nothing reproduces fails."""

from __future__ import annotations

from functools import cache

import golden_runs as runs
import golden_world as golden
import numpy as np
import pytest
import torch
from golden_world import close

from re_llm.model.components import load_emotion_encoder
from re_llm.model.recordings import normalized

CASE = "audeering"
ARRANGED = [1, 2, 0]  # arousal, dominance, valence out of valence, arousal, dominance


@cache
def encoder():
    return load_emotion_encoder(golden.FOLDER / CASE, torch.float32)


@cache
@torch.no_grad()
def reproduced():
    own, (values, lengths) = encoder(), runs.waves()
    alone = values[:1, : lengths[0]]
    naive = own.backbone(values).last_hidden_state.mean(1)  # zeros behind an utterance taken for sound
    pooled = own(values, lengths)
    found = {
        "pooled_embedding": pooled,
        "arousal_dominance_valence": own.regress(pooled)[:, ARRANGED],
        "naive_padded_batch.pooled_embedding": naive,
        "naive_padded_batch.arousal_dominance_valence": own.regress(naive)[:, ARRANGED],
        "conv_features_0": own.backbone.feature_extractor(alone)[0].T,
        "last_hidden_state_0": own.frames(alone, lengths[:1])[0][0],
    }
    heads = {name: len(value) for name, value in golden.outputs(CASE).items() if name.startswith("normalised_head_")}
    return found | {name: values[int(name.rpartition("_")[2]), :size] for name, size in heads.items()}


@pytest.mark.parametrize("name", sorted(golden.outputs(CASE)))
def test_golden_emotion_tensor(name):
    assert name in reproduced(), f"nothing reproduces {CASE}/outputs.safetensors: {name}"
    close(reproduced()[name], golden.outputs(CASE)[name])


@torch.no_grad()
def test_golden_emotion_padding_matters_only_without_a_mask():
    values, lengths = runs.waves()
    together, single = encoder()(values, lengths), [encoder()(values[[i], :n], n[None]) for i, n in enumerate(lengths)]
    close(together, torch.cat(single), atol=1e-5)
    naive = golden.outputs(CASE)["naive_padded_batch.pooled_embedding"]
    for i in (lengths < lengths.max()).nonzero()[:, 0]:
        assert (naive - together)[i].abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(golden.scalars(CASE)))
def test_golden_emotion_scalars(name):
    expected, waves = golden.scalars(CASE)[name], golden.waves()
    values, lengths = runs.waves()
    if name == "n_frames":
        assert encoder().frames(values, lengths)[1].tolist() == expected
    elif name == "wav_mean":
        assert [wave.mean(dtype=np.float64) for wave in waves] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    elif name == "wav_var_population":
        assert [wave.var(dtype=np.float64) for wave in waves] == pytest.approx(expected, rel=1e-4)
    elif name == "eval_embedding_abs_mean":
        one = encoder()(values[:1, : lengths[0]], lengths[:1]).abs().mean().item()
        assert expected == pytest.approx(one, rel=1e-3) or expected == pytest.approx(
            reproduced()["pooled_embedding"].abs().mean().item(), rel=1e-3
        )
    elif name == "masked_batch_vs_single_max_abs_diff":
        single = torch.cat([encoder()(values[[i], :n], n[None]) for i, n in enumerate(lengths)])
        assert expected < 1e-5 and (reproduced()["pooled_embedding"] - single).abs().max() < 1e-5
    else:
        assert name == "train_mode_embedding_std_over_4_calls_mean", f"nothing reproduces {CASE}/outputs.json: {name}"
        assert expected > 0  # the original in train mode; ours stays frozen
        calls = [encoder().train()(values, lengths) for _ in range(4)]
        assert torch.stack(calls).std(0).max() < 1e-6


def test_golden_emotion_waveforms_are_normalised_one_by_one():
    for wave in golden.waves():
        found = normalized(wave)
        assert abs(found.mean()) < 1e-4 and found.var() == pytest.approx(1.0, rel=1e-3)
