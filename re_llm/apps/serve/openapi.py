"""The API as OpenAPI (`/openapi.json`), and as a page (`/docs`) that loads nothing from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse

from re_llm.apps.serve import protocol
from re_llm.apps.serve.audio import TEXT_FORMATS
from re_llm.apps.serve.options import ServeOptions
from re_llm.core.version import __version__

Json = dict[str, Any]
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
EMOTION = {
    "predicted_emotion": "sad",
    "probabilities": {"sad": 0.81, "neutral": 0.15, "happy": 0.04},
    "valence": 0.28,
    "arousal": 0.22,
    "dominance": 0.31,
}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#8882;padding:.7rem;overflow-x:auto;border-radius:.3rem}"
    "h2{border-top:1px solid #8886;padding-top:1rem}"
    ":root{color-scheme:light dark}"
)


def add(app: FastAPI, name: str, options: ServeOptions) -> None:
    """Adds both routes."""
    spec = document(name, options)
    shown = page(spec)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(spec)

    @app.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(shown, headers={"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"})


def document(name: str, options: ServeOptions) -> Json:
    """The OpenAPI document of a server whose model has a name."""
    schema = protocol.schema()
    definitions = schema.pop("$defs", {})
    spec: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "re-llm",
            "version": __version__,
            "description": "A speech LLM behind OpenAI's chat API. Recordings and texts are neither stored nor logged.",
        },
        "paths": {
            "/v1/chat/completions": {"post": _chat(name)},
            "/v1/audio/emotions": {"post": _emotions()},
            "/v1/audio/transcriptions": {"post": _transcriptions(name)},
            "/v1/models": {"get": _got("Models", {"object": "list", "data": [_model(name)]})},
            "/v1/models/{model}": {"get": {**_got("One model", _model(name)), "parameters": [_path("model")]}},
            "/healthz": {"get": _got("Whether it answers", {"status": "ok", "model": name})},
        },
        "components": {
            "schemas": {"ChatRequest": schema, **definitions, "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    if options.api_key:
        spec["security"] = [{"key": []}]
    return spec


def _chat(name: str) -> Json:
    part = {"type": "input_audio", "input_audio": {"data": "UklGRi...", "format": "wav"}}
    asked = {"model": name, "messages": [{"role": "user", "content": [part]}], "max_tokens": 64}
    choice = {"index": 0, "message": {"role": "assistant", "content": "I'm so sorry."}, "finish_reason": "stop"}
    answered = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": name,
        "choices": [{**choice, "logprobs": None}],
        "usage": {"prompt_tokens": 31, "completion_tokens": 6, "total_tokens": 37},
        "emotion": EMOTION,
        "emotions": [{"content_index": 0, **EMOTION}],
    }
    return {
        "summary": "Answer a conversation of recordings and texts",
        "description": "With stream: true, server-sent events of chat.completion.chunk; the first holds the emotions.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _CHAT, "example": asked}}},
        "responses": _responses(answered),
    }


def _emotions() -> Json:
    fields = {
        "file": {"type": "string", "format": "binary", "description": "wav, flac, mp3, ogg, opus"},
        "model": {"type": "string"},
        "trajectory": {"type": "boolean", "description": "the windows of a recording of one window, too"},
        "window": {"type": "number", "minimum": 1, "maximum": 30, "description": "longest window in seconds"},
    }
    windows = [{"start": 0.0, "end": 3.2, **EMOTION}]
    return {
        "summary": "The emotion of one recording, as a whole and over time",
        "description": "The values of the recording are the mean of its windows, weighted by their lengths.",
        "requestBody": _form(fields),
        "responses": _responses({"duration": 3.2, **EMOTION, "trajectory": windows}),
    }


def _transcriptions(name: str) -> Json:
    fields = {
        "file": {"type": "string", "format": "binary", "description": "wav, flac, mp3, ogg, opus"},
        "model": {"type": "string", "examples": [name]},
        "response_format": {"type": "string", "enum": list(TEXT_FORMATS)},
        "temperature": {"type": "number", "const": 0},
    }
    return {
        "summary": "The words of one recording",
        "requestBody": _form(fields),
        "responses": _responses({"text": "On the phone, I joked about that pudding."}),
    }


def _form(fields: Json) -> Json:
    schema = {"type": "object", "required": ["file"], "properties": fields}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _got(summary: str, example: Json) -> Json:
    return {"summary": summary, "responses": _responses(example)}


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 1700000000, "owned_by": "re-llm"}


def _path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _responses(example: Json) -> Json:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "done", "content": {"application/json": {"example": example}}},
        "default": {"description": "an error, as OpenAI writes them; `param` names the place", "content": error},
    }


_CHAT = {"$ref": "#/components/schemas/ChatRequest"}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": ["string", "null"]} for name in ("message", "type", "param", "code")},
        }
    },
}


def page(spec: Json) -> str:
    """A page about an OpenAPI document."""
    parts = []
    for path, methods in spec["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(about['summary'])}.")
            parts.append(f" {escape(about.get('description', ''))}</p>")
            for kind, body in about.get("requestBody", {}).get("content", {}).items():
                shown = body.get("example") or body["schema"]["properties"]
                parts.append(f"<h3>Request ({escape(kind)})</h3>{_block(shown)}")
            answer = about["responses"]["200"]["content"]["application/json"]["example"]
            parts.append(f"<h3>Response</h3>{_block(answer)}")
    fields = spec["components"]["schemas"]["ChatRequest"]["properties"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>re-llm: API</title><style>{STYLE}</style>'
        f"<h1>re-llm: API</h1><p>{escape(spec['info']['description'])} The whole of it as "
        f'<a href="openapi.json">OpenAPI</a>.</p>{"".join(parts)}'
        f"<h2>Fields of a chat request</h2>{_block(fields)}</html>"
    )


def _block(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
