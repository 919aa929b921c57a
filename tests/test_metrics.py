import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from lib import metrics
from lib.metrics import MetricError

REFERENCES = [
    "Ibu kota Jepang adalah Tokyo.",
    "Hujan turun di atas atap seng, malam berlagu pelan.",
    "Maaf, saya tidak bisa membantu membuat sesuatu yang berbahaya.",
]
COMPLETIONS = [
    "Ibu kota Jepang adalah Lima.",
    "Hujan turun pelan di atas atap.",
    "Maaf, saya tidak dapat membantu membuat sesuatu yang berbahaya bagi Anda.",
]
SCORES = [metrics.bleu, metrics.chrf, metrics.rouge]


def test_bleu_is_sacrebleus_with_one_reference_a_completion():
    score, signature = metrics.bleu(COMPLETIONS, REFERENCES)
    assert score == sacrebleu.corpus_bleu(COMPLETIONS, [REFERENCES]).score
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_chrf_is_sacrebleus_chrf_with_word_pairs():
    score, signature = metrics.chrf(COMPLETIONS, REFERENCES)
    assert score == sacrebleu.corpus_chrf(COMPLETIONS, [REFERENCES], word_order=2).score
    assert "nw:2" in signature


def test_rouge_is_the_mean_f_measure_of_rouge_score_times_100():
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    scores = [scorer.score(reference, text) for reference, text in zip(REFERENCES, COMPLETIONS, strict=True)]
    for name, value in metrics.rouge(COMPLETIONS, REFERENCES).items():
        assert value == pytest.approx(100 * sum(score[name].fmeasure for score in scores) / 3, abs=1e-12)


def test_rouge_worked_by_hand():
    # Five words each, four shared, three pairs of four shared.
    scores = metrics.rouge(["Ibu kota Jepang adalah Lima."], ["Ibu kota Jepang adalah Tokyo."])
    assert scores == pytest.approx({"rouge1": 80.0, "rouge2": 75.0, "rougeL": 80.0})


def test_equal_texts_score_100_and_unrelated_ones_near_0():
    assert metrics.bleu(REFERENCES, REFERENCES)[0] == pytest.approx(100)
    assert metrics.chrf(REFERENCES, REFERENCES)[0] == pytest.approx(100)
    assert metrics.rouge(REFERENCES, REFERENCES) == pytest.approx({"rouge1": 100, "rouge2": 100, "rougeL": 100})
    assert metrics.bleu(["xyz"] * 3, REFERENCES)[0] < 1
    assert metrics.rouge(["xyz"] * 3, REFERENCES) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_an_empty_completion_is_scored_and_counts_as_nothing():
    assert metrics.bleu(["", *COMPLETIONS[1:]], REFERENCES)[0] < metrics.bleu(COMPLETIONS, REFERENCES)[0]
    assert metrics.rouge([""], REFERENCES[:1])["rouge1"] == 0


def test_sacrebleu_itself_says_nothing_when_the_references_are_nested_wrongly():
    # The trap that this module refuses: only the first completion is scored, here a perfect one.
    completions = [REFERENCES[0], "salah", "salah"]
    assert sacrebleu.corpus_bleu(completions, [[reference] for reference in REFERENCES]).score == pytest.approx(100)
    assert metrics.bleu(completions, REFERENCES)[0] < 50


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("nested", [[[r] for r in REFERENCES], [tuple(REFERENCES)] * 3])
def test_wrongly_nested_references_are_refused_by_name_of_the_trap(score, nested):
    with pytest.raises(MetricError, match=r"references must be a flat list .* \[\[r1\], \[r2\], \.\.\.\]"):
        score(COMPLETIONS, nested)


@pytest.mark.parametrize("score", SCORES)
def test_one_text_instead_of_a_list_is_refused(score):
    with pytest.raises(MetricError, match="flat list"):
        score("abc", ["a", "b", "c"])


@pytest.mark.parametrize("score", SCORES)
def test_lists_of_unequal_length_are_refused(score):
    with pytest.raises(MetricError, match="2 completions cannot be scored against 3 references"):
        score(COMPLETIONS[:2], REFERENCES)


@pytest.mark.parametrize("score", SCORES)
def test_nothing_to_score_is_refused(score):
    with pytest.raises(MetricError, match="nothing to score"):
        score([], [])


def rows_with_share(correct, of):
    """Unit vectors on both sides, of which the first `correct` pairs are the same and the others at right angles."""
    references = np.tile([1.0, 0.0], (of, 1))
    completions = np.array([[1.0, 0.0]] * correct + [[0.0, 1.0]] * (of - correct))
    return completions, references


@pytest.mark.parametrize("correct", [0, 1, 336, 500, 999, 1000])
def test_weighted_f1_is_2r_over_1_plus_r(correct):
    r = correct / 1000
    assert metrics.weighted_f1(*rows_with_share(correct, 1000)) == pytest.approx(2 * r / (1 + r))


def test_the_papers_weighted_f1_of_the_base_model_is_a_third_of_correct_answers():
    assert round(metrics.weighted_f1(*rows_with_share(336, 1000)), 3) == 0.503


def test_a_cosine_at_the_threshold_counts_as_correct():
    # 0.5 and 0.25 are exact in binary.
    completions = np.array([[0.5, 0.75**0.5]])
    references = np.array([[1.0, 0.0]])
    assert metrics.weighted_f1(completions, references, 0.5) == 1
    assert metrics.weighted_f1(completions, references, 0.5000001) == 0
