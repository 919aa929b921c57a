import json
import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stand_in_hub import Hub, serving

from lib.config import BENCHMARKS, PAPER_CORPUS_ROWS
from lib.corpus import sources, splits
from lib.corpus.files import COLUMNS, SUBSETS
from lib.model.prompts import Example
from lib.parameters import load_configs
from lib.running import graph, workload
from lib.running.workload import CENDOL, Lengths
from lib.storage import write_json
from lib.training import examples

KNOWN = Lengths(example=50.0, prompt=30.0, longest_example=90, longest_prompt=60, measured=True)


def counted(sizes=None, **given):
    configs = load_configs(**({"profile": "demo"} | given))
    return configs, workload.count(configs, sizes or workload.survey(configs[0]).sizes, KNOWN)


def test_the_demos_work_is_what_the_demo_does():
    _, work = counted()
    assert (work.notebooks, work.samplings, work.trainings, work.models) == (6, 1, 1, 2)
    assert (work.examples, work.steps) == (250, 160)
    assert work.trained_tokens == 250 * 5 * 50
    # Before the training, and at each of five checkpoints.
    assert work.validated_tokens == 6 * 50 * 50
    # 245 test rows in two protocols, five times, and once more greedily; 125 English rows once.
    assert work.completions == 2 * (2 * 245 * 5 + 245 + 125)
    # And twenty prompts of our own, whose answers nothing scores and which may be longer.
    assert work.own == 2 * 20
    assert work.prompts == 2 * (3 * 245 + 2 * 125 + 20)
    assert work.new_tokens == 48 * work.completions + 96 * work.own
    # Thirty to begin a chat with, of five kinds.
    assert (work.starters, work.starters_read) == (30, 30 + 5 * 6 * 6)


def test_the_papers_work_is_the_papers():
    _, work = counted(CENDOL, profile="paper")
    assert (work.corpus_rows, work.drawn, work.examples, work.shown) == (6_542_630, 21_000, 10_000, 10_000)
    assert work.steps == 6_250
    assert work.completions == 2 * (2 * 9_800 * 5 + 9_800)


def test_what_iterations_share_is_done_once():
    _, one = counted(iterations="4")
    _, both = counted(iterations="4 6")
    assert both == one
    _, seeds = counted(seeds="0 1 2")
    assert (seeds.trainings, seeds.models, seeds.samplings) == (3, 4, 1)
    assert seeds.steps == 3 * 160


def test_a_sampling_without_clusters_embeds_nothing():
    _, work = counted(iterations="0")
    assert (work.drawn, work.shown) == (0, 0)
    assert work.examples == 1250


def test_what_a_small_subset_lacks_is_not_counted():
    sizes = dict.fromkeys(SUBSETS, 100_000) | {"dolly": 10}
    _, work = counted(sizes, profile="paper")
    assert work.drawn == 5 * 3_500 + 8


def made_before(**given):
    """A run of these settings whose training has sixteen examples."""
    configs = load_configs(**({"profile": "demo"} | given))
    graph.settle(configs, {"PROFILE": "demo"})
    examples.write(configs[1], "train", [Example([1, 2], [0, 1], False, False)] * 16)


def test_examples_that_were_made_before_are_counted_as_they_are():
    _, before = counted()
    made_before()
    _, after = counted()
    assert (before.examples, after.examples, after.steps) == (250, 16, 10)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("sampling", {"rows": 40}),
        ("corpus", {"source": "rows.jsonl"}),
        ("corpus", {"subsets": "none"}),
        ("prompt", {"max_train_tokens": 99}),
    ],
)
def test_examples_of_other_settings_count_nothing(section, change):
    made_before()
    configs = load_configs(profile="demo")
    changed = [replace(c, **{section: replace(getattr(c, section), **change)}) for c in configs]
    sizes = workload.survey(configs[0]).sizes
    assert workload.count(configs, sizes, KNOWN).examples == 16
    assert workload.count(changed, sizes, KNOWN).examples != 16


def test_examples_that_are_older_than_the_settings_count_nothing():
    made_before()
    configs = load_configs(profile="demo")
    os.utime(configs[1].paths.examples(configs[1].prepared_as, "train"), (1_000, 1_000))
    assert counted()[1].examples == 250


def test_lengths_are_those_of_the_rows_and_assumed_at_their_longest_where_there_are_none():
    config = load_configs(profile="paper")[0]
    assert workload.lengths(config, [10, 20], [4, 8]) == Lengths(15, 6, 20, 8, measured=True)
    assumed = workload.lengths(config, [], [])
    assert (assumed.longest_example, assumed.longest_prompt, assumed.measured) == (2048, 976, False)
    short = replace(config, prompt=replace(config.prompt, max_train_tokens=64))
    assert workload.lengths(short, [], []).example == 64


# --- The corpus ------------------------------------------------------------------------------------------------------


def row(subset, n):
    return dict.fromkeys(COLUMNS, "x") | {"subset_name": subset, "input": f"Soal {n}?", "output": f"Jawaban {n}."}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def survey(corpus):
    return workload.survey(load_configs(profile="demo", corpus=str(corpus))[0])


def test_the_demos_corpus_is_counted_before_it_is_written(root):
    found = workload.survey(load_configs(profile="demo")[0])
    assert found.how == "counted"
    assert set(found.sizes) == set(SUBSETS) and sum(found.sizes.values()) > 20_000
    assert len(found.rows) == workload.SOME_ROWS
    assert not (root / "artifacts").exists()


def test_a_small_file_is_counted_whole(tmp_path):
    rows = [row("dolly", n) for n in range(40)] + [row("wikihow", n) for n in range(10)] + [row("mt_en_id", 1)]
    found = survey(written(tmp_path / "rows.jsonl", rows))
    assert found.sizes == {"dolly": 40, "wikihow": 10}
    assert len(found.rows) == 50 and set(found.rows["subset_name"]) == {"dolly", "wikihow"}


def test_lengths_are_measured_on_as_many_rows_of_each_subset_as_training_draws(tmp_path):
    rows = [row("dolly", n) for n in range(900)] + [row("wikihow", n) for n in range(200)]
    found = survey(written(tmp_path / "rows.jsonl", rows))
    assert found.rows["subset_name"].value_counts().to_dict() == {"dolly": 150, "wikihow": 150}


def test_what_models_read_for_benchmarks_is_counted_by_model_and_task():
    reads = workload.BENCHMARK_BYTES
    assert set(reads) == set(BENCHMARKS)
    _, work = counted(benchmarks="nusax lindsea", seeds="0 1")
    assert work.benchmarked_bytes == 3 * (reads["nusax"] + reads["lindsea"])
    _, work = counted(benchmarks="nusax belebele_ind_Latn", studies="base tries", seeds="0")
    assert work.benchmarked_bytes == 2 * reads["nusax"], "tries are not scored, and the base is read once"
    assert counted()[1].benchmarked_bytes == 0


def test_a_study_trains_its_tries_and_scores_its_models():
    configs, work = counted(profile="smollm2", sizes=dict.fromkeys(SUBSETS, 4_000))
    assert work.trainings == len({c.name for c in configs if c.has_adapter})
    assert work.models == len({c.name for c in configs if c.plan.scored}) < work.trainings + 3


def test_of_a_large_file_only_the_beginning_is_read(tmp_path):
    path = written(tmp_path / "rows.jsonl", [row("dolly", n) for n in range(40_000)])
    found = survey(path)
    assert found.how == "measured"
    assert found.sizes["dolly"] == pytest.approx(40_000, rel=0.15)
    assert len(found.rows) == workload.SOME_ROWS


@pytest.fixture
def selected():
    """The settings of a run that has selected and split the three rows of a corpus, as far as anybody asks."""
    config = load_configs(profile="paper")[0]
    write_json(config.paths.corpus_summary, {"kept": {"dolly": 3}, "fingerprint": "f"})
    workload.survey(load_configs(profile="demo")[0]).rows.to_parquet(config.paths.rows)
    table = pa.table({"group": [1]}).replace_schema_metadata({"made_from": splits.origin(config)})
    pq.write_table(table, config.paths.split)
    return config


def test_a_corpus_that_was_read_before_is_known_from_its_summary(selected):
    found = workload.survey(selected)
    assert (found.sizes, found.how) == ({"dolly": 3}, "counted")
    assert len(found.rows) == workload.SOME_ROWS


@pytest.mark.parametrize("change", [{"source": "rows.jsonl"}, {"source": "rows.jsonl", "subsets": "subset_name"}])
def test_another_corpus_or_other_subsets_than_were_read_before_are_looked_at_anew(selected, tmp_path, change):
    written(tmp_path / "rows.jsonl", [row("dolly", n) for n in range(40)])
    found = workload.survey(replace(selected, corpus=replace(selected.corpus, **change)))
    assert (found.sizes, found.how) == ({"dolly": 40}, "measured")


def test_the_open_corpus_is_counted_before_it_is_fetched_and_measured_after(monkeypatch):
    monkeypatch.setattr(sources.fetching, "fetch", lambda *_: pytest.fail("fetched"))
    before = survey("open")
    assert (before.rows, before.how, before.sizes) == (None, "counted", sources.sizes())
    sources.path().parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row("dolly", n) for n in range(9)]), sources.path())
    monkeypatch.setattr(sources, "is_written", lambda: True)
    after = survey("open")
    assert len(after.rows) == 9 and after.sizes["dolly"] == 9


def test_a_corpus_of_the_hub_is_not_asked_for(monkeypatch, tmp_path):
    with serving(Hub(), monkeypatch, tmp_path / "cache") as there:
        found = survey("someone/cendol")
        assert there.requests == []
    assert (found.rows, found.how) == (None, "assumed")
    assert sum(found.sizes.values()) == PAPER_CORPUS_ROWS
