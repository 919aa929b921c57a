"""What files are recognised as, by what is in them; and what is said of those that are not."""

import csv
import gzip
import io
import json
import os
import socket
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from lib.corpus import files, rows
from lib.corpus.files import COLUMNS, CorpusError
from lib.corpus.rows import UNDIVIDED, subset_name
from lib.corpus.selection import read, select

WORDS = ("laut", "gunung", "sungai", "danau", "hutan", "pulau")
TEXTS = [(f"Apa itu {word}?", f'Sebuah "{word}", di sini.\nBegitulah; ya, é.') for word in WORDS]
SHAPES = {
    "messages": [{"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": c}]} for p, c in TEXTS],
    "ShareGPT": [{"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": c}]} for p, c in TEXTS],
    "prompt and completion": [{"prompt": p, "completion": c} for p, c in TEXTS],
    "Alpaca": [{"instruction": p, "input": "", "output": c} for p, c in TEXTS],
    "input and output": [{"input": p, "output": c} for p, c in TEXTS],
    "Cendol's columns": [
        dict.fromkeys(COLUMNS, "x") | {"subset_name": "dolly", "input": p, "output": c} for p, c in TEXTS
    ],
}


def as_table(found, delimiter=",", end="\r\n"):
    text = io.StringIO(newline="")
    # Turns are JSON within a cell.
    found = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in found]
    writer = csv.DictWriter(text, list(found[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue().encode()


def as_parquet(found, **options):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(found), file, **options)
    return file.getvalue()


def as_lines(found, end="\n"):
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in found).encode()


CONTAINERS = {
    "parquet": as_parquet,
    "JSON lines": as_lines,
    "JSON lines that end in CR and LF": lambda found: as_lines(found, "\r\n"),
    "JSON in an array": lambda found: json.dumps(found).encode(),
    "JSON in an array, over lines": lambda found: json.dumps(found, indent=2).encode(),
    "JSON in an array, a row a line": lambda found: ("[" + ",\n".join(map(json.dumps, found)) + "]\n").encode(),
    "JSON over lines, one value after the other": lambda found: "\n".join(
        json.dumps(r, indent=1) for r in found
    ).encode(),
    "JSON that ends lines with CR": lambda found: as_lines(found, "\r"),
    "CSV": as_table,
    "CSV that ends lines with CR": lambda found: as_table(found, end="\r"),
    "CSV (separated by tabs)": lambda found: as_table(found, "\t"),
    "CSV (separated by semicolons)": lambda found: as_table(found, ";"),
}


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "out" / "rows.parquet"


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def texts(destination):
    return list(read(destination, columns=["input", "output"]).itertuples(index=False, name=None))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_from_every_container_and_said(tmp_path, destination, shape, container):
    # Nothing is in the name.
    path = put(tmp_path / "rows", CONTAINERS[container](SHAPES[shape]))
    summary = select(str(path), destination)
    assert texts(destination) == TEXTS
    kind, _, details = container.partition(" (")
    # A single column is separated by nothing.
    details = details if len(SHAPES[shape][0]) > 1 else ""
    kind = next(known for known in ("parquet", "JSON lines", "JSON", "CSV") if kind.startswith(known))
    kind = "JSON" if "CR" in container and "LF" not in container and kind == "JSON lines" else kind
    assert summary.formats == {f"{kind}{f' ({details}' if details else ''}: {shape}": len(TEXTS)}
    subset = "dolly" if shape == "Cendol's columns" else UNDIVIDED
    assert {name: count for name, count in summary.kept.items() if count} == {subset: len(TEXTS)}
    assert summary.bad == {}


@pytest.mark.parametrize("container", ["JSON lines", "JSON in an array", "CSV"])
@pytest.mark.parametrize(
    ("said", "changed"),
    [
        ("gzip", gzip.compress),
        ("zstd", zstandard.compress),
        ("zstd", lambda data: zstandard.compress(data[:99]) + zstandard.compress(data[99:])),
        ("", lambda data: b"\xef\xbb\xbf" + data),
        ("UTF-16", lambda data: data.decode().encode("utf-16")),
        ("UTF-16", lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be")),
        ("gzip, UTF-16", lambda data: gzip.compress(data.decode().encode("utf-16"))),
    ],
    ids=["gzip", "zstd", "zstd in two frames", "UTF-8 with a mark", "UTF-16", "UTF-16 BE", "UTF-16 in gzip"],
)
def test_packings_and_encodings_are_known_by_their_first_bytes(tmp_path, destination, container, said, changed):
    path = put(tmp_path / "rows.txt", changed(CONTAINERS[container](SHAPES["Alpaca"])))
    (form,) = select(str(path), destination).formats
    assert texts(destination) == TEXTS
    assert form.partition(":")[0].partition(" (")[2] == (f"{said})" if said else "")


def test_parquet_may_be_called_jsonl_and_the_reverse(tmp_path, destination):
    put(tmp_path / "in" / "a.jsonl", as_parquet(SHAPES["Alpaca"]))
    put(tmp_path / "in" / "b.parquet", as_lines(SHAPES["Alpaca"]))
    put(tmp_path / "in" / "c.json", as_table(SHAPES["Alpaca"]))
    assert select(str(tmp_path / "in"), destination).kept == {UNDIVIDED: 3 * len(TEXTS)}
    assert texts(destination) == 3 * TEXTS


def test_conversations_keep_their_turns_beside_rows_that_have_none(tmp_path, destination):
    said = [
        {"role": role, "content": f"{role} {n}"}
        for n, role in enumerate(["system", "user", "assistant", "user", "assistant"])
    ]
    put(tmp_path / "in" / "a.jsonl", as_lines([*SHAPES["messages"], {"messages": said}]))
    put(tmp_path / "in" / "b.parquet", as_parquet(SHAPES["Cendol's columns"]))
    select(str(tmp_path / "in"), destination)
    found = read(destination, columns=["input", "turns", "subset_name"])
    assert found["turns"].notna().tolist() == [False] * 6 + [True] + [False] * 6
    assert json.loads(found["turns"][6]) == said[:-1] and found["input"][6] == "user 1\n\nassistant 2\n\nuser 3"
    assert found["subset_name"].unique().tolist() == [UNDIVIDED, "dolly"]


def test_a_corpus_in_cendol_s_columns_is_written_without_turns(tmp_path, destination):
    select(str(put(tmp_path / "a.jsonl", as_lines(SHAPES["Cendol's columns"]))), destination)
    assert pq.read_schema(destination).names == ["row", "source", *COLUMNS]
    assert list(read(destination, columns=["input", "turns"]).columns) == ["input"]


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_parquet_whose_texts_are_delta_encoded_is_read(tmp_path, destination, encoding):
    found = SHAPES["Cendol's columns"]
    data = as_parquet(found, use_dictionary=False, column_encoding=dict.fromkeys(COLUMNS, encoding))
    assert select(str(put(tmp_path / "a.parquet", data)), destination).kept["dolly"] == len(TEXTS)


# Subsets


TOPICS = ["air", "darat", "air", None, 3, "all"]
OWN = [row | {"topic": topic} for row, topic in zip(SHAPES["Alpaca"], TOPICS, strict=True)]


@pytest.mark.parametrize("container", ["JSON lines", "JSON in an array", "parquet"])
def test_a_column_of_one_s_own_names_the_subsets(tmp_path, destination, container):
    found = [row | {"topic": None if row["topic"] is None else str(row["topic"])} for row in OWN]
    path = put(tmp_path / "rows", CONTAINERS[container](found if container == "parquet" else OWN))
    summary = select(str(path), destination, subset_column="topic")
    assert summary.kept == {"3": 1, "air": 2, "all (a subset)": 1, "darat": 1}
    assert summary.bad == {"topic names no subset": 1}


@pytest.mark.parametrize("container", ["JSON lines", "parquet", "CSV"])
@pytest.mark.parametrize("column", ["template_name", "level", "none"])
def test_rows_in_cendol_s_columns_may_be_divided_otherwise_or_not_at_all(tmp_path, destination, container, column):
    found = [row | {"template_name": "abc"[n % 2], "level": n // 4} for n, row in enumerate(SHAPES["Cendol's columns"])]
    summary = select(str(put(tmp_path / "rows", CONTAINERS[container](found))), destination, subset_column=column)
    assert (
        summary.kept == {"template_name": {"a": 3, "b": 3}, "level": {"0": 4, "1": 2}, "none": {UNDIVIDED: 6}}[column]
    )
    assert texts(destination) == TEXTS


def test_with_subset_name_as_the_column_all_subsets_are_kept(tmp_path, destination):
    found = [row | {"subset_name": name} for row, name in zip(SHAPES["Cendol's columns"], "aabbcc", strict=True)]
    path = put(tmp_path / "rows.parquet", as_parquet(found, row_group_size=2))
    assert select(str(path), destination, subset_column="subset_name").kept == {"a": 2, "b": 2, "c": 2}


def test_a_subset_column_that_a_file_lacks_is_refused_with_the_nearest(tmp_path, destination):
    path = put(tmp_path / "rows.jsonl", as_lines(OWN))
    with pytest.raises(CorpusError, match=r"no column 'topics'; did you mean 'topic'\?.*SUBSETS"):
        select(str(path), destination, subset_column="topics")


def test_a_column_with_a_value_for_every_row_names_no_subsets(tmp_path, destination):
    found = [{"prompt": f"Apa {n}?", "completion": "Itu.", "id": n} for n in range(rows.MOST_SUBSETS + 1)]
    path = put(tmp_path / "rows.jsonl", as_lines(found))
    with pytest.raises(CorpusError, match=r"SUBSETS='id' names over 200 subsets \(0, 1, 10, 100, 101 …\)"):
        select(str(path), destination, subset_column="id")
    assert not destination.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("C++ / (tanya, jawab)", "C++ / (tanya, jawab)"), ("Q&A|<b>$x$</b>", "Q_A__b__x__/b_"), ("_umum", "umum"),
        (" dua\n kata ", "dua kata"), (7, "7"), (True, "True"), ("x" * 99, "x" * 60), ("", None), ("$", None),
        (None, None), ([1], None),
    ],
)  # fmt: skip
def test_the_name_of_a_subset_can_be_shown_anywhere(value, name):
    # matplotlib reads $ as mathematics, Markdown | as the end of a cell.
    assert subset_name(value) == name


# What is refused, and what is set aside


def refused(tmp_path, data, name="rows.jsonl", **options):
    path = put(tmp_path / name, data)
    with pytest.raises(CorpusError) as told:
        select(str(path), tmp_path / "out" / "rows.parquet", **options)
    assert not (tmp_path / "out" / "rows.parquet").exists()
    assert name in str(told.value) and "\n" not in str(told.value)
    return str(told.value)


def archive(name, content="x"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(name, content)
    return file.getvalue()


def as_arrow(found, writer):
    table, file = pa.Table.from_pylist(found), io.BytesIO()
    with writer(file, table.schema) as made:
        made.write_table(table)
    return file.getvalue()


LATIN = [{"prompt": f"Apa {n}?", "completion": "Kafé." if n % 2 else "Teh."} for n in range(20)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (as_lines(LATIN).decode().encode("utf-16-le"), "UTF-16 without a byte-order mark.*iconv -f UTF-16LE"),
        (as_lines(LATIN).decode().encode("utf-16-be"), "UTF-16 without a byte-order mark.*iconv -f UTF-16BE"),
        (as_lines(LATIN).decode().encode("latin-1"), r"not in UTF-8: 10 of its 20 rows.*row 2 .*\\xe9.*iconv"),
        (as_table(LATIN).decode().encode("latin-1"), r"not in UTF-8: 10 of its 20 rows.*row 2 .*\\xe9.*iconv"),
        (archive("rows.jsonl"), "is a zip archive. Unpack it: unzip"),
        (archive("xl/workbook.xml"), "is a spreadsheet. Save its sheet as CSV"),
        (archive("mimetype", "application/vnd.oasis.opendocument.spreadsheet"), "a spreadsheet. Save its sheet as CSV"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(40), "is a spreadsheet. Save its sheet as CSV"),
        (as_arrow(LATIN, pa.ipc.new_file), "an Arrow file. Write it as parquet"),
        (as_arrow(LATIN, pa.ipc.new_stream), "an Arrow file. Write it as parquet"),
        (b"BZh91AY" + bytes(40), "bzip2. Unpack it: bunzip2"),
        (gzip.compress(gzip.compress(b"{}")), "packed twice. Unpack it once"),
        (gzip.compress(as_parquet(LATIN)), "a packed parquet file. Unpack it"),
        (b"\x93NUMPY\0\1" + bytes(40), r"neither text nor parquet \(byte 7 is 0\)"),
        (json.dumps({k: [r[k] for r in LATIN] for k in LATIN[0]}).encode(), "one value a column, not one a row.*pand"),
        (json.dumps({k: {str(n): r[k] for n, r in enumerate(LATIN)} for k in LATIN[0]}).encode(), "one value a column"),
        (json.dumps({"messages": [SHAPES["messages"][0]["messages"]] * 3}).encode(), "one value a column"),
        (json.dumps({"version": 1, "data": LATIN}, indent=1).encode(), r"under data.*jq -c '\.data\[\]' rows\.jsonl"),
        (json.dumps(LATIN).encode()[:-20], r"cut short: it could be read up to value 19 "),
        (json.dumps(LATIN).encode() + b"x", "something follows its array"),
        (b'[{"prompt": "a", "completion": "b"} {}]', "up to value 1 .no comma follows"),
        (b'[{"prompt": "a", "completion": "b"}', "its array is not closed"),
        (zstandard.compress(as_lines(LATIN))[:-9], "damaged or cut short"),
        (as_lines(LATIN).decode().encode("utf-16")[:-1], "damaged or cut short"),
        (b'prompt,completion\na,b\n"c,d\ne,f\n', "a quotation mark in the record of line 3 is not closed"),
        (b"prompt,completion,prompt\na,b,c\n", "has the column 'prompt' twice"),
        (as_lines([{"question": "a", "answer": "b"}] * 2), "has the columns question, answer, and none of the shapes"),
        (b"question,answer\na,b\n" * 5, "begins with no row that can be read, but with 'question,answer'. Write"),
        (b"", "has no rows"),
        (b" \n\n", "has no rows"),
        (b"[]", "has no rows"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_what_was_found_and_what_would_do(tmp_path, data, said):
    import re

    told = refused(tmp_path, data)
    assert re.search(said, told), told


def test_a_table_without_known_columns_is_refused_with_those_that_it_has(tmp_path):
    told = refused(tmp_path, b"question;answer\na;b\n", "rows.csv")
    assert "has the columns question, answer, and none of the shapes that are known. Rename them: to messages" in told


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["prompt", "completion", "prompt"])
    pq.write_table(table, tmp_path / "x.parquet")
    told = refused(tmp_path, (tmp_path / "x.parquet").read_bytes(), "rows.parquet")
    assert "has the column 'prompt' twice. Rename one of them" in told


def test_a_package_json_beside_the_rows_is_set_aside_and_alone_it_is_refused(tmp_path, destination):
    document = json.dumps({"name": "klepon", "version": "1.0", "scripts": {"test": "x"}}, indent=2).encode()
    assert "has the columns name, version, scripts" in refused(tmp_path / "alone", document, "package.json")
    put(tmp_path / "in" / "package.json", document)
    put(tmp_path / "in" / "sizes.csv", b"file,bytes\na,1\n")
    put(tmp_path / "in" / "empty.jsonl", b"")
    put(tmp_path / "in" / "rows.jsonl", as_lines(SHAPES["Alpaca"]))
    summary = select(str(tmp_path / "in"), destination)
    assert summary.files == ("rows.jsonl",)
    assert list(summary.set_aside) == ["empty.jsonl", "package.json", "sizes.csv"]
    assert summary.set_aside["package.json"].startswith("package.json has the columns name, version, scripts")


def test_a_spreadsheet_beside_the_rows_is_set_aside_and_alone_in_its_folder_it_is_refused(tmp_path, destination):
    put(tmp_path / "in" / "info.json", b'{"version": 1}')
    put(tmp_path / "in" / "rows.xlsx", archive("xl/workbook.xml"))
    with pytest.raises(CorpusError, match=r"^rows\.xlsx is a spreadsheet\. Save its sheet as CSV, in UTF-8\.$"):
        select(str(tmp_path / "in"), destination)
    put(tmp_path / "in" / "rows.jsonl", as_lines(SHAPES["Alpaca"]))
    assert list(select(str(tmp_path / "in"), destination).set_aside) == ["info.json", "rows.xlsx"]
    # A name that rows have, with something else in it.
    put(tmp_path / "in" / "more.csv", archive("xl/workbook.xml"))
    with pytest.raises(CorpusError, match=r"^more\.csv is a spreadsheet"):
        select(str(tmp_path / "in"), destination)


def test_rows_with_unknown_columns_beside_others_are_refused_and_not_left_out(tmp_path, destination):
    put(tmp_path / "in" / "a.jsonl", as_lines(SHAPES["Alpaca"]))
    put(tmp_path / "in" / "b.jsonl", as_lines([{"question": "a", "answer": "b"}] * 2))
    with pytest.raises(CorpusError, match=r"b\.jsonl has the columns question, answer"):
        select(str(tmp_path / "in"), destination)


def test_records_of_csv_that_are_not_well_formed_are_set_aside(tmp_path, destination):
    data = as_table(SHAPES["Alpaca"]) + b'a,b\r\n"a"b,c,d\r\n\r\nBaik?,,Ya.\r\n'
    summary = select(str(put(tmp_path / "rows.csv", data)), destination)
    assert summary.bad == {"another number of columns": 1, "not well-formed CSV": 1}
    assert texts(destination) == [*TEXTS, ("Baik?", "Ya.")]


def test_a_first_line_of_csv_that_is_not_well_formed_is_named_with_its_file(tmp_path):
    said = refused(tmp_path, b'prompt,completion,"no"te\nHalo?,Hai.,x\n', "rows.csv")
    assert said.startswith(
        "rows.csv: its first line, which names the columns, is not well-formed CSV (',' expected aft"
    )


def test_an_array_is_read_a_row_at_a_time_whatever_its_chunks_cut(tmp_path, destination, monkeypatch):
    data = json.dumps([{"prompt": p, "completion": c, "n": [1.5, -2e3, True, None]} for p, c in TEXTS]).encode()
    for size in (1, 2, 3, 7, 64):
        monkeypatch.setattr("lib.corpus.formats.BUFFER", size)
        from lib.corpus.formats import json_values

        assert [(v["prompt"], v["completion"]) for v, _ in json_values("a", io.BytesIO(data))] == TEXTS


def test_an_endless_value_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.corpus.formats.LINE_BYTES", 1000)
    monkeypatch.setattr("lib.corpus.formats.BUFFER", 100)
    data = json.dumps([{"prompt": "a", "completion": "b"}, {"prompt": "x" * 5000, "completion": "b"}]).encode()
    assert "the next is over" in refused(tmp_path, data)


# Links, pipes and devices


def test_linked_folders_are_read_once_and_a_loop_ends(tmp_path, destination):
    put(tmp_path / "elsewhere" / "rows.jsonl", as_lines(SHAPES["Alpaca"]))
    folder = tmp_path / "in"
    put(folder / "own.jsonl", as_lines(SHAPES["Alpaca"]))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    summary = select(str(folder), destination)
    assert summary.files == ("again/rows.jsonl", "own.jsonl")
    assert summary.set_aside == {
        "gone.jsonl": "gone.jsonl is a link to nothing",
        "linked": "linked is a link to a folder that is read already",
        "loop": "loop is a link to a folder that is read already",
    }
    found = files.find_files(str(folder / "**" / "*.jsonl"))
    assert list(found.files) == ["again/rows.jsonl", "own.jsonl"]


def test_a_pipe_in_a_folder_is_set_aside_and_not_waited_for(tmp_path, destination):
    put(tmp_path / "in" / "rows.jsonl", as_lines(SHAPES["Alpaca"]))
    os.mkfifo(tmp_path / "in" / "pipe.jsonl")
    for corpus in (tmp_path / "in", tmp_path / "in" / "*.jsonl"):
        summary = select(str(corpus), destination)
        assert (summary.files, summary.set_aside) == (("rows.jsonl",), {"pipe.jsonl": "pipe.jsonl is a pipe"})
    (tmp_path / "in" / "rows.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"it has only pipe\.jsonl is a pipe\. Give files"):
        select(str(tmp_path / "in"), destination)


def test_a_pipe_a_socket_or_a_device_is_refused_with_a_cure(tmp_path, destination):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path / "socket", "a socket"), ("/dev/null", "a device")):
            with pytest.raises(CorpusError, match=rf"is {kind}, and a run reads its corpus more than once. Write"):
                select(str(path), destination)
    ends = os.pipe()
    try:
        # As a shell's <(zcat rows.gz) is.
        with pytest.raises(CorpusError, match="is a pipe"):
            select(f"/dev/fd/{ends[0]}", destination)
    finally:
        for end in ends:
            os.close(end)


def test_a_name_that_is_too_long_is_refused(destination):
    with pytest.raises(CorpusError, match="cannot be looked at"):
        select("x" * 5000, destination)
