"""The real `make chat`, with a real model, Redis and browser: parts are killed in mid-answer, and nothing is lost."""

import asyncio
import json
import os
import re
import shutil
import time
import urllib.request
from pathlib import Path

import pytest
from chat_stack import Browser, Shown, Stack, make_model
from playwright.sync_api import expect, sync_playwright
from wire.messages import Request, Settings, Turn
from worker.transformers_engine import load_engine

from lib.config import Model, Prompt
from lib.model import generation, loading, prompts

pytestmark = pytest.mark.slow
expect.set_options(timeout=30_000)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PROMPT = "Tulislah sebuah cerita panjang tentang laut."
#: Long enough that a part can be killed while it is written.
TOKENS = 1_200


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folders of a base model whose answers only end at their length, and of an adapter for it."""
    return make_model("demo", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def stack(model, tmp_path_factory):
    made = Stack(tmp_path_factory.mktemp("chat"), *model)
    yield made
    parts = made.children("")
    made.end()
    assert made.process.returncode == 0
    assert [part for part in parts if part.is_running()] == []


@pytest.fixture(scope="module")
def cookie(stack):
    return stack.cookies(1)[0]


@pytest.fixture(scope="module")
def expected(model):
    """What the engine says to PROMPT when nothing is in its way."""
    engine = load_engine(str(model[0]), model[1])
    request = Request("g", "u", "c", (Turn("user", PROMPT),), "adapter", 0, Settings(TOKENS, greedy=True))
    engine.add(request, (), "")
    text = ""
    while True:
        for step in engine.step():
            text = step.text if step.replaces else text + step.text
            if step.finish:
                return text


def stored(stack: Stack, cookie: str, conversation: str) -> dict:
    """A conversation's last message as the database has it."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.port}/c/{conversation}/export.json", headers={"Cookie": cookie}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["messages"][-1]


def settled(stack: Stack, cookie: str, conversation: str) -> dict:
    """As `stored`, as soon as its state says that it has ended."""
    deadline = time.monotonic() + 60
    while (message := stored(stack, cookie, conversation))["state"] != "ended":
        assert time.monotonic() < deadline, message
        time.sleep(0.05)
    return message


async def followed(stack: Stack, browser: Browser, gid: str) -> Shown:
    """An answer to its end, over as many sockets as it takes, as a page does it."""
    async with asyncio.timeout(90):
        while browser.shown[gid].ended is None:
            ending = asyncio.create_task(browser.until(gid, lambda shown: shown.ended))
            losing = asyncio.create_task(browser.lost())
            await asyncio.wait({ending, losing}, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            while browser.shown[gid].ended is None:
                try:
                    await browser.open()
                    break
                except (OSError, EOFError, RuntimeError):
                    await asyncio.sleep(0.1)
        return browser.shown[gid]


def test_a_greedy_answer_is_what_the_evaluation_generates(stack, cookie, model):
    async def ask() -> str:
        browser = await stack.browser(cookie).open()
        shown = await followed(stack, browser, await browser.ask(PROMPT, 48))
        await browser.close()
        return shown.text

    settings = Model(base_model=str(model[0]))
    tokenizer, adapter = loading.load_tokenizer(settings), loading.load_adapter(settings, model[1])
    ids, _ = prompts.encode_prompt(tokenizer, [{"role": "user", "content": PROMPT}], Prompt(), 1_024)
    end = prompts.end_of_turn_id(tokenizer, Prompt())
    decoding = generation.decoding_of(adapter, end, 48, do_sample=False)
    [[answer]] = generation.decode(adapter, [ids], generation.uniforms(0, 0, 0, 48)[None, None], decoding)
    assert asyncio.run(ask()) == tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.parametrize("part", ["-m worker", "redis", "klepon.asgi", "finalize"])
def test_a_part_that_is_killed_in_mid_answer_costs_nothing(stack, cookie, expected, part):
    async def ask() -> tuple[Shown, dict]:
        browser = await stack.browser(cookie).open()
        gid = await browser.ask(PROMPT, TOKENS)
        await browser.until(gid, lambda shown: shown.events > 4)
        words = "valkey|redis-server" if part == "redis" else re.escape(part)
        killed = [one for one in stack.children("") if re.search(words, " ".join(one.cmdline()))]
        assert killed
        for process in killed:
            process.kill()
        shown = await followed(stack, browser, gid)
        message = await asyncio.to_thread(settled, stack, cookie, browser.conversation)
        await browser.close()
        return shown, message

    shown, message = asyncio.run(ask())
    assert shown.text == message["text"] == expected
    assert shown.doubled == 0
    assert (shown.end["finish"], message["finish"]) == ("length", "length")
    assert shown.end["usage"]["completion_tokens"] == TOKENS


@pytest.fixture(scope="module")
def chromium():
    if not CHROMIUM:
        pytest.skip("no Chromium: install it, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(stack, cookie, chromium):
    name, _, value = cookie.partition("=")
    context = chromium.new_context(locale="id-ID", viewport={"width": 1280, "height": 800})
    context.add_cookies([{"name": name, "value": value, "url": f"http://127.0.0.1:{stack.port}"}])
    made = context.new_page()
    made.set_default_timeout(30_000)
    made.goto(f"http://127.0.0.1:{stack.port}/")
    yield made
    context.close()


def letters(text: str) -> str:
    """A text without what Markdown may have turned into shape."""
    return "".join(re.findall(r"[^\W\d_]", text))


def longer_than(letters: int) -> re.Pattern[str]:
    return re.compile(rf"[\s\S]{{{letters},}}")


def ask(page, text: str) -> None:
    page.get_by_label("Pesan Anda").last.fill(text)
    page.keyboard.press("Enter")


def kill(stack: Stack, words: str) -> None:
    for process in stack.children(words):
        process.kill()


def conversation_of(page) -> str:
    page.wait_for_url("**/c/**")
    return page.url.rstrip("/").rsplit("/", 1)[-1]


def test_a_page_shows_what_is_stored_though_it_was_reloaded_and_the_site_and_the_worker_were_killed(
    stack, cookie, page
):
    page.locator("[data-do=settings]").click()
    page.locator("#id_max_new_tokens").fill(str(TOKENS))
    page.locator("#settings-form .primary").click()
    expect(page.locator("#settings")).not_to_be_visible()
    ask(page, PROMPT)
    body = page.locator(".side-answer .body")
    expect(body).to_have_text(longer_than(40))
    kill(stack, "klepon.asgi")
    expect(body).to_have_text(longer_than(400))
    page.reload()
    expect(body).to_have_text(longer_than(400))
    kill(stack, "-m worker")
    page.locator("#send").wait_for(state="visible", timeout=90_000)
    message = settled(stack, cookie, conversation_of(page))
    assert message["usage"]["completion_tokens"] == TOKENS
    assert letters(body.inner_text()) == letters(message["text"])


def test_a_pair_is_answered_together_and_can_be_stopped(stack, cookie, page):
    page.get_by_role("radio", name="Bandingkan").check()
    ask(page, PROMPT)
    for side in (0, 1):
        expect(page.locator(".side-answer .body").nth(side)).to_have_text(longer_than(20))
    # A click this soon after the question would be taken for its second one.
    page.keyboard.press("Escape")
    page.locator("#send").wait_for(state="visible", timeout=90_000)
    message = settled(stack, cookie, conversation_of(page))
    assert message["finish"] == "cancelled" and message["text"]


def test_nothing_is_left_on_the_disk_but_what_is_kept(stack):
    left = {path.name for path in Path(stack.state).iterdir()}
    known = {"chat.sqlite3", "chat.sqlite3-shm", "chat.sqlite3-wal", "redis", "secret_key", "static", "worker-1.lock"}
    assert left <= known
