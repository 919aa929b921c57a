"""The READMEs: the two of the top say the same, section by section, and all of them lead to what is there."""

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, INDONESIAN = "README.md", "README.id.md"
FOLDERS = ("lib", "notebooks", "reports", "reports/published", "tests", "webapp")
READMES = (ENGLISH, INDONESIAN, *(f"{folder}/README.md" for folder in FOLDERS))
MOST_WORDS, MOST_LINES = 900, 40
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
HOW = f"{ENGLISH} and {INDONESIAN} go together: change both, in sections of the same order"


def sections(text: str) -> list[str]:
    """What stands before the first heading of the second level, then each of those with its heading."""
    return re.split(r"^(?=## )", text, flags=re.MULTILINE)


def anchor(section: str) -> str:
    """What a link to this section ends with (as GitHub makes it)."""
    heading = section.splitlines()[0].lstrip("#").strip().lower()
    return "#" + re.sub(r"[^\w -]", "", heading).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Where in this text a link can lead."""
    return {anchor(line) for line in FENCED.sub("", text).splitlines() if re.match("#+ ", line)}


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
        ("| `reports/demo/figures/` |", "| `reports/demo/figures/` | x |", tables),
        ("(lib/README.md)", "(tests/README.md)", links),
        ("3.11", "3.12", lambda section: figures(section, ",")),
    ],
)
def test_a_change_in_one_of_them_is_seen(old, new, check):
    text = (ROOT / ENGLISH).read_text(encoding="utf-8")
    assert old in text
    assert check(text) != check(text.replace(old, new))


def test_the_first_page_is_short():
    assert len((ROOT / ENGLISH).read_text(encoding="utf-8").split()) <= MOST_WORDS


@pytest.mark.parametrize("name", [ENGLISH, INDONESIAN])
def test_no_section_of_the_first_page_is_longer_than_a_screen(name):
    for section in sections((ROOT / name).read_text(encoding="utf-8")):
        assert len(section.splitlines()) <= MOST_LINES, section.splitlines()[0]


@pytest.mark.parametrize("name", READMES)
def test_what_a_readme_links_to_is_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in links(text):
        if not link.startswith("https://"):
            file, _, place = link.partition("#")
            target = (ROOT / name).parent / file if file else ROOT / name
            assert target.exists(), link
            assert not place or f"#{place}" in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", READMES)
def test_a_file_that_a_readme_names_is_there(name):
    for path in re.findall(r"`((?:lib|notebooks|tests|webapp)/[\w./-]+)`", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", READMES)
def test_a_module_that_a_readme_names_is_there(name):
    for module in re.findall(r"\blib(?:\.\w+)+", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module


def test_every_line_of_the_tour_is_in_its_file_once():
    text = (ROOT / "lib/README.md").read_text(encoding="utf-8")
    tour = re.findall(r"^\| ([^|]+\?) \| \[`([^`]+)`\]\(([^)]+)\) \| `([^`]+)` \|$", text, re.MULTILINE)
    assert len(tour) == 6
    for question, file, link, line in tour:
        assert (ROOT / "lib" / link).resolve() == ROOT / file, question
        found = [code.strip() for code in (ROOT / file).read_text(encoding="utf-8").splitlines()]
        assert found.count(line) == 1, f"{question} {file} has it {found.count(line)} times: {line}"


def test_every_place_that_names_this_repository_names_the_same():
    address = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"]
    owner_and_name = address.removeprefix("https://github.com/")
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    cells = [cell.source for path in notebooks for cell in nbformat.read(path, as_version=4).cells]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in (ENGLISH, INDONESIAN)]
    named = re.findall(r"github(?:\.com)?/([\w.-]+/[\w.-]+?)(?=[/\"'\s)]|$)", "\n".join(texts + cells))
    assert len(named) == 2 * 2 + len(notebooks)
    assert set(named) == {owner_and_name}
