"""The two READMEs say the same: section by section the commands, names, links, tables and figures are compared."""

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, INDONESIAN = "README.md", "README.id.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
HOW = f"{ENGLISH} and {INDONESIAN} go together: change both, in sections of the same order"


def sections(text: str) -> list[str]:
    """What stands before the first heading of the second level, then each of those with its heading."""
    return re.split(r"^(?=## )", text, flags=re.MULTILINE)


def anchor(section: str) -> str:
    """What a link to this section ends with (as GitHub makes it)."""
    heading = section.splitlines()[0].removeprefix("## ").lower()
    return "#" + re.sub(r"[^\w -]", "", heading).replace(" ", "-")


def commands(section: str) -> list[list[str]]:
    """The lines of each block of code: without remarks, and of a block that is no code, what begins each line."""
    return [
        [
            line.partition("#")[0].rstrip() if language else line.split("  ")[0]
            for line in block.splitlines()
            if language or not line.startswith(" ")
        ]
        for language, block in FENCED.findall(section)
    ]


def names(section: str) -> Counter:
    """What stands between backticks in the text."""
    return Counter(CODE.findall(FENCED.sub("", section)))


def links(section: str) -> Counter:
    """Where the links of the text lead."""
    return Counter(LINK.findall(FENCED.sub("", section)))


def tables(section: str) -> list[list[int]]:
    """How many columns each row of each table has."""
    found = re.findall(r"(?:^\|.*\n)+", FENCED.sub("", section), re.MULTILINE)
    return [[len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()] for table in found]


def figures(section: str, thousands: str) -> Counter:
    """The numbers of the text; `thousands` is what parts them by threes, and the other mark begins the fraction."""
    text = CODE.sub("", LINK.sub("]", FENCED.sub("", section)))
    text = re.sub(rf"(?<=\d)\{thousands}(?=\d{{3}}(?!\d))", "", text)
    return Counter(re.findall(r"\d+(?:\.\d+)*", re.sub(r"(?<=\d),(?=\d)", ".", text)))


@pytest.fixture(scope="module")
def both():
    """The sections of the two, beside each other."""
    english, indonesian = (sections((ROOT / name).read_text(encoding="utf-8")) for name in (ENGLISH, INDONESIAN))
    assert len(english) == len(indonesian), f"{HOW}; there are {len(english)} and {len(indonesian)}"
    return list(zip(english, indonesian, strict=True))


@pytest.mark.parametrize("compared", [commands, names, tables])
def test_sections_have_the_same_commands_names_and_tables(both, compared):
    for english, indonesian in both:
        assert compared(english) == compared(indonesian), f"{HOW}: {english.splitlines()[0]}"


def test_sections_have_the_same_figures(both):
    for english, indonesian in both:
        assert figures(english, ",") == figures(indonesian, "."), f"{HOW}: {english.splitlines()[0]}"


def test_sections_have_the_same_links(both):
    translated = {anchor(english): anchor(indonesian) for english, indonesian in both} | {INDONESIAN: ENGLISH}
    for english, indonesian in both:
        expected = Counter({translated.get(link, link): n for link, n in links(english).items()})
        assert expected == links(indonesian), f"{HOW}: {english.splitlines()[0]}"


def test_a_number_reads_alike_in_both_languages():
    english, indonesian = "28,793 rows, 3.4 million; 3.11, 10.62411, 1B", "28.793 baris, 3,4 juta; 3.11, 10.62411, 1B"
    assert figures(english, ",") == figures(indonesian, ".") == Counter(["28793", "3.4", "3.11", "10.62411", "1"])
    assert figures("1,234", ",") != figures("1,234", ".")


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        ("make advice PROFILE=laptop", "make advice PROFILE=demo", commands),
        ("`PIP_EXTRA_INDEX_URL`", "`PIP_INDEX_URL`", names),
        ("| `SEEDS` | `0` |", "| `SEEDS` | `0` | x |", tables),
        ("(lib/config.py)", "(lib/model/loading.py)", links),
        ("28,793", "28,739", lambda section: figures(section, ",")),
    ],
)
def test_a_change_in_one_of_them_is_seen(old, new, check):
    text = (ROOT / ENGLISH).read_text(encoding="utf-8")
    assert old in text
    assert check(text) != check(text.replace(old, new))


@pytest.mark.parametrize("name", [ENGLISH, INDONESIAN])
def test_what_a_readme_links_to_is_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    anchors = {anchor(section) for section in sections(text)}
    for link in links(text):
        if link.startswith("#"):
            assert link in anchors
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), link


def test_every_place_that_names_this_repository_names_the_same():
    address = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"]
    owner_and_name = address.removeprefix("https://github.com/")
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    cells = [cell.source for path in notebooks for cell in nbformat.read(path, as_version=4).cells]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in (ENGLISH, INDONESIAN)]
    named = re.findall(r"github(?:\.com)?/([\w.-]+/[\w.-]+?)(?=[/\"'\s)]|$)", "\n".join(texts + cells))
    assert len(named) == 2 * 2 + len(notebooks)
    assert set(named) == {owner_and_name}
