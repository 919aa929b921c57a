"""`python -m worker`: what the environment says, and what is said when it says nonsense."""

import os
import signal
import subprocess
import sys

import pytest
from chat_parts import WEBAPP, OpenAIServer
from worker.__main__ import take_name


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
            end = site.end_of(gid)
            assert (end.finish, end.usage) == ("length", {"prompt_tokens": 7, "completion_tokens": 6})
            assert site.shown[gid].text == "0é 1é 2é 3é 4é "
            (state,) = site.run(site.service.workers())
            assert (state.engine, state.model, state.batch) == ("openai", "llama + klepon", 3)
            assert state.name.endswith("-1")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
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
        ({"REDIS_URL": "unix:///x", "ENGINE_URL": "http://127.0.0.1:9/v1"}, "start the server first"),
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


def test_no_two_living_workers_have_one_name_and_a_dead_ones_is_free_again(tmp_path):
    (one, first), (two, second) = take_name(tmp_path), take_name(tmp_path)
    assert one.endswith("-1") and two.endswith("-2")
    first.close()
    again, third = take_name(tmp_path)
    assert again == one
    second.close()
    third.close()
