"""What the notebooks show: tables, coloured tokens and figures."""

from __future__ import annotations

import io
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from lib.config import Config
from lib.corpus import selection
from lib.corpus.selection import CorpusSummary
from lib.evaluation.benchmarks import METRIC_NAMES as BENCHMARK_METRICS
from lib.evaluation.floors import CEILING, FLOORS
from lib.evaluation.metrics import METRIC_NAMES, digits
from lib.evaluation.starters import best
from lib.model.prompts import Example
from lib.report import drawing
from lib.sampling.draws import Sample, nearest_to_centres
from lib.training.examples import Examples

if TYPE_CHECKING:  # seconds to import, and the sampling needs none of it
    from transformers import PreTrainedTokenizerBase

_CLIP = 220


def settings(config: Config, *sections: str) -> pd.DataFrame:
    """The settings that a stage can see, by section."""
    rows = [("", name, getattr(config, name)) for name in ("run", "profile", "iteration", "seed", "scale")]
    for section in sections:
        rows += [(section, name, value) for name, value in asdict(getattr(config, section)).items()]
    return pd.DataFrame(rows, columns=["section", "setting", "value"]).set_index(["section", "setting"])


def corpus_summary(summary: CorpusSummary) -> pd.DataFrame:
    """What was read: rows by what their file was recognised as, kept by subset, left out by subset, set aside by
    reason, and from each public source.
    """
    rows = [("read as", name, count) for name, count in summary.formats.items()]
    rows += [("kept", name, count) for name, count in summary.kept.items()]
    rows += [("left out (another subset)", name, count) for name, count in sorted(summary.left_out.items())]
    rows += [("set aside (bad row)", reason, count) for reason, count in summary.bad.items()]
    rows += [("not fetched (none of the subsets)", name, count) for name, count in summary.not_fetched.items()]
    rows += [("from", f"{one['name']} ({one['licence']})", one["rows"]) for one in summary.sources]
    rows.append(("all", f"{len(summary.files)} file(s)", summary.rows_read))
    return pd.DataFrame(rows, columns=["", "what", "rows"]).set_index(["", "what"])


def shares(table: pd.DataFrame) -> Styler:
    """A leakage table with its shares in per cent."""
    percent = [name for name in table.columns if ":" in name]
    return table.style.format("{:,.0f}").format("{:.1%}", subset=percent, na_rep="-")


def alike(found: pd.DataFrame, count: int) -> Styler:
    """The test texts that are most like one on the other side of the split (of `likeness.alike`), but no short ones."""
    names = {"text": "on the test side", "other_text": "on the other side"}
    shown = found.loc[~found["short"].astype(bool), ["kind", "subset", "cosine", *names]].head(count)
    for name in names:
        shown[name] = [_clip(str(text), 110) for text in shown[name]]
    return _texts(shown.rename(columns=names)).hide(axis="index").format("{:.2f}", subset=["cosine"])


def nearest(config: Config, sample: Sample, count: int) -> Styler | str:
    """For each cluster: its size, and the starts of the outputs nearest to its centre."""
    if sample.clusters is None:
        return "This iteration draws without K-means."
    places = nearest_to_centres(sample.embeddings, sample.clusters, count)
    rows = []
    for label, found in enumerate(places):
        positions = sample.drawn["position"].to_numpy()[found[found >= 0]]
        outputs = selection.read(config.paths.rows, positions, columns=["output"])["output"]
        size = int((sample.clusters.labels == label).sum())
        rows.append((label, size, "\n".join(f"• {_clip(text, 110)}" for text in outputs)))
    table = pd.DataFrame(rows, columns=["cluster", "rows", "nearest to the centre"]).set_index("cluster")
    return _texts(table)


def loss_mask(tokenizer: PreTrainedTokenizerBase, example: Example) -> HTML:
    """An example's tokens, one box each: grey where they are only read, coloured where they are trained."""
    boxes = []
    for token, trained in zip(example.input_ids, example.loss_mask, strict=True):
        text = escape(tokenizer.decode([token])).replace("\n", "⏎")
        colour = "background:#fbd9c0;color:#5c2500" if trained else "background:#eceef0;color:#6b7178"
        boxes.append(
            f'<span style="{colour};padding:1px 3px;margin:1px;border-radius:3px;white-space:pre">{text}</span>'
        )
        boxes.append("<wbr>")
    return HTML(f'<div style="font-family:monospace;line-height:1.9">{"".join(boxes)}</div>')


def counts(made: Examples) -> Styler:
    """Examples and tokens by part."""
    return made.counts.style.format("{:,.0f}")


def trainable(parameters: pd.DataFrame) -> Styler:
    """Trained parameters by projection (table of `loading.trainable_parameters`)."""
    return parameters.style.format("{:,.0f}")


def completions(table: pd.DataFrame, count: int) -> Styler:
    """The first completions of a few prompts, beside their references."""
    first = table[(table["run"] == 0) & (table["protocol"] == "clean")].drop_duplicates("subset").head(count)
    shown = first[["subset", "prompt", "text", "reference"]].map(lambda text: _clip(str(text), _CLIP))
    return _texts(shown).hide(axis="index")


def scores(summary: pd.DataFrame) -> Styler:
    """Mean and 95 % interval of every metric, one column per model (table of `statistics.summarise`)."""
    text = summary.assign(
        shown=_with_interval(summary),
        model=[model_name(i, s) for i, s in zip(summary["iteration"], summary["seed"], strict=True)],
        metric=summary["metric"].map(METRIC_NAMES),
    )
    order = text["metric"].unique(), text["model"].unique()
    table = text.pivot(index="metric", columns="model", values="shown").loc[list(order[0]), list(order[1])]
    table.columns.name = table.index.name = None
    return table.style


def table2(ours: pd.DataFrame, printed: pd.DataFrame) -> Styler:
    """The paper's Table 2 with our counts and losses beside it: one line per row and seed.

    Args:
        ours: columns iteration, seed, rows (trained on), steps, train_loss and validation_loss; rows that were not
            trained may be left out.
        printed: table of `published.table2`.
    """
    settings = {
        "lora_rank": "rank",
        "lora_alpha": "alpha",
        "use_rslora": "rank-stabilised",
        "sampling": "sampling",
        "schedule": "schedule",
        "learning_rate": "learning rate",
        "epochs": "epochs",
    }
    losses = {"train_loss": "train loss", "validation_loss": "validation loss"}
    known = printed.assign(
        sampling=[_sampling(row) for row in printed.to_dict("records")],
        use_rslora=printed["use_rslora"].map({True: "yes", False: "no"}),
        schedule=printed["schedule"].str.replace("_", " "),
    )
    table = known.merge(ours, on="iteration", how="left", suffixes=("", "_ours"))
    names = {("", "row"): "iteration", ("this run", "seed"): "seed", ("this run", "rows"): "rows_ours"}
    names |= {("this run", "steps"): "steps"}
    names |= {("this run", shown): f"{name}_ours" for name, shown in losses.items()}
    names |= {("the paper", shown): name for name, shown in losses.items()}
    names |= {("the paper's settings", shown): name for name, shown in settings.items()}
    shown = pd.DataFrame({key: table[name] for key, name in names.items()})
    loss = [key for key in names if "loss" in key[1]]
    counts = [key for key in names if key[1] in ("seed", "steps", "rows")]
    return (
        shown.style.hide(axis="index")
        .format("{:.3f}", subset=loss, na_rep="-")
        .format("{:,.0f}", subset=counts, na_rep="-")
        .format("{:g}", subset=[("the paper's settings", "learning rate"), ("the paper's settings", "epochs")])
        .set_properties(subset=[("the paper's settings", "sampling")], **{"white-space": "normal", "min-width": "14em"})
    )


def trainings(table: pd.DataFrame) -> Styler:
    """How each training went (table of `ablation.trainings`): one line per row or recipe, and seed."""
    shown = pd.DataFrame(
        {
            "training": table["iteration"].map(drawing.words),
            "seed": table["seed"],
            "rows": table["rows"].map("{:,}".format),
            "steps": table["steps"].map("{:,}".format),
            "train loss": table["train_loss"].map("{:.3f}".format),
            "validation loss before": table["first"].map("{:.3f}".format),
            "lowest": table["lowest"].map("{:.3f}".format),
            "at the end": table["validation_loss"].map("{:.3f}".format),
        }
    )
    return shown.style.hide(axis="index")


def table3(summary: pd.DataFrame, printed: pd.DataFrame) -> Styler:
    """Our mean with its 95 % interval, beside the paper's mean ± deviation over decoding runs: one line per model, and
    per floor and ceiling.

    The interval is on a separate line, where a page keeps line breaks.

    Args:
        summary: table of `statistics.summarise`, of one protocol.
        printed: table of `published.table3`; a metric or a model that it lacks is left empty.
    """
    order = [name for name in METRIC_NAMES if name in set(summary["metric"])]
    ours = summary.assign(ours=_with_interval(summary, more=1, between="\n"))
    # The paper's numbers keep the digits that it gives them.
    paper = printed.assign(
        paper=[
            f"{mean:g}" + ("" if pd.isna(sd) else f" ± {sd:g}")
            for mean, sd in zip(printed["mean"], printed["sd"], strict=True)
        ]
    )
    paper = paper[["iteration", "metric", "paper"]]
    table = ours.merge(paper, on=["iteration", "metric"], how="left")
    table["model"] = [model_name(i, s) for i, s in zip(table["iteration"], table["seed"], strict=True)]
    wide = table.pivot(index="model", columns="metric", values=["ours", "paper"]).swaplevel(axis=1)
    columns = [(metric, whose) for metric in order for whose in ("ours", "paper") if wide[metric, whose].notna().any()]
    shown = wide.loc[list(dict.fromkeys(table["model"])), columns].rename(columns=METRIC_NAMES, level=0).fillna("-")
    shown.index.name, shown.columns.names = None, [None, None]
    return shown.style


def test_rows(tests: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Test rows by subset, one column per protocol."""
    counts = pd.DataFrame({protocol: rows["subset_name"].value_counts() for protocol, rows in tests.items()})
    return counts.fillna(0).astype(int).sort_index()


def spread(over_seeds: pd.DataFrame) -> Styler:
    """The parts of the uncertainty: groups / decoding / training seeds (table of `statistics.over_seeds`)."""
    shown = over_seeds.assign(
        model=over_seeds["iteration"].map(drawing.words),
        metric=over_seeds["metric"].map(METRIC_NAMES),
        shown=[
            " / ".join(
                "-" if pd.isna(part) else f"{part:.{digits(row.metric) + 1}f}"
                for part in (row.group_error, row.decoding_error, row.seed_sd)
            )
            for row in over_seeds.itertuples()
        ],
    )
    order = list(dict.fromkeys(shown["model"])), list(dict.fromkeys(shown["metric"]))
    wide = shown.pivot(index="model", columns="metric", values="shown").loc[order[0], order[1]]
    wide.columns.name = wide.index.name = None
    return wide.style


def nested(table: pd.DataFrame, printed: pd.DataFrame) -> Styler:
    """The wrongly nested BLEU over all choices of the first row (of `ablation.nested_bleu`), and the paper's BLEU.

    Median and central 95 % of the means over decoding runs and of their standard deviations.
    """
    bleu = printed[printed["metric"] == "bleu"]
    models = {model_name(i, s): part for (i, s), part in table.groupby(["iteration", "seed"], sort=False)}
    models[f"the paper's {len(bleu)} models, as printed"] = bleu
    shown: dict[str, dict[str, str]] = {}
    for name, part in models.items():
        for column, what in (("mean", "mean over runs"), ("sd", "sd over runs")):
            low, median, high = part[column].quantile([0.025, 0.5, 0.975])
            shown.setdefault(what, {})[name] = f"{median:.1f} [{low:.1f}, {high:.1f}]"
    return pd.DataFrame(shown).style


def figures(found: dict[str, Figure]) -> HTML:
    """Some figures, one below the other."""
    return HTML("".join(f"<h3>{escape(name)}</h3>{_svg(figure)}" for name, figure in found.items()) or "No study.")


def together(*parts: Figure | Styler | str | None) -> HTML:
    """Figures, tables, and what is said where there is none, one below the other."""
    shown = [
        _svg(part) if isinstance(part, Figure) else part.to_html() if isinstance(part, Styler) else escape(part or "")
        for part in parts
    ]
    return HTML("".join(shown))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def comparisons(table: pd.DataFrame) -> Styler:
    """Paired differences (table of `ablation.comparisons`), one line per model, starred where significant.

    The interval is on a separate line, where a page keeps line breaks. The last line is the true difference that would
    have been found, of all models the largest.
    """
    if table.empty:
        return pd.DataFrame({"": ["nothing to compare with"]}).style.hide(axis="index")
    shown = table.assign(
        shown=[
            f"{row.difference:+.{digits(row.metric)}f}{'*' if row.differs else ''}\n"
            f"[{row.low:+.{digits(row.metric)}f}, {row.high:+.{digits(row.metric)}f}]"
            for row in table.itertuples()
        ],
        metric=table["metric"].map(METRIC_NAMES),
        model=table["iteration"].map(drawing.words),
    )
    order = list(dict.fromkeys(shown["model"])), list(dict.fromkeys(shown["metric"]))
    wide = shown.pivot(index="model", columns="metric", values="shown").loc[order[0], order[1]]
    effects = table[table["metric"] == "rougeL"]["d_z"]
    effect = "effect d<sub>z</sub> (ROUGE-L)"
    wide[effect] = ["-" if pd.isna(value) else f"{value:+.2f}" for value in effects]
    seen = table.groupby("metric")["detectable"].max()
    wide.loc["detectable"] = {effect: ""} | {
        METRIC_NAMES[metric]: "-" if pd.isna(value) else f"{value:.{digits(metric)}f}" for metric, value in seen.items()
    }
    wide.columns.name = wide.index.name = None
    return wide.style


def leak_worth(table: pd.DataFrame, placebo: pd.DataFrame) -> Styler:
    """What leaks are worth to the adapter, and the same difference of the base model's answers, with what it rests on.

    Args:
        table, placebo: of `ablation.leak_worth`, by the adapter's answers and by the base model's.
    """
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for column, name in (("rows", "rows"), ("groups_apart", "groups apart"), ("groups_leaked", "groups leaked")):
        shown["what was compared", name] = table.groupby("subset", sort=False)[column].first().to_dict()
    for whose, found in (("the adapter", table), ("the base", placebo)):
        for metric, part in found.groupby("metric", sort=False):
            shown[whose, METRIC_NAMES[str(metric)]] = {
                row.subset: f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for row in part.itertuples()
            }
    wide = pd.DataFrame(shown).rename(index=lambda name: name.replace("_", " "))
    return wide.style.format("{:,.0f}", subset=[key for key in shown if key[0] == "what was compared"])


def leaked(found: pd.DataFrame) -> Styler:
    """How much of each protocol's test set is in the training sample (table of `ablation.leaked_share`)."""
    return found.style.format("{:.1%}")


def english(table: pd.DataFrame) -> Styler:
    """English before and after (table of `ablation.english_cost`), one line per model; scores with their intervals."""
    names = {
        "loss_per_byte_en": "English bits a byte",
        "rougeL": "English ROUGE-L",
        "english_share": "English answered in English",
        "reference_english_share": "of the references",
        "indonesian_share": "Indonesian answered in Indonesian",
        "reference_indonesian_share": "of the references ",
    }
    shown = pd.DataFrame(index=[model_name(i, s) for i, s in zip(table["iteration"], table["seed"], strict=True)])
    for name in (name for name in names if name in table):
        if "share" in name:
            shown[names[name]] = ["-" if pd.isna(value) else f"{value:.1%}" for value in table[name]]
        else:
            ends = table.reindex(columns=[f"{name}_low", f"{name}_high"]).set_axis(["low", "high"], axis=1)
            scored = ends.assign(mean=table[name], metric=name)
            shown[names[name]] = _with_interval(scored, between="\n")
    return shown.style


def benchmarks(found: pd.DataFrame) -> Styler:
    """What one model scores on the benchmarks (table of `benchmarks.measure`), or that there are none."""
    if found.empty:
        return _no_benchmarks()
    shown = found.assign(metric=found["metric"].map(BENCHMARK_METRICS))
    numbers = {"items": "{:,}", "value": "{:.3f}", "chance": "{:.3f}"}
    return shown.style.hide(axis="index").format(numbers, na_rep="-")


def benchmarked(table: pd.DataFrame, before: str = "base", after: str = "adapter") -> Styler:
    """One model against another on every benchmark (table of `benchmarks.compare`), starred where significant.

    The interval is on a separate line, where a page keeps line breaks.
    """
    if table.empty:
        return pd.DataFrame({"": ["no benchmarks to compare"]}).style.hide(axis="index")
    shown = pd.DataFrame(
        {
            "metric": table["metric"].map(BENCHMARK_METRICS),
            "items": table["items"].map("{:,}".format),
            "chance": ["-" if pd.isna(value) else f"{value:.3f}" for value in table["chance"]],
            before: table["before"].map("{:.3f}".format),
            after: table["after"].map("{:.3f}".format),
            "difference": [
                f"{row.difference:+.3f}{'*' if row.differs else ''}\n[{row.low:+.3f}, {row.high:+.3f}]"
                for row in table.itertuples()
            ],
            "p": table["p_value"].map(_p),
            "p by Holm": table["p_adjusted"].map(_p),
            "detectable": ["-" if pd.isna(value) else f"{value:.3f}" for value in table["detectable"]],
            "alike training rows": table["alike"].map("{:,}".format),
        }
    )
    return shown.set_axis(table["task"].tolist()).style


def benchmark_scores(results: pd.DataFrame, compared: pd.DataFrame) -> Styler:
    """Every model's score on each benchmark, a line a model; of several seeds the mean, least and greatest.

    Args:
        results: tidy, as in results.csv.
        compared: of `benchmarks.compare`, whose benchmarks are shown.
    """
    if compared.empty:
        return _no_benchmarks()
    found = results[results["protocol"].isin(compared["task"])]
    names = found["protocol"].str.replace("_", " ") + ", " + found["metric"].map(BENCHMARK_METRICS)
    by_seed = found.assign(name=names).groupby(["iteration", "name"], sort=False)["value"]
    shown = by_seed.agg(
        lambda part: f"{part.mean():.3f}" + (f"\n({part.min():.3f} to {part.max():.3f})" if len(part) > 1 else "")
    )
    wide = shown.unstack("name").loc[list(dict.fromkeys(found["iteration"])), list(dict.fromkeys(names[found.index]))]
    return wide.rename(index=drawing.words).rename_axis(index=None, columns=None).style


def tries(table: pd.DataFrame) -> Styler:
    """What the recipes were tried against (table of `ablation.tries`)."""
    if table.empty:
        return pd.DataFrame({"": ["No recipe was tried (STUDIES)."]}).style.hide(axis="index")
    shown = pd.DataFrame(
        {
            "training": table["iteration"].map(drawing.words),
            "learning rate of A": table["learning_rate"].map("{:g}".format),
            "of B": (table["learning_rate"] * table["ratio"]).map("{:g}".format),
            "rows": table["rows"].map("{:,}".format),
            "epochs": table["epochs"].map("{:g}".format),
            "validation loss": table["validation_loss"].map("{:.4f}".format),
        }
    )
    return shown.style.hide(axis="index")


def _no_benchmarks() -> Styler:
    return pd.DataFrame({"": ["This run names no benchmarks (BENCHMARKS)."]}).style.hide(axis="index")


def held_out(found: dict[str, Any]) -> Styler:
    """What training on votes did to those that it has not seen (`lib.preference.outcome.held_out`)."""
    shown = {
        "votes": f"{found['votes']} in {found['groups']} groups",
        "the chosen answer gained": f"in {found['gained']}",
        "nats gained on average": f"{found['nats']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]",
        "the chosen answer is the likelier, before": f"in {found['agree_before']}",
        "and after": f"in {found['agree_after']}",
    }
    return pd.DataFrame({"held-out votes": shown}).style


def side_by_side(samples: pd.DataFrame) -> Styler:
    """Prompts, and what each model wrote."""
    return _texts(samples).hide(axis="index").set_properties(**{"vertical-align": "top"})


def starters(measured: pd.DataFrame) -> Styler:
    """Prompts to begin a chat with, the adapter's answer to each, and what that is worth; chosen ones are bold.

    Args:
        measured: table of `starters.measure`.
    """
    chosen = best(measured).index
    shown = measured.assign(fit=[f"{fit:.0%}" if usable else "-" for fit, usable in measured[["fit", "usable"]].values])
    return side_by_side(shown[["kind", "prompt", "text", "fit"]]).set_properties(
        subset=pd.IndexSlice[chosen, :], **{"font-weight": "bold"}
    )


def model_name(iteration: str, seed: int) -> str:
    """How tables name a model, a floor or the ceiling."""
    # As figures name their lines.
    if iteration in FLOORS:
        return f"{iteration}: {FLOORS[iteration]}"
    if iteration == CEILING:
        return "the reference itself"
    return drawing.words(iteration) if drawing.is_base(iteration) else f"{drawing.words(iteration)}, seed {seed}"


def _p(value: float) -> str:
    """No p-value of a bootstrap is below one in its resamples."""
    return "≤ 0.001" if value <= 0.001 else f"{value:.3f}"


def _texts(table: pd.DataFrame) -> Styler:
    """Texts as they were written: a tag in them stays text."""
    return table.style.format(escape="html").set_properties(**{"text-align": "left", "white-space": "pre-wrap"})


def _with_interval(table: pd.DataFrame, more: int = 0, between: str = " ") -> list[str]:
    """Each line's mean and, where there is one, its interval: with so many digits more, and what stands between."""
    shown = []
    for metric, *values in table[["metric", "mean", "low", "high"]].itertuples(index=False):
        mean, low, high = (f"{value:.{digits(metric) + more}f}" for value in values)
        shown.append("-" if mean == "nan" else mean if low == "nan" else f"{mean}{between}[{low}, {high}]")
    return shown


def _sampling(row: dict[str, Any]) -> str:
    """A row's sampling (table of `published.table2`) in a few words."""
    words = {
        "random": "random, {rows:,}",
        "per_subset": "{rows:,} from each subset",
        "stratified": "stratified {share:.1%}",
    }
    drawn = words[row["sampling_method"]].format(**row)
    clusters = ", K = {clusters}, {rows_per_cluster:,} from each" if row["clusters"] else ""
    return drawn + clusters.format(**row)


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
