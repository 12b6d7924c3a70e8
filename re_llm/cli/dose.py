"""`re-llm dose`: the same utterances answered with more and more of their emotion information exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from re_llm.cli.common import (
    DEFAULT_MODEL,
    BatchSize,
    Commercial,
    Device,
    Dtype,
    JsonFlag,
    MaxNewTokens,
    Model,
    OverwriteFlag,
    chosen_model,
    overwriting,
    print_json,
)
from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from re_llm.evaluate.variants import DoseResponse
    from re_llm.inference.reply import System

DOSES = "0,0.25,0.5,0.75,1"


def dose(
    manifest: Annotated[Path, typer.Argument(help="Manifest of utterances with emotions.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the replies, scores and the page.")],
    model: Model = DEFAULT_MODEL,
    llm: Annotated[
        str | None, typer.Option(help="A chat LLM as well, told the words and the label (text-label).")
    ] = None,
    doses: Annotated[str, typer.Option(help="Fractions of exchanged utterances, 0 to 1.")] = DOSES,
    split: Annotated[list[str], typer.Option("--split", help="Only this split; may be repeated.")] = [],
    scorer: Annotated[str, typer.Option(help="EPITOME scorer, see `score`.")] = "small",
    seed: Annotated[int, typer.Option(help="Draws the utterances.")] = 0,
    batch_size: BatchSize = 16,
    max_new_tokens: MaxNewTokens = 128,
    commercial: Commercial = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure what follows when emotion information is wrong.

    Utterances are answered with the emotion embedding (a cascade: the label) of others, from none of them to all, and
    scored; the page shows the scores over the accuracy of recognition. A second run goes on. For judges: `judge` the
    replies in the folder, and give all files to `report`.

    Example:

        re-llm dose manifest.jsonl --llm mini:llm --out dose
    """
    from re_llm.core.product import Overwrite
    from re_llm.evaluate import load_scorer, score_file
    from re_llm.inference.engine import load
    from re_llm.inference.reply import ReplyOptions
    from re_llm.inference.respond import respond_manifest
    from re_llm.inference.systems import text_system
    from re_llm.inference.variant import Variant
    from re_llm.report.variant_sections import write_dose

    fractions = _fractions(doses)
    systems: dict[str, tuple[Callable[[], System], str]] = {}
    ours = chosen_model(model, commercial=commercial)
    systems["re-llm"] = partial(load, ours, device=device, dtype=dtype), "chat-empathetic"
    if llm:
        label = partial(text_system, "text-label", llm=llm, whisper=None, device=device, dtype=dtype)
        systems["text-label"] = label, "cascade"
    again, judge = overwriting(overwrite), load_scorer(scorer, device=device)
    replies, scores = [], []
    for name, (make, prompt) in systems.items():
        system = make()
        for fraction in fractions:
            options = ReplyOptions(name, prompt, None, batch_size, max_new_tokens, variant=Variant(fraction, seed))
            file = out / "replies" / f"{name}.{fraction:g}.jsonl"
            respond_manifest(system, manifest, file, options, splits=split or None, overwrite=again)
            replies.append(file)
            scores.append(out / "scores" / file.name)
            score_file(file, scores[-1], scorer=judge, overwrite=Overwrite.OUTDATED)
    found = write_dose(scores, replies, out)
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join([*_lines(found), f"report: {out / 'report.html'}"]))


def _lines(found: Sequence[DoseResponse]) -> Iterator[str]:
    for each in found:
        for metric, slope in each.slopes.items():
            low, high = slope.interval
            yield (
                f"{each.system} on {each.corpus}: {metric} by accuracy {slope.mean:+.3f} [{low:+.3f}, {high:+.3f}] "
                f"({each.items} utterances, {len(each.doses)} doses)"
            )


def _fractions(text: str) -> list[float]:
    """The doses, ascending; 0 among them.

    Raises:
        RellmError: one is no number from 0 to 1, or there is none beside 0.
    """
    try:
        found = sorted({0.0, *map(float, text.split(","))})
    except ValueError:
        found = [-1.0]
    if found[0] < 0 or found[-1] > 1 or len(found) < 2:
        raise RellmError(f"--doses {text}", allowed="fractions from 0 to 1, separated by commas, such as " + DOSES)
    return found
