"""What a run has to do, counted from its settings before anything is done: rows, steps, tokens, completions.

What earlier runs left (the corpus's summary, its rows, examples) is counted; what is not there yet follows from the
settings, and from the lengths of some rows where the corpus is on this machine.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from lib import paths
from lib.config import OWN_TOKENS, Config
from lib.corpus import selection, sources, splits
from lib.corpus.files import SUBSETS, find_files, is_of_the_hub
from lib.corpus.rows import UNDIVIDED, parts
from lib.demo import generator
from lib.evaluation import starters
from lib.evaluation.completions import PROTOCOLS, STARTERS, own_prompts
from lib.running.graph import stage_settings, stages
from lib.sampling.draws import spread

#: Rows of the Cendol Collection v2 by subset, as its authors make it; they add up to the paper's count.
CENDOL = {
    "indo_puisi": 144_460,
    "wikihow": 97_848,
    "wikipedia_id": 6_069_267,
    "safety_prompt": 93_500,
    "identity_prompt": 62_500,
    "dolly": 75_055,
}
TEXTS = ["subset_name", "input", "output", "turns"]
#: Bytes of UTF-8 of all texts that a model reads for a benchmark (its files: lib/evaluation/tables/benchmarks.toml).
BENCHMARK_BYTES = {"lindsea": 28_765, "copal_id": 115_795, "xcopa_id": 50_864, "nusax": 125_483}
#: How many rows lengths and speeds are measured on.
SOME_ROWS = 300
#: Assumed tokens of an example of the Cendol Collection, and of its prompt, where none is here to be measured.
ASSUMED_TOKENS, ASSUMED_PROMPT_TOKENS = 400, 120


@dataclass(frozen=True)
class Survey:
    """Some rows of a corpus (subset_name, input, output, and turns where they may be conversations; None where they
    would have to be fetched) and its subsets.
    """

    rows: pd.DataFrame | None
    sizes: dict[str, int]
    """Rows of each subset."""
    how: str
    """How the sizes are known: counted, measured (on the first rows of every file), or assumed."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of an example and of its prompt: on average, and of the longest."""

    example: float
    prompt: float
    longest_example: int
    longest_prompt: int
    measured: bool
    """On rows of the corpus; else assumed."""


@dataclass(frozen=True)
class Workload:
    """All that the notebooks of a run do together, however much of it is done already."""

    notebooks: int
    corpus_rows: int
    samplings: int
    drawn: int
    """Rows drawn by samplings with clusters, whose outputs are embedded."""
    shown: int
    """Rows that t-SNE figures show."""
    prepared: int
    """Examples that are encoded."""
    trainings: int
    examples: int
    """Of the largest training."""
    steps: int
    trained_tokens: float
    validated_tokens: float
    models: int
    prompts: int
    """Prompts that models read, however many completions each of them gets."""
    completions: int
    """Those that are scored."""
    own: int
    """Answers of the models to this project's own prompts."""
    new_tokens: int
    """Of both, at most: a completion may end before."""
    starters: int
    """Answers of the final adapter to prompts to begin a chat with, when the report is made."""
    starters_read: int
    """Prompts of those that are read, at most: an answer is read once more after every prompt of its kind."""
    benchmarked_bytes: int
    """Of UTF-8, that models read for benchmarks; those from the hub do not count."""


def survey(config: Config) -> Survey:
    """Look at the run's corpus as far as it is on this machine."""
    if _is_selected(config):
        sizes = json.loads(config.paths.corpus_summary.read_text(encoding="utf-8"))["kept"]
        subsets = pq.read_table(config.paths.rows, columns=["subset_name"])["subset_name"].to_pandas()
        return Survey(selection.read(config.paths.rows, _some(subsets), columns=TEXTS), sizes, "counted")
    if config.corpus.source == "demo":
        rows = pd.DataFrame(generator.rows())
        if column := config.corpus.subsets:
            rows["subset_name"] = rows.get(column, UNDIVIDED)
        else:
            rows = rows[rows["subset_name"].isin(SUBSETS)]
        sizes = {name: int(count) for name, count in rows["subset_name"].value_counts().items()}
        return Survey(rows[TEXTS[:-1]].iloc[_some(rows["subset_name"])], sizes, "counted")
    if config.corpus.source == "open" and not sources.is_written():
        return Survey(None, sources.sizes(), "counted")
    source = str(sources.path()) if config.corpus.source == "open" else paths.located(config.corpus.source)
    if is_of_the_hub(source):
        return Survey(None, CENDOL, "assumed")
    tables, found = [], Counter[str]()
    files = find_files(source, None if config.corpus.subsets else SUBSETS).files
    for name, form in selection.recognised(files, config.corpus.subsets)[0].items():
        path = files[name]
        for part in islice(parts(name, path, form, selection.wanted(form, SUBSETS, config.corpus.subsets)), 1):
            table = part.kept.select([column for column in TEXTS if column in part.kept.schema.names]).to_pandas()
            tables.append(table)
            # The rest of a file is assumed to be like its first stretch.
            more = path.stat().st_size / max(1, part.position)
            found.update({subset: int(more * rows) for subset, rows in table["subset_name"].value_counts().items()})
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.iloc[_some(rows["subset_name"])] if len(rows) else None
    return Survey(rows, dict(found), "measured")


def _is_selected(config: Config) -> bool:
    """Whether the rows that an earlier run selected and split are those of this corpus, with these settings of it."""
    files = config.paths
    if not all(path.is_file() for path in (files.corpus_summary, files.rows, files.split)):
        return False
    return (pq.read_schema(files.split).metadata or {}).get(b"made_from") == splits.origin(config).encode()


def _some(subsets: pd.Series) -> np.ndarray:
    """Places of some rows, as many of each subset: as training and test rows are drawn."""
    return np.sort(spread(subsets.to_numpy(), min(SOME_ROWS, len(subsets)), 0))


def lengths(config: Config, examples: Sequence[int], prompts: Sequence[int]) -> Lengths:
    """The lengths of some rows, from the tokens of each example and prompt; assumed where there are none."""
    most, room = config.prompt.max_train_tokens, config.prompt.max_evaluation_tokens - config.evaluation.max_new_tokens
    if not examples:
        return Lengths(min(ASSUMED_TOKENS, most), min(ASSUMED_PROMPT_TOKENS, room), most, room, measured=False)
    return Lengths(fmean(examples), fmean(prompts), max(examples), max(prompts), measured=True)


def count(configs: list[Config], sizes: dict[str, int], known: Lengths) -> Workload:
    """The work of a run, from the settings of base model and trainings (`lib.parameters.load_configs`)."""
    trained = [config for config in configs if config.has_adapter]
    samplings = {config.sampled_as: config for config in trained}.values()
    preparations = {config.prepared_as: config for config in trained}.values()
    trainings = {config.name: config for config in trained}.values()
    models = {config.name: config for config in configs if config.plan.scored}.values()
    drawn = [(_drawn(config, sizes), config.sampling.tsne_rows) for config in samplings if config.sampling.clusters]
    steps = [_steps(config, _chosen(config, sizes)) for config in trainings]
    validations = [_validation(config, sizes) * (config.training.checkpoints + 1) for config in trainings]
    tested = [_tested(config, sizes) for config in models]
    english = [config.english.rows if config.english.source else 0 for config in models]
    own = len(models) * sum(map(len, own_prompts().values()))
    of_kinds = starters.prompts()[STARTERS]["kind"].value_counts()
    # Clean and paper in every run, greedy once.
    completions = [n * (2 * config.evaluation.decoding_runs + 1) for n, config in zip(tested, models, strict=True)]
    return Workload(
        notebooks=len(stages(configs)) + 1,
        corpus_rows=sum(sizes.values()),
        samplings=len(samplings),
        drawn=sum(rows for rows, _ in drawn),
        shown=sum(map(min, drawn)),
        prepared=sum(_chosen(config, sizes) + _validation(config, sizes) for config in preparations),
        trainings=len(trainings),
        examples=max(_chosen(config, sizes) for config in trainings),
        steps=sum(steps),
        trained_tokens=known.example * sum(_chosen(c, sizes) * c.training.epochs for c in trainings),
        validated_tokens=known.example * sum(validations),
        models=len(models),
        # English rows are read once more for their loss.
        prompts=len(PROTOCOLS) * sum(tested) + 2 * sum(english) + own,
        completions=sum(completions) + sum(english),
        own=own,
        new_tokens=sum(
            (n + more) * config.evaluation.max_new_tokens
            for n, more, config in zip(completions, english, models, strict=True)
        )
        + own * OWN_TOKENS,
        starters=int(of_kinds.sum()),
        starters_read=int(of_kinds.sum() + (of_kinds**2).sum()),
        benchmarked_bytes=sum(BENCHMARK_BYTES.get(name, 0) for c in models for name in c.benchmarks.tasks.split()),
    )


def _trainable(config: Config, sizes: dict[str, int]) -> dict[str, int]:
    share = 1 - config.corpus.test_share - config.corpus.validation_share
    return {name: int(rows * share) for name, rows in sizes.items()}


def _drawn(config: Config, sizes: dict[str, int]) -> int:
    there, rows = _trainable(config, sizes), config.sampling.rows
    if config.sampling.method == "per_subset":
        return sum(min(rows, size) for size in there.values())
    return min(rows, sum(there.values()))


def _chosen(config: Config, sizes: dict[str, int]) -> int:
    """Training examples: those that an earlier run made with these settings, else what the sampling draws."""
    made = config.paths.examples(config.prepared_as, "train")
    if made.is_file() and _is_made(made, config):
        return pq.read_metadata(made).num_rows
    drawn, sampling = _drawn(config, sizes), config.sampling
    return min(drawn, sampling.clusters * sampling.rows_per_cluster) if sampling.clusters else drawn


def _is_made(examples: Path, config: Config) -> bool:
    """Whether examples were made after their stages were given the settings that they have now."""
    for stage, name in (("sampling", config.sampled_as), ("preprocessing", config.prepared_as)):
        given = config.paths.settings(f"{stage}_{name}")
        if not given.is_file() or given.stat().st_mtime_ns > examples.stat().st_mtime_ns:
            return False
        told = json.loads(given.read_text(encoding="utf-8"))
        if {key: value for key, value in told.items() if key != "files"} != stage_settings(config, stage):
            return False
    return True


def _validation(config: Config, sizes: dict[str, int]) -> int:
    return min(config.sampling.validation_rows, int(sum(sizes.values()) * config.corpus.validation_share))


def _tested(config: Config, sizes: dict[str, int]) -> int:
    return min(config.evaluation.test_rows, int(sum(sizes.values()) * config.corpus.test_share))


def _steps(config: Config, examples: int) -> int:
    # As in lib.training.trainer.
    return math.ceil(math.ceil(examples / config.training.batch_size) * config.training.epochs)
