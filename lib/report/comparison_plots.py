"""Figures that compare models, trainings and protocols. Tidy tables in, a matplotlib figure out.

Models are one below the other, so that long names stay level. What others printed has a marker and an entry in the
legend of its own, which names its protocol: it shares an axis with this project's scores, never a series.
"""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from lib.evaluation.metrics import METRIC_NAMES
from lib.report import drawing
from lib.report.drawing import OTHER_COLOUR, PAPER

_CLAIMED = PAPER | {"marker": "v"}
_CENDOL: dict[str, Any] = {"color": OTHER_COLOUR, "linestyle": "none", "markerfacecolor": "white"}
_LANGUAGES: dict[str, dict[str, Any]] = {"Indonesian": {"marker": "^"}, "English": {"marker": "x"}}
_MARKERS = ("s", "^", "D", "v", "P", "X", "p", "<", ">", "h")


def against_published(
    results: pd.DataFrame,
    table3: pd.DataFrame,
    claims: pd.DataFrame,
    baselines: pd.DataFrame,
    ours: str = "this run",
    metrics: tuple[str, ...] = ("bleu", "rougeL"),
    picked: str = "5",
    bounds: pd.DataFrame | None = None,
) -> Figure:
    """Every model of this run beside what the paper and Cendol published (paper, figure 8).

    The other models are those that `claims` names; of each, Cendol's value for every task and prompt language is a
    point.

    Args:
        results: tidy, as in results.csv, of one protocol.
        table3, claims, baselines: as of `lib.report.published`.
        ours: how the legend names the results, with their protocol.
        bounds: floors and ceiling of the same protocol (`floors.measure`), drawn as thin lines.
    """
    own = drawing.order(results)
    others = [name for name in dict.fromkeys(claims["against"]) if name != "base"]
    names = [*own, *others]
    figure, axes = drawing.axes(1, len(metrics), drawing.WIDE, 1.8 + 0.3 * len(names), sharey=True)
    for axis, metric in zip(axes[0], metrics, strict=True):
        # A single adapter was not picked from several, even beside other models.
        _ours(axis, results[results["metric"] == metric], names, picked if len(own) > 2 else "")
        printed = table3[(table3["metric"] == metric) & table3["iteration"].isin(own)]
        places = [names.index(name) for name in printed["iteration"]]
        axis.errorbar(printed["mean"], places, xerr=printed["sd"].fillna(0), capsize=2, markersize=5.5, **PAPER)
        said = claims[(claims["metric"] == metric) & claims["against"].isin(others)]
        axis.plot(said["implied"], [names.index(name) for name in said["against"]], markersize=8, **_CLAIMED)
        for (name, language), part in baselines[baselines["metric"] == metric].groupby(["model", "prompt_language"]):
            if name in others:
                level = names.index(name) + (0.16 if language == "English" else -0.16)
                axis.plot(
                    part["mean"], [level] * len(part), markersize=5, clip_on=False, **_CENDOL, **_LANGUAGES[language]
                )
        axis.axhline(len(own) - 0.5, color="#9aa0a8", linewidth=0.8)
        axis.set(xlabel=METRIC_NAMES[metric], xlim=(0, None))
        drawing.bound(axis, bounds, metric, "x")
    handles = [
        Line2D([], [], label=f"{ours}: base model", **drawing.marker("base")),
        Line2D([], [], label=f"{ours}: adapters", **drawing.marker("adapter")),
        Line2D([], [], label="the paper's Table 3 (mean ± sd), its own protocol", **PAPER),
        Line2D([], [], label="what the paper's claims imply", **_CLAIMED),
        *(
            Line2D([], [], label=f"Cendol's files, other tasks, zero-shot, {name} prompts", **_CENDOL, **style)
            for name, style in _LANGUAGES.items()
        ),
    ]
    drawing.legend(figure, handles, 2)
    drawing.seed_legend(figure, drawing.seeds_of(results))
    return figure


def loss_curves(
    logs: pd.DataFrame,
    results: pd.DataFrame,
    metric: str = "bleu",
    study: str = "",
    bounds: pd.DataFrame | None = None,
) -> Figure:
    """The losses of several trainings over their steps, and their scores beside.

    Args:
        study: what the names of its trainings begin with, which need not be repeated.
        logs: logs of `trainer.train`, one below the other, with a column `iteration`: step, train_loss and
            validation_loss; of several seeds, the means by step are drawn.
        results: tidy, as in results.csv, of one protocol and the same iterations; the base model may be among them.
        bounds: as of `against_published`, beside the scores.
    """
    names = drawing.order(logs)
    palette = sns.color_palette("colorblind", len(names))
    figure, axes = drawing.axes(1, 2, drawing.WIDE, max(3.4, 1.6 + 0.36 * len(names)), width_ratios=(1.5, 1))
    losses, scores = axes[0]
    for place, name in enumerate(names):
        mean = logs[logs["iteration"] == name].groupby("step")[["train_loss", "validation_loss"]].mean()
        trained, validated = mean["train_loss"].dropna(), mean["validation_loss"].dropna()
        style = {"color": palette[place], "marker": _MARKERS[place % len(_MARKERS)]}
        losses.plot(trained.index, trained, color=palette[place], linewidth=0.8, alpha=0.45)
        losses.plot(validated.index, validated, markersize=5, markeredgecolor="white", markeredgewidth=0.5, **style)
    losses.set(xlabel="step", ylabel="loss on completions (nats a token)")
    losses.set_title("bold with marks: validation; thin: training", fontsize=9)
    shown = [name for name in drawing.order(results) if name in (*names, "base")]
    seeds = drawing.seeds_of(results)
    beside = drawing.strips(seeds, 0.5)
    for place, name in enumerate(shown):
        part = results[(results["iteration"] == name) & (results["metric"] == metric)]
        for seed, runs in part.groupby("seed"):
            n, aside = (0, 0.0) if drawing.is_base(name) else (seeds.index(seed), beside[seed])
            style = drawing.marker(name, n)
            if not drawing.is_base(name):
                style |= {"color": palette[names.index(name)], "marker": _MARKERS[names.index(name) % len(_MARKERS)]}
            scores.plot(runs["value"], [place + aside] * len(runs), markersize=6, clip_on=False, **style)
    drawing.seed_legend(figure, seeds)
    _lines(scores, shown, "")
    scores.set(xlabel=METRIC_NAMES[metric], xlim=(0, None))
    scores.set_yticklabels([drawing.label(name.removeprefix(f"{study}_")) for name in shown])
    drawing.bound(scores, bounds, metric, "x")
    return figure


def leak_worth(table: pd.DataFrame) -> Figure:
    """What leaks are worth: by subset, the score of left-over rows that leaked and of those that did not.

    Args:
        table: of `ablation.leak_worth`.
    """
    names = list(dict.fromkeys(table["subset"]))
    found = list(dict.fromkeys(table["metric"]))
    figure, axes = drawing.axes(
        1, len(found), min(drawing.WIDE, max(5.6, 1.8 + 2.7 * len(found))), 1.7 + 0.45 * len(names), sharey=True
    )
    for axis, metric in zip(axes[0], found, strict=True):
        part = table[table["metric"] == metric].set_index("subset").reindex(names)
        y = np.arange(len(names))
        axis.hlines(y, part["apart"], part["leaked"], color="#9aa0a8", linewidth=2, zorder=1)
        axis.plot(part["apart"], y, "o", color=OTHER_COLOUR, markersize=7)
        axis.plot(part["leaked"], y, "o", color=OTHER_COLOUR, markersize=7, markerfacecolor="white")
        for level, row in enumerate(part.itertuples()):
            said = f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
            axis.annotate(
                said,
                (max(row.apart, row.leaked), level),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=drawing.SMALL,
            )
        axis.set_yticks(y, [name.replace("_", " ") for name in names])
        axis.set(title=METRIC_NAMES[metric], ylim=(len(names) - 0.5, -0.5))
        # Where all score nothing, an axis all the same.
        axis.set_xlim(0, 1.9 * (part[["apart", "leaked"]].max(axis=None) or 1.0))
    handles = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="none",
            color=OTHER_COLOUR,
            label="left over, no group in common with training",
        ),
        Line2D(
            [],
            [],
            marker="o",
            linestyle="none",
            color=OTHER_COLOUR,
            markerfacecolor="white",
            label="left over, its group was trained on",
        ),
    ]
    drawing.legend(figure, handles, 2)
    return figure


def nested_bleu(table: pd.DataFrame, table3: pd.DataFrame, picked: str = "5") -> Figure:
    """BLEU with its references nested the wrong way round, over all choices of the first row, above the paper's BLEU.

    A box holds the middle half of the choices, and its whiskers the central 95 %.

    Args:
        table: columns iteration, seed, row, mean and sd (over decoding runs; BLEU, 0 to 100).
        table3: as of `published.table3`.
    """
    printed = table3[table3["metric"] == "bleu"]
    names = drawing.order(table)
    figure, axes = drawing.axes(1, 2, drawing.WIDE, 1.6 + 0.4 * (len(names) + 1), sharey=True)
    titles = {"mean": "BLEU, mean over decoding runs", "sd": "its standard deviation over the runs"}
    for axis, (column, title) in zip(axes[0], titles.items(), strict=True):
        for place, name in enumerate(names):
            values = table.loc[table["iteration"] == name, column].dropna()
            axis.boxplot(
                values,
                positions=[place],
                orientation="horizontal",
                widths=0.5,
                whis=(2.5, 97.5),
                showfliers=False,
                patch_artist=True,
                boxprops={"facecolor": drawing.colour(name), "alpha": 0.35},
                medianprops={"color": drawing.colour(name), "linewidth": 2},
            )
        axis.plot(printed[column], [len(names)] * len(printed), markersize=5.5, **PAPER)
        drawing.name_ticks(axis, "y", names, picked)
        labels = [*(drawing.label(name) for name in names), "the paper"]
        axis.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6), xlim=(0, None))
        axis.set_xlabel(title)
    return figure


def english_cost(table: pd.DataFrame, picked: str = "5") -> Figure:
    """What moving to Indonesian costs in English: each adapter beside the base model, which is the dashed line.

    Args:
        table: one line per model, base among them: iteration, seed, loss_per_byte_en (bits a byte of English answers),
            rougeL (of English completions, 0 to 100) and english_share (of English prompts, how many are answered in
            English, 0 to 1).
    """
    names = drawing.order(table)
    panels = {
        "loss_per_byte_en": "English bits a byte",
        "rougeL": "English ROUGE-L",
        "english_share": "answered in English",
    }
    figure, axes = drawing.axes(1, 3, drawing.WIDE, 1.5 + 0.3 * len(names), sharey=True)
    for axis, (column, title) in zip(axes[0], panels.items(), strict=True):
        _ours(axis, table.rename(columns={column: "value"}), names, picked)
        before = table.loc[table["iteration"] == "base", column].mean()
        axis.axvline(before, color=drawing.BASE_COLOUR, linestyle="--", linewidth=1, zorder=0)
        axis.set(xlabel=title)
    axes[0, 1].set_xlim(0, None)
    axes[0, 2].set_xlim(-0.04, 1.04)
    axes[0, 2].xaxis.set_major_formatter(PercentFormatter(1))
    drawing.seed_legend(figure, drawing.seeds_of(table))
    return figure


def tries(table: pd.DataFrame) -> Figure | None:
    """The validation loss of each try against its learning rate; tries that differ in nothing else are joined.

    Args:
        table: of `ablation.tries`. Without a line there is no figure.
    """
    if table.empty:
        return None
    figure, axes = drawing.axes(1, 1, drawing.WIDE, 3.8)
    axis = axes[0, 0]
    palette = sns.color_palette("colorblind")
    for place, ((ratio, rows, epochs), part) in enumerate(table.groupby(["ratio", "rows", "epochs"])):
        part = part.sort_values("learning_rate")
        name = "LoRA" if ratio == 1 else f"LoRA+, ratio {ratio:g}"
        style = {"color": palette[place % len(palette)], "marker": _MARKERS[place % len(_MARKERS)]}
        label = f"{name}, {rows:,} rows, {epochs:g} epoch{'s' if epochs != 1 else ''}"
        axis.plot(part["learning_rate"], part["validation_loss"], markersize=6, label=label, **style)
        own = part[part["iteration"].str.startswith("recipe_")]
        axis.plot(
            own["learning_rate"],
            own["validation_loss"],
            "o",
            markersize=13,
            markerfacecolor="none",
            color=style["color"],
        )
    axis.set(xscale="log", xlabel="learning rate of A", ylabel="validation loss (nats a token)")
    handles = [*axis.get_legend_handles_labels()[0]]
    ring = Line2D([], [], marker="o", markersize=11, markerfacecolor="none", color="#6b7178", linestyle="none")
    ring.set_label("the recipe")
    drawing.legend(figure, [*handles, ring], 2)
    return figure


def benchmarks(compared: pd.DataFrame, results: pd.DataFrame, picked: str = "5", seed: int = 0) -> Figure | None:
    """What one training moves on every benchmark: a line from the base model to the adapter, and the 95 % interval of
    their difference around the adapter. Other trainings are pale; a dashed line is where guessing is.

    Args:
        compared: of `benchmarks.compare`. Without a line there is no figure.
        results: tidy, as in results.csv; lines of other protocols and of the base model are left out.
        picked, seed: the training that `compared` is of.
    """
    if compared.empty:
        return None
    chosen = (results["iteration"] == picked) & (results["seed"] == seed)
    others = results[~chosen & (results["iteration"] != "base")]
    titles = {"accuracy": "accuracy", "loss_per_byte": "bits a byte (less is better)"}
    panels = {name: compared[compared["metric"].str.startswith(name)] for name in titles}
    panels = {name: part for name, part in panels.items() if len(part)}
    lines = [len(part) for part in panels.values()]
    # One below the other, each line as high as any.
    figure, axes = drawing.axes(
        len(panels), 1, drawing.WIDE, 1 + 0.6 * len(lines) + 0.42 * sum(lines), height_ratios=lines
    )
    for axis, (name, part) in zip(axes[:, 0], panels.items(), strict=True):
        for place, row in enumerate(part.itertuples()):
            pale = others[(others["protocol"] == row.task) & (others["metric"] == row.metric)]["value"]
            axis.plot(pale, [place] * len(pale), markersize=5, alpha=0.3, zorder=1.5, **drawing.marker("adapter"))
            axis.hlines(place, row.before, row.after, color="#9aa0a8", linewidth=2, zorder=1)
            ends = [[row.difference - row.low], [row.high - row.difference]]
            axis.errorbar(row.after, place, xerr=ends, color=drawing.ADAPTER_COLOUR, linewidth=1, capsize=3, zorder=2)
            axis.plot(row.before, place, markersize=6.5, zorder=3, **drawing.marker("base"))
            axis.plot(row.after, place, markersize=6.5, zorder=3, **drawing.marker("adapter"))
            # Guessing has its own share in each task.
            axis.vlines(row.chance, place - 0.45, place + 0.45, color="#6b7178", linestyle="--", linewidth=1)
        names = [
            row.task.replace("_", " ") + {"loss_per_byte_en": ", English"}.get(row.metric, "")
            for row in part.itertuples()
        ]
        axis.set_yticks(range(len(names)), [textwrap.fill(name, 18) for name in names])
        axis.set(xlabel=titles[name], ylim=(len(names) - 0.4, -0.6))
        axis.grid(axis="x", visible=True)
        axis.grid(axis="y", color="#f2f3f5")
    handles = [
        Line2D([], [], label="base model", **drawing.marker("base")),
        Line2D([], [], label="adapter, and 95 % interval of the difference", **drawing.marker("adapter")),
        *(
            [Line2D([], [], label="other trainings", alpha=0.3, **drawing.marker("adapter"))]
            if others["protocol"].isin(compared["task"]).any()
            else []
        ),
        Line2D([], [], label="guessing", color="#6b7178", linestyle="--", linewidth=1),
    ]
    drawing.legend(figure, handles, 2)
    return figure


def _ours(axis: Axes, table: pd.DataFrame, names: list[str], picked: str) -> None:
    """The values of each model as points on its line, the seeds a little apart."""
    seeds = drawing.seeds_of(table)
    beside = drawing.strips(seeds, 0.6)
    for place, name in enumerate(names):
        for seed, part in table[table["iteration"] == name].groupby("seed"):
            n, aside = (0, 0.0) if drawing.is_base(name) else (seeds.index(seed), beside[seed])
            axis.plot(
                part["value"],
                [place + aside] * len(part),
                markersize=4.5,
                clip_on=False,
                **drawing.marker(name, n),
            )
    _lines(axis, names, picked)


def _lines(axis: Axes, names: list[str], picked: str) -> None:
    drawing.name_ticks(axis, "y", names, picked)
    axis.grid(axis="x", visible=True)
    axis.grid(axis="y", color="#f2f3f5")
