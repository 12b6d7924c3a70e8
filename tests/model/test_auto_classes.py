"""`import re_llm` is cheap, and still makes the Auto classes know the model."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "peft")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_importing_the_package_imports_nothing_heavy():
    code = "import re_llm, sys; re_llm.__version__, re_llm.RellmError"
    assert run(f"{code}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto")
    world.model().save_pretrained(folder)
    world.processor().save_pretrained(folder)
    return folder


# Each costs a cold start of transformers, so each checks a different way in.
WAYS = {
    "ours first": (
        "import re_llm; from transformers import AutoModel, AutoConfig",
        ["type(AutoModel.from_pretrained(checkpoint)) is re_llm.ReLlmForConditionalGeneration",
         "AutoConfig.from_pretrained(llm).model_type == 'qwen2'"],
    ),
    "theirs first": (
        "from transformers import AutoProcessor; import re_llm",
        ["type(AutoProcessor.from_pretrained(checkpoint)) is re_llm.ReLlmProcessor"],
    ),
    "theirs first, used before": (
        "from transformers import AutoConfig, AutoModel, AutoTokenizer; AutoConfig.from_pretrained(llm); import re_llm",
        ["AutoConfig.from_pretrained(checkpoint).model_type == 're_llm'",
         "'<|speech|>' in AutoTokenizer.from_pretrained(checkpoint).get_vocab()",
         "type(AutoModel.from_config(re_llm.ReLlmConfig.from_pretrained(checkpoint))).__name__.startswith('ReLlm')"],
    ),
    "through a model of theirs": (
        "import re_llm, transformers; from transformers.models.whisper import WhisperModel",
        ["type(transformers.AutoProcessor.from_pretrained(checkpoint)) is re_llm.ReLlmProcessor"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_auto_classes_whichever_is_imported_first(world, checkpoint, way):
    imports, claims = WAYS[way]
    code = f"checkpoint, llm = {str(checkpoint)!r}, {str(world.llm)!r}; {imports}; print([{', '.join(claims)}])"
    assert run(code) == str([True] * len(claims))


def test_an_unknown_name():
    found = run("import re_llm\ntry: re_llm.nothing\nexcept AttributeError as e: print(e)")
    assert "no attribute 'nothing'" in found
