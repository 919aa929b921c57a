"""The real `make chat`, with a real model, Redis and browser: parts are killed in mid-answer, and nothing is lost."""

import asyncio
import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
from browsers import drawn, expect, launched
from chat_stack import PROMPT, TOKENS, Shown, Stack

from lib.config import Model, Prompt
from lib.model import generation, loading, prompts

pytestmark = pytest.mark.slow


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


def stored(stack: Stack, cookie: str, conversation: str) -> dict:
    """A conversation's last message as the database has it."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.port}/c/{conversation}/export.json", headers={"Cookie": cookie}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["messages"][-1]


def settled(stack: Stack, cookie: str, conversation: str) -> dict:
    """As `stored`, as soon as its state says that it has ended."""
    deadline = time.monotonic() + 300
    while (message := stored(stack, cookie, conversation))["state"] != "ended":
        assert time.monotonic() < deadline, message
        time.sleep(0.05)
    return message


def test_a_greedy_answer_is_what_the_evaluation_generates(stack, cookie, model):
    async def ask() -> str:
        browser = await stack.browser(cookie).open()
        shown = await browser.follow(await browser.ask(PROMPT, 48))
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
        shown = await browser.follow(gid)
        message = await asyncio.to_thread(settled, stack, cookie, browser.conversation)
        await browser.close()
        return shown, message

    shown, message = asyncio.run(ask())
    assert shown.text == message["text"] == expected
    assert shown.doubled == 0
    assert (shown.end["finish"], message["finish"]) == ("length", "length")
    assert shown.end["usage"]["completion_tokens"] == TOKENS


@pytest.fixture(scope="module")
def browser():
    with launched() as made:
        yield made


@pytest.fixture
def page(stack, cookie, browser):
    name, _, value = cookie.partition("=")
    context = browser.new_context(locale="id-ID", viewport={"width": 1280, "height": 800})
    context.add_cookies([{"name": name, "value": value, "url": f"http://127.0.0.1:{stack.port}"}])
    made = context.new_page()
    made.set_default_timeout(30_000)
    made.goto(f"http://127.0.0.1:{stack.port}/")
    yield made
    context.close()


BOTH_BEGUN = """() => {
    const bodies = [...document.querySelectorAll(".side-answer .body")];
    return bodies.length === 2 && bodies.every((one) => one.textContent.length > 20);
}"""


def letters(text: str) -> str:
    """A text without what Markdown may have turned into shape."""
    return "".join(re.findall(r"[^\W\d_]", text))


def longer_than(letters: int) -> re.Pattern[str]:
    return re.compile(rf"[\s\S]{{{letters},}}")


def set_length(page, tokens: int) -> None:
    page.locator("[data-do=settings]").click()
    page.locator("#id_max_new_tokens").fill(str(tokens))
    page.locator("#settings-form .primary").click()
    expect(page.locator("#settings")).not_to_be_visible()


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
    set_length(page, TOKENS)
    ask(page, PROMPT)
    body = page.locator(".side-answer .body")
    expect(body).to_have_text(longer_than(40))
    kill(stack, "klepon.asgi")
    expect(body).to_have_text(longer_than(400), timeout=120_000)
    page.reload()
    expect(body).to_have_text(longer_than(400), timeout=120_000)
    kill(stack, "-m worker")
    page.locator("#send").wait_for(state="visible", timeout=300_000)
    message = settled(stack, cookie, conversation_of(page))
    assert message["usage"]["completion_tokens"] == TOKENS
    drawn(page)
    assert letters(body.inner_text()) == letters(message["text"])


def test_a_pair_is_answered_together_and_can_be_stopped(stack, cookie, page):
    # Nearly as long as the model's positions allow: it must not end before it is stopped.
    set_length(page, 1_900)
    page.get_by_role("radio", name="Bandingkan").check()
    ask(page, PROMPT)
    page.wait_for_function(BOTH_BEGUN, timeout=120_000)
    # A click this soon after the question would be taken for its second one.
    page.keyboard.press("Escape")
    page.locator("#send").wait_for(state="visible", timeout=300_000)
    message = settled(stack, cookie, conversation_of(page))
    assert message["finish"] == "cancelled" and message["text"]


def test_nothing_is_left_on_the_disk_but_what_is_kept(stack):
    left = {path.name for path in Path(stack.state).iterdir()}
    known = {"chat.sqlite3", "chat.sqlite3-shm", "chat.sqlite3-wal", "redis", "secret_key", "static", "worker-1.lock"}
    assert left <= known
