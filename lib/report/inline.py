"""A run's figures as parts of its page: an SVG is made smaller, takes the page's colours, and shares no id."""

import base64
import re
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup

#: The neutral colours of `drawing` and seaborn become the page's own, so that a dark page has dark figures.
_COLOURS = {
    "#ffffff": "page",
    "#fbf0dc": "warn",
    "#f2f3f5": "line",
    "#e4e6ea": "line",
    "#cccccc": "line",
    "#9aa0a8": "quiet",
    "#6b7178": "quiet",
    "#262626": "text",
    "#000000": "text",
    "#0072b2": "blue",
}
#: What matplotlib draws with; anything else (metadata, styles for the whole page) is left out.
_TAGS = {"svg", "g", "defs", "path", "rect", "use", "text", "tspan", "clipPath", "pattern", "image"}
_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
# Numbers in these may be rounded to a tenth of a point; not in the others, which scale what is within.
_PLACES = {"d", "x", "y", "points"}


def figure(folder: Path, name: str, caption: str) -> Markup | None:
    """A figure as a part of the page, or None where the run has none of that name.

    Its SVG is in the page where that is the smaller, once for a wide screen and once for a phone.
    """
    path = folder / f"{name}.png"
    if not path.is_file():
        return None
    picture = Markup('<img src="data:image/png;base64,{}" alt="{}">').format(
        base64.b64encode(path.read_bytes()).decode(), caption
    )
    if not (drawn := path.with_suffix(".svg")).is_file():
        return picture
    phone = folder / "narrow" / drawn.name
    wide = svg(drawn.read_text(encoding="utf-8"), name, caption, "on-wide" if phone.is_file() else "")
    if len(wide) >= len(picture):
        return picture
    if not phone.is_file():
        return wide
    return wide + svg(phone.read_text(encoding="utf-8"), f"{name}-narrow", caption, "on-phone")


def svg(text: str, name: str, caption: str, style: str) -> Markup:
    """The SVG that matplotlib wrote, to stand in an HTML page.

    Args:
        name: begins every id within, so that no two figures of a page share one.
        caption: what is read to those who do not see the figure.
        style: the class of the picture.
    """
    root = ElementTree.fromstring(text)
    _prune(root)
    known = {element.get("id", "") for element in root.iter()}
    used = {_target(element).removeprefix("#") for element in root.iter("use")}
    used |= {
        found for element in root.iter() for value in element.attrib.values() for found in _REFERENCE.findall(value)
    }
    names = {old: f"{name}-{n}" for n, old in enumerate(sorted(used & known))}
    for element in root.iter():
        _shorten(element, names)
    _unwrap(root)
    _hoist(root)
    width = float(root.get("viewBox", "0 0 0 0").split()[2])
    inside = "".join(_html(child) for child in root)
    return Markup(
        f'<svg class="{style}" viewBox="{root.get("viewBox")}" role="img" aria-label="{escape(caption)}" '
        f'style="max-width:{1.6 * width:.0f}px">{inside}</svg>'
    )


def _prune(element: ElementTree.Element) -> None:
    element.tag = element.tag.rpartition("}")[2]
    for child in list(element):
        if isinstance(child.tag, str) and child.tag.rpartition("}")[2] in _TAGS:
            _prune(child)
        else:
            element.remove(child)


def _target(element: ElementTree.Element) -> str:
    return element.get(_HREF, "") or element.get("href", "")


def _shorten(element: ElementTree.Element, names: dict[str, str]) -> None:
    """Give an element only the attributes that it needs, with numbers of few digits."""
    given = dict(element.attrib)
    element.attrib.clear()
    target = given.pop(_HREF, "") or given.pop("href", "")
    if element.tag == "use" and target.startswith("#") and target[1:] in names:
        element.set("href", f"#{names[target[1:]]}")
    elif element.tag == "image" and target.startswith("data:image/png;base64,"):
        element.set("href", "".join(target.split()))
    for key, value in given.items():
        if key == "id":
            value = names.get(value, "")
        elif key == "style":
            _style(element, _REFERENCE.sub(lambda found: f"url(#{names.get(found[1], '')})", value))
            value = ""
        elif key == "d":
            value = _path(value)
        elif key in _PLACES:
            value = _round(value, 1)
        elif key == "transform":
            value = re.sub(r"rotate\(-?0 [^)]*\)", "", value).strip()
            value = _round(value, 2 if "scale" not in value else 4)
        elif element.tag == "image" or key == "viewBox":
            value = _round(value, 2)
        if value and not key.startswith("on") and ":" not in key and "}" not in key:
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{names.get(found[1], '')})", value))


def _style(element: ElementTree.Element, style: str) -> None:
    """A style's declarations as attributes where those are as good, in the colours of the page."""
    kept = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            # The page says which font.
            size = re.search(r"([\d.]+)px", value)
            weight = re.search(r"\b(bold|[1-9]00)\b", value.split("px")[0])
            slant = re.search(r"\b(italic|oblique)\b", value.split("px")[0])
            if size:
                element.set("font-size", size[1])
            if weight:
                element.set("font-weight", weight[1])
            if slant:
                element.set("font-style", "italic")
        elif key == "font-size":
            element.set(key, value.removesuffix("px"))
        elif (
            (key, value) in (("text-anchor", "start"), ("stroke-dashoffset", "0")) or key == "font-family" or not value
        ):
            continue
        elif value in _COLOURS:
            if (_COLOURS[value], key, element.tag) in (("text", "fill", "text"), ("text", "fill", "tspan")):
                continue  # The page's, which every text has from the whole.
            kept.append(f"{key}:var(--{_COLOURS[value]})")
        elif key in ("fill", "stroke", "font-weight", "font-style", "text-anchor", "opacity") or key.startswith(
            ("stroke-", "fill-")
        ):
            element.set(key, _round(value, 2))
    if kept:
        element.set("style", ";".join(kept))


def _round(text: str, digits: int) -> str:
    def short(found: re.Match[str]) -> str:
        return f"{round(float(found[0]), digits) + 0:.{digits}f}".rstrip("0").rstrip(".")

    return _NUMBER.sub(short, text)


def _path(text: str) -> str:
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", _round(" ".join(text.split()), 2 if len(text) < 400 else 1))


def _unwrap(element: ElementTree.Element) -> None:
    """Take out groups that say nothing."""
    children: list[ElementTree.Element] = []
    for child in list(element):
        _unwrap(child)
        if child.tag == "g" and not child.attrib:
            children.extend(child)
        elif child.tag not in ("g", "defs") or len(child):
            children.append(child)
    element[:] = children


def _hoist(element: ElementTree.Element) -> None:
    """Say once, for a group, what each of its marks says: a figure has thousands of points."""
    for child in element:
        _hoist(child)
    marks = [child for child in element if child.tag == "use"]
    if element.tag != "g" or len(marks) < 2 or len(marks) < len(element) - 1:
        return
    for key in ("style", "fill", "stroke", "stroke-width", "fill-opacity", "stroke-opacity", "clip-path"):
        values = {child.get(key) for child in marks}
        if len(values) == 1 and (value := values.pop()) and element.get(key) is None:
            element.set(key, value)
            for child in marks:
                del child.attrib[key]


def _html(element: ElementTree.Element) -> str:
    attributes = "".join(f' {key}="{escape(value)}"' for key, value in element.attrib.items())
    inside = "".join(_html(child) + escape(child.tail.strip() if child.tail else "") for child in element)
    text = escape(element.text) if element.text and element.tag in ("text", "tspan") else ""
    return (
        f"<{element.tag}{attributes}>{text}{inside}</{element.tag}>"
        if text or inside
        else (f"<{element.tag}{attributes}/>")
    )
