"""Earlier turns in front of the utterances of a manifest, so that an LLM is trained on conversations.

For corpora without dialogues. A file of dialogues (`re-llm prepare dialogues`) has its own, which are left as they are.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.dialogues import Earlier
from re_llm.core.files import file_hash
from re_llm.core.records import Continuation, Utterance, read_records
from re_llm.recipe.stages import DialogueOptions


@dataclass(frozen=True)
class Dialogues:
    """How the earlier turns of an utterance are drawn.

    Args:
        answers: continuations of the same manifest, which are the answers to earlier turns.
    """

    options: DialogueOptions
    answers: Path

    def settings(self) -> dict[str, object]:
        """What decides the turns, besides the manifest."""
        return {"turns": self.options.turns, "answers": file_hash(self.answers)}

    def of(self, rows: Iterable[Utterance]) -> dict[str, list[Earlier]]:
        """What was said before each row, by its key: 1 to `turns` - 1 utterances of its speaker, with their answers.

        Speakers with too few of them, and rows without a speaker, get those of anybody. All rows are held in memory.
        """
        rows = list(rows)
        answers = {row.key: row.output for row in read_records(self.answers, Continuation)}
        answered = [row for row in rows if row.key in answers]
        of_speaker: dict[str, list[Utterance]] = defaultdict(list)
        for row in answered:
            if row.speaker is not None:
                of_speaker[row.speaker].append(row)
        found = {}
        for row in rows:
            rng = random.Random(f"earlier turns of {row.key}")
            wanted = rng.randint(1, self.options.turns - 1)
            pool = of_speaker.get(row.speaker or "", [])
            pool = pool if len(pool) > wanted else answered
            drawn = [each for each in rng.sample(pool, min(wanted + 1, len(pool))) if each.key != row.key][:wanted]
            found[row.key] = [said for each in drawn for said in self._exchange(each, answers[each.key])]
        return found

    def _exchange(self, row: Utterance, answer: str) -> tuple[Earlier, Earlier]:
        prompt = self.options.prompt if row.emotion is not None else None
        said = Earlier(
            role="user", text=str(row.text), key=row.key, speaker=row.speaker, emotion=row.emotion, prompt=prompt
        )
        return said, Earlier(role="assistant", text=answer)
