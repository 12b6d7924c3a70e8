"""What a recipe names beside components, stages and corpora: servers, files of replies, encoders of classifiers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx2

from re_llm.recipe.config import Recipe
from re_llm.recipe.emotion import SharedOptions
from re_llm.recipe.systems import ServerChoice

SECONDS = 5.0  # that a server may take to say that it is there


def other_parts(recipe: Recipe) -> dict[str, str]:
    """Names of models, and what each is for."""
    found = {name: f"llm {key}" for key, name in recipe.llms.items() if isinstance(name, str)}
    for key, options in recipe.classifiers.items():
        encoder = options.emotion_encoder
        name = encoder.speech_encoder if isinstance(encoder, SharedOptions) else encoder.name
        found[name] = f"classifier {key}"
    for key, system in recipe.systems.items():
        if system.classifier and system.classifier not in recipe.classifiers:
            found[system.classifier] = f"system {key}"
    return found


def other_findings(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """(part, what is missing, what to do) of servers and of files of replies."""
    for part, server in _servers(recipe):
        yield from ((part, what, todo) for what, todo in _unusable(server))
    for key, system in recipe.systems.items():
        for corpus, options in recipe.corpora.items():
            if system.file and options.evaluate and (system.corpora is None or corpus in system.corpora):
                file = Path(system.file.replace("{corpus}", corpus))
                if not file.is_file():
                    yield f"system {key}", f"no file {file}", f"set it with --set systems.{key}.file=FILE"


def _servers(recipe: Recipe) -> Iterator[tuple[str, ServerChoice]]:
    yield from ((f"llm {key}", each) for key, each in recipe.llms.items() if isinstance(each, ServerChoice))
    yield from ((f"system {key}", each.server) for key, each in recipe.systems.items() if each.server)
    if recipe.judge:
        yield "judge", recipe.judge.server


def _unusable(server: ServerChoice) -> Iterator[tuple[str, str]]:
    if server.key_env and not os.environ.get(server.key_env, "").strip():
        yield f"the environment variable {server.key_env} is not set", f"export {server.key_env}=..."
    try:
        with httpx2.Client(timeout=SECONDS, trust_env=False, follow_redirects=False) as client:
            client.get(f"{server.url.rstrip('/')}/models")  # whatever it says: it is there
    except httpx2.RequestError as error:
        yield f"{server.url} cannot be reached: {error or type(error).__name__}", "start it, or leave the system out"
