"""A picture of the server's page with a real answer: `python tools/page_screenshot.py docs/page.png`.

Needs playwright and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from re_llm.inference.engine import SHIPPED_MODEL

LARGEST = 150_000  # bytes: the README loads it
PATIENCE = 240_000  # ms


def talk(page: Page) -> None:
    """Two recordings in different moods, each answered."""
    for number, mood in enumerate(("sad", "happy"), start=1):
        if not page.locator("#try").get_attribute("open"):
            page.evaluate("document.getElementById('try').open = true")
        page.locator("#examples button", has_text=mood).first.click()
        expect(page.locator("article .answer:not(.busy)")).to_have_count(number, timeout=PATIENCE)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--model", default=SHIPPED_MODEL)
    arguments.add_argument("--scheme", choices=("light", "dark"), default="light")
    given = arguments.parse_args()
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("there is no Chromium on the PATH")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "re_llm", "serve", "--port", str(port), "--model", given.model]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, sync_playwright() as play:
        try:
            assert server.stderr is not None
            if not any("Application startup complete" in line for line in server.stderr):
                sys.exit("the server did not start")
            browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 760, "height": 900}, color_scheme=given.scheme)
            page.goto(f"http://127.0.0.1:{port}/")
            expect(page.locator("#examples button").first).to_be_visible(timeout=PATIENCE)
            talk(page)
            page.screenshot(path=given.out)
            browser.close()
        finally:
            server.terminate()
    size = given.out.stat().st_size
    print(f"{given.out}: {size} bytes")
    if size > LARGEST:
        sys.exit(f"more than the {LARGEST} that the README should load")


if __name__ == "__main__":
    main()
