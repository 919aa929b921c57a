"""The report of a small run that was made by hand: what it says, and what it must not."""

import json
import re
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from lib import evaluation, look, paths, plots, provenance, report, splits, statistics
from lib.config import load_configs
from lib.metrics import METRICS

REPOSITORY = paths.ROOT
SUBSETS = ("dolly", "identity_prompt", "wikihow")
HOSTILE = "<script>alert('x')</script> & \"q\" <img src=http://evil.example/a.png onerror=alert(1)> {{ 7 * 7 }}"
COLUMNS = ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]
ROWS, RUNS = 24, 3


def score_table(config, level: float) -> pd.DataFrame:
    scale = {metric: 0.01 if metric == "weighted_f1" else 1.0 for metric in METRICS}
    rows = [
        (config.iteration, config.seed, "clean", run, metric, scale[metric] * (level + run))
        for run in range(RUNS)
        for metric in METRICS
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def write_completions(config, texts) -> None:
    path = config.paths.completions(config.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["{}"]
    for row in range(ROWS):
        for run in range(RUNS):
            ids = [1] * (config.evaluation.max_new_tokens if row % 4 == 0 else 5)
            lines.append(json.dumps({"row": row, "run": run, "text": texts(config, row, run), "ids": ids}))
    path.write_text("\n".join(lines) + "\n")


def training_log() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "step": [0, 5, 10],
            "epoch": [0.0, 0.5, 1.0],
            "train_loss": [np.nan, 3.0, 2.0],
            "validation_loss": [3.5, 2.5, 2.25],
            "learning_rate_A": [np.nan, 2e-4, 1e-4],
            "learning_rate_B": [np.nan, 3.2e-3, 1.6e-3],
            "tokens_per_second": [np.nan, 900.0, 1100.0],
            "peak_memory_gb": [np.nan, 0.5, 0.6],
        }
    )


def a_run(profile: str = "demo", iterations: str = "5", seeds: str = "0") -> list:
    """The files of a finished run, written by hand."""
    configs = load_configs("trial", profile, iterations, seeds)
    files = configs[0].paths
    files.rows.parent.mkdir(parents=True)
    rows = pd.DataFrame(
        {
            "row": range(ROWS),
            "subset_name": [SUBSETS[n % 3] for n in range(ROWS)],
            "input": [f"Soal nomor {n}?" if n else f"Soal {HOSTILE}" for n in range(ROWS)],
            "output": [f"Jawaban nomor {n}." if n else f"Jawaban {HOSTILE}" for n in range(ROWS)],
        }
    )
    rows.to_parquet(files.rows, index=False)
    split = pd.DataFrame(
        {"subset": rows["subset_name"], "pair": range(ROWS), "group": range(ROWS), "split": ["test"] * ROWS}
    )
    table = pa.Table.from_pandas(split, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"made_from": b"[]"}), files.split)
    files.corpus_summary.write_text(
        json.dumps(
            {
                "corpus": "demo",
                "files": ["corpus.jsonl.gz"],
                "rows_read": 1234,
                "kept": {"dolly": 1000, "wikihow": 200},
                "left_out": {"other": 30},
                "bad": {"no output": 4},
                "fingerprint": "f" * 64,
            }
        )
    )
    for config in configs:
        files.scores(config.name).parent.mkdir(parents=True, exist_ok=True)
        score_table(config, 10 if config.iteration == "base" else 40).to_csv(files.scores(config.name), index=False)
        write_completions(config, lambda c, row, run: f"{HOSTILE} {c.name} {row} {run}")
        files.stage_record("x").parent.mkdir(parents=True, exist_ok=True)
        files.stage_record(f"4_evaluation_{config.name}").write_text('{"seconds": 12.0, "peak_memory_gb": 0.5}')
    for config in configs[1:]:
        files.sample(config.iteration).parent.mkdir(parents=True, exist_ok=True)
        parts = ["train"] * 20 + ["validation"] * 4
        pd.DataFrame({"position": range(ROWS), "part": parts}).to_parquet(files.sample(config.iteration))
        files.training(config.name).mkdir(parents=True)
        training_log().to_csv(files.training_log(config.name), index=False)
        files.adapter(config.name).mkdir(parents=True)
        (files.adapter(config.name) / "adapter_config.json").write_text("{}")
        (files.adapter(config.name) / "adapter_model.safetensors").write_bytes(config.name.encode())
    return configs


@pytest.fixture(autouse=True)
def templates(root):
    (root / "lib").symlink_to(REPOSITORY / "lib")


def write_report(configs: list) -> str:
    results = report.collect(configs)
    plots.save(plots.box_plot(results), configs[0].paths.figures, "bleu")
    plots.save(plots.rouge(results), configs[0].paths.figures, "rouge")
    samples = report.side_by_side(configs, count=6)
    return report.write(configs, results, statistics.summarise(results), samples).read_text()


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_needs_no_network_and_runs_nothing():
    page = Page(write_report(a_run()))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "link", "object", "embed", "base", "form", "video", "audio", "source"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset", "poster", "background", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert tag == "a" or "href" not in attributes
    style = re.search(r"<style>(.*?)</style>", paths.RunPaths("trial").report.read_text(), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_text_stays_text():
    text = write_report(a_run())
    assert "<script>alert" not in text
    assert "<img src=http" not in text
    assert "&lt;script&gt;alert" in text
    page = Page(text)
    assert HOSTILE in page.text, "and is shown as it was written"
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    paths.RunPaths("trial").report.read_bytes().decode("utf-8", "strict")


def test_figures_of_the_run_are_embedded_and_others_left_out():
    page = Page(write_report(a_run()))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2, "this run has drawn BLEU and ROUGE, and nothing else"
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in images)
    assert all(image["alt"] for image in images)


@pytest.mark.parametrize(("profile", "said"), [("demo", True), ("paper", False)])
def test_the_stand_ins_are_named_in_the_demo_and_only_there(profile, said):
    text = Page(write_report(a_run(profile))).text
    assert ("This is the demo." in text) == said
    assert ("stand-in" in text) == said
    assert ("tiruan" in text) == said


def test_metrics_with_touching_intervals_are_named():
    configs = a_run()
    base, trained = configs
    for metric in ("rouge2", "weighted_f1"):
        table = pd.read_csv(trained.paths.scores(trained.name))
        before = pd.read_csv(base.paths.scores(base.name))
        table.loc[table["metric"] == metric, "value"] = before.loc[before["metric"] == metric, "value"].to_numpy()
        table.to_csv(trained.paths.scores(trained.name), index=False)
    text = Page(write_report(configs)).text
    assert "intervals of base and adapter touch for ROUGE-2, Weighted F1:" in text
    assert "For every metric" not in text


def test_intervals_that_are_all_apart_are_said_to_be():
    assert "For every metric the 95 % intervals of base and adapter are apart." in Page(write_report(a_run())).text


def test_the_sentence_turns_with_the_numbers():
    configs = a_run()
    assert "BLEU rises from 11.0 to 41.0" in Page(write_report(configs)).text
    score_table(configs[1], 2).to_csv(configs[1].paths.scores("5_seed0"), index=False)
    text = Page(write_report(configs)).text
    assert "BLEU falls from 11.0 to 3.0" in text
    assert "BLEU turun dari 11,0 menjadi 3,0" in text


def test_there_is_an_indonesian_summary():
    text = write_report(a_run())
    assert '<section lang="id">' in text
    assert "<h2>Ringkasan</h2>" in text
    assert "nilai BLEU naik dari 11,0 menjadi 41,0" in Page(text).text


def test_the_share_of_completions_that_were_cut_is_told():
    text = Page(write_report(a_run())).text
    assert "25 % of the completions of base and 25 % of the completions of row 5, seed 0 used up all 48 tokens" in text


def test_two_seeds_are_two_columns_and_no_single_seed_is_regretted():
    text = Page(write_report(a_run(seeds="0 1"))).text
    assert "row 5, seed 0 row 5, seed 1" in text
    assert "There is one training seed" not in text
    (paths.ROOT / "artifacts").rename(paths.ROOT / "before")
    assert "There is one training seed (0)" in Page(write_report(a_run())).text


def test_results_have_exactly_their_columns_base_first():
    configs = a_run(seeds="0 1")
    made = report.collect(configs)
    written = pd.read_csv(configs[0].paths.results, dtype={"iteration": str})
    assert list(written.columns) == COLUMNS
    pd.testing.assert_frame_equal(made, written)
    assert list(dict.fromkeys(zip(written["iteration"], written["seed"], strict=True))) == [
        ("base", 0), ("5", 0), ("5", 1),
    ]  # fmt: skip
    assert len(written) == 3 * RUNS * len(METRICS)


def test_missing_scores_are_named_with_what_to_run():
    configs = a_run()
    configs[1].paths.scores("5_seed0").unlink()
    with pytest.raises(report.ReportError, match="no scores of 5_seed0 in run 'trial' yet: run `make report RUN=trial"):
        report.collect(configs)
    assert not configs[0].paths.results.exists()


def test_the_shown_samples_hang_on_the_seed_and_not_on_the_completions():
    configs = a_run()
    first = report.side_by_side(configs, count=6)
    for config in configs:
        write_completions(config, lambda c, row, run: "baik" if row % 2 else "")
    second = report.side_by_side(configs, count=6)
    columns = ["subset", "prompt", "reference"]
    pd.testing.assert_frame_equal(first[columns], second[columns])
    assert first["subset"].value_counts().to_dict() == dict.fromkeys(SUBSETS, 2)
    assert list(report.side_by_side(configs, count=6, seed=1).index) != list(first.index)


def test_samples_put_each_model_s_first_decoding_run_beside_its_own_prompt():
    configs = a_run()
    shown = report.side_by_side(configs, count=6)
    for row, sample in shown.iterrows():
        assert sample["base"] == f"{HOSTILE} base {row} 0"
        assert sample["row 5, seed 0"] == f"{HOSTILE} 5_seed0 {row} 0"
        assert sample["prompt"] == (f"Soal nomor {row}?" if row else f"Soal {HOSTILE}")
        assert sample["reference"] == (f"Jawaban nomor {row}." if row else f"Jawaban {HOSTILE}")


def test_the_manifest_says_what_made_the_run():
    configs = a_run(seeds="0 1")
    write_report(configs)
    made = json.loads(configs[0].paths.manifest.read_text())
    assert made["run"] == "trial"
    assert made["profile"] == "demo"
    assert made["iterations"] == ["5"]
    assert made["seeds"] == [0, 1]
    assert made["git_commit"] == "unknown"
    assert made["corpus"] == {"source": "demo", "rows_read": 1234, "sha256": "f" * 64}
    assert made["base_model"]["source"] == "demo"
    assert set(made["adapters"]) == {"5_seed0", "5_seed1"}
    assert made["adapters"]["5_seed0"] != made["adapters"]["5_seed1"]
    assert made["device"]
    assert re.fullmatch(r"3\.\d+\.\d+", made["python"])
    assert made["packages"]["torch"].startswith("2.")
    assert "absent" not in made["packages"].values()
    assert made["stages"]["4_evaluation_base"] == {"seconds": 12.0, "peak_memory_gb": 0.5}


def test_the_commit_tells_of_changes(root):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (root / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD").strip()
    assert provenance.git_commit() == commit
    (root / "untracked").write_text("")
    assert provenance.git_commit() == commit
    (root / "file").write_text("two")
    assert provenance.git_commit() == f"{commit}+changes"


def test_a_package_that_is_not_there_is_absent():
    assert provenance.version("no-such-package-here") == "absent"


# --- What the notebooks show -----------------------------------------------------------------------------------------


def summary_of(configs: list) -> pd.DataFrame:
    return statistics.summarise(report.collect(configs))


def test_scores_are_a_row_a_metric_with_their_intervals():
    table = look.scores(summary_of(a_run())).data
    assert list(table.index) == ["BLEU", "chrF++", "ROUGE-1", "ROUGE-2", "ROUGE-L", "Weighted F1"]
    assert list(table.columns) == ["base", "row 5, seed 0"]
    assert table.loc["BLEU", "base"] == "11.0 [8.5, 13.5]"
    assert table.loc["Weighted F1", "row 5, seed 0"] == "0.410 [0.385, 0.435]"


def test_a_single_decoding_run_has_no_interval():
    configs = a_run()
    one = report.collect(configs).query("decoding_run == 0")
    assert look.scores(statistics.summarise(one)).data.loc["BLEU", "base"] == "10.0"


def test_the_report_concludes_by_intervals_that_do_not_touch(tmp_path):
    configs = a_run()
    said = look.conclude_report(summary_of(configs), tmp_path / "report.html").data
    assert "better in BLEU, chrF++, ROUGE-1, ROUGE-2, ROUGE-L, Weighted F1; worse in nothing" in said
    score_table(configs[1], 11).to_csv(configs[1].paths.scores("5_seed0"), index=False)
    assert "better in nothing; worse in nothing" in look.conclude_report(summary_of(configs), tmp_path / "r.html").data


def test_training_concludes_with_the_loss_that_there_is():
    log = training_log()
    said = look.conclude_training(log).data
    assert "validation loss falls: 3.500 before" in said
    assert "2.250 after" in said
    assert "lowest" not in said
    log["validation_loss"] = [2.0, 1.5, 2.5]
    said = look.conclude_training(log).data
    assert "does not fall" in said
    assert "lowest at step 5: 1.500" in said


def test_evaluation_concludes_with_the_means_and_the_cut_share():
    configs = a_run()
    table = evaluation.read(configs[1], evaluation.test_rows(configs[1], splits.read(configs[1])))
    said = look.conclude_evaluation(configs[1], table, score_table(configs[1], 40)).data
    assert said == (
        "**Row 5, seed 0: BLEU 41.0, ROUGE-L 41.0, Weighted F1 0.410; 25% of its completions were still going when "
        "their 48 tokens were used up.**"
    )


def test_shown_completions_are_clipped_and_the_first_run_s():
    configs = a_run()
    write_completions(configs[1], lambda c, row, run: f"{run} " + "panjang " * 100)
    table = evaluation.read(configs[1], evaluation.test_rows(configs[1], splits.read(configs[1])))
    shown = look.completions(table, count=2).data
    assert len(shown) == 2
    assert shown["text"].str.startswith("0 ").all()
    assert shown["text"].str.len().max() <= 220


def test_tokens_are_escaped_and_coloured_where_they_are_trained(tokenizer):
    from lib.prompts import Example

    ids = tokenizer("<b>halo</b>", add_special_tokens=False)["input_ids"]
    shown = look.loss_mask(tokenizer, Example(ids, [0] * (len(ids) - 1) + [1], False, False)).data
    assert "<b>" not in shown
    assert shown.count("#fbd9c0") == 1
    assert shown.count("#eceef0") == len(ids) - 1


def test_settings_show_the_sections_asked_for_and_no_others():
    table = look.settings(load_configs("trial")[1], "lora")
    assert table.loc[("lora", "lora_rank"), "value"] == 32
    assert {section for section, _ in table.index} == {"", "lora"}


def test_shortages_are_told():
    said = look.shortages({"dolly": (100, 70)}).data
    assert "`dolly` has 70 rows on the training side where 100 were asked for" in said
    assert look.shortages({}).data == "Every subset has the rows that were asked of it."


# --- Figures ---------------------------------------------------------------------------------------------------------


def small_results() -> pd.DataFrame:
    return pd.concat([score_table(config, level) for config, level in zip(load_configs("t"), (10, 40), strict=True)])


def small_points() -> pd.DataFrame:
    n = np.arange(12)
    subsets = [SUBSETS[i % 2] for i in n]
    return pd.DataFrame({"x": n % 4, "y": n // 4, "cluster": n % 3, "subset": subsets, "rows": n + 1})


def small_leakage() -> pd.DataFrame:
    columns = ["random split: rows leaked", "random split: outputs leaked", "grouped split: rows leaked"]
    return pd.DataFrame([[0.5, 0.75, 0.0]] * 3, columns=columns, index=pd.Index([*SUBSETS[:2], "all"], name="subset"))


def small_draw() -> pd.DataFrame:
    n = np.arange(20)
    return pd.DataFrame({"cluster": n % 3, "subset": [SUBSETS[i % 2] for i in n], "chosen": n % 2 == 0})


FIGURES = {
    "leakage": lambda: plots.leakage(small_leakage()),
    "clusters": lambda: plots.clusters(small_points()),
    "cluster_sizes": lambda: plots.cluster_sizes(small_draw(), 4),
    "lengths": lambda: plots.lengths(pd.DataFrame({"subset": SUBSETS * 4, "tokens": range(10, 22)}), 2_048),
    "training": lambda: plots.training(training_log()),
    "box_plot": lambda: plots.box_plot(small_results()),
    "rouge": lambda: plots.rouge(small_results()),
    "weighted_f1": lambda: plots.weighted_f1(small_results()),
}


def test_every_figure_is_tried():
    public = {
        name
        for name, value in vars(plots).items()
        if callable(value) and getattr(value, "__module__", "") == plots.__name__ and not name.startswith("_")
    }
    assert public - {"save"} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_file_when_drawn_again(name, tmp_path):
    for folder in ("one", "two"):
        figure = plots.save(FIGURES[name](), tmp_path / folder, name)
        assert isinstance(figure, Figure)
    for suffix in ("png", "svg"):
        one, two = (tmp_path / folder / f"{name}.{suffix}" for folder in ("one", "two"))
        assert one.stat().st_size > 1_000
        assert one.read_bytes() == two.read_bytes()


def test_figures_leave_no_drawing_open(tmp_path):
    import matplotlib.pyplot as plt

    plots.save(FIGURES["box_plot"](), tmp_path, "bleu")
    assert plt.get_fignums() == []


def test_the_box_plot_shows_every_run_and_models_in_order():
    axis = FIGURES["box_plot"]().axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["base", "row 5"]
    points = [sorted(line.get_ydata()) for line in axis.get_lines() if line.get_marker() in ("o", "s")]
    assert [values for values in points if values] == [[10, 11, 12], [40, 41, 42]]


def test_scores_start_at_zero():
    for name in ("box_plot", "rouge", "weighted_f1"):
        assert all(axis.get_ylim()[0] == 0 for axis in FIGURES[name]().axes if axis.patches and axis.containers)
    assert FIGURES["box_plot"]().axes[0].get_ylim()[0] == 0


def test_ten_iterations_are_in_the_order_of_their_numbers():
    base, trained = load_configs("t")
    tables = [score_table(base, 10)]
    tables += [score_table(trained, 20).assign(iteration=name) for name in ("10", "2", "5")]
    axis = plots.box_plot(pd.concat(tables)).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["base", "row 2", "row 5", "row 10"]
