"""What the notebooks show: tables, coloured tokens, and one sentence of conclusion each, made from the numbers."""

from dataclasses import asdict
from html import escape
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from lib import corpus
from lib.config import Config
from lib.corpus import CorpusSummary
from lib.examples import Examples
from lib.model import trainable_parameters
from lib.plots import METRIC_NAMES
from lib.prompts import Example
from lib.sampling import Sample, nearest_to_centres

_CLIP = 220


def settings(config: Config, *sections: str) -> pd.DataFrame:
    """The settings that a stage can see, by section."""
    rows = [("", name, getattr(config, name)) for name in ("run", "profile", "iteration", "seed", "scale")]
    for section in sections:
        rows += [(section, name, value) for name, value in asdict(getattr(config, section)).items()]
    return pd.DataFrame(rows, columns=["section", "setting", "value"]).set_index(["section", "setting"])


def corpus_summary(summary: CorpusSummary) -> pd.DataFrame:
    """What was read: rows kept by subset, left out by subset, and set aside by reason."""
    rows = [("kept", name, count) for name, count in summary.kept.items()]
    rows += [("left out (another subset)", name, count) for name, count in sorted(summary.left_out.items())]
    rows += [("set aside (bad row)", reason, count) for reason, count in summary.bad.items()]
    rows.append(("all", f"{len(summary.files)} file(s)", summary.rows_read))
    return pd.DataFrame(rows, columns=["", "what", "rows"]).set_index(["", "what"])


def shares(table: pd.DataFrame) -> Styler:
    """A leakage table with its shares in per cent."""
    percent = [name for name in table.columns if ":" in name]
    return table.style.format("{:,.0f}").format("{:.1%}", subset=percent, na_rep="-")


def shortages(found: dict[str, tuple[int, int]]) -> Markdown:
    """A sentence for each subset that had too few rows."""
    lines = [
        f"- `{name}` has {there:,} rows on the training side where {asked:,} were asked for; all {there:,} are drawn."
        for name, (asked, there) in found.items()
    ]
    return Markdown("\n".join(lines) or "Every subset has the rows that were asked of it.")


def nearest(config: Config, sample: Sample, count: int) -> Styler | str:
    """For each cluster: its size, and the starts of the outputs nearest to its centre."""
    if sample.clusters is None:
        return "This iteration draws without K-means."
    places = nearest_to_centres(sample.embeddings, sample.clusters, count)
    rows = []
    for label, found in enumerate(places):
        positions = sample.drawn["position"].to_numpy()[found[found >= 0]]
        outputs = corpus.read(config.paths.rows, positions, columns=["output"])["output"]
        size = int((sample.clusters.labels == label).sum())
        rows.append((label, size, "\n".join(f"• {_clip(text, 110)}" for text in outputs)))
    table = pd.DataFrame(rows, columns=["cluster", "rows", "nearest to the centre"]).set_index("cluster")
    return table.style.set_properties(**{"text-align": "left", "white-space": "pre-wrap"})


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


def trainable(model: PeftModel) -> Styler:
    """Trained parameters by projection."""
    return trainable_parameters(model).style.format("{:,.0f}")


def completions(table: pd.DataFrame, count: int) -> Styler:
    """The first completions of a few prompts, beside their references."""
    first = table[table["run"] == 0].drop_duplicates("subset").head(count)
    shown = first[["subset", "prompt", "text", "reference"]].map(lambda text: _clip(str(text), _CLIP))
    return shown.style.hide(axis="index").set_properties(**{"text-align": "left", "white-space": "pre-wrap"})


def scores(summary: pd.DataFrame) -> Styler:
    """Mean and 95 % interval of every metric, a column a model."""
    text = summary.assign(
        shown=[
            f"{row.mean_:.{_digits(row.metric)}f}"
            + ("" if pd.isna(row.low) else f" [{row.low:.{_digits(row.metric)}f}, {row.high:.{_digits(row.metric)}f}]")
            for row in summary.rename(columns={"mean": "mean_"}).itertuples()
        ],
        model=[model_name(i, s) for i, s in zip(summary["iteration"], summary["seed"], strict=True)],
        metric=summary["metric"].map(METRIC_NAMES),
    )
    order = text["metric"].unique(), text["model"].unique()
    table = text.pivot(index="metric", columns="model", values="shown").loc[list(order[0]), list(order[1])]
    table.columns.name = table.index.name = None
    return table.style


def side_by_side(samples: pd.DataFrame) -> Styler:
    """Prompts with the reference, and what each model wrote."""
    return samples.style.hide(axis="index").set_properties(
        **{"text-align": "left", "white-space": "pre-wrap", "vertical-align": "top"}
    )


def model_name(iteration: str, seed: int) -> str:
    """How tables name a model."""
    return "base" if iteration == "base" else f"row {iteration}, seed {seed}"


def conclude_sampling(sample: Sample, leaked: pd.DataFrame) -> Markdown:
    """One sentence from the numbers."""
    trained = int((sample.table["part"] == "train").sum())
    share = leaked.loc["all", "random split: outputs leaked"]
    clusters = "" if sample.clusters is None else f" from {len(sample.clusters.centres)} clusters"
    return Markdown(
        f"**{trained:,} rows{clusters} will be trained on; a random split of this corpus would have shown the model "
        f"{share:.0%} of its test answers beforehand, and this one shows it none.**"
    )


def conclude_preprocessing(table: pd.DataFrame, made: Examples) -> Markdown:
    """One sentence from the numbers."""
    passed = int((table["verdict"] == "pass").sum())
    train = made.counts.loc["train"]
    return Markdown(
        f"**All {passed} checks hold for all {train['examples']:,} examples; {train['trained tokens']:,} of their "
        f"{train['tokens']:,} tokens are trained, {train['cut to fit']:,} were cut to fit "
        f"and {train['dropped']:,} dropped.**"
    )


def conclude_training(log: pd.DataFrame) -> Markdown:
    """One sentence from the numbers."""
    losses = log["validation_loss"].dropna()
    lowest = log.loc[losses.idxmin()]
    verb = "falls" if losses.iloc[-1] < losses.iloc[0] else "does not fall"
    sentence = f"**The validation loss {verb}: {losses.iloc[0]:.3f} before training, {losses.iloc[-1]:.3f} after it"
    if losses.idxmin() != losses.index[-1]:
        sentence += f" (lowest at step {lowest['step']:,.0f}: {losses.min():.3f})"
    return Markdown(sentence + ".**")


def conclude_evaluation(config: Config, table: pd.DataFrame, found: pd.DataFrame) -> Markdown:
    """One sentence from the numbers."""
    means = found.groupby("metric")["value"].mean()
    cut = (table["ids"].map(len) >= config.evaluation.max_new_tokens).mean()
    return Markdown(
        f"**{model_name(config.iteration, config.seed).capitalize()}: BLEU {means['bleu']:.1f}, ROUGE-L "
        f"{means['rougeL']:.1f}, Weighted F1 {means['weighted_f1']:.3f}; {cut:.0%} of its completions were still going "
        f"when their {config.evaluation.max_new_tokens} tokens were used up.**"
    )


def conclude_report(summary: pd.DataFrame, page: Path) -> Markdown:
    """One sentence for each trained model: which metrics rose or fell with intervals that do not touch."""
    lines = []
    base = summary[summary["iteration"] == "base"].set_index("metric")
    for (iteration, seed), part in summary[summary["iteration"] != "base"].groupby(["iteration", "seed"]):
        own = part.set_index("metric")
        up = [METRIC_NAMES[m] for m in own.index if own.loc[m, "low"] > base.loc[m, "high"]]
        down = [METRIC_NAMES[m] for m in own.index if own.loc[m, "high"] < base.loc[m, "low"]]
        lines.append(
            f"**{model_name(iteration, seed).capitalize()} against the base, by intervals that do not touch: better in "
            f"{', '.join(up) or 'nothing'}; worse in {', '.join(down) or 'nothing'}.** The report is `{page.name}`."
        )
    return Markdown("\n\n".join(lines))


def _digits(metric: str) -> int:
    return 3 if metric == "weighted_f1" else 1


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
