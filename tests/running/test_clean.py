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
