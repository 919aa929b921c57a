"""The figures of the stages and the scores. Tidy tables in, a matplotlib figure out; nothing is computed here that is
not drawn. `lib.report.drawing` has their visual language; what is not a model takes seaborn's colour-blind palette.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lib.evaluation.metrics import METRIC_NAMES
from lib.report import drawing
from lib.report.drawing import ADAPTER_COLOUR


def save(figure: Figure, folder: Path, name: str) -> Figure:
    """Write the figure as PNG and SVG, and return it to be shown."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without a date the same figure is the same file.
    figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=160)
    plt.close(figure)
    return figure


def leakage(table: pd.DataFrame) -> Figure:
    """How much of a random test split is also in its training set, and what the grouped split leaves, by subset.

    Args:
        table: of `splits.leakage`, joined with that of `likeness.shares`.
    """
    figure, axes = drawing.axes(1, 1, 7.2, 3.2)
    columns = ["random split: rows leaked", "random split: outputs leaked", "grouped split: outputs alike"]
    names = ["random split: the same row", "random split: the same output", "grouped split: an output alike"]
    tidy = (
        table[columns]
        .set_axis(names, axis=1)
        .melt(ignore_index=False, var_name="share of test rows", value_name="share")
    )
    axis = axes[0, 0]
    sns.barplot(
        tidy.reset_index(),
        y="share",
        x="subset",
        hue="share of test rows",
        ax=axis,
        palette=["#0072b2", "#56b4e9", "#009e73"],
    )
    for bars, hatch in zip(axis.containers, ("", "//", ""), strict=True):
        axis.bar_label(bars, fmt=lambda share: f"{share:.0%}", fontsize=6, padding=1)
        for bar in bars:
            bar.set(hatch=hatch, edgecolor="white")
    axis.set(xlabel="", ylabel="also in training", ylim=(0, 1.12))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.tick_params(axis="x", rotation=15)
    axis.legend(title="", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
    return figure


def clusters(points: pd.DataFrame) -> Figure:
    """t-SNE of the drawn rows, once by cluster and once by subset (paper, figure 3).

    Args:
        points: columns x, y, cluster, subset and rows; the more rows share an output, the larger its point.
    """
    figure, axes = drawing.axes(1, 2, 9.6, 4.9)
    for axis, by in zip(axes.flat, ("cluster", "subset"), strict=True):
        kinds = sorted(points[by].unique())
        palette = sns.color_palette("colorblind" if len(kinds) <= 10 else "husl", len(kinds))
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
            )
            if by == "cluster":
                label = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
                middle = part["x"].median(), part["y"].median()
                axis.text(*middle, str(kind), weight="bold", ha="center", va="center", bbox=label)
        axis.set(title=f"by {by}", xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
        axis.grid(visible=False)
        if by == "subset":
            axis.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False, markerscale=1.6, fontsize=9
            )
    return figure


def cluster_sizes(drawn: pd.DataFrame, per_cluster: int) -> Figure:
    """How many rows each cluster has, by subset, and how many of them were chosen."""
    figure, axes = drawing.axes(1, 1, 7.2, 3.2)
    axis = axes[0, 0]
    counts = drawn.groupby(["cluster", "subset"]).size().unstack(fill_value=0)
    bottom = np.zeros(len(counts))
    for colour, subset in zip(sns.color_palette("colorblind"), counts.columns, strict=False):
        axis.bar(counts.index.astype(str), counts[subset], bottom=bottom, color=colour, label=subset, edgecolor="white")
        bottom += counts[subset].to_numpy()
    chosen = drawn[drawn["chosen"]].groupby("cluster").size().reindex(counts.index, fill_value=0)
    axis.plot(counts.index.astype(str), chosen, "D", color="black", markersize=5, label="chosen")
    axis.axhline(per_cluster, color="black", linewidth=1, linestyle="--", label=f"equal share: {per_cluster:,}")
    axis.set(xlabel="cluster", ylabel="rows")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
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
    figure, axes = drawing.axes(1, 2, 9.6, 3.4)
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
    rates.plot(trained["step"], trained["learning_rate_B"], color="#009e73", label=r"$\eta_B$ (matrices B)")
    rates.plot(trained["step"], trained["learning_rate_A"], "--", color="#cc79a7", label=r"$\eta_A$ (matrices A)")
    rates.set(xlabel="step", ylabel="learning rate", yscale="log")
    rates.legend(frameon=False)
    return figure


def box_plot(
    results: pd.DataFrame, metric: str = "bleu", printed: pd.DataFrame | None = None, picked: str = "5"
) -> Figure:
    """One metric of every model: a box over its decoding runs, and each run as a point (paper, figure 5).

    Args:
        results: tidy, as in results.csv, of one protocol.
        printed: what the paper printed (table of `published.table3`), for an axis of its own below.
        picked: the iteration that is emphasised.
    """
    figure, axes = drawing.axes(1 if printed is None else 2, 1, 7.2, 3.2 if printed is None else 5.2)
    _boxes(axes[0, 0], results, metric, picked)
    axes[0, 0].set(ylabel=METRIC_NAMES[metric], ylim=(0, None))
    if printed is not None:
        _printed(axes[1, 0], drawing.order(results), printed[printed["metric"] == metric], picked)
        axes[0, 0].set(title="this run", xlabel="")
        axes[1, 0].set(title="as printed in the paper (mean ± sd), another protocol", ylabel=METRIC_NAMES[metric])
    drawing.seed_legend(figure, drawing.seeds_of(results))
    return figure


def rouge(results: pd.DataFrame, picked: str = "5") -> Figure:
    """ROUGE-1, -2 and -L: bars of the means, and boxes over the decoding runs (paper, figure 6)."""
    metrics = ["rouge1", "rouge2", "rougeL"]
    figure, axes = drawing.axes(3, 2, 8.6, 7.2)
    for row, metric in enumerate(metrics):
        _bars(axes[row, 0], results, metric, picked)
        _boxes(axes[row, 1], results, metric, picked)
        axes[row, 0].set(ylabel=METRIC_NAMES[metric])
        for axis in axes[row] if row < 2 else []:
            axis.set(xlabel="")
    axes[0, 0].set(title="means")
    axes[0, 1].set(title="decoding runs")
    drawing.seed_legend(figure, drawing.seeds_of(results))
    return figure


def weighted_f1(results: pd.DataFrame, picked: str = "5") -> Figure:
    """Weighted F1: bars of the means, and every decoding run as a point (paper, figure 7)."""
    figure, axes = drawing.axes(1, 2, 8.6, 3.3)
    _bars(axes[0, 0], results, "weighted_f1", picked)
    _boxes(axes[0, 1], results, "weighted_f1", picked)
    axes[0, 0].set(ylabel=METRIC_NAMES["weighted_f1"], title="means")
    axes[0, 1].set(title="decoding runs")
    drawing.seed_legend(figure, drawing.seeds_of(results))
    return figure


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
            place = 0 if name == "base" else seeds.index(seed)
            middle = x + (0 if name == "base" else beside[seed])
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
        bar.set(hatch="" if name == "base" else "//")
    axis.bar_label(
        bars, fmt="%.3f" if metric == "weighted_f1" else "%.1f", padding=2, fontsize=8 if len(names) < 6 else 7
    )
    axis.set(ylim=(0, max(means) * 1.18))
    drawing.name_ticks(axis, "x", names, picked)


def _printed(axis: Axes, names: list[str], printed: pd.DataFrame, picked: str) -> None:
    there = printed.set_index("iteration").reindex(names)
    axis.errorbar(range(len(names)), there["mean"], there["sd"].fillna(0), capsize=3, markersize=6, **drawing.PAPER)
    axis.set(ylim=(0, None))
    drawing.name_ticks(axis, "x", names, picked)
