"""A custom reader: a file beside the data, named on the command line (`re-llm prepare bells.py --root BELLS`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from re_llm.core.errors import RellmError
from re_llm.data.corpora.base import CorpusInfo

SUFFIX = ".py"
_PREFIX = "re_llm_custom_corpus_"  # in sys.modules: no name of a module that is installed


def load(path: Path) -> ModuleType:
    """The module of a reader: it runs, as any Python file that one starts.

    Raises:
        RellmError: there is no such file, it cannot be imported, or it lacks `INFO` or `read`.
    """
    if not path.is_file():
        raise RellmError(f"no such file: {path}", todo="Check the path of the reader")
    name = _PREFIX + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        del sys.modules[name]
        place = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise RellmError(f"{path}{place} cannot be imported: {error!r}", todo="Correct the reader") from error
    info, read = getattr(module, "INFO", None), getattr(module, "read", None)
    if not isinstance(info, CorpusInfo) or not callable(read):
        missing = "INFO, a CorpusInfo" if not isinstance(info, CorpusInfo) else "read, a generator of utterances"
        raise RellmError(f"{path} has no {missing}", todo="Copy the example of docs/corpora.md")
    return module
