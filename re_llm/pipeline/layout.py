"""The folders of a run of a recipe, and what depends on what in them.

corpora/NAME/manifest.jsonl    continuations/NAME.PROMPT.jsonl    features/
checkpoints/STAGE/ and checkpoints/SYSTEM/CORPUS/SEED/
replies/CORPUS/SYSTEM.SEED.jsonl    scores/CORPUS/SYSTEM.SEED.jsonl    gold.jsonl    report/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from re_llm.core.errors import RellmError
from re_llm.core.product import Overwrite, State
from re_llm.core.records import TRAIN
from re_llm.pipeline.jobs import ClassifierJob, TrainJob, result_line
from re_llm.pipeline.responding import RespondJob
from re_llm.recipe.config import Recipe
from re_llm.recipe.stages import StageOptions
from re_llm.recipe.systems import DIALOGUES, CorpusOptions, SystemOptions

if TYPE_CHECKING:
    from re_llm.continuations.dialogues import Dialogues

Say = Callable[[str], None]
MINI_ROOTS = {"common_voice": "speech/en"}  # where the miniature world puts a corpus that is not named after its reader


TURNS = 3  # of the user's in a dialogue (BLSP-Emo section 4.1)


class Wanted(NamedTuple):
    """Continuations of a split of a corpus to a prompt, by one of the recipe's `llms` (empty: the LLM of the run)."""

    llm: str
    corpus: str
    prompt: str
    split: str

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.corpus, self.prompt, self.split.replace(TRAIN, ""), self.llm)))


class Run:
    """Lays out the folders of one run and knows what depends on what."""

    def __init__(self, recipe: Recipe, out: Path, say: Say, world: Path | None = None, world_seed: int = 0):
        self.recipe, self.out, self.say = recipe, out, say
        self.world, self.world_seed = world or out / "world", world_seed
        self.features = out / "features"  # one place: states are found by their content

    # -- corpora ------------------------------------------------------------------------------------------------

    def manifest(self, corpus: str) -> Path:
        return self.out / "corpora" / corpus / "manifest.jsonl"

    def root(self, corpus: CorpusOptions) -> Path:
        """Folder of a corpus; the miniature's are rendered once per scale."""
        if corpus.root != "mini":
            return Path(corpus.root)
        return self.world / f"x{corpus.scale:g}" / MINI_ROOTS.get(corpus.reader, corpus.reader)

    def write_world(self) -> None:
        """Renders the miniature's corpora that the recipe names; finished ones are skipped."""
        for options in self.recipe.corpora.values():
            if options.root == "mini" and options.reader != DIALOGUES:
                from re_llm.mini.layouts import write_world

                name = MINI_ROOTS.get(options.reader, options.reader).split("/")[0]
                root = self.world / f"x{options.scale:g}"
                workers = self.recipe.workers
                write_world(root, corpora=[name], seed=self.world_seed, scale=options.scale, workers=workers)

    def prepare(self) -> None:
        """Manifests of all corpora, with pseudo V/A/D where the recipe asks for it."""
        from re_llm.data.corpora import prepare
        from re_llm.data.corpora.product import manifest_product, manifest_standing

        for name, options in self.recipe.corpora.items():
            if options.reader == DIALOGUES:
                continue  # which are cut out of the others
            root, estimator = self.root(options), self._estimator(name, options)
            made: dict[str, Any] = {"protocol": options.protocol, "options": options.options}
            product = manifest_product(self.manifest(name), options.reader, root, pseudo_vad=estimator, **made)
            if manifest_standing(product, root).state is State.SAME:
                self.say(f"{name}: complete")
                continue
            if estimator in (None, "norms"):
                made["pseudo_vad"] = estimator
            else:
                from re_llm.data.pseudo_vad import DimensionEstimator

                made["pseudo_vad"] = DimensionEstimator.load(estimator, device=self.recipe.device)
            made |= {"workers": self.recipe.workers, "overwrite": Overwrite.OUTDATED}
            report = prepare(options.reader, root, product.out, **made)
            self.say(result_line(name, report, f"{report.rows} utterances, {len(report.problems)} problems"))

        self._cut_dialogues()

    def _cut_dialogues(self) -> None:
        from re_llm.data.dialogues import write_dialogues

        for name, options in self.recipe.corpora.items():
            if options.reader == DIALOGUES:
                turns = int(options.options.get("turns", TURNS))
                report = write_dialogues(
                    self.manifest(options.root), self.manifest(name), turns=turns, emotions=self.recipe.emotions,
                    overwrite=Overwrite.OUTDATED,
                )  # fmt: skip
                self.say(result_line(name, report, f"{report.rows} dialogues"))

    def _estimator(self, corpus: str, options: CorpusOptions) -> str | None:
        """What estimates missing V/A/D: the name of an emotion encoder, `norms`, or None."""
        if options.pseudo_vad in (False, "norms"):
            return options.pseudo_vad or None
        if self.recipe.components.emotion_encoder is None:
            raise RellmError(f"corpus {corpus!r} asks for pseudo_vad, but components.emotion_encoder is null")
        return self.recipe.components.emotion_encoder

    # -- continuations ------------------------------------------------------------------------------------------

    def continuation(self, wanted: Wanted) -> Path:
        ending = "jsonl" if wanted.split == TRAIN else f"{wanted.split}.jsonl"
        return self.out / "continuations" / (wanted.llm or "") / f"{wanted.corpus}.{wanted.prompt}.{ending}"

    def continuations(self, corpora: Iterable[str], stage: StageOptions) -> tuple[Path, ...]:
        """The files that a stage reads: of its training set, and of the split that it holds out."""
        found: list[Path] = []
        for corpus in corpora:
            wanted = _continuations([corpus], stage)
            found += map(self.continuation, wanted) if wanted else [self.manifest(corpus)]
        return tuple(found)

    def continue_all(self) -> None:
        """Continuations of every training set that a stage reads, by the recipe's LLM or by another."""
        from re_llm.continuations import NamedLlm, continue_manifest
        from re_llm.continuations.plan import CHUNK
        from re_llm.llm.server import ChatServer

        decoding, llms = self.recipe.decoding, dict[str, NamedLlm | ChatServer]()
        talks = self.recipe.dialogues
        last = None if talks is None else talks.prompt  # its earlier turns are answered before
        for wanted in sorted(self._wanted_continuations(), key=lambda each: (each.prompt == last, each)):
            llm = self.recipe.llms[wanted.llm] if wanted.llm else self.recipe.components.llm
            if wanted.llm not in llms:  # loaded once, if at all
                llms[wanted.llm] = (
                    NamedLlm.of(llm, device=self.recipe.device, tokens=decoding.continuation_tokenization)
                    if isinstance(llm, str)
                    else ChatServer(llm.options())
                )
            report = continue_manifest(
                self.manifest(wanted.corpus),
                self.continuation(wanted),
                llm=llms[wanted.llm],
                prompt=wanted.prompt,
                splits=(wanted.split,),
                batch_size=decoding.batch_size,
                chunk=max(CHUNK, decoding.batch_size),
                max_new_tokens=decoding.continuation_tokens,
                dialogues=self._dialogues(wanted) if wanted.prompt == last else None,
                overwrite=Overwrite.OUTDATED,
            )
            dropped = dict(report.dropped) or 0
            result = f"{report.rows} continuations, {report.rate:.0f}/s, dropped {dropped}"
            self.say(result_line(str(wanted), report, result))

    def _dialogues(self, wanted: Wanted) -> Dialogues:
        from re_llm.continuations.dialogues import Dialogues

        options = self.recipe.dialogues
        assert options is not None, "the prompt is that of the dialogues"
        return Dialogues(options, self.continuation(wanted._replace(prompt=options.answers)))

    def _wanted_continuations(self) -> set[Wanted]:
        wanted = {each for stage in self.recipe.stages.values() for each in _continuations(stage.data, stage)}
        for system in self.recipe.systems.values():
            if system.stage in self.recipe.stages and system.per_corpus:
                wanted |= set(_continuations(self.tuned_on(system), self.recipe.stage_for(system)))
        talks = self.recipe.dialogues
        if talks is not None:
            wanted |= {each._replace(prompt=talks.answers) for each in wanted if each.prompt == talks.prompt}
        return wanted

    def evaluated(self, system: SystemOptions | None = None) -> list[str]:
        """Names of the corpora that are evaluated, or of those that a system answers."""
        names = [name for name, options in self.recipe.corpora.items() if options.evaluate]
        return [name for name in names if system is None or system.corpora is None or name in system.corpora]

    def source(self, corpus: str) -> str:
        """The corpus that the utterances of another one are from: of dialogues, the one that they are cut out of."""
        options = self.recipe.corpora[corpus]
        return options.root if options.reader == DIALOGUES else corpus

    def tuned_on(self, system: SystemOptions) -> list[str]:
        """Corpora on which a system is trained for what it answers."""
        return list(dict.fromkeys(map(self.source, self.evaluated(system))))

    # -- training -----------------------------------------------------------------------------------------------

    def stage_order(self) -> list[str]:
        """Stages after the ones that they start from; a stage that only systems fine-tune is not run by itself."""
        order: list[str] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise RellmError(f"the stages {' -> '.join((*path, name))} start from each other")
            if name in order or name not in self.recipe.stages:
                return
            visit(self.recipe.stages[name].start, (*path, name))
            if self.recipe.stages[name].data:
                order.append(name)

        for name in self.recipe.stages:
            visit(name, ())
        return order

    def _start(self, stage: StageOptions) -> str | None:
        if stage.start == "components":
            return None
        return str(self.out / "checkpoints" / stage.start) if stage.start in self.recipe.stages else stage.start

    def classifier(self, name: str) -> Path:
        return self.out / "classifiers" / name

    def classifier_jobs(self) -> list[ClassifierJob]:
        return [
            ClassifierJob(name, options, self.recipe, tuple(map(self.manifest, options.data)), self.classifier(name))
            for name, options in self.recipe.classifiers.items()
        ]

    def stage_job(self, name: str) -> TrainJob:
        stage = self.recipe.stages[name]
        data = self.continuations(stage.data, stage)
        model = self.recipe.model_of(stage)
        out, seed = self.out / "checkpoints" / name, self.recipe.seeds[0]
        return TrainJob(name, self.recipe, model, stage, self._start(stage), data, out, self.features, seed)

    def tuning_job(self, name: str, corpus: str, seed: int) -> TrainJob:
        system = self.recipe.systems[name]
        stage = self.recipe.stage_for(system)
        data = self.continuations([corpus], stage)
        out = self.checkpoint(name, corpus, seed)
        model = self.recipe.model_for(system)
        title = f"{name} on {corpus}, seed {seed}"
        return TrainJob(title, self.recipe, model, stage, self._start(stage), data, out, self.features, seed)

    def checkpoint(self, system_name: str, corpus: str, seed: int) -> Path:
        return self.out / "checkpoints" / system_name / corpus / str(seed)

    def tuning_jobs(self) -> list[TrainJob]:
        return [
            self.tuning_job(name, corpus, seed)
            for seed in self.recipe.seeds
            for corpus in dict.fromkeys(map(self.source, self.evaluated()))
            for name, system in self.recipe.systems.items()
            if system.per_corpus and corpus in self.tuned_on(system)
        ]

    # -- answers ------------------------------------------------------------------------------------------------

    def respond_jobs(self) -> list[RespondJob]:
        jobs = []
        for name, system in self.recipe.systems.items():
            # Only training is random: a system that is not trained here answers the same whatever the seed.
            for seed in self.recipe.seeds if system.per_corpus else self.recipe.seeds[:1]:
                for corpus in self.evaluated(system):
                    out = self.replies(corpus, name, seed)
                    checkpoint = self._checkpoint_of(name, system, corpus, seed)
                    jobs.append(
                        RespondJob(name, system, self.recipe, checkpoint, self.manifest(corpus), out, seed, corpus)
                    )
        return jobs

    def _checkpoint_of(self, name: str, system: SystemOptions, corpus: str, seed: int) -> str | None:
        """Folder or name of a speech system's checkpoint, or of the classifier that a text system asks."""
        if system.classifier in self.recipe.classifiers:
            return str(self.classifier(system.classifier))
        if system.per_corpus:
            return str(self.checkpoint(name, self.source(corpus), seed))
        if system.stage in self.recipe.stages:
            return str(self.out / "checkpoints" / system.stage)
        return system.stage or system.classifier

    def replies(self, corpus: str, system: str, seed: int) -> Path:
        return self.out / "replies" / corpus / f"{system}.{seed}.jsonl"

    def of_miniature(self, corpus: str) -> bool:
        """Whether a corpus is spoken by the miniature's voices: its replies may carry gold levels."""
        return self.recipe.corpora[self.source(corpus)].root == "mini"

    @property
    def gold(self) -> Path:
        return self.out / "gold.jsonl"

    def judged(self, replies: Path) -> Path:
        return self.out / "judged" / replies.parent.name / replies.name

    def scores(self, replies: Path) -> Path:
        return self.out / "scores" / replies.parent.name / replies.name


def _continuations(corpora: Iterable[str], stage: StageOptions) -> list[Wanted]:
    """All answers that a stage reads; none of its donors, nor of what it trains without."""
    if not stage.reads_answers():
        return []
    held_out = stage.validation.split if stage.validation else None
    splits = [TRAIN, held_out] if held_out else [TRAIN]
    llm = stage.continuation_llm or ""
    return [
        Wanted(llm, corpus, prompt, split)
        for corpus in corpora
        if corpus not in stage.donors and corpus not in stage.unanswered
        for prompt in stage.continuations()
        for split in splits
    ]
