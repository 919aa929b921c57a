"""What answers without a model score, and what the reference scores: the room in which a model's scores lie.

The same rows, references, cuts and functions as for a model's completions.
"""

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from lib.config import Config
from lib.corpus import selection
from lib.evaluation import scoring, statistics
from lib.model import loading
from lib.storage import whole

#: Answers without a model, and what each is.
FLOORS = {
    "nearest": "the answer of the nearest training prompt (TF-IDF)",
    "random": "a random training answer of the same subset",
    "shuffled": "the reference of another test row",
    "echo": "the prompt, echoed",
}
CEILING = "reference"
#: How often a floor is drawn that hangs on chance.
DRAWS = 3
_ROWS_AT_ONCE = 1_024


def measure(config: Config, tests: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The scores of floors and ceiling on the test rows of each protocol but greedy, tidy as in results.csv.

    `iteration` has their names, `decoding_run` numbers the draws. Answers come from the rows that this iteration trains
    on. Writes what the scores are made of to files, as `scoring.score` does for a model.
    """
    sample = pd.read_parquet(config.paths.sample(config.sampled_as))
    positions = sample.loc[sample["part"] == "train", "position"].to_numpy()
    trained = selection.read(config.paths.rows, positions, columns=["subset_name", "input", "output"])
    tokenizer, settings = loading.load_tokenizer(config.model), config.evaluation
    found = []
    for protocol, rows in tests.items():
        if protocol == "greedy":
            # Nothing is decoded here: it would be clean once more.
            continue
        given = answers(rows, trained, settings.decoding_seed).assign(protocol=protocol)
        texts = scoring.first_tokens(tokenizer, given["text"].tolist(), settings.max_new_tokens)
        short = scoring.first_tokens(tokenizer, given["text"].tolist(), settings.f1_tokens)
        made = scoring.pairs(config, tokenizer, given, texts, short).assign(iteration=given["iteration"])
        for name, part in made.groupby("iteration", sort=False):
            with whole(config.paths.pairs(str(name), protocol)) as temporary:
                part.drop(columns=["protocol", "iteration"]).to_parquet(temporary, index=False)
            found.append(scoring.of_pairs(part, protocol).assign(iteration=name, seed=0))
    columns = ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]
    return pd.concat(found, ignore_index=True)[columns]


def all_pairs(config: Config, protocol: str = "clean") -> statistics.Pairs:
    """What the scores of floors and ceiling are made of, as `scoring.all_pairs` has it of models."""
    return {(name, 0, protocol): pd.read_parquet(config.paths.pairs(name, protocol)) for name in (CEILING, *FLOORS)}


def answers(rows: pd.DataFrame, trained: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The answers of every floor and of the ceiling.

    Args:
        rows: the test rows: subset_name, input, output.
        trained: the training rows, with the same columns.

    Returns:
        iteration (the floor's name), run (the draw), row, subset, reference, text.
    """
    rng = np.random.default_rng(seed)
    given = {
        (CEILING, 0): rows["output"].to_numpy(),
        ("nearest", 0): trained["output"].to_numpy()[_nearest(rows["input"], trained["input"])],
        ("echo", 0): rows["input"].to_numpy(),
    }
    of_subset = {name: part["output"].to_numpy() for name, part in trained.groupby("subset_name")}
    every = trained["output"].to_numpy()
    for draw in range(DRAWS):
        given["random", draw] = np.array([rng.choice(of_subset.get(name, every)) for name in rows["subset_name"]])
        # One place on in a random order: no row keeps its own.
        order = rng.permutation(len(rows))
        shuffled = np.empty(len(rows), dtype=object)
        shuffled[order] = rows["output"].to_numpy()[np.roll(order, 1)]
        given["shuffled", draw] = shuffled
    order_of = [CEILING, *FLOORS]
    parts = [
        pd.DataFrame(
            {
                "iteration": name,
                "run": draw,
                "row": rows.index,
                "subset": rows["subset_name"].to_numpy(),
                "reference": rows["output"].to_numpy(),
                "text": texts,
            }
        )
        for (name, draw), texts in sorted(given.items(), key=lambda item: (order_of.index(item[0][0]), item[0][1]))
    ]
    return pd.concat(parts, ignore_index=True)


def _nearest(prompts: pd.Series, trained: pd.Series) -> np.ndarray:
    """For each prompt, the place of the training prompt that is most like it by the cosine of their TF-IDF vectors."""
    vectors = TfidfVectorizer(dtype=np.float32).fit(trained)
    known = vectors.transform(trained).T
    asked = vectors.transform(prompts)
    blocks = [asked[start : start + _ROWS_AT_ONCE] for start in range(0, len(prompts), _ROWS_AT_ONCE)]
    return np.concatenate([np.asarray((block @ known).toarray()).argmax(axis=1) for block in blocks])


def room(bounds: pd.DataFrame) -> pd.DataFrame:
    """By metric of completions: the best answer without a model, and what the reference scores.

    Args:
        bounds: table of `measure`, of one protocol; models' lines beside it change nothing.

    Returns:
        Indexed by metric: `floor` (the mean over its draws), `by` (the floor's name), `ceiling`.
    """
    known = bounds[bounds["iteration"].isin([CEILING, *FLOORS])]
    means = known.groupby(["metric", "iteration"], sort=False)["value"].mean().unstack("iteration")
    given = means[list(FLOORS)]
    return pd.DataFrame({"floor": given.max(axis=1), "by": given.idxmax(axis=1), "ceiling": means[CEILING]})
