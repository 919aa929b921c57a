"""Scores of completions against references: the paper's five numbers (Table 3), and chrF++. And of a model's likelihood
of the references themselves, in bits a byte.

Each takes flat lists of equal length, one reference per completion. BLEU, chrF++ and ROUGE are 0 to 100, as is
usual for them; Weighted F1 is 0 to 1, as in the paper.

Every metric of a set of pairs follows from the sums of a few columns over the pairs: `each` makes the columns,
`COLUMNS` says which belong to which metric, and `score_of` makes the metric of their sums. So any set of pairs (a
decoding run, a resample) is scored without reading a text again.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import Any

import numpy as np
import pandas as pd
from rapidfuzz.distance import LCSseq
from rouge_score.tokenize import tokenize
from sacrebleu.metrics import BLEU, CHRF
from scipy import sparse
from sklearn.metrics import f1_score

ROUGES = ("rouge1", "rouge2", "rougeL")
#: Every metric, in the order of tables and figures, and how they name it.
METRIC_NAMES = {
    "loss_per_byte": "bits a byte",
    "bleu": "BLEU",
    "chrf": "chrF++",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "weighted_f1": "Weighted F1",
}
METRICS = tuple(METRIC_NAMES)
#: Those of the reference answers' likelihood, and those of completions.
OF_LIKELIHOOD, OF_COMPLETIONS = METRICS[:1], METRICS[1:]
#: The less, the better.
LOWER_IS_BETTER = ("loss_per_byte",)
#: sacreBLEU's own order. n-grams of words for BLEU; of characters (c) and of words (w) for chrF++.
BLEU_STATISTICS = (
    "bleu_completion_words",
    "bleu_reference_words",
    *(f"bleu_matches_{n}" for n in range(1, 5)),
    *(f"bleu_completion_{n}" for n in range(1, 5)),
)
CHRF_STATISTICS = tuple(
    f"chrf_{side}_{order}"
    for order in ("c1", "c2", "c3", "c4", "c5", "c6", "w1", "w2")
    for side in ("completion", "reference", "matches")
)
#: The columns that each metric is made of; `correct` is also a metric of its own, the share of correct completions.
COLUMNS: dict[str, tuple[str, ...]] = {
    "loss_per_byte": ("nats", "bytes"),
    "bleu": BLEU_STATISTICS,
    "chrf": CHRF_STATISTICS,
    **{name: (name,) for name in ROUGES},
    "weighted_f1": ("correct",),
    "correct": ("correct",),
}

# With fewer, more texts are counted again for other pairs; with more, more n-grams are held at once.
_PAIRS_AT_ONCE = 4096


class MetricError(ValueError):
    """Completions and references that cannot be scored against each other; the message says why."""


def digits(metric: str) -> int:
    """With how many digits after the point a score is shown."""
    return 3 if metric == "weighted_f1" or metric.startswith("loss_per_byte") else 1


def _check(completions: Sequence[str], references: Sequence[str]) -> None:
    for name, texts in (("completions", completions), ("references", references)):
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if isinstance(texts, str) or wrong is not None:
            raise MetricError(
                f"{name} must be a flat list of texts, one reference per completion, not {wrong or texts!r:.60}. "
                "Do not nest them: sacreBLEU reads [[r1], [r2], ...] as many references for the first completion "
                "alone, and gives no warning"
            )
    if len(completions) != len(references):
        raise MetricError(f"{len(completions)} completions cannot be scored against {len(references)} references")
    if not completions:
        raise MetricError("there is nothing to score: no completions")


def bleu(completions: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU by sacreBLEU, 0 to 100, and its signature.

    Raises:
        MetricError: for nested, empty or unequal lists.
    """
    _check(completions, references)
    metric = BLEU()
    return metric.corpus_score(list(completions), [list(references)]).score, str(metric.get_signature())


def chrf(completions: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus chrF++ (characters and word pairs) by sacreBLEU, 0 to 100, and its signature."""
    _check(completions, references)
    metric = CHRF(word_order=2)
    return metric.corpus_score(list(completions), [list(references)]).score, str(metric.get_signature())


def nested_bleu(completions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """BLEU by the wrongly nested call, which scores the first completion alone, against all references at once.

    For each completion, what the call says if it is the first, 0 to 100, shape (n,).

    It is no score of the completions. It illustrates a hypothesis of how the paper's BLEU came about: its size and its
    spread between decoding runs (Table 3: up to 16.54) fit no corpus BLEU over 9,800 rows, and they do fit this slip,
    about which sacreBLEU says nothing.
    """
    _check(completions, references)
    metric = BLEU()
    known = metric._extract_reference_info([metric._preprocess_segment(reference) for reference in references])
    # Only the nearest length counts, however many references have it.
    known["ref_lens"] = sorted(set(known["ref_lens"]))
    counts = (metric._compute_segment_statistics(metric._preprocess_segment(text), known) for text in completions)
    return np.array([metric._compute_score_from_stats(of_one).score for of_one in counts])


def rouge(completions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measure of ROUGE-1, -2 and -L, 0 to 100."""
    return {name: float(values.mean()) for name, values in rouge_each(completions, references).items()}


def rouge_each(completions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """F-measures of ROUGE-1, -2 and -L of every pair, 0 to 100, each of shape (n,).

    They are rouge_score's to the last digit: its tokenizer, without stemming, and its F-measure. Only the counting is
    quicker, and rapidfuzz finds the longest common subsequence.
    """
    _check(completions, references)
    # As numbers: rapidfuzz compares hashes, and a number is its own, so that no two words can be taken for one.
    numbers = _numbers()
    words = {text: [numbers[word] for word in tokenize(text, None)] for text in {*completions, *references}}
    ours, theirs, shared = _shared(completions, references, words.__getitem__, 2)
    longest = [LCSseq.similarity(words[a], words[b]) for a, b in zip(completions, references, strict=True)]
    return {
        "rouge1": 100 * _f_measures(shared[:, 0], ours, theirs),
        "rouge2": 100 * _f_measures(shared[:, 1], ours - 1, theirs - 1),
        "rougeL": 100 * _f_measures(np.array(longest), ours, theirs),
    }


def bleu_statistics(completions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What sacreBLEU counts in every pair for BLEU: int64 of shape (n, 10), with the columns BLEU_STATISTICS.

    Their sums over any set of pairs give its corpus BLEU: see `bleu_of`.
    """
    _check(completions, references)
    prepare = BLEU()._preprocess_segment
    ours, theirs, shared = _shared(completions, references, lambda text: prepare(text).split(), 4)
    return np.column_stack([ours, theirs, shared, _grams(ours, 4)])


def bleu_of(sums: np.ndarray) -> float:
    """Corpus BLEU, 0 to 100, of the pairs whose `bleu_statistics` sum to `sums`, of shape (10,)."""
    return BLEU()._compute_score_from_stats(np.asarray(sums).tolist()).score


def chrf_statistics(completions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What sacreBLEU counts in every pair for chrF++: int64 of shape (n, 24), with the columns CHRF_STATISTICS.

    Their sums over any set of pairs give its corpus chrF++: see `chrf_of`.
    """
    _check(completions, references)
    table = []
    for cut, orders in ((lambda text: "".join(text.split()), 6), (CHRF(word_order=2)._remove_punctuation, 2)):
        ours, theirs, shared = _shared(completions, references, cut, orders)
        of_reference = _grams(theirs, orders)
        # As in sacreBLEU, n-grams of an order that the reference is too short for do not count.
        of_completion = np.where(of_reference, _grams(ours, orders), 0)
        table.append(np.stack([of_completion, of_reference, shared], axis=2).reshape(len(completions), -1))
    return np.hstack(table)


def chrf_of(sums: np.ndarray) -> float:
    """Corpus chrF++, 0 to 100, of the pairs whose `chrf_statistics` sum to `sums`, of shape (24,)."""
    return CHRF(word_order=2)._compute_score_from_stats(np.asarray(sums).tolist()).score


def each(completions: Sequence[str], references: Sequence[str]) -> pd.DataFrame:
    """One row per pair, in the order given, with what BLEU, chrF++ and ROUGE are made of (see COLUMNS).

    The columns rouge1, rouge2 and rougeL are 0 to 100; the others are counts. `correct`, which takes embeddings, is
    the caller's to add.
    """
    return pd.DataFrame(
        {
            **rouge_each(completions, references),
            **dict(zip(BLEU_STATISTICS, bleu_statistics(completions, references).T, strict=True)),
            **dict(zip(CHRF_STATISTICS, chrf_statistics(completions, references).T, strict=True)),
        }
    )


def score_of(metric: str, sums: np.ndarray, pairs: int) -> float:
    """A metric (a key of COLUMNS) of some number of pairs, from the sums of its columns over them."""
    if metric == "bleu":
        return bleu_of(sums)
    if metric == "chrf":
        return chrf_of(sums)
    if metric == "loss_per_byte":
        return float(sums[0]) / math.log(2) / max(float(sums[1]), 1.0)
    mean = float(sums[0]) / pairs
    return 2 * mean / (1 + mean) if metric == "weighted_f1" else mean


def scores_of(metric: str, sums: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """`score_of` for many sets of pairs at once, such as resamples: equal to rounding, and many times quicker.

    Args:
        sums: one line for each set, of shape (sets, columns).
        pairs: how many pairs each set has, of shape (sets,).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "bleu":
            return _bleus_of(sums)
        if metric == "chrf":
            return _chrfs_of(sums)
        if metric == "loss_per_byte":
            return np.asarray(sums[:, 0] / math.log(2) / np.maximum(sums[:, 1], 1))
        means = np.asarray(sums[:, 0] / pairs)
        return 2 * means / (1 + means) if metric == "weighted_f1" else means


def _bleus_of(sums: np.ndarray) -> np.ndarray:
    ours, theirs, matches, grams = sums[:, 0], sums[:, 1], sums[:, 2:6], sums[:, 6:10]
    # sacreBLEU's smoothing: the k-th order without a match has 1 / 2**k of one.
    missing = (matches == 0) & (grams > 0)
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=1), matches)
    logs = np.where(grams > 0, np.log(100 * smoothed / grams), -np.inf).mean(axis=1)
    short = np.where(ours < theirs, np.where(ours > 0, np.exp(1 - theirs / ours), 0), 1)
    return np.where(matches.any(axis=1), short * np.exp(logs), 0)


def _chrfs_of(sums: np.ndarray) -> np.ndarray:
    ours, theirs, shared = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    counts = (ours > 0) & (theirs > 0)
    orders = np.maximum(counts.sum(axis=1), 1)
    precision = np.where(counts, shared / ours, 0).sum(axis=1) / orders
    recall = np.where(counts, shared / theirs, 0).sum(axis=1) / orders
    return np.where(precision + recall > 0, 100 * 5 * precision * recall / (4 * precision + recall), 0)


def correct(completions: np.ndarray, references: np.ndarray, similarity: float = 0.5) -> np.ndarray:
    """Which completions count as correct, bool of shape (n,), from unit-length embeddings of shape (n, dimensions).

    A completion is correct if its cosine to the reference is at least `similarity`.
    """
    return np.einsum("nd,nd->n", completions, references) >= similarity


def weighted_f1(completions: np.ndarray, references: np.ndarray, similarity: float = 0.5) -> float:
    """The paper's Weighted F1, 0 to 1, from unit-length embeddings of shape (n, dimensions) on both sides.

    Every row ought to be correct, so y_true is all ones, and F1 weighted over the two classes is 2r / (1 + r), with r
    the share of correct completions.
    """
    right = correct(completions, references, similarity)
    return float(f1_score(np.ones(len(right), dtype=int), right.astype(int), average="weighted", zero_division=0))


def _f_measures(shared: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    precision, recall = shared / ours.clip(1), shared / theirs.clip(1)
    return np.divide(2 * precision * recall, precision + recall, out=np.zeros(len(shared)), where=shared > 0)


def _numbers() -> defaultdict[Any, int]:
    """Gives every key that it is asked for a number, from 0."""
    return defaultdict(count().__next__)


def _grams(lengths: np.ndarray, orders: int) -> np.ndarray:
    """How many n-grams texts of these lengths have, for the orders from 1: shape (n, orders)."""
    return (lengths[:, None] - np.arange(orders)).clip(0)


def _shared(
    completions: Sequence[str], references: Sequence[str], cut: Callable[[str], Sequence[Any]], orders: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the texts of each pair share, once `cut` has made each a sequence of words or letters.

    Returns:
        The length of each completion and of each reference, of shape (n,), and how many n-grams they share, each as
        often as the text that has it less often: shape (n, orders). All are int64.
    """
    ours, theirs = np.empty((2, len(completions)), dtype=np.int64)
    shared = np.empty((len(completions), orders), dtype=np.int64)
    # Pairs with the same reference come together, so that it is cut and counted once.
    order = sorted(range(len(completions)), key=references.__getitem__)
    for start in range(0, len(order), _PAIRS_AT_ONCE):
        pairs = order[start : start + _PAIRS_AT_ONCE]
        places = _numbers()
        a, b = ([places[side[pair]] for pair in pairs] for side in (completions, references))
        sequences = [cut(text) for text in places]
        lengths = np.array([len(sequence) for sequence in sequences])
        ours[pairs], theirs[pairs] = lengths[a], lengths[b]
        for column, counts in enumerate(_gram_counts(sequences, lengths, orders)):
            shared[pairs, column] = counts[a].minimum(counts[b]).sum(axis=1)
    return ours, theirs, shared


def _gram_counts(sequences: Sequence[Sequence[Any]], lengths: np.ndarray, orders: int) -> Iterator[sparse.csr_array]:
    """For each order from 1, how often every n-gram is in every sequence: one row per sequence, one column per n-gram.

    The column is a number written with the n-gram's members as its digits, so that no two n-grams share one.
    """
    numbers = _numbers()
    member = np.fromiter(map(numbers.__getitem__, chain.from_iterable(sequences)), dtype=np.int64)
    # Behind the last sequence comes none, whose number is -1.
    row = np.append(np.repeat(np.arange(len(lengths)), lengths), [-1] * orders)
    start, gram, columns, digits = np.arange(len(member)), np.zeros_like(member), 1, max(len(numbers), 1)
    for place in range(orders):
        goes_on = row[start + place] == row[start]
        start, gram = start[goes_on], gram[goes_on]
        if columns * digits >= 2**63:
            # The numbers would not fit. Those that there are can be counted through instead.
            seen, gram = np.unique(gram, return_inverse=True)
            columns = max(len(seen), 1)
        gram, columns = gram * digits + member[start + place], columns * digits
        yield sparse.csr_array((np.ones_like(gram), (row[start], gram)), shape=(len(lengths), columns))
