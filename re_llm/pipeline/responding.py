"""The jobs of a run that answer: one system, one test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.core.product import Overwrite, State
from re_llm.pipeline.jobs import result_line
from re_llm.recipe.config import Recipe
from re_llm.recipe.systems import DIALOGUES, SystemOptions

if TYPE_CHECKING:
    from re_llm.inference.reply import Models, ReplyOptions, System


@dataclass(frozen=True)
class RespondJob:
    """One system answering one corpus' test set.

    Attributes:
        checkpoint: of a speech system, or the classifier of another.
    """

    system_name: str
    system: SystemOptions
    recipe: Recipe
    checkpoint: str | None
    manifest: Path
    out: Path
    seed: int
    corpus: str

    @property
    def splits(self) -> tuple[str, ...]:
        return self.recipe.corpora[self.corpus].test_splits

    def options(self) -> ReplyOptions:
        """What is asked about every recording."""
        from re_llm.inference.reply import ReplyOptions

        decoding, corpus, system = self.recipe.decoding, self.recipe.corpora[self.corpus], self.system
        dialogues = corpus.reader == DIALOGUES
        prompt = (dialogues and system.dialogue_prompt) or system.prompt
        answers = corpus.ask != "emotion" and system.kind != "classifier"
        asked = corpus.ask != "reply" and system.classifier is None  # which tells the emotion itself
        return ReplyOptions(
            system=self.system_name,
            corpus=self.corpus if dialogues or self.corpus != corpus.reader else None,
            prompt=prompt if answers else None,
            recognize=decoding.recognize_prompt if asked else None,
            batch_size=decoding.batch_size,
            max_new_tokens=decoding.max_new_tokens,
            recognize_tokens=decoding.recognize_tokens,
            repetition_penalty=decoding.repetition_penalty,
            history=system.history if dialogues else "text",
            seed=self.seed,
        )

    def metrics(self) -> tuple[str, ...] | None:
        """What is scored where no reply was asked for; None for all that the replies allow."""
        if self.recipe.corpora[self.corpus].ask != "emotion" or self.system.kind == "file":
            return None
        if self.system.classifier:
            return ("HEAD",)
        return ("SER", "HEAD") if self.system.kind == "speech" else ("SER",)

    def models(self) -> Models:
        """The models of the system, without loading them."""
        from re_llm.inference.reply import NamedModels
        from re_llm.inference.served import served_name
        from re_llm.llm.device import pick_device, pick_dtype

        system, parts = self.system, self.recipe.components
        if system.server:
            return NamedModels((served_name(system.server.model),), "server")
        dtype = pick_dtype("auto", pick_device(self.recipe.device))
        if system.kind == "speech":
            assert self.checkpoint is not None
            return NamedModels((self.checkpoint,), dtype, self.recipe.decoding.quantize)
        words = parts.speech_encoder if system.kind == "cascade" else None
        llm = None if system.kind == "classifier" else parts.llm
        return NamedModels(tuple(name for name in (llm, words, self.checkpoint) if name), dtype)

    def load(self) -> System:
        """The system itself."""
        from re_llm.inference import engine
        from re_llm.inference.recognizer import EmotionRecognizer
        from re_llm.inference.served import ServedSystem
        from re_llm.inference.systems import text_system
        from re_llm.llm.device import pick_device, pick_dtype
        from re_llm.llm.server import ChatServer

        recipe, parts, system = self.recipe, self.recipe.components, self.system
        if system.server:
            return ServedSystem.of(ChatServer(system.server.options()), self.out)
        if system.kind == "speech":
            # Not as wide models are answered on some CPUs: a table does not depend on the processor.
            dtype = str(pick_dtype("auto", pick_device(recipe.device))).removeprefix("torch.")
            return engine.load(self.checkpoint, device=recipe.device, dtype=dtype, quantize=recipe.decoding.quantize)
        if system.kind == "classifier":
            assert self.checkpoint is not None
            dtype = str(self.models().dtype).removeprefix("torch.")
            return EmotionRecognizer.load(self.checkpoint, device=recipe.device, dtype=dtype, only=recipe.emotions)
        return text_system(
            system.kind, llm=parts.llm, whisper=parts.speech_encoder, classifier=self.checkpoint,
            emotions=recipe.emotions, device=recipe.device,
        )  # fmt: skip


def respond_job(job: RespondJob) -> str:
    """Lets one system answer one test set; rows that are answered already are skipped."""
    from re_llm.inference import respond, sources

    name = f"{job.system_name} on {job.corpus}"
    rows, known = sources.manifest_rows(job.manifest, job.splits)
    if job.system.file is not None:
        from re_llm.inference.given_replies import take_replies

        file = Path(job.system.file.replace("{corpus}", job.corpus))
        report = take_replies(file, rows, job.manifest.parent, job.out, job.options())
        return result_line(name, report, f"{report.rows} replies of {file}")
    hashes = sources.row_sources(rows, job.manifest.parent, audio=job.system.needs_audio)
    product = job.options().product(job.out, job.models())
    if respond.standing(product, hashes, known).state is State.SAME:
        return f"{name}: complete"
    answered = respond.respond_manifest(
        job.load(),
        job.manifest,
        job.out,
        job.options(),
        splits=job.splits,
        progress=False,
        overwrite=Overwrite.OUTDATED,
    )
    lost = f", {answered.dropped} without one" if answered.dropped else ""
    return result_line(name, answered, f"{answered.rows} replies, {answered.rate:.1f}/s{lost}")
