"""The figures. Tidy tables in, a matplotlib figure out; nothing is computed here that is not drawn.

One visual language: the base model is grey and round, the adapter is orange and square, whatever is not a model takes
the colour-blind palette of seaborn.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

BASE_COLOUR, ADAPTER_COLOUR = "#7a7f87", "#d55e00"
METRIC_NAMES = {
    "bleu": "BLEU",
    "chrf": "chrF++",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "weighted_f1": "Weighted F1",
}


def save(figure: Figure, folder: Path, name: str) -> Figure:
    """Write the figure as PNG and SVG, and return it to be shown."""
    folder.mkdir(parents=True, exist_ok=True)
    # Without a date the same figure is the same file.
    figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=160)
    plt.close(figure)
    return figure


def _axes(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    with (
        sns.axes_style("whitegrid", {"grid.color": "#e4e6ea", "axes.edgecolor": "#9aa0a8"}),
        sns.plotting_context("paper", 1.15),
    ):
        plt.rcParams["svg.hashsalt"] = "klepon"
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
    for axis in axes.flat:
        sns.despine(ax=axis, left=True)
        axis.grid(axis="x", visible=False)
    return figure, axes


def leakage(table: pd.DataFrame) -> Figure:
    """How much of a random test split stands in its training set, by subset (table of `splits.leakage`)."""
    figure, axes = _axes(1, 1, 7.2, 3.2)
    columns = ["random split: rows leaked", "random split: outputs leaked", "grouped split: rows leaked"]
    names = ["random split: the same row", "random split: the same output", "grouped split: the same row"]
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
    figure, axes = _axes(1, 2, 10.5, 4.9)
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
                loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False, markerscale=1.6, fontsize=8
            )
    return figure


def cluster_sizes(drawn: pd.DataFrame, per_cluster: int) -> Figure:
    """How many rows each cluster has, by subset, and how many of them were chosen."""
    figure, axes = _axes(1, 1, 7.2, 3.2)
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
    figure, axes = _axes(1, 1, 7.2, 3.0)
    axis = axes[0, 0]
    sns.boxplot(
        examples,
        x="tokens",
        y="subset",
        order=sorted(examples["subset"].unique()),
        color="#56b4e9",
        fliersize=2,
        ax=axis,
    )
    axis.set(xlabel=f"tokens an example (limit {limit:,})", ylabel="")
    return figure


def training(log: pd.DataFrame) -> Figure:
    """Losses, and the learning rates of A and B, over the steps of one training (table of `training.train`)."""
    figure, axes = _axes(1, 2, 9.6, 3.4)
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


def _models(results: pd.DataFrame) -> list[str]:
    found = list(dict.fromkeys(results["iteration"].astype(str)))
    return [name for name in ("base", *sorted(set(found) - {"base"}, key=int)) if name in found]


def _label(name: str) -> str:
    return "base" if name == "base" else f"row {name}"


def _boxes(axis: Axes, results: pd.DataFrame, metric: str) -> None:
    names = _models(results)
    values = [results[(results["iteration"] == name) & (results["metric"] == metric)]["value"] for name in names]
    drawn = axis.boxplot(
        values,
        tick_labels=[_label(n) for n in names],
        widths=0.45,
        patch_artist=True,
        showfliers=False,
        medianprops={"color": "black"},
    )
    for name, box, some, x in zip(names, drawn["boxes"], values, range(1, len(names) + 1), strict=True):
        colour = BASE_COLOUR if name == "base" else ADAPTER_COLOUR
        box.set(facecolor=colour, alpha=0.35, edgecolor=colour)
        spots = np.linspace(-0.12, 0.12, len(some)) if len(some) > 1 else [0]
        axis.plot(x + np.asarray(spots), some, "o" if name == "base" else "s", color=colour, markersize=4.5)


def box_plot(results: pd.DataFrame, metric: str = "bleu") -> Figure:
    """One metric of every model: a box over its decoding runs, and each run as a point (paper, figure 5)."""
    figure, axes = _axes(1, 1, max(6.4, 1.0 + 1.1 * len(_models(results))), 3.2)
    axis = axes[0, 0]
    _boxes(axis, results, metric)
    axis.set(ylabel=METRIC_NAMES[metric], ylim=(0, None))
    return figure


def rouge(results: pd.DataFrame) -> Figure:
    """ROUGE-1, -2 and -L: bars of the means above, boxes over the decoding runs below (paper, figure 6)."""
    metrics = ["rouge1", "rouge2", "rougeL"]
    figure, axes = _axes(2, 3, 9.6, 5.6)
    for column, metric in enumerate(metrics):
        _bars(axes[0, column], results, metric)
        _boxes(axes[1, column], results, metric)
        axes[0, column].set(title=METRIC_NAMES[metric])
    axes[0, 0].set(ylabel="mean over decoding runs")
    axes[1, 0].set(ylabel="decoding runs")
    return figure


def weighted_f1(results: pd.DataFrame) -> Figure:
    """Weighted F1: bars of the means, and every decoding run as a point (paper, figure 7)."""
    figure, axes = _axes(1, 2, 8.4, 3.4)
    _bars(axes[0, 0], results, "weighted_f1", digits=3)
    _boxes(axes[0, 1], results, "weighted_f1")
    axes[0, 0].set(ylabel="mean Weighted F1")
    axes[0, 1].set(ylabel="decoding runs")
    return figure


def _bars(axis: Axes, results: pd.DataFrame, metric: str, digits: int = 1) -> None:
    names = _models(results)
    means = [results[(results["iteration"] == name) & (results["metric"] == metric)]["value"].mean() for name in names]
    colours = [BASE_COLOUR if name == "base" else ADAPTER_COLOUR for name in names]
    bars = axis.bar([_label(n) for n in names], means, color=colours, width=0.6, edgecolor="white")
    for bar, name in zip(bars, names, strict=True):
        bar.set_hatch("" if name == "base" else "//")
    axis.bar_label(bars, fmt=f"%.{digits}f", padding=2)
    axis.set(ylim=(0, max(means) * 1.18))
