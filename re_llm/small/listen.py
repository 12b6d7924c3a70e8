"""Whether the voices can be understood: Whisper's word error rate of each, and the manifest of those that can."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from re_llm.audio.waveform import load
from re_llm.core.errors import RellmError
from re_llm.core.records import Record, Utterance, read_records, write_records
from re_llm.evaluate.word_errors import error_rate, plain
from re_llm.small.render import Spoken
from re_llm.small.rows import growing

SAMPLE = 30
LIMIT = 0.30
"""Word error rate above which a voice teaches more noise than words."""


class VoiceErrors(Record):
    """What Whisper understood of a voice; `key` is the voice."""

    utterances: int
    words: int
    wer: float


def listen(
    rendered: Path, whisper: Path, out: Path, *, sample: int = SAMPLE, say: Callable[[str], None] = lambda line: None
) -> list[VoiceErrors]:
    """Transcribes a sample of every voice; resumes where an earlier run stopped.

    Sentences with figures are left out, since Whisper may write them in another way than they stand in the text, and
    lists of words, which nobody expects to hear.

    Args:
        rendered: the manifest of all recordings.
        whisper: folder of a complete Whisper.
        out: one row a voice.
    """
    from re_llm.inference.transcribe import Transcriber

    chosen: dict[str, list[Utterance]] = defaultdict(list)
    for row in read_records(rendered, Spoken):
        if row.source != "words" and not any(c.isdigit() for c in row.text or ""):
            chosen[str(row.speaker)].append(row)
    with growing(out, {"sample": sample}) as rows:
        missing = sorted(chosen.keys() - rows.keys)
        transcriber = Transcriber.load(str(whisper), device="cpu", dtype="float32") if missing else None
        for speaker in missing:
            assert transcriber is not None
            some = chosen[speaker][:sample]
            waves = [load(row.audio, root=rendered.parent) for row in some]
            texts = [plain(row.text or "").split() for row in some]
            wer = error_rate(texts, [plain(found).split() for found in transcriber.transcribe(waves)])
            rows.append([VoiceErrors(key=speaker, utterances=len(some), words=sum(map(len, texts)), wer=wer)])
            say(f"voices: {speaker}: word error rate {100 * wer:.1f} %, {len(some)} sentences")
    return list(read_records(out, VoiceErrors))


def keep_understood(rendered: Path, voices: list[VoiceErrors], out: Path, *, limit: float = LIMIT) -> list[str]:
    """Writes the manifest of the voices within the limit; returns the names of the others.

    Raises:
        RellmError: no voice is within it.
    """
    good = {voice.key for voice in voices if voice.wer <= limit}
    if not good:
        raise RellmError(f"Whisper understands none of the voices of {rendered}", allowed=f"word error rate <= {limit}")
    write_records(out, (row for row in read_records(rendered, Utterance) if row.speaker in good))
    return sorted({voice.key for voice in voices} - good)
