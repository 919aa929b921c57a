import ast
import hashlib
import re
from pathlib import Path

import pytest
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from chat.strings import browser_strings

CHAT = Path(__file__).parents[3] / "webapp" / "chat"
STATIC = CHAT / "static" / "chat"
VENDOR = STATIC / "vendor"
CATALOG = CHAT / "locale" / "id" / "LC_MESSAGES"
SCRIPTS = sorted(STATIC.glob("*.js"))


def test_the_vendored_files_are_those_that_were_published():
    lines = (VENDOR / "SHA256SUMS").read_text().splitlines()
    named = dict(reversed(line.split("  ")) for line in lines)
    there = {path.name for path in VENDOR.iterdir()} - {"SHA256SUMS", "README.md"}
    assert set(named) == there
    for name, digest in named.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("name", ["markdown-it", "dompurify", "highlight", "katex"])
def test_each_vendored_library_has_its_licence(name):
    assert (VENDOR / f"LICENSE.{name}").stat().st_size > 500


def test_no_script_of_ours_names_another_machine():
    for path in [*SCRIPTS, STATIC / "chat.css"]:
        assert not re.search(r"""["'(]https?://""", path.read_text()), path.name


def test_the_scripts_say_only_what_is_translated_and_all_of_it():
    text = "".join(path.read_text() for path in SCRIPTS)
    known = set(browser_strings())
    said = set(re.findall(r'(?:say|notes\.push\(\[)\(?"(\w+)"', text)) | set(re.findall(r'"(\w+)"', text)) & known
    # Names that are values in the scripts: a finish, a target, a key of the table of origins.
    said |= {name for name in known if re.search(rf"""[{{\[,( ]"?{name}"?[:,)\]]""", text)}
    assert said - known <= {"marked"}
    assert known - said == set()


def messages_of_the_code():
    """The texts that the code gives to gettext, with their contexts."""
    found = set()
    for path in [*CHAT.rglob("*.py"), CHAT.parent / "klepon" / "settings.py"]:
        if "migrations" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            values = [one.value for one in node.args if isinstance(one, ast.Constant)]
            match node.func.id:
                case "_":
                    found.add((None, values[0]))
                case "ngettext":
                    found.add((None, values[0]))
                case "pgettext_lazy":
                    found.add((values[0], values[1]))
    for path in (CHAT / "templates").rglob("*.html"):
        found |= {(None, text) for _, text in re.findall(r"""\{% translate (["'])(.*?)\1 %\}""", path.read_text())}
    return found


def test_every_sentence_is_said_in_indonesian_and_nothing_else_is():
    with (CATALOG / "django.po").open("rb") as file:
        catalog = {
            (message.context, message.id if isinstance(message.id, str) else message.id[0]): message.string
            for message in read_po(file, locale="id")
            if message.id
        }
    assert set(catalog) == messages_of_the_code()
    assert all(text if isinstance(text, str) else all(text) for text in catalog.values())


def test_the_translations_keep_the_places_that_are_filled():
    with (CATALOG / "django.po").open("rb") as file:
        for message in read_po(file, locale="id"):
            if isinstance(message.id, str):
                for places in (r"\{\w+\}", r"%\(\w+\)\w+"):
                    assert set(re.findall(places, message.id)) == set(re.findall(places, message.string)), message.id


def test_the_compiled_translations_are_those_of_the_source():
    def sentences(catalog):
        found = {}
        for one in catalog:
            context = one.context.decode() if isinstance(one.context, bytes) else one.context
            said = [one.string] if isinstance(one.string, str) else list(one.string)
            found[context, one.id if isinstance(one.id, str) else tuple(one.id)] = [text for text in said if text]
        return found

    with (CATALOG / "django.po").open("rb") as source, (CATALOG / "django.mo").open("rb") as compiled:
        wanted, have = sentences(read_po(source, locale="id")), sentences(read_mo(compiled))
    wanted.pop((None, "")), have.pop((None, ""))
    assert have == wanted, "run: msgfmt -o django.mo django.po"


def colours(theme):
    """The colours of a theme, by the names of the stylesheet."""
    text = (STATIC / "chat.css").read_text()
    start = ":root {" if theme == "light" else ':root[data-theme="dark"] {'
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text.split(start, 1)[1].split("}", 1)[0]))


def contrast(one, other):
    def light(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_can_be_read(theme):
    value = colours(theme)
    pairs = [(text, ground) for text in ("text", "quiet") for ground in ("page", "side", "raised")]
    pairs += [("leaf", "page"), ("leaf", "raised"), ("on-leaf", "leaf"), ("on-leaf", "leaf-strong"), ("bad", "page")]
    pairs += [("text", "bubble"), ("text", "note"), ("text", "mark"), ("quiet", "code"), ("sugar", "raised")]
    pairs += [(f"hl-{name}", "code") for name in ("comment", "keyword", "string", "number", "name")]
    low = {pair: round(contrast(value[pair[0]], value[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}


def test_the_dark_theme_of_the_device_is_the_dark_theme():
    text = (STATIC / "chat.css").read_text()
    chosen = text.split(':root[data-theme="dark"] {', 1)[1].split("}", 1)[0].split()
    device = text.split(':root[data-theme="auto"] {', 1)[1].split("}", 1)[0].split()
    assert chosen == device
