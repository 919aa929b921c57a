import json
import os
from dataclasses import replace

import pytest

from lib import paths
from lib.config import Config, Corpus, English, Model
from lib.model import packaged
from lib.running import inputs


def fingerprint(name: str, kind: str = "corpus") -> str | None:
    return inputs.fingerprints([(kind, name)]).get((kind, name))


@pytest.fixture
def rows(root):
    """A folder of two files, named relative to the repository."""
    (root / "rows/deep").mkdir(parents=True)
    (root / "rows/a.jsonl").write_text("1")
    (root / "rows/deep/b.jsonl").write_text("2")
    return root / "rows"


def test_the_same_contents_have_the_same_fingerprint_wherever_and_whenever_they_were_written(rows, tmp_path_factory):
    first = fingerprint("rows")
    assert fingerprint(str(rows)) == first
    os.utime(rows / "a.jsonl", (1_000, 1_000))
    assert fingerprint("rows") == first
    moved = tmp_path_factory.mktemp("other") / "moved"
    rows.rename(moved)
    assert fingerprint(str(moved)) == first


def test_other_contents_other_names_and_other_files_have_another(rows):
    found = {fingerprint("rows")}
    state = (rows / "a.jsonl").stat()
    (rows / "a.jsonl").write_text("3")
    os.utime(rows / "a.jsonl", ns=(state.st_atime_ns, state.st_mtime_ns))
    found.add(fingerprint("rows"))
    (rows / "a.jsonl").rename(rows / "c.jsonl")
    found.add(fingerprint("rows"))
    (rows / "deep/b.jsonl").unlink()
    found.add(fingerprint("rows"))
    assert len(found) == 4
    assert None not in found


def test_a_file_is_read_once_as_long_as_it_stays_as_it_is(rows, monkeypatch):
    read = []
    monkeypatch.setattr(packaged, "sha256", lambda path: read.append(path.name) or path.read_text())
    for _ in range(2):
        fingerprint("rows")
    assert sorted(read) == ["a.jsonl", "b.jsonl"]
    (rows / "a.jsonl").write_text("1")
    fingerprint("rows")
    assert sorted(read) == ["a.jsonl", "a.jsonl", "b.jsonl"]


def test_what_is_pinned_in_another_way_has_none(root):
    for name in ("", "demo", "open", "owner/name", "owner/name@main"):
        assert fingerprint(name) is None
    for name in ("smollm2", "owner/name"):
        assert fingerprint(name, "base model") is None


def test_what_is_away_counts_as_what_was_there_last(rows):
    first = fingerprint("rows")
    rows.rename(rows.with_name("away"))
    assert fingerprint("rows") == first
    assert fingerprint("other") is None


def test_a_base_model_is_what_lies_in_its_folder_and_a_gguf_file_itself(root):
    folder = root / "model"
    folder.mkdir()
    (folder / "config.json").write_text("1")
    (folder / "cache").mkdir()
    first = fingerprint("model", "base model")
    (folder / ".DS_Store").write_text("x")
    (folder / "cache/x").write_text("x")
    assert fingerprint("model", "base model") == first
    (folder / "tokenizer.json").write_text("1")
    assert fingerprint("model", "base model") != first
    (root / "a.gguf").write_text("1")
    assert fingerprint("a.gguf", "base model")
    assert fingerprint("demo", "base model")


def test_a_pipe_in_a_corpus_is_not_waited_for(rows):
    os.mkfifo(rows / "pipe.jsonl")
    assert fingerprint("rows")


def test_a_damaged_record_is_written_anew(rows):
    first = fingerprint("rows")
    record = paths.ROOT / "artifacts/.hashes.json"
    record.write_text("{")
    assert fingerprint("rows") == first
    assert json.loads(record.read_text())["names"]


def test_a_long_reading_is_announced(rows, monkeypatch, capsys):
    monkeypatch.setattr(inputs, "ANNOUNCED", 2)
    fingerprint("rows")
    assert capsys.readouterr().err == "Reading 0.0 GB of rows, to know later whether it has changed\n"
    fingerprint("rows")
    assert capsys.readouterr().err == ""


def test_each_stage_looks_at_what_it_reads_itself():
    config = replace(Config(), corpus=Corpus("c"), model=Model("m"), english=English("e"))
    assert inputs.named(config, "sampling") == {"corpus": "c"}
    assert inputs.named(config, "preprocessing") == inputs.named(config, "training") == {"base model": "m"}
    assert inputs.named(config, "evaluation") == {"base model": "m", "English rows": "e"}
