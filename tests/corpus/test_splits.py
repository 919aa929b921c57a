import json
import os
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from lib.config import Config, Corpus
from lib.corpus import selection, splits
from lib.corpus.files import CorpusError
from lib.corpus.splits import normalise
from lib.demo import generator
from lib.training import pretraining

SYLLABLES = ("ba", "dan", "ra", "sik", "pung", "tel", "ka", "lu", "mi", "to", "ser", "wo")
WORDS = [f"{a}{b}{c}" for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]


def text(rng, words):
    return " ".join(rng.choice(WORDS, size=words))


def near(rng, original):
    """The same text with one of its many words another."""
    words = original.split()
    words[int(rng.integers(len(words)))] = "lain"
    return " ".join(words)


def made(seed, count=150):
    """Rows with copies, other prompts for the same output, other outputs for the same prompt, and near-duplicates."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        prompt, output = f"{text(rng, 5)} {n}?", f"{text(rng, 60)} {n}."
        rows.append(("dolly", prompt, output))
        kind = n % 6
        if kind == 1:
            rows += [("identity_prompt", prompt.upper(), output.replace(" ", "  "))] * 3
        elif kind == 2:
            rows.append(("dolly", text(rng, 6), output))
        elif kind == 3:
            rows.append(("dolly", prompt, text(rng, 20)))
        elif kind == 4:
            rows.append(("dolly", text(rng, 6), near(rng, output)))
        elif kind == 5:
            rows.append(("indo_puisi", "Tulislah sebuah puisi!", text(rng, 12)))
    return rows


@pytest.fixture
def split(tmp_path):
    def assign(rows, **settings):
        path = tmp_path / "rows.parquet"
        pd.DataFrame(rows, columns=["subset_name", "input", "output"]).to_parquet(path)
        return splits.assign(path, Corpus(**settings))

    return assign


def sides(table, texts):
    return table.groupby(pd.Series(texts, index=table.index))["split"].nunique()


def test_a_text_is_normalised_to_its_words_in_small_letters():
    assert normalise("  Apa—Kabar?! \n ＡＢＣ, É ") == "apa kabar abc é"


def test_no_group_is_on_two_sides(split):
    table = split(made(0), test_share=0.3, validation_share=0.3)
    assert set(table["split"]) == {"train", "validation", "test"}
    assert (table.groupby("group")["split"].nunique() == 1).all()


def test_no_normalised_prompt_or_long_output_is_on_two_sides(split):
    rows = made(1)
    table = split(rows, test_share=0.3, validation_share=0.3)
    prompts = sides(table, [normalise(prompt) for _, prompt, _ in rows])
    assert prompts.index[prompts > 1].tolist() == ["tulislah sebuah puisi"]
    outputs = sides(table, [normalise(output) for *_, output in rows])
    assert (outputs == 1).all()


def test_the_same_words_otherwise_written_are_the_same_row(split):
    table = split([("dolly", "Apa itu X?", "Itu huruf ke-24 abjad."), ("dolly", "apa itu  x", "ITU huruf ke 24 abjad")])
    assert table["pair"].nunique() == table["group"].nunique() == 1


def test_a_row_is_found_in_the_table_by_what_it_says(split):
    table = split(
        [("dolly", "Apa itu?", "Itu adalah sebuah benda."), ("dolly", "Siapa itu?", "Itu adalah seorang guru.")]
    )
    assert splits.pair_of("apa  ITU", "itu adalah sebuah benda") == table["pair"][0] != table["pair"][1]


@pytest.mark.parametrize("column", [1, 2], ids=["prompts", "outputs"])
def test_near_duplicates_stay_together(split, column):
    rng = np.random.default_rng(2)
    rows = []
    for n in range(60):
        row = ["dolly", f"{text(rng, 60)} {n}", f"{text(rng, 60)} {n}"]
        other = ["dolly", f"{text(rng, 60)} {n}", f"{text(rng, 60)} {n}"]
        other[column] = near(rng, row[column])
        rows += [row, other]
    group = split(rows)["group"].to_numpy()
    assert (group[::2] == group[1::2]).all()
    assert len(set(group)) == 60


def test_unlike_texts_do_not_stay_together(split):
    rng = np.random.default_rng(3)
    rows = [("dolly", text(rng, 30), text(rng, 30)) for _ in range(300)]
    assert split(rows)["group"].nunique() == 300


ANSWER = "Saya tidak bisa membantu dengan hal itu karena dapat merugikan orang lain."


@pytest.mark.parametrize(
    "other",
    [
        "Saya tidak bisa membantu dengan hal itu karena bisa merugikan orang lain.",
        "Maaf, saya tidak bisa membantu dengan hal itu karena dapat merugikan orang lain.",
        "Saya tidak bisa membantu dengan hal itu karena dapat merugikan orang.",
    ],
    ids=["another word", "a word more", "a word less"],
)
def test_short_answers_that_differ_by_a_word_stay_together(split, other):
    assert split([("a", "Satu dua tiga?", ANSWER), ("a", "Empat lima enam?", other)])["group"].nunique() == 1


def test_short_texts_about_other_things_do_not_stay_together(split):
    rows = [("a", "Apa ibu kota Jepang?", "Ibu kota Jepang adalah Tokyo."), ("a", "Apa ibu kota Jerman?", "Berlin.")]
    rows += [("a", "Sebutkan ibu kota Italia.", "Ibu kota Italia adalah Roma.")]
    assert split(rows)["group"].nunique() == 3


@pytest.mark.parametrize("kinds", [(1, 1), (1, 2), (2, 1), (2, 2)], ids=lambda kinds: f"{kinds[0]} in {kinds[1]}")
def test_a_text_and_one_that_contains_it_stay_together_be_they_prompts_or_outputs(split, kinds):
    rng = np.random.default_rng(7)
    rows = [["a", text(rng, 12), text(rng, 12)] for _ in range(40)]
    inside, around = kinds
    rows[0][inside] = text(rng, 8)
    rows[1][around] = f"{text(rng, 150)} {rows[0][inside].upper()}! {text(rng, 3)}"
    rows[2][around] = text(rng, 150)
    group = split(rows)["group"]
    assert group[0] == group[1]
    assert group.nunique() == 39


def test_a_phrase_of_seven_words_may_be_in_many_texts(split):
    rng = np.random.default_rng(8)
    phrase = text(rng, 7)
    rows = [("a", text(rng, 12), phrase), ("a", text(rng, 12), f"{text(rng, 100)} {phrase} {text(rng, 5)}")]
    assert split(rows)["group"].nunique() == 2


def test_a_prompt_that_names_no_answer_is_found_in_no_other(split):
    rng = np.random.default_rng(9)
    prompt = text(rng, 9)
    rows = [("a", prompt, text(rng, 12)) for _ in range(5)] + [("a", f"{prompt} {text(rng, 40)}", text(rng, 12))]
    assert split(rows, generic_after=4)["group"].nunique() == 6
    assert split(rows, generic_after=5)["group"].nunique() == 1


def test_a_family_of_prompts_that_differ_by_a_name_names_no_answer_either(split):
    rng = np.random.default_rng(10)
    rows = [("a", f"Bagaimana cara menggunakan perintah {name} di Linux?", text(rng, 12)) for name in WORDS[:12]]
    assert split(rows, generic_after=11)["group"].nunique() == 12
    assert split(rows, generic_after=12)["group"].nunique() == 1


def test_a_chain_of_ties_is_one_group(split):
    rows = [
        ("dolly", "siapa presiden pertama", "Soekarno adalah presiden pertama."),
        ("dolly", "presiden pertama siapa ya", "Soekarno adalah presiden pertama."),
        ("dolly", "presiden pertama siapa ya", "Yang pertama ialah Soekarno."),
    ]
    assert split(rows)["group"].nunique() == 1


def test_an_output_of_three_words_ties_nothing_and_one_of_four_does(split):
    short, long = "Ya, itu benar.", "Ya, itu benar sekali."
    assert split([("a", "satu", short), ("a", "dua", short)])["group"].nunique() == 2
    assert split([("a", "satu", long), ("a", "dua", long)])["group"].nunique() == 1


def test_a_prompt_with_more_outputs_than_allowed_ties_nothing(split):
    rng = np.random.default_rng(4)
    rows = [("indo_puisi", "Tulislah sebuah puisi!", text(rng, 12)) for _ in range(4)]
    assert split(rows, generic_after=4)["group"].nunique() == 1
    assert split(rows, generic_after=3)["group"].nunique() == 4
    # Copies of a row are not further outputs.
    assert split(rows * 5, generic_after=4)["group"].nunique() == 1


def test_the_shares_are_near_those_asked_for(split):
    rng = np.random.default_rng(5)
    rows = [("dolly", f"{n} {text(rng, 4)}", f"{n} {text(rng, 6)}") for n in range(4_000)]
    shares = split(rows, test_share=0.2, validation_share=0.1)["split"].value_counts(normalize=True)
    # Three standard deviations of a draw of 4,000.
    assert shares["test"] == pytest.approx(0.2, abs=0.019)
    assert shares["validation"] == pytest.approx(0.1, abs=0.0143)


def test_another_seed_draws_other_sides_of_the_same_groups(split):
    first, other = split(made(6), test_share=0.5), split(made(6), test_share=0.5, split_seed=1)
    np.testing.assert_array_equal(first["group"], other["group"])
    assert (first["split"] != other["split"]).mean() > 0.2


def test_rows_are_left_over_on_the_training_side_alone_and_are_near_the_share_asked_for(split):
    rng = np.random.default_rng(10)
    rows = [("dolly", f"{n} {text(rng, 4)}", f"{n} {text(rng, 6)}") for n in range(4_000)]
    table = split(rows, test_share=0.2, validation_share=0.1)
    assert set(table.loc[table["left_over"], "split"]) == {"train"}
    # Three standard deviations of a draw from 2,800.
    assert table.loc[table["split"] == "train", "left_over"].mean() == pytest.approx(0.2, abs=0.023)


def test_every_copy_of_a_row_is_left_over_or_not_by_itself(split):
    rows = [("identity_prompt", f"Siapa kamu {n}?", f"Saya asisten yang bernomor {n}.") for n in range(10)]
    table = split(rows * 200, test_share=0.25, validation_share=0.0)
    shares = table[table["split"] == "train"].groupby("pair")["left_over"].mean()
    assert len(shares) > 3
    # Three standard deviations of a draw from 200; were copies drawn as one, shares would be 0 or 1.
    assert shares.between(0.25 - 0.092, 0.25 + 0.092).all()
    assert shares.nunique() > 1


def test_another_seed_leaves_other_copies_over(split):
    rng = np.random.default_rng(11)
    rows = [("identity_prompt", text(rng, 6), text(rng, 8)) for _ in range(10)] * 200
    first, other = (split(rows, test_share=0.25, validation_share=0.0, split_seed=seed) for seed in (1, 2))
    # One place on, they are the copies before and after.
    for places in (-10, 0, 10):
        shifted = other.shift(places)
        trained = (first["split"] == "train") & (shifted["split"] == "train") & first["left_over"]
        assert shifted.loc[trained, "left_over"].mean() < 0.5


@given(seed=st.integers(0, 10**6))
@examples(max_examples=8)
def test_the_order_of_the_rows_changes_nothing(tmp_path_factory, seed):
    rows = pd.DataFrame(made(seed, 60), columns=["subset_name", "input", "output"])
    # Chains of near-duplicates at the very edge of being alike.
    rng = np.random.default_rng(seed)
    chain = [text(rng, 40)]
    for _ in range(12):
        chain.append(near(rng, chain[-1]).replace("lain", f"lain{len(chain)}"))
    chained = pd.DataFrame({"subset_name": "dolly", "input": [f"p {n}" for n in range(13)], "output": chain})
    rows = pd.concat([rows, chained], ignore_index=True)
    order = rng.permutation(len(rows))
    path = tmp_path_factory.mktemp("order") / "rows.parquet"
    rows.to_parquet(path)
    straight = splits.assign(path, Corpus())
    rows.iloc[order].to_parquet(path)
    shuffled = splits.assign(path, Corpus())
    alone = [name for name in straight if name != "left_over"]
    pd.testing.assert_frame_equal(straight.iloc[order].reset_index(drop=True)[alone], shuffled[alone])
    # Copies cannot be told apart: as many of them are left over, whichever they are.
    left = [table.groupby("pair")["left_over"].sum() for table in (straight, shuffled)]
    pd.testing.assert_series_equal(*left)
    assert 0 < left[0].sum() < (straight["split"] == "train").sum()


#: SHA-256 of the outputs of real identity and safety rows that are nearly the same, pair by pair. Of words, some pairs
#: share fewer than half of their three-grams.
NEARLY_EQUAL = (
    ("3db89304c726", "4f801d606c9f"), ("621e8fc2735c", "2e60438434ef"), ("2c9ad73c43b8", "9fe7adef2973"),
    ("6c591f7c1af8", "8feedf2e3ea0"), ("f3fe05d560d7", "b3abd1340cc6"), ("d4938344287a", "82e0c062cf4d"),
)  # fmt: skip


@pytest.mark.skipif("KLEPON_REAL_ROWS" not in os.environ, reason="KLEPON_REAL_ROWS names no file of real rows")
def test_real_answers_that_differ_in_a_word_or_two_are_of_one_group(tmp_path):
    rows = tmp_path / "rows.parquet"
    selection.select(os.environ["KLEPON_REAL_ROWS"], rows)
    group = splits.assign(rows, Corpus())["group"].to_numpy()
    known = [sha256(output.encode()).hexdigest()[:12] for output in selection.read(rows, columns=["output"])["output"]]
    for one, other in NEARLY_EQUAL:
        assert group[known.index(one)] == group[known.index(other)], (one, other)


def test_added_rows_move_no_group_that_they_do_not_tie(split):
    rows = made(7)
    rng = np.random.default_rng(8)
    added = [("wikihow", f"tambahan {n} {text(rng, 5)}", f"{text(rng, 30)} tambahan {n}") for n in range(200)]
    before, after = split(rows), split([*added[:100], *rows, *added[100:]])
    columns = ["group", "split"]
    pd.testing.assert_frame_equal(before[columns], after[columns].iloc[100:-100].reset_index(drop=True))


def test_the_leakage_of_a_random_split_is_counted_by_subset():
    # One row copied 500 times; 500 rows that share one output; 500 rows of their own.
    table = pd.DataFrame(
        {
            "subset": ["copied"] * 500 + ["shared"] * 500 + ["own"] * 500,
            "pair": [1] * 500 + list(range(1_000, 1_500)) + list(range(2_000, 2_500)),
            "output": [1] * 500 + [2] * 500 + list(range(2_000, 2_500)),
            "group": [1] * 500 + [2] * 500 + list(range(2_000, 2_500)),
            "split": ["test"] * 500 + ["train"] * 500 + ["test"] * 50 + ["train"] * 450,
        }
    )
    found = splits.leakage(table, test_share=0.1)
    assert found["rows"].to_dict() == {"copied": 500, "own": 500, "shared": 500, "all": 1500}
    assert found["distinct rows"].to_dict() == {"copied": 1, "own": 500, "shared": 500, "all": 1001}
    assert found["distinct outputs"].to_dict() == {"copied": 1, "own": 500, "shared": 1, "all": 502}
    assert found["groups"].to_dict() == {"copied": 1, "own": 500, "shared": 1, "all": 502}
    rows, outputs = found["random split: rows leaked"], found["random split: outputs leaked"]
    assert rows.drop("all").to_dict() == {"copied": 1, "own": 0, "shared": 0}
    assert outputs.drop("all").to_dict() == {"copied": 1, "own": 0, "shared": 1}
    # A third of the random test rows are copies; it is a draw.
    assert rows["all"] == pytest.approx(1 / 3, abs=0.15)
    assert found["grouped split: rows leaked"].drop("shared").to_dict() == {"copied": 0, "own": 0, "all": 0}


def test_a_leak_of_the_grouped_split_would_be_seen():
    table = pd.DataFrame(
        {"subset": "a", "pair": [1, 1, 2, 3], "output": 1, "group": 1, "split": ["train", "test", "test", "train"]}
    )
    assert splits.leakage(table, 0.5)["grouped split: rows leaked"].to_dict() == {"a": 0.5, "all": 0.5}


@pytest.fixture
def prepared(root, monkeypatch):
    """A run with selected rows; `assigned` lists the splits that were made."""
    config = Config(run="kecil")
    config.paths.rows.parent.mkdir(parents=True)
    pd.DataFrame(made(9), columns=["subset_name", "input", "output"]).to_parquet(config.paths.rows)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "a"}))
    assigned = []
    assign = splits.assign
    monkeypatch.setattr(splits, "assign", lambda *args: assigned.append(args) or assign(*args))
    return config, assigned


def test_a_split_is_made_once_and_read_after_that(prepared):
    config, assigned = prepared
    first, again = splits.prepare(config), splits.prepare(config)
    assert len(assigned) == 1
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(first, splits.read(config))


def test_a_split_is_made_anew_when_its_settings_change(prepared):
    config, assigned = prepared
    splits.prepare(config)
    table = splits.prepare(replace(config, corpus=replace(config.corpus, test_share=0.5)))
    assert len(assigned) == 2
    assert (table["split"] == "test").mean() > 0.3


def test_a_split_is_made_anew_when_the_rows_change(prepared):
    config, assigned = prepared
    splits.prepare(config)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "b"}))
    splits.prepare(config)
    assert len(assigned) == 2


def test_a_split_is_made_anew_by_other_code(prepared, monkeypatch):
    config, assigned = prepared
    splits.prepare(config)
    monkeypatch.setattr(splits.code, "fingerprint", lambda *rooms: "other")
    splits.prepare(config)
    assert len(assigned) == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [("dolly", "Apa itu?", "Itu adalah sebuah benda saja.")],
            r"'rows\.jsonl' has 1 rows of the subsets, 1 distinct, in 1 groups .* no row for: ",
        ),
        (
            [("dolly", "Apa itu?", "Itu adalah sebuah benda saja.")] * 500,
            r"has 500 rows of the subsets, 1 distinct, in 1 groups .*Add rows that say other things",
        ),
        (
            [("dolly", f"Apa itu {n}?", "Itu adalah sebuah benda yang sama saja.") for n in range(600)],
            r"has 600 rows of the subsets, 600 distinct, in 1 groups .*Add rows that say other things",
        ),
    ],
    ids=["one row", "copies of one row", "one output"],
)
def test_a_corpus_that_leaves_a_side_empty_is_refused_with_its_counts_and_a_cure(root, rows, said):
    config = replace(Config(run="kecil"), corpus=Corpus(source="rows.jsonl"))
    config.paths.rows.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=["subset_name", "input", "output"]).to_parquet(config.paths.rows)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "a"}))
    with pytest.raises(CorpusError, match=said):
        splits.prepare(config)
    assert not config.paths.split.exists()


def test_a_corpus_whose_whole_training_side_is_left_over_is_refused(root):
    rows = [("dolly", f"Apa itu {n}?", f"Itu {n * n} dan {n * 7} serta {n} saja.") for n in range(6)]
    # A seed that puts two of six rows on each side, and leaves over both that could be trained on.
    settings = Corpus(source="rows.jsonl", test_share=0.4, validation_share=0.3, split_seed=12)
    config = replace(Config(run="kecil"), corpus=settings)
    config.paths.rows.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=["subset_name", "input", "output"]).to_parquet(config.paths.rows)
    config.paths.corpus_summary.write_text(json.dumps({"fingerprint": "a"}))
    table = splits.assign(config.paths.rows, settings)
    assert table["split"].value_counts().to_dict() == {"train": 2, "validation": 2, "test": 2}
    assert table["left_over"].sum() == 2
    with pytest.raises(CorpusError, match=r"has 6 rows .* That leaves no row for: train\. Add rows"):
        splits.prepare(config)
    assert not config.paths.split.exists()


def test_a_split_that_was_never_made_is_asked_for_by_name(root):
    with pytest.raises(FileNotFoundError, match=r"no split of run 'kecil' yet: run 1_sampling first"):
        splits.read(Config(run="kecil"))


@pytest.fixture(scope="module")
def demo_split(tmp_path_factory):
    """The split of the demo corpus, as the demo makes it: its rows in their shuffled order, with all copies."""
    rows = pd.DataFrame(generator.rows())
    path = tmp_path_factory.mktemp("demo") / "rows.parquet"
    rows[rows["subset_name"].isin(selection.SUBSETS)].to_parquet(path)
    return splits.assign(path, Corpus())


def test_the_demos_base_model_reads_no_indonesian_row_of_a_test_group(demo_split, split):
    pairs = [(subset, *pair[:2]) for subset, some in pretraining.training_side().items() for pair in some]
    assert len(pairs) > 10_000
    read = set(split(pairs)["pair"])
    assert not read & set(demo_split.loc[demo_split["split"] == "test", "pair"])
    # Nor anything that the paper's protocol tests on.
    left_over = set(demo_split.loc[demo_split["left_over"], "pair"])
    assert left_over and not read & left_over
    assert read == set(demo_split.loc[demo_split["split"] == "train", "pair"]) - left_over


def test_the_demo_corpus_has_test_rows_of_every_subset_and_trains_on_none_of_them(demo_split):
    share = (demo_split["split"] == "test").groupby(demo_split["subset"]).mean()
    assert set(share.index) == set(selection.SUBSETS)
    assert (share > 0.03).all()
    tested, trained = (demo_split[demo_split["split"] == side] for side in ("test", "train"))
    assert not set(tested["pair"]) & set(trained["pair"])
    assert not set(tested.loc[~tested["short"], "output"]) & set(trained["output"])


# --- Rows and texts of elsewhere -------------------------------------------------------------------------------------

LONG = "Cara menanak nasi yang pulen dan wangi di rumah sendiri tanpa alat apa pun"


def alike(rows, *texts):
    table = pd.DataFrame(rows, columns=["input", "output"], index=range(100, 100 + len(rows)))
    found = splits.alike(table, pd.Series(texts, index=[f"text {n}" for n in range(len(texts))]), 0.6)
    return sorted(found.itertuples(index=False, name=None))


def test_a_row_is_alike_to_a_text_by_its_prompt_or_by_its_output():
    rows = [(f"{LONG}!", "ya"), ("Apa?", LONG.upper()), ("Apa?", "sesuatu yang sama sekali lain dari itu semua")]
    assert alike(rows, LONG) == [(100, "text 0"), (101, "text 0")]


def test_a_row_is_alike_to_a_text_that_is_nearly_its_own_or_a_part_of_it_or_around_it():
    story = f"Suatu hari nenek bercerita panjang lebar kepada kami semua. {LONG}. Kami mendengar sampai larut malam."
    rows = [
        ("Apa?", LONG.replace("sendiri", "nenek")),
        ("Apa?", story),
        ("nasi yang pulen dan wangi di rumah sendiri", ""),
    ]
    assert alike(rows, LONG) == [(100, "text 0"), (101, "text 0"), (102, "text 0")]


def test_each_pair_is_there_once_and_every_copy_counts():
    rows = [(LONG, LONG), (LONG, "ya")]
    assert alike(rows, LONG, f"{LONG}.") == [(r, t) for r in (100, 101) for t in ("text 0", "text 1")]


def test_a_row_is_not_alike_to_what_only_another_row_is_alike_to():
    # Each is near the next, but the ends of the chain have less than half of their runs of words in common.
    words, others = text(np.random.default_rng(0), 60).split(), text(np.random.default_rng(1), 21).split()
    chain = [" ".join([*others[:n], *words[n:]]) for n in (0, 10, 21)]
    assert alike([("Apa?", chain[0]), ("Apa?", chain[2])], chain[1]) == [(100, "text 0"), (101, "text 0")]
    assert alike([("Apa?", chain[1]), ("Apa?", chain[2])], chain[0]) == [(100, "text 0")]


def test_without_texts_or_rows_nothing_is_alike():
    assert alike([(LONG, LONG)]) == []
    assert alike([], LONG) == []
