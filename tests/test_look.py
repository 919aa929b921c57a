"""Our numbers beside the paper's."""

import pandas as pd

from lib import look, published

OURS = pd.DataFrame(
    {
        "iteration": ["0", "5", "5", "loraplus_ratio4"],
        "seed": [0, 0, 1, 0],
        "rows": [500, 100, 100, 100],
        "steps": [63, 65, 65, 65],
        "train_loss": [1.2, 1.1, 1.15, 1.0],
        "validation_loss": [1.3, 1.25, 1.2, 1.1],
    }
)


def summary() -> pd.DataFrame:
    rows = [
        ("base", 0, "bleu", 1.234, 0.051),
        ("base", 0, "weighted_f1", 0.1, float("nan")),
        ("base", 0, "chrf", 8.0, 0.5),
        ("5", 0, "bleu", 10.0, 0.1),
        ("loraplus_ratio4", 0, "bleu", 11.0, 0.1),
    ]
    return pd.DataFrame(rows, columns=["iteration", "seed", "metric", "mean", "sd"])


def test_table_2_has_every_row_of_the_paper_and_a_line_for_each_of_our_seeds():
    table = look.table2(OURS, published.table2()).data
    assert table["", "row"].tolist() == ["0", "1", "2", "3", "4", "5", "5", "6", "7", "8", "9"]
    five = table[table["", "row"] == "5"]
    assert five["the paper", "validation loss"].tolist() == [1.495, 1.495]
    assert five["this run", "validation loss"].tolist() == [1.25, 1.2]
    assert five["this run", "rows"].tolist() == [100, 100]
    assert table[table["", "row"] == "7"]["this run", "steps"].isna().all()


def test_table_2_tells_the_sampling_in_words():
    table = look.table2(OURS, published.table2()).data.set_index(("", "row"))
    sampling = table["the paper's settings", "sampling"]
    assert sampling["0"] == "random, 50,000"
    assert sampling["2"] == "1,000 from each subset"
    assert sampling["9"] == "stratified 16.7%, K = 100, 1,000 from each"


def test_table_2_shows_what_was_not_printed_as_a_dash():
    shown = look.table2(OURS, published.table2()).to_html()
    assert "nan" not in shown.lower()
    assert ">1.551<" in shown and ">0.0001<" in shown


def test_table_3_lays_the_paper_s_numbers_as_printed_beside_ours():
    table = look.table3(summary(), published.table3()).data
    assert table.index.tolist() == ["base", "row 5, seed 0", "loraplus ratio4, seed 0"]
    assert table.loc["base", ("BLEU", "ours")] == "1.23 ± 0.05"
    assert table.loc["row 5, seed 0", ("BLEU", "paper")] == "52.35 ± 3.72"
    assert table.loc["base", ("Weighted F1", "ours")] == "0.100"
    assert table.loc["base", ("Weighted F1", "paper")] == "0.503 ± 0.003"


def test_table_3_has_a_dash_where_one_side_is_missing_and_no_empty_column():
    table = look.table3(summary(), published.table3()).data
    assert table.loc["loraplus ratio4, seed 0", ("BLEU", "paper")] == "-"
    assert table.loc["row 5, seed 0", ("chrF++", "ours")] == "-"
    assert ("chrF++", "paper") not in table.columns
