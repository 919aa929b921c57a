from pathlib import Path

import pytest

from lib import paths
from lib.corpus import sources
from lib.paths import RunPaths
from lib.storage import write_json


def test_the_command_of_a_run_is_that_of_its_last_call_in_words_for_a_shell():
    write_json(RunPaths("mine").asked, {"RUN": "mine", "CORPUS": "it's $here/*.jsonl", "SEEDS": "0 1"})
    assert RunPaths("mine").command == "make report RUN=mine 'CORPUS=it'\"'\"'s $here/*.jsonl' 'SEEDS=0 1'"


@pytest.mark.parametrize(
    ("run", "command"),
    [("mine", "make report RUN=mine"), ("smollm2", "make report PROFILE=smollm2"), ("demo", "make report")],
)
def test_the_command_of_a_run_that_was_never_made_here_names_run_or_profile(run, command):
    assert RunPaths(run).command == command


def test_the_command_for_an_adapter_is_that_of_its_run(tmp_path):
    write_json(RunPaths("mine").asked, {"RUN": "mine", "PROFILE": "laptop"})
    assert paths.command_for(RunPaths("mine").final_adapter) == "make report RUN=mine PROFILE=laptop"
    assert paths.command_for(RunPaths("mine").adapter("5_seed0")) == "make report RUN=mine PROFILE=laptop"
    for elsewhere in (tmp_path / "adapter", tmp_path / "artifacts", Path("nowhere")):
        assert paths.command_for(elsewhere) == "make report"


def test_no_run_has_the_name_of_what_all_runs_share():
    shared = {
        *(RunPaths("x").embeddings.name, paths.base_models().name, sources.path().parent.name),
        *(source.folder.parent.name for source in sources.table()),
        *("hub.json", paths.PUBLISHED.name),
    }
    assert shared <= set(paths.SHARED)


def test_a_name_is_looked_up_in_the_repository_whatever_the_working_directory(root, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("notebooks"))
    (root / "rows").mkdir()
    (root / "rows" / "a[1].jsonl").touch()
    Path("here").touch()
    for name in ("rows", "rows/*.jsonl", "**/a*", "rows/a[1].jsonl"):
        assert paths.located(name) == str(root / name)
    assert paths.located("here") == "here"
    assert paths.located(str(root / "rows")) == str(root / "rows")
    for name in ("owner/name", "rows/*.parquet", "demo", "~nobody-has-this-name/rows", "x" * 5_000, "*" * 5_000):
        assert paths.located(name) == name
