"""Which emotion a chat model's free-text answer names.

Rules, not a model: every mention of an emotion is found, mentions that the answer denies, lists as options or cannot
decide on are dropped, the others are weighed (a decision above a plain statement above a hedge). An answer whose
strongest mentions are of more than one emotion names none. `tests/core/chat_answers.tsv` holds what it must get right.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from re_llm.core.emotions import CANONICAL, PROMPT_EMOTIONS, SPELLINGS

# Other words of chat models, and beginnings of words (`*`) in German, French, Spanish, Italian, Portuguese, Russian,
# Greek; the labels of corpora come from `SPELLINGS`.
_WORDS = {
    "neutral": "neutre neutro neutra neutrale neutraler neutrality нейтральн* ουδέτερ*",
    "happy": "joyous delighted glad pleased cheerfulness freude* fröhlich* glücklich* heureu* joyeu* joie feliz* "
    "felice* alegr* alegría felicità gioia contento радост* счастлив* χαρούμεν* χαρά",
    "angry": "annoyed annoyance irritated irritation rage wütend* wut ärger* verärger* colère fâch* enojad* enfadad* "
    "enfado ira arrabbiat* rabbia raiva zangad* злой злая злость сердит* гнев θυμωμέν* θυμό*",
    "sad": "sorrow sorrowful melancholy melancholic gloomy depressed grief traurig* triste* tristesse tristeza "
    "tristezza грустн* грусть печаль* λυπημέν* λύπη",
    "surprise": "astonished astonishment startled shocked überrasch* surpris* surpresa sorpres* sorprend* удивл* "
    "έκπληκτ* έκπληξη",
}
# Scripts without spaces: anywhere in the text.
_PARTS = {
    "neutral": "中性 中立 平静 ニュートラル 중립",
    "happy": "高兴 开心 快乐 高興 開心 快樂 喜び 嬉し うれし 기쁨 기쁜 행복",
    "angry": "生气 愤怒 生氣 憤怒 怒り 怒っ 분노 화난 화가",
    "sad": "悲伤 难过 伤心 悲傷 難過 傷心 悲し 슬픔 슬픈 슬프",
    "surprise": "惊讶 吃惊 惊喜 驚訝 驚き 驚い 놀람 놀란",
}

# Read first: words that are neither a denial nor an emotion where they stand.
_REPLACED = (
    (r"[’‘`]", "'"),  # noqa: RUF001 (those are what is replaced)
    (r"\n\s*", "\n"),
    (r"[^\S\n]+", " "),
    (r"\banything but\b", "not"),
    (r"\bnothing but\b|\bno (?:doubt|question)\b|\bnot (?:only|just|merely|simply)\b", " "),
    (r"\b(?:i|we)\b[^.,;!?]{0,12}?\b(?:happy|glad|pleased|delighted)(?= to\b)", " "),
    (r"\bi(?:'m| am) afraid\b|\b\w+ ?[❌✗✘]", " "),
    (r"\bif i (?:had|have) to\b", " "),
    (r", ?(?:right|\w+n't \w+) ?\?", "."),
)
_OR = "or|and|oder|und|ou|et|o|y|e|или|и"
_CLAUSES = re.compile(
    r"[.;!?\n。]+|, ?(?:so|although|though)\b|"
    r"\b(?:but|however|therefore|thus|hence|sondern|aber|mais|sino|pero|bensì)\b"
)
_COMMA = re.compile(r"[,:()](?! ?(?:ob|whether|if)\b)")
_LINK = re.compile(rf"[\s\"“”]*(?:, ?)?(?:\b(?:{_OR}|nor|noch|ni)\b|[/|、或和])[\s\"“”]*")
_LISTED = re.compile(rf"[\s,/|、•*\-–\"'“”()]*(?:\d+[.)])?(?:\b(?:{_OR})\b|[或和])?[\s\"'“”*]*")  # noqa: RUF001
_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|without|hardly|barely|scarcely|lacks?|lacking|none|cannot|\w+n't|rather than|"
    r"instead of|far from|opposite of|other than|devoid of|free of|absence of|lack of|nicht|kein\w*|weder|noch|nie|"
    r"ohne|pas|ni|non|sans|sin|né|senza|não|nem|sem|не|ни|нет|δεν|όχι)\b|[不没沒非]"
)
_DENIED_AFTER = re.compile(
    r" ?(?:: ?no\b|would\b|(?:is|does|ca|could|are|was)n't\b|(?:く|では|じゃ)ない|지 않|"
    r"(?:is|are|was|does|do|can|could|seems?)\b.{0,12}?(?:\bnot\b|ruled out|absent|missing|unlikely))"
)
_UNDECIDED = re.compile(
    r"\b(?:cannot|can't|can not|couldn't|unable|not able|impossible|hard|difficult|don't know|do not know|not sure|"
    r"unsure|unclear|uncertain|kann nicht|ne peux pas|no puedo)\b.{0,80}?\b(?:whether|if|tell|say|determine|know|"
    r"identify|between|which|decide|sagen|dire|decir)\b"
)
_EXAMPLE = re.compile(r"^ ?if\b|\b(?:like|such as|e\.g|for example|whether)\b(?! \w*(?:speaker|person|he|she|they)\b)")
_DECISION = re.compile(
    r"\b(?:answer|conclusion|label|emotion|emotion tone|verdict|result) ?[:=]|\b(?:final|my|the) (?:answer|choice)\b|"
    r"\bi(?:'d| would)? (?:choose|chose|pick|select|go with|say)\b|\b(?:therefore|thus|hence|mostly|mainly|primarily|"
    r"predominantly|chiefly|dominant|strongest|main|most likely|best (?:fit|match)|clearly|overall)\b"
)
_HEDGE = re.compile(
    r"\b(?:hints?|touch|traces?|undertones?|slight(?:ly)?|a bit|a little|some|tinged?|possibly|perhaps|maybe|might|may|"
    r"could|at first|initially|although|though|while|despite|usually|expect|going to say|thought|"
    r"(?:words|text|wording|content)(?!.{0,60}\b(?:he|she|they|speaker|voice|tone)\b))\b"
)
_PERCENT = re.compile(r" ?[:(=-]? ?(\d+(?:\.\d+)?) ?%")
_MAIN_AFTER = re.compile(r" ?is the (?:strongest|dominant|main)")
_NO, _YES = re.compile(r" ?no\b"), re.compile(r" ?yes\b")
_HEDGE_AFTER = re.compile(r"[^,]{0,12}\b(?:on the surface|at first|secondary|less likely|weaker)\b| ?\w* ?words\b")


@dataclass
class _Mention:
    """An emotion word: characters of the text, canonical name, and how much it counts (0 a hedge, 2 a decision)."""

    start: int
    end: int
    name: str
    dropped: bool = False
    weight: int = 1


@lru_cache
def _vocabulary(allowed: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    """Pattern of the words that name an emotion, and the label of each; labels of `allowed` mean themselves."""
    words = {name: name for name in CANONICAL if name != "other"}
    words |= {spelling: name for spelling, name in SPELLINGS.items() if len(spelling) > 3 or spelling in ("joy", "mad")}
    words |= {word: name for name, text in _WORDS.items() for word in text.split()}
    words |= {label.lower(): label for label in allowed if label != "other"}
    parts = {part: name for name, text in _PARTS.items() for part in text.split()}
    every = sorted(words, key=len, reverse=True)
    pattern = "|".join(re.escape(word.rstrip("*")) + (r"\w*" if word.endswith("*") else "") for word in every)
    found = re.compile(rf"(?<![\w-])(?:{pattern})\b|{'|'.join(parts)}")
    return found, {word.rstrip("*"): name for word, name in (words | parts).items()}


def _name(word: str, names: dict[str, str]) -> str:
    """The longest known word that this one is or begins with."""
    return next(names[word[:size]] for size in range(len(word), 0, -1) if word[:size] in names)


def _drop_lists(text: str, mentions: list[_Mention]) -> None:
    """Drops what stands in an enumeration of three or more emotions: an echo of the options."""
    run: list[_Mention] = []
    for mention in [*mentions, None]:
        if mention and (not run or _LISTED.fullmatch(text, run[-1].end, mention.start)):
            run.append(mention)
            continue
        if len({each.name for each in run}) >= 3:
            for each in run:
                each.dropped = True
        run = [mention] if mention else []


def _weigh_clause(clause: str, offset: int, mentions: Sequence[_Mention], asked: bool, reply: str) -> None:
    """Decides on the mentions of one clause. `asked`: a question mark ends it. `reply`: the clause after it."""
    undecided = _UNDECIDED.search(clause)
    last: _Mention | None = None
    for mention, later in zip(mentions, [*mentions[1:], None], strict=False):
        start, end, since = mention.start - offset, mention.end - offset, last.end - offset if last else 0
        commas = [match.end() for match in _COMMA.finditer(clause, since, start)]
        segment, gap, after = clause[max([since, *commas]) : start], clause[since:start].strip(), clause[end:]
        mention.dropped |= bool(
            _NEGATION.search(segment)
            or _EXAMPLE.search(segment)
            # "anger isn't sadness" denies sadness.
            or (_DENIED_AFTER.match(after) and (later is None or "," in clause[end : later.start - offset]))
            or (undecided and undecided.start() <= start and not commas)
            or (asked and (_NO.match(reply) or (len(clause.split()) > 3 and not _YES.match(reply))))
        )
        if _HEDGE.search(re.split(r"[,(]", clause[since:start])[-1]) or _HEDGE_AFTER.match(after):
            mention.weight = 0
        elif _DECISION.search(clause[since:start]) or _MAIN_AFTER.match(after):
            mention.weight = 2
        if percent := _PERCENT.match(after):
            mention.weight = 2 if float(percent[1]) > 50 else 0
        if last and _LINK.fullmatch(clause[since:start]):
            mention.dropped |= last.dropped
        if last and (gap == "," or _LINK.fullmatch(clause[since:start])):
            mention.weight = min(mention.weight, last.weight)
        if last and gap in ("than", "over"):
            less = gap == "than" and re.search(r"\bless ?$", clause[: last.start - offset])
            (last if less else mention).dropped = True
        last = mention


def parse_answer(answer: str, allowed: Sequence[str] = PROMPT_EMOTIONS) -> str | None:
    """The one emotion of `allowed` that an answer names; None when it names none or does not decide between several.

    "neither happy nor sad; angry" is angry, "mostly sad with a hint of anger" sad, "sad or angry" none, and so is an
    echo of the options. Labels of `allowed` that are not canonical are found as they are written.
    """
    text = unicodedata.normalize("NFKC", answer).lower()
    for pattern, replacement in _REPLACED:
        text = re.sub(pattern, replacement, text)
    found, names = _vocabulary(tuple(allowed))
    mentions = [_Mention(*match.span(), _name(match.group(), names)) for match in found.finditer(text)]
    if not mentions:
        return None
    _drop_lists(text, mentions)
    start = number = 0
    ends = [*((end.start(), end.end(), end.group()) for end in _CLAUSES.finditer(text)), (len(text), len(text), "")]
    for (stop, following, sign), (next_stop, *_) in zip(ends, [*ends[1:], ends[-1]], strict=True):
        first = number
        while number < len(mentions) and mentions[number].start < stop:
            number += 1
        _weigh_clause(text[start:stop], start, mentions[first:number], "?" in sign, text[following:next_stop])
        # The word that opens the next clause says how it is meant ("although ...").
        start = stop if sign.lstrip(", ").isalpha() else following
    kept = [mention for mention in mentions if not mention.dropped and mention.name in allowed]
    top = max((mention.weight for mention in kept), default=0)
    named = {mention.name for mention in kept if mention.weight == top}
    return named.pop() if len(named) == 1 else None
