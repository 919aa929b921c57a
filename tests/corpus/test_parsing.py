"""The parsers of the public sources, on sentences made up here in the formats of those sources."""

import io
import json
import zipfile

import pytest

from lib.corpus import parsing
from lib.corpus.parsing import PARSERS, Pair

PROSE = (
    "Halaman ini menjelaskan cara kerja alat itu dengan contoh yang mudah. Anda tidak harus memasang apa pun untuk "
    "mencobanya, dan semua langkah ada di dalam daftar berikut ini."
)


def parsed(parser, **files):
    return list(PARSERS[parser]({name: text.encode() for name, text in files.items()}))


def paragraph(context, *questions):
    qas = [
        {"question": question, "is_impossible": not answer, "answers": [{"text": answer}] if answer else []}
        for question, answer in questions
    ]
    return {"context": context, "qas": qas}


def workbook(rows, shared):
    """A workbook with one sheet, whose texts stand in the sheet or in a table of shared strings."""
    texts = [text for row in rows for text in row]
    kind = "s" if shared else "inlineStr"
    cells = [
        "".join(
            f'<c r="{"ABCDEFG"[column]}{number}" t="{kind}">'
            + (f"<v>{texts.index(text)}</v></c>" if shared else f"<is><t>{text}</t></is></c>")
            for column, text in enumerate(row)
            if text
        )
        for number, row in enumerate(rows, 1)
    ]
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as book:
        book.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}>{''.join(f'<row>{c}</row>' for c in cells)}</worksheet>"
        )
        if shared:
            items = "".join(f"<si><r><t>{text[:2]}</t></r><r><t>{text[2:]}</t></r></si>" for text in texts)
            book.writestr("xl/sharedStrings.xml", f"<sst {space}>{items}</sst>")
    return packed.getvalue()


def test_prompts_with_answers_are_taken_as_they_are_written():
    text = 'Prompt,Answer\nSiapa kamu?,"Saya contoh, bukan manusia. "\n'
    assert parsed("prompts_and_answers", a=text) == [Pair("Siapa kamu?", "Saya contoh, bukan manusia.", "as_written")]


@pytest.mark.parametrize("shared", [True, False])
def test_a_workbook_is_read_by_the_names_in_its_first_row_even_where_cells_are_empty(shared):
    data = workbook([["id", "prompt", "note", "safe_response"], ["7", "Boleh?", "", "Jangan."]], shared)
    assert list(PARSERS["safe_responses"]({"a.xlsx": data})) == [Pair("Boleh?", "Jangan.", "as_written")]


def test_of_a_model_s_responses_those_with_a_fault_or_no_judgement_are_left_out():
    rows = [["prompt", "Model_response", "Rubric 1", "Rubric 2"], ["A?", "Baik.", "tidak", ""]]
    rows += [["B?", "Buruk.", "tidak", "ya"], ["C?", "Entah.", "", ""], ["D?", "Aman.", "tidak", "tidak"]]
    found = PARSERS["judged_responses"]({"a.xlsx": workbook(rows, shared=False)})
    assert [pair.input for pair in found] == ["A?", "D?"]


def test_labelled_tokens_become_running_text():
    text = (
        "question,passage,seq_label\n"
        "\"['Di', 'mana', 'rapat', 'itu']\",\"['Rapat', '(', 'besar', ')', 'di', 'Kota', 'Baru', ',', 'tadi', '.']\","
        "\"['O', 'O', 'O', 'O', 'O', 'B', 'I', 'O', 'O', 'O']\"\n"
        "\"['Siapa', '?']\",\"['Ani', 'dan', 'Budi']\",\"['B', 'O', 'B']\"\n"
    )
    (pair,) = parsed("labelled_answers", a=text)
    assert "Di mana rapat itu?" in pair.input and "Rapat (besar) di Kota Baru, tadi." in pair.input
    assert pair.output == "Kota Baru"


def test_only_questions_that_the_passage_answers_become_rows():
    passage = "Danau itu dalam.[2] Airnya biru."
    asked = [("Apa warna airnya ?", "biru"), ("Siapa penemunya?", "")]
    (pair,) = parsed("questions_on_passages", a=json.dumps([paragraph(passage, *asked)]))
    assert "Apa warna airnya?" in pair.input and "Danau itu dalam. Airnya biru." in pair.input
    assert pair.output == "biru" and pair.template.startswith("closed_qa_")


def test_a_passage_answers_its_first_question_and_continues_its_first_sentence():
    start = "Danau Contoh terletak di antara dua gunung yang tinggi."
    rest = "Airnya biru dan dalam, dan para nelayan dari desa sekitar mencari ikan di sana sepanjang tahun."
    asked = [("Di mana danau itu?", "dua gunung"), ("Apa warnanya?", "biru")]
    files = {name: json.dumps([paragraph(f"{start} {rest}", *asked)]) for name in ("a", "b")}
    article, more = parsed("passages", **files)
    assert "Di mana danau itu?" in article.input and article.output == f"{start} {rest}"
    assert start in more.input and more.output == rest


def test_a_passage_that_a_training_would_cut_is_left_out():
    long = paragraph("Kalimat yang panjang. " * 400, ("Apa?", "Kalimat"))
    assert parsed("questions_on_passages", a=json.dumps([long])) == parsed("passages", a=json.dumps([long])) == []


def test_a_pantun_is_asked_for_by_kind_and_by_first_line_and_one_in_javanese_is_not():
    rows = [r'"Ikan kecil \n Di dalam kali, \n ",Pantun Adat', r"Iwak \n Kali \n ,Pantun Bahasa Jawa"]
    text = "\n".join(["teks,tipe", *rows])
    by_kind, by_line = parsed("pantun", a=text)
    assert "pantun adat" in by_kind.input and "Ikan kecil" in by_line.input
    assert by_kind.output == by_line.output == "Ikan kecil\nDi dalam kali,"


def test_a_command_page_becomes_its_purpose_and_numbered_examples():
    page = (
        "# coba\n\n> Mencoba sesuatu untuk Anda.\n> Informasi lebih lanjut: <https://example.org>.\n\n"
        "- Coba satu berkas di dalam folder ini:\n\n`coba {{nama_berkas}}`\n\n- Coba semua dengan rinci:\n\n`coba -a`\n"
    )
    alias = (
        "# lain\n\n> Perintah ini merupakan alias dari `coba`.\n\n- Tampilkan dokumentasi untuk itu:\n\n`tldr coba`\n"
    )
    (pair,) = parsed("command_pages", **{"pages.id/osx/coba.md": page, "pages.id/common/lain.md": alias})
    assert "coba di macOS" in pair.input
    assert pair.output == (
        "Mencoba sesuatu untuk Anda.\n\n1. Coba satu berkas di dalam folder ini:\ncoba nama_berkas\n"
        "2. Coba semua dengan rinci:\ncoba -a"
    )


def test_each_section_of_a_guide_is_a_row_in_plain_text():
    page = (
        "---\ntitle: 'Panduan'\n---\n<Intro>\n\n"
        f"## Memasang alat {{/*install*/}}\n\n**Penting**: [lihat ini](a.md). {PROSE}\n\n![gambar](a.png)\n\n"
        f"```js\n# bukan judul\n```\n> [!NOTE]\n> Ini catatan.\n\n"
    )
    (pair,) = parsed("guides_to_vue", a=page)
    assert "memasang alat" in pair.input and "(Vue.js: Panduan)" in pair.input
    assert pair.output == f"Penting: lihat ini. {PROSE}\n\n\nIni catatan.".replace("\n\n\n", "\n\n")


@pytest.mark.parametrize(
    "body",
    [
        "Ini dan itu ada di dalam daftar untuk Anda.",
        "This page tells you how to use the tool, and what it is for. " * 4,
        f"{PROSE}\n\n| a | b |\n|---|---|\n| 1 | 2 |",
        f"{PROSE} Contohnya adalah:",
        PROSE * 20,
    ],
    ids=["short", "English", "a table", "an end that is missing", "long"],
)
def test_a_section_that_is_no_answer_is_left_out(body):
    assert parsed("guides_to_react", a=f"# Judul\n\n{body}\n") == []


@pytest.mark.parametrize(
    ("heading", "asked"),
    [
        ("Cara memasang alat", "memasang alat"),
        ("Memasang alat", "memasang alat"),
        ("Apa itu alat?", "Apa itu alat?"),
        ("Memori", '"Memori"'),
        ("Metode", '"Metode"'),
        ("Menu", '"Menu"'),
        ("Mengapa begitu", '"Mengapa begitu"'),
    ],
)
def test_the_request_follows_the_heading(heading, asked):
    (pair,) = parsed("guides_to_react", a=f"# {heading}\n\n{PROSE}\n")
    assert asked in pair.input and "React" in pair.input


def test_equal_texts_get_equal_wordings_and_different_ones_use_them_all():
    pairs = [parsing._pair("x", "poem", parsing._POEM_KIND, kind=f"pantun {number}") for number in range(40)]
    assert pairs == [parsing._pair("x", "poem", parsing._POEM_KIND, kind=f"pantun {number}") for number in range(40)]
    assert {pair.template for pair in pairs} == {f"poem_{number}" for number in range(1, 5)}
