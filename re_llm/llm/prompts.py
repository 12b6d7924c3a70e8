"""Every prompt of RE-LLM and BLSP-Emo, by id, and the layout of a chat row.

A row is always `prefix | content | suffix | response`. The content is the transcript (text pass) or the speech
tokens (speech pass). The pieces are tokenised separately in every stage: a token across the border between prompt and
content in one pass but not in the other would give the teacher another prompt than the student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from re_llm.core.dialogues import Earlier, Role

SYSTEM = "You are a helpful assistant."
# Released code of RE-LLM and BLSP-Emo; the wording of the BLSP-Emo paper differs slightly.
EMPATHETIC = SYSTEM + " Your response should fulfill requests with empathy toward user's emotion tone."
EMPATHETIC_PAPER = SYSTEM + " Your response should fulfill requests with empathy toward the user's emotional tone."
# What one side says in a turn: text, or a recording as a WAV file, which only a server's model takes.
Content = str | bytes
_OPTIONS = "Select from the following options: neutral, sad, angry, happy, or surprise."


@dataclass(frozen=True)
class Prompt:
    """One prompt. `before` and `after` surround the content inside the user's turn.

    Attributes:
        history: earlier turns, (role, what was said), user and assistant in turn.
        role_newline: whether the newline behind the role name stands in front of the answer, as in training. The
            released code leaves it out when it generates.
    """

    id: str
    system: str = SYSTEM
    before: str = ""
    after: str = ""
    role_newline: bool = True
    history: tuple[tuple[Role, Content], ...] = ()

    @property
    def needs_emotion(self) -> bool:
        return "{emotion}" in self.before + self.after

    def with_history(self, history: Sequence[Earlier] | None) -> Prompt:
        """The prompt behind these turns, each in the prompt that it names for itself."""
        from re_llm.core.dialogues import turns  # by pydantic, which a help text does without

        return replace(self, history=tuple((role, " ".join(map(asked, said))) for role, said in turns(history or ())))

    def with_emotion(self, emotion: str | None) -> Prompt:
        """The prompt with its `{emotion}` filled in; itself when it has none.

        Raises:
            RellmError: the prompt needs an emotion and none is given.
        """
        if not self.needs_emotion:
            return self
        if emotion is None:
            raise RellmError(f"prompt {self.id!r} names the emotion, but this utterance has no emotion label")
        return replace(
            self, before=self.before.replace("{emotion}", emotion), after=self.after.replace("{emotion}", emotion)
        )


def asked(said: Earlier) -> str:
    """Words of an earlier utterance, within the prompt that it names."""
    around = Prompt("") if said.prompt is None else get_prompt(said.prompt).with_emotion(said.emotion)
    return around.before + said.text + around.after


# Sources: P = RE-LLM paper, B = BLSP-Emo paper, C = released code.
_ALL = (
    Prompt("chat"),
    Prompt("chat-empathetic", system=EMPATHETIC),  # C: the evaluation and chat prompt
    Prompt("chat-empathetic-paper", system=EMPATHETIC_PAPER),  # B
    Prompt("continue", before="Continue the following sentence in a coherent style: "),
    Prompt(  # P section II-B, B
        "continue-emotion",
        before="Continue the following sentence that reflects a {emotion} emotion tone in a coherent style: ",
    ),
    Prompt(  # C
        "continue-emotion-code",
        before="Continue the following sentence that reflects a '{emotion}' emotion tone in a coherent style: ",
    ),
    Prompt(  # P section II-B
        "continue-speech", before="Continue the following sentence that reflects a tone in a coherent style: "
    ),
    Prompt(  # B
        "continue-speech-blsp",
        before="Continue the following sentence based on the conveyed emotion tone in a coherent style: ",
    ),
    Prompt(  # P section II-C, B
        "recognize",
        before=f"Please identify the emotion tone of the sentence provided below. {_OPTIONS}\n\nSentence: ",
    ),
    Prompt(  # README of RE-LLM, C
        "recognize-speech",
        before=f"Please identify the emotion tone of the speech provided below. {_OPTIONS}\n\nSpeech: ",
    ),
    Prompt(  # B: the cascade baseline, and text + label
        "cascade",
        before="The user's speech instruction, transcribed as \"",
        after='", conveys a {emotion} emotion tone. Please provide a response.',
    ),
    Prompt("label", system=EMPATHETIC, before="<{emotion}> "),  # P section III-C: the label in front of the transcript
    Prompt("repeat", before="Repeat the following sentence word by word: "),  # ours: whether the words arrive
    Prompt(
        "cascade-dialogue",
        before="The user's speech input, transcribed as \"",
        after='", conveys a {emotion} emotion tone. Please provide a response.',
    ),
)
_BY_ID = {p.id: p for p in _ALL}
# Whole rows of the released code (docs/fidelity.md): its words with its system prompt, and its end of the prompt.
RELEASED = (
    replace(_BY_ID["continue-emotion-code"], id="continue-emotion-released", system=EMPATHETIC),
    replace(_BY_ID["continue-speech-blsp"], id="continue-speech-released", system=EMPATHETIC),
    replace(_BY_ID["recognize-speech"], id="recognize-released", role_newline=False),
    replace(_BY_ID["chat-empathetic"], id="chat-released", role_newline=False),
)
PROMPTS: dict[str, Prompt] = _BY_ID | {p.id: p for p in RELEASED}


def get_prompt(name: str | Prompt) -> Prompt:
    """The prompt with this id; a prompt is itself.

    Raises:
        RellmError: there is none.
    """
    if isinstance(name, Prompt):
        return name
    if name not in PROMPTS:
        raise RellmError(f"unknown prompt {name!r}", allowed=", ".join(PROMPTS))
    return PROMPTS[name]


_CONTENT = "\N{OBJECT REPLACEMENT CHARACTER}content\N{OBJECT REPLACEMENT CHARACTER}"
_SAID = "\N{OBJECT REPLACEMENT CHARACTER}said\N{OBJECT REPLACEMENT CHARACTER}"
# Options that some chat templates know and the others ignore. Without them Qwen 3 writes its reasoning first, and
# Llama 3 today's date into the prompt, which would then differ from the prompt of training.
TEMPLATE_OPTIONS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


def split_chat(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, history: list[dict[str, str]] | None = None
) -> tuple[str, str]:
    """Text in front of the content and text behind it, as the tokenizer's chat template lays them out.

    The suffix ends where the assistant begins to speak. `history` holds earlier turns in chat-message form; None takes
    those of the prompt.
    Templates that refuse a system role (Gemma, Mistral) or drop it get the system text at the head of the first user
    turn.

    Raises:
        RellmError: the tokenizer has no chat template, the template refuses the conversation, or the prompt names an
            emotion that was not filled in (`Prompt.with_emotion`).
    """
    prompt = prompt.with_emotion(None)
    earlier = text_history(prompt) if history is None else history
    turns = [*earlier, {"role": "user", "content": prompt.before + _CONTENT + prompt.after}]
    text = _laid_out(tokenizer, [{"role": "system", "content": prompt.system}, *turns])
    if isinstance(text, Exception) or prompt.system.strip() not in text:
        refusal = text
        first = {**turns[0], "content": f"{prompt.system}\n\n{turns[0]['content']}"}
        text = _laid_out(tokenizer, [first, *turns[1:]])
        if isinstance(text, Exception):
            raise RellmError(
                f"the chat template of {_name(tokenizer)} refuses a conversation: {text}",
                todo="Use a chat LLM whose template takes user and assistant in turn",
            ) from (refusal if isinstance(refusal, Exception) else text)
    prefix, found, suffix = text.partition(_CONTENT)
    if not found:
        raise RellmError(f"the chat template of {_name(tokenizer)} drops the user's turn: {text[:200]!r}")
    return prefix, suffix if prompt.role_newline else suffix.removesuffix("\n")


def around_turns(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[str]:
    """The text around what is said in a conversation, one prompt for each of the user's turns.

    In front of the first turn's content, between it and its answer, between that and the second content, and so on;
    the last text stands in front of the answer to the last turn. System text and end of the prompt are the last one's.

    Raises:
        RellmError: see `split_chat`.
    """
    history: list[dict[str, str]] = []
    for each in prompts[:-1]:
        history.append({"role": "user", "content": each.before + _SAID + each.after})
        history.append({"role": "assistant", "content": _SAID})
    prefix, suffix = split_chat(tokenizer, prompts[-1], history)
    return [*prefix.split(_SAID), suffix]


def text_history(prompt: Prompt) -> list[dict[str, str]]:
    """Earlier turns of text, in chat-message form."""
    turns = []
    for role, said in prompt.history:
        assert isinstance(said, str), "recordings are heard by a speech LLM"
        turns.append({"role": str(role), "content": said})
    return turns


def _laid_out(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, open_turn: bool = True
) -> str | Exception:
    """A conversation as the chat template writes it, or the error that the template raised."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise RellmError(
            f"the tokenizer {_name(tokenizer)} has no chat template",
            todo="Use a chat LLM, or set `tokenizer.chat_template`",
        )
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_turn, **TEMPLATE_OPTIONS)
        )
    except TemplateError as error:
        return error


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return repr(getattr(tokenizer, "name_or_path", ""))


def turn_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that close the assistant's turn, as the tokenizer's chat template writes it; the last of them ends it.

    `<|im_end|>` of ChatML, `<|eot_id|>` of Llama 3, `<end_of_turn>` of Gemma, `</s>` of Mistral. The end-of-sequence
    token when the template writes no special token there.

    Raises:
        RellmError: see `split_chat`.
    """
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _CONTENT}]
    text = _laid_out(tokenizer, messages, open_turn=False)
    if isinstance(text, Exception):
        raise RellmError(f"the chat template of {_name(tokenizer)} refuses an assistant's turn: {text}") from text
    ids: list[int] = tokenizer(text.partition(_CONTENT)[2], add_special_tokens=False)["input_ids"]
    special = {token for token, held in tokenizer.added_tokens_decoder.items() if held.special}
    end = next((i for i, token in enumerate(ids) if token in special), None)
    return [tokenizer.eos_token_id] if end is None else ids[: end + 1]


def tokenize_row(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, content: str, history: list[dict[str, str]] | None = None
) -> list[int]:
    """Token ids of `prefix | content | suffix` for a text pass, each piece tokenised on its own."""
    prefix, suffix = split_chat(tokenizer, prompt, history)
    return [i for piece in (prefix, content, suffix) for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
