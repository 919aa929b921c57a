import json
import re
from pathlib import Path

import pytest
from chat import exports
from chat.models import Conversation, Message, Pair, Preferences
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import cache, caches
from django.core.management import call_command
from django.db import connection
from django.test import AsyncClient, Client, override_settings
from fake_service import world
from socket_client import run
from wire.messages import Chosen, Likely, Piece, Seen

WITH_ACCOUNTS = override_settings(
    ACCOUNTS=True, MIDDLEWARE=[one for one in settings.MIDDLEWARE if one != "chat.users.local_user_middleware"]
)


@pytest.fixture
def client():
    return Client(headers={"accept": "application/json", "accept-language": "en"})


@pytest.fixture
def talk(user):
    """A conversation with an edited question, two answers to the edit and a pair."""
    conversation = Conversation.objects.create(owner=user, title="Tentang klepon")

    def add(role, text, parent=None, **more):
        return Message.objects.create(conversation=conversation, role=role, text=text, parent=parent, **more)

    add("user", "Apa itu klepn?")
    question = add("user", "Apa itu klepon?")
    add("assistant", "Kue.", question, target="adapter", finish="stop")
    second = add(
        "assistant",
        "Kue **hijau** bulat.",
        question,
        target="adapter",
        finish="stop",
        model="klepon-demo",
        adapter_sha="d278354a3f34c897",
        seed=7,
        usage={"prompt_tokens": 9, "completion_tokens": 5},
    )
    follow = add("user", "Isinya apa?", second)
    pair = Pair.objects.create(left="base")
    for target, text in (("base", "It is sugar."), ("adapter", "Gula merah.")):
        add("assistant", text, follow, target=target, pair=pair, finish="stop", seed=3, model="klepon-demo")
    return conversation


def pair_of(conversation):
    return Pair.objects.filter(answers__conversation=conversation).distinct().get()


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_the_first_page_offers_prompts_in_the_models_language(client):
    page = client.get("/").content.decode()
    for prompt in ("Tulis pantun tentang persahabatan.", "Kamu siapa?", "Bagaimana cara membobol akun orang lain?"):
        assert f'data-sample="{prompt}"' in page


def test_a_page_leaves_no_connection_to_the_database_open(client, talk):
    assert connection.connection
    assert client.get("/").status_code == 200
    assert connection.connection is None


def test_the_samples_are_questions_of_the_demos_corpus():
    from chat.samples import SAMPLES

    from lib.demo import howto, identity, poems, questions, safety

    asked = {pair.prompt for kind in (poems, howto, questions, identity, safety) for pair in kind.pairs("id")}
    assert {sample.prompt for sample in SAMPLES.values()} <= asked


def test_the_samples_are_those_that_the_adapter_answers_best_where_its_folder_says_so(client, user, tmp_path):
    offered = [{"kind": "who", "prompt": "Apakah kamu <b>manusia</b>?"}, {"kind": "poem", "prompt": "Puisi, dong."}]
    (tmp_path / "starters.json").write_text(json.dumps(offered))
    with override_settings(ADAPTER=str(tmp_path)):
        page = client.get("/").content.decode()
    assert re.findall('data-sample="([^"]*)"', page) == ["Apakah kamu &lt;b&gt;manusia&lt;/b&gt;?", "Puisi, dong."]


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"kind": 1}', '[{"kind": "unknown", "prompt": "x"}]', "[3]"])
def test_a_folder_that_says_nothing_to_be_used_leaves_a_sample_of_every_kind(client, user, tmp_path, broken):
    (tmp_path / "starters.json").write_text(broken)
    with override_settings(ADAPTER=str(tmp_path)):
        assert client.get("/").content.decode().count("data-sample=") == 5


def test_a_conversations_page_carries_its_whole_tree(client, talk):
    page = client.get(f"/c/{talk.id}/").content.decode()
    data = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    assert len(data["messages"]) == 7
    assert data["messages"][3]["text"] == "Kue **hijau** bulat."


def test_what_people_wrote_cannot_break_out_of_the_page(client, user):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    conversation = Conversation.objects.create(owner=user, title=evil)
    Message.objects.create(conversation=conversation, role="user", text=evil)
    page = client.get(f"/c/{conversation.id}/").content.decode()
    assert "<script>alert" not in page and "<img" not in page


@pytest.mark.parametrize(("language", "word"), [("id", "Percakapan baru"), ("en", "New conversation")])
def test_the_page_speaks_indonesian_and_english(language, word):
    page = Client(headers={"accept-language": language}).get("/").content.decode()
    assert f'<html lang="{language}"' in page and word in page


def test_the_language_can_be_chosen(client):
    client.post("/language", {"language": "id", "next": "/"})
    assert '<html lang="id"' in client.get("/").content.decode()


@pytest.mark.parametrize(("cookie", "theme"), [("dark", "dark"), ("light", "light"), ('"><script>', "auto")])
def test_the_theme_is_that_of_the_cookie(client, cookie, theme):
    client.cookies["theme"] = cookie
    assert f'data-theme="{theme}"' in client.get("/").content.decode()


def test_an_unknown_address_gets_a_page_of_the_site(client):
    answer = client.get("/nirgendwo")
    assert answer.status_code == 404 and "There is nothing here" in answer.content.decode()


# --- Headers ---------------------------------------------------------------------------------------------------------


def test_every_page_forbids_what_it_does_not_need(client):
    headers = client.get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "ws://127.0.0.1:8000" in policy["connect-src"].split()
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"


def test_no_page_carries_a_script_or_a_style_in_itself(client, talk):
    for address in ("/", f"/c/{talk.id}/", "/nirgendwo"):
        page = client.get(address).content.decode()
        scripts = page.split("<script")[1:]
        assert all('src="' in tag.split(">")[0] or 'type="application/json"' in tag.split(">")[0] for tag in scripts)
        assert "<style" not in page and " style=" not in page
        assert not any(f" on{event}=" in page for event in ("click", "load", "error", "submit", "input"))
        assert "http://" not in page.replace("http://testserver", "").replace("http://www.w3.org", "")


def test_static_files_are_whole_and_can_be_asked_for_again(client):
    whole = client.get("/static/chat/tree.js")
    assert whole.status_code == 200 and whole.headers["Content-Type"].startswith("text/javascript")
    assert b"export class Tree" in whole.content and not whole.streaming
    again = client.get("/static/chat/tree.js", headers={"if-modified-since": whole.headers["Last-Modified"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/static/chat/tree.js").content == b""
    assert client.get("/static/chat/tree.js", headers={"range": "bytes=0-4"}).content == whole.content[:5]
    assert client.get("/static/../chat.sqlite3").status_code == 404


def test_posts_need_the_csrf_token(talk):
    strict = Client(enforce_csrf_checks=True)
    for address in (f"/c/{talk.id}/rename", f"/c/{talk.id}/delete", "/preferences", f"/pairs/{pair_of(talk).id}/vote"):
        assert strict.post(address, {"title": "x"}).status_code == 403
    assert Conversation.objects.get().title == "Tentang klepon"


def test_a_host_that_is_not_the_sites_gets_nothing():
    assert Client(headers={"host": "evil.example"}).get("/").status_code == 400


@pytest.mark.parametrize("address", ["rename", "delete"])
def test_nothing_changes_by_get(client, talk, address):
    assert client.get(f"/c/{talk.id}/{address}").status_code == 405


# --- The list --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"), [("", 2), ("klepon", 1), ("GULA merah", 1), ("klepon onde", 0), ("%", 0), ("_", 0), ("onde", 1)]
)
def test_search_finds_words_of_titles_and_messages(client, talk, user, query, found):
    Conversation.objects.create(owner=user, title="Tentang onde-onde")
    rows = client.get("/conversations", {"q": query}).json()["conversations"]
    assert len(rows) == found


def test_search_works_without_scripts(client, talk):
    page = client.get("/", {"q": "nichts"}).content.decode()
    assert "Nothing found." in page and 'value="nichts"' in page


def test_a_new_title_keeps_the_place_in_the_list(client, talk):
    before = Conversation.objects.get().updated
    assert client.post(f"/c/{talk.id}/rename", {"title": "  Jajanan "}).json() == {"title": "Jajanan"}
    after = Conversation.objects.get()
    assert (after.title, after.updated) == ("Jajanan", before)


@pytest.mark.parametrize("title", ["", " ", "x" * 121])
def test_a_title_must_be_one(client, talk, title):
    assert client.post(f"/c/{talk.id}/rename", {"title": title}).status_code == 400
    assert Conversation.objects.get().title == "Tentang klepon"


def test_a_form_without_scripts_gets_a_page(talk):
    answer = Client().post(f"/c/{talk.id}/rename", {"title": "Jajanan"})
    assert (answer.status_code, answer.url) == (302, f"/c/{talk.id}/")


def test_deleting_takes_all_with_it_and_stops_what_is_written(client, talk):
    message = Message.objects.create(
        conversation=talk, role="assistant", parent=talk.messages.first(), state="queued", target="base"
    )
    from fake_service import Generation
    from wire.messages import Request, Turn

    gid = str(message.id)
    world.generations[gid] = Generation(Request(gid, "1", str(talk.id), (Turn("user", "x"),), "base", 1))
    assert client.post(f"/c/{talk.id}/delete").status_code == 200
    assert not Message.objects.exists() and not Pair.objects.exists()
    assert world.generations[gid].state == "ended"


def test_deleting_works_while_redis_is_away(client, talk):
    Message.objects.create(conversation=talk, role="assistant", state="queued", target="base")
    world.online = False
    assert client.post(f"/c/{talk.id}/delete").status_code == 200
    assert not Conversation.objects.exists()


# --- Exports ---------------------------------------------------------------------------------------------------------


def test_markdown_export_is_the_branch_that_is_shown(client, talk):
    answer = client.get(f"/c/{talk.id}/export.md")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="Tentang-klepon.md"'
    text = answer.content.decode()
    assert text.startswith("# Tentang klepon\n")
    assert "Kue **hijau** bulat." in text and "Kue.\n" not in text and "klepn" not in text
    assert "adapter d278354a3f34" in text and "seed 7" in text


def test_markdown_export_of_another_branch(client, talk):
    leaf = Message.objects.get(text="Kue.")
    text = client.get(f"/c/{talk.id}/export.md", {"leaf": leaf.id}).content.decode()
    assert "Kue.\n" in text and "hijau" not in text


def test_a_page_for_others_is_one_file_that_asks_nobody_for_anything(client, user):
    conversation = Conversation.objects.create(owner=user, title="</title><script>alert(1)</script>")
    question = Message.objects.create(conversation=conversation, role="user", text="<b>Apa</b>?")
    text = (
        "**Kue** \\(a_1 b_1\\) <script>alert(1)</script>\n\n![x](https://evil.example/b.png)\n\n"
        "| a | b |\n|--:|---|\n| 1 | [k](javascript:alert(1)) |"
    )
    Message.objects.create(
        conversation=conversation,
        role="assistant",
        parent=question,
        text=text,
        target="adapter",
        model="klepon-demo",
        adapter_sha="d278354a3f34c897",
        seed=7,
        settings={"max_new_tokens": 256, "temperature": 0.7, "top_k": 0, "greedy": False, "top_p": None, "seed": None},
    )
    answer = client.get(f"/c/{conversation.id}/export.html")
    assert answer.headers["Content-Disposition"].endswith('.html"')
    page = answer.content.decode()
    assert "<script" not in page and "<img" not in page and "javascript:" not in page.replace("(javascript:", "")
    assert not re.search(r"(src|href)=\"(?!https://evil.example/b.png)", page) and "url(" not in page
    assert "<strong>Kue</strong>" in page and r"\(a_1 b_1\)" in page and 'class="to-right"' in page
    assert "&lt;b&gt;Apa&lt;/b&gt;?" in page
    for words in ("klepon-demo", "d278354a3f34", "seed 7", "max_new_tokens 256", "temperature 0.7", "top_k 0"):
        assert words in page
    assert "top_p" not in page and "greedy" not in page


@pytest.mark.parametrize(("left", "said"), [("base", "Answer A"), ("adapter", "Answer B")])
def test_an_export_does_not_give_away_a_pair_that_has_no_vote(client, user, left, said):
    conversation = Conversation.objects.create(owner=user, title="Pasangan")
    pair = Pair.objects.create(left=left)
    answer = {"role": "assistant", "target": "base", "pair": pair, "model": "klepon-demo", "adapter": "lain/5"}
    Message.objects.create(conversation=conversation, text="Ya", **answer)
    for kind, before in (("export.md", "## "), ("export.html", "<h2>"), ("read", "<h2>")):
        text = client.get(f"/c/{conversation.id}/{kind}").content.decode()
        assert before + said in text and "lain/5" not in text and "klepon-demo" not in text
        Pair.objects.update(choice="tie")
        text = client.get(f"/c/{conversation.id}/{kind}").content.decode()
        assert before + "Original model · lain/5" in text and "klepon-demo" in text
        Pair.objects.update(choice="")


@pytest.mark.parametrize(("left", "first"), [("base", "It is sugar."), ("adapter", "Gula merah.")])
def test_an_export_of_a_pair_without_a_vote_has_both_answers_the_left_one_first(client, talk, left, first):
    Pair.objects.update(left=left)
    other = "Gula merah." if first == "It is sugar." else "It is sugar."
    for kind in ("export.md", "export.html", "read"):
        for leaf in ({}, {"leaf": Message.objects.get(text="Gula merah.").id}):
            text = client.get(f"/c/{talk.id}/{kind}", leaf).content.decode()
            assert -1 < text.find("Answer A") < text.find(first) < text.find("Answer B") < text.find(other)


@pytest.mark.parametrize("left", ["base", "adapter"])
def test_the_json_of_a_pair_without_a_vote_does_not_say_which_is_which(client, talk, left):
    Pair.objects.update(left=left)
    pair_of(talk).answers.filter(target="adapter").update(adapter="lain/5", adapter_sha="d278", worker="w")
    told = client.get(f"/c/{talk.id}/export.json").content.decode()
    sides = json.loads(told)["messages"][-2:]
    assert [side["text"] for side in sides] == ["It is sugar.", "Gula merah."][:: 1 if left == "base" else -1]
    for side in sides:
        del side["id"], side["text"]
    assert sides[0] == sides[1] and sides[0]["pair"]["choice"] == "" and sides[0]["seed"] == 3
    Pair.objects.update(choice="tie")
    sides = json.loads(client.get(f"/c/{talk.id}/export.json").content)["messages"][-2:]
    assert [(side["target"], side["adapter"]) for side in sides] == [("base", ""), ("adapter", "lain/5")]


@pytest.mark.parametrize(("choice", "said"), [("base", "It is sugar."), ("adapter", "Gula merah.")])
def test_an_export_of_no_named_branch_has_the_preferred_answer(client, talk, choice, said):
    client.post(f"/pairs/{pair_of(talk).id}/vote", {"choice": choice})
    for kind in ("export.md", "export.html", "read"):
        text = client.get(f"/c/{talk.id}/{kind}").content.decode()
        assert [answer in text for answer in ("It is sugar.", "Gula merah.")] == [
            answer == said for answer in ("It is sugar.", "Gula merah.")
        ]


@pytest.mark.parametrize("case", json.loads((Path(__file__).parent / "maths_cases.json").read_text()))
def test_an_export_finds_the_mathematics_that_the_page_finds(case):
    tokens = exports._markdown().parse(case["text"])
    tokens = [inner for token in tokens for inner in (token, *(token.children or []))]
    assert [token.content for token in tokens if token.type == "math"] == case["found"]


def test_what_a_model_thought_first_stands_apart_from_what_it_says(client, user):
    conversation = Conversation.objects.create(owner=user, title="Pikir")
    Message.objects.create(conversation=conversation, role="assistant", text="<think>\n1 < 2\n</think>\n\n**Dua**")
    page = client.get(f"/c/{conversation.id}/read").content.decode()
    assert "<details" in page and "1 &lt; 2" in page and "<strong>Dua</strong>" in page and "think&gt;" not in page
    assert "<think>" in client.get(f"/c/{conversation.id}/export.md").content.decode()


def test_a_conversation_can_be_read_without_scripts(client, talk):
    assert f'href="/c/{talk.id}/read"' in client.get(f"/c/{talk.id}/").content.decode()
    page = client.get(f"/c/{talk.id}/read").content.decode()
    assert "<strong>hijau</strong>" in page and "<script" not in page and "<style" not in page


def test_the_list_goes_on_beyond_its_first_rows(client, user):
    Conversation.objects.bulk_create(Conversation(owner=user, title=f"Percakapan {n}") for n in range(201))
    first = client.get("/conversations").json()
    rest = client.get("/conversations", {"from": first["next"]}).json()
    assert (len(first["conversations"]), first["next"], len(rest["conversations"]), rest["next"]) == (200, 200, 1, None)
    assert len({row["id"] for row in first["conversations"] + rest["conversations"]}) == 201
    assert 'href="?q=&amp;from=200"' in client.get("/").content.decode()
    assert client.get("/", {"from": "200"}).content.decode().count("<li data-conversation=") == 2
    assert client.get("/conversations", {"from": "-1"}).json()["next"] == 200


def test_json_export_is_the_whole_tree(client, talk):
    value = json.loads(client.get(f"/c/{talk.id}/export.json").content)
    assert [message["text"] for message in value["messages"]][:2] == ["Apa itu klepn?", "Apa itu klepon?"]
    assert value["messages"][3]["parent"] == value["messages"][1]["id"]
    assert value["format"] == "klepon-conversation-1"


def test_a_title_is_no_path_in_a_downloads_name(client, user):
    conversation = Conversation.objects.create(owner=user, title='../../etc/"passwd"\r\nX: y')
    name = client.get(f"/c/{conversation.id}/export.md").headers["Content-Disposition"]
    assert "/" not in name and "\n" not in name


@pytest.mark.parametrize(("choice", "chosen"), [("adapter", "Gula merah."), ("base", "It is sugar.")])
def test_a_vote_becomes_a_line_of_preference_data(client, talk, choice, chosen):
    pair = pair_of(talk)
    assert client.post(f"/pairs/{pair.id}/vote", {"choice": choice}).json()["choice"] == choice
    (line,) = client.get("/votes.jsonl").content.decode().splitlines()
    value = json.loads(line)
    assert value["chosen"] == [{"role": "assistant", "content": chosen}]
    assert value["rejected"][0]["content"] != chosen
    assert [turn["content"] for turn in value["prompt"]] == ["Apa itu klepon?", "Kue **hijau** bulat.", "Isinya apa?"]
    assert (value["left"], value["seed"]) == ("base", 3)


def test_a_vote_is_exported_with_the_system_prompt_that_was_asked_with(client, talk):
    pair = pair_of(talk)
    pair.answers.update(system="Jawab singkat.")
    client.post(f"/pairs/{pair.id}/vote", {"choice": "adapter"})
    prompt = json.loads(client.get("/votes.jsonl").content)["prompt"]
    assert prompt[0] == {"role": "system", "content": "Jawab singkat."}
    assert [turn["role"] for turn in prompt[1:]] == ["user", "assistant", "user"]


def test_a_vote_between_two_adapters_is_a_line_too_and_one_for_who_did_not_answer_is_none(client, talk):
    pair = pair_of(talk)
    Message.objects.filter(pair=pair, target="base").update(target="rival", adapter="demo/9_seed0")
    Message.objects.filter(pair=pair, target="adapter").update(adapter_sha="d278354a3f34c897")
    assert client.post(f"/pairs/{pair.id}/vote", {"choice": "base"}).status_code == 400
    assert client.post(f"/pairs/{pair.id}/vote", {"choice": "rival"}).json()["choice"] == "rival"
    value = json.loads(client.get("/votes.jsonl").content)
    assert (value["chosen"][0]["content"], value["rejected"][0]["content"]) == ("It is sugar.", "Gula merah.")
    assert (value["choice"], value["adapter_sha"]) == ("rival", "d278354a3f34c897")


def test_the_command_exports_the_votes_of_everybody_as_the_page_does(client, talk, tmp_path):
    client.post(f"/pairs/{pair_of(talk).id}/vote", {"choice": "adapter"})
    # Somebody who has not voted.
    get_user_model().objects.create_user("lain")
    call_command("votes", str(tmp_path / "votes.jsonl"))
    assert (tmp_path / "votes.jsonl").read_bytes() == client.get("/votes.jsonl").content != b""


@pytest.mark.parametrize("choice", ["tie", "both_bad", "seen"])
def test_a_vote_for_neither_side_is_no_preference(client, talk, choice):
    client.post(f"/pairs/{pair_of(talk).id}/vote", {"choice": choice})
    assert client.get("/votes.jsonl").content == b""


def test_an_answer_that_was_cut_is_no_preference(client, talk):
    Message.objects.filter(text="It is sugar.").update(finish="length")
    client.post(f"/pairs/{pair_of(talk).id}/vote", {"choice": "adapter"})
    assert client.get("/votes.jsonl").content == b""


def test_a_second_vote_counts_for_nothing(client, talk):
    pair = pair_of(talk)
    client.post(f"/pairs/{pair.id}/vote", {"choice": "base"})
    again = client.post(f"/pairs/{pair.id}/vote", {"choice": "adapter"})
    assert (again.status_code, again.json()["choice"]) == (409, "base")


def test_a_vote_waits_for_both_answers(client, talk):
    Message.objects.filter(text="It is sugar.").update(state="queued")
    pair = pair_of(talk)
    assert client.post(f"/pairs/{pair.id}/vote", {"choice": "base"}).status_code == 409
    assert client.post(f"/pairs/{pair.id}/vote", {"choice": "nonsense"}).status_code == 400


# --- Settings, people ------------------------------------------------------------------------------------------------


def test_generation_settings_are_kept_and_shown_again(client):
    given = {"max_new_tokens": "99", "temperature": "0.7"}
    assert client.post("/preferences", given).status_code == 200
    assert Preferences.objects.get().settings["max_new_tokens"] == 99
    page = client.get("/").content.decode()
    assert 'value="99"' in page and 'value="0.7"' in page


def test_settings_that_cannot_be_are_refused_by_name(client):
    answer = client.post("/preferences", {"max_new_tokens": "0", "top_p": "7"})
    assert answer.status_code == 400 and set(answer.json()["errors"]) == {"max_new_tokens", "top_p"}


@WITH_ACCOUNTS
def test_with_accounts_every_page_asks_for_the_log_in():
    for address in ("/", "/conversations", "/votes.jsonl", "/admin/"):
        answer = Client().get(address)
        assert answer.status_code == 302 and "/login" in answer.url


@WITH_ACCOUNTS
def test_log_in_and_out():
    get_user_model().objects.create_user("sari", password="pandan-wangi-7")
    client = Client()
    assert client.post("/login", {"username": "sari", "password": "pandan-wangi-7"}).url == "/"
    assert client.get("/").status_code == 200
    client.post("/logout")
    assert client.get("/").status_code == 302


RIGHT = {"username": "sari", "password": "pandan-wangi-7"}
DOORS = ["/login", "/admin/login/"]


@WITH_ACCOUNTS
@pytest.mark.parametrize("door", DOORS)
def test_passwords_cannot_be_tried_without_end_and_the_lock_is_on_every_door(door):
    get_user_model().objects.create_superuser(**RIGHT)
    client = Client(headers={"accept-language": "en"})
    codes = [client.post(door, {"username": "sari", "password": f"x{n}"}).status_code for n in range(7)]
    assert codes == [200] * 5 + [429] * 2
    for other in DOORS:
        answer = client.post(other, RIGHT)
        assert answer.status_code == 429 and "Too many attempts. Wait five minutes." in answer.content.decode()
    assert client.post(door, RIGHT, REMOTE_ADDR="10.1.2.3").status_code == 302, "others are not locked out"


def redis_at(url):
    return {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}


@WITH_ACCOUNTS
def test_tries_at_one_site_count_at_all_that_share_its_redis(valkey):
    get_user_model().objects.create_user(**RIGHT)
    with override_settings(CACHES={"default": redis_at(valkey.url), "process": settings.CACHES["process"]}):
        for n in range(5):
            assert Client().post("/login", {"username": "sari", "password": f"x{n}"}).status_code == 200
            # As a site does that has just been started.
            caches["process"].clear()
        assert Client().post("/login", RIGHT).status_code == 429


@WITH_ACCOUNTS
def test_while_redis_is_away_passwords_cannot_be_tried_without_end_either():
    get_user_model().objects.create_user(**RIGHT)
    with override_settings(CACHES={"default": redis_at("unix:///nowhere"), "process": settings.CACHES["process"]}):
        assert Client().post("/login", RIGHT).status_code == 302
        codes = [Client().post("/login", {"username": "sari", "password": f"x{n}"}).status_code for n in range(6)]
    assert codes == [200] * 5 + [429]


@WITH_ACCOUNTS
def test_the_right_password_begins_the_count_anew():
    get_user_model().objects.create_superuser(**RIGHT)
    for _ in range(3):
        for n in range(4):
            assert Client().post("/login", {"username": "sari", "password": f"x{n}"}).status_code == 200
        assert Client().post("/login", RIGHT).status_code == 302


@WITH_ACCOUNTS
def test_tries_at_other_names_do_not_make_the_site_forget_those_at_one():
    get_user_model().objects.create_user(**RIGHT)
    for n in range(5):
        Client().post("/login", {"username": "sari", "password": f"x{n}"})
    for n in range(400):
        cache.add(f"login:10.1.2.3:{n:x}", 1, 300)
    assert Client().post("/login", RIGHT).status_code == 429


@WITH_ACCOUNTS
def test_someone_elses_things_are_not_found(talk):
    guest = get_user_model().objects.create_user("tamu", password="pandan-wangi-7")
    client = Client(headers={"accept": "application/json"})
    client.force_login(guest)
    pair = pair_of(talk)
    gets = [f"/m/{Message.objects.get(text='Kue.').id}/tokens", f"/c/{talk.id}/", f"/c/{talk.id}/read"]
    gets += [f"/c/{talk.id}/export.{kind}" for kind in ("md", "json", "html")]
    posts = [f"/c/{talk.id}/rename", f"/c/{talk.id}/delete", f"/pairs/{pair.id}/vote"]
    assert {client.get(address).status_code for address in gets} == {404}
    assert {client.post(address, {"title": "x", "choice": "base"}).status_code for address in posts} == {404}
    assert client.get("/conversations", {"q": "klepon"}).json()["conversations"] == []
    assert client.get("/votes.jsonl").content == b""
    assert Conversation.objects.get().title == "Tentang klepon"


@WITH_ACCOUNTS
def test_the_page_of_one_user_does_not_list_the_conversations_of_another_who_has_logged_in_since():
    sari, tamu = (get_user_model().objects.create_user(name) for name in ("sari", "tamu"))
    Conversation.objects.create(owner=tamu, title="Milik tamu")
    client = Client(headers={"accept": "application/json"})
    client.force_login(tamu)
    assert len(client.get("/conversations", {"user": tamu.pk}).json()["conversations"]) == 1
    answer = client.get("/conversations", {"user": sari.pk})
    assert answer.status_code == 401 and "Milik" not in answer.content.decode()


def test_the_admin_shows_how_answers_went_and_not_what_was_said(client, talk):
    for address in ("/admin/", "/admin/chat/message/", "/admin/chat/conversation/", "/admin/chat/pair/"):
        page = client.get(address)
        assert page.status_code == 200
        assert "hijau" not in page.content.decode() and "Tentang klepon" not in page.content.decode()
    message = Message.objects.get(text="Kue **hijau** bulat.")
    page = client.get(f"/admin/chat/message/{message.id}/change/").content.decode()
    assert "d278354a3f34c897" in page and "hijau" not in page


def test_the_local_user_keeps_no_rights_that_accounts_would_inherit(client, user):
    client.get("/admin/")
    stored = get_user_model().objects.get(username=user.username)
    assert not stored.is_staff and not stored.is_superuser and not stored.has_usable_password()


def test_browsers_find_the_icon_where_they_look_for_it(client):
    assert client.get("/favicon.ico").url == "/static/chat/klepon.svg"


@pytest.mark.parametrize("finish", ["cancelled", "length", "error"])
def test_a_pair_that_the_export_would_leave_out_takes_no_vote(client, talk, finish):
    pair = pair_of(talk)
    pair.answers.filter(target="base").update(finish=finish)
    answer = client.post(f"/pairs/{pair.id}/vote", {"choice": "adapter"})
    assert (answer.status_code, answer.json()) == (
        409,
        {"error": "An answer did not come to its end, so a vote would not count."},
    )
    assert client.post(f"/pairs/{pair.id}/vote", {"choice": "seen"}).status_code == 200


# --- Token by token --------------------------------------------------------------------------------------------------


def test_an_answer_is_shown_token_by_token(client, talk):
    second = Message.objects.get(text="Kue **hijau** bulat.")
    likely = (Likely("Kue", 0.75),)
    world.seen = Seen(None, (Piece("Apa itu klepon?", True),), (Chosen("Kue", 0.5, 0.75, likely, likely),))
    found = client.get(f"/m/{second.id}/tokens").json()
    assert found["prompt"] == [{"text": "Apa itu klepon?", "written": True}]
    assert (found["answer"][0]["base"], found["answer"][0]["adapter"]) == (0.5, 0.75)
    request, text, ended = world.looked
    assert ([turn.content for turn in request.turns], text, ended) == (["Apa itu klepon?"], second.text, True)


def test_what_cannot_be_shown_token_by_token_is_told_in_words(client, talk):
    second = Message.objects.get(text="Kue **hijau** bulat.")
    answer = client.get(f"/m/{second.id}/tokens")
    assert (answer.status_code, answer.json()) == (503, {"error": "No model answered in time."})
    world.seen = Seen("no_look")
    answer = client.get(f"/m/{second.id}/tokens")
    assert (answer.status_code, answer.json()["error"][:18]) == (409, "The model's server")
    world.online = False
    answer = client.get(f"/m/{second.id}/tokens")
    assert (answer.status_code, answer.json()) == (503, {"error": "The queue is not responding. Try again."})
    Message.objects.filter(id=second.id).update(state="queued")
    assert client.get(f"/m/{second.id}/tokens").status_code == 404


def test_why_nothing_of_an_answer_can_be_shown_is_told_as_it_is(client, talk):
    last = Message.objects.get(text="Gula merah.")

    def told():
        return client.get(f"/m/{last.id}/tokens").json()["error"]

    Message.objects.filter(text="Kue **hijau** bulat.").update(text="")
    assert told() == "An answer above this one is empty."
    Message.objects.filter(text="").update(text="Kue", state="queued")
    assert told() == "Answers above this one are not finished."
    Message.objects.filter(text="Kue").update(state="ended")
    Message.objects.filter(id=last.id).update(text="", finish="cancelled")
    world.seen = Seen("too_long")
    assert told() == "Nothing was written, so there is nothing to show."


# --- Health ----------------------------------------------------------------------------------------------------------


def readyz():
    async def ask():
        answer = await AsyncClient().get("/readyz")
        return answer.status_code, answer.content.decode()

    return run(ask())


def test_ready_means_redis_and_a_model():
    assert Client().get("/healthz").status_code == 200
    assert readyz() == (200, "ok\n")
    world.workers = []
    assert readyz() == (503, "no model is running\n")
    world.online = False
    assert readyz() == (503, "the queue is not responding\n")
    assert Client().get("/healthz").status_code == 200
