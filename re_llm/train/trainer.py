"""transformers.Trainer with our batches, our losses, every loss term logged, and checkpoints of the trained part only.

N target tokens, V vocabulary, E emotions.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME

from re_llm.core.errors import RellmError
from re_llm.core.files import write_text
from re_llm.model import losses
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.recipe.config import StageOptions
from re_llm.train.data import BucketedSampler

TRAINED = "trained.safetensors"


class ReLlmTrainer(Trainer):
    """Thin subclass: `compute_loss`, the sampler, the log, and what a checkpoint holds.

    Args:
        options: the stage; its `losses` weigh the terms (RE-LLM eq. 10 weighs them equally).
        sampler: order of the rows.
        log_file: receives one JSON line per logging step with every term.
    """

    def __init__(self, *args: Any, options: StageOptions, sampler: BucketedSampler, log_file: Path, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.options, self.sampler, self.log_file = options, sampler, log_file
        self.remove_callback(PrinterCallback)  # standard output belongs to the command
        self._terms: dict[str, list[torch.Tensor]] = defaultdict(list)
        # The loss is a mean over this micro-batch; the Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.sampler

    def _weights(self) -> dict[str, float]:
        warm = self.options.warm_losses and self.state.global_step < self.options.warm_steps
        return self.options.warm_losses if warm else self.options.losses  # type: ignore[return-value]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Weighted sum of the stage's losses; the terms are kept for the log."""
        # The Trainer casts `forward` alone; the adapter, the heads and the teacher are called here as well.
        with self.accelerator.autocast():
            total, logits = self._weighted(model, inputs, self._weights())
        return (total, {"logits": logits}) if return_outputs else total

    def _weighted(self, model: Any, inputs: dict[str, Any], weights: dict[str, float]) -> tuple[torch.Tensor, Any]:
        bare = self.accelerator.unwrap_model(model)
        if any(name.startswith(("response", "input_kl")) for name in weights):
            output = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                logits_to_keep=inputs["logits_at"],
                **inputs["speech"],
            )
            speech, logits = output.speech, output.logits
        else:  # nothing reads the LLM's output
            speech, logits = bare.encode_speech(**inputs["speech"]), None
        terms = self._llm_terms(bare, weights, inputs, logits) | self._speech_terms(bare, weights, inputs, speech)
        if terms:
            total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        else:  # every row of this batch answers with the label, and only losses with a teacher were asked for
            total = 0.0 * logits.sum()
        for name, term in terms.items():
            self._terms[name].append(term.detach())
        return total, logits

    def _llm_terms(self, model: Any, weights: dict[str, float], inputs: Any, logits: Any) -> dict[str, torch.Tensor]:
        """Losses on what the LLM says: of the response [N, V], and at the transcript for input_kl."""
        terms: dict[str, torch.Tensor] = {}
        if logits is None:
            return terms
        response, spoken = _parted(logits, inputs)
        if "response_ce" in weights:
            terms["response_ce"] = losses.response_ce(response, inputs["targets"])
        taught = {"response_kl", "input_kl"} & set(weights)
        if taught and inputs.get("teacher"):
            given = inputs["teacher"]
            read = model.text_forward(given["input_ids"], given["attention_mask"], logits_to_keep=given["logits_at"])
            teacher, written = _parted(read.logits, given)
            pairs = {"response_kl": (response[given["of_target"]], teacher), "input_kl": (spoken, written)}
            for name in sorted(taught):
                student, target = pairs[name]
                terms[name] = getattr(losses, name)(student, target, temperature=self.options.temperature)
        return terms

    def _speech_terms(self, model: Any, weights: dict[str, float], inputs: Any, speech: Any) -> dict[str, torch.Tensor]:
        """Losses on the adapter's output and on the heads."""
        terms: dict[str, torch.Tensor] = {}
        if {"input_er", "input_er_avd"} & set(weights):
            emotion_logits, dimensions = model.predict_emotion(speech)
            if "input_er" in weights:
                terms["input_er"] = losses.input_er(emotion_logits, inputs["emotions"])
            if "input_er_avd" in weights:
                terms["input_er_avd"] = losses.input_er_avd(dimensions, inputs["dimensions"])
        if "cif" in weights:
            terms["cif"] = losses.cif(speech.fired, inputs["transcript_lengths"])
        if "adapter_ctc" in weights:
            terms["adapter_ctc"] = losses.adapter_ctc(
                speech.embeddings,
                speech.lengths,
                model.get_input_embeddings().weight,
                model.ctc_blank,
                inputs["transcripts"],
                inputs["transcript_lengths"],
            )
        return terms

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        for name, values in self._terms.items():
            logs[name] = torch.stack(values).mean().item()
        self._terms.clear()
        super().log(logs, start_time)
        if self.is_world_process_zero():
            with self.log_file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Only what this run trains, in its full precision; everything else is in the components."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach().cpu().contiguous() for n, p in self.bare.named_parameters() if p.requires_grad}
        save_file(trained, folder / TRAINED)

    def restore(self, checkpoint: str) -> None:
        """Takes over weights and state of a checkpoint, without training on."""
        self.state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
        self._load_from_checkpoint(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        trained = load_file(os.path.join(resume_from_checkpoint, TRAINED))
        parameters = {n: p for n, p in self.bare.named_parameters() if p.requires_grad}
        if trained.keys() != parameters.keys():
            odd = sorted(trained.keys() ^ parameters.keys())[0]
            raise RellmError(
                f"{resume_from_checkpoint}: it was written by a run that trained other parts (first: {odd})",
                todo="Remove the folder `checkpoints` to start anew, or use the options of the first run",
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(trained[name])

    @property
    def bare(self) -> ReLlmForConditionalGeneration:
        """The model without what the Trainer has put around it."""
        return self.accelerator.unwrap_model(self.model)


def _parted(logits: torch.Tensor, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at the response's and at the transcript's positions, out of those of both."""
    if "input_at" not in inputs:
        return logits, logits[:0]
    of_input = inputs["input_at"][inputs["logits_at"]]
    return logits[~of_input], logits[of_input]


class TerminalProgress(TrainerCallback):
    """Steps, rate, time left and the loss on a terminal; one plain line per log elsewhere is the log file's job."""

    def __init__(self, batch_size: int, show: bool):
        self.batch_size, self.show = batch_size, show
        self._bar: Any = None
        self._advance: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from re_llm.core.progress import progress_bar

        total, done = state.max_steps * self.batch_size, state.global_step * self.batch_size
        self._bar = progress_bar("train", total, done=done, show=self.show)
        self._advance = self._bar.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(self.batch_size)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.__exit__(None, None, None)


def cut_log(path: Path, step: int) -> None:
    """Removes what a run that goes on from `step` will log again, and a line that a kill has torn."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if line.endswith("\n") and entry["step"] <= step and "train_runtime" not in entry:
            kept.append(line)
    write_text(path, "".join(kept))


def tensorboard(folder: Path) -> TrainerCallback:
    """Writes every logged value, each loss term too, for `tensorboard --logdir`."""
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(str(folder)))
