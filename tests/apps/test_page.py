"""The page in a real Chromium with a fake microphone (needs playwright and a Chromium on the PATH)."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

import uvicorn
from playwright.sync_api import Page, Route, expect, sync_playwright

from re_llm.apps.demo import scenes
from re_llm.apps.serve.app import build
from re_llm.apps.serve.connections import Connection, hosts_of
from re_llm.apps.serve.options import ServeOptions
from re_llm.audio import waveform
from re_llm.inference import engine

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")]
RECORDING = "0018-sad.flac"


@pytest.fixture(scope="module")
def model() -> engine.Engine:
    return engine.load(engine.SHIPPED_MODEL, device="cpu")


@contextmanager
def served(model: engine.Engine, options: ServeOptions) -> Iterator[str]:
    app = build(model, options, hosts_of("127.0.0.1"))
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, ws="none", log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(assets: Path, model: engine.Engine) -> Iterator[str]:
    with served(model, ServeOptions()) as found:
        yield found


@pytest.fixture
def page(address: str, assets: Path, tmp_path: Path) -> Iterator[Page]:
    """The page, with a microphone that plays a sad recording once, with silence around it."""
    wave = waveform.resample(waveform.load(assets / "recordings" / RECORDING), 16_000, 48_000)
    soundfile.write(tmp_path / "microphone.wav", np.pad(wave, (24_000, 480_000)), 48_000)
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}%noloop",
    ]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=arguments)
        opened = browser.new_page(viewport={"width": 740, "height": 800})
        wrong: list[str] = []
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.goto(address)
        expect(opened.locator("#examples button").first).to_be_visible()
        yield opened
        browser.close()
    assert wrong == []


def answers(page: Page, count: int) -> Any:
    found = page.locator("article .answer:not(.busy)")
    expect(found).to_have_count(count, timeout=60_000)
    return found


def write(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def test_a_spoken_turn_keeps_its_emotion_and_its_place(page: Page) -> None:
    page.click("#mic")
    expect(page.locator("#level")).to_be_visible()
    page.wait_for_timeout(4500)
    page.click("#mic")
    answers(page, 1)
    assert page.locator(".bar.top b").inner_text() == "sad"
    expect(page.locator("svg.plane circle")).to_have_count(1)
    write(page, "And what did I say?")
    answers(page, 2)
    titles = page.locator("article .title").all_inner_texts()
    assert titles[0].startswith("You said") and "what did I say" in titles[1]
    assert page.locator("article").nth(1).locator(".bar").count() == 0  # a text has no emotion
    box, composer = page.locator("article").nth(1).bounding_box(), page.locator("#ask").bounding_box()
    assert 0 < box["y"] + box["height"] <= composer["y"] + 1 and composer["y"] + composer["height"] <= 801
    page.reload()
    answers(page, 2)
    assert page.locator("article .title").all_inner_texts() == titles
    page.click("#more summary")  # the last turn stays above the composer, which has grown
    expect(page.locator("#clear")).to_be_visible()
    above = (
        "document.querySelector('article:last-of-type').getBoundingClientRect().bottom"
        " <= document.querySelector('#ask').getBoundingClientRect().top + 1"
    )
    until = time.monotonic() + 10
    while not page.evaluate(above):  # wait_for_function needs `unsafe-eval`, which the page does not allow
        assert time.monotonic() < until, "the composer lies over the last turn"
        page.wait_for_timeout(50)
    page.click("#clear")
    page.reload()
    expect(page.locator("article")).to_have_count(0)


def test_the_words_alone_on_demand(page: Page) -> None:
    """Without a transcript from the server the button says why, and can be pressed again."""
    asked: list[Any] = []

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_json["messages"])
        route.fulfill(json={"choices": [{"message": {"content": "That is words."}}]})

    page.locator("#examples button").first.click()
    answers(page, 1)
    transcripts = "**/v1/audio/transcriptions"
    page.route(transcripts, lambda route: route.fulfill(status=400, json={"error": {"message": "no Whisper here"}}))
    button = page.get_by_role("button", name="The words alone")
    button.click()
    expect(page.get_by_role("status")).to_have_text("no Whisper here")
    page.unroute(transcripts)
    page.route(transcripts, lambda route: route.fulfill(json={"text": "I lost my <b>keys</b>"}))
    page.route("**/v1/chat/completions", answer)
    button.click()
    expect(page.locator(".words")).to_contain_text("The words: “I lost my <b>keys</b>”")
    expect(page.locator(".words")).to_contain_text("That is words.")
    expect(page.locator(".words")).to_be_focused()
    assert asked == [[{"role": "user", "content": "I lost my <b>keys</b>"}]]
    page.reload()
    expect(page.locator(".words")).to_contain_text("That is words.")
    page.unroute("**/v1/chat/completions")
    write(page, "hello")
    answers(page, 2)
    expect(button).to_have_count(0)  # a text has no other words
    expect(page.get_by_role("status")).to_have_text("Press and speak")


def test_a_long_recording_shows_its_way_and_what_was_left_out(page: Page, tmp_path: Path, assets: Path) -> None:
    pause = np.zeros(24_000, np.float32)
    waves = [waveform.load(assets / "recordings" / f"{name}.flac") for name in ("0018-sad", "0019-happy", "0018-angry")]
    soundfile.write(tmp_path / "long.wav", np.concatenate([part for wave in waves for part in (wave, pause)]), 16_000)
    page.set_input_files("input[type=file]", tmp_path / "long.wav")
    answers(page, 1)
    notes = page.locator(".estimate .about").all_inner_texts()
    assert notes[0].startswith("0.0 to ") and notes[0].count(" s ") >= 3
    assert "It was trained on" in notes[1] or "it was trained on utterances of up to" in notes[1], notes
    assert len(page.locator("polyline").get_attribute("points").split()) >= 3


def test_a_screen_reader_finds_its_way(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    write(page, "hello")
    expect(page.locator("article[aria-busy=true]")).to_have_count(1)  # half a sentence is not read aloud
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Record")).to_be_focused()  # not lost with the button
    page.unroute("**/v1/chat/completions")
    page.locator("#try summary").click()
    page.locator("#examples button").first.click()
    expect(page.locator("article.failed")).to_have_count(0, timeout=60_000)
    answers(page, 1)
    tree = page.locator("body").aria_snapshot()
    for part in (
        '- heading "RE-LLM" [level=1]',
        '- log "Conversation":',
        '- article "“',  # named by its heading
        '- heading "“',
        '- group "What was heard":',
        '- img "valence 0.',
        '- group "Answer":',
        '- region "Ask":',
        '- button "Record"',
        '- textbox "Text"',
        '- button "Send"',
        "- status: Press and speak",
    ):
        assert part in tree, (part, tree)
    nameless = "a[href], button, input, summary, audio, meter"
    assert page.evaluate(
        f"""[...document.querySelectorAll({nameless!r})].filter((each) => !(each.ariaLabel || each.textContent.trim()
        || each.closest("label"))).map((each) => each.outerHTML)"""
    ) == []  # fmt: skip
    page.locator("#text").focus()
    order = []
    for _ in range(3):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.innerText.trim()"))
    assert order[:2] == ["Send", "More"]


def test_what_is_said_while_recording_is_not_repeated(page: Page) -> None:
    """A status that changes is read aloud every time: the running seconds are not part of it."""
    page.evaluate(
        """window.said = 0; new MutationObserver(() => window.said += 1)
        .observe(document.getElementById("state"), {childList: true, characterData: true, subtree: true})"""
    )
    page.click("#mic")
    expect(page.locator("#time")).to_contain_text("2.", timeout=30_000)
    assert page.evaluate("window.said") <= 3
    page.click("#mic")
    expect(page.locator("#time")).to_be_empty()
    answers(page, 1)


def test_an_answer_can_be_stopped_and_a_failed_one_tried_again(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    write(page, "hello")
    page.click("#stop")
    expect(page.locator("article.failed")).to_contain_text("(stopped)")
    page.unroute("**/v1/chat/completions")
    page.click("article.failed button")
    answers(page, 1)
    expect(page.locator("article.failed")).to_have_count(0)
    expect(page.locator("#stop")).to_be_hidden()


def test_what_has_no_answer_yet_is_shown_at_once_and_outlasts_a_reload(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    write(page, "the first")
    write(page, "the second")
    titles = page.locator("article .title")
    expect(titles).to_have_count(2)
    page.reload()
    expect(titles).to_have_count(2)
    expect(page.locator("article.failed").first).to_contain_text("The page was left before the answer.")
    page.unroute("**/v1/chat/completions")
    page.locator("article.failed button").first.click()
    expect(titles).to_have_count(1)  # the one that was asked again; the other was an error, which leaves
    expect(titles).to_contain_text("the first")
    expect(page.locator("article.failed")).to_have_count(0)


def test_clearing_ends_what_still_waits(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    write(page, "the first")
    write(page, "the second")
    page.click("#more summary")
    page.click("#clear")
    page.unroute("**/v1/chat/completions")
    write(page, "the third")
    answers(page, 1)
    expect(page.locator("article .title")).to_contain_text("the third")
    page.reload()
    expect(page.locator("article")).to_have_count(1)


def test_what_was_stopped_in_the_middle_stays(page: Page) -> None:
    event = 'data: {"choices": [{"index": 0, "delta": {"content": "Half an"}, "finish_reason": null}]}\n\n'
    halved = """(event) => { window.fetch = async (path, {signal}) => new Response(new ReadableStream({start(body) {
        body.enqueue(new TextEncoder().encode(event));
        signal.addEventListener("abort", () => body.error(new DOMException("", "AbortError"))); }})) }"""
    page.evaluate("window.own = window.fetch")
    page.evaluate(halved, event)
    write(page, "hello")
    expect(page.locator(".answer")).to_have_text("Half an")
    page.click("#stop")
    expect(page.locator(".answer")).to_have_text("Half an (stopped)")
    page.evaluate("window.fetch = window.own")
    write(page, "and now?")
    answers(page, 2)
    expect(page.locator(".answer").first).to_contain_text("Half an")


def test_a_lost_server_and_a_state_of_another_version(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: route.abort())
    write(page, "hello")
    expect(page.locator("article.failed")).to_contain_text("the server cannot be reached")
    page.evaluate("""sessionStorage.setItem("re-llm turns", '[{"foo": 1}]')""")
    page.reload()
    expect(page.locator("#model")).to_have_text("mini:re-llm")
    expect(page.locator("#examples button").first).to_be_visible()


def test_a_recording_too_large_to_be_kept_leaves_the_others(page: Page, tmp_path: Path) -> None:
    event = '{"choices": [{"index": 0, "delta": {"content": "So."}, "finish_reason": "stop"}]}'
    body = f"data: {event}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    write(page, "hello")
    answers(page, 1)
    (tmp_path / "large.wav").write_bytes(bytes(4_000_000))
    page.set_input_files("input[type=file]", tmp_path / "large.wav")
    answers(page, 2)
    expect(page.get_by_role("status")).to_contain_text("too long to be kept")
    page.reload()
    answers(page, 1)
    expect(page.locator("article .title")).to_contain_text("hello")


def test_more_than_the_server_takes_at_once_leaves_the_oldest_turns_out(page: Page, tmp_path: Path) -> None:
    """60 s of audio in one request: a fourth recording of 20 s comes with two of the earlier ones."""
    sound = np.tile(waveform.load(scenes("mini:re-llm")[0].folder / RECORDING), 8)[: 19 * waveform.RATE]
    soundfile.write(tmp_path / "long.wav", sound, waveform.RATE)
    for count in range(1, 5):
        page.set_input_files("input[type=file]", tmp_path / "long.wav")
        answers(page, count)
    expect(page.locator("article.failed")).to_have_count(0)
    expect(page.locator("article").last).to_contain_text("Without 1 of the earlier turns")
    write(page, "word " * 9999)
    expect(page.locator("article .title").last).to_contain_text(" …")
    assert len(page.locator("article .title").last.inner_text()) < 600


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_works_by_keyboard(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 640})
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    answers(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    answer, composer = (page.locator(name).bounding_box() for name in ("article .answer", "#ask"))
    assert answer["y"] > 0 and answer["y"] + answer["height"] <= composer["y"] + 1 and composer["height"] < 220


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NotAllowedError", "does not allow this page the microphone"),
        ("NotFoundError", "there is no microphone"),
        ("NotReadableError", "another program has the microphone"),
    ],
)
def test_a_microphone_that_cannot_be_used_is_told_and_can_be_tried_again(page: Page, name: str, said: str) -> None:
    page.evaluate(
        """name => {
            const given = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            let first = true;
            navigator.mediaDevices.getUserMedia = (wanted) =>
                first ? (first = false, Promise.reject(new DOMException("", name))) : given(wanted);
        }""",
        name,
    )
    page.click("#mic")
    expect(page.locator("#state.bad")).to_contain_text(said)
    expect(page.locator("#mic")).to_be_enabled()
    assert page.locator("#mic").get_attribute("aria-pressed") != "true"
    page.click("#mic")
    expect(page.locator("#level")).to_be_visible()


def test_the_key_of_a_server_is_asked_for_and_kept_in_the_tab(page: Page, model: engine.Engine) -> None:
    with served(model, ServeOptions(api_key="secret")) as address:
        page.goto(address)
        expect(page.locator("#state.bad")).to_contain_text("needs its API key")
        write(page, "Hello")
        expect(page.locator("article .answer.bad")).to_contain_text("needs its API key")
        page.reload()  # the turn still tells what was wrong
        expect(page.locator("article .answer.bad")).to_contain_text("needs its API key")
        page.fill("#key", "guessed")
        page.press("#key", "Enter")
        expect(page.locator("#state.bad")).to_contain_text("not the API key")
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        expect(page.locator("#unlock")).to_be_hidden()
        page.locator("article button", has_text="Try again").click()
        answers(page, 1)
        page.reload()
        answers(page, 1)
        write(page, "And again")
        answers(page, 2)
        assert page.locator(".bad").count() == 0
