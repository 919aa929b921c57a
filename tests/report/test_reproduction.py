"""Whether one run reproduces another, by made-up runs."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from small_run import COLUMNS

from lib import paths
from lib.report import reproduction

#: Of five decoding runs.
SPREAD = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
MANIFEST = {
    "run": "a", "iterations": ["5"], "seeds": [0], "corpus": {"source": "open", "sha256": "c" * 64},
    "base_model": {"sha256": "b" * 64}, "adapters": {"5_seed0": "d" * 64}, "device": "CPU",
    "packages": {"torch": "2.13.0"},
    "final_adapter": {"settings": {"training": {"epochs": 5.0}}}, "stages": {"5_report": {"seconds": 1.0}},
}  # fmt: skip


def results(losses: dict[int, float], base: float = 2.0, bleu: float = 10.0, echo: float = 1.5) -> pd.DataFrame:
    """Scores of the base and of row 5 trained with some seeds, and of the prompts echoed."""
    lines = [("base", 0, "clean", 0, "loss_per_byte", base), ("echo", 0, "clean", 0, "bleu", echo)]
    lines += [("base", 0, "nusax", 0, "loss_per_byte", 3 * base), ("base", 0, "nusax", 0, "accuracy", 0.5)]
    for seed, loss in losses.items():
        lines += [("5", seed, "clean", 0, "loss_per_byte", loss), ("5", seed, "greedy", 0, "bleu", bleu)]
        lines += [("5", seed, "clean", run, "bleu", bleu + more) for run, more in enumerate(SPREAD)]
    return pd.DataFrame(lines, columns=COLUMNS)


@pytest.fixture
def publish(root):
    """Write what a run publishes into reports/<run>, and return the path of its results.csv."""

    def write(run: str, table: pd.DataFrame, half: float | None = None, **made):
        files = paths.RunPaths(run)
        files.reports.mkdir(parents=True, exist_ok=True)
        table.to_csv(files.results, index=False)
        files.manifest.write_text(json.dumps(MANIFEST | {"run": run} | made))
        if half is not None:
            means = table.groupby([*COLUMNS[:3], "metric"], sort=False)["value"].mean().rename("mean").reset_index()
            means.assign(low=means["mean"] - half, high=means["mean"] + half).to_csv(files.summary, index=False)
        return files.results

    return write


def compared(theirs, mine) -> pd.DataFrame:
    found = reproduction.compare(reproduction.read(theirs), reproduction.read(mine))
    return found.set_index(["iteration", "protocol", "metric", "seed"])


LOSS, BLEU = ("5", "clean", "loss_per_byte", 0), ("5", "clean", "bleu", 0)


def test_a_run_reproduces_itself_with_and_without_its_intervals(publish):
    for half in (None, 0.1):
        path = publish("a", results({seed: 1.0 + seed for seed in range(12)} | {12: 60.0}), half)
        assert set(compared(path, path)["verdict"]) == {"inside"}


def test_with_one_seed_on_the_same_rows_a_loss_may_differ_by_rounding_alone(publish):
    theirs = publish("a", results({0: 1.0}), half=0.3)
    for loss, verdict in ((1.009, "inside"), (1.011, "outside"), (0.989, "outside")):
        found = compared(theirs, publish("b", results({0: loss}))).loc[LOSS]
        assert (found["over"], found["verdict"]) == ("rounding", verdict), "the interval over test groups is far wider"


def test_with_one_seed_on_the_same_rows_a_score_of_completions_may_differ_as_its_decoding_runs_do(publish):
    theirs = publish("a", results({0: 1.0}))
    found = compared(theirs, publish("b", results({0: 1.0}))).loc[BLEU]
    # Student's t with 4 degrees of freedom, and the difference of two means over five runs.
    half = 2.776445 * SPREAD.std(ddof=1) * (2 / 5) ** 0.5
    assert found["over"] == "decoding"
    assert (found["low"], found["high"]) == pytest.approx((10 - half, 10 + half), rel=1e-6)
    assert compared(theirs, publish("b", results({0: 1.0}, bleu=10 + 1.01 * half))).loc[BLEU, "verdict"] == "outside"


def test_with_several_seeds_on_the_same_rows_any_seed_of_mine_may_be_where_another_of_theirs_could(publish):
    theirs = publish("a", results({0: 1.0, 1: 1.1, 2: 1.2}), half=0.001)
    found = compared(theirs, publish("b", results({2: 1.0, 7: 1.59, 8: 1.61})))
    # 1.1 and t(2) 4.303 times 0.1 times the square root of 4/3.
    lines = found.sort_index().loc["5", "clean", "loss_per_byte"]
    assert set(lines["over"]) == {"seeds"}
    assert lines["high"].to_numpy() == pytest.approx(1.1 + 4.302653 * 0.1 * (4 / 3) ** 0.5, rel=1e-6)
    assert lines["verdict"].to_dict() == {2: "inside", 7: "inside", 8: "outside"}
    # Beside mine stands theirs of the same seed, or the mean of theirs.
    assert lines["theirs"].to_dict() == pytest.approx({2: 1.2, 7: 1.1, 8: 1.1})


def test_on_other_rows_and_for_an_unknown_spread_the_interval_is_that_over_test_groups_for_two_draws(publish):
    theirs = publish("a", results({0: 1.0}), half=0.1)
    other_rows = compared(theirs, publish("b", results({0: 1.14}, echo=1.6)))
    other_seed = compared(theirs, publish("c", results({1: 1.14})))
    for found in (other_rows.loc[LOSS], other_seed.loc[(*LOSS[:3], 1)]):
        assert (found["over"], found["verdict"]) == ("test groups", "inside")
        assert found["high"] == pytest.approx(1 + 0.1 * 2**0.5)
    seeds = compared(publish("d", results({0: 1.0, 1: 3.0}), half=0.1), publish("b", results({0: 1.0}, echo=1.6)))
    assert seeds.loc[LOSS, "over"] == "test groups"
    assert seeds.loc[LOSS, ["low", "high"]].tolist() == pytest.approx([1 - 0.1 * 2**0.5, 3 + 0.1 * 2**0.5])
    # The rows of a benchmark are the same in every run.
    assert other_rows.loc[("base", "nusax", "loss_per_byte", 0), "over"] == "rounding"
    # One greedy decoding says nothing of how far others are.
    assert compared(theirs, publish("b", results({0: 1.0}))).loc[("5", "greedy", "bleu", 0), "over"] == "test groups"


def test_without_a_summary_what_nothing_tells_is_not_judged(publish):
    found = compared(publish("a", results({0: 1.0})), publish("b", results({1: 1.0, 2: 5.0})))
    assert found.loc[(*LOSS[:3], 1), "verdict"] == "inside", "the very number"
    assert found.loc[(*LOSS[:3], 2), ["over", "verdict"]].tolist() == ["nothing", "unknown"]


def test_primary_are_the_losses_on_rows_that_no_training_has_seen(publish):
    table = results({0: 1.0})
    table = pd.concat([table, table.assign(protocol="paper")])
    found = compared(publish("a", table), publish("b", table))
    assert set(found[found["primary"]].index) == {
        ("base", "clean", "loss_per_byte", 0), ("base", "nusax", "loss_per_byte", 0), LOSS,
    }  # fmt: skip
    assert "echo" not in found.index, "of no model"


def test_what_only_one_run_has_is_named(publish):
    other = results({0: 1.0}).query("protocol != 'nusax'").replace({"iteration": {"5": "3"}})
    theirs, mine = (reproduction.read(publish(run, table)) for run, table in (("a", results({0: 1.0})), ("b", other)))
    assert reproduction.missing(theirs, mine) == [
        "Only in theirs: base (nusax)", "Only in theirs: row 5 (clean, greedy)", "Only in mine: row 3 (clean, greedy)",
    ]  # fmt: skip


def test_settings_versions_fingerprints_and_devices_that_differ_are_listed_and_names_and_times_are_not():
    mine = json.loads(json.dumps(MANIFEST)) | {"run": "b", "stages": {}, "device": "a GPU", "trained_by": "peft"}
    mine["final_adapter"]["settings"]["training"]["epochs"] = 1.0
    mine["packages"] = {"torch": "2.14.0"}
    mine["adapters"]["5_seed0"] = "e" * 64
    found = reproduction.differences(MANIFEST, mine).set_index("what")
    assert found.to_dict("index") == {
        "device": {"theirs": "CPU", "mine": "a GPU"},
        "adapters.5_seed0": {"theirs": "d" * 64, "mine": "e" * 64},
        "packages.torch": {"theirs": "2.13.0", "mine": "2.14.0"},
        "final_adapter.settings.training.epochs": {"theirs": 5.0, "mine": 1.0},
        "trained_by": {"theirs": "-", "mine": "peft"},
    }
    assert reproduction.differences(MANIFEST, MANIFEST).empty


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch, capsys):
    """Run the command; return its exit code, and what it told."""

    def run(name: str, other) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["reproduction", "--run", name, "--with", str(other)])
        with pytest.raises(SystemExit) as ended:
            reproduction.main()
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    return run


def test_a_reproduction_ends_with_0_and_leaves_its_table_its_figure_and_what_differs(publish, told):
    theirs, mine = publish("a", results({0: 1.0}), half=0.1), publish("b", results({0: 1.001}), device="GPU")
    code, said = told("b", theirs)
    assert code == 0
    assert "A reproduction: all 3 primary outcomes are inside. Of 3 other numbers 0 are outside." in said
    assert "The test rows of the corpus are the same." in said
    assert "summary.csv" not in said
    folder = mine.parent / "compare"
    written = pd.read_csv(folder / "compare.csv")
    assert len(written) == 6 and set(written["verdict"]) == {"inside"}
    assert pd.read_csv(folder / "differences.csv")["what"].tolist() == ["device"]
    assert {path.name for path in folder.iterdir()} >= {"compare.png", "compare.svg"}


def test_the_figure_names_every_metric_in_words(publish):
    theirs, mine = publish("a", results({0: 1.0}), half=0.1), publish("b", results({0: 1.001}))
    made = reproduction.figure(reproduction.compare(reproduction.read(theirs), reproduction.read(mine)))
    labels = [axis.get_xlabel().removesuffix(", from the middle of the bar") for axis in made.axes]
    assert labels == ["bits a byte", "accuracy", "BLEU"]


def test_a_primary_outcome_outside_ends_with_1_and_is_named_and_another_number_outside_does_not(publish, told):
    theirs = publish("a", results({0: 1.0}))
    publish("b", results({0: 1.2}))
    code, said = told("b", theirs)
    assert code == 1
    assert (
        "Not a reproduction: 1 of 3 primary outcomes are outside: loss_per_byte of row 5, seed 0, clean: 1.2, not in "
        "[0.99, 1.01]." in said
    )
    publish("b", results({0: 1.0}, bleu=90.0))
    code, said = told("b", theirs)
    assert code == 0
    assert "No summary.csv is beside" in said and "other numbers 1 are outside" in said


def test_what_cannot_be_compared_ends_with_2_and_one_sentence(publish, told, tmp_path):
    theirs = publish("a", results({0: 1.0}))
    publish("b", results({0: 1.0}).replace({"iteration": {"5": "3"}}).query("iteration != 'base'"))
    (tmp_path / "pages.csv").write_text("a,b\n1,2\n")
    (tmp_path / "words.csv").write_text(",".join(COLUMNS) + "\nbase,0,clean,0,bleu,many\n")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x00\xff")
    for name, other, expected in (
        ("b", "", "WITH names no run: make compare WITH=reports/example/results.csv RUN=b"),
        ("c", theirs, "the run 'c' has no results.csv yet: run `make report RUN=c` first"),
        ("b", tmp_path / "no.csv", "there is no file"),
        ("b", tmp_path, "there is no file"),
        ("b", tmp_path / "pages.csv", "is not the results.csv of a run"),
        ("b", tmp_path / "words.csv", "is not the results.csv of a run"),
        ("b", tmp_path / "picture.csv", "is not the results.csv of a run"),
        (
            "b",
            theirs,
            "no number in common: theirs has base, row 5 (clean, nusax, greedy), mine has row 3 (clean, greedy)",
        ),
    ):
        code, said = told(name, other)
        assert code == 2
        assert said.startswith("error: ") and expected in said and said.count("\n") == 1


def test_a_run_of_which_no_primary_outcome_can_be_judged_ends_with_2(publish, told):
    theirs = publish("a", results({0: 1.0}).query("iteration != 'base'"))
    publish("b", results({1: 2.0}).query("iteration != 'base'"))
    code, said = told("b", theirs)
    assert code == 2
    assert "error: no primary outcome (loss_per_byte, on rows kept apart) can be judged" in said


def test_without_a_manifest_the_numbers_are_compared_all_the_same(publish, told):
    theirs = publish("a", results({0: 1.0}))
    publish("b", results({0: 1.0}))
    (theirs.parent / "manifest.json").unlink()
    code, said = told("b", theirs)
    assert code == 0
    assert "What else differs is not known" in said
