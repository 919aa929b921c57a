"""The figures of the stages and the scores. Tidy tables in, a matplotlib figure out; nothing is computed here that is
not drawn. `lib.report.drawing` has their visual language; what is not a model takes seaborn's colour-blind palette.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from lib.evaluation.metrics import METRIC_NAMES
from lib.report import drawing
from lib.report.drawing import ADAPTER_COLOUR, SMALL, WIDE

#: A picture's pixels an inch.
_DOTS = 160
#: Those of points within an SVG, which has no more to say at twice as many.
_DOTS_INSIDE = 100
#: From so many on, points are a picture within the SVG: thousands of shapes are larger than that.
_MANY_POINTS = 400
#: The numbers of more clusters would cover each other.
_MOST_NUMBERED = 20


def save(figure: Figure | None, folder: Path, name: str) -> Figure | None:
    """Write the figure as PNG and SVG, and as an SVG for a phone in the folder `narrow`, and return it to be shown.

    Of None, remove what an earlier run left under that name.
    """
    if figure is None:
        for path in (folder / f"{name}.png", folder / f"{name}.svg", folder / "narrow" / f"{name}.svg"):
            path.unlink(missing_ok=True)
        return None
    (folder / "narrow").mkdir(parents=True, exist_ok=True)
    # Texts stay texts; without a date the same figure is the same file.
    with plt.rc_context({"svg.fonttype": "none"}):
        options: dict[str, Any] = {"metadata": {"Date": None}, "dpi": _DOTS_INSIDE}
        figure.savefig(folder / f"{name}.svg", bbox_inches="tight", **options)
        plt.close(figure)
        drawing.narrow(figure).savefig(folder / "narrow" / f"{name}.svg", **options)
    figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=_DOTS)
    return figure


def leakage(table: pd.DataFrame) -> Figure:
    """How much of a random test split is also in its training set, and what the grouped split leaves, by subset.

    Args:
        table: of `splits.leakage`, joined with that of `likeness.shares`.
    """
    columns = {
        "random split: rows leaked": ("random split: the same row", "#0072b2", ""),
        "random split: outputs leaked": ("random split: the same output", "#56b4e9", "//"),
        "grouped split: outputs alike": ("grouped split: an output alike", "#009e73", ""),
    }
    figure, axes = drawing.axes(1, 1, 7.2, 0.9 + 0.5 * len(table))
    axis = axes[0, 0]
    places = np.arange(len(table))
    drawn = []
    for n, (column, (name, colour, hatch)) in enumerate(columns.items()):
        bars = axis.barh(
            places + (n - 1) * 0.28, table[column], 0.28, color=colour, hatch=hatch, edgecolor="white", label=name
        )
        axis.bar_label(bars, labels=[f"{share:.0%}" for share in table[column]], fontsize=SMALL, padding=2)
        drawn.append(bars)
    axis.set(xlabel="also in training", xlim=(0, 1.1), ylim=(len(table) - 0.4, -0.6))
    axis.set_yticks(places, [str(name).replace("_", " ") for name in table.index])
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", visible=True)
    drawing.legend(figure, drawn, 3, "upper center")
    return figure


def clusters(points: pd.DataFrame) -> Figure:
    """t-SNE of the drawn rows, once by cluster and once by subset (paper, figure 3).

    Args:
        points: columns x, y, cluster, subset and rows; the more rows share an output, the larger its point.
    """
    figure, axes = drawing.axes(1, 2, WIDE, 4.6)
    for axis, by in zip(axes.flat, ("cluster", "subset"), strict=True):
        kinds = sorted(points[by].unique())
        palette = _colours(len(kinds))
        markers = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
        for n, kind in enumerate(kinds):
            part = points[points[by] == kind]
            axis.scatter(
                part["x"],
                part["y"],
                s=12 * part["rows"] ** 0.5,
                color=palette[n],
                marker=markers[n % 10],
                alpha=0.75,
                linewidths=0,
                label=str(kind),
                rasterized=len(points) > _MANY_POINTS,
            )
            if by == "cluster" and len(kinds) <= _MOST_NUMBERED:
                label = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
                middle = part["x"].median(), part["y"].median()
                axis.text(*middle, str(kind), weight="bold", ha="center", va="center", bbox=label)
        axis.set(title=f"by {by}", xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
        axis.grid(visible=False)
        if by == "subset":
            handles = [
                Line2D([], [], marker=markers[n % 10], color=palette[n], linestyle="none", label=str(kind))
                for n, kind in enumerate(kinds)
            ]
            drawing.legend(figure, handles, 4)
    return figure


def _colours(count: int) -> list[Any]:
    """As many colours, all different."""
    return list(sns.color_palette("colorblind" if count <= 10 else "husl", count))


def cluster_sizes(drawn: pd.DataFrame, per_cluster: int) -> Figure:
    """How many rows each cluster has, by subset, and how many of them were chosen."""
    figure, axes = drawing.axes(1, 1, 7.2, 3.2)
    axis = axes[0, 0]
    counts = drawn.groupby(["cluster", "subset"]).size().unstack(fill_value=0)
    # Numbers, since copies are made by pickle, which will not take what matplotlib counts names with.
    places, bottom = np.arange(len(counts)), np.zeros(len(counts))
    for colour, subset in zip(_colours(counts.shape[1]), counts.columns, strict=True):
        axis.bar(places, counts[subset], bottom=bottom, color=colour, label=subset, edgecolor="white")
        bottom += counts[subset].to_numpy()
    chosen = drawn[drawn["chosen"]].groupby("cluster").size().reindex(counts.index, fill_value=0)
    axis.plot(places, chosen, "D", color="black", markersize=5, label="chosen")
    axis.set_xticks(places, counts.index.astype(str))
    axis.axhline(per_cluster, color="black", linewidth=1, linestyle="--", label=f"equal share: {per_cluster:,}")
    axis.set(xlabel="cluster", ylabel="rows")
    drawing.legend(figure, axis.get_legend_handles_labels()[0], 1, "right center")
    return figure


def lengths(examples: pd.DataFrame, limit: int) -> Figure:
    """Tokens of each training example, by subset.

    Args:
        examples: columns subset and tokens.
    """
    figure, axes = drawing.axes(1, 1, 7.2, 3.0)
    axis = axes[0, 0]
    subsets = sorted(examples["subset"].unique(), reverse=True)
    axis.boxplot(
        [examples.loc[examples["subset"] == subset, "tokens"] for subset in subsets],
        tick_labels=subsets,
        orientation="horizontal",
        widths=0.7,
        patch_artist=True,
        boxprops={"facecolor": "#56b4e9"},
        medianprops={"color": "black"},
        flierprops={"markersize": 2},
    )
    axis.set(xlabel=f"tokens an example (limit {limit:,})", ylabel="")
    return figure


def training(log: pd.DataFrame) -> Figure:
    """Losses, and the learning rates of A and B, over the steps of one training (table of `trainer.train`)."""
    figure, axes = drawing.axes(1, 2, WIDE, 3.4)
    losses, rates = axes.flat
    trained, validated = log.dropna(subset="train_loss"), log.dropna(subset="validation_loss")
    losses.plot(trained["step"], trained["train_loss"], color=ADAPTER_COLOUR, linewidth=1.2, label="training")
    losses.plot(
        validated["step"], validated["validation_loss"], "s-", color="#0072b2", markersize=5, label="validation"
    )
    for _, row in validated.iloc[[0, -1]].iterrows():
        losses.annotate(
            f"{row['validation_loss']:.2f}",
            (row["step"], row["validation_loss"]),
            textcoords="offset points",
            xytext=(5, 6),
        )
    losses.set(xlabel="step", ylabel="loss on completions (nats a token)", ylim=(0, None))
    losses.legend(frameon=False)
    rates.plot(trained["step"], trained["learning_rate_B"], color="#009e73", label="matrices B")
    rates.plot(trained["step"], trained["learning_rate_A"], "--", color="#cc79a7", label="matrices A")
    rates.set(xlabel="step", ylabel="learning rate", yscale="log")
    # Powers of ten have exponents that are too small to read on a phone.
    rates.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    rates.yaxis.set_minor_formatter(NullFormatter())
    rates.legend(frameon=False)
    return figure


def preference(log: pd.DataFrame) -> Figure:
    """Loss, reward margins and accuracy over the steps of a training on votes (table of `lib.preference.dpo.train`)."""
    figure, axes = drawing.axes(1, 3, WIDE, 3.2)
    names = {
        "loss": "loss (nats a vote)",
        "margin": "margin of the rewards",
        "accuracy": "share of votes that gained",
    }
    for axis, (name, label) in zip(axes.flat, names.items(), strict=True):
        for part, style in (
            ("train", {"color": ADAPTER_COLOUR, "linewidth": 1.2, "label": "trained on"}),
            ("held_out", {"color": "#0072b2", "marker": "s", "markersize": 5, "label": "held out"}),
        ):
            known = log.dropna(subset=f"{part}_{name}")
            axis.plot(known["step"], known[f"{part}_{name}"], **style)
        axis.set(xlabel="step", ylabel=label)
    # Chance, and where both begin: a model that is its own reference.
    axes[0, 1].axhline(0, color="black", linewidth=0.8, linestyle="--")
    axes[0, 2].axhline(0.5, color="black", linewidth=0.8, linestyle="--")
    axes[0, 2].set(ylim=(-0.05, 1.05))
    axes[0, 0].legend(frameon=False)
    return figure


def box_plot(
    results: pd.DataFrame,
    metric: str = "bleu",
    printed: pd.DataFrame | None = None,
    picked: str = "5",
    bounds: pd.DataFrame | None = None,
) -> Figure:
    """One metric of every model: a box over its decoding runs, and each run as a point (paper, figure 5).

    Args:
        results: tidy, as in results.csv, of one protocol.
        printed: what the paper printed (table of `published.table3`), for an axis of its own below.
        picked: the iteration that is emphasised.
        bounds: floors and ceiling of the same protocol (`floors.measure`), drawn as thin lines.
    """
    figure, axes = drawing.axes(1 if printed is None else 2, 1, 7.2, 3.2 if printed is None else 5.2)
    _boxes(axes[0, 0], results, metric, picked)
    axes[0, 0].set(ylabel=METRIC_NAMES[metric], ylim=(0, None))
    if printed is not None:
        _printed(axes[1, 0], drawing.order(results), printed[printed["metric"] == metric], picked)
        axes[0, 0].set(title="this run", xlabel="")
        axes[1, 0].set(title="as printed in the paper (mean ± sd), another protocol", ylabel=METRIC_NAMES[metric])
    drawing.bound(axes[0, 0], bounds, metric)
    drawing.seed_legend(figure, drawing.seeds_of(results))
    drawing.settle(figure)
    return figure


def rouge(results: pd.DataFrame, picked: str = "5", bounds: pd.DataFrame | None = None) -> Figure:
    """ROUGE-1, -2 and -L: bars of the means, and boxes over the decoding runs (paper, figure 6).

    Args:
        bounds: as of `box_plot`.
    """
    metrics = ["rouge1", "rouge2", "rougeL"]
    figure, axes = drawing.axes(3, 2, WIDE, 7.2)
    for row, metric in enumerate(metrics):
        _bars(axes[row, 0], results, metric, picked)
        _boxes(axes[row, 1], results, metric, picked)
        axes[row, 0].set(ylabel=METRIC_NAMES[metric])
        for axis in axes[row] if row < 2 else []:
            axis.set(xlabel="")
    axes[0, 0].set(title="means")
    axes[0, 1].set(title="decoding runs")
    for row, metric in enumerate(metrics):
        for axis in axes[row]:
            drawing.bound(axis, bounds, metric)
    drawing.seed_legend(figure, drawing.seeds_of(results))
    drawing.settle(figure)
    return figure


def weighted_f1(results: pd.DataFrame, picked: str = "5", bounds: pd.DataFrame | None = None) -> Figure:
    """Weighted F1: bars of the means, and every decoding run as a point (paper, figure 7).

    Args:
        bounds: as of `box_plot`.
    """
    figure, axes = drawing.axes(1, 2, WIDE, 3.3)
    _bars(axes[0, 0], results, "weighted_f1", picked)
    _boxes(axes[0, 1], results, "weighted_f1", picked)
    axes[0, 0].set(ylabel=METRIC_NAMES["weighted_f1"], title="means")
    axes[0, 1].set(title="decoding runs")
    for axis in axes[0]:
        drawing.bound(axis, bounds, "weighted_f1")
    drawing.seed_legend(figure, drawing.seeds_of(results))
    drawing.settle(figure)
    return figure


def loss_per_byte(results: pd.DataFrame, english: pd.DataFrame | None = None, picked: str = "5") -> Figure:
    """Bits a byte of the test answers, before and after each training: the less, the better.

    Args:
        results: tidy, as in results.csv, of one protocol; a value a model.
        english: the same of protocol `english`, where the metric is `loss_per_byte_en`; none, or empty, where English
            was not measured.
        picked: the iteration that is emphasised.
    """
    panels = {"Indonesian": results[results["metric"] == "loss_per_byte"]}
    if english is not None and (english["metric"] == "loss_per_byte_en").any():
        panels["English"] = english[english["metric"] == "loss_per_byte_en"]
    names = drawing.order(panels["Indonesian"])
    figure, axes = drawing.axes(1, len(panels), WIDE if len(panels) > 1 else 6.0, 1.3 + 0.34 * len(names), sharey=True)
    for axis, (language, table) in zip(axes[0], panels.items(), strict=True):
        _before_and_after(axis, table, names)
        drawing.name_ticks(axis, "y", names, picked)
        axis.grid(axis="x", visible=True)
        axis.grid(axis="y", color="#f2f3f5")
        axis.set(title=f"{language} test answers", xlabel="bits a byte (lower is better: ←)")
    # A bit is as long in both languages, so that the changes can be compared.
    limits = [axis.get_xlim() for axis in axes[0]]
    half = max(high - low for low, high in limits) / 2
    for axis, (low, high) in zip(axes[0], limits, strict=True):
        axis.set_xlim((low + high) / 2 - half, (low + high) / 2 + half)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    drawing.seed_legend(figure, drawing.seeds_of(panels["Indonesian"]))
    return figure


def _before_and_after(axis: Axes, table: pd.DataFrame, names: list[str]) -> None:
    """A line from the base's value to that of each training, which is written at its outer end."""
    seeds = drawing.seeds_of(table)
    beside = drawing.strips(seeds, 0.6)
    before = table.loc[table["iteration"] == "base", "value"].mean()
    axis.axvline(before, color=drawing.BASE_COLOUR, linestyle="--", linewidth=1, zorder=0)
    for place, name in enumerate(names):
        part = table[table["iteration"] == name]
        for seed, value in part.groupby("seed")["value"].mean().items():
            n, aside = (0, 0.0) if drawing.is_base(name) else (seeds.index(seed), beside[seed])
            axis.plot([before, value], [place + aside] * 2, color=drawing.colour(name), linewidth=1.4, alpha=0.5)
            axis.plot(value, place + aside, markersize=6, clip_on=False, zorder=4, **drawing.marker(name, n))
        mean = part["value"].mean()
        better = mean < before
        axis.annotate(
            f"{mean:.2f}",
            (part["value"].min() if better else part["value"].max(), place),
            xytext=(-7 if better else 7, 0),
            textcoords="offset points",
            ha="right" if better else "left",
            va="center",
            fontsize=SMALL,
        )
    axis.margins(x=0.3)


def _boxes(axis: Axes, results: pd.DataFrame, metric: str, picked: str) -> None:
    names, seeds = drawing.order(results), drawing.seeds_of(results)
    beside, size = drawing.strips(seeds, 0.6), 4.2 if len(seeds) == 1 else 3.2
    for x, name in enumerate(names):
        some = results[(results["iteration"] == name) & (results["metric"] == metric)]
        edge = drawing.colour(name)
        drawn = axis.boxplot(
            some["value"],
            positions=[x],
            widths=_width(names),
            patch_artist=True,
            showfliers=False,
            manage_ticks=False,
            medianprops={"color": "black"},
            whiskerprops={"color": edge},
            capprops={"color": edge},
        )
        drawn["boxes"][0].set(facecolor=f"{drawing.colour(name)}40", edgecolor=edge)
        for seed, part in some.groupby("seed"):
            place = 0 if drawing.is_base(name) else seeds.index(seed)
            middle = x + (0 if drawing.is_base(name) else beside[seed])
            # Runs are side by side, but below each other where seeds are side by side.
            aside = np.linspace(-0.15, 0.15, len(part)) if len(seeds) == 1 and len(part) > 1 else np.zeros(len(part))
            axis.plot(
                middle + aside, part["value"], markersize=size, zorder=4, clip_on=False, **drawing.marker(name, place)
            )
    drawing.name_ticks(axis, "x", names, picked)


def _width(names: list[str]) -> float:
    """Boxes and bars of a few models need not fill the figure."""
    return min(0.66, 0.3 + 0.04 * len(names))


def _bars(axis: Axes, results: pd.DataFrame, metric: str, picked: str) -> None:
    names = drawing.order(results)
    means = [results[(results["iteration"] == name) & (results["metric"] == metric)]["value"].mean() for name in names]
    bars = axis.bar(
        range(len(names)), means, color=[drawing.colour(name) for name in names], width=_width(names), edgecolor="white"
    )
    for bar, name in zip(bars, names, strict=True):
        bar.set(hatch="" if drawing.is_base(name) else "//")
    many = len(names) > 6
    axis.bar_label(
        bars,
        fmt="%.3f" if metric == "weighted_f1" else "%.1f",
        padding=3,
        fontsize=SMALL,
        rotation=90 if many else 0,
        bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5},
    )
    # Where all score nothing, an axis all the same.
    axis.set(ylim=(0, (max(means) or 1.0) * (1.4 if many else 1.18)))
    drawing.name_ticks(axis, "x", names, picked)


def _printed(axis: Axes, names: list[str], printed: pd.DataFrame, picked: str) -> None:
    there = printed.set_index("iteration").reindex(names)
    axis.errorbar(range(len(names)), there["mean"], there["sd"].fillna(0), capsize=3, markersize=6, **drawing.PAPER)
    axis.set(ylim=(0, None))
    drawing.name_ticks(axis, "x", names, picked)
