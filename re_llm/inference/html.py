"""An estimate or a reply as a notebook shows it: recording, probabilities as bars, a point in the emotional plane."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

import numpy as np

from re_llm.audio.waveform import wav_bytes
from re_llm.core.records import DIMENSIONS

BAR = 160  # pixels
SIDE = 150  # pixels, of the valence-arousal plane
SOFT = "opacity:.65"


def player(samples: np.ndarray) -> str:
    """A recording that can be played; its data are part of the page."""
    data = base64.b64encode(wav_bytes(samples)).decode()
    return f'<audio controls src="data:audio/wav;base64,{data}"></audio>'


def bars(probabilities: Mapping[str, float]) -> str:
    """A bar for every emotion, the likeliest first."""
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td>'
        f'<td style="text-align:left"><div style="width:{BAR}px"><div style="width:{BAR * value:.0f}px;height:.7em;'
        f'background:#3c5bd6"></div></div></td><td>{value:.0%}</td></tr>'
        for name, value in sorted(probabilities.items(), key=lambda item: -item[1])
    )
    return f"<table>{rows}</table>" if rows else ""


def plane(valence: float, arousal: float) -> str:
    """The point of an estimate in the plane of valence (to the right) and arousal (upward), both 0..1."""
    x, y = (SIDE * min(max(value, 0.0), 1.0) for value in (valence, 1 - arousal))
    half = SIDE // 2
    return (
        f'<svg width="{SIDE + 40}" height="{SIDE + 20}" viewBox="-20 -2 {SIDE + 40} {SIDE + 20}" role="img" '
        f'aria-label="valence {valence:.2f}, arousal {arousal:.2f}" font-size="11" fill="currentColor">'
        f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="currentColor" opacity=".4"/>'
        f'<path d="M{half} 0V{SIDE}M0 {half}H{SIDE}" stroke="currentColor" opacity=".25"/>'
        f'<text x="{half}" y="{SIDE + 14}" text-anchor="middle">valence</text>'
        f'<text x="-6" y="{half}" text-anchor="middle" transform="rotate(-90 -6 {half})">arousal</text>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="#3c5bd6"/></svg>'
    )


def estimate_html(estimate: object) -> str:
    """Bars and plane of an object with the attributes of an `Estimate`; empty for one of text alone."""
    values = {name: getattr(estimate, name) for name in DIMENSIONS}
    shown = ", ".join(f"{name} {value:.2f}" for name, value in values.items() if value is not None)
    named = getattr(estimate, "answer", None)
    cells = [bars(getattr(estimate, "probabilities", {}))]
    if values["valence"] is not None and values["arousal"] is not None:
        cells.append(plane(values["valence"], values["arousal"]))
    lines = [f'<div style="{SOFT}">{shown}</div>'] if shown else []
    if named is not None:
        lines.append(f"<div>“{escape(named)}”</div>")
    moments, notice = getattr(estimate, "trajectory", ()), getattr(estimate, "notice", None)
    if len(moments) > 1:
        parts = (f"{each.start:.1f} to {each.end:.1f} s {each.estimate.predicted_emotion}" for each in moments)
        lines.append(f'<div style="{SOFT}">{escape(", ".join(parts))}</div>')
    if notice:
        lines.append(f'<div style="{SOFT}">{escape(notice)}.</div>')
    inside = "".join(f"<div>{cell}</div>" for cell in cells if cell)
    return (f'<div style="display:flex;gap:2em;align-items:center">{inside}</div>' if inside else "") + "".join(lines)


def reply_html(response: str, estimates: tuple[object, ...], recordings: tuple[np.ndarray, ...]) -> str:
    """A reply: every recording of its turn with its estimate, then the response."""
    heard = [
        (player(recordings[i]) if i < len(recordings) else "") + estimate_html(each) for i, each in enumerate(estimates)
    ]
    return f'{"".join(heard)}<p style="font-size:1.1em">{escape(response)}</p>'
