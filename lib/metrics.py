"""Scores of completions against references: the paper's five numbers (Table 3), and chrF++.

Each takes flat lists of equal length, one reference a completion. BLEU, chrF++ and ROUGE are 0 to 100, as their
libraries' users write them; Weighted F1 is 0 to 1, as in the paper.
"""

from collections.abc import Sequence

import numpy as np
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import f1_score

ROUGES = ("rouge1", "rouge2", "rougeL")
METRICS = ("bleu", "chrf", *ROUGES, "weighted_f1")


class MetricError(ValueError):
    """Completions and references that cannot be scored against each other; the message says why."""


def _check(completions: Sequence[str], references: Sequence[str]) -> None:
    for name, texts in (("completions", completions), ("references", references)):
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if isinstance(texts, str) or wrong is not None:
            raise MetricError(
                f"{name} must be a flat list of texts, one reference a completion, but hold {wrong or texts!r:.60}. "
                "A list of lists is the trap: sacreBLEU reads [[r1], [r2], ...] as many references for the first "
                "completion alone, and says nothing"
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


def rouge(completions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measure of ROUGE-1, -2 and -L, 0 to 100."""
    _check(completions, references)
    scorer = rouge_scorer.RougeScorer(list(ROUGES), use_stemmer=False)
    scores = [scorer.score(reference, text) for text, reference in zip(completions, references, strict=True)]
    return {name: 100 * float(np.mean([score[name].fmeasure for score in scores])) for name in ROUGES}


def weighted_f1(completions: np.ndarray, references: np.ndarray, similarity: float = 0.5) -> float:
    """The paper's Weighted F1, 0 to 1, from unit-length embeddings of shape (n, dimensions) on both sides.

    A completion is correct if its cosine to the reference is at least `similarity`. Every row ought to be correct, so
    y_true is all ones, and F1 weighted over the two classes is 2r / (1 + r), with r the share of correct completions.
    """
    correct = np.einsum("nd,nd->n", completions, references) >= similarity
    return float(f1_score(np.ones(len(correct), dtype=int), correct.astype(int), average="weighted", zero_division=0))
