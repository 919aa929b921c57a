"""The corpus: which files are found, which rows are kept, set aside or left out, and what each error says."""

import dataclasses
import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.corpus import files, rows, selection
from lib.corpus.selection import COLUMNS, SUBSETS, CorpusError, CorpusSummary, read, select


def make_row(number: int, subset: str = "wikihow", **changes) -> dict:
    row = {
        "dataset_name": "made_up",
        "subset_name": subset,
        "prompt_id": f"id-{number}",
        "template_name": "plain",
        "dataset_key": "train",
        "input": f"Pertanyaan {number}?",
        "output": f"Jawaban {number}.",
    }
    return row | changes


def without(row: dict, column: str) -> dict:
    return {name: value for name, value in row.items() if name != column}


def jsonl(rows: list, end: str = "\n") -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + end.encode() for row in rows)


def write_jsonl(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = jsonl(rows)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, rows: list[dict], schema: pa.Schema | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return path


def bad_rows(destination: Path) -> list[dict]:
    lines = destination.with_name("bad_rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def set_aside(summary: CorpusSummary) -> int:
    return sum(summary.bad.values())


ROWS = [make_row(n, subset) for n, subset in enumerate([*SUBSETS, "mt_en_id", "chitchat", "mt_en_id"], 1)]


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "out" / "selected.parquet"


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "A.JSONL"])
def test_every_file_type_gives_the_same_rows(tmp_path, destination, name):
    writer = write_parquet if name.endswith("parquet") else write_jsonl
    path = writer(tmp_path / name, ROWS)
    summary = select(str(path), destination)
    assert summary.rows_read == 9
    assert summary.kept == dict.fromkeys(SUBSETS, 1)
    assert summary.left_out == {"mt_en_id": 2, "chitchat": 1}
    assert summary.bad == {}
    assert bad_rows(destination) == []
    table = pq.read_table(destination)
    assert table.column_names == ["row", "source", *COLUMNS]
    assert table["row"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert set(table["source"].to_pylist()) == {name}
    assert table.select(COLUMNS).to_pylist() == ROWS[:6]


def test_only_the_subsets_asked_for_are_kept(tmp_path, destination):
    summary = select(str(write_jsonl(tmp_path / "a.jsonl", ROWS)), destination, subsets=("dolly",))
    assert summary.kept == {"dolly": 1}
    assert sum(summary.left_out.values()) == 8


def test_a_folder_gives_its_nested_shards_of_mixed_types_in_order_of_name(tmp_path, destination):
    folder = tmp_path / "corpus"
    write_jsonl(folder / "b" / "part-1.jsonl.gz", [make_row(3)])
    write_parquet(folder / "a" / "part-1.parquet", [make_row(1)])
    write_parquet(folder / "a" / "part-2.parquet", [make_row(2)])
    write_jsonl(folder / "c.json", [make_row(4)])
    write_jsonl(folder / ".cache" / "d.jsonl", [make_row(5)])
    (folder / "README.md").write_text("not a corpus")
    summary = select(str(folder), destination)
    assert summary.files == ("a/part-1.parquet", "a/part-2.parquet", "b/part-1.jsonl.gz", "c.json")
    frame = read(destination)
    assert frame["prompt_id"].tolist() == ["id-1", "id-2", "id-3", "id-4"]
    assert frame["source"].tolist() == list(summary.files)


def test_a_glob_picks_files(tmp_path, destination):
    for n in range(3):
        write_jsonl(tmp_path / "c" / f"train-{n}.jsonl", [make_row(n)])
    write_jsonl(tmp_path / "c" / "test-0.jsonl", [make_row(9)])
    assert select(str(tmp_path / "c" / "train-*.jsonl"), destination).kept["wikihow"] == 3
    assert select(str(tmp_path / "c" / "**" / "*.jsonl"), destination).kept["wikihow"] == 4


def test_byte_order_mark_crlf_blank_lines_and_extra_columns_are_no_faults(tmp_path, destination):
    rows = [make_row(1, extra={"deep": [1]}), make_row(2)]
    data = b"\xef\xbb\xbf" + jsonl(rows, end="\r\n") + b"\r\n" + jsonl([make_row(4)], end="\r\n") + b"\r\n  \n\n"
    (tmp_path / "a.jsonl").write_bytes(data)
    summary = select(str(tmp_path / "a.jsonl"), destination)
    assert (summary.rows_read, summary.bad) == (3, {})
    assert read(destination)["row"].tolist() == [1, 2, 4]


def test_a_last_line_without_newline_counts(tmp_path, destination):
    (tmp_path / "a.jsonl").write_bytes(jsonl([make_row(1), make_row(2)]).rstrip(b"\n"))
    assert select(str(tmp_path / "a.jsonl"), destination).rows_read == 2


def test_a_gzip_file_is_known_by_its_bytes_not_its_name(tmp_path, destination):
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(jsonl([make_row(1)])))
    (tmp_path / "plain.jsonl.gz").write_bytes(jsonl([make_row(2)]))
    assert select(str(tmp_path), destination.parent.parent.with_name("o") / "s.parquet").kept["wikihow"] == 2


def test_extra_columns_and_other_string_types_in_parquet_are_read(tmp_path, destination):
    kinds = [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string(), pa.null(), pa.string()]
    schema = pa.schema([*zip(COLUMNS, [*kinds, pa.large_string(), pa.string_view()], strict=True), ("x", pa.int8())])
    rows = [make_row(n, template_name=None, x=n) for n in range(3)]
    write_parquet(tmp_path / "a.parquet", rows, schema)
    assert select(str(tmp_path / "a.parquet"), destination).kept["wikihow"] == 3
    assert read(destination, columns=["input"])["input"].tolist() == [row["input"] for row in rows]


def test_columns_in_another_order_are_read_by_name(tmp_path, destination):
    rows = [dict(reversed(make_row(n).items())) for n in range(3)]
    write_parquet(tmp_path / "a.parquet", rows)
    select(str(tmp_path / "a.parquet"), destination)
    assert read(destination)["output"].tolist() == [row["output"] for row in rows]


GOOD = [make_row(n) for n in range(100, 120)]
JSON_FAULTS = {
    "not valid JSON": [b'{"input": ', b"{'a': 1}", b'{"a": NaN}', b"}{"],
    "not a JSON object": [[1, 2], "text", 3, None],
    "invalid UTF-8": [json.dumps(make_row(1)).encode().replace(b"Jawaban", b"Jawab\xff\xfe")],
    "lone surrogate": [make_row(1, output="a\ud800b"), b'{"a": "\xed\xa0\x80"}'],
    "missing key: output": [without(make_row(1), "output")],
    "missing key: subset_name": [without(make_row(1), "subset_name")],
    "input is null": [make_row(1, input=None)],
    "output is null": [make_row(1, output=None)],
    "subset_name is null": [make_row(1, subset_name=None)],
    "input is not a string": [make_row(1, input=5), make_row(1, input=["a"])],
    "output is not a string": [make_row(1, output={"a": 1}), make_row(1, output=True)],
    "empty output": [make_row(1, output=""), make_row(1, output=" \n\t\u00a0")],
    "empty input": [make_row(1, input=""), make_row(1, input="   ")],
}


@pytest.mark.parametrize("reason", JSON_FAULTS)
def test_a_faulty_json_row_is_set_aside_with_its_line_and_reason(tmp_path, destination, reason):
    faulty = JSON_FAULTS[reason]
    summary = select(str(write_jsonl(tmp_path / "a.jsonl", [*GOOD, *faulty])), destination)
    assert summary.bad == {reason: len(faulty)}
    assert summary.kept["wikihow"] == 20
    aside = bad_rows(destination)
    assert [fault["row"] for fault in aside] == list(range(21, 21 + len(faulty)))
    assert {(fault["file"], fault["reason"]) for fault in aside} == {("a.jsonl", reason)}


@pytest.mark.parametrize(
    "reason", ["input is null", "output is null", "subset_name is null", "empty output", "empty input"]
)
def test_a_faulty_parquet_row_is_set_aside_with_its_row_and_reason(tmp_path, destination, reason):
    faulty = JSON_FAULTS[reason]
    summary = select(str(write_parquet(tmp_path / "a.parquet", [*GOOD, *faulty])), destination)
    assert summary.bad == {reason: len(faulty)}
    assert [fault["row"] for fault in bad_rows(destination)] == list(range(21, 21 + len(faulty)))


@pytest.mark.parametrize("column", ["subset_name", "template_name", "prompt_id", "output"])
@pytest.mark.parametrize(
    ("text", "reason"), [(b"Jawab\xff\xfe", "invalid UTF-8"), (b"a\xed\xa0\x80b", "lone surrogate")]
)
def test_broken_text_in_parquet_is_set_aside(tmp_path, destination, column, text, reason):
    table = pa.Table.from_pylist(GOOD)
    values = [value.encode() for value in table[column].to_pylist()]
    values[3] = text
    broken = pa.array(values, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index(column), column, broken), tmp_path / "a.parquet")
    summary = select(str(tmp_path / "a.parquet"), destination)
    assert summary.bad == {reason: 1}
    assert summary.kept["wikihow"] == 19
    assert bad_rows(destination)[0]["row"] == 4


def test_faults_in_rows_of_other_subsets_do_not_count(tmp_path, destination):
    other = [make_row(1, "mt_en_id", output=None), make_row(2, "mt_en_id", input=7), {"subset_name": "mt_en_id"}]
    summary = select(str(write_jsonl(tmp_path / "a.jsonl", [*GOOD, *other])), destination)
    assert (summary.bad, summary.left_out) == ({}, {"mt_en_id": 3})


def test_a_row_counts_under_its_first_fault_only_and_long_values_are_clipped(tmp_path, destination):
    faulty = [make_row(1, input=None, output=""), make_row(2, input="", output=None)]
    long = [make_row(3, output=["x" * 5000])]
    summary = select(str(write_jsonl(tmp_path / "a.jsonl", [*GOOD, *faulty, *long])), destination)
    assert set_aside(summary) == 3
    assert summary.rows_read == 23
    assert all(len(fault["value"] or "") <= 201 for fault in bad_rows(destination))


def test_every_row_is_kept_left_out_or_set_aside(tmp_path, destination):
    faulty = [row for rows in JSON_FAULTS.values() for row in rows]
    rows = [*ROWS * 20, *faulty]
    random.Random(0).shuffle(rows)
    write_jsonl(tmp_path / "c" / "a.jsonl.gz", rows)
    write_parquet(tmp_path / "c" / "b.parquet", ROWS)
    summary = select(str(tmp_path / "c"), destination)
    assert summary.rows_read == len(rows) + len(ROWS)
    assert summary.rows_read == sum(summary.kept.values()) + sum(summary.left_out.values()) + set_aside(summary)
    assert set_aside(summary) == len(faulty) == len(bad_rows(destination))
    assert pq.read_metadata(destination).num_rows == sum(summary.kept.values())


def test_more_than_half_bad_rows_is_an_error_that_names_the_commonest_reason(tmp_path, destination):
    rows = [make_row(1), make_row(2), b"{", make_row(3, output=""), make_row(4, output="")]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(CorpusError, match=r"3 of the 5 rows .* \(2 rows\): empty output"):
        select(str(path), destination)
    assert not destination.exists()
    assert len(bad_rows(destination)) == 3
    write_jsonl(path, [*rows, make_row(5)])
    assert select(str(path), destination).kept["wikihow"] == 3


def test_a_selection_over_many_batches_keeps_order_and_numbers(tmp_path, destination, monkeypatch):
    monkeypatch.setattr(rows, "_BATCH_ROWS", 7)
    monkeypatch.setattr(selection, "_GROUP_ROWS", 50)
    choice = random.Random(1)
    made = [make_row(n, choice.choice([*SUBSETS, "other", "other"])) for n in range(1, 1001)]
    write_parquet(tmp_path / "c" / "a.parquet", made, row_group_size=90)
    write_jsonl(tmp_path / "c" / "b.jsonl", made)
    select(str(tmp_path / "c"), destination)
    kept = [n for n, row in enumerate(made, 1) if row["subset_name"] in SUBSETS]
    frame = read(destination)
    assert frame["row"].tolist() == kept * 2
    assert frame["output"].tolist() == [f"Jawaban {n}." for n in kept] * 2
    assert pq.read_metadata(destination).num_row_groups > 5


def test_of_row_groups_without_the_subsets_the_texts_are_not_read_and_the_rows_are_counted(tmp_path, destination):
    wanted = [make_row(n, "dolly") for n in range(1, 11)]
    # An empty output would be set aside wherever it is read.
    others = [make_row(n, "mt_en_id", output="") for n in range(11, 21)]
    last = [make_row(n, "wikihow") for n in range(21, 31)]
    write_parquet(tmp_path / "c" / "a.parquet", [*wanted, *others, *last], row_group_size=10)
    read_columns = []
    original = pq.ParquetFile.read_row_groups
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pq.ParquetFile,
            "read_row_groups",
            lambda file, groups, columns: (read_columns.append((groups, columns)), original(file, groups, columns))[1],
        )
        summary = select(str(tmp_path / "c"), destination)
    assert read_columns == [([1], ["subset_name"])]
    assert summary.left_out == {"mt_en_id": 10}
    assert (summary.rows_read, summary.bad) == (30, {})
    assert read(destination)["row"].tolist() == [*range(1, 11), *range(21, 31)]


def test_the_fingerprint_follows_content_and_names_but_not_the_place(tmp_path, destination):
    prints = []
    for folder, name, number in [("a", "x.jsonl", 1), ("b", "x.jsonl", 1), ("c", "y.jsonl", 1), ("d", "x.jsonl", 2)]:
        write_jsonl(tmp_path / folder / name, [make_row(number)])
        prints.append(select(str(tmp_path / folder), destination).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_the_summary_is_frozen_and_goes_through_json(tmp_path, destination):
    summary = select(str(write_jsonl(tmp_path / "a.jsonl", ROWS)), destination)
    assert json.loads(summary.to_json()) == summary.to_dict()
    assert CorpusSummary(**summary.to_dict() | {"files": summary.files}) == summary
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.rows_read = 3


# Errors that stop everything


@pytest.mark.parametrize("given", ["corpsu.jsonl", "nowhere/deep/corpus.jsonl", "c*su.jsonl"])
def test_a_path_or_glob_that_matches_nothing_names_what_is_near(tmp_path, destination, given):
    write_jsonl(tmp_path / "corpus.jsonl", ROWS)
    with pytest.raises(CorpusError, match=r"(no file or folder is named|matches nothing).*corpus\.jsonl"):
        select(str(tmp_path / given), destination)


def test_a_folder_without_readable_files_names_the_kinds_it_has(tmp_path, destination):
    (tmp_path / "c").mkdir()
    with pytest.raises(CorpusError, match="no files at all"):
        select(str(tmp_path / "c"), destination)
    (tmp_path / "c" / "a.docx").write_text("x")
    with pytest.raises(CorpusError, match=r"only \.docx\. Give files in parquet, or \.jsonl"):
        select(str(tmp_path / "c"), destination)


@pytest.mark.parametrize("writer", [write_parquet, write_jsonl])
def test_a_missing_column_names_the_columns_found_and_the_nearest(tmp_path, destination, writer):
    rows = [without(make_row(1), "input") | {"inputs": "x"}]
    path = writer(tmp_path / ("a.parquet" if writer is write_parquet else "a.jsonl"), rows)
    with pytest.raises(CorpusError, match=r"no column 'input'; did you mean 'inputs'\?; its columns are dataset_name,"):
        select(str(path), destination)
    assert not destination.parent.exists()


def test_a_column_of_another_type_is_named_with_its_type(tmp_path, destination):
    write_parquet(tmp_path / "a.parquet", [make_row(1, output=3)])
    with pytest.raises(CorpusError, match=r"a\.parquet: column 'output' is int64, not text"):
        select(str(tmp_path), tmp_path.with_name("elsewhere") / "s.parquet")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_corpus_without_rows_is_an_error(tmp_path, destination, name):
    if name == "a.parquet":
        write_parquet(tmp_path / name, [], pa.schema([(column, pa.string()) for column in COLUMNS]))
    else:
        write_jsonl(tmp_path / name, [])
    with pytest.raises(CorpusError, match="has no rows"):
        select(str(tmp_path / name), destination)


def test_a_corpus_with_none_of_the_subsets_names_those_it_has(tmp_path, destination):
    path = write_jsonl(tmp_path / "a.jsonl", [*ROWS[6:], b"{"])
    with pytest.raises(CorpusError, match=r"its subsets are mt_en_id \(2 rows\), chitchat \(1 row\)\. 1 row"):
        select(str(path), destination)


def test_an_unknown_subset_names_the_nearest(tmp_path, destination):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(CorpusError, match=r"'wiki_how' is not a subset; did you mean 'wikihow'\?"):
        select(str(path), destination, subsets=("wiki_how",))
    with pytest.raises(CorpusError, match="no subset is asked for"):
        select(str(path), destination, subsets=())


@pytest.mark.parametrize("keep", [30, 1_200_000])
def test_a_truncated_gzip_file_stops_and_says_how_far_it_got(tmp_path, destination, keep):
    noise = random.Random(0)
    rows = [make_row(n, output=str(noise.getrandbits(6_000))) for n in range(2000)]
    path = write_jsonl(tmp_path / "a.jsonl.gz", rows)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        CorpusError, match=r"a\.jsonl\.gz is damaged or cut short: (not even its beginning|it could be read up to row )"
    ):
        select(str(path), destination)
    assert not destination.exists()


def test_a_gzip_file_with_a_wrong_checksum_stops(tmp_path, destination):
    path = write_jsonl(tmp_path / "a.jsonl.gz", [make_row(n) for n in range(500)])
    data = bytearray(path.read_bytes())
    data[-8:-4] = b"\0\0\0\0"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz is damaged"):
        select(str(path), destination)


def test_a_damaged_parquet_file_stops_and_says_how_far_it_got(tmp_path, destination):
    path = write_parquet(tmp_path / "a.parquet", [make_row(n) for n in range(3000)], row_group_size=1000)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(CorpusError, match=r"a\.parquet is damaged or cut short: not even its footer"):
        select(str(path), destination)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 4000 + whole[middle + 4000 :])
    with pytest.raises(CorpusError, match=r"a\.parquet is damaged or cut short: it could be read up to row "):
        select(str(path), destination)
    assert not destination.exists()


def test_a_failed_selection_leaves_an_earlier_one_and_no_litter(tmp_path, destination):
    select(str(write_jsonl(tmp_path / "good.jsonl", ROWS)), destination)
    before = destination.read_bytes()
    rows = [make_row(n, output=str(n) * 50) for n in range(5000)]
    path = write_jsonl(tmp_path / "a.jsonl.gz", rows)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorpusError):
        select(str(path), destination)
    assert destination.read_bytes() == before
    assert sorted(entry.name for entry in destination.parent.iterdir()) == ["bad_rows.jsonl", "selected.parquet"]


def test_a_file_that_may_not_be_read_is_named(tmp_path, destination, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read anything
        monkeypatch.setattr(Path, "open", lambda self, *_, **__: (_ for _ in ()).throw(PermissionError(13, "no", self)))
    with pytest.raises(CorpusError, match=r"a\.jsonl may not be read \(permission denied\).*chmod u\+r"):
        select(str(path), destination)


def test_a_destination_within_the_corpus_is_refused(tmp_path):
    write_jsonl(tmp_path / "c" / "a.jsonl", ROWS)
    with pytest.raises(CorpusError, match="is inside the corpus"):
        select(str(tmp_path / "c"), tmp_path / "c" / "out" / "selected.parquet")


def test_an_endless_line_is_refused_before_it_fills_the_memory(tmp_path, destination, monkeypatch):
    monkeypatch.setattr(files, "LINE_BYTES", 1000)
    path = write_jsonl(tmp_path / "a.jsonl", [make_row(1), make_row(2, output="x" * 2000)])
    with pytest.raises(CorpusError, match=r"a\.jsonl: line 2 is over"):
        select(str(path), destination)


# Shortages


@pytest.fixture
def selected(tmp_path, destination, monkeypatch) -> Path:
    monkeypatch.setattr(selection, "_GROUP_ROWS", 10)
    monkeypatch.setattr(rows, "_BATCH_ROWS", 10)
    select(str(write_jsonl(tmp_path / "a.jsonl", [make_row(n) for n in range(95)])), destination)
    return destination


def test_positions_come_back_in_the_order_asked_for_and_may_repeat(selected):
    wanted = np.array([94, 3, 50, 3, 0, 49])
    frame = read(selected, wanted)
    assert frame["output"].tolist() == [f"Jawaban {n}." for n in wanted]
    assert frame.index.tolist() == list(range(6))


def test_no_positions_give_an_empty_frame_with_the_columns(selected):
    frame = read(selected, np.array([], dtype=int), columns=["input", "output"])
    assert frame.shape == (0, 2)


def test_only_the_row_groups_asked_for_are_read(selected, monkeypatch):
    opened = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, group, **k: opened.append(group) or original(self, group, **k)
    )
    read(selected, np.array([11, 12, 77]), columns=["row"])
    assert opened == [1, 7]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (np.array([95]), ["row"], "has 95 rows, and position 95 is not among 0 to 94"),
        (np.array([-1]), ["row"], "position -1"),
        (np.array([True, False]), ["row"], "np.flatnonzero"),
        (None, ["inputs"], "no column 'inputs'"),
    ],
)
def test_what_cannot_be_read_is_an_error(selected, rows, columns, message):
    with pytest.raises(CorpusError, match=message):
        read(selected, rows, columns)


def test_a_missing_or_damaged_selection_is_an_error(selected):
    with pytest.raises(CorpusError, match="does not exist; select the corpus first"):
        read(selected.with_name("none.parquet"))
    selected.write_bytes(b"PAR1 nonsense")
    with pytest.raises(CorpusError, match="select the corpus again"):
        read(selected)
