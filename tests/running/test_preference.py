"""What `make preference` writes before anything is trained, for make to compare."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_run
import small_votes

from lib import paths
from lib.preference import outcome, votes
from lib.preference.votes import VotesError
from lib.release.finished import FinishedError
from lib.running import preference
from lib.running.graph import adapter_files
from lib.storage import write_json

REPOSITORY = paths.ROOT
#: A pair of answers with a vote for the adapter's, in a database that was just made.
VOTED = """\
import django
django.setup()
from chat.models import Conversation, Message, Pair
from django.contrib.auth import get_user_model
owner = get_user_model().objects.create_user("seseorang")
talk = Conversation.objects.create(owner=owner, title="t")
asked = Message.objects.create(conversation=talk, role="user", text="Apa itu klepon?")
pair = Pair.objects.create(left="base", choice="adapter")
for target, text in (("base", "A cake."), ("adapter", "Kue.")):
    given = {"role": "assistant", "parent": asked, "pair": pair, "finish": "stop"}
    Message.objects.create(conversation=talk, text=text, target=target, **given)
"""


@pytest.fixture
def files():
    """Those of a finished run."""
    configs = small_run.make()
    small_run.finish(configs)
    return configs[0].paths


@pytest.fixture
def told(tmp_path):
    return str(small_votes.write(tmp_path / "votes.jsonl", [small_votes.vote(n) for n in range(30)]))


def written(files) -> dict:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (files.votes, files.preference_settings)}


def test_the_same_votes_leave_everything_as_it_is_and_others_do_not(files, told, tmp_path):
    assert preference.settle(files, told) == files.reports / "6_preference.ipynb"
    before = written(files)
    assert files.votes.read_bytes() == Path(told).read_bytes()
    preference.settle(files, told)
    assert written(files) == before
    preference.settle(files, str(small_votes.write(tmp_path / "v.jsonl", [small_votes.vote(n) for n in range(31)])))
    assert all(now != before[path] for path, now in written(files).items())


def test_whoever_is_stopped_is_told_the_command_with_the_votes(files, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preference, "settle", stopped)
    monkeypatch.setenv("VOTES", "")
    monkeypatch.setattr("sys.argv", ["preference", f"--run={files.run}", "--votes=my votes.jsonl"])
    with pytest.raises(SystemExit, match=f"`make preference RUN={files.run} 'VOTES=my votes.jsonl'` begins it anew"):
        preference.main()
    # And the notebook that it has run.
    assert os.environ["VOTES"] == "my votes.jsonl"


def test_another_beta_is_noticed(files, told, monkeypatch, tmp_path):
    preference.settle(files, told)
    before = written(files)[files.preference_settings]
    parameters = tmp_path / "parameters"
    (parameters / "iterations").mkdir(parents=True)
    (parameters / "iterations" / "5.toml").write_text("")
    (parameters / "demo.toml").write_text("[preference]\nbeta = 0.5\n")
    monkeypatch.setattr(paths, "PARAMETERS", parameters)
    preference.settle(files, told)
    assert json.loads(files.preference_settings.read_text())["preference"]["beta"] == 0.5
    assert written(files)[files.preference_settings] != before


def test_an_executed_notebook_whose_adapter_is_gone_counts_for_nothing(files, told):
    notebook = preference.settle(files, told)
    notebook.write_text("{}")
    preference.settle(files, told)
    assert not notebook.exists()
    made = adapter_files(files.adapter(f"{outcome.NAME}_seed0"))
    for path in made:
        write_json(path, {})
    notebook.write_text("{}")
    preference.settle(files, told)
    assert notebook.exists()
    for path in made:
        path.unlink()
        preference.settle(files, told)
        assert not notebook.exists(), f"without its {path.name} it is no adapter"
        write_json(path, {})
        notebook.write_text("{}")


def test_too_few_votes_and_an_unfinished_run_are_refused_before_anything_is_written(files, tmp_path):
    few = str(small_votes.write(tmp_path / "few.jsonl", [small_votes.vote(n) for n in range(29)]))
    with pytest.raises(VotesError, match="there are 29 votes, and it takes 30"):
        preference.settle(files, few)
    files.results.unlink()
    with pytest.raises(FinishedError, match=r"has no results\.csv yet"):
        preference.settle(files, few)
    assert not files.votes.exists()


def test_without_a_file_and_without_a_chat_it_says_how_to_vote(files, monkeypatch):
    for name in ("KLEPON_CHAT", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(VotesError, match=r"nobody has voted .*: `make chat RUN=trial`, .* VOTES=file\.jsonl"):
        preference.settle(files, "")


def test_without_a_file_the_votes_are_those_of_the_runs_chat(files, monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("KLEPON_CHAT", str(files.artifacts / "chat"))
    site = os.environ | {"PYTHONPATH": str(REPOSITORY / "webapp"), "DJANGO_SETTINGS_MODULE": "klepon.settings"}
    for command in (["-m", "django", "migrate", "--verbosity=0"], ["-c", VOTED]):
        subprocess.run([sys.executable, *command], env=site, check=True, timeout=300)
    (vote,) = votes.read(preference._of_the_chat(files)).to_dict("records")
    assert (vote["chosen"], vote["rejected"]) == ("Kue.", "A cake.")
    assert vote["prompt"] == [{"role": "user", "content": "Apa itu klepon?"}]


def test_a_chat_that_cannot_be_read_is_one_sentence(files, monkeypatch):
    monkeypatch.delenv("KLEPON_CHAT", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    (files.artifacts / "chat").mkdir()
    (files.artifacts / "chat" / "chat.sqlite3").write_text("no database at all")
    with pytest.raises(VotesError, match=r"the chat's votes cannot be exported \(.*\): name their file with VOTES="):
        preference.settle(files, "")
