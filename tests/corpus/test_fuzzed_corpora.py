"""Two hundred corpora that nobody would write by hand: each becomes a split, or one sentence that says what to do."""

import bz2
import csv
import gzip
import io
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from lib.config import Config, Corpus
from lib.corpus import selection, splits
from lib.corpus.files import COLUMNS, CorpusError
from lib.model.prompts import asked

#: So unlike each other that every row is a group.
_RNG = np.random.default_rng(0)
POOL = [" ".join("".join(_RNG.choice(list("aiueokstnbm"), 5)) for _ in range(6)) for _ in range(800)]

odd_texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", " ", "\n", "é", "\0", "\ud800", "\u2028", '"', ",", "\\", "<|eot_id|>", "=1+1", "x" * 3000]),
)  # fmt: skip
odd_values = st.one_of(
    odd_texts,
    st.none(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.lists(st.one_of(odd_texts, st.integers(), st.none()), max_size=2),
    st.dictionaries(st.sampled_from(["role", "from", "content", "value", "x"]), odd_texts, max_size=3),
)
roles = st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", ""])


def turn(role, text, sharegpt=False):
    return {"from": role, "value": text} if sharegpt else {"role": role, "content": text}


def talk(prompt, completion, sharegpt=False):
    return [turn("user", prompt, sharegpt), turn("assistant", completion, sharegpt)]


#: Sound rows of every shape, and of some that are none.
SHAPES = {
    "cendol": lambda p, c: dict.fromkeys(COLUMNS, "x") | {"subset_name": "dolly", "input": p, "output": c},
    "messages": lambda p, c: {"messages": talk(p, c)},
    "sharegpt": lambda p, c: {"conversations": [*talk("Halo", "Hai.", True), *talk(p, c, True)], "id": p[:3]},
    "pairs": lambda p, c: {"prompt": p, "completion": c, "topic": p[0]},
    "turns": lambda p, c: {"prompt": talk(p, c)[:1], "completion": talk(p, c)[1:]},
    "alpaca": lambda p, c: {"instruction": p, "input": "", "output": c, "topic": p[0]},
    "texts": lambda p, c: {"input": p, "output": c, "topic": p[0]},
    "part of cendol": lambda p, c: {"subset_name": "dolly", "input": p, "output": c, "template_name": "x"},
    "unknown": lambda p, c: {"question": p, "answer": c},
    "text": lambda p, c: {"text": p + c},
}


SOUND = list(SHAPES)[:7]


@st.composite
def tables(draw):
    """Rows: sound ones of one shape, some of them spoilt."""
    make = SHAPES[draw(st.sampled_from([*SHAPES, *SOUND * 4]))]
    start, count = draw(st.integers(0, 500)), draw(st.sampled_from([0, 1, 3, *[200] * 15]))
    rows = [make(POOL[(start + n) % 800], POOL[(start + n + 400) % 800]) for n in range(count)]
    if rows and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 4))):
            row = dict(draw(st.sampled_from(rows)))
            change = draw(st.sampled_from(["value", "without", "more", "turns"]))
            column = draw(st.sampled_from(sorted(row) or ["input"]))
            if change == "value":
                row[column] = draw(odd_values)
            elif change == "without":
                row.pop(column, None)
            elif change == "more":
                row[draw(st.sampled_from(["system", "topic", "", "output", "messages"]))] = draw(odd_values)
            else:
                said = st.builds(turn, roles, odd_texts, st.booleans())
                row[column] = draw(st.lists(said, max_size=5))
            rows[draw(st.integers(0, len(rows) - 1))] = row
    return rows


def text_of(value):
    return value if isinstance(value, str) else json.dumps(value)


def as_csv(rows, delimiter, end):
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerow(names)
    writer.writerows([text_of(row.get(name, "")) for name in names] for row in rows)
    return out.getvalue()


def as_json(rows, kind):
    if kind == "columns":
        names = list(dict.fromkeys(name for row in rows for name in row))
        return json.dumps({name: [row.get(name) for row in rows] for name in names})
    if kind == "inside":
        return json.dumps({"version": 1, "data": rows}, indent=1)
    # A lone surrogate stays one where it is not escaped.
    indent, escape = (1 if "pretty" in kind else None), "plain" not in kind
    if "array" in kind:
        return json.dumps(rows, indent=indent, ensure_ascii=escape)
    end = "\r" if "cr" in kind else "\r\n" if "crlf" in kind else "\n"
    return "".join(json.dumps(row, indent=indent, ensure_ascii=escape) + end for row in rows)


def as_parquet(rows, options):
    """Parquet of what it can hold: else of texts."""
    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError):
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[text_of(row.get(name)).encode("utf-8", "surrogatepass") for row in rows] for name in names]
        table = pa.table([pa.array(cell, pa.binary()).view(pa.string()) for cell in cells], names=names)
    file = io.BytesIO()
    try:
        pq.write_table(table, file, **options)
    except (pa.ArrowException, OSError):
        pq.write_table(table.slice(0, 0).select([]), file)
    return file.getvalue()


PARQUET = [
    {},
    {"compression": "none", "use_dictionary": False},
    {"compression": "zstd", "row_group_size": 1},
    {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
    {"data_page_version": "2.0", "write_page_checksum": True, "compression": "gzip"},
]
PACKINGS = [
    *[bytes] * 8,
    *[gzip.compress] * 4,
    *[zstandard.compress] * 4,
    bz2.compress,
    lambda data: gzip.compress(gzip.compress(data)),
]
ENCODINGS = [*["utf-8"] * 14, "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"]
SUFFIXES = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.zst", ".txt", "", ".JSON"]


KINDS = ["lines", "plain lines", "crlf", "cr", "array", "pretty array", "plain array", "pretty"]


@st.composite
def contents(draw):
    rows = draw(tables())
    container = draw(st.sampled_from(["parquet", "csv", "json", "json"]))
    if container == "parquet":
        data = as_parquet(rows, draw(st.sampled_from(PARQUET)))
    else:
        if container == "csv":
            text = as_csv(rows, draw(st.sampled_from(",,,\t;|")), draw(st.sampled_from(["\n", "\r\n", "\r"])))
        else:
            text = as_json(rows, draw(st.sampled_from([*KINDS * 2, "columns", "inside"])))
        encoding = draw(st.sampled_from(ENCODINGS))
        data = text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    return draw(st.sampled_from(PACKINGS))(data) if container != "parquet" else data


@st.composite
def damaged(draw, data):
    kind = draw(st.sampled_from([*["none"] * 20, "cut", "flipped", "zeroed", "more", "turned"]))
    if not data or kind == "none":
        return data
    at = draw(st.integers(0, len(data) - 1))
    if kind == "cut":
        return data[:at]
    if kind == "flipped":
        spoilt = bytearray(data)
        for _ in range(draw(st.integers(1, 6))):
            spoilt[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(spoilt)
    if kind == "zeroed":
        return data[:at] + bytes(len(data) - at)
    if kind == "more":
        return data + draw(st.sampled_from([b"\0", b"]", b"{", data, b"\x1f\x8b", b"\xff\xff"]))
    return data[at:] + data[:at]


@dataclass
class Made:
    """A corpus: its files by name, and which column names the subsets."""

    files: dict[str, bytes]
    subsets: str
    as_folder: bool


@st.composite
def corpora(draw):
    count = draw(st.sampled_from([*[1] * 6, 2, 3]))
    made = {}
    for n in range(count):
        name = f"{'abc'[n]}{draw(st.sampled_from(SUFFIXES))}"
        made[name] = draw(damaged(draw(contents())))
    if draw(st.integers(0, 5)) == 0:
        made["package.json"] = json.dumps({"name": "x", "version": "1"}, indent=2).encode()
    subsets = draw(st.sampled_from([*[""] * 12, *["none"] * 4, "topic", "topic", "subset_name", "id"]))
    return Made(made, subsets, len(made) > 1 or draw(st.integers(0, 3)) == 0)


CURE = re.compile(r"\b(Get|Give|[Ww]rite|Rename|Convert|Unpack|Check|Add|fix|Name|SUBSETS names|Is it)\b")


def check(root, made):
    shutil.rmtree(root / "artifacts", ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in made.files.items():
            Path(folder, name).write_bytes(data)
        corpus = folder if made.as_folder else str(Path(folder, next(iter(made.files))))
        config = Config(run="fuzz", corpus=Corpus(source=corpus, subsets=made.subsets))
        try:
            summary = selection.prepare(config)
            split = splits.prepare(config)
        except CorpusError as error:
            event("refused")
            said = str(error)
            named = [name for name in (corpus, *made.files, "SUBSETS=") if name in said]
            assert named and CURE.search(said) and "\n" not in said and len(said) < 1_500, said
            assert not config.paths.split.exists()
        else:
            event("split")
            there = selection.read(config.paths.rows, columns=["input", "output", "subset_name", "turns"])
            assert len(split) == len(there) == sum(summary.kept.values())
            assert summary.rows_read == len(there) + sum(summary.left_out.values()) + sum(summary.bad.values())
            texts = there[["input", "output", "subset_name"]]
            assert texts.map(lambda text: bool(text.strip())).all(axis=None)
            for said in asked(there):
                assert [turn["role"] for turn in said][-1] == "user" and all(turn["content"] for turn in said)
            # Not by splitlines: a value may have a U+2028.
            aside = config.paths.rows.with_name(selection.BAD_ROWS).read_bytes().splitlines()
            assert len(aside) == sum(summary.bad.values()) and all(json.loads(line)["reason"] for line in aside)
        assert not list(root.rglob("*.partial"))
        assert config.paths.rows.exists() == config.paths.corpus_summary.exists()


TRIED = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@given(made=corpora())
@settings(max_examples=25, **TRIED)
def test_a_corpus_ends_in_a_split_or_in_one_sentence_that_names_it_and_a_cure(root, made):
    check(root, made)


@pytest.mark.slow
@given(made=corpora())
@settings(max_examples=200, **TRIED)
def test_two_hundred_corpora_end_so(root, made):
    check(root, made)
