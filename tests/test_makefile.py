"""The graph: what a change reruns, and what it leaves alone. A stub stands in for the notebooks; the rest is real."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Figures and tables are shown in every stage, but are no reason to run one again; only the report is made of them.
DISPLAY = {"lib.look", "lib.plots"}
STUB = """\
#!{python} -S
import json, os, sys
from pathlib import Path

if sys.argv[1:3] != ["-m", "lib.notebooks"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
output = Path(sys.argv[4])
with open("ran.txt", "a") as log:
    log.write(output.stem + "\\n")
with open("arguments.txt", "a") as log:
    log.write(json.dumps(sys.argv[3:]) + "\\n")
if Path("failing").is_file() and Path("failing").read_text() == output.stem:
    sys.exit("error: " + output.stem)
given = dict(text.split("=", 1) for text in sys.argv[5:])
artifacts = Path("artifacts", given["run"])
if output.stem.startswith("1_sampling"):
    # As lib.splits: the split depends on the corpus and its settings, and an equal one is not written again.
    settings = json.loads((artifacts / "settings" / ("sampling_" + given["iteration"] + ".json")).read_text())
    made_from, split = json.dumps(settings["corpus"]), artifacts / "corpus" / "split.parquet"
    split.parent.mkdir(parents=True, exist_ok=True)
    if not split.is_file() or split.read_text() != made_from:
        split.write_text(made_from)
output.parent.mkdir(parents=True, exist_ok=True)
output.write_text("{{}}")
"""
ALL = {
    "1_sampling_5",
    "2_preprocessing_5",
    "3_training_5_seed0",
    "4_evaluation_base",
    "4_evaluation_5_seed0",
    "5_report",
}
BASE = {"4_evaluation_base"}
AFTER = {
    "1_sampling": ALL - BASE,
    "2_preprocessing": ALL - BASE - {"1_sampling_5"},
    "3_training": {"3_training_5_seed0", "4_evaluation_5_seed0", "5_report"},
    "4_evaluation": {"4_evaluation_base", "4_evaluation_5_seed0", "5_report"},
    "5_report": {"5_report"},
}


class Graph:
    """A copy of the repository whose notebooks do nothing but appear."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        for name in ("lib", "notebooks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        stub = folder / "stub"
        stub.write_text(STUB.format(python=sys.executable))
        stub.chmod(0o755)

    def make(self, *arguments: str, target: str | None = "report") -> subprocess.CompletedProcess:
        """Run make with the stub in Python's place, without a target where that is None."""
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "PROFILE", "RUN")}
        return subprocess.run(
            ["make", *([target] if target else []), "PY=./stub", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment | {"PYTHONPATH": str(self.folder)},
        )

    def ran(self, *arguments: str) -> set[str]:
        """The stages that `make report` runs, each of them once."""
        log = self.folder / "ran.txt"
        log.write_text("")
        made = self.make(*arguments)
        assert made.returncode == 0, made.stdout + made.stderr
        names = log.read_text().split()
        assert len(names) == len(set(names))
        return set(names)

    def touch(self, path: str) -> None:
        """Make a file newer than everything that was made so far."""
        time.sleep(0.02)
        os.utime(self.folder / path)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A graph in which everything is up to date; tests bring it back to that."""
    made = Graph(tmp_path_factory.mktemp("graph"))
    made.ran()
    return made


@pytest.fixture
def graph(tmp_path):
    return Graph(tmp_path)


def module_file(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return found[0] if found else None


def imports(source: str) -> set[str]:
    """The modules of lib that a source imports, its functions' late imports too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    packages = {name.rpartition(".")[0] for name in found}
    return {name for name in found | packages if name.split(".")[0] == "lib" and module_file(name)}


def code(notebook: Path) -> str:
    cells = json.loads(notebook.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def reached(notebook: str) -> set[str]:
    """The modules that a notebook imports, and those import, and so on; through what only shows just for the report."""
    passed = set() if notebook == "5_report" else DISPLAY
    todo, seen = imports(code(ROOT / "notebooks" / f"{notebook}.ipynb")) - passed, set()
    while todo:
        module = todo.pop()
        seen.add(module)
        todo |= imports(module_file(module).read_text()) - passed - seen
    return seen


MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for path in (ROOT / "lib").rglob("*.py")
)


def test_the_first_make_runs_every_stage_once_and_the_second_none(graph):
    assert graph.ran() == ALL
    assert graph.ran() == set()


def test_stages_run_in_the_order_of_the_data(graph):
    graph.ran()
    order = (graph.folder / "ran.txt").read_text().split()
    assert order.index("1_sampling_5") < order.index("2_preprocessing_5") < order.index("3_training_5_seed0")
    assert order.index("1_sampling_5") < order.index("4_evaluation_base")
    assert order.index("3_training_5_seed0") < order.index("4_evaluation_5_seed0")
    assert order[-1] == "5_report"


@pytest.mark.parametrize("module", MODULES)
def test_a_changed_module_reruns_the_notebooks_that_reach_it(whole, module):
    direct = [stage for stage in AFTER if module in reached(stage)]
    whole.touch(str(module_file(module).relative_to(ROOT)))
    assert whole.ran() == set().union(*(AFTER[stage] for stage in direct))


@pytest.mark.parametrize("module", ["look", "plots", "report", "provenance"])
def test_what_only_shows_reruns_the_report_alone(whole, module):
    whole.touch(f"lib/{module}.py")
    assert whole.ran() == {"5_report"}


def test_a_changed_template_reruns_the_report_alone(whole):
    whole.touch("lib/templates/report.html.j2")
    assert whole.ran() == {"5_report"}


def test_a_changed_fact_table_reruns_from_the_sampling_on(whole):
    whole.touch(str(next((ROOT / "lib/demo/tables").iterdir()).relative_to(ROOT)))
    assert whole.ran() >= AFTER["1_sampling"]


@pytest.mark.parametrize("stage", sorted(AFTER))
def test_a_changed_notebook_reruns_its_stage_and_what_follows(whole, stage):
    whole.touch(f"notebooks/{stage}.ipynb")
    assert whole.ran() == AFTER[stage]


@pytest.mark.parametrize("stage", sorted(ALL))
def test_a_removed_stage_is_run_again(whole, stage):
    (whole.folder / f"reports/demo/{stage}.ipynb").unlink()
    name = stage.split("_5")[0].removesuffix("_base")
    after = {stage, "5_report"} if name == "4_evaluation" else AFTER[name]
    assert whole.ran() == after


def set_key(graph: Graph, section: str, key: str, value: str, file: str) -> None:
    path = graph.folder / "notebooks/parameters" / file
    text = path.read_text()
    if f"[{section}]" in text:
        text = re.sub(rf"^\[{section}\]\n", f"[{section}]\n{key} = {value}\n", text, flags=re.MULTILINE)
    else:
        text += f"\n[{section}]\n{key} = {value}\n"
    path.write_text(text)


@pytest.mark.parametrize("file", ["demo.toml", "iterations/5.toml"])
@pytest.mark.parametrize(
    ("section", "key", "value", "stages"),
    [
        ("sampling", "validation_rows", "1234", ALL - BASE),
        ("prompt", "min_answer_tokens", "9", ALL - {"1_sampling_5"}),
        ("lora", "lora_rank", "7", AFTER["3_training"]),
        ("training", "batch_size", "7", AFTER["3_training"]),
        ("evaluation", "decoding_seed", "7", AFTER["4_evaluation"]),
        ("corpus", "generic_after", "7", ALL),
    ],
)
def test_a_changed_setting_reruns_the_stages_that_see_it(graph, section, key, value, stages, file):
    graph.ran()
    set_key(graph, section, key, value, file)
    if file == "iterations/5.toml":
        # The base model is no iteration: what an iteration changes of the evaluation is not the base's.
        stages = stages - BASE if section != "corpus" else stages
    assert graph.ran() == stages
    assert graph.ran() == set()


def test_a_comment_in_a_profile_reruns_nothing(whole):
    path = whole.folder / "notebooks/parameters/demo.toml"
    path.write_text(path.read_text() + "# a remark\n")
    assert whole.ran() == set()


@pytest.mark.parametrize(
    ("argument", "stages"),
    [
        ("BASE_MODEL=some/model", ALL - {"1_sampling_5"}),
        ("CORPUS=rows.jsonl", ALL),
        ("SEEDS=1", {"3_training_5_seed1", "4_evaluation_5_seed1", "5_report"}),
        ("SEEDS=0 1", {"3_training_5_seed1", "4_evaluation_5_seed1", "5_report"}),
        ("RUN=other", ALL),
    ],
)
def test_a_variable_reruns_what_depends_on_it(graph, argument, stages):
    graph.ran()
    assert graph.ran(argument) == stages
    assert graph.ran(argument) == set()


def test_a_changed_corpus_file_reruns_from_the_sampling_on(graph):
    (graph.folder / "rows").mkdir()
    (graph.folder / "rows/a.jsonl").write_text("")
    graph.ran("CORPUS=rows")
    graph.touch("rows/a.jsonl")
    assert graph.ran("CORPUS=rows") == ALL - BASE


def test_changed_base_model_weights_rerun_what_uses_them(graph):
    weights = graph.folder / "lib/demo/base_model/config.json"
    weights.parent.mkdir(exist_ok=True)
    weights.write_text("{}")
    graph.ran()
    graph.touch("lib/demo/base_model/config.json")
    assert graph.ran() == ALL - {"1_sampling_5"}


def another_iteration(graph: Graph) -> None:
    (graph.folder / "notebooks/parameters/iterations").joinpath("3.toml").write_text("[lora]\nlora_rank = 16\n")
    for extra in (graph.folder / "notebooks/parameters/iterations").iterdir():
        if extra.name not in ("3.toml", "5.toml"):
            extra.unlink()


def test_an_iteration_more_runs_its_own_stages_and_the_report(graph):
    another_iteration(graph)
    graph.ran()
    added = {"1_sampling_3", "2_preprocessing_3", "3_training_3_seed0", "4_evaluation_3_seed0", "5_report"}
    assert graph.ran("ITERATIONS=5 3") == added


def test_all_iterations_and_two_seeds(graph):
    another_iteration(graph)
    trainings = {f"{iteration}_seed{seed}" for iteration in (3, 5) for seed in (0, 1)}
    expected = {"4_evaluation_base", "5_report"}
    expected |= {f"{stage}_{name}" for stage in ("3_training", "4_evaluation") for name in trainings}
    expected |= {f"{stage}_{iteration}" for stage in ("1_sampling", "2_preprocessing") for iteration in (3, 5)}
    assert graph.ran("ITERATIONS=all", "SEEDS=0 1") == expected
    assert graph.ran("ITERATIONS=all", "SEEDS=0 1") == set()


def test_stages_do_not_run_side_by_side(graph):
    # Two samplings would write the same corpus, and two trainings would share one device.
    another_iteration(graph)
    stub = graph.folder / "stub"
    lines = "import atexit, time\nPath('busy').mkdir()\natexit.register(Path('busy').rmdir)\ntime.sleep(0.05)\n"
    stub.write_text(stub.read_text().replace("output = Path(sys.argv[4])\n", f"output = Path(sys.argv[4])\n{lines}"))
    assert "4_evaluation_3_seed1" in graph.ran("-j4", "ITERATIONS=all", "SEEDS=0 1")


@pytest.mark.parametrize("stage", ["1_sampling_5", "3_training_5_seed0", "5_report"])
def test_a_failed_stage_leaves_no_target_and_is_where_the_next_make_goes_on(graph, stage):
    (graph.folder / "failing").write_text(stage)
    failed = graph.make()
    assert failed.returncode != 0
    assert f"error: {stage}" in failed.stderr
    assert not (graph.folder / f"reports/demo/{stage}.ipynb").exists()
    done = set((graph.folder / "ran.txt").read_text().split()) - {stage}
    (graph.folder / "failing").unlink()
    assert graph.ran() == ALL - done
    assert graph.ran() == set()


def test_a_dry_run_plans_what_a_run_would_do(whole):
    def planned(*arguments: str) -> set[str]:
        lines = whole.make("-n", *arguments).stdout
        return {Path(output).stem for output in re.findall(r"-m lib\.notebooks \S+ (\S+\.ipynb)", lines)}

    assert planned() == set()
    assert planned("-W", "lib/plots.py") == {"5_report"}
    assert planned("-W", "lib/training.py") == AFTER["3_training"]
    # A look ahead must not make what is there stale.
    planned("BASE_MODEL=some/model")
    assert whole.ran() == set()


def test_notebooks_are_told_which_run(graph):
    another_iteration(graph)
    graph.ran("RUN=mine", "CORPUS=a b.jsonl", "BASE_MODEL=x/y", "SEEDS=7", "ITERATIONS=3 5")
    calls = {Path(c[1]).stem: c for c in map(json.loads, (graph.folder / "arguments.txt").read_text().splitlines())}
    common = ["run=mine", "profile=demo", "corpus=a b.jsonl", "base_model=x/y"]
    assert calls["3_training_3_seed7"] == [
        "notebooks/3_training.ipynb", "reports/mine/3_training_3_seed7.ipynb", *common, "iteration=3", "seed=7",
    ]  # fmt: skip
    assert calls["4_evaluation_base"][2:] == [*common, "iteration=base"]
    assert calls["5_report"][2:] == [*common, "iterations=3 5", "seeds=7"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["PROFILE=dmo"], "error: no profile 'dmo'; did you mean 'demo'?"),
        (["ITERATIONS=55"], "error: no iteration '55'; did you mean '5'?"),
        (["ITERATIONS=5 x"], "error: no iteration 'x'"),
        (["SEEDS="], "name no training"),
        (["SEEDS=one"], "error: "),
        (["RUN=a/b"], "error: RUN='a/b' cannot name a folder"),
        (["RUN=published"], "error: RUN='published' cannot name a folder"),
    ],
)
def test_a_wrong_variable_is_one_sentence(whole, arguments, said):
    made = whole.make(*arguments)
    assert made.returncode != 0
    assert said in made.stderr
    assert "Traceback" not in made.stderr
    spoken = [line for line in made.stderr.splitlines() if not line.startswith("make")]
    assert len(spoken) == 1, made.stderr


def phony() -> set[str]:
    declared = re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {name for line in declared for name in line.split()} - {"settings"}


def test_help_lists_every_command(whole):
    lines = whole.make(target="help").stdout.splitlines()
    described = dict(re.match(r"  make (\S+)\s+(\S.*)", line).groups() for line in lines if line.startswith("  make "))
    assert set(described) == phony()
    assert {"report", "test", "lab", "bench", "lint", "clean", "help"} <= phony()


def test_a_bare_make_helps(whole):
    assert whole.make(target=None).stdout == whole.make(target="help").stdout


def test_the_help_shows_each_variable_with_its_value(whole):
    shown = whole.make("SEEDS=3 4", target="help").stdout
    for name in ("PROFILE=demo", "RUN=demo", "CORPUS=", "BASE_MODEL=", 'ITERATIONS="5"', 'SEEDS="3 4"'):
        assert name in shown


def test_clean_removes_the_run_and_nothing_else(graph):
    graph.ran()
    graph.ran("RUN=other")
    (graph.folder / "reports/published").mkdir()
    graph.make("RUN=other", target="clean")
    assert sorted(p.name for p in (graph.folder / "reports").iterdir()) == ["demo", "published"]
    assert sorted(p.name for p in (graph.folder / "artifacts").iterdir()) == ["demo"]
    # An empty RUN is the profile's, as everywhere.
    graph.make("RUN=", target="clean")
    assert sorted(p.name for p in (graph.folder / "reports").iterdir()) == ["published"]


@pytest.mark.parametrize("run", ["published", "example", "../lib", "..", "."])
def test_clean_refuses_what_is_no_run(graph, run):
    graph.ran()
    (graph.folder / "reports" / "published").mkdir()
    (graph.folder / "reports" / "example").mkdir()
    cleaned = graph.make(f"RUN={run}", target="clean")
    assert cleaned.returncode != 0
    assert (graph.folder / "lib/config.py").is_file()
    assert {p.name for p in (graph.folder / "reports").iterdir()} == {"demo", "example", "published"}
