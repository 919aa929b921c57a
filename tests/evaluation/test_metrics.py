import math

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from lib.evaluation import metrics
from lib.evaluation.metrics import MetricError

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
SCORES = [
    metrics.bleu,
    metrics.chrf,
    metrics.rouge,
    metrics.rouge_each,
    metrics.bleu_statistics,
    metrics.chrf_statistics,
    metrics.nested_bleu,
    metrics.each,
]
# Few words, so that they repeat, with what tokenizers trip over; and any text at all.
WORDS = st.sampled_from([
    "", "Ibu", "ibu", "kota,", "Kota.", "(kota)", "tidak-tidak", "10.000", "a", "é", "日本", "–", "&", "&amp;",
    "<skipped>", "-\n", "\n", "..",
])  # fmt: skip
TEXTS = st.lists(WORDS, max_size=14).map(" ".join) | st.text(max_size=30)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6).map(
    lambda pairs: [list(side) for side in zip(*pairs, strict=True)]
)


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


@given(PAIRS)
@example([["", "a b", "", "...", "kota kota kota"], ["", "", "a b", "a", "kota kota"]])
def test_rouge_of_each_pair_is_rouge_scores_to_the_last_digit(pairs):
    completions, references = pairs
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    scores = [scorer.score(reference, text) for text, reference in zip(completions, references, strict=True)]
    for name, values in metrics.rouge_each(completions, references).items():
        assert values.tolist() == [100 * score[name].fmeasure for score in scores]


@given(PAIRS)
@example([["", "a b", "", "...", "kota kota kota"], ["", "", "a b", "a", "kota kota"]])
def test_the_statistics_of_each_pair_are_those_that_sacrebleu_sums(pairs):
    completions, references = pairs
    for count, metric in [(metrics.bleu_statistics, BLEU()), (metrics.chrf_statistics, CHRF(word_order=2))]:
        found = count(completions, references)
        assert found.dtype == np.int64
        assert found.tolist() == metric._extract_corpus_statistics(completions, [references])


def test_the_statistics_are_sacrebleus_where_letters_are_many():
    # Six of 2,000 letters are more than a 64-bit number tells apart.
    letters = "".join(chr(0x4E00 + n) for n in range(2000))
    completions, references = [letters, letters[::-1], letters[:9]], [letters[5:] + letters[:99], letters, letters * 2]
    expected = CHRF(word_order=2)._extract_corpus_statistics(completions, [references])
    assert metrics.chrf_statistics(completions, references).tolist() == expected
    short = [letters[n : n + 2] for n in range(0, 2000, 2)]
    expected = CHRF(word_order=2)._extract_corpus_statistics(short, [short[::-1]])
    assert metrics.chrf_statistics(short, short[::-1]).tolist() == expected


def test_the_pairs_are_counted_the_same_in_parts_of_any_size(monkeypatch):
    completions, references = [*COMPLETIONS, "", *REFERENCES] * 3, [*REFERENCES, "a", *COMPLETIONS] * 3
    whole = metrics.each(completions, references)
    monkeypatch.setattr(metrics, "_PAIRS_AT_ONCE", 4)
    pd.testing.assert_frame_equal(metrics.each(completions, references), whole)


@given(PAIRS, st.data())
def test_summed_statistics_score_any_multiset_of_pairs_as_sacrebleu_scores_its_texts(pairs, data):
    completions, references = pairs
    drawn = data.draw(st.lists(st.integers(0, len(completions) - 1), min_size=1, max_size=8))
    texts, against = [completions[i] for i in drawn], [references[i] for i in drawn]
    bleu = metrics.bleu_of(metrics.bleu_statistics(completions, references)[drawn].sum(axis=0))
    chrf = metrics.chrf_of(metrics.chrf_statistics(completions, references)[drawn].sum(axis=0))
    assert bleu == BLEU().corpus_score(texts, [against]).score
    assert chrf == CHRF(word_order=2).corpus_score(texts, [against]).score


def test_sums_of_whole_numbers_held_as_floats_score_the_same():
    counted = metrics.bleu_statistics(COMPLETIONS, REFERENCES).sum(axis=0)
    assert metrics.bleu_of(counted.astype(float)) == metrics.bleu_of(counted)
    counted = metrics.chrf_statistics(COMPLETIONS, REFERENCES).sum(axis=0)
    assert metrics.chrf_of(counted.astype(float)) == metrics.chrf_of(counted)


def counted(rng, sets):
    """Sums for BLEU, for chrF++ and for the other metrics, among them orders without an n-gram or without a match."""
    grams = (rng.integers(0, 30, (sets, 1)) - np.arange(4)).clip(0)
    matches = (grams * rng.random((sets, 4)) * rng.integers(0, 2, (sets, 4))).astype(int)
    bleu = np.column_stack([grams[:, 0], rng.integers(0, 40, sets), matches, grams])
    ours, theirs = rng.integers(0, 9, (2, sets, 8))
    shared = (np.minimum(ours, theirs) * rng.integers(0, 3, (sets, 8)) / 2).astype(int)
    chrf = np.stack([ours, theirs, shared], axis=2).reshape(sets, -1)
    return {"bleu": bleu, "chrf": chrf, "loss_per_byte": rng.integers(0, 9, (sets, 2))}


@pytest.mark.parametrize("name", metrics.COLUMNS)
def test_many_sets_of_pairs_are_scored_at_once_as_each_by_itself(name):
    rng = np.random.default_rng(0)
    pairs = rng.integers(1, 50, 2000)
    sums = counted(rng, 2000).get(name, rng.integers(0, pairs + 1)[:, None]).astype(float)
    alone = [metrics.score_of(name, line, count) for line, count in zip(sums, pairs, strict=True)]
    assert 0 in alone and len(set(alone)) > 30
    np.testing.assert_allclose(metrics.scores_of(name, sums, pairs), alone, rtol=1e-12, atol=1e-12)


def test_the_statistics_have_the_names_of_what_they_count():
    # Five words and a full stop each, of which all but one word are shared: so are three pairs of words.
    row = metrics.each(["Ibu kota Jepang adalah Lima."], ["Ibu kota Jepang adalah Tokyo."]).iloc[0]
    assert (row["bleu_completion_words"], row["bleu_reference_words"]) == (6, 6)
    assert [row[f"bleu_matches_{n}"] for n in range(1, 5)] == [5, 3, 2, 1]
    assert [row[f"bleu_completion_{n}"] for n in range(1, 5)] == [6, 5, 4, 3]
    assert (row["chrf_completion_c1"], row["chrf_reference_c1"]) == (24, 25)
    assert (row["chrf_completion_w2"], row["chrf_reference_w2"], row["chrf_matches_w2"]) == (5, 5, 3)


def test_each_keeps_the_order_of_the_pairs_when_texts_repeat():
    completions, references = COMPLETIONS * 2 + REFERENCES, REFERENCES[::-1] * 3
    table = metrics.each(completions, references)
    alone = [metrics.each([c], [r]) for c, r in zip(completions, references, strict=True)]
    pd.testing.assert_frame_equal(table, pd.concat(alone, ignore_index=True))


def test_every_metric_of_a_table_follows_from_the_sums_of_its_columns():
    vectors = rows_with_share(2, 3)
    table = metrics.each(COMPLETIONS, REFERENCES).assign(correct=metrics.correct(*vectors), nats=[1.0, 2, 3], bytes=4)
    assert set().union(*metrics.COLUMNS.values()) == set(table.columns)
    found = {
        name: metrics.score_of(name, table[list(columns)].to_numpy().sum(axis=0), len(table))
        for name, columns in metrics.COLUMNS.items()
    }
    assert found["bleu"] == metrics.bleu(COMPLETIONS, REFERENCES)[0]
    assert found["chrf"] == metrics.chrf(COMPLETIONS, REFERENCES)[0]
    for name, value in metrics.rouge(COMPLETIONS, REFERENCES).items():
        assert found[name] == pytest.approx(value, abs=1e-12)
    assert found["weighted_f1"] == pytest.approx(metrics.weighted_f1(*vectors))
    assert found["correct"] == pytest.approx(2 / 3)
    assert found["loss_per_byte"] == pytest.approx(6 / math.log(2) / 12)


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


def test_nested_bleu_scores_the_first_completion_alone_against_all_references():
    scored = metrics.nested_bleu(COMPLETIONS, REFERENCES)
    assert scored[0] == BLEU().corpus_score(COMPLETIONS[:1], [[reference] for reference in REFERENCES]).score
    assert scored[0] == metrics.nested_bleu([COMPLETIONS[0], "lain", ""], REFERENCES)[0]
    assert scored[0] != metrics.nested_bleu(COMPLETIONS[::-1], REFERENCES)[0]
    assert metrics.nested_bleu([REFERENCES[2], "salah", "salah"], REFERENCES)[0] == pytest.approx(100)


def test_nested_bleu_is_there_for_every_choice_of_the_first_completion():
    completions = [*COMPLETIONS, "", "Ibu kota"]
    references = [*REFERENCES, "Air.", "Ibu kota Jepang ialah Tokyo, sebuah kota besar."]
    nested = [[reference] for reference in references]
    expected = [BLEU().corpus_score([text, *completions], nested).score for text in completions]
    assert metrics.nested_bleu(completions, references).tolist() == expected


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
