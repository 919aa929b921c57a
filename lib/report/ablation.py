"""Comparisons of rows, from the files that their trainings and evaluations left.

Everything here comes from the same completions as the scores; nothing is decoded again.
"""

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lib.config import STUDIES, Config
from lib.corpus import splits
from lib.evaluation import completions, metrics, scoring, statistics
from lib.parameters import rows
from lib.report import look

#: How the best row is found, as the report says before it shows a score.
RULE = (
    "The best row of Table 2 is the one whose validation loss is lowest at the end of its training, as the mean over "
    "its seeds. Validation rows are from groups that neither training nor test has, the same for every row; test "
    "scores play no part."
)

#: The scores of English answers, and what `english.measure` calls them.
_ENGLISH = {"loss_per_byte": "loss_per_byte_en", "rougeL": "rougeL"}


class AblationError(ValueError):
    """There is nothing to compare; the message says why."""


def finished(configs: list[Config]) -> tuple[list[Config], dict[str, str]]:
    """The models that were evaluated, base first, and for each training that failed the sentence that says why.

    Raises:
        AblationError: if no training is left.
    """
    left, failed = configs[:1], {}
    for config in configs[1:]:
        chain = (
            f"1_sampling_{config.sampled_as}",
            f"2_preprocessing_{config.prepared_as}",
            f"3_training_{config.name}",
            f"4_evaluation_{config.name}",
        )
        found = [config.paths.failure(stage) for stage in chain if config.paths.failure(stage).is_file()]
        if found:
            # What follows the first line is advice for the terminal.
            why = json.loads(found[0].read_text(encoding="utf-8")).partition("\n")[0]
            failed[look.model_name(config.iteration, config.seed)] = why
        else:
            left.append(config)
    if len(left) == 1:
        name, why = next(iter(failed.items()))
        raise AblationError(f"no training of run {configs[0].run!r} finished; {name}: {why}")
    return left, failed


def trainings(configs: list[Config]) -> pd.DataFrame:
    """What each training gave: iteration, seed, rows (trained on), steps, train_loss and validation_loss at its end,
    and first and lowest, the validation losses before training and at their lowest (nats a token).
    """
    found = []
    for config in configs[1:]:
        log = pd.read_csv(config.paths.training_log(config.name))
        sample = pd.read_parquet(config.paths.sample(config.sampled_as), columns=["part"])
        losses = log["validation_loss"].dropna()
        found.append(
            {
                "iteration": config.iteration,
                "seed": config.seed,
                "rows": int((sample["part"] == "train").sum()),
                "steps": int(log["step"].max()),
                "train_loss": log["train_loss"].dropna().iloc[-1],
                "validation_loss": losses.iloc[-1],
                "first": losses.iloc[0],
                "lowest": losses.min(),
            }
        )
    return pd.DataFrame(found)


def pick(configs: list[Config]) -> Config:
    """The training that becomes the final adapter: of the best row by `RULE`, its first seed.

    Where no row of Table 2 was trained, the first training.
    """
    table = trainings(configs)
    known = table[table["iteration"].isin(rows())]
    if known.empty:
        return configs[1]
    best = known.groupby("iteration", sort=False)["validation_loss"].mean().idxmin()
    return next(config for config in configs[1:] if config.iteration == best)


def comparisons(configs: list[Config], against: str) -> pd.DataFrame:
    """Every training against one model, by the paired bootstrap over the test groups of the clean protocol.

    Seeds of one row are taken together as more decoding runs. The p-values are adjusted by Holm's method over all rows
    and metrics of this table.

    Returns:
        The columns of `statistics.paired_bootstrap` with `iteration` in front, `p_adjusted`, `differs`, whether that
        is below 5 %, and `resamples`, how many there were. Empty if `against` was not evaluated, or nothing else was.
    """
    pairs = dict(_pairs(configs, "clean"))
    # The least p-value is 1 / (1 + resamples). With fewer, Holm's factor alone would lift it above 5 %.
    resamples = max(1000, 40 * len(pairs) * len(metrics.METRICS))
    before = pairs.pop(against, None)
    pairs.pop("base", None)
    if before is None or not pairs:
        return pd.DataFrame()
    tables = [
        statistics.paired_bootstrap(before, after, metrics.METRICS, resamples).assign(iteration=iteration)
        for iteration, after in pairs.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "iteration", table.pop("iteration"))
    table["p_adjusted"] = statistics.holm(table["p_value"])
    return table.assign(differs=table["p_adjusted"] < 0.05, resamples=resamples)


def _pairs(configs: list[Config], protocol: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Iteration after iteration, what its scores are made of, with the runs of further seeds as further runs."""
    for iteration in dict.fromkeys(c.iteration for c in configs):
        tables, runs = [], 0
        for config in configs:
            if config.iteration == iteration:
                table = scoring.read_pairs(config, protocol)
                tables.append(table.assign(run=table["run"] + runs))
                runs += table["run"].nunique()
        yield iteration, pd.concat(tables, ignore_index=True)


def leak_worth(config: Config) -> pd.DataFrame:
    """What leaked test rows are worth to one model: subset, metric, and its score under each protocol.

    The last subset is `all`. A score is the mean over decoding runs.
    """
    tables = {protocol: scoring.read_pairs(config, protocol) for protocol in completions.PROTOCOLS}
    subsets = [*sorted(set(tables["clean"]["subset"]) & set(tables["paper"]["subset"])), "all"]
    found = []
    for metric in ("bleu", "rougeL"):
        for subset in subsets:
            scores = {}
            for protocol, table in tables.items():
                part = table if subset == "all" else table[table["subset"] == subset]
                scores[protocol] = np.mean([scoring.score_pairs(run, metric) for _, run in part.groupby("run")])
            found.append({"subset": subset, "metric": metric, **scores})
    return pd.DataFrame(found)


def leaked_share(config: Config) -> pd.DataFrame:
    """For each protocol, the share of its test rows whose row, output or group is in this training's sample."""
    split = splits.read(config)
    sample = pd.read_parquet(config.paths.sample(config.sampled_as))
    trained = split.iloc[sample.loc[sample["part"] == "train", "position"]]
    found = {}
    for protocol, tested in completions.test_rows(config, split).items():
        part = split.loc[tested.index]
        found[protocol] = {what: part[what].isin(trained[what]).mean() for what in ("pair", "output", "group")}
    return pd.DataFrame(found).T.rename(columns={"pair": "row"})


def studies(configs: list[Config]) -> dict[str, list[Config]]:
    """The trainings of each study that was asked for: row 5, which they vary, and the variants."""
    found = {study: [c for c in configs if c.iteration.startswith(f"{study}_")] for study in STUDIES}
    return {study: [c for c in configs if c.iteration == "5"] + some for study, some in found.items() if some}


def scores_of(configs: list[Config], results: pd.DataFrame) -> pd.DataFrame:
    """The lines of tidy results that are these iterations', or the base model's."""
    return results[results["iteration"].isin({"base", *(c.iteration for c in configs)})]


def of_table2(results: pd.DataFrame) -> pd.DataFrame:
    """The lines of tidy results that are the base model's, or a row's of the paper's Table 2: no study's."""
    return results[(results["iteration"] == "base") | results["iteration"].str.isdigit()]


def logs(configs: list[Config]) -> pd.DataFrame:
    """The logs of some trainings, one below the other, with the columns iteration and seed."""
    tables = [
        pd.read_csv(c.paths.training_log(c.name)).assign(iteration=c.iteration, seed=c.seed)
        for c in configs
        if c.iteration != "base"
    ]
    return pd.concat(tables, ignore_index=True)


def nested_bleu(configs: list[Config]) -> pd.DataFrame:
    """BLEU as it should be, and what the wrongly nested call says of the same completions.

    The nested call scores the completion of the first test row alone, so the rows are in the corpus's order.

    Returns:
        iteration, seed, decoding_run, right, nested: one line per model and decoding run of the clean protocol.
    """
    found = []
    for config in configs:
        tests = completions.test_rows(config, splits.read(config))
        decoded = completions.read(config, {"clean": tests["clean"]}).sort_values("row")
        for run, part in decoded.groupby("run"):
            texts, references = part["text"].tolist(), part["reference"].tolist()
            right, nested = metrics.bleu(texts, references)[0], metrics.nested_bleu(texts, references)
            found.append((config.iteration, config.seed, run, right, nested))
    return pd.DataFrame(found, columns=["iteration", "seed", "decoding_run", "right", "nested"])


def english_cost(configs: list[Config]) -> pd.DataFrame:
    """What each model does on English, and how much of its Indonesian answers is Indonesian; one line per model.

    Returns:
        iteration, seed, and the metrics of `english.measure`: loss_per_byte_en, rougeL, english_share and
        reference_english_share (absent where English was not measured), indonesian_share and
        reference_indonesian_share. Beside the first two, the 95 % interval of each over English groups, as
        `loss_per_byte_en_low` and so on.
    """
    found = []
    for config in configs:
        table = pd.read_csv(config.paths.language(config.name), dtype={"iteration": str})
        values = table.groupby("metric", sort=False)["value"].mean()
        bounds: dict[str, float] = {}
        if "english" in set(table["protocol"]):
            known = statistics.intervals(scoring.read_pairs(config, "english"), list(_ENGLISH))
            for line in known.to_dict("records"):
                bounds |= {f"{_ENGLISH[line['metric']]}_{end}": line[end] for end in ("low", "high")}
        found.append({"iteration": config.iteration, "seed": config.seed, **values, **bounds})
    return pd.DataFrame(found)
