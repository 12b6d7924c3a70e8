"""Words of synthetic speech that stand in a speech LLM's speech tokens, by kind of voice and by source of the text.

    python benchmarks/synthetic_words.py runs/small/speech/manifest.jsonl --voices runs/small/speech/voices.jsonl

The manifest is one of `re-llm small build`; `--voices` has Whisper's word errors of each voice (stage `voices`), and
those above the limit of that stage are told apart. All recordings of the split are read, in greedy read-out, with 95 %
intervals over recordings. `--show N` prints the first N that are misread, of each source.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from _common import head, need_parts
from real_english import read, told

from re_llm.audio.waveform import load
from re_llm.core.records import read_records
from re_llm.evaluate.word_errors import plain
from re_llm.inference.engine import load as load_engine
from re_llm.small.listen import LIMIT, VoiceErrors
from re_llm.small.render import Spoken


def kind_of_voice(row: Spoken, whisper: Mapping[str, float]) -> str:
    """In what the training knows a voice, and whether it is easy to understand."""
    if not row.unseen_voice:
        return "voices of the training"
    if row.speaker not in whisper:
        return "other voices"
    return f"other voices, Whisper misreads {'more' if whisper[row.speaker] > LIMIT else 'less'} than {LIMIT:.0%}"


def grouped(rows: Sequence[Spoken], whisper: Mapping[str, float]) -> dict[str, list[int]]:
    """Name of a group -> its rows; each row is in three of them."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for name in ("all", kind_of_voice(row, whisper), f"text: {row.source}"):
            groups[name].append(number)
    return dict(sorted(groups.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, nargs="?")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--voices", type=Path, default=None)
    parser.add_argument("--model", default="small:re-llm")
    parser.add_argument("--show", type=int, default=0)
    given = parser.parse_args()
    head("Words of synthetic speech")
    need_parts(given.model)
    if given.manifest is None:
        print("left out: name the manifest of a build")
        return
    rows = [row for row in read_records(given.manifest, Spoken) if row.split == given.split and row.text]
    if not rows:
        parser.error(f"{given.manifest} has no recordings of the split {given.split}")
    voices = read_records(given.voices, VoiceErrors) if given.voices else ()
    whisper = {voice.key: voice.wer for voice in voices}
    spoken = [(load(row.audio, root=given.manifest.parent), row.text or "") for row in rows]
    found = read(load_engine(given.model), spoken)
    print(f"| {given.split} | recordings | words | {given.model} |\n|---|---|---|---|")
    for name, own in grouped(rows, whisper).items():
        words = sum(len(plain(spoken[i][1]).split()) for i in own)
        print(f"| {name} | {len(own)} | {words} | {told([spoken[i] for i in own], [found[i] for i in own])} |")
        misread = [i for i in own if plain(spoken[i][1]) != plain(found[i])]
        for i in misread[: given.show] if name.startswith("text") else ():
            print(f"    {rows[i].speaker}: {spoken[i][1]} -> {found[i]}")


if __name__ == "__main__":
    main()
