"""A long recording as windows by voice activity: stretches of speech that are each short enough to be encoded alone.

The activity is that of silero-vad where it is installed (extra `vad`), else of `re_llm.audio.speech`. All positions are
samples of the recording at 16 kHz; a span is (first, behind the last).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from re_llm.audio import silero
from re_llm.audio.speech import FRAME, LEAD_SECONDS, TAIL_SECONDS, frame_levels, speech_frames
from re_llm.audio.waveform import RATE, Samples

SHORTEST_SECONDS = 1.0  # of a window that can be asked for
SPEECH_SECONDS = 0.1  # louder parts that are shorter are clicks
JOINED_SECONDS = 0.3  # shorter gaps belong to the speech: stops, breath
PAUSE_SECONDS = 0.5  # a longer one ends a window: another utterance follows, perhaps in another mood
ON, OFF = 0.5, 0.35  # probabilities of silero-vad at which speech begins and ends
SOFT_FRAMES = 5  # a cut inside of speech lies in the softest 100 ms

Span = tuple[int, int]


def windows(samples: Samples, seconds: float) -> list[Span]:
    """Windows of samples [T], in their order, that hold all of the speech and last at most `seconds` each.

    A window ends in a pause; speech that goes on for longer is cut where it is softest. Without any speech the whole
    recording is taken for it.

    Args:
        seconds: at least 1.
    """
    assert seconds >= SHORTEST_SECONDS, seconds
    lead, tail = (min(round(margin * RATE), round(seconds * RATE / 4)) for margin in (LEAD_SECONDS, TAIL_SECONDS))
    most = round(seconds * RATE) - lead - tail
    spans = speech_spans(samples) or [(0, len(samples))]
    pieces = [piece for span in spans for piece in _cut(span, samples, most)]
    found = [pieces[0]]
    for first, last in pieces[1:]:
        begin, end = found[-1]
        if last - begin <= most and first - end < PAUSE_SECONDS * RATE:
            found[-1] = (begin, last)
        else:
            found.append((first, last))
    return _widened(found, lead, tail, len(samples))


def speech_spans(samples: Samples) -> list[Span]:
    """Stretches of speech in samples [T], short gaps included; none where nothing is taken for speech."""
    if silero.weights() is None:
        active, step = speech_frames(samples), FRAME
    else:
        active, step = _hysteresis(silero.speech_probabilities(samples)), silero.CHUNK
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0)) * step
    spans: list[Span] = []
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if spans and first - spans[-1][1] < JOINED_SECONDS * RATE:
            spans[-1] = (spans[-1][0], last)
        else:
            spans.append((first, last))
    return [(first, min(last, len(samples))) for first, last in spans if last - first >= SPEECH_SECONDS * RATE]


def _hysteresis(probabilities: np.ndarray) -> np.ndarray:
    """Speech begins at `ON` and ends below `OFF`, bool [N]."""
    known = np.where(probabilities >= ON, 1, np.where(probabilities < OFF, 0, -1))
    last = np.maximum.accumulate(np.where(known >= 0, np.arange(len(known)), -1))
    return np.asarray((last >= 0) & (known[last] == 1))


def _cut(span: Span, samples: Samples, most: int) -> list[Span]:
    """A span as pieces of at most `most` samples, about equally long, cut where the speech is softest."""
    first, last = span
    if last - first <= most:
        return [span]
    pieces = -(-(last - first) // most)
    earliest, latest = max(last - (pieces - 1) * most, first + most // 2), min(first + most, last - most // 4)
    levels = frame_levels(samples[earliest:latest])
    soft = int(np.argmin(np.convolve(levels, np.ones(SOFT_FRAMES), mode="valid"))) if len(levels) > SOFT_FRAMES else 0
    at = min(earliest + (soft + SOFT_FRAMES // 2) * FRAME, latest)
    return [(first, at), *_cut((at, last), samples, most)]


def _widened(spans: list[Span], lead: int, tail: int, length: int) -> list[Span]:
    """Spans with a margin at each side, which reaches at most to the middle of the gap to the next."""
    middles = [0, *((end + start) // 2 for (_, end), (start, _) in pairwise(spans)), length]
    return [(max(first - lead, middles[i]), min(last + tail, middles[i + 1])) for i, (first, last) in enumerate(spans)]
