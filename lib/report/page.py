"""The report: results.csv, summary.csv, manifest.json, and one page that opens without a network."""

import json
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from lib import paths
from lib.config import OWN_TOKENS, Config, Lora
from lib.corpus import likeness, splits
from lib.evaluation import benchmarks, completions, floors, metrics, scoring, statistics
from lib.evaluation.metrics import METRIC_NAMES
from lib.model import generation
from lib.preference import outcome
from lib.release import cards, finished
from lib.report import ablation, conclusions, drawing, inline, look, provenance
from lib.storage import whole, write_json


class ReportError(ValueError):
    """Something that the report needs is not there; the message says what to run."""


def collect(configs: list[Config], bounds: pd.DataFrame) -> pd.DataFrame:
    """All scores of a run in one tidy table, written to results.csv: base first, then the trainings in order.

    Then floors and ceiling. Iterations that share a training have the same scores, under their own names.

    Args:
        bounds: table of `floors.measure`.
    """
    tables = []
    for config in configs:
        path = config.paths.scores(config.name)
        if not path.is_file():
            raise ReportError(f"no scores of {config.name} in run {config.run!r} yet: run `{config.paths.command}`")
        spoken = pd.read_csv(config.paths.language(config.name), dtype={"iteration": str})
        own = [pd.read_csv(path, dtype={"iteration": str}), spoken[spoken["metric"] == "loss_per_byte_en"]]
        if config.benchmarks.tasks:
            own.append(benchmarks.scores(config))
        tables += [table.assign(iteration=config.iteration) for table in own]
    results = pd.concat([*tables, bounds], ignore_index=True)
    with whole(configs[0].paths.results) as temporary:
        results.to_csv(temporary, index=False)
    return results


def summarise(configs: list[Config], results: pd.DataFrame) -> pd.DataFrame:
    """The means of every model's scores with their intervals (`statistics.summarise`), written to summary.csv.

    Args:
        results: of `collect`.
    """
    models = results[~results["iteration"].isin([floors.CEILING, *floors.FLOORS])]
    summary = statistics.summarise(models, scoring.all_pairs(configs, completions.PROTOCOLS))
    with whole(configs[0].paths.summary) as temporary:
        summary.to_csv(temporary, index=False)
    return summary


def side_by_side(configs: list[Config]) -> pd.DataFrame:
    """This project's own prompts, all of them, with what each model answers: text of the corpus is not for a page that
    may be published.

    Returns:
        A line a prompt: subset, prompt, and a column for each model.
    """
    asked = completions.own_prompts()
    table = asked[completions.OWN].rename(columns={"subset_name": "subset", "input": "prompt"})
    for config in configs:
        answers = completions.read(config, asked).set_index("row")["text"]
        table[look.model_name(config.iteration, config.seed)] = answers.reindex(table.index)
    return table


def write(
    configs: list[Config],
    picked: Config,
    summary: pd.DataFrame,
    against_base: pd.DataFrame,
    against_floors: pd.DataFrame,
    samples: pd.DataFrame,
    tables: dict[str, Styler],
    failed: dict[str, str],
    nested: dict[str, Any],
    bounds: pd.DataFrame,
    benchmarked: pd.DataFrame,
    answer: str,
    tried: pd.DataFrame,
) -> Path:
    """Write manifest.json and report.html, put the picked adapter where the chat finds it, and return the page's path.

    Args:
        configs: every model of the run, base first.
        picked: the one that the page calls "the adapter".
        summary: of the clean protocol (`summarise`).
        against_base: every training against the base (`ablation.comparisons`).
        against_floors: the picked one against answers without a model (`ablation.against_floors`).
        samples: of base and picked (`side_by_side`).
        tables: shown as they are, by the names that the template knows.
        failed: for each training that is missing, why.
        nested: what the wrongly nested BLEU makes of the picked one's completions (`ablation.nested_verdict`).
        bounds: floors and ceiling of the clean protocol (`floors.measure`).
        benchmarked: the picked one against the base on the benchmarks (`benchmarks.compare`); may be empty.
        answer: what the first outcome says to the profile's question (`conclusions.answer`).
        tried: what the recipes were chosen from (`ablation.tries`); may be empty.
    """
    files, trained = picked.paths, [config for config in configs if config.has_adapter]
    trainings = ablation.trainings(trained)
    made = provenance.manifest(configs, picked)
    write_json(files.manifest, made)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["first_upper"] = conclusions.first_upper
    two = [configs[0], picked]
    shown = summary[[(i, s) in {(c.iteration, c.seed) for c in two} for i, s in summary[["iteration", "seed"]].values]]
    found = verdicts(shown, against_base[against_base["iteration"] == picked.iteration], bounds)
    page = environment.get_template("report.html.j2").render(
        config=picked,
        # The page may be published.
        manifest=cards.public(made),
        scores=_score_rows(shown, found),
        test_rows=len(completions.test_rows(picked, splits.read(picked))["clean"]),
        trained_rows=int((pd.read_parquet(files.sample(picked.sampled_as))["part"] == "train").sum()),
        corpus=json.loads(files.corpus_summary.read_text()),
        verdicts=found,
        floors=floors.FLOORS,
        beside_floors=conclusions.beside_floors(against_floors),
        alike_from=likeness.BOUND,
        english=_english(two),
        pretrained=_pretrained(picked),
        resamples=int(against_base["resamples"].iloc[0]),
        test_groups=int(against_base["groups"].iloc[0]),
        equal_groups=_equal_groups(picked),
        signatures=_signatures(),
        samples=samples.to_dict("records"),
        own_tokens=OWN_TOKENS,
        models=[look.model_name(c.iteration, c.seed) for c in two],
        # Rows that are alike share a training.
        trainings=len({c.name for c in trained}),
        rows=[row for row in dict.fromkeys(c.iteration for c in trained) if row.isdigit()],
        chosen_among=ablation.candidates(trainings)["iteration"].unique().tolist(),
        pooled=sum(c.iteration == picked.iteration for c in trained),
        asked_otherwise={drawing.words(c.iteration): c.evaluation for c in configs[1:] if not c.has_adapter},
        apart=_apart(summary),
        against_5=len({c.iteration for c in trained}) > 1 and "5" in {c.iteration for c in trained},
        training=_training(picked),
        cut=_cut(two),
        nested=nested,
        figure=lambda name, caption="": inline.figure(files.figures, name, caption),
        tables={name: table.set_uuid(name).to_html() for name, table in tables.items()},
        failed={name: cards.public_text(why) for name, why in failed.items()},
        again=cards.public_command(files.command),
        rule=ablation.RULE,
        chosen_from=conclusions.chosen_from(trainings),
        # What stands in for the paper's.
        ratio_of_rows=Lora().loraplus_lr_ratio,
        picked=look.model_name(picked.iteration, picked.seed),
        studies=list(ablation.studies(configs)),
        benchmarks=benchmarked.to_dict("records"),
        benchmarks_say=conclusions.benchmarks(benchmarked),
        answer=answer,
        tries_say=conclusions.tries(tried, trainings),
        voted=_voted(configs[0], picked),
        recipes=list(ablation.recipes(configs)),
        plain=picked.lora.loraplus_lr_ratio == 1,
        runs=int(summary["runs"].max()),
        seeds=sorted({c.seed for c in trained}),
    )
    with whole(files.final_adapter) as temporary:
        shutil.copytree(files.adapter(picked.name), temporary)
    cards.write(finished.read(picked.run))
    with whole(files.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return files.report


def verdicts(summary: pd.DataFrame, comparison: pd.DataFrame, bounds: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By metric of a summary of two models: base, adapter, where it goes, and whether that is more than chance.

    And, for metrics of completions, the best answer without a model (`floor`, and `by` which), the `ceiling`, and which
    `share` of the room between them the adapter has taken: below 0 where it is below the floor, and none where there is
    no room.
    """
    room = floors.room(bounds)
    differs = comparison.set_index("metric")["differs"]
    base = summary[summary["iteration"] == "base"].set_index("metric")
    own = summary[summary["iteration"] != "base"].set_index("metric")
    found = {}
    for metric in metrics.METRICS:
        before, after = base.loc[metric, "mean"], own.loc[metric, "mean"]
        found[metric] = {
            "name": METRIC_NAMES[metric],
            "before": before,
            "after": after,
            "rises": bool(after > before),
            "better": bool(after < before if metric in metrics.LOWER_IS_BETTER else after > before),
            "differs": bool(differs[metric]),
        }
        if metric in room.index:
            floor, by, ceiling = room.loc[metric]
            found[metric] |= {"floor": floor, "by": by, "ceiling": ceiling}
            if ceiling > floor:
                found[metric]["share"] = (after - floor) / (ceiling - floor)
    return found


def _apart(summary: pd.DataFrame) -> dict[str, float]:
    """How far the seeds of each row or recipe that has several are apart, in bits a byte of the test answers."""
    bits = summary[summary["metric"] == "loss_per_byte"].groupby("iteration", sort=False)["mean"]
    return {drawing.words(str(name)): part.max() - part.min() for name, part in bits if len(part) > 1}


def _voted(base: Config, picked: Config) -> dict[str, Any] | None:
    """What training on people's votes made of the picked adapter; None where it was not trained on any."""
    after = outcome.scored(picked)
    if after is None:
        return None
    table, compared = pd.read_parquet(picked.paths.voted), ablation.voted(picked, after)
    models = [base, picked, after]
    # Iterations that share a training have the same scores, under the name of the first.
    tables = [
        pd.read_csv(one.paths.scores(one.name), dtype={"iteration": str}).assign(iteration=one.iteration)
        for one in models
    ]
    scores = ablation.of_models(pd.concat(tables), "clean")
    shown = statistics.summarise(scores, scoring.all_pairs(models, ["clean"]))
    asked = benchmarks.compare([picked], [after])
    return {
        "votes": conclusions.votes(table),
        "says": conclusions.voted(table, compared),
        "held_out": outcome.held_out(table),
        "english": _english([picked, after]),
        "settings": json.loads((picked.paths.adapter(after.name) / paths.ADAPTER_RECORD).read_text())["preference"],
        "scores": look.scores(shown).set_uuid("voted_scores").to_html(),
        "compared": look.comparisons(compared).set_uuid("voted").to_html(),
        "benchmarks": ""
        if asked.empty
        else look.benchmarked(asked, "before", "after").set_uuid("voted_benchmarks").to_html(),
        "adapter": picked.paths.adapter(after.name).relative_to(paths.ROOT),
    }


def _equal_groups(config: Config) -> float:
    """How many groups of equal size say as much of a mean over the clean test rows as theirs do (Kish 1965)."""
    sizes = scoring.read_pairs(config, "clean").drop_duplicates("row")["group"].value_counts()
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _english(two: list[Config]) -> dict[str, list[float]]:
    """What English is like before and after: by metric of the english protocol, the values of base and adapter."""
    tables = [pd.read_csv(config.paths.language(config.name)) for config in two]
    values = [table[table["protocol"] == "english"].set_index("metric")["value"] for table in tables]
    return {str(name): [float(value[name]) for value in values] for name in values[0].index}


def _pretrained(config: Config) -> dict[str, float] | None:
    """What the demo's base model read in its pretraining, as shares of the tokens; None for another base model."""
    record = paths.DEMO_BASE_MODEL / "pretraining.json"
    if config.model.base_model != "demo" or not record.is_file():
        return None
    tokens = json.loads(record.read_text(encoding="utf-8"))["tokens_of_a_pass"]
    return {kind: count / sum(tokens.values()) for kind, count in tokens.items()}


def _score_rows(summary: pd.DataFrame, found: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """One line per metric: base and adapter with their intervals and, of `verdicts`, the room in which they lie."""
    table = look.scores(summary).data
    lines = []
    for metric, verdict in found.items():
        line = {"metric": verdict["name"], **table.loc[verdict["name"]], "floor": "", "ceiling": "", "share": ""}
        for end in ("floor", "ceiling"):
            if end in verdict:
                line[end] = f"{verdict[end]:.{metrics.digits(metric)}f}"
        if "share" in verdict:
            line["share"] = f"{100 * verdict['share']:.1f} %"
        lines.append(line | {"by": verdict.get("by", "")})
    return lines


def _signatures() -> dict[str, str]:
    rouge = f"rouge_score {version('rouge-score')}, F-measure, no stemming"
    return {"BLEU": metrics.bleu(["a"], ["a"])[1], "chrF++": metrics.chrf(["a"], ["a"])[1], "ROUGE": rouge}


def _training(config: Config) -> dict[str, Any]:
    log = pd.read_csv(config.paths.training_log(config.name))
    losses = log["validation_loss"].dropna()
    return {
        "file": f"training_{config.name}",
        "steps": int(log["step"].max()),
        "first": losses.iloc[0],
        "last": losses.iloc[-1],
        "lowest": losses.min(),
        "speed": log["tokens_per_second"].median(),
    }


def _cut(configs: list[Config]) -> dict[str, float]:
    """For each model, the share of completions that reached the limit of tokens."""

    def lengths(config: Config) -> Iterator[int]:
        return (len(record["ids"]) for record in generation.read_completions(config.paths.completions(config.name)))

    return {
        look.model_name(c.iteration, c.seed): float(
            np.mean([length >= c.evaluation.max_new_tokens for length in lengths(c)])
        )
        for c in configs
    }
