"""What prepares text and audio, out of the folders of the parts: tokenizer, feature extractor, kind of waveform."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoFeatureExtractor, AutoTokenizer, PreTrainedTokenizerBase, WhisperFeatureExtractor

from re_llm.core.assets import named_components
from re_llm.core.errors import RellmError
from re_llm.llm.vocabulary import require_words
from re_llm.model.configuration import SPEECH_TOKEN
from re_llm.model.hub import locate, read_json, reading
from re_llm.model.recordings import SAMPLE_RATE
from re_llm.model.shared_emotion_config import is_shared

# In front of the LLM's chat template. A tokenizer alone, as pipeline("text-generation") has it, cannot read a
# recording: many templates would write its samples into the prompt as text.
_TEXT_ALONE = (
    "{%- for message in messages %}{%- if message['content'] is not string and message['content'] is iterable %}"
    "{%- for part in message['content'] %}{%- if part['type'] == 'audio' %}"
    """{{- raise_exception('a tokenizer cannot read audio: use pipeline("any-to-any"), or its processor') }}"""
    "{%- endif %}{%- endfor %}{%- endif %}{%- endfor %}"
)
# In front of the same template when it is the processor's: recordings become placeholders, and contents plain text.
# Servers ask a processor for it, and look at it for loops over parts to learn whether it takes them.
_WITH_SPEECH = (
    "{%- set heard = namespace(messages=[]) %}{%- for message in messages %}"
    "{%- if message['content'] is string or message['content'] is not iterable %}"
    "{%- set heard.messages = heard.messages + [message] %}{%- else %}"
    "{%- set said = namespace(text='') %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'text' %}{%- set said.text = said.text + part['text'] %}"
    "{%- elif part['type'] == 'audio' %}{%- set said.text = said.text + '" + SPEECH_TOKEN + "' %}"
    """{%- else %}{{- raise_exception('allowed contents: text and audio; given: ' ~ part['type']) }}{%- endif %}"""
    "{%- endfor %}{%- set heard.messages = heard.messages + [dict(message, content=said.text)] %}"
    "{%- endif %}{%- endfor %}{%- set messages = heard.messages %}"
)


def add_speech_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """The placeholder as a special token; the LLM's embeddings need not grow, its id is never embedded."""
    if SPEECH_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([SPEECH_TOKEN], special_tokens=True)


def refuse_audio(tokenizer: PreTrainedTokenizerBase) -> None:
    """Lets the tokenizer's chat template refuse recordings; the processor has replaced them before it is asked."""
    template = tokenizer.chat_template
    if isinstance(template, str):
        tokenizer.chat_template = without_speech(template)


def with_speech(template: str) -> str:
    """A chat template of text as that of a processor: it takes contents with parts, and recordings among them."""
    return _WITH_SPEECH + template.removeprefix(_TEXT_ALONE).removeprefix(_WITH_SPEECH)


def without_speech(template: str) -> str:
    """A processor's chat template as a tokenizer has it: what a folder keeps, whose template both of them read."""
    return _TEXT_ALONE + template.removeprefix(_WITH_SPEECH).removeprefix(_TEXT_ALONE)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The LLM's tokenizer with the placeholder.

    Raises:
        RellmError: the folder has no tokenizer.
    """
    with reading(f"the tokenizer in {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        add_speech_token(require_words(tokenizer, folder))
        tokenizer("A word.")  # some broken files show only when they are used
    return tokenizer


def named_llm(folder: Path) -> Path | None:
    """Folder of the LLM that a checkpoint names, when it has a tokenizer; None when there is none."""
    name = named_components(folder).get("llm")
    found = locate(name, folder) if name else None
    return found if found is not None and (found / "tokenizer.json").is_file() else None


def emotion_input_kind(folder: Path) -> str | None:
    """Whether the emotion encoder wants normalised waveforms, from its preprocessor_config.json.

    None for one that reads the speech encoder's layers: it wants none.
    """
    if is_shared(folder):
        return None
    with reading(folder / "preprocessor_config.json"):
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    if getattr(extractor, "sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise RellmError(f"the emotion encoder in {folder} wants {extractor.sampling_rate} Hz", allowed="16000 Hz")
    return "normalized" if getattr(extractor, "do_normalize", False) else "raw"


def load_extractor(folder: Path) -> WhisperFeatureExtractor:
    """Whisper's feature extractor from a folder.

    Raises:
        RellmError: its file is missing or broken.
    """
    path = folder / "preprocessor_config.json"
    with reading(path):
        read_json(path if path.is_file() else folder / "processor_config.json")
        return WhisperFeatureExtractor.from_pretrained(folder)
