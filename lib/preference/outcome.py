"""What training on votes made of the final adapter: as a model of its own, which is scored like any row's."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from lib.config import Config
from lib.model import loading
from lib.parameters import load_config
from lib.paths import ADAPTER_RECORD

#: As an iteration: what names its files.
NAME = "preference"
#: The sections of the settings that scores depend on, beside the adapter.
_SCORED = ("prompt", "evaluation", "english", "benchmarks")


def after(final: Config) -> Config:
    """The settings of the final adapter as it is after training on votes, under a name of its own.

    The section `preference` is what the parameter files say now; all else is as the run had it.

    Args:
        final: of `lib.release.finished.read`.
    """
    settings = load_config(final.run, final.profile, final.iteration).preference
    return replace(final, iteration=NAME, trained_as=NAME, preference=settings)


def scored(final: Config) -> Config | None:
    """The same where it is trained from this very adapter, and wholly scored as this is; else None.

    Args:
        final: the training whose adapter is the final one.
    """
    config = replace(final, iteration=NAME, trained_as=NAME)
    files, record = config.paths, config.paths.adapter(config.name) / ADAPTER_RECORD
    made = (files.stage_record("6_preference"), files.preference_settings, record)
    # One that failed after its training has left scores of an earlier one.
    if not all(file.is_file() for file in made) or files.failure("6_preference").is_file():
        return None
    asked = json.loads(files.preference_settings.read_text(encoding="utf-8"))
    trained_from = json.loads(record.read_text(encoding="utf-8"))["final_adapter"]
    alike = all(asked.get(section) == asdict(getattr(final, section)) for section in _SCORED)
    return config if alike and trained_from == loading.fingerprint(files.adapter(final.name)) else None


def held_out(voted: pd.DataFrame, resamples: int = 1_000, seed: int = 0) -> dict[str, Any]:
    """Whether the chosen answers of held-out votes have become likelier, as compared with the rejected ones.

    Args:
        voted: the table of `lib.preference.dpo.train`, or its file.

    Returns:
        votes and groups, how many there are; gained, how many chosen answers gained on the rejected ones; nats, how
        much on average (the difference of their log-probabilities after the training less that before); low and high,
        its 95 % percentile interval over resampled groups (NaN for a single one); agree_before and agree_after, of how
        many votes the model itself finds the chosen answer the likelier.
    """
    table = voted[voted["part"] == "held out"]
    gain = table["after"] - table["before"]
    by_group = gain.groupby(table["group"]).agg(["sum", "size"]).to_numpy()
    drawn = np.random.default_rng(seed).integers(len(by_group), size=(resamples, len(by_group)))
    sums = by_group[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975]) if len(by_group) > 1 else (np.nan, np.nan)
    return {
        "votes": len(table),
        "groups": len(by_group),
        "gained": int((gain > 0).sum()),
        "nats": float(gain.mean()),
        "low": float(low),
        "high": float(high),
        "agree_before": int((table["before"] > 0).sum()),
        "agree_after": int((table["after"] > 0).sum()),
    }
