"""The figures, drawn from made-up results of ten rows and the base."""

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lib.evaluation import floors
from lib.evaluation.metrics import METRICS, OF_COMPLETIONS
from lib.report import comparison_plots, drawing, plots, published

SUBSETS = ("dolly", "identity_prompt", "wikihow")
ROWS = tuple(str(n) for n in range(10))
WHOLE_STUDY = ("base_instructed", "base_three_examples", *map(str, range(10)), "recipe_lora", "recipe_loraplus")
SHORT_STUDY = ("base_instructed", "base_three_examples", "5", "recipe_lora", "recipe_loraplus")
STUDIES = ("loraplus_ratio1", "loraplus_ratio4", "loraplus_ratio16")
LEVELS = {"loss_per_byte": 2.7, "bleu": 9, "chrf": 30, "rouge1": 24, "rouge2": 10, "rougeL": 21, "weighted_f1": 0.6}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def made_up_results(iterations=ROWS, seeds=(0,), runs=5) -> pd.DataFrame:
    """Scores of every metric, tidy as in results.csv: the base low, and the rows apart from each other."""
    random = np.random.default_rng(0)
    rows = []
    for place, name in enumerate(["base", *iterations]):
        level = 0.12 if name == "base" else 0.5 + 0.5 * np.sin(place) ** 2
        for seed in (0,) if name == "base" else seeds:
            shift = random.normal(0, 0.03)
            for run, metric in itertools.product(range(runs), METRICS):
                value = LEVELS[metric] * (level + shift + random.normal(0, 0.015))
                rows.append((name, seed, "clean", run, metric, value))
    return pd.DataFrame(rows, columns=["iteration", "seed", "protocol", "decoding_run", "metric", "value"])


def made_up_bounds(ceiling: float = 100, **shares: float) -> pd.DataFrame:
    """Floors, as shares of the level of a metric, and the ceiling; three draws of what hangs on chance."""
    shares = {"nearest": 0.5, "random": 0.2, "shuffled": 0.19, "echo": 0.18} | shares
    rows = [
        (name, 0, "clean", draw, metric, LEVELS[metric] * share * (1 + 0.1 * draw))
        for metric in OF_COMPLETIONS
        for name, share in shares.items()
        for draw in range(3 if name in ("random", "shuffled") else 1)
    ]
    rows += [(floors.CEILING, 0, "clean", 0, m, ceiling / (100 if m == "weighted_f1" else 1)) for m in OF_COMPLETIONS]
    return pd.DataFrame(rows, columns=["iteration", "seed", "protocol", "decoding_run", "metric", "value"])


def made_up_likelihood(iterations=("5",), seeds=(0,)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bits a byte of one value a model, in Indonesian and in English."""
    table = made_up_results(iterations, seeds, runs=1).query("metric == 'loss_per_byte'")
    indonesian = table.assign(value=np.where(table["iteration"] == "base", 2.73, 2.2 + 0.05 * np.arange(len(table))))
    english = indonesian.assign(metric="loss_per_byte_en", protocol="english", value=1.5 + 0.01 * np.arange(len(table)))
    return indonesian, english


def made_up_tries() -> pd.DataFrame:
    """Three rates each, and another ratio."""
    lines = [
        ("recipe_loraplus", 1e-4, 16.0, 600, 1.0, 2.70),
        ("tries_loraplus_5e-5", 5e-5, 16.0, 600, 1.0, 2.75),
        ("tries_loraplus_2e-4", 2e-4, 16.0, 600, 1.0, 2.72),
        ("recipe_lora", 1e-3, 1.0, 600, 1.0, 2.71),
        ("tries_lora_5e-4", 5e-4, 1.0, 600, 1.0, 2.78),
        ("tries_lora_2e-3", 2e-3, 1.0, 600, 1.0, 2.80),
        ("tries_loraplus_ratio4", 2e-4, 4.0, 600, 1.0, 2.74),
        ("tries_loraplus_120_rows", 1e-4, 16.0, 120, 5.0, 3.1),
    ]
    names = ["iteration", "learning_rate", "ratio", "rows", "epochs", "validation_loss"]
    return pd.DataFrame(lines, columns=names).assign(name=[line[0] for line in lines], first=3.8)


def made_up_logs(iterations=STUDIES, seeds=(0,)) -> pd.DataFrame:
    """Logs of trainings of 200 steps: a training loss every 10 steps, a validation loss every 40."""
    random = np.random.default_rng(0)
    tables = []
    for place, name in enumerate(iterations):
        for seed in seeds:
            step = np.arange(0, 201, 10)
            loss = 1.2 + (1.6 - 0.2 * place) * np.exp(-step / (90 - 15 * place))
            trained = np.where(step == 0, np.nan, loss + random.normal(0, 0.06, len(step)))
            validated = np.where(step % 40 == 0, loss + 0.1, np.nan)
            columns = {"iteration": name, "seed": seed, "step": step, "train_loss": trained}
            tables.append(pd.DataFrame(columns | {"validation_loss": validated}))
    return pd.concat(tables, ignore_index=True)


def training_log() -> pd.DataFrame:
    log = made_up_logs(["5"])
    rates = 2e-4 * np.cos(log["step"] / 200 * np.pi / 2 * 0.99)
    return log.assign(learning_rate_A=rates, learning_rate_B=16 * rates)


def small_points() -> pd.DataFrame:
    n = np.arange(12)
    subsets = [SUBSETS[i % 2] for i in n]
    return pd.DataFrame({"x": n % 4, "y": n // 4, "cluster": n % 3, "subset": subsets, "rows": n + 1})


def points_of_many_clusters() -> pd.DataFrame:
    """A hundred clusters of three points each, two at every place."""
    n = np.arange(300)
    table = {"x": n % 10, "y": n % 100 // 20, "cluster": n % 100, "subset": [SUBSETS[i % 2] for i in n], "rows": 1}
    return pd.DataFrame(table)


def small_leakage() -> pd.DataFrame:
    columns = ["random split: rows leaked", "random split: outputs leaked", "grouped split: outputs alike"]
    return pd.DataFrame([[0.5, 0.75, 0.0]] * 3, columns=columns, index=pd.Index([*SUBSETS[:2], "all"], name="subset"))


def small_draw() -> pd.DataFrame:
    n = np.arange(20)
    return pd.DataFrame({"cluster": n % 3, "subset": [SUBSETS[i % 2] for i in n], "chosen": n % 2 == 0})


def many_subsets() -> pd.DataFrame:
    n = np.arange(56)
    return pd.DataFrame({"cluster": n % 4, "subset": [f"subset_{i:02}" for i in n // 4], "chosen": n % 2 == 0})


def made_up_leak() -> pd.DataFrame:
    names = ("dolly", "identity_prompt", "indo_puisi", "safety_prompt", "wikihow", "wikipedia_id")
    rows = []
    for metric in ("bleu", "rougeL"):
        for place, name in enumerate((*names, "all, as tested", "all, as in Cendol")):
            apart, gain = LEVELS[metric] * 0.7, 0.05 * place * LEVELS[metric]
            rows.append((name, metric, apart, apart + gain, gain, gain - 1, gain + 2))
    return pd.DataFrame(rows, columns=["subset", "metric", "apart", "leaked", "difference", "low", "high"])


def made_up_nested() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        (name, seed, row, *rng.uniform((5, 0), (95, 12)))
        for name, seed in (("base", 0), ("5", 0), ("5", 1))
        for row in range(50)
    ]
    return pd.DataFrame(rows, columns=["iteration", "seed", "row", "mean", "sd"])


def made_up_english() -> pd.DataFrame:
    rows = [("base", 0, 2.1, 22.0, 0.02)]
    rows += [(n, seed, 2.3 + 0.05 * int(n), 20 - int(n), 0.1 + 0.08 * int(n)) for n in ROWS for seed in (0, 1)]
    return pd.DataFrame(rows, columns=["iteration", "seed", "loss_per_byte_en", "rougeL", "english_share"])


BENCHMARKS = (
    "lindsea_morphology", "lindsea_argument_structure", "lindsea_filler_gap", "lindsea_npi_negation",
    "copal_id_standard", "copal_id_colloquial", "xcopa_id", "belebele_ind_Latn", "nusax", "nusax",
)  # fmt: skip


def made_up_benchmarks(iterations=("5",), seeds=(0,)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The picked training against the base, and the scores of all trainings in results."""
    compared = pd.DataFrame({"task": BENCHMARKS, "metric": "accuracy", "chance": 0.5, "before": 0.48, "low": -0.04})
    compared.loc[7, ["chance", "before"]] = 0.25, 0.27
    compared.loc[8:, "metric"] = ["loss_per_byte", "loss_per_byte_en"]
    compared.loc[8:, ["chance", "before", "low"]] = [[np.nan, 2.8, -0.2], [np.nan, 1.5, -0.1]]
    compared["difference"] = [*(0.02 * np.arange(8) - 0.03), -0.15, 0.05]
    compared = compared.assign(after=compared["before"] + compared["difference"], high=compared["difference"] + 0.06)
    rows = [
        (iteration, seed, row.task, 0, row.metric, row.after + 0.01 * place)
        for place, (iteration, seed) in enumerate([("base", 0), *itertools.product(iterations, seeds)])
        for row in compared.itertuples()
    ]
    return compared, pd.DataFrame(rows, columns=made_up_results().columns)


def all_published() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return published.table3(), published.claims(), published.baselines()


def voting_log() -> pd.DataFrame:
    """Six steps of a training on votes, of two epochs."""
    log = pd.DataFrame({"step": range(7), "epoch": np.arange(7) / 3})
    for part, known in (("train", log["step"] > 0), ("held_out", log["step"] % 3 == 0)):
        log[f"{part}_loss"] = (0.69 - 0.1 * log["step"]).where(known)
        log[f"{part}_margin"] = (0.2 * log["step"]).where(known)
        log[f"{part}_accuracy"] = (0.5 + 0.08 * log["step"]).where(known)
    return log


FIGURES = {
    "loss_per_byte": lambda: plots.loss_per_byte(*made_up_likelihood()),
    "leakage": lambda: plots.leakage(small_leakage()),
    "clusters": lambda: plots.clusters(small_points()),
    "cluster_sizes": lambda: plots.cluster_sizes(small_draw(), 4),
    "lengths": lambda: plots.lengths(pd.DataFrame({"subset": SUBSETS * 4, "tokens": range(10, 22)}), 2_048),
    "training": lambda: plots.training(training_log()),
    "preference": lambda: plots.preference(voting_log()),
    "box_plot": lambda: plots.box_plot(made_up_results(), printed=published.table3()),
    "rouge": lambda: plots.rouge(made_up_results()),
    "weighted_f1": lambda: plots.weighted_f1(made_up_results()),
    "against_published": lambda: comparison_plots.against_published(made_up_results(), *all_published()),
    "loss_curves": lambda: comparison_plots.loss_curves(made_up_logs(), made_up_results(STUDIES)),
    "leak_worth": lambda: comparison_plots.leak_worth(made_up_leak()),
    "nested_bleu": lambda: comparison_plots.nested_bleu(made_up_nested(), published.table3()),
    "english_cost": lambda: comparison_plots.english_cost(made_up_english()),
    "benchmarks": lambda: comparison_plots.benchmarks(*made_up_benchmarks()),
    "tries": lambda: comparison_plots.tries(made_up_tries()),
}
# As the figures come when there is little to show, or much.
SIZES = {
    "clusters_many": lambda: plots.clusters(points_of_many_clusters()),
    "loss_per_byte_ten_rows_two_seeds": lambda: plots.loss_per_byte(*made_up_likelihood(ROWS, (0, 1))),
    "loss_per_byte_indonesian": lambda: plots.loss_per_byte(made_up_likelihood()[0]),
    "box_plot_bounds": lambda: plots.box_plot(made_up_results(), bounds=made_up_bounds(), printed=published.table3()),
    "rouge_bounds": lambda: plots.rouge(made_up_results(), bounds=made_up_bounds()),
    "weighted_f1_bounds": lambda: plots.weighted_f1(made_up_results(["5"]), bounds=made_up_bounds(70)),
    "against_published_bounds": lambda: comparison_plots.against_published(
        made_up_results(["5"]), *all_published(), bounds=made_up_bounds()
    ),
    "loss_curves_bounds": lambda: comparison_plots.loss_curves(
        made_up_logs(), made_up_results(STUDIES), bounds=made_up_bounds(10)
    ),
    "benchmarks_of_reviews": lambda: comparison_plots.benchmarks(
        made_up_benchmarks()[0].query("task == 'nusax'"), made_up_benchmarks()[1]
    ),
    "benchmarks_two_seeds": lambda: comparison_plots.benchmarks(*made_up_benchmarks(("5", "8"), (0, 1))),
    "box_plot_one_row": lambda: plots.box_plot(made_up_results(["5"])),
    "box_plot_three_seeds": lambda: plots.box_plot(made_up_results(seeds=(0, 1, 2)), printed=published.table3()),
    "box_plot_studies": lambda: plots.box_plot(made_up_results(["5", *STUDIES]), picked="5"),
    "box_plot_whole_study": lambda: plots.box_plot(made_up_results(WHOLE_STUDY), printed=published.table3()),
    "rouge_whole_study": lambda: plots.rouge(made_up_results(WHOLE_STUDY), picked="recipe_loraplus"),
    "weighted_f1_whole_study": lambda: plots.weighted_f1(made_up_results(WHOLE_STUDY), picked="recipe_loraplus"),
    "loss_per_byte_whole_study": lambda: plots.loss_per_byte(*made_up_likelihood(WHOLE_STUDY), "recipe_loraplus"),
    "box_plot_short_study": lambda: plots.box_plot(
        made_up_results(SHORT_STUDY, (0, 1, 2)), printed=published.table3(), picked="recipe_lora"
    ),
    "loss_per_byte_short_study": lambda: plots.loss_per_byte(
        *made_up_likelihood(SHORT_STUDY, (0, 1, 2)), "recipe_lora"
    ),
    "against_published_short_study": lambda: comparison_plots.against_published(
        made_up_results(SHORT_STUDY, (0, 1, 2)), *all_published(), picked="recipe_lora", bounds=made_up_bounds()
    ),
    "rouge_short_study": lambda: plots.rouge(made_up_results(SHORT_STUDY, (0, 1, 2)), picked="recipe_lora"),
    "weighted_f1_short_study": lambda: plots.weighted_f1(made_up_results(SHORT_STUDY, (0, 1, 2)), picked="recipe_lora"),
    "rouge_one_row": lambda: plots.rouge(made_up_results(["5"])),
    "rouge_three_seeds": lambda: plots.rouge(made_up_results(seeds=(0, 1, 2))),
    "weighted_f1_one_row": lambda: plots.weighted_f1(made_up_results(["5"])),
    "weighted_f1_three_seeds": lambda: plots.weighted_f1(made_up_results(seeds=(0, 1, 2))),
    "against_published_one_row": lambda: comparison_plots.against_published(made_up_results(["5"]), *all_published()),
    "loss_curves_two_seeds": lambda: comparison_plots.loss_curves(
        made_up_logs(seeds=(0, 1)), made_up_results(STUDIES, seeds=(0, 1))
    ),
    "nested_bleu_one_row": lambda: comparison_plots.nested_bleu(
        made_up_nested().query("seed == 0"), published.table3()
    ),
    "cluster_sizes_many_subsets": lambda: plots.cluster_sizes(many_subsets(), 4),
    "english_cost_one_row": lambda: comparison_plots.english_cost(
        made_up_english().query("iteration in ['base', '5'] and seed == 0")
    ),
}
ALL = FIGURES | SIZES


def ticks(axis: Axes, which: str = "x") -> list[str]:
    return [tick.get_text() for tick in getattr(axis, f"get_{which}ticklabels")()]


def drawn_points(axis: Axes, *markers: str) -> list:
    return [line for line in axis.get_lines() if line.get_marker() in markers]


def test_every_figure_is_tried():
    public = {
        name
        for module in (plots, comparison_plots)
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
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


#: How many pixels the page gives a figure, on a desk and on a phone of 360 pixels.
SCREENS = {"wide": 765, "narrow": 322}


def on_a_screen(name: str, screen: str) -> Figure:
    figure = ALL[name]()
    # Constrained layout and tick texts settle as the figure is drawn.
    figure.savefig(io.BytesIO(), format="png")
    if screen == "narrow":
        plt.close(figure)
        figure = drawing.narrow(figure)
        figure.savefig(io.BytesIO(), format="png")
    return figure


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("error")
def test_no_labels_overlap_and_none_is_too_small_on_a_screen(name, screen):
    figure = on_a_screen(name, screen)
    for axis in figure.axes:
        for which in "xy":
            texts = getattr(axis, f"get_{which}ticklabels")()
            boxes = [text.get_window_extent() for text in texts if text.get_text()]
            for one, two in itertools.pairwise(boxes):
                assert not one.overlaps(two), f"{axis.get_title()} {which}: {ticks(axis, which)}"
        for one, two in itertools.combinations(axis.texts, 2):
            boxes = [plt.Text.get_window_extent(text) for text in (one, two)]
            assert not boxes[0].overlaps(boxes[1]), (one.get_text(), two.get_text())
    legends = [text for legend in figure.legends for text in legend.get_texts()]
    sizes = [text.get_fontsize() for axis in figure.axes for text in axis.findobj(plt.Text) if text.get_text()]
    sizes += [text.get_fontsize() for text in legends]
    assert min(sizes) * SCREENS[screen] / 72 / figure.get_figwidth() >= 11
    # Nor does a text leave the picture.
    for text in [*legends, *(text for axis in figure.axes for text in axis.texts)]:
        box = plt.Text.get_window_extent(text)
        assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1, text.get_text()


def test_every_subset_of_many_is_in_the_bars_of_clusters_in_a_colour_of_its_own():
    figure = ALL["cluster_sizes_many_subsets"]()
    bars = figure.axes[0].containers
    assert [bar.get_label() for bar in bars] == [f"subset_{i:02}" for i in range(14)]
    assert len({bar[0].get_facecolor() for bar in bars}) == 14
    assert sum(part.get_height() for bar in bars for part in bar) == 56
    shown = on_a_screen("cluster_sizes_many_subsets", "wide")
    for text in shown.legends[0].get_texts():
        box = plt.Text.get_window_extent(text)
        assert box.y0 >= 0 and box.y1 <= shown.bbox.height, text.get_text()


def test_on_a_phone_panels_are_below_each_other_and_each_names_its_models():
    figure = on_a_screen("english_cost", "narrow")
    assert len({round(axis.get_position().x0, 2) for axis in figure.axes}) == 1
    for axis in figure.axes:
        assert ticks(axis, "y") == ["base", *(f"row {n}" for n in ROWS)]
        assert [text.get_text() for text in axis.get_yticklabels() if text.get_weight() == "bold"] == ["row 5"]


def test_on_a_phone_every_panel_of_scores_names_its_metric():
    named = [axis.get_ylabel() for axis in on_a_screen("rouge", "narrow").axes]
    assert named == ["ROUGE-1", "ROUGE-1", "ROUGE-2", "ROUGE-2", "ROUGE-L", "ROUGE-L"]


def bounds_of(axis: Axes) -> dict[str, plt.Annotation]:
    return {text.get_text(): text for text in axis.texts if text.get_text().split()[0] in ("reference", *floors.FLOORS)}


def level_lines(axis: Axes) -> list[float]:
    return sorted(line.get_ydata()[0] for line in axis.get_lines() if list(line.get_xdata()) == [0, 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["box_plot", "rouge", "weighted_f1", "leak_worth"])
def test_where_all_score_nothing_there_is_an_axis_all_the_same(name):
    nothing = made_up_results(["5"]).assign(value=0.0)
    drawn = {
        "box_plot": lambda: plots.box_plot(nothing),
        "rouge": lambda: plots.rouge(nothing),
        "weighted_f1": lambda: plots.weighted_f1(nothing),
        "leak_worth": lambda: comparison_plots.leak_worth(made_up_leak().assign(apart=0.0, leaked=0.0)),
    }[name]()
    assert all(axis.get_ylim()[0] != axis.get_ylim()[1] for axis in drawn.axes)


def test_floors_and_ceiling_are_lines_at_the_means_of_their_draws():
    axis = plots.box_plot(made_up_results(), bounds=made_up_bounds(9.5)).axes[0]
    expected = [9 * 0.18, 9 * 0.19 * 1.1, 9 * 0.2 * 1.1, 9 * 0.5, 9.5]
    assert level_lines(axis) == pytest.approx(expected)
    assert list(bounds_of(axis)) == ["reference", "nearest", "random", "shuffled", "echo"]


@pytest.mark.parametrize("screen", SCREENS)
def test_names_of_floors_that_are_close_stand_apart_in_the_order_of_their_lines(screen):
    for name in ("box_plot_bounds", "rouge_bounds", "weighted_f1_bounds"):
        for axis in on_a_screen(name, screen).axes:
            # The ceiling is above all, be it drawn or told.
            named = sorted(bounds_of(axis).values(), key=lambda text: not text.get_text().startswith("reference"))
            boxes = [plt.Text.get_window_extent(text) for text in named]
            heights = [box.y0 for box in boxes]
            assert heights == sorted(heights, reverse=True)
            assert not any(one.overlaps(two) for one, two in itertools.pairwise(boxes))
            # Beside the data, and not far from them.
            assert all(box.x0 > axis.bbox.x1 for box in boxes)
            assert all(axis.bbox.y0 - 10 < (box.y0 + box.y1) / 2 < axis.bbox.y1 + 10 for box in boxes)


def test_names_of_floors_stand_above_the_lines_of_models():
    for axis in on_a_screen("against_published_bounds", "wide").axes:
        boxes = [plt.Text.get_window_extent(text) for text in bounds_of(axis).values()]
        assert len(boxes) == 5
        assert all(box.y0 >= axis.bbox.y1 for box in boxes)


def test_a_ceiling_far_above_all_models_is_told_and_does_not_stretch_the_axis():
    results = made_up_results()
    alone = plots.box_plot(results).axes[0].get_ylim()[1]
    axis = plots.box_plot(results, bounds=made_up_bounds(100)).axes[0]
    assert axis.get_ylim()[1] == alone
    assert "reference\n100 ↑" in bounds_of(axis)
    assert max(level_lines(axis)) < alone
    axis = ALL["against_published_bounds"]().axes[0]
    assert "reference 100 →" in bounds_of(axis)
    assert axis.get_xlim()[1] < 60


def test_a_floor_above_all_models_is_on_the_axis():
    axis = plots.box_plot(made_up_results(), bounds=made_up_bounds(nearest=3)).axes[0]
    assert axis.get_ylim() == (0, pytest.approx(1.05 * 27))
    assert 27 in level_lines(axis)


def test_scores_beside_floors_start_at_zero():
    for name in ("box_plot_bounds", "rouge_bounds", "weighted_f1_bounds"):
        assert {axis.get_ylim()[0] for axis in ALL[name]().axes} == {0}


def test_without_floors_none_are_drawn():
    for bounds in (None, made_up_bounds().head(0), made_up_bounds().query("metric == 'bleu'")):
        assert not any(bounds_of(axis) for axis in plots.weighted_f1(made_up_results(), bounds=bounds).axes)


def test_floors_are_no_models_and_have_no_seeds():
    both = pd.concat([made_up_results(["5"]), made_up_bounds().assign(seed=9)])
    assert drawing.order(both) == ["base", "5"]
    assert drawing.seeds_of(both) == [0]


def test_floors_of_two_protocols_are_refused():
    both = pd.concat([made_up_bounds(), made_up_bounds().assign(protocol="paper")])
    with pytest.raises(ValueError, match="the protocols clean, paper share no axis"):
        plots.box_plot(made_up_results(), bounds=both)


def test_bits_a_byte_go_from_the_base_to_each_training_and_less_is_said_to_be_better():
    indonesian, english = plots.loss_per_byte(*made_up_likelihood()).axes
    for axis, values in ((indonesian, ["2.73", "2.25"]), (english, ["1.50", "1.51"])):
        assert "lower is better" in axis.get_xlabel()
        assert [text.get_text() for text in axis.texts] == values
    ends = [list(line.get_xdata()) for line in indonesian.get_lines() if line.get_linestyle() == "-"]
    assert [2.73, 2.25] in ends
    # What is gained in one language can be compared with what is lost in the other.
    assert np.ptp(indonesian.get_xlim()) == pytest.approx(np.ptp(english.get_xlim()))


def test_bits_a_byte_of_english_are_left_out_where_they_were_not_measured():
    indonesian, english = made_up_likelihood()
    for none in (None, english.head(0)):
        (axis,) = plots.loss_per_byte(indonesian, none).axes
        assert axis.get_title() == "Indonesian test answers"


def test_figures_leave_no_drawing_open(tmp_path):
    plots.save(FIGURES["box_plot"](), tmp_path, "bleu")
    assert plt.get_fignums() == []


def test_the_box_plot_shows_every_run_and_models_in_order():
    results = made_up_results(["5"], runs=3)
    axis = plots.box_plot(results).axes[0]
    assert ticks(axis) == ["base", "row 5"]
    drawn = [sorted(line.get_ydata()) for line in drawn_points(axis, "o", "s")]
    bleu = results[results["metric"] == "bleu"]
    expected = [sorted(bleu[bleu["iteration"] == name]["value"]) for name in ("base", "5")]
    assert [values for values in drawn if values] == expected


def test_scores_start_at_zero():
    for name in ("box_plot", "rouge", "weighted_f1"):
        assert all(axis.get_ylim()[0] == 0 for axis in FIGURES[name]().axes if axis.patches and axis.containers)
    assert FIGURES["box_plot"]().axes[0].get_ylim()[0] == 0


def test_models_stand_in_the_order_of_their_numbers_and_studies_after_them():
    results = made_up_results(["10", "loraplus_ratio16", "2", "loraplus_ratio4", "5"])
    assert drawing.order(results) == ["base", "2", "5", "10", "loraplus_ratio4", "loraplus_ratio16"]
    assert ticks(plots.box_plot(results).axes[0])[:4] == ["base", "row 2", "row 5", "row 10"]


def test_many_rows_are_named_by_their_numbers_and_the_axis_says_so():
    axis = plots.box_plot(made_up_results()).axes[0]
    assert ticks(axis) == ["base", *ROWS]
    assert axis.get_xlabel() == "row of the paper's Table 2"


@pytest.mark.parametrize("name", ["box_plot", "rouge", "weighted_f1"])
def test_the_picked_row_alone_is_set_off_by_a_bold_name(name):
    for axis in getattr(plots, name)(made_up_results(), picked="3").axes:
        assert [text.get_text() for text in axis.get_xticklabels() if text.get_weight() == "bold"] == ["3"]


def test_an_adapter_that_is_alone_is_not_set_off():
    axis = ALL["box_plot_one_row"]().axes[0]
    assert [text.get_weight() for text in axis.get_xticklabels()] == ["normal"] * 2
    axis = ALL["against_published_one_row"]().axes[0]
    assert {text.get_weight() for text in axis.get_yticklabels()} == {"normal"}


def test_base_and_adapters_differ_in_shape_as_well_as_in_colour():
    base, adapter = drawing.marker("base"), drawing.marker("5")
    assert base["marker"] != adapter["marker"] and base["color"] != adapter["color"]
    assert drawing.PAPER["marker"] not in (base["marker"], adapter["marker"])


def test_seeds_differ_in_filling_and_place_and_are_named():
    figure = plots.box_plot(made_up_results(["5"], seeds=(0, 7)))
    one, two = drawn_points(figure.axes[0], "s")
    assert one.get_fillstyle() != two.get_fillstyle()
    assert max(one.get_xdata()) < min(two.get_xdata())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seed 0", "seed 7"]
    assert plots.box_plot(made_up_results(["5"])).legends == []


def test_the_paper_s_values_have_an_axis_of_their_own_that_says_whose_they_are():
    ours, printed = plots.box_plot(made_up_results(), printed=published.table3()).axes
    assert "printed in the paper" in printed.get_title()
    assert drawn_points(ours, "D") == []
    values = drawn_points(printed, "D")[0].get_ydata()
    assert (values[0], values[6]) == (24.76, 52.35)


def test_two_protocols_on_one_axis_are_refused():
    both = pd.concat([made_up_results(["5"]), made_up_results(["5"]).assign(protocol="paper")])
    with pytest.raises(ValueError, match="the protocols clean, paper share no axis"):
        plots.box_plot(both)


def test_published_scores_stand_on_their_models_lines():
    axis = FIGURES["against_published"]().axes[0]
    assert ticks(axis, "y")[-2:] == ["SeaLLM 7B", "Bactrian-X BLOOM 7B"]
    (claimed,) = drawn_points(axis, "v")
    assert list(zip(claimed.get_xdata(), claimed.get_ydata(), strict=True)) == [(14.54, 11), (18.56, 12)]
    highest = published.baselines().query("model == 'SeaLLM 7B' and metric == 'bleu'")["mean"].max()
    assert max(max(line.get_xdata()) for line in drawn_points(axis, "^", "x") if round(line.get_ydata()[0]) == 11) == (
        highest
    )


def test_the_legend_of_published_scores_names_every_protocol():
    (legend,) = comparison_plots.against_published(made_up_results(), *all_published(), ours="demo, clean").legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said[:2] == ["demo, clean: base model", "demo, clean: adapters"]
    assert sum("zero-shot" in text for text in said) == 2
    assert sum("its own protocol" in text for text in said) == 1


def test_a_leak_is_told_in_points_with_its_interval_and_nothing_is_cut_off():
    figure = FIGURES["leak_worth"]()
    axis = figure.axes[0]
    gain = 0.05 * LEVELS["bleu"]
    said = [text.get_text() for text in axis.texts][:2]
    assert said == ["+0.0 [-1.0, +2.0]", f"{gain:+.1f} [{gain - 1:+.1f}, {gain + 2:+.1f}]"]
    figure.draw_without_rendering()
    right = axis.get_window_extent().x1
    assert all(text.get_window_extent().x1 <= right for text in axis.texts)


def test_nested_bleu_has_a_box_over_the_choices_of_the_first_row_and_the_paper_s_values_below():
    means, deviations = FIGURES["nested_bleu"]().axes
    assert ticks(means, "y")[:2] == ["base", "row 5"] and ticks(means, "y")[-1] == "the paper"
    bleu = published.table3().query("metric == 'bleu'")
    for axis, column in ((means, "mean"), (deviations, "sd")):
        (marks,) = drawn_points(axis, "D")
        assert list(marks.get_xdata()) == bleu[column].tolist() and set(marks.get_ydata()) == {2}
    whiskers = [line for line in means.get_lines() if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2]
    base = made_up_nested().query("iteration == 'base'")["mean"]
    ends = sorted(x for line in whiskers if set(line.get_ydata()) == {0} for x in line.get_xdata())
    assert ends[0] >= base.quantile(0.025) - 0.1 and ends[-1] <= base.quantile(0.975) + 0.1


def test_english_before_is_the_line_of_the_base():
    axis = FIGURES["english_cost"]().axes[0]
    assert [line.get_xdata()[0] for line in axis.get_lines() if line.get_linestyle() == "--"] == [2.1]


def test_the_scores_of_several_trainings_have_the_marks_of_their_curves():
    losses, scores = FIGURES["loss_curves"]().axes
    curves = [(to_hex(line.get_color()), line.get_marker()) for line in drawn_points(losses, "s", "^", "D")]
    assert curves == [(to_hex(line.get_color()), line.get_marker()) for line in drawn_points(scores, "s", "^", "D")]
    assert len(set(curves)) == 3


def test_a_study_does_not_say_its_own_name_at_every_line():
    made = comparison_plots.loss_curves(made_up_logs(), made_up_results(("5", *STUDIES)), study="loraplus")
    named = [text.get_text() for text in made.axes[1].get_yticklabels()]
    assert [name for name in named if name.startswith("ratio")] == ["ratio 1", "ratio 4", "ratio 16"]
    assert drawing.label("loraplus_unstabilised") == "LoRA+\nunstabilised"


def test_each_benchmark_is_a_line_from_the_base_to_the_adapter_with_guessing_beside_it():
    compared, results = made_up_benchmarks()
    accuracy, bits = comparison_plots.benchmarks(compared, results).axes
    assert ticks(accuracy, "y")[:2] == ["lindsea morphology", "lindsea argument\nstructure"] and ticks(bits, "y") == [
        "nusax",
        "nusax, English",
    ]
    base, adapter = (
        [point.get_xdata()[0] for point in drawn_points(accuracy, marker) if len(point.get_xdata()) == 1]
        for marker in "os"
    )
    assert base == pytest.approx([0.48] * 7 + [0.27])
    assert adapter == pytest.approx(compared["after"][:8].tolist())
    guessed = [part.get_segments()[0][0][0] for part in accuracy.collections if part.get_linestyle()[0][1]]
    assert guessed == pytest.approx([0.5] * 7 + [0.25])
    assert "less is better" in bits.get_xlabel()


def test_other_trainings_on_a_benchmark_are_pale_and_named():
    one, several = (comparison_plots.benchmarks(*made_up_benchmarks(names)) for names in (("5",), ("5", "8")))
    pale = [point for point in drawn_points(several.axes[0], "s") if point.get_alpha()]
    assert sum(len(point.get_xdata()) for point in pale) == 8
    named = [[text.get_text() for text in figure.legends[0].get_texts()] for figure in (one, several)]
    assert ["other trainings" in texts for texts in named] == [False, True]


def test_without_benchmarks_there_is_no_figure():
    assert comparison_plots.benchmarks(pd.DataFrame(), made_up_results()) is None
