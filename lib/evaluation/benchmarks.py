"""Benchmarks: how a model scores on items that nobody chose here, and that no corpus of this project was made from.

lm-evaluation-harness asks and scores (`lib.evaluation.harness`). The files of four benchmarks are fetched from the
repositories of their authors, at the commits of `tables/benchmarks.toml`; any other task of the harness has its files
from the hub. The texts stay in artifacts/: results and pages have numbers alone.
"""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from lib.config import BENCHMARKS, Config, ConfigError, nearest
from lib.corpus import fetching, selection, sources, splits
from lib.corpus.sources import Published
from lib.evaluation import completions, metrics, statistics
from lib.model import loading
from lib.storage import whole

TABLE = Path(__file__).parent / "tables" / "benchmarks.toml"
#: As messages name it.
_TABLE = "lib/evaluation/tables/benchmarks.toml"
#: In the order of tables and figures, and how they name it.
METRIC_NAMES = {
    "accuracy": "accuracy",
    "loss_per_byte": "bits a byte, Indonesian",
    "loss_per_byte_en": "bits a byte, English",
}
_LINDSEA = "lindsea/id/syntax"
#: The harness's tasks on the four benchmarks: the benchmark, the file, and for whole texts the column.
_TASKS = {
    "lindsea_morphology": ("lindsea", f"{_LINDSEA}/morphology.jsonl", ""),
    "lindsea_argument_structure": ("lindsea", f"{_LINDSEA}/argument_structure.jsonl", ""),
    "lindsea_filler_gap": ("lindsea", f"{_LINDSEA}/filler-gap_dependencies.jsonl", ""),
    "lindsea_npi_negation": ("lindsea", f"{_LINDSEA}/NPIs_and_negation.jsonl", ""),
    "copal_id_standard": ("copal_id", "data/v1/test_copal.csv", ""),
    "copal_id_colloquial": ("copal_id", "data/v1/test_copal_colloquial.csv", ""),
    "xcopa_id": ("xcopa_id", "data/id/test.id.jsonl", ""),
    "nusax_indonesian": ("nusax", "datasets/mt/test.csv", "indonesian"),
    "nusax_english": ("nusax", "datasets/mt/test.csv", "english"),
}
#: The same reviews in two languages are one protocol with two metrics.
_OF_TEXTS = {"nusax_indonesian": ("nusax", "loss_per_byte"), "nusax_english": ("nusax", "loss_per_byte_en")}


@cache
def table() -> tuple[Published, ...]:
    """The benchmarks whose files are fetched from public repositories."""
    return tuple(Published(**entry) for entry in sources.entries(TABLE))


def check(names: str) -> None:
    """Refuse what is no benchmark.

    Args:
        names: as in `config.Benchmarks`.

    Raises:
        ConfigError: for an unknown name; it names the nearest right one.
    """
    others = [name for name in names.split() if name not in BENCHMARKS]
    if not others:
        return
    # Slow to import and to ask, and the four are known without.
    from lib.evaluation import harness

    known = harness.known()
    for name in others:
        if name not in known:
            raise ConfigError(
                f"BENCHMARKS={names!r}: no benchmark {name!r}{nearest(name, [*BENCHMARKS, *known])}; choose from: "
                f"{', '.join(BENCHMARKS)}, and the tasks of lm-evaluation-harness; or none"
            )


def named(names: str) -> list[Published]:
    """Those of the benchmarks in the table that are named."""
    return [one for one in table() if one.name in names.split()]


def to_fetch(names: str) -> int:
    """Bytes of the files from public repositories that are still to be fetched."""
    return sum(pin.bytes for one in named(names) for pin in one.files if not fetching.is_right(one.folder, pin))


def fetch(name: str) -> Path:
    """Bring the files of one of the four benchmarks here, where they are not yet; the folder that has them.

    Raises:
        FetchError: if they cannot be had.
    """
    (source,) = named(name)
    source.folder.parent.mkdir(parents=True, exist_ok=True)
    # Two models may be measured at once.
    with FileLock(source.folder.with_name(f".{source.folder.name}.lock")):
        fetching.fetch(source.repository, source.commit, source.files, source.folder, _TABLE)
    return source.folder


def measure(config: Config) -> pd.DataFrame:
    """What one model scores on the benchmarks of its run; from its file where that is of the same model and tasks.

    Returns:
        task, metric, items, value and chance (NaN where nothing can be guessed); no line where no benchmark is named.

    Raises:
        ConfigError: for an unknown name.
        FetchError, HarnessError: if files cannot be had.
    """
    names = config.benchmarks.tasks
    if not names.split():
        return pd.DataFrame(columns=["task", "metric", "items", "value", "chance"])
    model = completions.origin(config)
    made_by = {name: model[name] for name in ("model", "base", "adapter", "code")}
    made_by |= {"tasks": names.split(), "files": hashlib.sha256(TABLE.read_bytes()).hexdigest()}
    origin = json.dumps(made_by | {"lm_eval": version("lm_eval")}, sort_keys=True)
    path = config.paths.benchmarks(config.name)
    if not path.is_file() or read(config).attrs.get("origin") != origin:
        check(names)
        items = _score(config, names.split())
        items.attrs["origin"] = origin
        with whole(path) as temporary:
            items.to_parquet(temporary, index=False)
    return _summary(read(config))


def read(config: Config) -> pd.DataFrame:
    """What `measure` has written of one model: task, metric, item, loglikelihoods, texts, and correct and chance, or
    nats and bytes (of UTF-8), which are NaN where an item has none.

    No lines where the run names no benchmark.
    """
    if not config.benchmarks.tasks.split():
        return pd.DataFrame(columns=["task", "metric", "item"])
    return pd.read_parquet(config.paths.benchmarks(config.name))


def scores(config: Config) -> pd.DataFrame:
    """The scores of one model, tidy as in results.csv; the protocol is the task's name."""
    found = _summary(read(config)).rename(columns={"task": "protocol"})
    found = found.assign(iteration=config.iteration, seed=config.seed, decoding_run=0)
    return found[["iteration", "seed", "protocol", "decoding_run", "metric", "value"]]


def of_repository(name: str) -> dict[str, Any]:
    """The harness's tasks on one of the four benchmarks, by name; its files are fetched where they are not here."""
    # COPAL and XCOPA are asked in the words that the harness has for them.
    from lm_eval.tasks.xcopa import utils

    from lib.evaluation import harness

    folder = fetch(name)
    pairs = {"doc_to_text": "", "doc_to_target": 0, "doc_to_choice": "{{[correct, wrong]}}"}
    causes = {"doc_to_text": utils.doc_to_text_id, "doc_to_target": "label", "doc_to_choice": utils.doc_to_choice}
    made = {}
    for task, (of, path, column) in _TASKS.items():
        if of == name:
            rows = _rows(folder / path, column)
            asked = {"doc_to_text": "", "doc_to_target": column} if column else pairs if of == "lindsea" else causes
            made[task] = harness.own(task, rows, "loglikelihood_rolling" if column else "multiple_choice", **asked)
    return made


def compare(before: Sequence[Config], after: Sequence[Config]) -> pd.DataFrame:
    """A training against the base model or another training, task by task, paired by item, and what its training rows
    have of each task.

    Args:
        before, after: one model each, or several seeds of a training: the means of their scores are compared.

    Returns:
        task, metric, items, chance; before, after, difference, low, high (the 95 % percentile interval over resampled
        items); for accuracies of one model each, right_before and right_after, the items that only one of the two has
        right; p_value (of these by the exact test of McNemar, else of the bootstrap), p_adjusted (by Holm over the
        tasks), differs (below 5 %), detectable (the smallest difference that so many items could show,
        `statistics.smallest_difference`, or as in `statistics.paired_bootstrap`), and alike, how many training rows
        say what a text of the task says (`splits.alike`).
    """
    sides = [
        pd.concat([read(one).assign(run=run) for run, one in enumerate(models)], ignore_index=True)
        for models in (before, after)
    ]
    if sides[0].empty:
        return pd.DataFrame()
    sides = [side.assign(row=side["item"], group=side["item"]) for side in sides]
    alike = _alike_rows(after, sides[0])
    lines = []
    for (task, metric), one in sides[0].groupby(["task", "metric"], sort=False):
        other = sides[1][(sides[1]["task"] == task) & (sides[1]["metric"] == metric)]
        name = "correct" if metric == "accuracy" else "loss_per_byte"
        line: dict[str, Any] = statistics.paired_bootstrap(one, other, [name]).iloc[0].to_dict()
        if metric == "accuracy" and len(before) == len(after) == 1:
            line |= statistics.mcnemar(one["correct"].to_numpy(), other["correct"].to_numpy())
        lines.append(
            {"task": task, "items": one["item"].nunique(), "chance": one["chance"].mean(), "alike": alike[str(task)]}
            | line
            | {"metric": metric}
        )
    found = pd.DataFrame(lines)
    found["p_adjusted"] = statistics.holm(found["p_value"])
    return found.assign(differs=found["p_adjusted"] < 0.05)


def _summary(items: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (task, metric), part in items.groupby(["task", "metric"], sort=False):
        name = "correct" if metric == "accuracy" else "loss_per_byte"
        value = metrics.score_of(name, part[list(metrics.COLUMNS[name])].sum().to_numpy(), len(part))
        lines.append((task, metric, len(part), value, part["chance"].mean()))
    return pd.DataFrame(lines, columns=["task", "metric", "items", "value", "chance"])


def _score(config: Config, names: Sequence[str]) -> pd.DataFrame:
    # Slow to import, and a run without benchmarks needs none of it.
    from lib.evaluation import harness

    tasks: dict[str, Any] = {}
    # What results call each task of the harness.
    called: dict[str, tuple[str, str]] = {}
    for name in names:
        some = of_repository(name) if name in BENCHMARKS else harness.from_hub(name)
        tasks |= some
        called |= {one: (one if name in BENCHMARKS else name, "accuracy") for one in some}
    called |= _OF_TEXTS
    model, tokenizer = completions.load_model(config), loading.load_tokenizer(config.model)
    items = harness.score(model, tokenizer, tasks, f"benchmarks of {config.name}")
    items.insert(1, "metric", [called[task][1] for task in items["task"]])
    items["task"] = [called[task][0] for task in items["task"]]
    # The tasks of a group number their items each for itself.
    items["item"] = items.groupby(["task", "metric"], sort=False).cumcount()
    return items


def _rows(path: Path, column: str) -> list[dict[str, Any]]:
    """The items of a file, of whole texts that column alone."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if column:
        return [{column: row[column]} for row in rows]
    return [row | {"label": int(row["label"])} for row in rows]


def _alike_rows(trainings: Sequence[Config], items: pd.DataFrame) -> dict[str, int]:
    """By task, how many rows of the trainings' samples say what a text of it says, by the measures of the split."""
    config = trainings[0]
    samples = pd.concat([pd.read_parquet(one.paths.sample(one.sampled_as)) for one in trainings])
    positions = samples.loc[samples["part"] == "train", "position"].unique()
    trained = selection.read(config.paths.rows, positions, columns=["input", "output"])
    texts = items[["task", "texts"]].explode("texts").dropna().drop_duplicates(ignore_index=True)
    pairs = splits.alike(trained, texts["texts"], config.corpus.near_duplicate_similarity)
    of = texts["task"].loc[pairs["text"]].to_numpy()
    return {str(task): pairs.loc[of == task, "row"].nunique() for task in items["task"].unique()}
