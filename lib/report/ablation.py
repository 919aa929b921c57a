"""Comparisons of rows, from the files that their trainings and evaluations left.

Everything here comes from the same completions as the scores; nothing is decoded again.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from lib.config import VARYING, Config
from lib.corpus import splits
from lib.evaluation import completions, floors, metrics, scoring, statistics
from lib.model import loading
from lib.parameters import rows
from lib.report import drawing, look, published

#: How the best row is found, as the report says before it shows a score.
RULE = (
    "The best row of Table 2, or recipe of this project where any was trained, is the one whose validation loss is "
    "lowest at the end of its training, as the mean over its seeds. The adapter is that of the first seed, whether or "
    "not it is the best. Validation rows are from groups that neither training nor test has, the same for every "
    "training; test scores play no part."
)

#: The scores of English answers, and what `english.measure` calls them.
_ENGLISH = {"loss_per_byte": "loss_per_byte_en", "rougeL": "rougeL"}


#: What is asked of leaks.
LEAK_METRICS = ("bleu", "rougeL")


class AblationError(ValueError):
    """There is nothing to compare; the message says why."""


def finished(configs: list[Config]) -> tuple[list[Config], dict[str, str]]:
    """The models that were evaluated, base first, and for each that failed the sentence that says why. Tries are not
    evaluated, and are only told of where they failed.

    Raises:
        AblationError: if no training is left.
    """
    left, failed = configs[:1], {}
    for config in configs[1:]:
        chain = _trained_by(config) if config.has_adapter else []
        if config.plan.scored:
            chain = [*chain, f"4_evaluation_{config.name}"]
        found = [config.paths.failure(stage) for stage in chain if config.paths.failure(stage).is_file()]
        if found:
            # What follows the first line is advice for the terminal.
            why = json.loads(found[0].read_text(encoding="utf-8")).partition("\n")[0]
            failed[look.model_name(config.iteration, config.seed)] = why
        elif config.plan.scored:
            left.append(config)
    if not any(config.has_adapter for config in left):
        name, why = next(iter(failed.items()))
        raise AblationError(f"no training of run {configs[0].run!r} finished; {name}: {why}")
    return left, failed


def _trained_by(config: Config) -> list[str]:
    """The notebooks behind an adapter."""
    return [
        f"1_sampling_{config.sampled_as}",
        f"2_preprocessing_{config.prepared_as}",
        f"3_training_{config.name}",
    ]


def trainings(configs: list[Config]) -> pd.DataFrame:
    """What each training gave: iteration, seed, rows (trained on), steps, train_loss (the mean over its last epoch),
    validation_loss at its end, and first and lowest, the validation losses before training and at their lowest (nats a
    token).
    """
    found = []
    for config in (config for config in configs if config.has_adapter):
        log = pd.read_csv(config.paths.training_log(config.name))
        sample = pd.read_parquet(config.paths.sample(config.sampled_as), columns=["part"])
        losses = log["validation_loss"].dropna()
        last_epoch = log["epoch"] > log["epoch"].max() - 1
        found.append(
            {
                "iteration": config.iteration,
                "seed": config.seed,
                "rows": int((sample["part"] == "train").sum()),
                "steps": int(log["step"].max()),
                "train_loss": log.loc[last_epoch, "train_loss"].mean(),
                "validation_loss": losses.iloc[-1],
                "first": losses.iloc[0],
                "lowest": losses.min(),
            }
        )
    return pd.DataFrame(found)


def pick(configs: list[Config]) -> Config:
    """The training that becomes the final adapter: of the best row or recipe by `RULE`, its first seed.

    Where neither was trained, the first training.
    """
    table = trainings(configs)
    known = candidates(table)
    if known.empty:
        known = table.head(1)
    best = known.groupby("iteration", sort=False)["validation_loss"].mean().idxmin()
    return next(config for config in configs if config.iteration == best)


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Of the table of `trainings` those between which `RULE` chooses. Variants of row 5 are not chosen from."""
    return table[table["iteration"].isin(rows()) | table["iteration"].str.startswith("recipe_")]


def recipes(configs: list[Config]) -> dict[str, list[Config]]:
    """The seeds of each recipe that was trained, by its iteration."""
    found: dict[str, list[Config]] = {}
    for config in configs:
        if config.iteration.startswith("recipe_"):
            found.setdefault(config.iteration, []).append(config)
    return found


def tries(configs: list[Config]) -> pd.DataFrame:
    """What the recipes were tried against: their trainings by the first seed, and those of the study `tries`.

    Args:
        configs: as they were asked for; those that did not finish are left out.

    Returns:
        iteration (a recipe's own name where it is one), learning_rate (of A), ratio, epochs, rows and validation_loss
        (nats a token, at the end of the training), the best first. Empty where no try was asked for.
    """
    first = min((config.seed for config in configs if config.iteration.startswith("tries_")), default=0)
    asked = {
        config.name: config
        for config in configs
        if config.iteration.startswith(("recipe_", "tries_"))
        and config.seed == first
        and not any(config.paths.failure(stage).is_file() for stage in _trained_by(config))
    }
    if not any(config.iteration.startswith("tries_") for config in asked.values()):
        return pd.DataFrame()
    settings = pd.DataFrame(
        {
            "iteration": config.trained_as,
            "learning_rate": config.training.learning_rate,
            "ratio": config.lora.loraplus_lr_ratio,
            "epochs": config.training.epochs,
        }
        for config in asked.values()
    )
    found = trainings(list(asked.values()))[["rows", "validation_loss"]]
    return settings.join(found).sort_values("validation_loss", ignore_index=True)


def plus_by_seed(results: pd.DataFrame) -> list[float]:
    """How much more bits a byte of the Indonesian reviews of NusaX the recipe with LoRA+ takes than that with plain
    LoRA, a seed each; empty where the two have no seed in common, or no NusaX.

    Args:
        results: tidy, as in results.csv.
    """
    reviews = results[(results["protocol"] == "nusax") & (results["metric"] == "loss_per_byte")]
    plus, plain = (
        reviews[reviews["iteration"] == name].set_index("seed")["value"] for name in ("recipe_loraplus", "recipe_lora")
    )
    return (plus - plain).dropna().sort_index().tolist()


def comparisons(configs: list[Config], against: str) -> pd.DataFrame:
    """Every training against one model, by the paired bootstrap over the test groups of the clean protocol.

    Seeds of one row are taken together as more decoding runs. The p-values are adjusted by Holm's method over all rows
    and metrics of this table.

    Returns:
        The columns of `statistics.paired_bootstrap` with `iteration` in front, `p_adjusted`, `differs`, whether that
        is below 5 %, and `resamples`, how many there were. Empty if `against` was not evaluated, or nothing else was.
    """
    pairs = dict(_pairs(configs, "clean"))
    count = len(pairs) * len(metrics.METRICS)
    before = pairs.pop(against, None)
    if against != "base":
        pairs = {iteration: after for iteration, after in pairs.items() if not drawing.is_base(iteration)}
    if before is None or not pairs:
        return pd.DataFrame()
    return _tested({iteration: (before, after) for iteration, after in pairs.items()}, metrics.METRICS, count)


def against_floors(config: Config, protocol: str = "clean") -> pd.DataFrame:
    """One model against every answer without a model, as `comparisons` has trainings against a model.

    Returns:
        Its columns; `iteration` names the floor, and a positive difference is the model's.
    """
    own, known = scoring.read_pairs(config, protocol), floors.all_pairs(config, protocol)
    sides = {name: (known[name, 0, protocol], own) for name in floors.FLOORS}
    return _tested(sides, metrics.OF_COMPLETIONS, len(sides) * len(metrics.OF_COMPLETIONS))


def voted(before: Config, after: Config) -> pd.DataFrame:
    """The final adapter after its training on votes against before, as `comparisons` has trainings against a model."""
    sides = {after.iteration: (scoring.read_pairs(before, "clean"), scoring.read_pairs(after, "clean"))}
    return _tested(sides, metrics.METRICS, len(metrics.METRICS))


def _tested(
    sides: dict[str, tuple[pd.DataFrame, pd.DataFrame]], names: tuple[str, ...], comparisons: int
) -> pd.DataFrame:
    """The paired bootstrap of each two sides, under one correction."""
    # The least p-value is 1 / (1 + resamples). With fewer, Holm's factor alone would lift it above 5 %.
    resamples = max(1000, 40 * comparisons)
    tables = [
        statistics.paired_bootstrap(before, after, names, resamples).assign(iteration=iteration)
        for iteration, (before, after) in sides.items()
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


def leak_worth(config: Config, answered_by: Config | None = None) -> pd.DataFrame:
    """What it is worth to one model that a left-over row's group was trained on, by subset and over all.

    Leaked and other rows are both left over by the same draw and in the same subset, so that nothing but the leak parts
    them by design. Over all there are two weighted means of the subsets' differences: with the rows that are tested
    here, and with Cendol's where the subsets are its own, and not others under its names. Subsets without rows or
    groups enough on both sides are left out of them.

    Args:
        answered_by: the model whose answers are scored, where it is not the one that was trained: of the base model
            nothing is expected, since it has seen neither side in this training.

    Returns:
        subset (or what it is weighted by), metric, apart and leaked (the scores), difference, low and high (95 %, over
        groups; for the weighted means by the subsets' standard errors), groups_apart, groups_leaked, rows.
    """
    table = scoring.read_pairs(answered_by or config, "paper")
    sample = pd.read_parquet(config.paths.sample(config.sampled_as))
    positions = sample.loc[sample["part"] == "train", "position"]
    leaked = table["group"].isin(splits.read(config)["group"].loc[positions])
    found = []
    for subset, part in table.groupby("subset", observed=True):
        sides = part[~leaked[part.index]], part[leaked[part.index]]
        if min(side["group"].nunique() for side in sides) > 1:
            rows = statistics.unpaired_bootstrap(*sides, names=LEAK_METRICS)
            names = {"one": "apart", "other": "leaked", "groups_one": "groups_apart", "groups_other": "groups_leaked"}
            found.append(rows.rename(columns=names).assign(subset=subset, rows=part["row"].nunique()))
    columns = [
        "subset",
        "metric",
        "apart",
        "leaked",
        "difference",
        "low",
        "high",
        "groups_apart",
        "groups_leaked",
        "rows",
    ]
    if not found:
        return pd.DataFrame(columns=columns)
    by_subset = pd.concat(found, ignore_index=True)[columns]
    weights = {"all, as tested": by_subset.set_index("subset")["rows"]}
    of_cendol = published.cendol_subsets()
    if config.corpus.source != "open" and by_subset["subset"].isin(of_cendol.index).all():
        weights["all, as in Cendol"] = of_cendol
    over_all = []
    for metric, part in by_subset.groupby("metric", sort=False):
        part = part.set_index("subset")
        for name, rows in weights.items():
            share = rows.groupby(level=0).first().reindex(part.index).fillna(0)
            share /= share.sum()
            mean = part[["apart", "leaked", "difference"]].mul(share, axis=0).sum()
            # A 95 % interval is 2 x 1.96 standard errors wide; the subsets are drawn independently.
            half = float(np.sqrt((((part["high"] - part["low"]) / 2 * share) ** 2).sum()))
            interval = {"low": mean["difference"] - half, "high": mean["difference"] + half}
            groups = part[["groups_apart", "groups_leaked", "rows"]].sum()
            over_all.append({"subset": name, "metric": metric, **mean, **interval, **groups})
    return pd.concat([by_subset, pd.DataFrame(over_all)[columns]], ignore_index=True)


def leaked_share(config: Config) -> pd.DataFrame:
    """For clean and paper test rows, the share whose row, output or group is in this training's sample."""
    split = splits.read(config)
    sample = pd.read_parquet(config.paths.sample(config.sampled_as))
    trained = split.iloc[sample.loc[sample["part"] == "train", "position"]]
    found = {}
    tests = completions.test_rows(config, split)
    for protocol in ("clean", "paper"):
        part = split.loc[tests[protocol].index]
        found[protocol] = {what: part[what].isin(trained[what]).mean() for what in ("pair", "output", "group")}
    return pd.DataFrame(found).T.rename(columns={"pair": "row"})


def studies(configs: list[Config]) -> dict[str, list[Config]]:
    """The trainings of each study that varies row 5: that row, and the variants."""
    found = {study: [c for c in configs if c.iteration.startswith(f"{study}_")] for study in VARYING}
    return {study: [c for c in configs if c.iteration == "5"] + some for study, some in found.items() if some}


def scores_of(configs: list[Config], results: pd.DataFrame) -> pd.DataFrame:
    """The lines of tidy results that are these iterations', or the base model's."""
    return results[results["iteration"].isin({"base", *(c.iteration for c in configs)})]


def of_models(results: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The lines of tidy results that are models' in one protocol: no floor's, nor the ceiling's."""
    return results[(results["protocol"] == protocol) & ~results["iteration"].isin([floors.CEILING, *floors.FLOORS])]


def compared(results: pd.DataFrame) -> pd.DataFrame:
    """The lines of tidy results that the main figures show: of the base model, as it is and asked in other words, of
    rows of the paper's Table 2, and of recipes; of no variant of row 5.
    """
    names = results["iteration"]
    return results[names.str.isdigit() | names.str.startswith("recipe_") | names.map(drawing.is_base).astype(bool)]


def logs(configs: list[Config]) -> pd.DataFrame:
    """The logs of some trainings, one below the other, with the columns iteration and seed."""
    tables = [
        pd.read_csv(c.paths.training_log(c.name)).assign(iteration=c.iteration, seed=c.seed)
        for c in configs
        if c.has_adapter
    ]
    return pd.concat(tables, ignore_index=True)


def nested_bleu(configs: list[Config]) -> pd.DataFrame:
    """What the wrongly nested call says of the completions behind the scores, for every choice of its first row.

    References are cut as for the scores.

    Returns:
        iteration, seed, row, mean, sd: one line per model and test row of the clean protocol, over the decoding runs.
    """
    found = []
    for config in configs:
        tests = completions.test_rows(config, splits.read(config))
        decoded = completions.read(config, {"clean": tests["clean"]}).sort_values(["run", "row"])
        tokenizer = loading.load_tokenizer(config.model)
        for run, part in decoded.groupby("run"):
            references = scoring.first_tokens(tokenizer, part["reference"].tolist(), config.evaluation.reference_tokens)
            values = metrics.nested_bleu(part["text"].tolist(), references)
            keys = {"iteration": config.iteration, "seed": config.seed, "row": part["row"], "run": run}
            found.append(pd.DataFrame(keys | {"value": values}))
    rows = pd.concat(found).groupby(["iteration", "seed", "row"], sort=False)["value"]
    return rows.agg(["mean", "std"]).rename(columns={"std": "sd"}).reset_index()


def nested_verdict(table: pd.DataFrame, printed: pd.DataFrame, picked: str) -> dict[str, Any]:
    """How far the paper's BLEU may have come from the wrongly nested call, by the choices of the first row.

    Args:
        table: of `nested_bleu`, with the lines of the base model and of one seed of `picked`.
        printed: of `published.table3`.

    Returns:
        Of the picked model: rows (the choices); low, median and high of their means (the central 95 %), sd_low,
        sd_median and sd_high of their deviations over decoding runs; models (how many the paper has), means_within and
        sds_within (how many of its means and of its deviations are in those ranges). base_low and base_high, the range
        of the base model's means, and base_within, whether the mean that the paper has for its base is in it.
        explains: at least nine in ten of the paper's means and deviations, and its base, are in those ranges.
    """
    bleu = printed[printed["metric"] == "bleu"]
    own, base = table[table["iteration"] == picked], table[table["iteration"] == "base"]
    low, median, high = own["mean"].quantile([0.025, 0.5, 0.975])
    sd_low, sd_median, sd_high = own["sd"].quantile([0.025, 0.5, 0.975])
    base_low, base_high = base["mean"].quantile([0.025, 0.975])
    means, deviations = bleu["mean"].between(low, high), bleu["sd"].between(sd_low, sd_high)
    base_within = bool(bleu.loc[bleu["iteration"] == "base", "mean"].between(base_low, base_high).all())
    return {
        "rows": len(own),
        "low": low,
        "median": median,
        "high": high,
        "sd_low": sd_low,
        "sd_median": sd_median,
        "sd_high": sd_high,
        "base_low": base_low,
        "base_high": base_high,
        "base_within": base_within,
        "models": len(bleu),
        "means_within": int(means.sum()),
        "sds_within": int(deviations.sum()),
        "explains": bool(min(means.mean(), deviations.mean()) >= 0.9 and base_within),
    }


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
