"""The visual language that all figures share.

The base model is grey and round, an adapter is orange and square, and the picked one is on a pale band and has a
bold name. The seeds of a training differ in how its square is filled. What the paper printed is a hollow black diamond;
what others published is blue. What answers without a model score, and the reference, are thin grey lines with names at
the edge. Everything differs in shape or filling too, never in colour alone.

A figure is drawn twice, for a screen as wide as a page and for a phone (`narrow`); in both no text is below `SMALL`.
"""

import itertools
import pickle
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from sklearn.isotonic import IsotonicRegression

BASE_COLOUR, ADAPTER_COLOUR, OTHER_COLOUR = "#7a7f87", "#d55e00", "#0072b2"
#: What the paper printed.
PAPER: dict[str, Any] = {"marker": "D", "color": "black", "markerfacecolor": "white", "linestyle": "none"}
#: The least size of text, in points: 11 pixels of a browser where `WIDE` inches fill a page, or `NARROW` ones a phone.
SMALL = 9
WIDE, NARROW = 8.4, 3.6
_BAND, _QUIET = "#fbf0dc", "#6b7178"
_FILLS = ("full", "none", "left", "top", "right", "bottom")
_DASHES: dict[str, Any] = {
    "nearest": (0, (8, 2)),
    "random": (0, (4, 2)),
    "shuffled": (0, (2, 2)),
    "echo": (0, (1, 2)),
}
#: A ceiling that is further off than this, as a multiple of all else, is told and not drawn.
_FAR = 1.3
#: The height of a line of `SMALL` text, in points.
_LINE = 11.5
#: Marks the texts that name floors and ceiling.
_BOUND = "bound"


def axes(rows: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `width` by `height` inches, and its axes as an array of shape (rows, columns)."""
    with (
        sns.axes_style("whitegrid", {"grid.color": "#e4e6ea", "axes.edgecolor": "#9aa0a8"}),
        sns.plotting_context("paper", 1.15),
    ):
        plt.rcParams["svg.hashsalt"] = "klepon"
        figure, made = plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **shared
        )
    for axis in made.flat:
        sns.despine(ax=axis, left=True)
        axis.grid(axis="x", visible=False)
    if columns > 1:
        figure.get_layout_engine().set(wspace=0.06)
    return figure, made


def order(table: pd.DataFrame) -> list[str]:
    """The models of a table with a column `iteration`: base, and the base asked in other words, then rows by number,
    then studies by name and number.

    Floors and ceiling are not models.

    Raises:
        ValueError: where the table holds several protocols, whose scores share no axis.
    """
    _of_one_protocol(table)
    found = set(table["iteration"].astype(str)) - set(_bounds())
    rest = sorted(found - {"base"}, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return [*(["base"] if "base" in found else []), *sorted(rest, key=lambda name: not is_base(name))]


def _of_one_protocol(table: pd.DataFrame) -> None:
    protocols = sorted(set(table["protocol"])) if "protocol" in table else []
    if len(protocols) > 1:
        raise ValueError(f"scores of the protocols {', '.join(protocols)} share no axis: choose one before drawing")


def _bounds() -> list[str]:
    """The names of ceiling and floors."""
    from lib.evaluation import floors  # seconds to import, and the figures of the first stages need none of it

    return [floors.CEILING, *floors.FLOORS]


def label(name: str) -> str:
    """How a figure names a model: `base`, `row 5`, or the words of a study in short lines."""
    return textwrap.fill(re.sub(r"(?<=[a-z])(?=\d)", " ", words(name)), 12, break_long_words=False)


def words(name: str) -> str:
    """How texts name a model: `base`, `row 5`, or the words of a study."""
    if name.isdigit():
        return f"row {name}"
    if name == "preference":
        return "after votes"
    return re.sub(r"\blora(plus)?(?![a-z])", lambda found: "LoRA+" if found[1] else "LoRA", name.replace("_", " "))


def is_base(name: str) -> bool:
    """Whether this is the base model, as it is or asked in other words."""
    return name.partition("_")[0] == "base"


def colour(name: str) -> str:
    """The colour of the base model, or of an adapter."""
    return BASE_COLOUR if is_base(name) else ADAPTER_COLOUR


def marker(name: str, seed: int = 0) -> dict[str, Any]:
    """Marker, colour and filling of a model's points; `seed` is the place of its seed among the seeds shown."""
    return {
        "marker": "o" if is_base(name) else "s",
        "color": colour(name),
        "fillstyle": _FILLS[seed % len(_FILLS)] if not is_base(name) else "full",
        "markerfacecoloralt": "white",
        "linestyle": "none",
    }


def name_ticks(axis: Axes, which: str, names: Sequence[str], picked: str) -> None:
    """Name the models on the `x` or `y` axis, at 0, 1, ..., and set off the picked one; the first is uppermost on y.

    Many rows on x are named by their numbers alone, and the axis says what they are.
    """
    # A single adapter was not picked from several.
    chosen = names.index(picked) if picked in names and len(names) > 2 else -1
    texts = [label(name) for name in names]
    place = axis.get_subplotspec()
    if which == "x" and len(names) > 5 and all(name.isdigit() or name == "base" for name in names):
        texts = list(names)
        axis.set_xlabel("row of the paper's Table 2")
    elif which == "x" and len(names) * (place.get_gridspec().ncols if place else 1) > 5:
        # Side by side, long names would cover each other; the lowest of the axes above each other has them.
        texts = [label(name) if name.isdigit() else words(name.removeprefix("base_")) for name in names]
        lowest = place is None or place.is_last_row()
        axis.tick_params(axis="x", labelrotation=90, labelsize=SMALL, labelbottom=lowest)
    elif which == "y" and len(names) > 5:
        # One below the other, names of two lines would.
        texts = [text.replace("\n", " ") for text in texts]
        axis.tick_params(axis="y", labelsize=SMALL)
    if which == "x":
        axis.set(xticks=range(len(names)), xticklabels=texts, xlim=(-0.6, len(names) - 0.4))
    else:
        axis.set(yticks=range(len(names)), yticklabels=texts, ylim=(len(names) - 0.4, -0.6))
    if chosen >= 0:
        band = axis.axvspan if which == "x" else axis.axhspan
        band(chosen - 0.5, chosen + 0.5, color=_BAND, linewidth=0, zorder=0)
        drawn = axis.get_xticklabels() if which == "x" else axis.get_yticklabels()
        # An axis that shares its names with another has none of its own.
        for text in drawn[chosen : chosen + 1]:
            text.set_fontweight("bold")


def strips(seeds: Sequence[int], width: float) -> dict[int, float]:
    """Where the points of each seed are beside the middle of their model, over `width`."""
    steps = (np.arange(len(seeds)) - (len(seeds) - 1) / 2) / len(seeds)
    return {seed: float(width * step) for seed, step in zip(seeds, steps, strict=True)}


def seeds_of(table: pd.DataFrame) -> list[int]:
    """The training seeds of a table, in order; the base has none."""
    names = table["iteration"].astype(str)
    trained = table[~names.isin(_bounds()) & ~names.map(is_base).astype(bool)]
    return sorted(set(trained["seed"])) or [0]


def seed_legend(figure: Figure, seeds: Sequence[int]) -> None:
    """Say which filling is which seed, where there are several."""
    if len(seeds) > 1:
        handles = [Line2D([], [], label=f"seed {seed}", **marker("adapter", place)) for place, seed in enumerate(seeds)]
        legend(figure, handles, len(handles), "upper right")


def legend(figure: Figure, handles: Sequence[Any], ncols: int, place: str = "lower center") -> None:
    """The names of a figure's marks, outside its axes."""
    figure.legend(handles=handles, loc=f"outside {place}", ncols=ncols, frameon=False, fontsize=SMALL)


def bound(axis: Axes, bounds: pd.DataFrame | None, metric: str, which: str = "y") -> None:
    """Draw floors and ceiling as thin named lines, at their means over the draws; `settle` then moves names apart.

    Call it when the models are drawn: the axis grows to 0, and where a floor is above them all. A ceiling far above all
    else is told at the end of the axis instead, since it would squeeze the models into a corner.

    Args:
        bounds: tidy, as in results.csv, of the protocol of the scores; without it, or the metric, nothing is drawn.
        which: the axis that has the scores.
    """
    if bounds is None or bounds.empty:
        return
    _of_one_protocol(bounds)
    found = bounds[bounds["metric"] == metric].groupby("iteration")["value"].mean()
    means = {name: float(found[name]) for name in _bounds() if name in found.index}
    if not means:
        return
    ceiling, *floors = _bounds()
    low, top = getattr(axis, f"get_{which}lim")()
    top = max(top, *(1.05 * means[name] for name in floors if name in means), 0)
    if means.get(ceiling, 0) <= _FAR * top:
        top = max(top, 1.04 * means.get(ceiling, 0))
    getattr(axis, f"set_{which}lim")(min(low, 0), top)
    inside = {name: mean for name, mean in means.items() if mean <= top}
    for name, mean in inside.items():
        line = axis.axhline if which == "y" else axis.axvline
        line(mean, color=_QUIET, linewidth=0.9, linestyle=_DASHES.get(name, "-"), zorder=1.2)
    flags = sorted(inside.items(), key=lambda item: -item[1])
    for level, (name, mean) in enumerate(flags):
        if which == "y":
            _name_bound(axis, name, (1, mean), (9, 0), axis.get_yaxis_transform(), va="center")
        else:
            # Like flags: the further left, the higher, so that no name is in the way of a line.
            _name_bound(axis, name, (mean, 1), (0, 4 + _LINE * level), axis.get_xaxis_transform(), va="bottom")
    for name in means.keys() - inside.keys():
        value = f"{means[name]:.3g}"
        if which == "y":
            _name_bound(axis, f"{name}\n{value} ↑", (1, 1), (9, 0), "axes fraction", va="center")
        else:
            # At the lowest level whose flag leaves it half of the axis.
            free = next((level for level, (_, at) in enumerate(flags) if at < 0.2 * top), len(flags))
            place = (0, 4 + _LINE * free)
            _name_bound(axis, f"{name} {value} →", (1, 1), place, "axes fraction", va="bottom", ha="right")


def _name_bound(
    axis: Axes, text: str, at: tuple[float, float], aside: tuple[float, float], on: Any, **style: Any
) -> None:
    off = text[-1] in "↑→"
    axis.annotate(
        text,
        at,
        xytext=aside,
        xycoords=on,
        textcoords="offset points",
        annotation_clip=False,
        fontsize=SMALL,
        color=_QUIET,
        label=_BOUND,
        arrowprops=None
        if off
        else {
            "arrowstyle": "-",
            "linewidth": 0.6,
            "color": _QUIET,
            "shrinkA": 0,
            "shrinkB": 0,
            "relpos": (0, 0.5 if style["va"] == "center" else 0),
        },
        **style,
    )


def settle(figure: Figure) -> None:
    """Move the names of floors and ceiling beside an axis apart, as little as they need; its size must be known."""
    beside = {
        axis: [
            text
            for text in axis.texts
            if isinstance(text, Annotation) and text.get_label() == _BOUND and text.get_verticalalignment() == "center"
        ]
        for axis in figure.axes
    }
    if any(beside.values()):
        figure.draw_without_rendering()
    for axis, names in beside.items():
        if not names:
            continue
        points = 72 / figure.dpi
        height = axis.bbox.height * points
        wanted = {name: _level(axis, name) * height for name in names}
        names.sort(key=lambda name: wanted[name])
        tall = [_LINE * len(name.get_text().split("\n")) for name in names]
        above = np.cumsum([0, *((one + two) / 2 for one, two in itertools.pairwise(tall))])
        # Each at least so far above the one before: what is left to choose only has to rise.
        fit = IsotonicRegression(y_min=0, y_max=max(0, height - above[-1]))
        placed = fit.fit_transform(range(len(names)), [wanted[name] for name in names] - above) + above
        for name, place in zip(names, placed, strict=True):
            name.set_position((9, place - wanted[name]))


def _level(axis: Axes, name: Annotation) -> float:
    """How high on its axis a name's line is, as a share."""
    if name.xycoords == "axes fraction":
        return 1
    low, high = axis.get_ylim()
    return (name.xy[1] - low) / (high - low)


def narrow(figure: Figure) -> Figure:
    """A copy for a phone: the axes one below the other, the legends below them, and long texts in short lines."""
    copy: Figure = pickle.loads(pickle.dumps(figure))
    figure.draw_without_rendering()
    heights = [_narrow_height(axis, figure) for axis in figure.axes]
    # Roomy at first, for names and legends of any height.
    copy.set_size_inches(NARROW, sum(heights) + 1.5 * len(heights) + 2)
    grid = copy.add_gridspec(len(heights), 1, height_ratios=heights)
    for place, axis in enumerate(copy.axes):
        # An axis that shared names with one on its left has them again, the picked one in bold.
        spec = figure.axes[place].get_subplotspec()
        first = spec.rowspan.start * spec.get_gridspec().ncols if spec else place
        axis.set_subplotspec(grid[place])
        axis.tick_params(labelleft=bool(len(axis.get_yticks())))
        axis.tick_params(axis="x", labelsize=SMALL)
        for text, known in zip(axis.get_yticklabels(), figure.axes[first].get_yticklabels(), strict=False):
            text.set_fontweight(known.get_fontweight())
        what = axis.get_ylabel() or figure.axes[first].get_ylabel() if len(axis.get_yticks()) else axis.get_ylabel()
        axis.title.set_text(_fill(axis.get_title(), 38))
        axis.set(xlabel=_fill(axis.get_xlabel(), 38), ylabel=_fill(what, 10 * heights[place]))
    named = [
        (handle, _fill(text.get_text(), 42))
        for old in copy.legends
        for handle, text in zip(old.legend_handles, old.get_texts(), strict=True)
    ]
    for old in list(copy.legends):
        old.remove()
    if named:
        handles, said = zip(*named, strict=True)
        columns = max(1, min(len(said), 44 // (max(map(len, said)) + 5)))
        copy.legend(handles, said, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL)
    copy.draw_without_rendering()
    for axis in copy.axes:
        texts = [text for text in axis.get_xticklabels() if text.get_text()]
        boxes = [text.get_window_extent().padded(1) for text in texts]
        if any(one.overlaps(two) for one, two in itertools.pairwise(boxes)):
            for text in texts:
                # A digit is as narrow as it is high.
                text.set_rotation(90 if len(text.get_text()) > 2 else 0)
    # What stands between and below the axes is known only now; a second look is exact.
    for _ in range(2):
        copy.draw_without_rendering()
        there = sum(axis.get_position().height for axis in copy.axes) * copy.get_figheight()
        copy.set_figheight(copy.get_figheight() + sum(heights) - there)
    settle(copy)
    return copy


def _narrow_height(axis: Axes, figure: Figure) -> float:
    """The height of an axis in inches: where the models are one below the other, that of the figure."""
    height = axis.get_position().height * figure.get_figheight()
    if axis.yaxis_inverted():
        return height
    return min(height, 2.0) if len(axis.get_xticks()) else 3.0


def _fill(text: str, width: float) -> str:
    return textwrap.fill(text, int(width), break_long_words=False) if text else ""
