"""Figures within the page: how large, in which colours, and how they look in a browser."""

import os
import re
import shutil
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from test_plots import FIGURES

from lib import paths
from lib.report import inline, plots

REPOSITORY = paths.ROOT
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
NAMES = ("loss_per_byte", "box_plot", "leakage", "training", "loss_curves", "clusters")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some figures of a run, one of them with so many points that they are a picture."""
    folder = tmp_path_factory.mktemp("figures")
    for name in NAMES[:-1]:
        plots.save(FIGURES[name](), folder, name)
    n, random = np.arange(1_500), np.random.default_rng(0)
    points = pd.DataFrame({"x": random.normal(size=1_500), "y": random.normal(size=1_500), "cluster": n % 3, "rows": 1})
    plots.save(plots.clusters(points.assign(subset=n % 2)), folder, "clusters")
    return folder


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_a_figure_is_its_svg_where_that_is_smaller_and_its_png_elsewhere(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    drawn = inline.figure(tmp_path, "training", "Losses")
    assert "<img" not in drawn
    assert len(drawn) < (folder / "training.png").stat().st_size * 4 / 3
    (tmp_path / "training.png").write_bytes((folder / "training.png").read_bytes()[:3_000])
    assert inline.figure(tmp_path, "training", "Losses").startswith('<img src="data:image/png;base64,iVBOR')
    (tmp_path / "training.svg").unlink()
    assert inline.figure(tmp_path, "training", "Losses").startswith('<img src="data:image/png;base64,iVBOR')
    assert inline.figure(tmp_path, "absent", "Losses") is None


def test_a_figure_in_the_page_is_less_than_half_of_its_file(folder):
    drawn = inline.svg((folder / "training.svg").read_text(), "training", "Losses", "")
    assert len(drawn) < (folder / "training.svg").stat().st_size / 2


def test_no_two_drawings_of_a_page_share_an_id_and_each_finds_its_own(folder):
    page = "".join(inline.figure(folder, name, "") for name in NAMES)
    tags = Tags(page).found
    ids = Counter(attributes["id"] for _, attributes in tags if "id" in attributes)
    assert ids and set(ids.values()) == {1}
    named = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert named == set(ids)


def test_a_drawing_takes_its_neutral_colours_from_the_page(folder):
    for name in NAMES:
        for tag, attributes in Tags(inline.figure(folder, name, "")).found:
            said = " ".join(value for key, value in attributes.items() if key != "href" and value)
            assert not re.search(r"#(fff|000|262626|e4e6ea|fbf0dc)", said), (name, tag, attributes)


def test_a_drawing_brings_no_rules_for_the_page_and_no_request(folder):
    tags = [tag for name in NAMES for tag in Tags(inline.figure(folder, name, "")).found]
    known = {"svg", "g", "defs", "path", "rect", "use", "text", "tspan", "clippath", "pattern", "image"}
    assert {tag for tag, _ in tags} <= known
    for _, attributes in tags:
        assert attributes.get("href", "#").startswith(("#", "data:image/png;base64,"))


def test_what_is_hostile_in_a_drawing_is_left_out_or_stays_text(folder):
    hostile = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">'
        "<script>alert(1)</script><style>* { display: none }</style><foreignObject/>"
        '<g onclick="alert(1)"><text>&lt;script&gt;</text><image xlink:href="http://evil.example/a.png"/></g></svg>'
    )
    made = inline.svg(hostile, "figure", 'a "caption" <b>', "")
    assert made.count("script") == 1 and "&lt;script&gt;" in made
    assert not re.search("onclick|evil|foreign|<style|<b>", made)
    (attributes,) = [attributes for tag, attributes in Tags(made).found if tag == "svg"]
    assert (attributes["role"], attributes["aria-label"]) == ("img", 'a "caption" <b>')


def test_a_drawing_keeps_its_texts_and_marks(folder):
    wide = str(inline.svg((folder / "box_plot.svg").read_text(), "f", "", ""))
    assert "row of the paper's Table 2" in wide.replace("&#x27;", "'")
    before = (folder / "box_plot.svg").read_text()
    assert wide.count("<use") == before.count("<use")


# --- In a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    """The figures with the report's own style, and a table that is wider than a phone."""
    style = re.search(r"<style>.*?</style>", (REPOSITORY / "lib/report/templates/report.html.j2").read_text(), re.S)[0]
    shown = "".join(f"<figure>{inline.figure(folder, name, name)}</figure>" for name in NAMES)
    picture = f'<figure id="png"><img src="{(folder / "leakage.png").as_uri()}" alt=""></figure>'
    table = "<table><tr>" + "<td>a_wide_cell_of_a_table</td>" * 12 + "</tr></table>"
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(
        f'<!doctype html><html><head><meta charset="utf-8">{style}</head><body><main>{shown}{picture}'
        f'<div class="scroll wide" tabindex="0" role="region" aria-label="t">{table}</div></main></body></html>'
    )
    return path


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(chromium, page, width, theme="light"):
    tab = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
    tab.goto(page.as_uri())
    return tab


TEXTS = """() => [...document.querySelectorAll('figure svg')].filter(svg => svg.checkVisibility()).map(svg => {
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll('text, tspan')].filter(text => text.textContent.trim());
    return {
        name: svg.getAttribute('aria-label'),
        least: Math.min(...texts.map(text => parseFloat(getComputedStyle(text).fontSize) * scale)),
        left: Math.min(...texts.map(text => text.getBoundingClientRect().left)),
        right: Math.max(...texts.map(text => text.getBoundingClientRect().right)),
    };
})"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 700, 900, 1200])
def test_the_text_of_figures_is_at_least_11_pixels_and_within_the_screen(chromium, page, width):
    tab = opened(chromium, page, width)
    found = tab.evaluate(TEXTS)
    assert [figure["name"] for figure in found] == list(NAMES)
    for figure in found:
        assert figure["least"] >= 11, figure
        assert figure["left"] >= 0 and figure["right"] <= width, figure
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_no_figure_is_white_in_the_dark_and_each_is_light_in_the_light(chromium, page, width):
    from PIL import Image

    for theme, bright in (("dark", False), ("light", True)):
        tab = opened(chromium, page, width, theme)
        for n, figure in enumerate(tab.query_selector_all("figure")):
            path = page.with_name(f"{theme}_{width}_{n}.png")
            figure.screenshot(path=path)
            grey = np.asarray(Image.open(path).convert("L"))
            assert (np.median(grey) > 200) == bright, (theme, n)
            # Texts are the other way round.
            assert (grey < 110).any() if bright else (grey > 180).any()
            if not bright:
                assert (grey > 245).mean() < 0.02, n
        tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_a_wide_table_shows_that_it_goes_on_and_scrolls_by_key(chromium, page, theme):
    from PIL import Image

    tab = opened(chromium, page, 360, theme)
    table = tab.locator(".scroll")
    path = page.with_name(f"table_{theme}.png")
    table.screenshot(path=path)
    row = np.asarray(Image.open(path).convert("L"), dtype=int)[3]
    # The shade is plain at the right edge, and there is none at the left.
    middle = row[len(row) // 2]
    assert abs(row[-6:] - middle).max() > 20
    assert abs(row[1:6] - middle).max() < 8
    table.focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("document.querySelector('.scroll').scrollLeft > 0")
    tab.close()


def test_every_table_of_the_report_scrolls_by_key_and_says_what_it_is():
    text = (REPOSITORY / "lib/report/templates/report.html.j2").read_text()
    wrappers = re.findall(r"<div ([^>]*?)>(?:<table>|\{\{ tables)", text)
    assert len(wrappers) >= 10
    assert all(re.fullmatch(r"\{\{ scrolls\('.+'(, wide=true)?\) \}\}", wrapper) for wrapper in wrappers)
    said = re.search(r"macro scrolls.*?%\}(.*?)\{%-", text)[1]
    assert 'tabindex="0" role="region" aria-label=' in said
