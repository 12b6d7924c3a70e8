"""Every example in the help of a command runs, in a folder that holds tiny things under the names it uses.

What takes hours (`mini build`, `small build`, `small llm`, `reproduce`), wants 500 MB (`score convert`) or never ends
(`serve`) is run up to the function behind it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import corpus_worlds
import emotion_world
import epitome_world
import foreign_files
import pytest
import uvicorn
import yaml
from chat_world import serving
from typer.main import get_command
from typer.testing import CliRunner, Result

from re_llm.cli import app
from re_llm.core import parts as parts_home
from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import Continuation, ReplyRecord, Score, Utterance, write_records
from re_llm.evaluate.empathy import scorer_files
from re_llm.mini.grammar import reply as world_reply
from re_llm.mini.grammar import world as world_sentences
from re_llm.mini.training import build as mini_build
from re_llm.parts import get as parts
from re_llm.pipeline import reproduce
from re_llm.small import build as small_build
from re_llm.small import check_replies
from re_llm.small import llm as small_llm

ROOT = Path(__file__).parents[2]
LLM = "Qwen/Qwen2.5-7B-Instruct"
# Command -> word of its example -> what stands for it here: recipes are looked up by name, a port may be taken.
WORDS = {
    "train": {"re_llm": "tiny.yaml", "emotion": "emotion.yaml"},
    "reproduce": {"mini": "tiny.yaml"},
    "serve": {"8000": "0"},
    "dose": {"manifest.jsonl": "doses.jsonl"},
    "small limit": {"dev": "test"},
}
# Options that make an example fit the tiny things.
MORE = {
    "demo": ["--model", "mini:re-llm"],  # the small one's parts are not in every place where the tests run
    "respond": ["--model", "checkpoints/re-llm", "--max-new-tokens", "4"],
    "dose": ["--model", "checkpoints/re-llm", "--max-new-tokens", "4", "--doses", "0,1"],
    "recognize": ["--model", "checkpoints/re-llm"],
    "serve": ["--model", "checkpoints/re-llm"],
    "convert": ["--tokenizer", "qwen"],  # neither has a vocabulary of its own
    "mini world": ["--scale", "0.005"],
    "mini build": ["--allow-changes"],
    "mini conversations": ["--count", "1"],
    "score train": ["--seed", "1"],
}
TEXTS = ("My train was late again.", "I passed the exam.", "Nobody came to the party.", "The soup is cold.")


def call(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], prog_name="re-llm", input=stdin)


def done(*arguments: object) -> None:
    result = call(*arguments)
    assert result.exit_code == 0, f"{arguments}\n{result.output}"


def examples() -> list[object]:
    """(command, example) of the help of every command and group."""
    groups = get_command(app).commands
    commands = {name: command for name, command in groups.items()}
    for name, group in groups.items():
        commands |= {f"{name} {inner}": command for inner, command in getattr(group, "commands", {}).items()}
    found = []
    for name, command in commands.items():
        lines = re.findall(r"^ +(re-llm .*)$", command.help or "", re.MULTILINE)
        assert lines or hasattr(command, "commands"), f"the help of {name} has no example"
        for line in lines:
            slow = name in ("demo", "mini world", "score train")
            found.append(pytest.param(name, line, marks=pytest.mark.slow if slow else ()))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, assets: Path) -> Path:
    """Everything that an example reads, under the name that it has there."""
    root = tmp_path_factory.mktemp("examples")
    parts = tiny_checkpoint.parent
    for name, source in {
        "checkpoints/re-llm": tiny_checkpoint,
        LLM: parts / "llm",
        "qwen": assets / "llm",
        "downloads/blsp-emo": ROOT / "tests" / "golden" / "blsp_a_nolora",
        "question.wav": next((assets / "recordings").glob("*.flac")),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(source)
    shutil.copytree(assets / "re-llm", root / "runs" / "re-llm")  # one that is written to
    for name in ("llm", "whisper", "emotion"):
        (root / "runs" / name).symlink_to(assets / name)
    for number in range(4):
        corpus_worlds.sound(root / "RAVDESS" / "Actor_12" / f"03-01-0{number + 1}-01-01-01-12.wav", 0.5)
        corpus_worlds.sound(root / "wav" / f"{number}.wav", 0.8)
    foreign_files.gguf_file(root / "downloads" / "SmolLM2-135M-Instruct-Q4_1.gguf", foreign_files.chat_llm())
    page = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    (root / "bells.py").write_text(re.search(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1])
    corpus_worlds.sound(root / "BELLS" / "wav" / "founder01_happy_1.wav", 0.2)
    _write_records(root)
    _write_recipe(root, parts)
    _write_emotion(root, parts)
    _write_scorer(root)
    for number in range(2):
        out = root / f"c.{number}.jsonl"
        done("continue", root / "manifest.jsonl", "--out", out, "--llm", root / LLM, "--shard", f"{number}/2",
             "--chunk", "1", "--max-new-tokens", "4")  # fmt: skip
    return root


def _write_records(root: Path) -> None:
    rows, continuations, replies = [], [], []
    for number, (text, emotion) in enumerate(zip(TEXTS, ("angry", "happy", "sad", "neutral"), strict=True)):
        split = "train" if number < 3 else "test"
        labels = {"emotion": emotion, "valence": 0.4, "arousal": 0.5, "dominance": 0.6}
        key, audio = f"u{number}", f"wav/{number}.wav"
        rows.append(Utterance(key=key, corpus="toy", split=split, audio=audio, text=text, **labels))
        continuations.append(
            Continuation(key=key, audio=audio, text=text, instruction="continue-emotion", output="And so it went on.",
                         early_stop=True, llm="tiny", **labels)
        )  # fmt: skip
        replies += [
            ReplyRecord(
                key=key, system=system, text=text, response=f"I am sorry to hear that. {system}?", emotion=emotion
            )
            for system in ("re-llm", "blsp-emo-ft")
        ]
    write_records(root / "manifest.jsonl", rows)
    write_records(
        root / "other.jsonl", [Utterance(key="o", corpus="toy", split="train", audio="wav/0.wav", text="Oh.")]
    )
    spoken = [
        Utterance(key=f"d{turn}", corpus="iemocap", split="test", audio="wav/0.wav", text="Well.", emotion="sad",
                  speaker="FM"[turn % 2], dialogue="d", turn=turn)
        for turn in range(5)
    ]  # fmt: skip
    write_records(root / "iemocap.jsonl", spoken)
    doses = [row.model_copy(update={"key": f"{row.key}-{n}", "split": "test"}) for n in range(2) for row in rows]
    write_records(root / "doses.jsonl", doses)
    neutral = [sentence for sentence in world_sentences(0, 400) if sentence.words_emotion == "neutral"][:20]
    voice = [
        Utterance(key=f"w{n}", corpus="esd", split="test", audio=f"../../../../wav/{n % 4}.wav", text=sentence.text,
                  emotion=PROMPT_EMOTIONS[n % 5], speaker="0020")
        for n, sentence in enumerate(neutral)
    ]  # fmt: skip
    write_records(root / "runs/mini/corpora/esd/manifest.jsonl", voice)
    results = [json.dumps({"prompt": text, "response": "Oh."}) for text in TEXTS]
    (root / "results.jsonl").write_text("\n".join(results))
    write_records(root / "continuations.jsonl", continuations)
    write_records(root / "replies.jsonl", replies)
    kind = ReplyRecord(key="w0", system="s", text=neutral[0].text, response=world_reply(neutral[0], "sad", True))
    write_records(root / "runs/mini/replies/esd/re-llm.0.jsonl", [*replies, kind])
    done("score", root / "replies.jsonl", "--out", root / "scores.jsonl")
    _write_judged(root, replies)


def _write_judged(root: Path, replies: list[ReplyRecord]) -> None:
    """Replies of single systems, judgements of a judge and of people, two reports, and words in several emotions."""
    for name in ("re-llm", "cascade"):
        own = [row.model_copy(update={"system": name}) for row in replies if row.system == "re-llm"]
        write_records(root / f"{name}.jsonl", own)
    marks = [Score(key=f"u{n}", system="re-llm", metric="JUDGE_EMPATHY", value=n) for n in range(4)]
    write_records(root / "judged.jsonl", marks)
    (root / "people.csv").write_text("key,value\nu0,1\nu1,1\nu2,3\n")
    spoken = [
        ReplyRecord(key=f"{n}-{emotion}", system="s", text=text, response="Oh.", emotion=emotion, answer=emotion)
        for n, text in enumerate(TEXTS)
        for emotion in PROMPT_EMOTIONS
    ]
    write_records(root / "spoken.jsonl", spoken)
    write_records(root / "text.jsonl", [row.model_copy(update={"answer": "sad"}) for row in spoken])
    for name in ("test", "validation"):
        heads = {"probabilities": {"sad": 0.6, "happy": 0.4}, "emotion": "sad"}
        own = [row.model_copy(update={**heads, "key": f"{name}-{row.key}"}) for row in spoken]
        write_records(root / f"{name}.jsonl", own)
    for name in ("a", "b"):
        done("report", root / "scores.jsonl", "--out", root / "runs" / name / "report", "--format", "json")


def _write_recipe(root: Path, parts: Path) -> None:
    names = {"llm": "llm", "speech_encoder": "whisper", "emotion_encoder": "emotion"}
    recipe = {
        "name": "tiny", "title": "Tiny", "components": {role: str(parts / name) for role, name in names.items()},
        "model": {"adapter": {"bottleneck": 16}, "lora": {"r": 2}, "speech_window": "trimmed"},
        "stages": {"finetune": {
            "continuation": "continue-emotion", "losses": {"response_ce": 1.0, "input_er": 1.0}, "lr": 1e-3,
            "batch_size": 2, "max_steps": 2, "warmup": 0, "precision": "fp32", "min_seconds": 0.1,
        }},
    }  # fmt: skip
    (root / "tiny.yaml").write_text(yaml.safe_dump(recipe))


def _write_emotion(root: Path, parts: Path) -> None:
    """Two emotional corpora, and the recipe of an emotion encoder that is trained on them for a step or two."""
    for corpus in ("ravdess", "emodb"):
        emotion_world.manifest(root, corpus, speakers=3, each=1)
    short = {"epochs": 1, "batch_size": 4, "utterances": 8}
    recipe = emotion_world.recipe(parts / "whisper", fit=short, augment={"copies": 1})
    (root / "emotion.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))


def _write_scorer(root: Path) -> None:
    """EPITOME's tables, a tiny RoBERTa called roberta-base, and a scorer called FOLDER."""
    from transformers import RobertaConfig, RobertaModel

    from re_llm.evaluate.empathy.biencoder import load_biencoder

    corpus = epitome_world.write_corpus(root / "epitome")
    sizes = ("epochs=1", "width=16", "layers=1", "heads=2", "vocabulary=500")
    tiny = [part for size in sizes for part in ("--set", size)]
    done("score", "train", corpus, "--out", root / "FOLDER", "--from-scratch", "--device", "cpu", *tiny)
    trained = load_biencoder(root / "FOLDER" / "ER")
    settings = RobertaConfig(**trained.config if isinstance(trained.config, dict) else vars(trained.config))
    RobertaModel(settings, add_pooling_layer=False).save_pretrained(root / "roberta-base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(root / "FOLDER" / name, root / "roberta-base" / name)
    for mechanism in ("ER", "IP", "EX"):
        (root / f"reddit_{mechanism}.pth").touch()


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for each example, with links to everything in the world."""
    for entry in world.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


LONG = ("mini build", "small build", "small llm", "small check-llm", "reproduce", "score convert", "serve")


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The functions behind commands that are too long; the list tells which were called."""
    called: list[str] = []

    def stub(name: str, result: object):
        return lambda *args, **kwargs: called.append(name) or result

    report = SimpleNamespace(summary=lambda: "done")
    monkeypatch.setattr(mini_build, "build", stub("mini build", Path("assets")))
    monkeypatch.setattr(small_build, "build", stub("small build", {}))
    monkeypatch.setattr(small_llm, "teach", stub("small llm", {}))
    monkeypatch.setattr(parts_home, "resolve_part", lambda name: Path(name))
    figures = check_replies.ReplyFigures(1, 1.0, 1.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr(check_replies, "check", stub("small check-llm", (figures, [])))
    monkeypatch.setattr(reproduce, "reproduce", stub("reproduce", report))
    monkeypatch.setattr(scorer_files, "convert_files", stub("score convert", report))
    monkeypatch.setattr(uvicorn.Server, "run", stub("serve", None))
    # Nothing is fetched: the parts are said to be here.
    monkeypatch.setattr(parts, "look", lambda part, *_: parts.Offer(part, "here", folder=Path(part.name)))
    yield called


@pytest.mark.parametrize(("command", "line"), examples())
def test_the_example_runs(command: str, line: str, here: Path, stubs: list[str]) -> None:
    words = [WORDS.get(command, {}).get(word, word) for word in shlex.split(line)[1:]] + MORE.get(command, [])
    made = [Path(words[i + 1]) for i, word in enumerate(words) if word in ("--out", "--page")]
    for path in made:
        if path.is_symlink():  # what another example reads
            path.unlink()
    with ExitStack() as stack:
        if "--server" in words:
            words[words.index("--server") + 1] = stack.enter_context(serving()).url
        result = call(*words, stdin="question.wav\nhello\n/quit\n" if command == "chat" else "")
    # Something is missing for the paper's recipe, and the two manifests share a recording.
    assert result.exit_code == (1 if command in ("doctor", "prepare check") else 0), result.output
    if command in LONG:
        assert stubs == [command]
    else:
        assert [path for path in made if not path.exists()] == []
