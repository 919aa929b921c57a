"""What the adapter costs English, and which language the completions are in.

The paper reads its falling Weighted F1 as forgetting, and measures no English. Here every model, the base and each
adapter, reads and answers the same English rows.

The demo's base model read English conversations of all twins in its pretraining, those of test rows too, so its loss
on them does not measure generalisation: how much the adapter raises it measures forgetting. Which rows from elsewhere
the base model has read is unknown.
"""

import pandas as pd

from lib.config import Config
from lib.corpus import selection, splits
from lib.corpus.files import CorpusError
from lib.demo import generator
from lib.evaluation import completions, language, likelihood, metrics, scoring
from lib.sampling.draws import spread
from lib.storage import whole

_COLUMNS = ["subset_name", "input", "output"]


def held_out(config: Config) -> pd.DataFrame:
    """The distinct English rows that no training of this run has seen a translation of, spread evenly over the subsets.

    For `demo` these are the English twins of the run's test rows (of all rows, where the run's corpus is another);
    else the rows of the named corpus, which nothing ties to the Indonesian one.

    Returns:
        Indexed by position in the English corpus: subset_name, input, output, and group, the rows that say the same
        (of twins, the Indonesian group). No rows if `english.source` is empty.

    Raises:
        CorpusError: if the named corpus cannot be used, or leaves no row.
    """
    source = config.english.source
    if not source:
        return pd.DataFrame(columns=[*_COLUMNS, "group"])
    rows = _twins(config) if source == "demo" else _rows(config)
    rows = rows.drop_duplicates(["input", "output"])
    if rows.empty:
        raise CorpusError(f"english.source = {source!r} leaves no row to measure English on: name another, or none")
    return rows.iloc[spread(rows["subset_name"].to_numpy(), config.english.rows, config.corpus.split_seed)]


def _twins(config: Config) -> pd.DataFrame:
    """The English pairs whose Indonesian pair is neither on the training nor on the validation side."""
    english = {
        (subset, pair.key, pair.wording): pair for subset, some in generator.subsets("en").items() for pair in some
    }
    rows, pairs = [], []
    for subset, some in generator.subsets("id").items():
        for pair in some:
            twin = english[subset, pair.key, pair.wording]
            rows.append((subset, twin.prompt, twin.completion))
            pairs.append(splits.pair_of(pair.prompt, pair.completion))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    known = splits.read(config).drop_duplicates("pair").set_index("pair")
    groups = known["group"].to_dict()
    # A pair that the run's corpus does not have is a group by itself.
    table["group"] = [groups.get(pair, pair) for pair in pairs]
    seen = pd.Series(pairs).map(known["split"]).isin(["train", "validation"])
    # Two Indonesian wordings may be one in English: a twin of both sides is seen.
    texts = table["input"] + "\0" + table["output"]
    return table[~texts.isin(texts[seen])]


def _rows(config: Config) -> pd.DataFrame:
    try:
        selection.select(selection.located(config.english.source), config.paths.english_rows)
    except CorpusError as error:
        raise CorpusError(f"english.source = {config.english.source!r} cannot be used: {error}") from error
    groups = splits.assign(config.paths.english_rows, config.corpus)["group"]
    return selection.read(config.paths.english_rows, columns=[*_COLUMNS, "turns"]).assign(group=groups)


def measure(config: Config, completions: pd.DataFrame) -> pd.DataFrame:
    """What one model does on English, and the language of its Indonesian completions; written to a file too.

    Args:
        completions: on the Indonesian test rows (table of `completions.read`); of them, the clean protocol's.

    Returns:
        Tidy as in results.csv. Protocol `clean`: `indonesian_share` of every decoding run, and of the references
        (`reference_indonesian_share`), 0 to 1. Protocol `english`, unless `english.source` is empty: `loss_per_byte_en`
        in bits a byte of the English answers, `rougeL` 0 to 100 of one decoding run, `english_share` and
        `reference_english_share`, 0 to 1. What the English scores are made of is in a file of pairs, as in `scoring`.
    """
    completions = completions[completions["protocol"] == "clean"]
    found = [
        ("clean", run, "indonesian_share", language.indonesian_share(part["text"].tolist()))
        for run, part in completions.groupby("run")
    ]
    references = completions.drop_duplicates("row")["reference"].tolist()
    found.append(("clean", 0, "reference_indonesian_share", language.indonesian_share(references)))
    rows = held_out(config)
    if len(rows):
        found += [("english", 0, metric, value) for metric, value in _english(config, rows).items()]
    table = pd.DataFrame(found, columns=["protocol", "decoding_run", "metric", "value"])
    table.insert(0, "iteration", config.iteration)
    table.insert(1, "seed", config.seed)
    with whole(config.paths.language(config.name)) as temporary:
        table.to_csv(temporary, index=False)
    return table


def _english(config: Config, rows: pd.DataFrame) -> dict[str, float]:
    tests = {"english": rows}
    completions.complete(config, tests, runs=1)
    texts = completions.read(config, tests)
    made = texts[["row", "run", "subset"]].assign(group=rows["group"].loc[texts["row"]].to_numpy())
    made = made.assign(**metrics.rouge_each(texts["text"].tolist(), texts["reference"].tolist()))
    likelihood.measure(config, tests)
    made = made.join(likelihood.read(config, "english"), on="row")
    with whole(config.paths.pairs(config.name, "english")) as temporary:
        made.to_parquet(temporary, index=False)
    return {
        "loss_per_byte_en": scoring.score_pairs(made, "loss_per_byte"),
        "rougeL": scoring.score_pairs(made, "rougeL"),
        "english_share": language.english_share(texts["text"].tolist()),
        "reference_english_share": language.english_share(texts["reference"].tolist()),
    }
