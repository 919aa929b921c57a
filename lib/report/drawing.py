"""The visual language that all figures share.

The base model is grey and round, an adapter is orange and square, and the picked one is on a pale band and has a
bold name. The seeds of a training differ in how its square is filled. What the paper printed is a hollow black diamond;
what others published is blue. Everything differs in shape or filling too, never in colour alone.
"""

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

BASE_COLOUR, ADAPTER_COLOUR, OTHER_COLOUR = "#7a7f87", "#d55e00", "#0072b2"
#: What the paper printed.
PAPER: dict[str, Any] = {"marker": "D", "color": "black", "markerfacecolor": "white", "linestyle": "none"}
_BAND = "#fbf0dc"
_FILLS = ("full", "none", "left", "top", "right", "bottom")


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
    """The models of a table with a column `iteration`: base, then rows by number, then studies by name and number.

    Raises:
        ValueError: where the table holds several protocols, whose scores share no axis.
    """
    protocols = sorted(set(table["protocol"])) if "protocol" in table else []
    if len(protocols) > 1:
        raise ValueError(f"scores of the protocols {', '.join(protocols)} share no axis: choose one before drawing")
    found = set(table["iteration"].astype(str))
    rest = sorted(found - {"base"}, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return [*(["base"] if "base" in found else []), *rest]


def label(name: str) -> str:
    """How a figure names a model: `base`, `row 5`, or the words of a study in short lines."""
    if name.isdigit():
        return f"row {name}"
    words = re.sub(r"(?<=[a-z])(?=\d)", " ", name.replace("_", " "))
    return textwrap.fill(words, 12, break_long_words=False)


def colour(name: str) -> str:
    """The colour of the base model, or of an adapter."""
    return BASE_COLOUR if name == "base" else ADAPTER_COLOUR


def marker(name: str, seed: int = 0) -> dict[str, Any]:
    """Marker, colour and filling of a model's points; `seed` is the place of its seed among the seeds shown."""
    return {
        "marker": "o" if name == "base" else "s",
        "color": colour(name),
        "fillstyle": _FILLS[seed % len(_FILLS)] if name != "base" else "full",
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
    if which == "x" and len(names) > 5 and all(name.isdigit() or name == "base" for name in names):
        texts = list(names)
        axis.set_xlabel("row of the paper's Table 2")
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
    trained = table[table["iteration"].astype(str) != "base"]
    return sorted(set(trained["seed"])) or [0]


def seed_legend(figure: Figure, seeds: Sequence[int]) -> None:
    """Say which filling is which seed, where there are several."""
    if len(seeds) > 1:
        handles = [Line2D([], [], label=f"seed {seed}", **marker("adapter", place)) for place, seed in enumerate(seeds)]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)
