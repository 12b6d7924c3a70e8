"""The miniature chat LLM: it learns, resumes exactly, loads as any chat model, and disturbance keeps to the content."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from re_llm.core.errors import RellmError
from re_llm.llm.prompts import PROMPTS, get_prompt, tokenize_row
from re_llm.mini.grammar import world
from re_llm.mini.lexicon import TOPICS
from re_llm.mini.training import llm
from re_llm.mini.training.fitting import CURVE_FILE, STATE_FILE, Plan
from re_llm.mini.training.llm import LlmSize, LlmSteps, answer_loss, train_llm
from re_llm.mini.training.llm_batches import CLEAN, Disturbance, collate, embed_rows
from re_llm.mini.training.llm_build import CONTEXT, build_model, build_tokenizer
from re_llm.mini.training.llm_rows import DIALOGUE_WEIGHTS, TAUGHT, Piece, Row, RowSource, vary
from re_llm.mini.training.llm_scores import answer_rows

WORLD = 400
SIZE = LlmSize(vocabulary=700, width=32, inner=48, layers=2, heads=2)
STEPS = LlmSteps(micro_batches=2, rows=4)
PLAN = Plan(6, 3e-3, 1, schedule="cosine", save_every=3, report_every=1)


def train(out: Path, plan: Plan = PLAN, steps: LlmSteps = STEPS) -> dict:
    return train_llm(out, WORLD, size=SIZE, options=steps, plan=plan, progress=False, gate=False)


def curve(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "state" / CURVE_FILE).read_text().splitlines()]


@pytest.fixture
def unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "evaluate_llm", lambda *_, **__: {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("llm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm, "evaluate_llm", lambda *_, **__: {})
        train(out)
    return out


@pytest.fixture(scope="module")
def source() -> RowSource:
    return RowSource(build_tokenizer(WORLD, vocabulary=700), [s for s in world(0, WORLD) if s.split == "train"])


def test_loss_falls(tmp_path: Path, unscored: None) -> None:
    train(tmp_path, replace(PLAN, steps=20, learning_rate=1e-2))
    losses = [line["loss"] for line in curve(tmp_path)]
    assert len(losses) == 20
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_resumed_equals_uninterrupted(
    trained: Path, tmp_path: Path, unscored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = llm.collate, []

    def killed(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 9:  # in the fifth step
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(llm, "collate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    monkeypatch.setattr(llm, "collate", real)
    metrics = train(tmp_path)
    assert metrics["steps"] == 6
    assert [line["step"] for line in curve(tmp_path)] == [1, 2, 3, 4, 5, 6]
    once, twice = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (trained, tmp_path))
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_a_checkpoint_of_other_options_is_refused(trained: Path, unscored: None) -> None:
    assert (trained / "state" / STATE_FILE).exists()
    with pytest.raises(RellmError, match="micro_batches was 2, and is 1 now"):
        train(trained, steps=LlmSteps(micro_batches=1, rows=4))


def test_saved_folder_is_an_ordinary_chat_model(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained)
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    assert model.config.tie_word_embeddings and model.config.max_position_embeddings == CONTEXT
    assert len(tokenizer("<|speech|>")["input_ids"]) == 1
    messages = [{"role": "system", "content": "You are kind."}, {"role": "user", "content": "Größe 7, \u732b!"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\nGröße 7, \u732b!<|im_end|>\n"
    assert text == expected + "<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    ids = torch.tensor([tokenize_row(tokenizer, get_prompt("chat"), "My brother sold the sofa.")])
    out = model.generate(ids, max_new_tokens=3)
    assert out.shape[1] <= ids.shape[1] + 3


def test_a_prompt_that_is_added_changes_no_training_of_the_llm() -> None:
    assert TAUGHT == (
        "chat", "chat-empathetic", "chat-empathetic-paper", "continue", "continue-emotion", "continue-emotion-code",
        "continue-speech", "continue-speech-blsp", "recognize", "recognize-speech", "cascade", "cascade-dialogue",
    )  # fmt: skip


def ids_of(row: Row, *kinds: str) -> list[int]:
    return [token for piece in row for token in piece.ids if not kinds or piece.kind in kinds]


def test_rows_are_laid_out_like_the_text_pass(source: RowSource) -> None:
    sentence = source.sentences[0]
    for name in PROMPTS:
        row = source.row(get_prompt(name), sentence, "sad", sentence.text)
        prompt = get_prompt(name).with_emotion("sad")
        assert ids_of(row[:-1]) == tokenize_row(source.tokenizer, prompt, sentence.text)
        assert source.tokenizer.decode(list(row[-1].ids)).endswith("<|im_end|>\n<|endoftext|>")
        assert [piece.kind for piece in row] == ["given", "content", "given", "answer"]


def test_conversations_are_laid_out_like_the_chat_template(source: RowSource) -> None:
    rng = random.Random(0)
    for name in DIALOGUE_WEIGHTS:
        prompt = get_prompt(name)
        talk = source.talk(prompt, 3, rng)
        row = source.dialogue(prompt, talk)
        filled = [prompt.with_emotion(each.emotion) for each in talk]
        history = []
        for how, each in zip(filled[:-1], talk[:-1], strict=True):
            history.append({"role": "user", "content": how.before + each.text + how.after})
            history.append({"role": "assistant", "content": each.answer})
        expected = tokenize_row(source.tokenizer, filled[-1], talk[-1].text, history)
        assert ids_of(row[:-1]) == expected
        taught = [source.tokenizer.decode(list(piece.ids)) for piece in row if piece.kind == "answer"]
        ends = [each.answer + "<|im_end|>\n" for each in talk if each.told]
        assert taught == [*ends[:-1], ends[-1] + "<|endoftext|>"]
        spoken = [source.tokenizer.decode(list(piece.ids)) for piece in row if piece.kind == "content"]
        assert spoken == [each.text for each in talk]


def test_replies_to_a_voice_are_given_and_not_taught(source: RowSource) -> None:
    rng = random.Random(1)
    talks = [source.talk(get_prompt("chat-empathetic"), 4, rng) for _ in range(100)]
    earlier = [each for talk in talks for each in talk[:-1]]
    assert all(talk[-1].told for talk in talks) and 0.3 < sum(not each.told for each in earlier) / len(earlier) < 0.6
    by_text = {s.text.lower().rstrip("."): s.words_emotion for s in source.sentences}
    known = [each for each in earlier if each.text.lower().rstrip(".") in by_text]
    assert len(known) > 100
    assert all((by_text[each.text.lower().rstrip(".")] == each.emotion) == each.told for each in known)
    labelled = [each for _ in range(30) for each in source.talk(get_prompt("cascade"), 4, rng)]
    assert all(each.told for each in labelled)  # the prompt names the emotion


def plain_loss(model: torch.nn.Module, row: Row) -> tuple[float, int]:
    """Summed loss of the answers of one row, and their tokens."""
    labels = [token if piece.kind == "answer" else -100 for piece in row for token in piece.ids]
    count = sum(label != -100 for label in labels)
    return model(torch.tensor([ids_of(row)]), labels=torch.tensor([labels])).loss.item() * count, count


def test_shared_prefix_changes_nothing(source: RowSource) -> None:
    """The loss with keys and values of the prefix computed once equals the plain loss of whole rows."""
    model = build_model(source.tokenizer, width=32, inner=48, layers=2, heads=2)
    prompt, rng = get_prompt("cascade"), random.Random(0)
    for rows in (source.micro_batch(0, 0, 4), [source.dialogue(prompt, source.talk(prompt, n, rng)) for n in (2, 2)]):
        loss = answer_loss(model, collate(rows, model.get_input_embeddings(), CLEAN, source.fillers, seed="0"))
        totals, counts = zip(*(plain_loss(model, row) for row in rows), strict=True)
        assert loss.item() == pytest.approx(sum(totals) / sum(counts), rel=1e-4)


def test_micro_batches_are_repeatable_and_of_one_prompt(source: RowSource) -> None:
    assert source.micro_batch(7, 1, 4) == source.micro_batch(7, 1, 4)
    assert source.micro_batch(7, 1, 4) != source.micro_batch(8, 1, 4)
    sizes = set()
    for step in range(60):
        batch = source.micro_batch(step, 0, 6)
        (turns,) = {sum(piece.kind == "content" for piece in row) for row in batch}
        sizes.add((turns, len(batch)))
        assert len({row[-2].ids for row in batch}) == 1 or turns > 1
    assert sizes == {(1, 6), (2, 3), (3, 2), (4, 1), (5, 1), (6, 1)}


def test_disturbance_keeps_to_the_content(source: RowSource) -> None:
    embedding = build_model(source.tokenizer, width=32, inner=48, layers=2, heads=2).get_input_embeddings()
    row = (Piece((5, 6, 7)), Piece((20, 21, 22), "content"), Piece((8, 9)))

    def embed(rows: list[Row], *hows: Disturbance, pad_left: bool = False) -> tuple[torch.Tensor, list[int]]:
        drawn = iter(hows)
        made = embed_rows(embedding, rows, lambda: next(drawn), source.fillers, random.Random(0), pad_left=pad_left)
        return made.embeds, made.lengths

    def of(*ids: int) -> torch.Tensor:
        return embedding(torch.tensor(ids))

    clean, lengths = embed([row], CLEAN)
    assert lengths == [8] and torch.equal(clean[0], of(5, 6, 7, 20, 21, 22, 8, 9))
    double = Disturbance(1.0, 0, 0, 0)
    doubled, lengths = embed([row, row], double, CLEAN, pad_left=True)
    assert lengths == [11, 8]
    assert torch.equal(doubled[0], of(5, 6, 7, 20, 20, 21, 21, 22, 22, 8, 9))
    assert torch.equal(doubled[1, 3:], clean[0])
    noisy, lengths = embed([row], Disturbance(0, 1.0, 0.3, 0.5))
    assert lengths == [11]
    assert torch.allclose(noisy[0, :3], clean[0, :3]) and torch.allclose(noisy[0, -2:], clean[0, -2:])
    assert not torch.allclose(noisy[0, 3], clean[0, 3])
    two, _ = embed([(*row, Piece((30,)), Piece((23,), "content"), Piece((9,)))], CLEAN, double)  # each on its own
    assert torch.equal(two[0], of(5, 6, 7, 20, 21, 22, 8, 9, 30, 23, 23, 9))


def test_drawn_strengths_lie_below_the_limits() -> None:
    rng, limits = random.Random(0), Disturbance()
    drawn = [limits.draw(rng) for _ in range(400)]
    assert 0.6 < sum(d != CLEAN for d in drawn) / len(drawn) < 0.8
    assert all(d.noise <= limits.noise and d.smear <= limits.smear for d in drawn)
    assert limits.scaled(0.0).draw(rng).noise == 0


def test_variation_keeps_topic_and_emotional_words(source: RowSource) -> None:
    rng = random.Random(0)
    changed = 0
    for sentence in source.sentences[:200]:
        text = vary(sentence, rng, source.neutral_words)
        changed += text != sentence.text
        assert {w for w in text.lower().replace(".", "").replace(",", "").split() if w in TOPICS} == {sentence.topic}
    assert 60 < changed < 180
    assert not set(source.neutral_words) & {"hooray", "tragic", "sofa"}


def test_an_untrained_model_fails_the_gate(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=1, warmup=0)
    with pytest.raises(RellmError, match="right topic"):
        train_llm(tmp_path, 100, size=SIZE, options=STEPS, plan=plan, progress=False)
    assert not (tmp_path / "metrics.json").exists()
    scores = json.loads((tmp_path / "state" / "metrics.json").read_text())
    assert set(scores["prompts"]) == set(TAUGHT)
    assert scores["gate"] < 0.5 and 0 < scores["items"] < 30
    assert set(scores["dialogues"]) == {"clean", "noise+doubling"}
    assert {"turn 1", "turn 6", "asked after 5"} < set(scores["dialogues"]["clean"])


def test_answers_do_not_depend_on_the_batch(trained: Path, source: RowSource) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained).eval()
    rows = [source.row(get_prompt("chat"), s, "sad", s.text) for s in source.sentences[:3]]
    together = answer_rows(model, source, rows)
    assert together == [answer_rows(model, source, [row])[0] for row in rows]


def test_contradictory_options_are_refused() -> None:
    with pytest.raises(RellmError, match="rows"):
        LlmSteps(rows=0)
    with pytest.raises(RellmError, match="heads"):
        LlmSize(heads=3)
    with pytest.raises(RellmError, match="out of order"):
        LlmSteps(disturb_from=0.9)
