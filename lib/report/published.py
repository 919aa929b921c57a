"""What others published (reports/published), as tidy tables in this project's names and units.

BLEU and ROUGE are 0 to 100, Weighted F1 is 0 to 1, and `iteration` is a text: `base`, `0` ... `9`.
"""

import pandas as pd

from lib import paths


def table2() -> pd.DataFrame:
    """The paper's Table 2, one line per row: its settings under the names of `lib.config`, and two losses.

    Returns:
        Columns iteration, lora_rank, lora_alpha, use_rslora, sampling_method, rows, share, clusters, rows_per_cluster,
        schedule, learning_rate, epochs, train_loss, validation_loss; NaN where the paper gives none.
    """
    return _read("table2", iteration=str, rows="Int64", rows_per_cluster="Int64")


def table3() -> pd.DataFrame:
    """The paper's Table 3, tidy.

    Returns:
        Columns iteration, metric, mean, sd; the deviation is over decoding runs, NaN where the paper gives none.
    """
    return _in_our_units(_read("table3", iteration=str), "mean", "sd")


def claims() -> pd.DataFrame:
    """By how much the paper says that its row 5 differs from other models, and what that implies for those.

    Returns:
        Columns against (the other model), metric, change_percent, of_row_5 and implied (values), stated_of.
    """
    return _in_our_units(_read("claims"), "of_row_5", "implied")


def baselines() -> pd.DataFrame:
    """Scores of nine 7B models on Indonesian tasks, as Cendol's repository has them; other data, another protocol.

    Returns:
        Columns model, prompt_language, task, metric, mean, low, high (over datasets and prompts), datasets, prompts,
        protocol, source.
    """
    keys = ["model", "prompt_language", "task", "datasets", "prompts", "protocol", "source"]
    wide = _read("baselines_7b").set_index(keys)
    wide.columns = wide.columns.str.split("_", expand=True).set_names(["metric", None])
    tidy = wide.stack("metric").reset_index()
    return tidy[["model", "prompt_language", "task", "metric", "mean", "low", "high", *keys[3:]]]


def cendol_subsets() -> pd.Series:
    """How many rows each of the six subsets has in the Cendol Collection v2."""
    return _read("cendol_subsets").set_index("subset")["rows"]


def _read(name: str, **types: type | str) -> pd.DataFrame:
    return pd.read_csv(paths.PUBLISHED / f"{name}.csv", dtype=types)


def _in_our_units(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Shares of 1 become 0 to 100, for all but Weighted F1."""
    table = table.copy()
    share = (table["unit"] == "0-1") & (table["metric"] != "weighted_f1")
    # Rounded, so that 100 times a printed 0.055 is 5.5.
    table.loc[share, list(columns)] = (100 * table.loc[share, list(columns)]).round(6)
    return table.drop(columns="unit")
