"""`python -m worker`: what the environment says, and what is said when it says nonsense."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
from chat_parts import WEBAPP, OpenAIServer
from worker.__main__ import take_name

from lib.config import Lora, Prompt
from lib.model import loading, prompts

PATH = os.pathsep.join([str(WEBAPP), str(WEBAPP.parent)])


@pytest.fixture
def small(base_model, tiny_model, tokenizer, tmp_path):
    """The folders of a tiny base model and of an adapter for it."""
    adapter = tmp_path / "adapter"
    loading.attach_lora(tiny_model, Lora()).save_pretrained(adapter)
    told = {"base_model": str(base_model), "chat_template_sha256": prompts.chat_template_hash(tokenizer, Prompt())}
    (adapter / "klepon.json").write_text(json.dumps(told | {"prompt": asdict(Prompt())}))
    return base_model, adapter


def environment(**variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KLEPON_", "ENGINE_"))}
    for name in ("REDIS_URL", "ADAPTER", "BASE_MODEL"):
        kept.pop(name, None)
    return kept | variables


def test_a_worker_with_a_server_behind_it_answers_until_it_is_told_to_go(site, valkey, tmp_path):
    with OpenAIServer() as server:
        variables = environment(
            REDIS_URL=valkey.url, ENGINE_URL=server.url, KLEPON_CHAT=str(tmp_path), KLEPON_BATCH="3"
        )
        process = subprocess.Popen([sys.executable, "-m", "worker"], cwd=WEBAPP, env=variables)
        try:
            gid = site.ask("Apa?", target="adapter")
            end = site.end_of(gid, 120)
            assert (end.finish, end.usage) == ("length", {"prompt_tokens": 7, "completion_tokens": 6})
            assert site.shown[gid].text == "0é 1é 2é 3é 4é "
            (state,) = site.run(site.service.workers())
            assert (state.engine, state.model, state.batch) == ("openai", "llama + klepon", 3)
            assert state.name.endswith("-1")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert site.run(site.service.workers()) == []
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "REDIS_URL is not set"),
        ({"REDIS_URL": "x://y", "ENGINE_URL": "http://127.0.0.1:9/v1"}, "REDIS_URL begins with 'x:/'"),
        ({"REDIS_URL": "unix:///x", "KLEPON_BATCH": "many"}, "KLEPON_BATCH=many: set it to a number from 1"),
        ({"REDIS_URL": "unix:///x", "KLEPON_BATCH": "0"}, "KLEPON_BATCH=0: set it to a number from 1"),
        ({"REDIS_URL": "unix:///x", "ENGINE_URL": "foo"}, "ENGINE_URL=foo: expected http://host:port/v1"),
        ({"REDIS_URL": "unix:///x", "ENGINE_URL": "http://x:y"}, "ENGINE_URL=http://x:y: expected http://host:port/v1"),
    ],
)
def test_a_worker_that_cannot_start_says_why_and_ends_with_2(tmp_path, variables, reason):
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        cwd=WEBAPP,
        env=environment(KLEPON_CHAT=str(tmp_path), **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_whose_server_is_not_there_yet_says_so_and_may_be_started_again(tmp_path):
    told = environment(KLEPON_CHAT=str(tmp_path), REDIS_URL="unix:///x", ENGINE_URL="http://127.0.0.1:9/v1")
    done = subprocess.run([sys.executable, "-m", "worker"], cwd=WEBAPP, env=told, capture_output=True, text=True)
    assert done.returncode == 1
    assert "start the server first" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("how", ["cut short", "missing", "broken JSON", "another base's"])
def test_a_broken_adapter_is_one_sentence_and_2(small, tmp_path, how):
    base, adapter = small
    weights = adapter / "adapter_model.safetensors"
    match how:
        case "cut short":
            weights.write_bytes(weights.read_bytes()[:-9])
        case "missing":
            weights.unlink()
        case "broken JSON":
            (adapter / "adapter_config.json").write_text("{")
        case "another base's":
            base = "demo"
    told = environment(
        KLEPON_CHAT=str(tmp_path), REDIS_URL="unix:///x", BASE_MODEL=str(base), ADAPTER=str(adapter), PYTHONPATH=PATH
    )
    done = subprocess.run([sys.executable, "-m", "worker"], cwd=WEBAPP, env=told, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("worker: ")]
    assert done.returncode == 2, done.stderr
    assert len(said) == 1 and str(adapter) in said[0]
    assert "Traceback" not in done.stderr


def test_no_two_living_workers_have_one_name_and_a_dead_ones_is_free_again(tmp_path):
    (one, first), (two, second) = take_name(tmp_path), take_name(tmp_path)
    assert one.endswith("-1") and two.endswith("-2")
    first.close()
    again, third = take_name(tmp_path)
    assert again == one
    second.close()
    third.close()


def test_workers_of_two_chats_on_one_machine_have_names_of_their_own(tmp_path):
    names = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        name, lock = take_name(folder)
        names.append(name)
        lock.close()
    assert names[0] != names[1]
