"""The pages in a browser, against the site in this process with a service that a test writes for."""

import contextlib
import json
import os
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
from browsers import BROWSER, drawn, expect, launched
from chat import answers, consumers, frames, payloads, turns
from chat.models import Conversation, Message, Pair
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from fake_service import world
from live import KEY_PRESSES, live_site, talk_of
from wire.events import Transcript
from wire.messages import Chosen, Likely, Offered, Piece, Seen
from wire.service import Busy

pytestmark = pytest.mark.slow
CHROMIUM_ALONE = pytest.mark.skipif(
    BROWSER != "chromium", reason="Playwright cannot give Firefox a touch screen, less motion, or no scripts"
)

POEM = (
    "Buah nangka buah kedondong,\nmanis rasanya di pagi hari.\nKalau kawan suka menolong,\nhidup terasa lebih berseri."
)
EVIL = """<script>window.evil = 1</script><img src="https://evil.example/a.png" onerror="window.evil = 1">

![gambar](https://evil.example/b.png) [klik](javascript:window.evil=1) [situs](https://evil.example/baca)

<style>body { display: none }</style><iframe src="https://evil.example"></iframe>

[data](data:text/html,<script>window.evil=1</script>) [rusak](http://[) [evil.example/contoh.id](https://contoh.id/a)

https://contoh.id/halaman
"""
CODE = "Begini:\n\n```python\ndef halo():\n    return 'dunia'\n```\n\nSelesai."
#: At 0.02 s a word still being written when a test has long done what it does meanwhile.
ENDLESS = "kata " * 5_000


@pytest.fixture(scope="module")
def site():
    with live_site() as made:
        yield made


@pytest.fixture(scope="module")
def browser():
    with launched() as made, pytest.MonkeyPatch.context() as patch:
        # Playwright's own event loop runs in this thread, and the tests look into the database here.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield made


@contextlib.contextmanager
def visitor(address, browser):
    """Open the site in a context of its own; nothing may be logged as an error, nothing asked of another machine."""
    contexts, errors, requests = [], [], []

    def open_page(path="/", **options):
        options = {"locale": "id-ID", "viewport": {"width": 1280, "height": 800}} | options
        context = browser.new_context(**options)
        if BROWSER == "chromium":
            context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address + path)
        return page

    open_page.errors = errors
    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith((address, "data:"))] == []


@pytest.fixture
def visit(site, browser):
    with visitor(site.address, browser) as open_page:
        yield open_page


PASSWORD = "pandan-wangi-7"


@pytest.fixture
def visit_with_accounts(browser):
    """The same for a site where people log in: sari and tamu may."""
    for name in ("sari", "tamu"):
        get_user_model().objects.create_user(name, password=PASSWORD)
    middleware = [one for one in settings.MIDDLEWARE if one != "chat.users.local_user_middleware"]
    with (
        live_site(ACCOUNTS=True, MIDDLEWARE=middleware) as made,
        visitor(made.address, browser) as open_page,
    ):
        open_page.site = made
        yield open_page


def log_in(page, name):
    page.locator("[name=username]").fill(name)
    page.locator("[name=password]").fill(PASSWORD)
    page.get_by_role("button", name="Masuk").click()
    expect(page.locator("#model")).to_have_text("klepon-demo")


def put(field, text):
    """Paste a long text: a driver may take a key press for each letter."""
    field.evaluate("(field, text) => { field.value = text; field.dispatchEvent(new Event('input')); }", text)


def text_of(download):
    """What was downloaded; Firefox tells a driver only where from."""
    if BROWSER == "chromium":
        return Path(download.path()).read_text()
    return download.page.evaluate("(url) => fetch(url).then((answer) => answer.text())", download.url)


def says(text, pause=0.0):
    """From now on the model answers this; or what a function makes of the request."""
    world.say = text if callable(text) else lambda request: text
    world.pause = pause


def finalize():
    """Bring the ended answers into the database, as the finalizer does."""
    for gid, generation in world.generations.items():
        if record := answers.finished(gid, Transcript.of(generation.events)):
            answers.store(record)


def write(page, text):
    page.get_by_label("Pesan Anda").last.fill(text)
    page.keyboard.press("Enter")


def answer(page, number=-1):
    return page.locator(".side-answer").nth(number)


def until(page, reached):
    """Let the browser tell what happens, until something is so."""
    for _ in range(1_500):
        if reached():
            return
        page.wait_for_timeout(20)
    pytest.fail("it never came")


# --- A conversation --------------------------------------------------------------------------------------------------


def test_a_sample_prompt_begins_a_conversation(visit):
    says(POEM)
    page = visit()
    page.get_by_text("Tulis pantun tentang persahabatan.").click()
    expect(answer(page).locator(".body")).to_contain_text("hidup terasa lebih berseri.")
    expect(page.locator("h1")).to_have_text("Tulis pantun tentang persahabatan.")
    assert re.search(r"/c/[0-9a-f-]{36}/$", page.url)
    expect(page.locator("#conversations a[aria-current]")).to_have_text("Tulis pantun tentang persahabatan.")
    expect(page.locator("#welcome")).to_be_hidden()
    expect(page.locator("#text")).to_have_value("")


def test_a_poem_keeps_its_lines(visit):
    says(POEM)
    page = visit()
    write(page, "Tulis pantun.")
    expect(answer(page).locator(".body br")).to_have_count(3)


def test_the_conversation_goes_on_and_stays(visit):
    says(lambda request: f"Jawaban {len(request.turns)}")
    page = visit()
    write(page, "Satu")
    expect(answer(page).locator(".body")).to_have_text("Jawaban 1")
    write(page, "Dua")
    expect(answer(page).locator(".body")).to_have_text("Jawaban 3")
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)
    expect(answer(page).locator(".body")).to_have_text("Jawaban 3")


def test_enter_sends_and_shift_enter_does_not(visit):
    says("Ya")
    page = visit()
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("satu")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("dua")
    page.keyboard.press("Enter")
    expect(page.locator(".bubble")).to_have_text("satu\ndua")


def test_escape_stops_an_answer(visit):
    says(ENDLESS, pause=0.02)
    page = visit()
    write(page, "Cerita panjang")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(answer(page).locator(".state")).to_contain_text("Dihentikan")
    expect(page.locator("#send")).to_be_visible()


def test_another_answer_and_an_edit_keep_the_branches(visit):
    said = iter(["satu", "dua", "tiga"])
    says(lambda request: next(said))
    page = visit()
    write(page, "Lama")
    expect(answer(page).locator(".body")).to_have_text("satu")
    page.get_by_label("Jawaban lain").click()
    expect(answer(page).locator(".body")).to_have_text("dua")
    expect(page.locator(".answer .branch")).to_have_text("2/2")
    page.locator(".answer").get_by_label("Versi sebelumnya").click()
    expect(answer(page).locator(".body")).to_have_text("satu")
    page.locator(".turn.user").hover()
    page.get_by_label("Sunting dan kirim lagi").click()
    page.locator(".editor textarea").fill("Baru")
    page.keyboard.press("Enter")
    expect(answer(page).locator(".body")).to_have_text("tiga")
    expect(page.locator(".bubble")).to_have_text("Baru")
    page.locator(".turn.user").hover()
    page.locator(".turn.user").get_by_label("Versi sebelumnya").click()
    expect(page.locator(".bubble")).to_have_text("Lama")
    expect(answer(page).locator(".body")).to_have_text("satu")


def test_where_an_answer_is_from_and_the_same_again(visit):
    says("Halo")
    page = visit()
    write(page, "Halo")
    page.get_by_label("Asal jawaban ini").click()
    card = page.locator(".origin-card")
    for words in ("klepon-demo", "d278354a3f34", "48,5 token/dtk", "40 ms"):
        expect(card).to_contain_text(words)
    expect(card).to_be_in_viewport(ratio=1)
    page.get_by_text("Buat lagi jawaban yang persis sama").click()
    expect(page.locator(".answer .branch")).to_have_text("2/2")
    first, second = world.requests
    assert (first.seed, first.settings, first.turns) == (second.seed, second.settings, second.turns)


def test_settings_are_sent_with_the_next_text(visit):
    says("Ya")
    page = visit()
    page.get_by_label("Pengaturan jawaban").first.click()
    page.get_by_label("Panjang maksimum jawaban, dalam token").fill("33")
    page.get_by_label("Suhu").fill("9")
    page.get_by_role("button", name="Simpan").click()
    expect(page.locator("[data-error=temperature]")).not_to_be_empty()
    expect(page.get_by_label("Suhu")).to_be_focused()
    page.get_by_label("Suhu").fill("0.52")
    page.get_by_role("button", name="Simpan").click()
    expect(page.locator("#settings")).to_be_hidden()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    assert (world.requests[0].settings.max_new_tokens, world.requests[0].settings.temperature) == (33, 0.52)
    # The site says no with a status that Chromium reports as an error.
    assert ["400" in line for line in visit.errors] == [True] * (BROWSER == "chromium")
    visit.errors.clear()


def test_a_number_that_the_browser_cannot_read_is_not_taken_for_none(visit):
    page = visit()
    page.get_by_label("Pengaturan jawaban").first.click()
    page.get_by_label("Suhu").press_sequentially("1e")
    page.get_by_role("button", name="Simpan").click()
    expect(page.locator("[data-error=temperature]")).not_to_be_empty()
    expect(page.locator("#settings")).to_be_visible()


def test_settings_that_were_not_saved_are_not_sent(visit):
    says("Ya")
    page = visit()
    page.get_by_label("Pengaturan jawaban").first.click()
    page.get_by_label("Panjang maksimum jawaban, dalam token").fill("33")
    page.get_by_role("button", name="Simpan").click()
    expect(page.locator("#settings")).to_be_hidden()
    page.get_by_label("Pengaturan jawaban").first.click()
    page.get_by_label("Panjang maksimum jawaban, dalam token").fill("44")
    page.get_by_label("Selalu pilih token yang paling mungkin").check()
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    assert (world.requests[0].settings.max_new_tokens, world.requests[0].settings.greedy) == (33, False)


# --- Base beside adapter ---------------------------------------------------------------------------------------------


def test_base_beside_adapter_blind_until_the_vote(visit):
    said = {"base": "Ibu kota Jepang adalah Lima.", "adapter": "Ibu kota Jepang adalah Tokyo."}
    says(lambda request: said[request.target])
    page = visit()
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Apa ibu kota Jepang?")
    expect(page.locator(".side-answer .name")).to_have_text(["Jawaban A", "Jawaban B"])
    page.locator("[data-act=compare]").click()
    expect(page.locator(".body mark")).to_have_count(2)
    assert set(page.locator(".body mark").all_text_contents()) == {"Lima", "Tokyo"}
    bodies = page.locator(".side-answer .body").all_text_contents()
    side = "A" if "Tokyo" in bodies[0] else "B"
    finalize()
    page.get_by_role("button", name=f"{side} lebih baik").click()
    expect(page.locator(".verdict")).to_have_text("Anda lebih suka Klepon.")
    expect(page.locator(".goes-on")).to_have_text("Pesan Anda berikutnya melanjutkan jawaban ini: Klepon.")
    assert set(page.locator(".side-answer .name").all_text_contents()) == {"Model asli", "Klepon"}
    assert Pair.objects.get().choice == "adapter"
    page.reload()
    assert page.locator(".side-answer .body").all_text_contents() == bodies
    expect(page.locator(".vote")).to_be_hidden()


def test_a_pair_that_was_cut_short_says_that_a_vote_would_not_count_and_what_the_next_text_goes_on_from(visit):
    says(ENDLESS, pause=0.02)
    page = visit()
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Cerita")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    page.keyboard.press("Escape")
    expect(page.locator(".vote")).to_contain_text("pilihan Anda tidak akan dihitung")
    expect(page.get_by_role("button", name="A lebih baik")).to_be_hidden()
    expect(page.locator(".goes-on")).to_contain_text("tanpa pilihan, jawaban Klepon")
    finalize()
    page.get_by_role("button", name="Tunjukkan mana yang mana").click()
    expect(page.locator(".vote")).to_be_hidden()
    expect(page.locator(".goes-on")).to_have_text("Pesan Anda berikutnya melanjutkan jawaban ini: Klepon.")


def test_who_goes_on_without_a_vote_sees_which_is_which_and_votes_no_more(visit):
    says("Ya")
    page = visit()
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Satu")
    expect(page.locator(".vote")).to_be_visible()
    finalize()
    page.get_by_role("radio", name="Klepon").check()
    write(page, "Dua")
    expect(page.locator(".pair .verdict")).to_have_text("Anda melihat tanpa memilih.")
    expect(page.locator(".pair .vote")).to_be_hidden()
    assert set(page.locator(".pair .name").all_text_contents()) == {"Model asli", "Klepon"}
    expect(answer(page).locator(".body")).to_have_text("Ya")


def test_marks_come_and_go_and_leave_the_text_as_it_was(visit):
    said = {"base": "satu **dua** tiga `empat`", "adapter": "satu lima tiga `enam` tujuh"}
    says(lambda request: said[request.target])
    page = visit()
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Hitung")
    expect(page.locator(".vote")).to_be_visible()
    before = page.locator(".side-answer .body").evaluate_all("all => all.map((one) => one.innerHTML)")
    page.locator("[data-act=compare]").click()
    assert sorted(page.locator(".body mark").all_text_contents()) == ["dua", "empat", "enam", "lima", "tujuh"]
    page.locator("[data-act=compare]").click()
    assert page.locator(".side-answer .body").evaluate_all("all => all.map((one) => one.innerHTML)") == before


def test_a_pair_without_a_vote_is_not_given_away_by_a_key_or_a_language(visit):
    says("Ya.")
    page = visit()
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Halo")
    bodies = page.locator(".side-answer .body")
    expect(bodies).to_have_text(["Ya.", "Ya."])
    expect(page.locator(".vote")).to_be_visible()
    languages = "all => all.map((one) => one.lang)"
    assert len(set(bodies.evaluate_all(languages))) == 1
    page.evaluate("navigator.clipboard.writeText('sebelumnya')")
    page.keyboard.press("Alt+c")
    page.evaluate("new Promise((done) => setTimeout(done, 100))")
    expect(page.locator(".done")).to_have_count(0)
    assert page.evaluate("navigator.clipboard.readText()") == "sebelumnya"
    finalize()
    page.locator("[data-act=reveal]").click()
    expect(page.locator(".verdict")).to_be_visible()
    assert set(bodies.evaluate_all(languages)) == {"", "id"}
    page.keyboard.press("Alt+c")
    expect(page.locator("[data-target=adapter] .done")).to_have_count(1)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_pair_that_is_asked_in_one_window_stands_whole_in_the_other(visit, monkeypatch, at_once):
    async def one_by_one(self, opened):
        for message in opened.messages:
            await self.say(type="messages", messages=[payloads.message_json(message)])
        await self._follow(opened)

    if not at_once:
        monkeypatch.setattr(consumers.ChatConsumer, "_see", one_by_one)
    says("Ya")
    first = visit()
    write(first, "Satu")
    expect(answer(first).locator(".body")).to_have_text("Ya")
    second = visit(first.url.removeprefix(first.url.split("/c/")[0]))
    expect(second.locator("#model")).to_have_text("klepon-demo")
    first.get_by_role("radio", name="Bandingkan").check()
    write(first, "Dua")
    for page in (first, second):
        expect(page.locator(".pair .name")).to_have_text(["Jawaban A", "Jawaban B"])
        expect(page.locator(".pair .body")).to_have_text(["Ya", "Ya"])
        expect(page.locator(".pair .vote")).to_be_visible()


# --- Nothing lost ----------------------------------------------------------------------------------------------------


def test_a_reload_in_mid_answer_loses_nothing(visit):
    words = " ".join(str(number) for number in range(120))
    says(words, pause=0.02)
    page = visit()
    write(page, "Hitung")
    expect(answer(page).locator(".body")).to_contain_text("5 6 7")
    page.reload()
    expect(answer(page).locator(".body")).to_have_text(words)


def test_a_lost_connection_loses_nothing(visit, site):
    words = " ".join(str(number) for number in range(150))
    says(words, pause=0.02)
    page = visit()
    write(page, "Hitung")
    expect(answer(page).locator(".body")).to_contain_text("5 6 7")
    site.tear()
    try:
        expect(page.locator("#banner")).to_contain_text("Tidak tersambung")
    finally:
        site.mend()
    expect(answer(page).locator(".body")).to_have_text(words)
    expect(page.locator("#banner")).to_be_hidden()
    # Chromium reports every try that comes to nothing.
    visit.errors[:] = [line for line in visit.errors if "WebSocket connection" not in line]


def test_who_looks_at_the_page_again_in_mid_answer_reads_nothing_twice(visit):
    words = " ".join(str(number) for number in range(150))
    says(words, pause=0.02)
    page = visit()
    write(page, "Hitung")
    expect(answer(page).locator(".body")).to_contain_text("5 6 7")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(answer(page).locator(".body")).to_have_text(words)


@pytest.mark.parametrize("away", ["redis", "site"])
def test_a_stop_that_does_not_arrive_is_sent_again(visit, site, away):
    says(ENDLESS, pause=0.02)
    page = visit()
    write(page, "Cerita panjang")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    if away == "redis":
        world.online = False
        page.keyboard.press("Escape")
        expect(page.locator("#banner")).to_contain_text("Model sedang tidak dapat dijangkau")
        world.online = True
    else:
        site.tear()
        try:
            expect(page.locator("#banner")).to_contain_text("Tidak tersambung")
            page.keyboard.press("Escape")
        finally:
            site.mend()
    expect(answer(page).locator(".state")).to_contain_text("Dihentikan")
    # Chromium reports every try that comes to nothing.
    visit.errors[:] = [line for line in visit.errors if "WebSocket connection" not in line]


def test_what_is_written_while_redis_is_away_is_sent_when_it_is_back(visit):
    says("Ya")
    page = visit()
    expect(page.locator("#model")).to_have_text("klepon-demo")
    world.online = False
    write(page, "Simpan ini")
    expect(page.locator("#banner")).to_contain_text("Model sedang tidak dapat dijangkau")
    expect(page.locator("#text")).to_have_value("Simpan ini")
    world.online = True
    expect(answer(page).locator(".body")).to_have_text("Ya")
    assert Message.objects.filter(role="user").count() == 1


def test_what_is_too_large_for_a_frame_is_told_before_it_is_sent(visit):
    says("Ya")
    page = visit()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    finalize()
    page.get_by_label("Asal jawaban ini").click()
    page.get_by_role("button", name="Sunting jawaban dan lanjutkan").click()
    put(page.locator("#rewrite-text"), "あ" * 22_000)
    page.locator("#rewrite").get_by_role("button", name="Lanjutkan").click()
    expect(page.get_by_role("alert").filter(has_text="terlalu panjang untuk dikirim")).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()
    assert len(world.requests) == 1


def test_a_frame_that_closes_the_socket_by_its_size_is_not_sent_again(visit, monkeypatch):
    says("Ya")
    page = visit()
    expect(page.locator("#model")).to_have_text("klepon-demo")
    monkeypatch.setattr(frames, "MAX_FRAME", 2_000)
    write(page, "kata " * 500)
    expect(page.locator("#problem")).to_contain_text("terlalu panjang untuk dikirim")
    expect(page.locator("#text")).to_have_value("kata " * 500)
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    assert [request.turns[-1].content for request in world.requests] == ["Halo"]


def test_a_second_tab_follows_the_first(visit):
    words = " ".join(str(number) for number in range(80))
    says(words, pause=0.02)
    first = visit()
    write(first, "Hitung")
    expect(answer(first).locator(".body")).to_contain_text("1 2 3")
    second = visit(first.url.removeprefix(first.url.split("/c/")[0]))
    expect(answer(second).locator(".body")).to_have_text(words)
    expect(answer(first).locator(".body")).to_have_text(words)


def test_what_is_asked_under_one_answer_in_two_windows_is_two_branches_in_both(visit):
    says("Ya")
    first = visit()
    write(first, "Halo")
    expect(answer(first).locator(".body")).to_have_text("Ya")
    finalize()
    second = visit("/c/" + first.url.split("/c/")[1])
    expect(second.locator("#model")).to_have_text("klepon-demo")
    write(first, "Satu")
    for page in (first, second):
        expect(page.locator(".bubble").last).to_have_text("Satu")
        expect(answer(page).locator(".body")).to_have_text("Ya")
        expect(page.locator(".side-answer")).to_have_count(2)
    finalize()
    second.locator(".turn.user").last.hover()
    second.locator(".turn.user").last.get_by_label("Sunting dan kirim lagi").click()
    second.locator(".editor textarea").fill("Dua")
    second.keyboard.press("Enter")
    # Each window goes on showing what was asked in it.
    for page, text, branch in ((first, "Satu", "1/2"), (second, "Dua", "2/2")):
        expect(page.locator(".user .branch").last).to_have_text(branch)
        expect(page.locator(".bubble").last).to_have_text(text)
    first.locator(".turn.user").last.hover()
    first.locator(".turn.user").last.get_by_label("Versi berikutnya").click()
    expect(first.locator(".bubble").last).to_have_text("Dua")
    expect(answer(first).locator(".body")).to_have_text("Ya")


def test_the_queue_and_a_missing_model_are_told(visit):
    world.workers = []
    page = visit()
    expect(page.locator("#banner")).to_contain_text("Belum ada model")
    write(page, "Halo")
    expect(answer(page).locator(".state")).to_have_text("Menunggu giliran: 1 dari 1.")


# --- Nothing sent, stopped or told that was not meant ----------------------------------------------------------------


def test_a_draft_is_for_nobody_else_who_logs_in(visit_with_accounts):
    page = visit_with_accounts()
    log_in(page, "sari")
    page.locator("#text").fill("rahasia sari")
    page.reload()
    expect(page.locator("#text")).to_have_value("rahasia sari")
    # The session ends without a log-out.
    Session.objects.all().delete()
    page.goto(page.url)
    log_in(page, "tamu")
    expect(page.locator("#text")).to_have_value("")
    assert "rahasia" not in page.evaluate("JSON.stringify(sessionStorage)")
    assert page.evaluate("localStorage.length") == 0


def test_logging_out_clears_the_drafts_of_every_tab(visit_with_accounts):
    page = visit_with_accounts()
    log_in(page, "sari")
    other = page.context.new_page()
    other.goto(page.url)
    for tab in (page, other):
        expect(tab.locator("#model")).to_have_text("klepon-demo")
        tab.locator("#text").fill("rahasia sari")
    page.get_by_label("Keluar").click()
    for tab in (page, other):
        tab.wait_for_url("**/login*")
        assert tab.evaluate("sessionStorage.length + localStorage.length") == 0


def test_a_page_does_not_speak_for_another_who_has_logged_in_since(visit_with_accounts):
    page = visit_with_accounts()
    log_in(page, "sari")
    visit_with_accounts.site.tear()
    expect(page.locator("#banner")).to_contain_text("Tidak tersambung")
    write(page, "rahasia sari")
    Session.objects.all().delete()
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("[name=username]").fill("tamu")
    other.locator("[name=password]").fill(PASSWORD)
    other.get_by_role("button", name="Masuk").click()
    expect(other.locator("#text")).to_be_visible()
    Conversation.objects.create(owner=get_user_model().objects.get(username="tamu"), title="Milik tamu")
    visit_with_accounts.site.mend()
    expect(page.locator("#banner")).to_have_text("Sesi Anda telah berakhir. Masuk lagi")
    with page.expect_response("**/conversations?*"):
        page.get_by_label("Cari percakapan").fill("tamu")
    expect(page.locator("#conversations")).not_to_contain_text("Milik tamu")
    assert not Message.objects.exists()
    # Chromium reports the torn connections, and that the list was refused.
    visit_with_accounts.errors[:] = [
        line for line in visit_with_accounts.errors if "WebSocket connection" not in line and "401" not in line
    ]


KEY_OF_AN_INPUT_METHOD = """(element, key) => {
    // What Safari says: the composition has ended, and only the number tells whose key it was.
    const of = { key, keyCode: 229, bubbles: true, cancelable: true };
    element.dispatchEvent(new KeyboardEvent("keydown", of));
}"""


def test_the_keys_of_an_input_method_are_not_the_pages(visit):
    says(ENDLESS, pause=0.02)
    page = visit()
    page.locator("#text").fill("にほん")
    page.locator("#text").evaluate(KEY_OF_AN_INPUT_METHOD, "Enter")
    expect(page.locator("#text")).to_have_value("にほん")
    page.keyboard.press("Enter")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    page.locator("#text").evaluate(KEY_OF_AN_INPUT_METHOD, "Escape")
    assert [one.state for one in world.generations.values()] == ["running"]
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()
    page.locator("#text").press("ArrowUp")
    page.locator(".editor textarea").fill("にほんご")
    for key in ("Enter", "Escape"):
        page.locator(".editor textarea").evaluate(KEY_OF_AN_INPUT_METHOD, key)
    expect(page.locator(".editor textarea")).to_have_value("にほんご")
    assert len(world.requests) == 1


PHONE = {"viewport": {"width": 360, "height": 700}, "has_touch": True, "is_mobile": True}


@CHROMIUM_ALONE
def test_on_a_phone_enter_makes_a_line_and_the_button_sends(visit):
    says("Ya")
    page = visit(**PHONE)
    page.locator("#text").click()
    page.keyboard.type("satu")
    page.keyboard.press("Enter")
    page.keyboard.type("dua")
    expect(page.locator("#text")).to_have_value("satu\ndua")
    page.get_by_label("Kirim").click()
    expect(page.locator(".bubble")).to_have_text("satu\ndua")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    page.get_by_label("Sunting dan kirim lagi").click()
    page.locator(".editor textarea").press("Enter")
    expect(page.locator(".editor textarea")).to_have_value("satu\ndua\n")
    assert len(world.requests) == 1


def test_a_second_click_on_send_does_not_stop_the_answer(visit):
    says("kata " * 60, pause=0.02)
    page = visit()
    page.locator("#text").fill("Cerita")
    page.evaluate("""() => {
        const stop = document.querySelector("#stop");
        const again = () => stop.dispatchEvent(new MouseEvent("click", { bubbles: true, detail: 1 }));
        new MutationObserver(again).observe(stop, { attributeFilter: ["hidden"] });
    }""")
    page.get_by_label("Kirim").click()
    expect(page.locator("#send")).to_be_visible()
    expect(answer(page).locator(".state")).to_be_empty()
    expect(answer(page).locator(".body")).to_have_text("kata " * 59 + "kata")


def test_answers_are_copied_where_the_browser_has_no_clipboard_for_scripts(visit):
    says("Tiga **kata** tebal\n\n```python\nx = 1\n```")
    page = visit()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    write(page, "Halo")
    copy = answer(page).get_by_label("Salin")
    expect(copy).to_be_visible()
    for button, text in ((copy, world.say(None)), (page.get_by_text("Salin kode"), "x = 1\n")):
        button.click()
        expect(button).to_have_class(re.compile("done"))
        page.locator("#text").fill("")
        page.locator("#text").press("Control+v")
        expect(page.locator("#text")).to_have_value(text)
    page.evaluate("document.execCommand = () => false")
    copy.click()
    expect(page.locator("#problem")).to_contain_text("salin sendiri")


def test_another_language_leaves_the_conversation_and_the_draft_as_they_are(visit):
    says("Ya")
    page = visit()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    page.locator("#text").fill("belum selesai")
    there = page.url
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    assert page.url == there
    expect(answer(page).locator(".body")).to_have_text("Ya")
    expect(page.locator("#text")).to_have_value("belum selesai")


def test_an_ended_session_is_told_in_a_sentence_and_nothing_is_lost(visit_with_accounts):
    says("Ya")
    page = visit_with_accounts()
    log_in(page, "sari")
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    there = page.url
    page.locator("#text").fill("belum selesai")
    page.locator(".turn.user").hover()
    page.get_by_label("Sunting dan kirim lagi").click()
    page.locator(".editor textarea").fill("Halo lagi")
    Session.objects.all().delete()
    page.get_by_label("Cari percakapan").fill("Halo")
    expect(page.locator("#banner")).to_have_text("Sesi Anda telah berakhir. Masuk lagi")
    page.get_by_label("Percakapan ini", exact=True).click()
    page.locator("#menu").get_by_role("button", name="Ganti judul").click()
    page.get_by_label("Judul", exact=True).fill("Salam")
    page.keyboard.press("Enter")
    expect(page.locator("#rename .problem")).to_contain_text("Sesi Anda telah berakhir.")
    page.locator("#rename").get_by_role("link", name="Masuk lagi").click()
    log_in(page, "sari")
    page.wait_for_url(there)
    expect(page.get_by_label("Judul", exact=True)).to_have_value("Salam")
    page.locator("#rename").get_by_role("button", name="Simpan").click()
    expect(page.locator("h1")).to_have_text("Salam")
    expect(page.locator("#text")).to_have_value("belum selesai")
    expect(page.locator(".editor textarea")).to_have_value("Halo lagi")
    page.get_by_label("Pengaturan jawaban").first.click()
    page.get_by_label("Suhu").fill("0.5")
    Session.objects.all().delete()
    page.get_by_role("button", name="Simpan").click()
    expect(page.locator("#settings .problem")).to_contain_text("Sesi Anda telah berakhir.")
    page.locator("#settings").get_by_role("link", name="Masuk lagi").click()
    log_in(page, "sari")
    expect(page.locator("#settings")).to_be_visible()
    expect(page.get_by_label("Suhu")).to_have_value("0.5")


def test_a_site_that_cannot_be_reached_is_told_in_a_sentence(visit):
    page = visit()
    page.get_by_label("Pengaturan jawaban").first.click()
    page.context.set_offline(True)
    page.get_by_role("button", name="Simpan").click()
    expect(page.locator("#settings .problem")).to_contain_text("Situs tidak dapat dijangkau")
    page.context.set_offline(False)
    page.get_by_role("button", name="Simpan").click()
    expect(page.locator("#settings")).to_be_hidden()
    visit.errors[:] = [line for line in visit.errors if "ERR_INTERNET_DISCONNECTED" not in line]


def test_a_sample_leaves_what_is_being_written_as_it_is(visit):
    says("Ya")
    page = visit()
    page.locator("#text").fill("belum selesai")
    page.get_by_text("Tulis pantun tentang persahabatan.").click()
    expect(answer(page).locator(".body")).to_have_text("Ya")
    expect(page.locator("#text")).to_have_value("belum selesai")
    page.reload()
    expect(answer(page).locator(".body")).to_have_text("Ya")
    expect(page.locator("#text")).to_have_value("belum selesai")
    page.get_by_role("link", name="Percakapan baru").click()
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#text")).to_have_value("")


# --- What answers are made of ----------------------------------------------------------------------------------------


def test_a_table_is_aligned_scrolls_sideways_and_is_silent_in_the_console(visit):
    rows = "".join(f"| nama{number} | {number} | satu | dua | tiga | empat | lima |\n" for number in range(190, 200))
    says("| Nama | Jumlah | A | B | C | D | Keterangan |\n|:-:|--:|---|---|---|---|---|\n" + rows, pause=0.01)
    page = visit(**PHONE)
    page.locator("#text").fill("Tabel")
    page.get_by_label("Kirim").click()
    expect(answer(page).locator("tr")).to_have_count(11)
    drawn(page)
    last = answer(page).locator("tr").last.locator("td")
    assert last.evaluate_all("all => all.map((one) => getComputedStyle(one).textAlign)")[:3] == [
        "center",
        "right",
        "start",
    ]
    # No number is broken in two: the cell is one line high.
    assert (
        last.nth(1).evaluate(
            "one => { const r = document.createRange(); r.selectNodeContents(one); return r.getClientRects().length; }"
        )
        == 1
    )
    assert answer(page).locator(".wide").evaluate("one => one.scrollWidth > one.clientWidth && one.tabIndex === 0")
    # `visit` makes sure that nothing was logged as an error.


def test_the_first_dash_of_a_list_makes_no_heading_of_the_line_above(visit):
    page = visit()
    write(page, "Resep")
    expect(page.locator("#stop")).to_be_visible()
    gid = world.requests[0].gid
    world.start(gid)
    world.tell(gid, "Bahan-bahan:", "\n-")
    expect(answer(page).locator(".body")).to_contain_text("-")
    assert answer(page).locator(".body").locator("h3, h4").count() == 0
    world.tell(gid, " gula\n\nJudul\n===\n")
    expect(answer(page).locator(".body")).to_contain_text("===")
    world.end(gid)
    expect(answer(page).locator(".body h3")).to_have_text("Judul")
    expect(answer(page).locator(".body li")).to_have_text("gula")


def test_a_text_runs_in_the_direction_of_its_letters(visit):
    says("Halo\n\nالسلام عليكم\n\n- سلام")
    page = visit()
    write(page, "السلام عليكم")
    expect(answer(page).locator("li")).to_have_text("سلام")
    direction = "one => getComputedStyle(one).direction"
    assert page.locator(".bubble").evaluate(direction) == "rtl"
    assert answer(page).locator(".body p, .body li").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).direction)"
    ) == ["ltr", "rtl", "rtl"]
    page.locator("#text").fill("السلام")
    assert page.locator("#text").evaluate(direction) == "rtl"


AT_END = """() => {
    const one = document.querySelector("#scroll");
    return one.scrollTop > 0 && one.scrollHeight - one.scrollTop - one.clientHeight < 2;
}"""


def test_a_small_step_of_the_wheel_lets_go_of_the_end(visit):
    page = visit()
    write(page, "Panjang")
    expect(page.locator("#stop")).to_be_visible()
    gid = world.requests[0].gid
    world.start(gid)
    world.tell(gid, "baris\n\n" * 60)
    scroll = page.locator("#scroll")
    page.wait_for_function(AT_END)
    scroll.hover()
    before = scroll.evaluate("one => one.scrollTop")
    page.mouse.wheel(0, -8)
    page.wait_for_function("(before) => document.querySelector('#scroll').scrollTop < before", arg=before)
    world.tell(gid, "lagi\n\n" * 5)
    expect(answer(page).locator(".body")).to_contain_text("lagi")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert scroll.evaluate("one => one.scrollTop") < before
    page.locator("[data-do=down]").click()
    world.end(gid)
    drawn(page)
    page.wait_for_function(AT_END)


@CHROMIUM_ALONE
def test_a_finger_that_looks_up_lets_go_of_the_end(visit):
    page = visit(**PHONE)
    page.locator("#text").fill("Panjang")
    page.get_by_label("Kirim").click()
    expect(page.locator("#stop")).to_be_visible()
    gid = world.requests[0].gid
    world.start(gid)
    world.tell(gid, "baris\n\n" * 60)
    page.wait_for_function(AT_END)
    scroll = page.locator("#scroll")
    before = scroll.evaluate("one => one.scrollTop")
    # The finger alone: what it scrolls would let go of the end too.
    scroll.evaluate("""(one) => {
        const move = (type, clientY) => one.dispatchEvent(new TouchEvent(type, {
            bubbles: true, touches: [new Touch({ identifier: 1, target: one, clientY })],
        }));
        move("touchstart", 300);
        move("touchmove", 320);
    }""")
    world.tell(gid, "lagi\n\n" * 5)
    expect(answer(page).locator(".body")).to_contain_text("lagi")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert scroll.evaluate("one => one.scrollTop") == before
    world.end(gid)


def test_a_conversation_that_was_deleted_elsewhere_keeps_what_is_being_written(visit):
    says("Ya")
    page = visit()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    page.locator("#text").fill("belum selesai")
    Conversation.objects.all().delete()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#problem")).to_contain_text("Percakapan ini dihapus di tempat lain.")
    expect(page.locator("#text")).to_have_value("belum selesai")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    page.get_by_role("link", name="Lanjutkan di percakapan baru").click()
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#text")).to_have_value("belum selesai")


def test_a_stop_that_is_refused_is_not_taken_for_a_deleted_conversation(visit):
    says(ENDLESS, pause=0.02)
    page = visit()
    write(page, "Cerita")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    Message.objects.filter(role="assistant").delete()
    page.keyboard.press("Escape")
    expect(page.locator("#problem")).to_have_text("Jawaban itu tidak ada.")
    Conversation.objects.all().delete()
    page.keyboard.press("Escape")
    expect(page.locator("#problem")).to_contain_text("Percakapan ini dihapus di tempat lain.")


def test_escape_in_the_search_closes_the_search_and_no_answer(visit):
    says(ENDLESS, pause=0.02)
    page = visit()
    write(page, "Cerita")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    page.get_by_label("Cari percakapan").fill("tidak ada")
    expect(page.locator("#none")).to_be_visible()
    page.get_by_label("Cari percakapan").press("Escape")
    expect(page.get_by_label("Cari percakapan")).to_have_value("")
    expect(page.locator("#conversations a")).to_have_count(1)
    expect(page.locator("#text")).to_be_focused()
    assert [one.state for one in world.generations.values()] == ["running"]
    page.keyboard.press("Escape")
    expect(answer(page).locator(".state")).to_contain_text("Dihentikan")


def writing_a_second_answer(visit):
    """A page on a conversation with an answer, below which a long one is being written."""
    says("satu")
    page = visit()
    write(page, "Satu")
    expect(answer(page).locator(".body")).to_have_text("satu")
    says(ENDLESS, pause=0.02)
    write(page, "Dua")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    return page


def test_what_cannot_be_asked_while_an_answer_is_written_is_told(visit):
    page = writing_a_second_answer(visit)
    page.locator("#text").fill("Tiga")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_contain_text("Jawaban masih ditulis")
    expect(page.locator("#text")).to_have_value("Tiga")
    page.locator("#text").fill("Tigaa")
    expect(page.locator("#problem")).to_be_empty()
    page.locator(".turn.answer").first.get_by_label("Jawaban lain").click()
    expect(page.locator("#problem")).to_contain_text("Jawaban masih ditulis")
    assert len(world.requests) == 2
    expect(page.locator("#stop")).to_be_visible()


def test_an_edited_text_waits_in_its_editor_while_an_answer_is_written(visit):
    page = writing_a_second_answer(visit)
    page.locator(".turn.user").first.hover()
    page.get_by_label("Sunting dan kirim lagi").first.click()
    page.locator(".editor textarea").fill("Satu lagi")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_contain_text("Jawaban masih ditulis")
    expect(page.locator(".editor textarea")).to_have_value("Satu lagi")
    assert len(world.requests) == 2


def test_what_was_chosen_is_there_after_a_reload(visit):
    said = iter(["satu", "dua"])
    says(lambda request: next(said))
    page = visit()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("satu")
    page.get_by_label("Jawaban lain").click()
    expect(answer(page).locator(".body")).to_have_text("dua")
    page.locator(".answer").get_by_label("Versi sebelumnya").click()
    page.get_by_role("radio", name="Bandingkan").check()
    page.reload()
    expect(answer(page).locator(".body")).to_have_text("satu")
    expect(page.get_by_role("radio", name="Bandingkan")).to_be_checked()


def test_a_letter_of_two_units_counts_as_two(visit):
    says("Ya")
    page = visit()
    put(page.locator("#text"), "🙂" * 8_001)
    expect(page.locator("#send")).to_be_disabled()
    expect(page.locator("#count")).to_have_text("16002/16000")
    expect(page.locator("#problem")).to_have_text("16002 karakter; batasnya 16000.")
    put(page.locator("#text"), "🙂" * 8_000)
    expect(page.locator("#problem")).to_be_empty()
    page.get_by_label("Kirim").click()
    expect(answer(page).locator(".body")).to_have_text("Ya")
    assert world.requests[0].turns[-1].content == "🙂" * 8_000


def test_letters_that_nobody_sees_are_no_question(visit):
    page = visit()
    page.locator("#text").fill("\u200b \u200d")
    expect(page.locator("#send")).to_be_disabled()
    page.locator("#text").press("Enter")
    expect(page.locator("#text")).not_to_have_value("")
    assert world.requests == []


def test_lists_have_their_marks_and_tasks_their_boxes(visit):
    says("- satu\n  - dalam\n- [ ] belum\n- [x] sudah")
    page = visit()
    write(page, "Daftar")
    expect(answer(page).locator("li").last).to_have_text("☑ sudah")
    marks = answer(page).locator("ul").evaluate_all("all => all.map((one) => getComputedStyle(one).listStyleType)")
    assert marks == ["disc", "circle"]


def test_an_answer_stopped_before_its_first_word_keeps_nothing(visit):
    page = visit()
    write(page, "Halo")
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(answer(page).locator(".state")).to_have_text("Dihentikan sebelum ada yang tertulis.")


def test_who_answers_stands_level_with_its_mark_and_a_long_text_has_the_width_of_its_dialog(visit):
    says("Ya")
    page = visit()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    mark, name = (answer(page).locator(f"header {part}").bounding_box() for part in (".dot", ".name"))
    assert abs(mark["y"] + mark["height"] / 2 - name["y"] - name["height"] / 2) < 1
    for dialog in ("system", "rewrite"):
        page.evaluate("name => document.querySelector(`#${name}`).showModal()", dialog)
        around, text = (page.locator(f"#{dialog}{part}").bounding_box() for part in ("", " textarea"))
        assert text["width"] > 0.8 * around["width"]
        page.evaluate("name => document.querySelector(`#${name}`).close()", dialog)


def test_no_word_of_a_button_breaks_on_the_smallest_screen(visit):
    page = visit(viewport={"width": 320, "height": 600}, has_touch=True, is_mobile=True)
    page.locator("[data-do=open-side]").click()
    broken = page.evaluate("""() => [...document.querySelectorAll(".targets span, .language button")].filter((one) => {
        const range = document.createRange();
        range.selectNodeContents(one);
        return range.getClientRects().length > 1;
    }).map((one) => one.textContent)""")
    assert broken == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


FORMULA = r"""Energi \(E = mc^2\,\) dan $a_1 * b_1$, bukan $5 dan $6.

\[
x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}
- 1
\]

$$\int_0^1 x^2 \, dx$$

Salah: \(\frac{\) dan `$kode$`."""


def test_mathematics_is_set_and_copied_as_it_is_stored(visit):
    says(FORMULA, pause=0.01)
    page = visit()
    write(page, "Rumus")
    body = answer(page).locator(".body")
    expect(body.locator("math")).to_have_count(4)
    expect(body.locator(".math.display math[display=block]")).to_have_count(2)
    expect(body.locator("mfrac")).to_have_count(1)
    expect(body.locator("msqrt")).to_have_count(1)
    expect(body).to_contain_text("bukan $5 dan $6.")
    expect(body).to_contain_text(r"Salah: \(\frac{\) dan")
    expect(body.locator("code")).to_have_text("$kode$")
    assert body.locator("[style]").count() == 0
    expect(page.locator("#send")).to_be_visible()
    answer(page).get_by_label("Salin").click()
    expect(answer(page).get_by_label("Salin")).to_have_class(re.compile("done"))
    assert page.evaluate("navigator.clipboard.readText()") == FORMULA


def test_the_page_finds_the_mathematics_that_an_export_finds(visit):
    cases = json.loads((Path(__file__).parent / "maths_cases.json").read_text())
    found = visit().evaluate(
        """async (texts) => {
            const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
            const { default: markdownit } = await import(loaded.find((name) => name.includes("/markdown-it.esm")));
            const { findMaths } = await import(loaded.find((name) => name.includes("/maths.")));
            const parser = markdownit({ breaks: true });
            findMaths(parser);
            const all = (text) => parser.parse(text, {}).flatMap((token) => [token, ...(token.children ?? [])]);
            return texts.map((text) => all(text).filter(({ type }) => type === "math").map(({ content }) => content));
        }""",
        [case["text"] for case in cases],
    )
    assert found == [case["found"] for case in cases]


def test_what_a_model_thought_first_is_folded_away_and_copied_as_it_is_stored(visit):
    text = "<think>\nDua <b>dan</b> dua.\n</think>\n\nHasilnya **empat**."
    says(text, pause=0.01)
    page = visit()
    write(page, "Berapa?")
    expect(answer(page).locator(".body strong")).to_have_text("empat")
    expect(answer(page).locator(".body")).to_have_text("Hasilnya empat.")
    thought = answer(page).locator(".thought")
    expect(thought.locator("p")).to_be_hidden()
    thought.get_by_text("Yang dipikirkan model sebelum menjawab").click()
    expect(thought.locator("p")).to_have_text("Dua <b>dan</b> dua.")
    answer(page).get_by_label("Salin").click()
    expect(answer(page).get_by_label("Salin")).to_have_class(re.compile("done"))
    assert page.evaluate("navigator.clipboard.readText()") == text


# --- A long conversation ---------------------------------------------------------------------------------------------

#: Milliseconds from the call of the page until its last answer says that.
LAST_STANDS = """(said) => {
    const last = [...document.querySelectorAll(".side-answer .body")].at(-1);
    return last?.textContent.includes(said) && performance.now();
}"""
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@pytest.fixture
def long_talk(user):
    return talk_of(user, 2_000)


def test_a_long_conversation_is_as_quick_as_a_short_one(visit, long_talk):
    page = visit()
    address = f"{page.url.rstrip('/')}/c/{long_talk.id}/"
    first_paint, usable, keys = [], [], []
    # What else the machine is at work on may hold up any of the loads.
    for _ in range(8):
        page.goto(address, wait_until="commit")
        usable.append(page.wait_for_function(LAST_STANDS, arg="Cabang 4.").json_value())
        first_paint.append(page.wait_for_function(FIRST_PAINT).json_value())
        page.locator("#text").focus()
        keys.append(median(page.evaluate(KEY_PRESSES)))
        if quick := min(first_paint) < 1_000 and min(usable) < 2_000 and min(keys) < 16:
            break
    assert quick, (first_paint, usable, keys)
    expect(page.locator(".turn")).to_have_count(2_000)
    assert page.locator(".editor").count() == 0
    assert page.locator(".turn:not(.outline)").count() < 60
    page.locator(".turn.user").last.hover()
    page.locator(".turn.user").last.get_by_label("Versi sebelumnya").click()
    expect(answer(page).locator(".body")).to_have_text("Cabang 3.")
    page.reload()
    expect(answer(page).locator(".body")).to_have_text("Cabang 3.")


def test_old_turns_are_drawn_when_scrolled_to_and_stay_where_they_are(visit, long_talk):
    page = visit(f"/c/{long_talk.id}/")
    expect(answer(page).locator(".body")).to_have_text("Cabang 4.")
    page.locator("#scroll").evaluate("one => one.scrollTop = one.scrollHeight / 2")
    middle = page.locator("#scroll").evaluate("""(scroll) => {
        const box = scroll.getBoundingClientRect();
        const inside = (one) => one.getBoundingClientRect().bottom > box.y + 100;
        return [...document.querySelectorAll(".turn")].find(inside).dataset.group;
    }""")
    turn = page.locator(f'[data-group="{middle}"]')
    expect(turn).not_to_have_class(re.compile("outline"))
    page.wait_for_function("""() => {
        const box = document.querySelector("#scroll").getBoundingClientRect();
        return [...document.querySelectorAll(".outline")].every((one) => {
            const { top, bottom } = one.getBoundingClientRect();
            return bottom < box.top || top > box.bottom;
        });
    }""")
    expect(turn).to_be_in_viewport()
    page.locator("#scroll").evaluate("one => one.scrollTop = 0")
    expect(page.locator(".bubble").first).to_have_text("Pertanyaan 0?")
    expect(page.locator(".turn").nth(1).locator("strong")).to_have_text("0")


# --- Nobody let in ---------------------------------------------------------------------------------------------------


def test_markdown_carries_neither_script_nor_image(visit):
    says(EVIL)
    page = visit()
    write(page, EVIL)
    body = answer(page).locator(".body")
    expect(body).to_contain_text("https://contoh.id/halaman")
    assert page.evaluate("window.evil") is None
    assert body.locator("script, img, style, iframe").count() == 0
    expect(body).to_contain_text("rusak")
    links = body.locator("a[href]").evaluate_all(
        "all => all.map((a) => [a.getAttribute('href'), a.dataset.host ?? null, a.rel, a.target])"
    )
    # A link harms nobody who does not follow it, and whoever would follow it sees where it leads.
    assert {href: host for href, host, *_ in links} == {
        "https://evil.example/a.png": None,
        "https://evil.example/b.png": "evil.example",
        "https://evil.example/baca": "evil.example",
        "https://evil.example": None,
        "https://contoh.id/a": "contoh.id",
        "https://contoh.id/halaman": None,
    }
    assert {tuple(rest) for _, _, *rest in links} == {("noopener noreferrer", "_blank")}


def test_trusted_types_hold(visit):
    page = visit()
    refused = page.evaluate("""() => {
        try { document.body.innerHTML = "<b>x</b>"; } catch (error) { return error.name; }
    }""")
    assert refused == "TypeError"
    # Each browser says so in words of its own, and when it likes.
    until(page, lambda: visit.errors)
    assert [re.search("TrustedHTML|require-trusted-types-for", line) is not None for line in visit.errors] == [True]
    visit.errors.clear()


def test_code_is_coloured_and_can_be_copied(visit):
    says(CODE)
    page = visit()
    write(page, "Kode")
    expect(answer(page).locator(".hljs-keyword").first).to_have_text("def")
    page.get_by_text("Salin kode").click()
    assert page.evaluate("navigator.clipboard.readText()") == "def halo():\n    return 'dunia'\n"


# --- The list --------------------------------------------------------------------------------------------------------


def test_conversations_are_searched_renamed_exported_and_deleted(visit):
    says("Ya")
    page = visit()
    for text in ("Tentang kucing", "Tentang burung"):
        page.goto(page.url.split("/c/")[0])
        write(page, text)
        expect(answer(page).locator(".body")).to_have_text("Ya")
    page.get_by_label("Cari percakapan").fill("kucing")
    expect(page.locator("#conversations a")).to_have_text(["Tentang kucing"])
    page.get_by_label("Cari percakapan").fill("")
    expect(page.locator("#conversations a")).to_have_count(2)
    page.get_by_label("Percakapan ini", exact=True).click()
    page.locator("#menu").get_by_role("button", name="Ganti judul").click()
    page.get_by_label("Judul", exact=True).fill("Merpati")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Merpati")
    expect(page.locator("#conversations a").first).to_have_text("Merpati")
    page.get_by_label("Percakapan ini", exact=True).click()
    with page.expect_download() as download:
        page.locator("#menu").get_by_text("Ekspor sebagai Markdown").click()
    assert "# Merpati" in text_of(download.value)
    page.get_by_label("Percakapan ini", exact=True).click()
    page.locator("#menu").get_by_role("button", name="Hapus").click()
    page.locator("#delete").get_by_role("button", name="Hapus").click()
    expect(page.locator("#conversations a")).to_have_text(["Tentang kucing"])
    assert Conversation.objects.count() == 1


def test_a_conversation_of_the_list_is_renamed_exported_and_deleted_from_its_row(visit):
    says("Ya")
    page = visit()
    for text in ("Tentang kucing", "Tentang burung"):
        page.goto(page.url.split("/c/")[0])
        write(page, text)
        expect(answer(page).locator(".body")).to_have_text("Ya")
    here = page.url
    assert re.fullmatch(r"\d\d[.:]\d\d", page.locator("#conversations time").first.text_content())
    menu = page.get_by_label("Ganti judul, ekspor, atau hapus: Tentang kucing")
    menu.click()
    page.locator("#row").get_by_role("button", name="Ganti judul").click()
    page.get_by_label("Judul", exact=True).fill("Meong")
    page.keyboard.press("Enter")
    expect(page.locator("#conversations a").last).to_have_text("Meong")
    expect(page.locator("h1")).to_have_text("Tentang burung")
    menu = page.get_by_label("Ganti judul, ekspor, atau hapus: Meong")
    menu.click()
    with page.expect_download() as download:
        page.locator("#row").get_by_text("Ekspor sebagai halaman web").click()
    assert '<h1 dir="auto">Meong</h1>' in text_of(download.value)
    menu.click()
    page.locator("#row").get_by_role("button", name="Hapus").click()
    expect(page.locator("#delete")).to_contain_text("Meong")
    page.locator("#delete").get_by_role("button", name="Hapus").click()
    expect(page.locator("#conversations a")).to_have_text(["Tentang burung"])
    assert page.url == here


def test_no_row_is_marked_as_open_where_no_conversation_is(visit, user):
    Conversation.objects.create(owner=user, title="Tentang kucing")
    page = visit()
    page.evaluate("document.querySelector('#conversations').replaceChildren()")
    page.get_by_label("Cari percakapan").fill("kucing")
    expect(page.locator("#conversations a")).to_have_text(["Tentang kucing"])
    expect(page.locator("#conversations a[aria-current]")).to_have_count(0)


def test_the_rest_of_a_long_list_is_shown_when_asked_for(visit, user):
    Conversation.objects.bulk_create(Conversation(owner=user, title=f"Percakapan {n}") for n in range(201))
    page = visit()
    expect(page.locator("#conversations a")).to_have_count(200)
    expect(page.locator("#model")).to_have_text("klepon-demo")
    page.get_by_text("Tampilkan lebih banyak").click()
    expect(page.locator("#conversations a")).to_have_count(201)
    expect(page.locator("#more")).to_be_hidden()


@CHROMIUM_ALONE
def test_without_scripts_a_conversation_is_read(visit, user):
    conversation = Conversation.objects.create(owner=user, title="Tentang klepon")
    question = Message.objects.create(conversation=conversation, role="user", text="Apa itu klepon?")
    Message.objects.create(conversation=conversation, role="assistant", parent=question, text="Kue **hijau**.")
    page = visit(f"/c/{conversation.id}/", java_script_enabled=False)
    page.get_by_role("link", name="Baca percakapan ini").click()
    expect(page.locator("strong")).to_have_text("hijau")
    expect(page.locator("h1")).to_have_text("Tentang klepon")


def test_the_last_text_is_edited_from_an_empty_field_with_the_arrow(visit):
    says("Ya")
    page = visit()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    page.locator("#text").press("ArrowUp")
    expect(page.locator(".editor textarea")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#text")).to_be_focused()


# --- For everyone ----------------------------------------------------------------------------------------------------


def test_answers_are_read_out_sentence_by_sentence(visit):
    says("Ini kalimat satu. Ini kalimat dua! Dan ini sisanya", pause=0.01)
    page = visit()
    write(page, "Halo")
    lines = page.locator("#announcer p")
    expect(lines.last).to_have_text("Jawaban selesai.")
    spoken = [line for line in lines.all_text_contents() if "ini" in line.lower()]
    assert " ".join(spoken) == "Ini kalimat satu. Ini kalimat dua! Dan ini sisanya"
    assert all(line.endswith((".", "!")) for line in spoken[:-1])
    assert page.locator("#announcer").get_attribute("role") == "log"


def test_the_keyboard_stays_where_it_is_when_another_version_is_shown(visit):
    said = iter(["satu", "dua", "tiga"])
    says(lambda request: next(said))
    page = visit()
    write(page, "Hitung")
    expect(answer(page).locator(".body")).to_have_text("satu")
    for word in ("dua", "tiga"):
        page.get_by_label("Jawaban lain").click()
        expect(answer(page).locator(".body")).to_have_text(word)
    previous, following = page.get_by_label("Versi sebelumnya").last, page.get_by_label("Versi berikutnya").last
    previous.press("Enter")
    expect(page.locator(".answer .branch")).to_have_text("2/3")
    expect(previous).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".answer .branch")).to_have_text("1/3")
    # This button cannot be pressed any more.
    expect(following).to_be_focused()


def test_after_a_vote_the_keyboard_is_at_the_verdict(visit):
    says("Ya.")
    page = visit()
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Halo")
    expect(page.locator(".side-answer .body")).to_have_text(["Ya.", "Ya."])
    finalize()
    page.get_by_role("button", name="Sama baiknya").press("Enter")
    expect(page.locator(".verdict")).to_contain_text("Menurut Anda")
    expect(page.locator(".verdict")).to_be_focused()


def test_of_a_continued_answer_only_what_is_new_is_read_out(visit):
    page = visit()
    write(page, "Cerita")
    expect(page.locator("#stop")).to_be_visible()
    first = world.requests[0].gid
    world.start(first)
    world.tell(first, "<think>Hmm.</think>Ini kalimat satu. Dan")
    world.end(first, "length")
    lines = page.locator("#announcer p")
    expect(lines.last).to_have_text("Jawaban selesai.")
    finalize()
    says("sisanya.")
    page.get_by_role("button", name="Lanjutkan", exact=True).click()
    expect(answer(page).locator(".body")).to_contain_text("sisanya.")
    expect(lines.last).to_have_text("Jawaban selesai.")
    assert lines.all_text_contents()[-3:] == ["Klepon sedang menulis.", "sisanya.", "Jawaban selesai."]


def test_escape_stops_an_answer_beside_an_open_thought(visit):
    says("<think>Hmm.</think>" + ENDLESS, pause=0.02)
    page = visit()
    write(page, "Cerita")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    answer(page).locator(".thought summary").click()
    page.keyboard.press("Escape")
    expect(answer(page).locator(".state")).to_contain_text("Dihentikan")
    expect(answer(page).locator(".thought p")).to_be_visible()


def test_of_a_pair_whose_vote_would_not_count_nobody_is_asked_which_is_better(visit):
    page = visit()
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Halo")
    expect(page.locator("#stop")).to_be_visible()
    for request, finish in zip(world.requests, ("stop", "error"), strict=True):
        world.start(request.gid)
        world.tell(request.gid, "Ya.")
        world.end(request.gid, finish)
    said = "Ada jawaban yang tidak sampai selesai, jadi pilihan Anda tidak akan dihitung."
    expect(page.locator("#announcer p").last).to_have_text(said)


def test_everything_is_reached_by_keyboard_in_the_order_of_the_page(visit):
    says("Ya")
    page = visit()
    write(page, "Halo")
    expect(page.get_by_label("Asal jawaban ini")).to_be_visible()
    page.locator("#text").fill("Lagi")
    focused = """() => {
        const at = document.activeElement;
        if (at === document.body) return null;
        return [[...document.querySelectorAll("*")].indexOf(at), at.ariaLabel || at.value || at.textContent.trim()];
    }"""

    def tab():
        page.keyboard.press("Tab")
        return page.evaluate(focused)

    # After the last stop the focus leaves the page, and comes back to its beginning.
    assert any(tab() is None for _ in range(30))
    reached = list(iter(tab, None))
    if BROWSER == "firefox":
        # It leaves the page by way of its last element.
        assert reached.pop() == reached[-1]
    places = [place for place, _ in reached]
    names = [name for _, name in reached]
    assert names[0] == "Langsung ke kolom pesan"
    assert places == sorted(set(places))
    assert names[-4:] == ["Lagi", "adapter", "Prompt sistem", "Kirim"]
    wanted = {
        "Percakapan baru",
        "Cari percakapan",
        "Pengaturan jawaban",
        "Percakapan ini",
        "Sunting dan kirim lagi",
        "Jawaban lain",
        "Asal jawaban ini",
    }
    assert wanted <= set(names)


def test_the_skip_link_leads_to_the_text_and_leaves_the_page_as_it_is(visit):
    page = visit()
    page.evaluate("window.before = true")
    page.get_by_text("Langsung ke kolom pesan").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("Halo")
    expect(page.locator("#text")).to_have_value("Halo")
    assert page.evaluate("window.before") is True


@CHROMIUM_ALONE
def test_nothing_moves_for_those_who_ask_for_that(visit):
    says(ENDLESS, pause=0.02)
    page = visit(reduced_motion="reduce")
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_contain_text("kata")
    moving = page.evaluate("document.getAnimations().length")
    assert moving == 0


def test_on_a_phone_the_list_opens_and_closes_and_nothing_is_wider_than_the_screen(visit):
    says("Kata yang sangat panjang: " + "x" * 300 + "\n\n" + CODE.replace("dunia", "dunia " * 40))
    page = visit(viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True)
    expect(page.locator("#side")).to_be_hidden()
    page.locator("[data-do=open-side]").click()
    expect(page.locator("#side")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#side")).to_be_hidden()
    page.locator("#text").fill("Halo " + "y" * 200)
    page.get_by_label("Kirim").click()
    expect(answer(page).locator(".body")).to_contain_text("Selesai.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#scroll").evaluate("one => one.scrollWidth - one.clientWidth") == 0


def test_a_small_screen_shows_the_welcome_from_its_beginning(visit):
    page = visit(viewport={"width": 360, "height": 500})
    expect(page.locator("#model")).to_have_text("klepon-demo")
    expect(page.locator("#welcome .mark")).to_be_in_viewport(ratio=1)
    expect(page.locator("[data-do=down]")).to_be_hidden()


def test_the_theme_is_chosen_and_stays(visit):
    page = visit(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator("[data-do=theme]").click()
    page.locator("[data-do=theme]").click()
    dark = page.evaluate(ground)
    page.reload()
    assert page.evaluate(ground) == dark != light


def test_a_long_answer_keeps_the_page_quick(visit):
    paragraph = [f"kata{number} " for number in range(2_000)]
    lines = [word for number in range(400) for word in (f"x{number}", " =", f" {number}", "  #", f" baris{number}\n")]
    lines[0] = "\n\n```python\n" + lines[0]
    words = [*paragraph, *lines, "```\n\nSelesai."]

    def slowest():
        page = visit()
        page.evaluate("""() => {
            window.tasks = [];
            new PerformanceObserver((list) => tasks.push(...list.getEntries().map((one) => one.duration)))
                .observe({ type: "longtask" });
        }""")
        write(page, "Panjang")
        expect(page.locator("#stop")).to_be_visible()
        gid = world.requests[-1].gid
        world.start(gid)
        for at in range(0, len(words), 25):
            some = words[at : at + 25]
            world.tell(gid, *some)
            shown = some[-1].strip(" `\n")
            page.wait_for_function("(word) => document.querySelector('.body').textContent.includes(word)", arg=shown)
        world.end(gid)
        expect(page.locator("#send")).to_be_visible()
        expect(page.locator(".body .hljs-comment")).to_have_count(400)
        return max(page.evaluate("window.tasks"), default=0)

    # What else the machine is at work on may hold up any of them.
    assert any(slowest() < 200 for _ in range(3))


@pytest.mark.parametrize("text", ["\\[\n" * 3_000, "\\[\n" * 3_000 + "\\] x"], ids=["none", "one"])
def test_formulas_without_an_end_do_not_stop_the_page(visit, text):
    page = visit()
    write(page, "Rumus")
    expect(page.locator("#stop")).to_be_visible()
    gid = world.requests[0].gid
    world.start(gid)
    world.tell(gid, text + "\n\nSelesai.")
    world.end(gid)
    expect(answer(page).locator(".body")).to_contain_text("Selesai.")
    expect(page.locator("#send")).to_be_visible()


# --- What a model is given, and what it makes of it -------------------------------------------------------------------


SEEN = Seen(
    None,
    (Piece("<|user|>", False), Piece("Apa itu\n", True), Piece("<|assistant|>", False)),
    (
        Chosen("Kue", 0.125, 0.5, (Likely("It", 0.75), Likely("Kue", 0.125)), (Likely("Kue", 0.5),)),
        Chosen(" hijau", 0.5, 0.0625, (Likely(" hijau", 0.5),), (Likely(" bulat", 0.9375),)),
    ),
)


def test_an_answer_is_shown_token_by_token_and_read_with_the_keys(visit):
    says("Kue hijau")
    world.seen = SEEN
    page = visit()
    write(page, "Apa itu klepon?")
    expect(answer(page).locator(".body")).to_have_text("Kue hijau")
    finalize()
    page.get_by_label("Asal jawaban ini").click()
    page.get_by_text("Isi prompt, dan peluang setiap token").click()
    dialog = page.locator("#tokens")
    expect(dialog.locator(".tokens.prompt .token")).to_have_text(["<|user|>", "Apa itu⏎", "<|assistant|>"])
    expect(dialog.locator(".token.written")).to_have_count(1)
    first, second = dialog.get_by_role("option").all()
    assert [first.get_attribute("data-way"), first.get_attribute("data-heat")] == ["up", "2"]
    assert [second.get_attribute("data-way"), second.get_attribute("data-heat")] == ["down", "3"]
    expect(dialog.locator("tbody tr").first).to_contain_text("It")
    first.focus()
    page.keyboard.press("ArrowRight")
    expect(second).to_be_focused()
    expect(dialog.locator("caption")).to_contain_text("hijau")
    expect(dialog.locator("[data-own=adapter]")).to_have_text("6,3%")
    dialog.get_by_label("Asli").check()
    assert second.get_attribute("data-heat") == "1"
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_the_tokens_shown_are_those_of_the_answer_that_was_asked_for_last(visit):
    says("Kue hijau")
    page = visit()
    for text in ("Satu", "Dua"):
        write(page, text)
        expect(answer(page).locator(".body")).to_have_text("Kue hijau")
    expect(page.locator(".side-answer")).to_have_count(2)
    held = []
    page.route("**/m/*/tokens", lambda route: held.append(route))
    for number in range(2):
        # The dialog, and the card that it was opened from.
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        answer(page, number).get_by_label("Asal jawaban ini").click()
        answer(page, number).get_by_text("Isi prompt, dan peluang setiap token").click()
        until(page, lambda count=number: len(held) > count)
    first, second = held
    second.fulfill(body=SEEN.to_json(), content_type="application/json")
    prompt = page.locator("#tokens .tokens.prompt .token")
    expect(prompt).to_have_count(3)
    with page.expect_event("requestfinished"):
        other = replace(SEEN, prompt=(Piece("Satu", True),))
        first.fulfill(body=other.to_json(), content_type="application/json")
    page.evaluate("new Promise((done) => setTimeout(done, 100))")
    expect(prompt).to_have_count(3)


def test_what_cannot_be_shown_token_by_token_is_said_there(visit):
    says("Kue hijau")
    page = visit()
    write(page, "Apa itu klepon?")
    expect(answer(page).locator(".body")).to_have_text("Kue hijau")
    finalize()
    page.get_by_label("Asal jawaban ini").click()
    page.get_by_text("Isi prompt, dan peluang setiap token").click()
    expect(page.locator("#tokens-state")).to_have_text("Tidak ada model yang menanggapi tepat waktu.")
    assert ["503" in line for line in visit.errors] == [True] * (BROWSER == "chromium")
    visit.errors.clear()


def test_a_stopped_answer_goes_on_where_it_was_and_from_what_it_is_made_to_be(visit):
    says(ENDLESS, pause=0.02)
    page = visit()
    write(page, "Cerita panjang")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    page.keyboard.press("Escape")
    expect(answer(page).locator(".state")).to_contain_text("Dihentikan")
    begun = answer(page).locator(".body").text_content()
    finalize()
    says("lalu tamat.")
    page.get_by_role("button", name="Lanjutkan", exact=True).click()
    expect(answer(page).locator(".body")).to_contain_text("lalu tamat.")
    assert answer(page).locator(".body").text_content().startswith(begun.strip())
    expect(page.locator(".answer .branch")).to_have_text("2/2")
    finalize()
    page.reload()
    expect(answer(page).locator(".body")).to_contain_text("lalu tamat.")
    page.get_by_label("Asal jawaban ini").click()
    page.get_by_role("button", name="Sunting jawaban dan lanjutkan").click()
    page.locator("#rewrite-text").fill("Pada zaman dahulu, ")
    page.locator("#rewrite").get_by_role("button", name="Lanjutkan").click()
    expect(answer(page).locator(".body")).to_have_text("Pada zaman dahulu, lalu tamat.")
    assert world.requests[-1].given == "Pada zaman dahulu, "


def test_a_system_prompt_goes_with_the_conversation_and_is_marked_as_not_trained(visit):
    says("Ya.")
    page = visit()
    button = page.get_by_role("button", name="Prompt sistem")
    button.click()
    expect(page.locator("#system")).to_contain_text("Klepon tidak dilatih dengan prompt sistem")
    page.locator("#system-text").fill("Jawab singkat.")
    page.locator("#system").get_by_role("button", name="Tutup").click()
    expect(button).to_have_attribute("aria-pressed", "true")
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya.")
    assert [turn.role for turn in world.requests[-1].turns] == ["system", "user"]
    finalize()
    page.reload()
    write(page, "Halo lagi")
    expect(answer(page).locator(".body")).to_have_text("Ya.")
    expect(page.locator(".side-answer")).to_have_count(2)
    assert world.requests[-1].turns[0].content == "Jawab singkat."
    page.get_by_label("Asal jawaban ini").last.click()
    expect(page.locator(".origin-card").last).to_contain_text("Jawab singkat.")


def test_a_system_prompt_is_kept_until_it_is_sent_counts_for_an_edited_text_and_is_that_of_the_branch(visit):
    says("Ya.")
    page = visit()
    button, field = page.get_by_role("button", name="Prompt sistem"), page.locator("#system-text")

    def tell_the_model(text):
        button.click()
        field.fill(text)
        page.locator("#system").get_by_role("button", name="Tutup").click()

    tell_the_model("Jawab panjang.")
    page.reload()
    expect(button).to_have_attribute("aria-pressed", "true")
    tell_the_model("")
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya.")
    tell_the_model("Jawab singkat.")
    page.reload()
    expect(button).to_have_attribute("aria-pressed", "true")
    page.locator(".turn.user").hover()
    page.get_by_label("Sunting dan kirim lagi").click()
    page.locator(".editor textarea").fill("Halo lagi")
    page.keyboard.press("Enter")
    expect(page.locator(".user .branch")).to_have_text("2/2")
    expect(answer(page).locator(".body")).to_have_text("Ya.")
    assert [[turn.content for turn in one.turns] for one in world.requests] == [
        ["Halo"],
        ["Jawab singkat.", "Halo lagi"],
    ]
    page.locator(".turn.user").hover()
    page.locator(".turn.user").get_by_label("Versi sebelumnya").click()
    expect(button).to_have_attribute("aria-pressed", "false")
    page.locator(".turn.user").get_by_label("Versi berikutnya").click()
    expect(button).to_have_attribute("aria-pressed", "true")
    tell_the_model("")
    page.reload()
    expect(answer(page).locator(".body")).to_have_text("Ya.")
    expect(button).to_have_attribute("aria-pressed", "false")
    page.get_by_role("link", name="Percakapan baru").click()
    expect(page.locator("#welcome")).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "false")


@pytest.mark.parametrize(("left", "button"), [("rival", "A lebih baik"), ("adapter", "B lebih baik")])
def test_two_adapters_are_compared_blind(visit, monkeypatch, left, button):
    monkeypatch.setattr(turns, "secrets", SimpleNamespace(choice=lambda some: left, randbelow=lambda most: 7))
    says("Ya.")
    offered = tuple(Offered(name, "ab", "") for name in ("demo/5_seed0", "demo/9_seed0"))
    world.workers = [replace(world.workers[0], adapters=offered)]
    page = visit()
    page.get_by_label("Adapter yang mana").select_option("demo/5_seed0")
    rival = page.get_by_label("Dibandingkan dengan")
    expect(rival).to_be_hidden()
    page.get_by_role("radio", name="Bandingkan").check()
    rival.select_option("demo/9_seed0")
    looks = "one => { const { height, borderRadius } = getComputedStyle(one); return [height, borderRadius]; }"
    assert rival.evaluate(looks) == page.get_by_label("Adapter yang mana").evaluate(looks)
    write(page, "Halo")
    sides = page.locator(".side-answer")
    expect(sides.locator(".name")).to_have_text(["Jawaban A", "Jawaban B"])
    expect(sides.locator(".body")).to_have_text(["Ya.", "Ya."])
    finalize()
    asked = {request.adapter: request.target for request in world.requests}
    assert asked == {"demo/5_seed0": "adapter", "demo/9_seed0": "adapter"}
    page.get_by_role("button", name=button).click()
    names = ["Klepon · demo/5_seed0", "Klepon · demo/9_seed0"]
    expect(sides.locator(".name")).to_have_text(names if left == "adapter" else names[::-1])
    expect(page.locator(".verdict")).to_have_text("Anda lebih suka Klepon · demo/9_seed0.")
    expect(page.locator("#votes")).to_be_visible()
    # The next question goes on from the preferred answer.
    preferred = (sides.last if left == "adapter" else sides.first).get_attribute("data-message")
    write(page, "Lagi")
    expect(page.locator(".side-answer")).to_have_count(4)
    assert str(Message.objects.get(text="Lagi").parent_id) == preferred


def test_another_adapter_can_be_chosen_for_each_message(visit):
    says("Ya.")
    offered = Offered("demo/5_seed0", "ab", "chrF 31.3")
    world.workers = [replace(world.workers[0], adapters=(offered,))]
    page = visit()
    choice = page.get_by_label("Adapter yang mana")
    choice.select_option(label="demo/5_seed0 (chrF 31.3)")
    write(page, "Halo")
    expect(answer(page).locator(".name")).to_have_text("Klepon · demo/5_seed0")
    expect(answer(page).locator(".body")).to_have_text("Ya.")
    choice.select_option("")
    page.get_by_label("Jawaban lain").click()
    expect(page.locator(".answer .branch")).to_have_text("2/2")
    assert [request.adapter for request in world.requests] == ["demo/5_seed0", ""]


def test_an_edited_answer_is_kept_until_it_is_sent_or_cancelled(visit):
    says("Ya")
    page = visit()
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya")
    finalize()
    dialog, text = page.locator("#rewrite"), page.locator("#rewrite-text")

    def rewrite():
        page.locator(".answer").first.get_by_label("Asal jawaban ini").click()
        page.get_by_role("button", name="Sunting jawaban dan lanjutkan").first.click()

    def go_on():
        dialog.get_by_role("button", name="Lanjutkan").click()

    rewrite()
    text.fill("Ya, dan ")
    dialog.get_by_role("button", name="Batal").click()
    rewrite()
    expect(text).to_have_value("Ya")
    text.fill("Ya, tetapi ")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.reload()
    says(ENDLESS, pause=0.02)
    write(page, "Lagi")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    rewrite()
    go_on()
    expect(dialog.locator(".problem")).to_contain_text("Jawaban masih ditulis")
    expect(text).to_have_value("Ya, tetapi ")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()
    says("belum.")
    world.busy = [Busy("queue", 3.0)]
    rewrite()
    expect(dialog.locator(".problem")).to_be_empty()
    go_on()
    expect(dialog.locator(".problem")).to_contain_text("Terlalu banyak pertanyaan")
    expect(text).to_have_value("Ya, tetapi ")
    go_on()
    expect(answer(page).locator(".body")).to_have_text("Ya, tetapi belum.")
    page.locator(".answer").get_by_label("Versi sebelumnya").click()
    rewrite()
    expect(text).to_have_value("Ya")


def test_chosen_adapters_stay_chosen_while_no_worker_is_there_and_after_a_reload(visit):
    says("Ya.")
    offered = tuple(Offered(name, "ab", "") for name in ("demo/5_seed0", "demo/9_seed0"))
    workers = world.workers = [replace(world.workers[0], adapters=offered)]
    page = visit()
    own, rival = page.get_by_label("Adapter yang mana"), page.get_by_label("Dibandingkan dengan")
    page.get_by_role("radio", name="Bandingkan").check()
    own.select_option("demo/5_seed0")
    rival.select_option("demo/9_seed0")
    world.workers = []
    expect(page.locator("#banner")).to_contain_text("Belum ada model")
    write(page, "Halo")
    expect(answer(page).locator(".body")).to_have_text("Ya.")
    expect(page.locator(".vote")).to_be_visible()
    assert {request.adapter for request in world.requests} == {"demo/5_seed0", "demo/9_seed0"}
    finalize()
    page.reload()
    expect(page.locator("#banner")).to_contain_text("Belum ada model")
    write(page, "Lagi")
    expect(page.locator(".side-answer")).to_have_count(4)
    assert {request.adapter for request in world.requests} == {"demo/5_seed0", "demo/9_seed0"}
    world.workers = [replace(workers[0], adapters=offered[1:])]
    expect(rival).to_have_value("demo/9_seed0")
    expect(own).to_have_value("")
    world.workers = workers
    expect(own).to_have_value("demo/5_seed0")
    own.select_option("")
    page.reload()
    expect(rival).to_have_value("demo/9_seed0")
    expect(own).to_have_value("")


def test_an_answer_that_is_asked_for_again_begins_with_what_it_was_given(visit, user):
    says("tamat.")
    conversation = Conversation.objects.create(owner=user, title="Cerita")
    question = Message.objects.create(conversation=conversation, role="user", text="Cerita")
    begun = "Pada zaman dahulu, "
    failed = {"target": "adapter", "state": "ended", "finish": "error", "settings": {"max_new_tokens": 64}, "seed": 7}
    failed |= {"text": begun, "given": begun}
    Message.objects.create(conversation=conversation, role="assistant", parent=question, **failed)
    page = visit(f"/c/{conversation.id}/")
    page.get_by_role("button", name="Coba lagi").click()
    expect(answer(page).locator(".body")).to_have_text("Pada zaman dahulu, tamat.")
    finalize()
    page.get_by_label("Asal jawaban ini").click()
    page.get_by_text("Buat lagi jawaban yang persis sama").click()
    expect(page.locator(".answer .branch")).to_have_text("3/3")
    expect(answer(page).locator(".body")).to_have_text("Pada zaman dahulu, tamat.")
    first, second = world.requests
    assert (first.given, first.seed) == (second.given, second.seed) == (begun, first.seed)


AXE = files("axe_playwright_python") / "axe.min.js"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (360, 700)], ids=["desktop", "phone"])
def test_axe_finds_nothing(visit, theme, size):
    said = {"base": CODE, "adapter": POEM}
    says(lambda request: said[request.target])
    page = visit(color_scheme=theme, viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    axe = AXE.read_text(encoding="utf-8")
    found = []

    def look(where):
        page.evaluate(axe + "; 0")
        result = json.loads(page.evaluate("axe.run().then((result) => JSON.stringify(result.violations))"))
        found.extend((where, one["id"], [node["html"][:120] for node in one["nodes"]]) for one in result)

    look("first visit")
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Halo")
    expect(page.locator(".vote")).to_be_visible()
    look("pair")
    page.locator("[data-act=compare]").click()
    finalize()
    page.locator("[data-act=reveal]").click()
    page.get_by_label("Asal jawaban ini").first.click()
    look("origin")
    page.evaluate("document.querySelector('#settings').showModal()")
    look("settings")
    page.evaluate("document.querySelector('#settings').close()")
    world.seen = SEEN
    page.locator("[data-tokens]").first.click()
    expect(page.locator(".tokens.answer .token").first).to_be_visible()
    look("token by token")
    for name in ("tokens", "rewrite", "system"):
        page.evaluate("name => document.querySelector('dialog[open]')?.close() ?? name", name)
        page.evaluate("name => document.querySelector(`#${name}`).showModal()", name)
        look(name)
    page.evaluate("document.querySelector('dialog[open]').close()")
    says(FORMULA + "\n\n| a | b |\n|--:|---|\n| 1 | 2 |\n\n- [x] sudah\n- السلام")
    page.get_by_role("radio", name="Klepon").check()
    page.locator("#text").fill("Rumus")
    page.locator("#text").press("Control+Enter")
    expect(answer(page).locator("math")).to_have_count(4)
    expect(page.locator("#send")).to_be_visible()
    look("formula")
    page.locator(".turn.user").last.hover()
    page.locator(".turn.user").last.get_by_label("Sunting dan kirim lagi").click()
    look("editor")
    page.locator("[data-do=row]").first.evaluate("one => one.click()")
    look("row")
    page.goto(page.url + "read")
    look("reading")
    assert found == []


SHOTS = os.environ.get("KLEPON_SCREENSHOTS")


@pytest.mark.skipif(not SHOTS, reason="KLEPON_SCREENSHOTS names no folder for the pictures")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desktop", "phone"])
def test_pictures_to_look_at(visit, theme, size):
    said = {
        "base": "The capital of **Japan** is Lima.\n\n" + CODE,
        "adapter": "Ibu kota Jepang adalah **Tokyo**.\n\n" + CODE,
    }
    says(lambda request: POEM if "pantun" in request.turns[-1].content else said[request.target], pause=0.0)
    page = visit(color_scheme=theme, viewport={"width": size[0], "height": size[1]}, device_scale_factor=1.5)
    name = SimpleNamespace(count=0)

    def shot(what):
        name.count += 1
        page.screenshot(path=f"{SHOTS}/{theme}-{size[0]}-{name.count}-{what}.png", animations="disabled")

    expect(page.locator("#model")).to_have_text("klepon-demo")
    shot("first")
    page.get_by_text("Tulis pantun tentang persahabatan.").click()
    expect(answer(page).locator(".body")).to_contain_text("berseri")
    expect(page.locator("#send")).to_be_visible()
    shot("poem")
    page.get_by_label("Asal jawaban ini").click()
    shot("origin")
    page.keyboard.press("Escape")
    page.locator("#text").click()
    page.get_by_role("radio", name="Bandingkan").check()
    write(page, "Apa ibu kota Jepang?")
    expect(page.locator(".vote").last).to_be_visible()
    page.locator("[data-act=compare]").click()
    shot("pair")
    finalize()
    page.locator("[data-act=vote-tie]").last.click()
    shot("voted")
    says(ENDLESS, pause=0.02)
    page.get_by_role("radio", name="Klepon").check()
    write(page, "Ceritakan lagi")
    expect(answer(page).locator(".body")).to_contain_text("kata kata")
    shot("writing")
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('#settings').showModal()")
    shot("settings")
    page.evaluate("document.querySelector('#settings').close()")
    if size[0] < 500:
        page.locator("[data-do=open-side]").click()
        shot("side")
