"""Everything that was recorded of the original speech LLMs, computed anew by the converted checkpoints from the inputs.

`tensors(case)` and `scalars(case)` bear the names of the recording; what they lack, nothing here reproduces.

Shapes: B utterances, R rows, L row length, S speech tokens, V vocabulary, D LLM width.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import golden_decoding as decoding
import golden_world as golden
import torch
from golden_world import padded_pass
from torch import Tensor

from re_llm.model import ReLlmForConditionalGeneration, losses
from re_llm.model.convert.names import Layout, join
from re_llm.model.convert.run import convert
from re_llm.model.outputs import SpeechTokens
from re_llm.model.recordings import normalized

A, B, C, D, RELLM = "blsp_a_nolora", "blsp_b_lora_audio", "blsp_c_cformer", "blsp_d_longctx", "rellm"
CASES, BLSP = (A, B, C, D, RELLM), (A, B)
ROUNDED = "nocast"  # what was recorded without the rounding has this in its name
WHISPER_POSITIONS = "speech_encoder.whisper.embed_positions.weight"


def weights_of(case: str) -> str:
    """The case whose weights a case has: (d) is (b) with a shorter `seq_length`."""
    return B if case == D else case


@cache
def converted(case: str, scope: str | None = None) -> ReLlmForConditionalGeneration:
    """A recorded checkpoint, through the conversion that users call; with another `lora_scope` if one is given."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        shutil.copy(golden.FOLDER / weights_of(case) / "model.safetensors", source)
        given = golden.config(case) | ({"lora_scope": scope} if scope else {})
        given["torch_dtype"] = "float32"  # the files are in float16 to be small
        (source / "config.json").write_text(json.dumps(given))
        emotion = golden.FOLDER / "audeering" if case == RELLM else None
        convert(source, Path(folder) / "converted", emotion_encoder=emotion, progress=False)
        return ReLlmForConditionalGeneration.from_pretrained(Path(folder) / "converted")


class Rows(NamedTuple):
    """A padded batch of rows and the columns where the part stands that input_kl compares."""

    ids: Tensor  # [R, L]
    mask: Tensor  # [R, L]
    labels: Tensor  # [R, L]
    part: slice


def speech_rows(case: str, tokens: Tensor, *, whole: bool) -> Rows:
    """start | audio_instruction | speech | suffix; start | speech when no loss asks for a response."""
    ids, mask, labels = golden.speech_rows(case, tokens)
    begin = golden.inputs()["start_ids"].shape[1]
    skipped = golden.inputs()["audio_instruction_ids"].shape[1]
    part = slice(begin + skipped, begin + skipped + tokens.shape[1])
    return _short(Rows(ids, mask, labels, part), begin, whole)


def text_rows(*, whole: bool) -> Rows:
    """start | instruction | input | suffix; start | input when no loss asks for a response."""
    ids, mask, labels = golden.text_rows()
    begin, skipped, held = (golden.inputs()[f"{n}_ids"].shape[1] for n in ("start", "instruction", "input"))
    return _short(Rows(ids, mask, labels, slice(begin + skipped, begin + skipped + held)), begin, whole)


def _short(rows: Rows, begin: int, whole: bool) -> Rows:
    if whole:
        return rows
    cut = [torch.cat([value[:, :begin], value[:, rows.part]], dim=1) for value in rows[:3]]
    return Rows(*cut, slice(begin, begin + rows.part.stop - rows.part.start))


class Run:
    """One recorded system at work.

    Args:
        known: tokens of each transcript [B], for the CFormer in train mode.
        rounded: round speech rows to bfloat16, as the released RE-LLM does.
        evaluating: rows beyond `seq_length` are treated as in eval mode.
    """

    def __init__(self, case: str, *, known: Tensor | None = None, rounded: bool = False, evaluating: bool = True):
        self.case, self.known, self.rounded = case, known, rounded
        self.long = case == D and evaluating
        self.model = converted(case)

    def states(self) -> tuple[Tensor, Tensor]:
        """Whisper's states [B, T, Ds] and their numbers [B]."""
        features, frames = golden.features()
        return self.model.speech_encoder(features, frames, keep_padding=True)

    def encode(self) -> SpeechTokens:
        states, lengths = self.states()
        if self.model.emotion_encoder is not None:
            pooled = self.model.emotion_encoder(*waves())
            states = torch.cat([states, pooled[:, None].expand(-1, states.shape[1], -1)], dim=-1)
        known = {} if self.known is None else {"token_lengths": self.known}
        return self.model.adapter(states, lengths, keep_padding=True, **known)

    def around(self, mask: Tensor, *, speech: bool) -> AbstractContextManager[None]:
        """What the original does to a pass over these rows, and to decoding behind them."""
        if self.rounded and speech:
            return decoding.released_rounding(self.model, mask.shape[1])
        return decoding.beyond_seq_length(self.model, mask) if self.long else nullcontext()

    def read(self, rows: Rows, speech: SpeechTokens | None = None) -> Tensor:
        """Logits [R, L, V]."""
        with self.around(rows.mask, speech=speech is not None):
            return padded_pass(self.model, rows.ids, rows.mask, None if speech is None else speech.embeddings)

    def decode(self, speech: SpeechTokens, sample: int | None = None, **options: Any) -> decoding.Decoded:
        """Greedy decoding of the batch, or of the one utterance `sample` whose speech is given."""
        if sample is None:
            ids, mask = decoding.prompt_rows(self.case, speech.mask().long())
        else:
            ids = decoding.single_prompt(self.case, sample, int(speech.lengths[0]))
            mask = torch.ones_like(ids)
        with self.around(mask, speech=True):
            steps = decoding.new_tokens(self.case)
            return decoding.decode(self.model, ids, mask, speech.embeddings, steps=steps, **options)

    def alone(self, sample: int) -> SpeechTokens:
        """One utterance heard on its own, [1, S, D]."""
        features, frames = golden.features()
        states, lengths = self.model.speech_encoder(features[[sample]], frames[[sample]], keep_padding=True)
        if self.model.emotion_encoder is not None:
            pooled = self.model.emotion_encoder(*waves())[[sample]]
            states = torch.cat([states, pooled[:, None].expand(-1, states.shape[1], -1)], dim=-1)
        return self.model.adapter(states, lengths, keep_padding=True)

    def terms(self, key: str) -> dict[str, Tensor]:
        """The losses that a key joins with +, each on its own."""
        names, given = key.split("+"), golden.inputs()
        whole = any("response" in name for name in names)
        speech = self.encode()
        terms: dict[str, Tensor] = {}
        if any(name.startswith(("response", "input_kl")) for name in names):
            rows = speech_rows(self.case, speech.mask().long(), whole=whole)
            student = self.read(rows, speech)
            terms["response_ce"] = losses.response_ce(student, losses.next_labels(rows.labels))
            terms |= self._compared(student, rows, speech, whole)
        if any(name.startswith("input_er") for name in names):
            emotions, dimensions = self.model.predict_emotion(speech)
            terms["input_er"] = losses.input_er(emotions, given["emotion_labels"])
            targets = dict(zip(("arousal", "valence", "dominance"), given["avd_labels"].T, strict=True))
            terms["input_er_avd"] = losses.input_er_avd(dimensions, targets)
        if speech.fired is not None:
            terms["cif"] = losses.cif(speech.fired, transcript_lengths())
        return {name: terms[name] for name in names}

    def _compared(self, student: Tensor, rows: Rows, speech: SpeechTokens, whole: bool) -> dict[str, Tensor]:
        text = text_rows(whole=whole)
        with torch.no_grad():
            teacher = self.read(text)
        own = [losses.response_positions(labels, shifted=False) for labels in (rows.labels, text.labels)]
        temperature = float(golden.config(self.case)["kd_temperature"])
        found = {}
        if whole:
            found["response_kl"] = losses.response_kl(student[own[0]], teacher[own[1]], temperature=temperature)
        spoken = student[:, rows.part][speech.mask()]
        written = teacher[:, text.part][golden.inputs()["input_mask"].bool()]
        if len(spoken) == len(written):
            found["input_kl"] = losses.input_kl(spoken, written, temperature=temperature)
        return found

    def total(self, key: str) -> Tensor:
        return torch.stack([*self.terms(key).values()]).sum()

    def gradients(self, key: str) -> dict[str, Tensor]:
        """Of every parameter that the total of these losses reaches, under the names of the released checkpoint."""
        model = self.model
        model.set_trainable(("adapter", "heads", "speech_encoder", "lora" if model.config.lora else "llm"))
        positions = dict(model.named_parameters())[WHISPER_POSITIONS]
        positions.requires_grad_(True)  # fixed here, trained in the recording
        model.zero_grad()
        self.total(key).backward()
        found = released_gradients(model, weights_of(self.case))
        model.zero_grad()
        return found


def released_gradients(model: Any, case: str) -> dict[str, Tensor]:
    """Gradients under the names of the released checkpoint; q, k and v are put together again."""
    layout = Layout.of(golden.weights(case), plain_adapter=golden.config(case)["adapter_type"] == "cformer")
    groups: dict[str, list[Any]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        bare = name.replace(".base_layer.", ".").replace(".default.", ".")
        if ".lora_" in name:
            piece = layout.find_lora("base_model.model." + bare.removeprefix("language_model."))
        else:
            piece = layout.find(bare)
        groups[piece.name].append((piece, parameter.grad))
    # The one A of the original is three equal ones here: their gradients add up.
    return {
        name: sum(grad for _, grad in parts) if ".lora_A." in name else join(parts) for name, parts in groups.items()
    }


def waves() -> tuple[Tensor, Tensor]:
    """What the emotion encoder is given: [B, N] and lengths [B]."""
    given = [torch.from_numpy(normalized(wave)) for wave in golden.waves()]
    return torch.nn.utils.rnn.pad_sequence(given, batch_first=True), torch.tensor([len(wave) for wave in given])


def transcript_lengths() -> Tensor:
    return golden.inputs()["input_mask"].sum(1)


# --- by the names of the recording ---


@cache
@torch.no_grad()
def tensors(case: str) -> dict[str, Tensor]:
    """Tensors of the case by their recorded names, without gradients."""
    found = _pass(Run(case), "")
    found |= _generation(Run(case), f"{ROUNDED}." if case == RELLM else "")
    if case == RELLM:
        rounded = Run(case, rounded=True)
        found = {f"{ROUNDED}.{k}" if k == "speech_logits" else k: v for k, v in found.items()}
        found["speech_logits"] = _pass(rounded, "")["speech_logits"]
        found |= _generation(rounded, "") | _heads(Run(case))
    if case == C:
        found |= _firing(Run(case), "")
        known = Run(case, known=transcript_lengths())
        found |= _pass(known, "train.") | _firing(known, "train.")
    if case == B:
        found |= _scope_logits("text") | _scope_logits("global")
    return found


def _pass(run: Run, prefix: str) -> dict[str, Tensor]:
    speech = run.encode()
    states, lengths = run.states()
    tokens = speech.mask().long()
    return {
        "whisper_last_hidden": states,
        "whisper_lengths": lengths,
        f"{prefix}adapter_embeds": speech.embeddings,
        f"{prefix}adapter_mask": tokens,
        f"{prefix}text_logits": run.read(text_rows(whole=True)),
        f"{prefix}speech_logits": run.read(speech_rows(run.case, tokens, whole=True), speech),
        f"{prefix}speech_logits_when_only_input_er": run.read(speech_rows(run.case, tokens, whole=False), speech),
    }


def _generation(run: Run, prefix: str) -> dict[str, Tensor]:
    speech = run.encode()
    batch = run.decode(speech)
    found = {"gen_batch_ids": batch.ids, "gen_batch_step_logits": batch.logits, "gen_prefill_logits": batch.prefill}
    stop = golden.scalars(run.case)[f"{prefix}stop_word_id"]
    found["gen_stop_ids"] = run.decode(speech, stops=(stop,)).ids
    for sample in range(len(speech.lengths)):
        found[f"gen_single{sample}_ids"] = run.decode(run.alone(sample), sample).ids
    bos = golden.outputs(run.case)["gen_batch_ids"][0, 0]  # written in front; the LLM never sees it
    found = {
        name: torch.cat([bos.expand(len(value), 1), value], dim=1) if name.endswith("_ids") else value
        for name, value in found.items()
    }
    return {prefix + name: value for name, value in found.items()}


def _heads(run: Run) -> dict[str, Tensor]:
    speech, encoder = run.encode(), run.model.emotion_encoder
    emotions, dimensions = run.model.predict_emotion(speech)
    pooled = encoder(*waves())
    valence_arousal_dominance = encoder.regress(pooled)
    return {
        "pooled_speech": speech.pooled,
        "er_logits": emotions,
        "avd_pred_arousal_valence_dominance": dimensions[:, [1, 0, 2]],
        "w2v2_pooled": pooled,
        "w2v2_arousal_dominance_valence": valence_arousal_dominance[:, [1, 2, 0]],
    }


def _firing(run: Run, prefix: str) -> dict[str, Tensor]:
    adapter, states = run.model.adapter, run.states()
    firing = adapter.weigh(*states, keep_padding=True, token_lengths=run.known)
    seen: list[Tensor] = []
    handle = adapter.token_embed_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    run.encode()
    handle.remove()
    return {
        f"{prefix}cformer_alphas_scaled": firing.weights,
        f"{prefix}cformer_alphas_sum": firing.total,
        f"{prefix}cformer_logits": seen[0] @ golden.weights(run.case)["adapter.lm_head.weight"].T,
    }


def scoped(scope: str) -> Run:
    """Case (b) with its LoRA on other positions."""
    run = Run(B)
    run.model = converted(B, scope)
    return run


def _scope_logits(scope: str) -> dict[str, Tensor]:
    found = _pass(scoped(scope), "")
    return {f"scope_{scope}.{kind}_logits_last3": found[f"{kind}_logits"][:, -3:] for kind in ("text", "speech")}


def real_columns(case: str, name: str) -> Tensor | None:
    """Where a recorded tensor of rows is compared, [R, L]: at columns that are no padding; None = everywhere."""
    kind = name.rpartition(".")[2]
    prefix = "train." if name.startswith("train.") else ""
    tokens = golden.outputs(weights_of(case)).get(f"{prefix}adapter_mask")
    if kind == "text_logits":
        return text_rows(whole=True).mask.bool()
    if kind == "text_logits_last3":
        return text_rows(whole=True).mask[:, -3:].bool()
    if tokens is None:
        return None
    if kind in ("adapter_embeds", "cformer_logits"):
        return tokens.bool()
    if kind == "gen_prefill_logits":
        return decoding.prompt_rows(case, tokens)[1].bool()
    if kind in ("speech_logits", "speech_logits_when_only_input_er"):
        return speech_rows(case, tokens, whole=kind == "speech_logits").mask.bool()
    if kind == "speech_logits_last3":
        return speech_rows(case, tokens, whole=True).mask[:, -3:].bool()
    return None


# --- scalars ---


@cache
def loss_runs(case: str) -> dict[str, Callable[[str], float]]:
    """Name of a group of losses in outputs.json -> how a key of it is computed."""
    plain, strict = Run(case, rounded=case == RELLM), Run(case)
    known = Run(case, known=transcript_lengths()) if case == C else strict
    return {
        "losses": lambda key: _value(plain, key),
        f"losses_{ROUNDED}": lambda key: _value(strict, key),
        "losses_eval": lambda key: _value(strict, key),
        "losses_train": lambda key: _value(known, key),
        "losses_trainmode": lambda key: _value(Run(case, evaluating=False), key),
        "losses_scope_text": lambda key: _value(scoped("text"), key),
        "losses_scope_global": lambda key: _value(scoped("global"), key),
        "losses_llm_bf16": lambda key: _in_bfloat16(strict, key),
        "er_loss": lambda key: _emotion_part(plain, key),
        f"er_loss_{ROUNDED}": lambda key: _emotion_part(strict, key),
    }


@torch.no_grad()
def _value(run: Run, key: str) -> float:
    return run.total(key).item()


@torch.no_grad()
def _emotion_part(run: Run, key: str) -> float:
    return sum(term.item() for name, term in run.terms(key).items() if name.startswith("input_er"))


@torch.no_grad()
def _in_bfloat16(run: Run, key: str) -> float:
    """With the LLM's own weights in bfloat16; LoRA, adapter, heads and encoders stay in float32."""
    parameters = [p for name, p in run.model.language_model.named_parameters() if ".lora_" not in name]
    kept = [p.data for p in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.bfloat16()
    try:
        return run.total(key).item()
    finally:
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data = value


@cache
def gradients(case: str, setting: str, key: str) -> dict[str, Tensor]:
    """Of one total; the setting is what a group of recorded gradients has behind `grad` and `grad_norms`."""
    known = transcript_lengths() if setting == "_train" else None
    return Run(case, known=known, rounded=case == RELLM and setting != f"_{ROUNDED}").gradients(key)


def margins(case: str) -> dict[str, float]:
    """Smallest gap between the two best logits of every greedy decoding."""
    found = {}
    runs = {"": Run(case, rounded=True), f"{ROUNDED}.": Run(case)} if case == RELLM else {"": Run(case)}
    for prefix, run in runs.items():
        with torch.no_grad():
            speech = run.encode()
            found[f"{prefix}gen_batch_min_margin"] = _margin(run.decode(speech))
            for sample in range(len(speech.lengths)):
                found[f"{prefix}gen_single{sample}_min_margin"] = _margin(run.decode(run.alone(sample), sample))
    return found


def _margin(decoded: decoding.Decoded) -> float:
    best = decoded.logits.topk(2, dim=-1).values
    return float((best[..., 0] - best[..., 1]).min())
