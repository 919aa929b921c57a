import fcntl
import os
import subprocess

import pytest

from lib import lock
from lib.paths import RunPaths
from lib.running import clean


@pytest.fixture
def run():
    """A run that has computed and reported something."""
    files = RunPaths("mine")
    for path in (files.rows, files.report, files.results, files.figures / "a.png", files.figures / "a.svg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return files


def test_all_of_a_run_goes(run):
    assert clean.clean(run) == []
    assert not run.artifacts.exists() and not run.reports.exists()
    assert clean.clean(run) == [], "nothing is there to remove"
    assert not run.artifacts.exists()


def test_what_git_tracks_stays(run, root):
    def git(*arguments):
        subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)

    git("init")
    git("add", "-f", "reports/mine/report.html", "reports/mine/figures/a.png")
    assert clean.clean(run) == [run.figures / "a.png", run.report]
    left = [path for path in run.reports.rglob("*") if path.is_file()]
    assert sorted(left) == [run.figures / "a.png", run.report]
    assert not run.artifacts.exists()


@pytest.fixture
def talked(run):
    """And in whose chat people talked and voted; it was trained further on their votes."""
    for path in (run.chat / "chat.sqlite3", run.chat / "secret_key", run.votes, run.preference_settings):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return run


def test_what_people_wrote_stays(talked):
    assert clean.clean(talked) == []
    left = [path for path in talked.artifacts.rglob("*") if path.is_file()]
    assert sorted(left) == [talked.chat / "chat.sqlite3", talked.chat / "secret_key", talked.votes]
    assert not talked.reports.exists()


def test_the_data_of_a_chat_may_lie_on_another_disk(talked, root):
    talked.chat.rename(root / "elsewhere")
    talked.chat.symlink_to(root / "elsewhere")
    clean.clean(talked)
    assert (talked.chat / "chat.sqlite3").is_file()


def test_a_run_whose_chat_is_running_is_left_whole(talked):
    # As the chat does.
    descriptor = os.open(talked.chat, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(clean.RunningError, match=r"^RUN=mine: the chat of this run is running. End it first"):
        clean.clean(talked)
    assert talked.report.is_file() and talked.rows.is_file()
    os.close(descriptor)
    clean.clean(talked)
    assert not talked.report.exists()


def test_a_run_that_lies_on_another_disk_is_let_go_and_nothing_there_is_removed(run, root):
    run.artifacts.rename(root / "elsewhere")
    run.artifacts.symlink_to(root / "elsewhere")
    clean.clean(run)
    assert not run.artifacts.is_symlink()
    assert (root / "elsewhere/corpus/rows.parquet").is_file()


def test_a_run_that_is_being_made_is_not_removed(run):
    with lock.held(run), pytest.raises(lock.LockError, match=r"RUN=mine: another make.* is at work on this run"):
        clean.clean(run)
    assert run.report.is_file()
    clean.clean(run)


@pytest.mark.parametrize("name", ["embeddings", "..", "-rf"])
def test_what_is_no_run_is_one_sentence(name, monkeypatch):
    monkeypatch.setattr("sys.argv", ["clean", f"--run={name}"])
    with pytest.raises(SystemExit, match=f"error: RUN='{name}' cannot name a folder"):
        clean.main()


def test_the_command_says_what_it_removed(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["clean", "--run=mine"])
    clean.main()
    assert capsys.readouterr().out == "Removed artifacts/mine reports/mine\n"


def test_the_command_says_what_it_kept_of_peoples_words_and_how_to_remove_it(talked, monkeypatch, capsys, root):
    monkeypatch.setattr("sys.argv", ["clean", "--run=mine"])
    clean.main()
    said, kept = capsys.readouterr().out.splitlines()
    assert said == "Removed artifacts/mine reports/mine"
    assert kept.startswith("Kept what people wrote, which no run makes again: artifacts/mine/chat artifacts/mine/pref")
    subprocess.run(kept.partition("remove that too: ")[2], shell=True, cwd=root, check=True)
    assert clean.written(talked) == []
