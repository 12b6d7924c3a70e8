"""ESConv: conversations of emotional support, with the supporter's strategies (Liu et al. 2021).

Two forms: the authors' `ESConv.json` (`speaker` seeker or supporter, `content`) and the one at Hugging Face (`speaker`
usr or sys, `text`). The emotion is that of the whole conversation; anxiety, depression, shame and others that have no
canonical name are kept in `emotion_raw`.
"""

from __future__ import annotations

from collections.abc import Iterator

from re_llm.core.emotions import find_label
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import json_list
from re_llm.data.corpora.text_dialogues import Said, user_turns

INFO = CorpusInfo(
    name="esconv",
    title="ESConv (text)",
    languages=("en",),
    licence="academic research only",
    get="https://github.com/thu-coai/Emotional-Support-Conversation (ESConv.json)",
    citation="Liu et al., Towards Emotional Support Dialog Systems, ACL 2021",
    root="ESConv.json",
    text_only=True,
)

SEEKERS = ("seeker", "usr")


def read(scan: Scan) -> Iterator[Utterance]:
    """The seeker's turns, in the order of the file."""
    path = scan.root / "ESConv.json" if scan.root.is_dir() else scan.root
    for number, dialogue in enumerate(json_list(path, INFO)):
        try:
            raw, turns = dialogue["emotion_type"], dialogue["dialog"]
            said = [(each["speaker"], (each.get("content") or each.get("text") or "").strip()) for each in turns]
        except (KeyError, TypeError, AttributeError) as error:
            scan.problem(path, f"conversation {number}: {type(error).__name__} {error}")
            continue
        emotion = find_label(raw, scan.labels)
        kept = [
            Said("seeker", text, emotion, raw) if speaker in SEEKERS else Said("supporter", text)
            for speaker, text in said
            if text
        ]
        about = {name: dialogue[name] for name in ("problem_type", "situation") if dialogue.get(name)}
        yield from user_turns(scan, INFO, f"{number:04}", kept, "seeker", **about)
