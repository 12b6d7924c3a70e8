"""What a recipe needs before its first hour: every part opened, every corpus recognised, room for it all.

Run by `re-llm doctor RECIPE` and in the first second of `re-llm reproduce`. Only headers and labels are read; nothing
is downloaded. With `convert`, components and checkpoints in the formats of the original systems are converted first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from re_llm.audio import pyav, waveform
from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.core.records import TRAIN, Utterance
from re_llm.data import corpora
from re_llm.data.corpora.base import Scan
from re_llm.data.corpora.run import selected
from re_llm.model.hub import locate
from re_llm.pipeline.conversions import FOLDER, convert_all, with_converted
from re_llm.pipeline.open_parts import OPEN, kind_of_folder, require_weights
from re_llm.pipeline.others import other_findings, other_parts
from re_llm.recipe.config import Recipe
from re_llm.recipe.systems import DIALOGUES, CorpusOptions

Say = Callable[[str], None]
LABELS_READ = 400_000  # rows of a corpus whose splits are counted; more are taken as they come


@dataclass(frozen=True)
class Finding:
    """Something that would stop the run later. `part`: `llm`, `corpus esd`, `stage finetune`, ..."""

    part: str
    what: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.part}: {self.what}" + (f"; {self.todo}" if self.todo else "")


@dataclass
class Preflight:
    """What was found.

    Attributes:
        findings: what stops the run. notes: what a reader of its results should know.
        converted: name in the recipe -> folder that was made of it.
        rows: utterances of each corpus by split.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    converted: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def check(self) -> None:
        """Raises a RellmError with everything that was found."""
        if self.findings:
            listed = "\n".join(f"  - {finding}" for finding in self.findings)
            raise RellmError(
                f"the recipe cannot run here:\n{listed}", todo="Mend these, then run the same command again"
            )


def preflight(
    recipe: Recipe, out: Path | None = None, *, convert: bool = False, say: Say = lambda line: None
) -> tuple[Recipe, Preflight]:
    """Looks at everything that a run of the recipe will open.

    Args:
        out: folder of the run; conversions go into its `converted`, and its disk is what must have room.
        convert: convert what is in a format of the original systems (needs `out`).

    Returns:
        The recipe with converted parts in place of the original ones, and what was found.
    """
    found = Preflight()
    folders: dict[str, Path] = {}
    for name in _named_parts(recipe):
        role = _role(recipe, name)
        try:
            folders[name] = _here(name)
        except RellmError as error:
            todo = error.todo or _how_to_get(name, checkpoint=role == "checkpoint")
            found.findings.append(Finding(role, error.what, todo))
    if convert and out is not None:
        found.converted = convert_all(folders, out / FOLDER, say)
        recipe = with_converted(recipe, found.converted)
        folders = {
            found.converted.get(name, name): Path(found.converted.get(name, place)) for name, place in folders.items()
        }
    widths = _components(recipe, folders, found)
    _checkpoints(recipe, folders, widths, found)
    for name in recipe.corpora:
        _corpus(name, recipe, found)
    _scorer(recipe, found)
    found.findings += [Finding(*each) for each in other_findings(recipe)]
    if not found.findings:
        from re_llm.pipeline.room import feature_notes, room

        found.findings += [Finding(*line) for line in room(recipe, folders, found.rows, out)]
        found.notes += feature_notes(recipe, folders, found.rows)
    return recipe, found


# -- parts ------------------------------------------------------------------------------------------------------


def _named_parts(recipe: Recipe) -> list[str]:
    """Names of components and of checkpoints that are no stage of the recipe."""
    named = list(recipe.components.model_dump(exclude_none=True).values())
    named += [stage.start for stage in recipe.stages.values() if stage.start != "components"]
    named += [system.stage for system in recipe.systems.values() if system.stage]
    named += other_parts(recipe)
    return [name for name in dict.fromkeys(named) if name not in recipe.stages]


def _role(recipe: Recipe, name: str) -> str:
    for role, component in recipe.components.model_dump(exclude_none=True).items():
        if component == name:
            return str(role)
    return other_parts(recipe).get(name, "checkpoint")


def _here(name: str) -> Path:
    """The folder of a part: local, shipped, or already in the hub's cache.

    Raises:
        RellmError: it is on this machine in no form.
    """
    place = resolve_component(name)
    if Path(place).is_dir():
        return Path(place)
    try:
        return locate(place, also=("*.tiktoken",), local_files_only=True)
    except RellmError:
        raise RellmError(f"{name} is not on this machine") from None


def _how_to_get(name: str, *, checkpoint: bool) -> str:
    if checkpoint:
        return f"train it, or convert a released one: re-llm convert DOWNLOAD {name}"
    return f"get it with: hf download {name}"


@dataclass(frozen=True)
class Widths:
    """Sizes that must agree between components and checkpoints."""

    llm: int | None = None
    speech_encoder: int | None = None


def _components(recipe: Recipe, folders: dict[str, Path], found: Preflight) -> Widths:
    """Opens config, tokenizer and processor of every component."""
    opened = {}
    for role, name in recipe.components.model_dump(exclude_none=True).items():
        folder = folders.get(name)
        if folder is None:
            continue
        if role == "llm" and kind_of_folder(folder) == "qwen":
            todo = "convert it with --convert, or: re-llm convert FOLDER NEW and --set components.llm=NEW"
            found.findings.append(Finding(role, f"{name} is a Qwen of version 1", todo))
            continue
        try:
            opened[role] = OPEN[role](folder)
        except RellmError as error:
            found.findings.append(Finding(role, error.what, error.todo or "Copy or download the whole folder again"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"{folder} cannot be opened: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            found.findings.append(Finding(role, what, "Copy or download the whole folder again"))
    return Widths(opened.get("llm"), opened.get("speech_encoder"))


# -- checkpoints ------------------------------------------------------------------------------------------------


def _checkpoints(recipe: Recipe, folders: dict[str, Path], widths: Widths, found: Preflight) -> None:
    users: dict[str, list[str]] = {}
    for name, stage in recipe.stages.items():
        users.setdefault(stage.start, []).append(f"stage {name}")
    for name, system in recipe.systems.items():
        if system.stage:
            users.setdefault(system.stage, []).append(f"system {name}")
    for name, using in users.items():
        folder = folders.get(name)
        if folder is None or name in recipe.stages or name in recipe.components.model_dump().values():
            continue
        found.findings += [Finding(", ".join(using), what, todo) for what, todo in _unfit(name, folder, recipe, widths)]


def _unfit(name: str, folder: Path, recipe: Recipe, widths: Widths) -> Iterator[tuple[str, str]]:
    """Why a checkpoint cannot be started from or answered with."""
    kind = kind_of_folder(folder)
    if kind == "blsp-emo":
        yield f"{name} is a released checkpoint", "convert it with --convert, or: re-llm convert FOLDER NEW"
        return
    if kind != "re-llm":
        yield f"{folder} is no checkpoint of re-llm", "give the folder of a finished training"
        return
    from re_llm.model.components import read_config

    try:
        config = read_config(folder)
        require_weights(folder)
    except RellmError as error:
        yield error.what, error.todo or "train or convert it again"
        return
    for part, given, wanted in (
        ("LLM", config.llm_width, widths.llm),
        ("speech encoder", config.speech_width, widths.speech_encoder),
    ):
        if wanted is not None and given != wanted:
            yield f"{name} was made for a {part} of width {given}, the recipe's has {wanted}", "use the same components"
    lora = config.lora
    if lora is not None and recipe.model.lora is not None and lora.r != recipe.model.lora.r:
        yield f"{name} has LoRA of rank {lora.r}, the recipe's has {recipe.model.lora.r}", "set model.lora.r"
    if set(config.emotions) != set(recipe.emotions):
        yield f"{name} knows the emotions {', '.join(config.emotions)}, the recipe has {', '.join(recipe.emotions)}", ""


# -- corpora ----------------------------------------------------------------------------------------------------


def _corpus(name: str, recipe: Recipe, found: Preflight) -> None:
    """Recognises the root, counts utterances by split, and sees that a recording can be decoded."""
    part, corpus = f"corpus {name}", recipe.corpora[name]
    if corpus.reader == DIALOGUES:  # cut out of another corpus
        return
    if corpus.root == "mini":
        from importlib.util import find_spec

        if find_spec("espeakng_loader") is None:
            found.findings.append(
                Finding(part, "is synthesised, for which the extra `mini` is missing", _extra("mini"))
            )
        return
    root = Path(corpus.root).expanduser()
    if not root.exists():
        todo = f"set it with --set corpora.{name}.root=FOLDER"
        found.findings.append(Finding(part, f"no folder {corpus.root}", todo))
        return
    try:
        labels, first = _read_labels(corpus, root)
    except RellmError as error:
        found.findings.append(Finding(part, error.what, error.todo or ""))
        return
    rows: Counter[str] = Counter()
    for (split, _), number in labels.items():
        rows[split] += number
    found.rows[name] = dict(rows)
    if corpus.evaluate and corpus.ask != "reply" and "label_set" not in corpus.options:
        found.notes += _unnamed(name, recipe, labels)
    if first is None:
        of_protocol = f" of the protocol {corpus.protocol}" if corpus.protocol else ""
        found.findings.append(Finding(part, f"{root} holds no utterance{of_protocol}", ""))
        return
    if Path(first.audio).suffix.lower() in waveform.WITH_AV and not pyav.installed():
        found.findings.append(Finding(part, f"{Path(first.audio).name} needs the extra `av`", _extra("av")))
    if sum(rows.values()) == LABELS_READ:  # others may follow
        return
    for split, (why, todo) in _splits_read(name, recipe).items():
        if split not in rows:
            found.findings.append(Finding(part, f"{why}, but has no split `{split}` (it has {', '.join(rows)})", todo))


def _splits_read(name: str, recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Splits of a corpus that a run reads: what for, and what to do when there is no such split."""
    corpus, read = recipe.corpora[name], dict[str, tuple[str, str]]()
    training = {f"stage {each}": stage for each, stage in recipe.stages.items() if name in stage.data}
    if corpus.evaluate:
        read |= dict.fromkeys(
            corpus.test_splits, ("is evaluated", f"set corpora.{name}.test_splits, or evaluate: false")
        )
        tuned = {f"system {each}": system for each, system in recipe.systems.items() if system.per_corpus}
        training |= {who: recipe.stage_for(system) for who, system in tuned.items()}
    for who, stage in training.items():
        read.setdefault(TRAIN, (f"is trained on by {who}", "choose a protocol that has one"))
        if stage.validation is not None and stage.validation.split is not None:
            read.setdefault(stage.validation.split, (f"is held out by {who}", "set the stage's validation.split"))
    return read


def _unnamed(name: str, recipe: Recipe, labels: Counter[tuple[str, str | None]]) -> Iterator[str]:
    """What to know about emotions of a test set that no system can name, since the recipe does not."""
    tested = {emotion: n for (split, emotion), n in labels.items() if split in recipe.corpora[name].test_splits}
    others = {emotion: n for emotion, n in tested.items() if emotion is not None and emotion not in recipe.emotions}
    if others:
        named = ", ".join(recipe.emotions)
        yield (
            f"corpus {name}: {sum(others.values())} of {sum(tested.values())} utterances that are tested have emotions "
            f"that the recipe does not name ({', '.join(sorted(others))}): every answer to them counts as wrong in UA; "
            f'--set corpora.{name}.options.keep_emotions="{named}" leaves them out'
        )


def _read_labels(corpus: CorpusOptions, root: Path) -> tuple[Counter[tuple[str, str | None]], Utterance | None]:
    """How many utterances have a split and an emotion, and the first of all."""
    info, read = corpora.get(corpus.reader)
    scan = Scan(root, protocol=corpus.protocol, options=corpus.options)
    labels: Counter[tuple[str, str | None]] = Counter()
    first: Utterance | None = None
    for utterance in islice(selected(scan, info, read), LABELS_READ):
        first = first or utterance
        labels[utterance.split, utterance.emotion] += 1
    return labels, first


def _extra(name: str) -> str:
    return f'pip install "re-llm[{name}]"'


# -- scorer -----------------------------------------------------------------------------------------------------


def _scorer(recipe: Recipe, found: Preflight) -> None:
    from re_llm.evaluate import load_scorer

    if not recipe.systems:
        return
    if recipe.scorer == "small":
        found.notes.append("ER, Ex and IP by the small scorer, which is not the paper's RoBERTa bi-encoder")
        return
    try:
        load_scorer(recipe.scorer)
    except RellmError as error:
        todo = "train it with: re-llm score train EPITOME --out FOLDER, or set scorer: small (not the paper's)"
        found.findings.append(Finding("scorer", error.what, todo))
