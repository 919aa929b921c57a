"""The report: results.csv, manifest.json, and one page that opens without a network."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from lib import evaluation, generation, look, metrics, provenance, splits
from lib.config import Config
from lib.plots import METRIC_NAMES
from lib.storage import whole, write_json


class ReportError(ValueError):
    """Something that the report needs is not there; the message says what to run."""


def collect(configs: list[Config]) -> pd.DataFrame:
    """All scores of a run in one tidy table, written to results.csv: base first, then the trainings in order."""
    tables = []
    for config in configs:
        path = config.paths.scores(config.name)
        if not path.is_file():
            raise ReportError(
                f"no scores of {config.name} in run {config.run!r} yet: run `make report RUN={config.run}`"
            )
        tables.append(pd.read_csv(path, dtype={"iteration": str}))
    results = pd.concat(tables, ignore_index=True)
    with whole(configs[0].paths.results) as temporary:
        results.to_csv(temporary, index=False)
    return results


def side_by_side(configs: list[Config], count: int, seed: int = 0) -> pd.DataFrame:
    """Test prompts drawn at random with the reference and every model's completion in the first decoding run.

    The subsets are drawn as evenly as they allow; which rows they are depends on the seed alone, not on how good the
    completions turned out.
    """
    rows = evaluation.test_rows(configs[0], splits.read(configs[0]))
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = rows.iloc[order]
    turn = shuffled.groupby("subset_name").cumcount()
    chosen = shuffled.iloc[np.argsort(turn.to_numpy(), kind="stable")[:count]]
    table = chosen.rename(columns={"subset_name": "subset", "input": "prompt", "output": "reference"})
    for config in configs:
        completions = evaluation.read(config, rows)
        first = completions[completions["run"] == 0].set_index("row")["text"]
        table = table.assign(**{look.model_name(config.iteration, config.seed): first.reindex(table.index)})
    return table


def write(configs: list[Config], results: pd.DataFrame, summary: pd.DataFrame, samples: pd.DataFrame) -> Path:
    """Write manifest.json and report.html, put the last adapter where the chat finds it, and return the page's path."""
    config = configs[-1]
    files = config.paths
    made = provenance.manifest(configs)
    write_json(files.manifest, made)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
    )
    shared = {
        "config": config,
        "manifest": made,
        "scores": _score_rows(summary),
        "test_rows": len(evaluation.test_rows(config, splits.read(config))),
        "trained_rows": int((pd.read_parquet(files.sample(config.iteration))["part"] == "train").sum()),
    }
    page = environment.get_template("report.html.j2").render(
        **shared,
        corpus=json.loads(files.corpus_summary.read_text()),
        verdicts=verdicts(summary),
        signatures=_signatures(),
        samples=samples.to_dict("records"),
        models=[look.model_name(c.iteration, c.seed) for c in configs],
        training=_training(configs),
        cut=_cut(configs),
        figure=lambda name: _figure(files.figures / f"{name}.png"),
        runs=int(results["decoding_run"].nunique()),
        seeds=sorted({c.seed for c in configs[1:]}),
    )
    with whole(files.final_adapter) as temporary:
        shutil.copytree(files.adapter(config.name), temporary)
        card = environment.get_template("model_card.md.j2").render(
            **shared, name=look.model_name(config.iteration, config.seed)
        )
        (temporary / "README.md").write_text(card, encoding="utf-8")
    with whole(files.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return files.report


def verdicts(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """For the last training and each metric: base, adapter, the change, and whether their intervals touch."""
    base = summary[summary["iteration"] == "base"].set_index("metric")
    last = summary[summary["iteration"] != "base"].iloc[-1]
    own = summary[(summary["iteration"] == last["iteration"]) & (summary["seed"] == last["seed"])].set_index("metric")
    rows = []
    for metric in metrics.METRICS:
        before, after = base.loc[metric], own.loc[metric]
        apart = after["low"] > before["high"] or after["high"] < before["low"]
        rows.append(
            {
                "metric": metric,
                "name": METRIC_NAMES[metric],
                "before": before["mean"],
                "after": after["mean"],
                "better": bool(after["mean"] > before["mean"]),
                "apart": bool(apart),
            }
        )
    return rows


def _score_rows(summary: pd.DataFrame) -> list[dict[str, str]]:
    table = look.scores(summary).data
    return [{"metric": metric, **row} for metric, row in table.to_dict("index").items()]


def _signatures() -> dict[str, str]:
    return {"BLEU": metrics.bleu(["a"], ["a"])[1], "chrF++": metrics.chrf(["a"], ["a"])[1]}


def _training(configs: list[Config]) -> list[dict[str, Any]]:
    rows = []
    for config in configs[1:]:
        log = pd.read_csv(config.paths.training_log(config.name))
        losses = log["validation_loss"].dropna()
        rows.append(
            {
                "name": look.model_name(config.iteration, config.seed),
                "file": f"training_{config.name}",
                "steps": int(log["step"].max()),
                "first": losses.iloc[0],
                "last": losses.iloc[-1],
                "speed": log["tokens_per_second"].median(),
            }
        )
    return rows


def _cut(configs: list[Config]) -> dict[str, float]:
    """For each model, the share of completions that were still going when their tokens were used up."""

    def lengths(config: Config) -> Iterator[int]:
        return (len(record["ids"]) for record in generation.read_completions(config.paths.completions(config.name)))

    return {
        look.model_name(c.iteration, c.seed): float(
            np.mean([length >= c.evaluation.max_new_tokens for length in lengths(c)])
        )
        for c in configs
    }


def _figure(path: Path) -> str | None:
    """A figure as a data URL, or None where the run has none of that name."""
    if not path.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
