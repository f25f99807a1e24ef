"""The page in a browser: words, an image dropped, a click, the keyboard, a phone, the dark."""

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from miniclip.deploy.server import Searcher, create_app
from miniclip.deploy.server.running import listen
from tests.deploy.server.browser import Browser, chromium

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs Chromium or Chrome")

FOUND = "document.querySelectorAll('.card').length"
MESSAGE = "document.getElementById('message')?.textContent"


@pytest.fixture(scope="module")
def address(searchers: list[Searcher]) -> Iterator[str]:
    """Where a server of two indexes listens."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(searchers), log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def browser(address: str, tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as page:
        page.open(address)
        page.wait_until(f"{MESSAGE}?.includes('first: 5 images')")
        yield page
        assert page.complaints == []


def test_words_an_image_and_a_click_find_images(browser: Browser, album: Path) -> None:
    browser.call("Input.insertText", text="a red photo")  # the field has the focus
    browser.value("document.getElementById('search').requestSubmit()")
    browser.wait_until(f"{FOUND} === 10")  # five of each index, side by side
    assert "10 images in" in browser.value(MESSAGE)
    assert browser.value("location.search") == "?q=a%20red%20photo"

    content = base64.b64encode((album / "photos" / "2.png").read_bytes()).decode()
    browser.value(f"""(() => {{
        const bytes = Uint8Array.from(atob("{content}"), (letter) => letter.charCodeAt(0));
        const dropped = new DataTransfer();
        dropped.items.add(new File([bytes], "dropped.png", {{ type: "image/png" }}));
        document.getElementById("words").value = "";
        document.dispatchEvent(new DragEvent("drop", {{ dataTransfer: dropped, bubbles: true }}));
    }})()""")
    browser.wait_until("document.querySelector('.card .name')?.textContent === '2.png'")
    assert browser.value("document.getElementById('query-name').textContent") == "dropped.png"

    browser.value(
        "[...document.querySelectorAll('.card')].find((card) => card.title.endsWith('3.png')).click()"
    )
    browser.wait_until("document.querySelector('.card .name')?.textContent === '3.png'")
    assert browser.value("document.querySelector('.card .score').textContent") == "1.000"
    # a name that would be HTML stays a name
    assert browser.value("document.querySelectorAll('main img[src=\"x\"]').length") == 0


def test_words_in_the_address_are_searched_for(browser: Browser, address: str) -> None:
    browser.open(f"{address}?q=two%20words")
    browser.wait_until(f"{FOUND} === 10")
    assert browser.value("document.getElementById('words').value") == "two words"


def test_the_keyboard_suffices(browser: Browser) -> None:
    browser.call("Input.insertText", text="photo")
    for key, code in (("Enter", 13), ("ArrowDown", 40), ("ArrowRight", 39), ("Enter", 13)):
        if key == "ArrowDown":
            browser.wait_until(f"{FOUND} === 10")
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)
    browser.wait_until("document.getElementById('query-name').textContent.startsWith('similar to')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_in_both_schemes(browser: Browser, scheme: str) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=360, height=720, deviceScaleFactor=2, mobile=True
    )
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Input.insertText", text="photo")
    browser.value("document.getElementById('search').requestSubmit()")
    browser.wait_until(f"{FOUND} === 10")

    assert browser.value("document.documentElement.scrollWidth") <= 360
    background = "getComputedStyle(document.body).backgroundColor"
    levels = browser.value(f"{background}.match(/\\d+/g).slice(0, 3).map(Number)")
    assert max(levels) < 80 if scheme == "dark" else min(levels) > 200
