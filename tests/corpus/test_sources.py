"""The corpus `open`: its table, and what it makes of repositories that stand in for the public ones."""

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lib.corpus import fetching, selection, sources
from lib.corpus.fetching import Pin
from lib.corpus.files import COLUMNS, SUBSETS, CorpusError
from lib.corpus.parsing import PARSERS
from lib.parameters import load_config
from lib.report import look

WHO = ("-c", "user.name=Penguji", "-c", "user.email=penguji@example.org")
ANSWERS = "Prompt,Answer\nSiapa kamu?,Saya contoh.\nSiapa kamu?,Saya contoh.\nApa namamu?,Contoh.\nKosong?,\n"
POEMS = "teks,tipe\n" + r"Ikan kecil \n Di dalam kali \n ,Pantun Adat" + "\n"


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path):
    """Two sources of one made-up repository in place of the table's."""
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "server" / "someone" / "texts"
    folder.mkdir(parents=True)
    (folder / "answers.csv").write_text(ANSWERS)
    (folder / "poems.csv").write_text(POEMS)
    for words in (["init", "-q"], ["add", "-A"], [*WHO, "commit", "-qm", "texts"]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    common = {
        "repository": folder.as_uri(),
        "commit": commit.stdout.strip(),
        "stated": "LICENSE",
        "attribution": "Penguji",
    }

    def source(name, subset, parser, licence, rows, text):
        pin = Pin(f"{name}.csv", len(text), hashlib.sha256(text.encode()).hexdigest())
        return sources.Source(name, subset=subset, parser=parser, licence=licence, rows=rows, files=(pin,), **common)

    made = (
        source("answers", "identity_prompt", "prompts_and_answers", "MIT", 2, ANSWERS),
        source("poems", "indo_puisi", "pantun", "CC-BY-4.0", 2, POEMS),
    )
    real = sources.table()
    monkeypatch.setattr(sources, "table", lambda: made)
    return real


def replaced(monkeypatch, **changes):
    first, *others = sources.table()
    monkeypatch.setattr(sources, "table", lambda: (replace(first, **changes), *others))


# --- The table -------------------------------------------------------------------------------------------------------


def test_the_table_has_at_least_25_000_rows_over_all_six_subsets(stand_ins, monkeypatch):
    monkeypatch.setattr(sources, "table", lambda: stand_ins)
    assert sum(sources.sizes().values()) >= 25_000
    assert set(sources.sizes()) == set(SUBSETS) and min(sources.sizes().values()) > 100


def test_each_entry_of_the_table_is_pinned_licensed_and_credited(stand_ins):
    assert len({source.name for source in stand_ins}) == len(stand_ins)
    for source in stand_ins:
        assert source.parser in PARSERS and source.subset in SUBSETS
        assert re.fullmatch(r"https://github.com/[\w.-]+/[\w.-]+", source.repository)
        assert re.fullmatch("[0-9a-f]{40}", source.commit)
        assert source.licence in ("Apache-2.0", "MIT", "CC-BY-4.0", "CC-BY-SA-4.0")
        assert source.stated and source.attribution and source.rows > 0
        for pin in source.files:
            assert re.fullmatch("[0-9a-f]{64}", pin.sha256) and pin.bytes > 0 and pin.count > 0


# --- The corpus ------------------------------------------------------------------------------------------------------


def test_the_rows_are_in_the_order_of_the_table_each_once_with_their_source():
    rows = pq.read_table(sources.write()).to_pylist()
    assert [row["dataset_name"] for row in rows] == ["answers", "answers", "poems", "poems"]
    assert [row["input"] for row in rows[:2]] == ["Siapa kamu?", "Apa namamu?"]
    assert {row["subset_name"] for row in rows} == {"identity_prompt", "indo_puisi"}
    assert {row["repository"] for row in rows} == {sources.table()[0].short}
    assert set(COLUMNS) < set(rows[0]) and all(row["dataset_key"] == "train" for row in rows)
    assert re.fullmatch(r"someone/texts@[0-9a-f]{12}", rows[0]["repository"])


def test_the_same_bytes_come_out_again():
    first = sources.write().read_bytes()
    sources.path().unlink()
    assert sources.write().read_bytes() == first


def test_a_corpus_that_is_written_needs_neither_network_nor_sources(root, monkeypatch):
    before = sources.write().stat().st_mtime_ns
    shutil.rmtree(root / "artifacts" / "sources")
    monkeypatch.setattr(fetching, "fetch", lambda *_: pytest.fail("fetched again"))
    assert sources.to_fetch() == 0
    assert sources.write().stat().st_mtime_ns == before


def test_a_corpus_cut_short_is_written_again_from_what_was_fetched(monkeypatch):
    whole = sources.write().read_bytes()
    sources.path().write_bytes(whole[:-1])
    monkeypatch.setattr(fetching, "_git", lambda *_, **__: pytest.fail("git was started"))
    assert sources.to_fetch() == 0
    assert sources.write().read_bytes() == whole


@pytest.mark.parametrize("what", ["TABLE", "parsers"])
def test_another_table_or_other_parsers_make_it_anew(tmp_path, monkeypatch, what):
    sources.write()
    other = tmp_path / "other"
    other.write_text("changed")
    if what == "TABLE":
        monkeypatch.setattr(sources, "TABLE", other)
    else:
        monkeypatch.setattr(sources.parsing, "__file__", str(other))
    assert not sources.is_written()


def test_what_is_to_be_fetched_is_counted_from_the_table():
    assert sources.to_fetch() == len(ANSWERS) + len(POEMS)
    first = sources.table()[0]
    fetching.fetch(first.repository, first.commit, first.files, first.folder)
    assert sources.to_fetch() == len(POEMS)


def test_another_number_of_rows_than_the_table_says_is_an_error(monkeypatch):
    replaced(monkeypatch, rows=5)
    with pytest.raises(CorpusError, match=r"'prompts_and_answers' makes 2 rows of answers, and sources.toml says 5"):
        sources.write()
    assert not sources.path().exists()


def test_a_source_that_cannot_be_fetched_leaves_no_corpus(monkeypatch):
    replaced(monkeypatch, commit="ab" * 20)
    with pytest.raises(CorpusError, match="has no commit"):
        sources.write()
    assert not sources.path().exists()


def test_a_run_s_summary_and_its_table_name_the_sources():
    config = load_config(run="trial", profile="demo", corpus="open")
    summary = selection.prepare(config)
    assert summary.kept == dict.fromkeys(SUBSETS, 0) | {"identity_prompt": 2, "indo_puisi": 2}
    assert sum(summary.bad.values()) == 0
    assert [(one["name"], one["rows"], one["licence"]) for one in summary.sources] == [
        ("answers", 2, "MIT"),
        ("poems", 2, "CC-BY-4.0"),
    ]
    assert "files" not in summary.sources[0]
    assert look.corpus_summary(summary).loc[("from", "poems (CC-BY-4.0)"), "rows"] == 2
    assert Path(config.paths.corpus_summary).read_text().count("CC-BY-4.0") == 1


def test_a_run_of_another_corpus_names_no_sources(tmp_path):
    pq.write_table(pq.read_table(sources.write()), tmp_path / "own.parquet")
    config = load_config(run="trial", profile="demo", corpus=str(tmp_path / "own.parquet"))
    assert selection.prepare(config).sources == []
