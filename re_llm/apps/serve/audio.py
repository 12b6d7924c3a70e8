"""`POST /v1/audio/emotions`: the predicted emotion of one recording, sent as a form."""

from __future__ import annotations

import re
from typing import Any

from re_llm.apps.serve.protocol import ApiError
from re_llm.audio import waveform
from re_llm.audio.speech import prepare
from re_llm.core.errors import RellmError
from re_llm.inference.engine import Engine

MAX_FIELDS = 16
_BOUNDARY = re.compile(r'boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_NAME = re.compile(rb'content-disposition:[^\r\n]*\bname="([^"\r\n]{1,100})"', re.IGNORECASE)


def form_fields(body: bytes, content_type: str) -> dict[str, bytes]:
    """The fields of a multipart/form-data body.

    Raises:
        ApiError: 400, it is none.
    """
    boundary = _BOUNDARY.search(content_type)
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode()) if boundary else []
    fields: dict[str, bytes] = {}
    for part in parts[1 : MAX_FIELDS + 1]:
        head, found, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if found and name:
            fields[name[1].decode("utf-8", "replace")] = value
    if not fields:
        raise ApiError(400, "the body is no multipart/form-data with named fields", code="invalid_form")
    return fields


def emotion(engine: Engine, data: bytes, max_seconds: float) -> dict[str, Any]:
    """The emotion of an encoded file, and its length.

    Raises:
        ApiError: 400, it cannot be used.
    """
    try:
        loaded = waveform.load(data, max_seconds=max_seconds)
        samples = prepare(loaded, "the recording", engine.max_seconds())
    except RellmError as error:
        raise ApiError(400, str(error), param="file", code="unusable_audio") from None
    (encoded,) = engine.encode([samples])
    return {"duration": round(len(loaded) / waveform.RATE, 3), **encoded.estimate.predictions()}
