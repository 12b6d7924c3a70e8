"""BLSP-Emo's tables as the miniature's recipe has them, on tiny parts: every kind of system, judge and servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import paper_world
import pytest
import tiny_world
from chat_world import ChatServerWorld, Fault, error, serving

from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records
from re_llm.pipeline.layout import Run
from re_llm.pipeline.preflight import preflight
from re_llm.pipeline.reproduce import ReproduceReport, _stages, reproduce
from re_llm.recipe.config import Recipe
from re_llm.recipe.files import load_recipe

OF_THE_WORLD = "I can see your point about the kettle. Write it all down and send them a strong complaint."


def speech_llm(messages: list, tokens: int) -> tuple[str, str]:
    asked = any("identify the emotion" in part.get("text", "") for part in messages[-1]["content"])
    return ("happy" if asked else "How nice, I am happy for you!", "stop")


def judge(messages: list, tokens: int) -> tuple[str, str]:
    text = messages[-1]["content"]
    return ("<choice>Response A</choice>" if "<response_A>" in text else "<score>7</score>", "stop")


@pytest.fixture
def servers() -> Iterator[tuple[ChatServerWorld, ChatServerWorld, ChatServerWorld]]:
    """A speech LLM, a judge, and an LLM that writes targets; each fails now and then."""
    with (
        serving(speech_llm) as spoken,
        serving(judge) as judging,
        serving(lambda m, _: ("And so on.", "stop")) as other,
    ):
        for world in (spoken, judging, other):
            world.fault = lambda number, text: Fault(500, error("busy")) if number % 7 == 3 else None
        yield spoken, judging, other


def tiny(root: Path, servers: tuple[ChatServerWorld, ...], **changes: object) -> Recipe:
    """The shipped recipe with tiny parts, few recordings and two steps of every training."""
    spoken, judging, other = ({"url": world.url, "model": "m", "concurrency": 2} for world in servers)
    shipped = load_recipe("blsp_tables_mini")
    small = {f"corpora.{name}.scale": 0.02 for name in shipped.corpora}
    small |= {f"corpora.{name}.scale": 0.04 for name in ("iemocap", "conversations")}  # for dialogues
    steps = {f"stages.{name}.{option}": 2 for name in shipped.stages for option in ("max_steps", "batch_size")}
    emotion = {
        "kind": "separate",
        "name": str(tiny_world.save_emotion(root / "emotion", normalize=False)),
        "train": "head",
    }
    fit = {"epochs": 1, "batch_size": 8, "utterances": 8, "background": 0.0}
    layers = {"kind": "shared", "speech_encoder": str(paper_world.write_whisper(root / "whisper")), "layers": [1]}
    head = {"emotion_encoder": layers, "data": ["esd"], "fit": fit, "augment": {"copies": 0}}
    return load_recipe("blsp_tables_mini", {
        **small, **steps,
        "components": {"llm": str(tiny_world.save_llm(root / "llm")), "speech_encoder": str(root / "whisper")},
        "model": {"fusion": "none", "speech_window": "trimmed", "adapter": {"bottleneck": 16}, "lora": {"r": 2}},
        "corpora.msp_podcast.options": {"train": 12, "test": 6, "emotions": 5},
        "llms.other": other,
        "classifiers.wav2vec2": {"emotion_encoder": emotion, "data": ["esd"], "fit": fit},
        "classifiers.whisper-layers": head,
        "systems.served": {"kind": "server", "server": spoken},
        "judge": {"server": judging, "corpora": ["esd"]},
        "decoding": {"max_new_tokens": 4, "continuation_tokens": 8, "batch_size": 16, "recognize_tokens": 4},
        "workers": 1, "device": "cpu",
        **changes,
    })  # fmt: skip


@pytest.mark.slow
def test_the_tables_from_corpora_to_the_report(
    servers: tuple[ChatServerWorld, ChatServerWorld, ChatServerWorld], tmp_path: Path
) -> None:
    pytest.importorskip("espeakng_loader")
    recipe, out = tiny(tmp_path, servers), tmp_path / "run"
    lines: list[str] = []
    result = reproduce(recipe, out, say=lines.append)
    assert result.report is not None
    check_report(out / "report", recipe)
    heard = list(read_records(out / "replies" / "dialogues" / "blsp-emo-heard.0.jsonl", ReplyRecord))
    assert heard and all(len(reply.history) >= 4 and reply.corpus == "dialogues" for reply in heard)
    written = list(read_records(out / "continuations" / "other" / "esd.continue-emotion.jsonl", ReplyRecord.__base__))
    assert written and all(row.model_extra["output"] == "And so on." for row in written)
    for world in servers:
        world.asked.clear()
    again: list[str] = []
    reproduce(recipe, out, say=again.append)
    assert not any(world.asked for world in servers), "nothing is asked or paid twice"
    assert all(line.endswith("complete") or line.startswith("==") for line in again), again


def test_scores_judge_and_report_of_all_systems_from_their_replies(
    servers: tuple[ChatServerWorld, ChatServerWorld, ChatServerWorld], tmp_path: Path
) -> None:
    judging = {"url": servers[1].url, "model": "m", "concurrency": 2}
    recipe = load_recipe("blsp_tables_mini", {"judge": {"server": judging, "corpora": ["esd"]}})
    run = Run(recipe, tmp_path / "run", lambda _: None)
    for name in recipe.corpora:
        row = Utterance(key="t", corpus=name, split="train", audio="a.wav", text="Of training.")
        write_records(run.manifest(name), [row])
    for job in run.respond_jobs():
        options, labels, system = job.options(), ("sad", "happy", "angry"), job.system
        history = [{"role": "user", "text": "Hm.", "emotion": "angry"}, {"role": "assistant", "text": "Oh."}]
        write_records(job.out, [
            ReplyRecord(
                key=f"u{i}", system=job.system_name, corpus=job.corpus, text=f"Words {i}.", emotion=emotion,
                seed=job.seed,
                response=(OF_THE_WORLD if i == 1 else f"I am sorry, {job.system_name}. Why?") if options.prompt else "",
                answer=emotion if options.recognize else None, predicted_emotion="sad" if system.classifier else None,
                probabilities={"sad": 0.6, "happy": 0.4} if system.kind == "speech" else None,
                history=history if job.corpus == "dialogues" else None,
            )
            for i, emotion in enumerate(labels * 3)
        ])  # fmt: skip
    result = ReproduceReport()
    for name in ("score", "judge", "report"):
        _stages(run, result)[name]()
    assert result.report is not None
    check_report(result.report.parent, recipe)
    # The second reply of every system that was asked for one is of the miniature's world.
    made = json.loads((result.report.parent / "results.json").read_text())["gold"]
    own = [each for each in made if each["system"] is not None]
    assert own and all(each["agreement"]["replies"] == 1 and each["without"] == 8 for each in own)
    assert "## Gold levels beside the scorer" in (result.report.parent / "report.md").read_text()


def check_report(folder: Path, recipe: Recipe) -> None:
    """Every section and every system is there; a comparison by place alone is a tie."""
    page = (folder / "report.md").read_text()
    for title in ("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", "Figure 3", "Table II of RE-LLM", "Dialogues"):
        assert f"## {title}" in page, title
    made = json.loads((folder / "results.json").read_text())
    cells = {(cell["system"], cell["corpus"], cell["metric"]) for cell in made["cells"]}
    assert {system for system, *_ in cells} == set(recipe.systems)
    assert ("blsp-emo", "esd", "JUDGE_EMPATHY") in cells and ("wav2vec2-cascade", "iemocap", "HEAD_WA") in cells
    assert not any(metric == "ER" for _, corpus, metric in cells if corpus == "iemocap"), "no reply was asked for"
    assert {each["against"] for each in made["wins"]} == set(recipe.shown.wins[0].against)
    assert all(each["by"] == "judge m" and each["won"] == each["lost"] == 0 for each in made["wins"])


def test_a_file_of_replies_is_a_system_of_a_run(tmp_path: Path) -> None:
    from re_llm.pipeline.responding import RespondJob, respond_job
    from re_llm.recipe.files import parse_recipe

    recipe = parse_recipe(
        "name: t\ntitle: T\ncomponents: {llm: a, speech_encoder: b}\nmodel: {fusion: none}\nstages: {}\n"
        "corpora: {toy: {reader: custom, root: x}}\nsystems: {theirs: {kind: file, file: '"
        + str(tmp_path / "{corpus}.theirs.jsonl") + "'}}"
    )  # fmt: skip
    rows = [
        Utterance(key=f"u{i}", corpus="toy", split="test", audio="a.wav", text=f"t{i}", emotion="sad") for i in range(3)
    ]
    write_records(tmp_path / "m.jsonl", rows)
    theirs = [ReplyRecord(key=f"u{i}", system="x", response=f"r{i}", text="wrong", answer="sad") for i in range(3)]
    write_records(tmp_path / "toy.theirs.jsonl", theirs[:2])
    job = RespondJob(
        "theirs", recipe.systems["theirs"], recipe, None, tmp_path / "m.jsonl", tmp_path / "out" / "r.jsonl", 0, "toy"
    )
    with pytest.raises(RellmError, match="has no reply to 1 of 3 utterances: u2"):
        respond_job(job)
    write_records(tmp_path / "toy.theirs.jsonl", theirs)
    assert respond_job(job).endswith(f"3 replies of {tmp_path / 'toy.theirs.jsonl'}")
    found = list(read_records(job.out, ReplyRecord))
    assert [(row.system, row.text, row.response, row.emotion) for row in found][2] == ("theirs", "t2", "r2", "sad")
    assert respond_job(job).endswith("complete")
    write_records(tmp_path / "toy.theirs.jsonl", [*theirs[:2], theirs[2].model_copy(update={"response": "else"})])
    assert "made again" in respond_job(job)


def test_what_the_real_names_lack_here_is_found_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    dead = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    recipe = load_recipe("blsp_tables", {
        "systems.salmonn.server": dead, "judge.server": {**dead, "key_env": "OPENAI_API_KEY"},
        "llms.chatgpt": {**dead, "key_env": "OPENAI_API_KEY"},
    })  # fmt: skip
    _, found = preflight(recipe, tmp_path)
    parts = {finding.part: str(finding) for finding in found.findings}
    names = "llm, speech_encoder, classifier hubert, classifier wavlm, corpus iemocap, corpus speech_alpaca, scorer"
    for part in (*names.split(", "), "system salmonn", "judge", "llm chatgpt"):
        assert part in parts, parts
    assert "corpus dialogues" not in parts and "cannot be reached" in parts["system salmonn"]
    keys = [str(each) for each in found.findings if "OPENAI_API_KEY" in each.what]
    assert len(keys) == 2


def test_a_system_tuned_for_a_corpus_answers_its_dialogues(tmp_path: Path) -> None:
    shipped = {"reader": "dialogues", "root": "iemocap", "ask": "reply"}
    run = Run(load_recipe("re_llm", {"corpora.talks": shipped}), tmp_path, lambda _: None)
    assert {job.out.parent.name for job in run.tuning_jobs()} == {"iemocap", "esd", "msp_podcast"}
    jobs = {(job.system_name, job.corpus): job for job in run.respond_jobs()}
    assert jobs["re-llm", "talks"].checkpoint == jobs["re-llm", "iemocap"].checkpoint


def test_a_system_answers_its_own_corpora_and_one_without_a_reply_is_not_asked_for_one() -> None:
    recipe = load_recipe("blsp_tables")
    run = Run(recipe, Path("run"), lambda _: None)
    jobs = {(job.system_name, job.corpus): job for job in run.respond_jobs()}
    assert ("text", "merbench1") not in jobs and ("cascade", "merbench1") in jobs
    assert jobs["cascade", "merbench1"].splits == ("test1",) and jobs["cascade", "merbench1"].options().prompt is None
    assert jobs["cascade", "merbench1"].options().corpus == "merbench1"
    hubert = jobs["hubert-cascade", "dialogues"]
    assert (hubert.options().prompt, hubert.options().recognize) == ("cascade-dialogue", None)
    heard = jobs["blsp-emo-heard", "dialogues"].options()
    assert (heard.history, heard.corpus) == ("speech", "dialogues"), "the tables name the recipe's corpus"
    assert jobs["hubert-cascade", "iemocap"].metrics() == ("HEAD",) and hubert.metrics() is None
    wanted = {str(each) for each in run._wanted_continuations()}
    assert "esd, continue-emotion, chatgpt" in wanted and "esd, continue-emotion" in wanted
    assert run.stage_order()[0] == "blsp"
