"""The graph: what a change reruns, and what it leaves alone. A stub stands in for the notebooks; the rest is real."""

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "klepon.json")
CORES = os.cpu_count()
# Figures and tables are shown in every stage, but are no reason to run one again; only the report is made of them.
SHOWS = "lib.report"
SCORED = ("clean", "paper", "greedy", "english")
#: What the stages leave, as far as anything reads it again; the split is written by the stub itself.
LEFT = {
    "1": [
        *(f"artifacts/{{run}}/corpus/{name}" for name in ("rows.parquet", "summary.json", "alike.parquet")),
        *("artifacts/{run}/samples/{name}.parquet", "reports/{run}/figures/leakage.png"),
    ],
    "2": [
        *(f"artifacts/{{run}}/examples/{{name}}/{part}.parquet" for part in ("train", "validation")),
        "reports/{run}/figures/lengths_{name}.png",
    ],
    "3": [
        *("artifacts/{run}/trainings/{name}/log.csv", "reports/{run}/figures/training_{name}.png"),
        *(f"artifacts/{{run}}/adapters/{{name}}/{file}" for file in ADAPTER),
    ],
    "4": [
        *(f"artifacts/{{run}}/completions/{{name}}_{asked}.jsonl" for asked in (*SCORED, "own")),
        *(f"artifacts/{{run}}/scores/{{name}}_{asked}_pairs.parquet" for asked in SCORED),
        *(f"artifacts/{{run}}/likelihood/{{name}}_{asked}.parquet" for asked in ("clean", "paper", "english")),
        *(f"artifacts/{{run}}/scores/{{name}}{end}" for end in (".csv", "_language.csv")),
        *("artifacts/{run}/benchmarks/{name}.parquet", "reports/{run}/figures/bleu_{name}.png"),
    ],
    "5": [
        *(f"artifacts/{{run}}/final_adapter/{file}" for file in (*ADAPTER, "starters.json", "references.json")),
        *(f"reports/{{run}}/{name}" for name in ("report.html", "results.csv", "summary.csv", "manifest.json")),
        *(f"reports/{{run}}/figures/{name}.png" for name in ("loss_per_byte", "bleu", "rouge", "weighted_f1")),
    ],
    "6": ["artifacts/{run}/stages/6_preference.json"],
}
STUB = """\
#!{python} -S
import json, os, sys, time
from pathlib import Path

if sys.argv[1:3] != ["-m", "lib.running.notebooks"]:
    with open("asked.txt", "a") as log:
        log.write(" ".join(sys.argv[2:]) + "\\n")
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
output = Path(sys.argv[4])
given = dict(text.split("=", 1) for text in sys.argv[5:])
artifacts = Path("artifacts", given["run"])
# As lib.running.notebooks: what was there goes first, and until it ends a stage has failed.
output.unlink(missing_ok=True)
failure = artifacts / "failures" / (output.stem + ".json")
failure.parent.mkdir(parents=True, exist_ok=True)
failure.write_text("stopped")
# Whatever runs side by side is here at one time; a training waits for company where it can have some.
busy = Path("busy", output.stem)
busy.parent.mkdir(exist_ok=True)
busy.touch()
with open("ran.txt", "a") as log:
    log.write(output.stem + "\\n")
with open("arguments.txt", "a") as log:
    log.write(json.dumps(sys.argv[3:]) + "\\n")
with open("threads.txt", "a") as log:
    log.write(str(os.environ.get("OMP_NUM_THREADS")) + "\\n")
Path("engine.txt").write_text(os.environ.get("ENGINE_URL", ""))
if "KLEPON_TODO" in os.environ:
    Path("planned.txt").write_text(Path(os.environ["KLEPON_TODO"]).read_text())
if Path("holding").is_file() and Path("holding").read_text() == output.stem:
    Path("held").write_text(str(os.getpid()) + ".")
    time.sleep(120)
end = time.monotonic() + (float(Path("waiting").read_text()) if Path("waiting").is_file() else 0)
while time.monotonic() < end and len(os.listdir("busy")) < 2:
    time.sleep(0.01)
with open("together.txt", "a") as log:
    log.write(" ".join(sorted(os.listdir("busy"))) + "\\n")
if Path("failing").is_file() and output.stem in Path("failing").read_text().split():
    busy.unlink()
    sys.exit("error: " + output.stem)
if output.stem.startswith("1_sampling"):
    # As lib.corpus.splits: the split depends on the corpus and its settings, and an equal one is not written again.
    settings = json.loads((artifacts / "settings" / ("sampling_" + given["iteration"] + ".json")).read_text())
    made_from, split = json.dumps(settings["corpus"]), artifacts / "corpus" / "split.parquet"
    split.parent.mkdir(parents=True, exist_ok=True)
    if not split.is_file() or split.read_text() != made_from:
        split.write_text(made_from)
stage, _, rest = output.stem.partition("_")
for left in {left!r}[stage]:
    path = Path(left.format(run=given["run"], name=rest.partition("_")[2]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
output.parent.mkdir(parents=True, exist_ok=True)
output.write_text("{{}}")
failure.unlink()
busy.unlink()
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
        stub.write_text(STUB.format(python=sys.executable, left=LEFT))
        stub.chmod(0o755)

    def copy(self, folder: Path) -> "Graph":
        """The same elsewhere, every file as old as it is here."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        copied = Graph.__new__(Graph)
        copied.folder = folder
        return copied

    def start(self, *arguments: str, target: str | None = "report", before: tuple[str, ...] = ()) -> subprocess.Popen:
        """Start make with the stub in Python's place, without a target where that is None, in a group of its own.

        Args:
            before: a command that starts another, to start make by.
        """
        own = ("OMP_NUM_THREADS", "MAKEFLAGS", "MAKELEVEL", "RAY_ADDRESS", "PROFILE", "RUN", "ITERATIONS", "SEEDS")
        own += ("STUDIES", "JOBS", "LLAMA_CPP", "REPO", "PRIVATE", "YES", "WITH")
        environment = {k: v for k, v in os.environ.items() if k not in own and not k.startswith("KLEPON_")}
        return subprocess.Popen(
            [*before, "make", *([target] if target else []), "PY=./stub", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": str(self.folder)},
            start_new_session=True,
        )

    def make(self, *arguments: str, target: str | None = "report") -> subprocess.CompletedProcess:
        """Run make to its end."""
        process = self.start(*arguments, target=target)
        try:
            said, complained = process.communicate(timeout=300)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, said, complained)

    def ran(self, *arguments: str, fails: bool = False) -> set[str]:
        """The stages that `make report` runs, each of them once."""
        log = self.folder / "ran.txt"
        log.write_text("")
        made = self.make(*arguments)
        assert (made.returncode != 0) == fails, made.stdout + made.stderr
        assert fails or made.stderr == ""
        names = log.read_text().split()
        assert len(names) == len(set(names))
        return set(names)

    def planned(self, *arguments: str) -> set[str]:
        """The stages that `make -n report` says it would run, each of them once."""
        lines = self.make("-n", *arguments).stdout
        names = [Path(output).stem for output in re.findall(r"-m lib\.running\.notebooks \S+ (\S+\.ipynb)", lines)]
        assert len(names) == len(set(names))
        return set(names)

    def fail(self, *stages: str) -> None:
        """From now on these stages fail, and no others."""
        (self.folder / "failing").write_text(" ".join(stages))

    def failures(self) -> set[str]:
        """The stages that are recorded as failed."""
        return {path.stem for path in (self.folder / "artifacts/demo/failures").glob("*.json")}

    def there(self, stage: str) -> bool:
        """Whether the executed notebook is."""
        return (self.folder / f"reports/demo/{stage}.ipynb").is_file()

    def rewrite(self, iteration: str, old: str, new: str) -> None:
        """Change the parameter file of an iteration."""
        path = self.folder / f"notebooks/parameters/iterations/{iteration}.toml"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))

    def touch(self, path: str) -> None:
        """Make a file newer than everything that was made so far."""
        time.sleep(0.02)
        os.utime(self.folder / path)
        time.sleep(0.02)


@pytest.fixture(scope="module")
def one_row(tmp_path_factory):
    """A graph in which row 5 is up to date; no test changes it."""
    made = Graph(tmp_path_factory.mktemp("graph"))
    made.ran()
    return made


@pytest.fixture(scope="module")
def whole(one_row, tmp_path_factory):
    """A graph in which row 5 is up to date; tests bring it back to that."""
    return one_row.copy(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def all_rows(one_row, tmp_path_factory):
    """A graph in which row 5 and then all rows were made, and what the latter ran; no test changes it."""
    made = one_row.copy(tmp_path_factory.mktemp("graph"))
    return made, made.ran("ITERATIONS=all")


@pytest.fixture(scope="module")
def two_rows(tmp_path_factory):
    """A graph in which rows 3 and 5, the only ones, are up to date; no test changes it."""
    made = Graph(tmp_path_factory.mktemp("graph"))
    another_iteration(made)
    made.ran("ITERATIONS=all")
    return made


@pytest.fixture
def graph(tmp_path):
    """Nothing made yet."""
    return Graph(tmp_path)


@pytest.fixture
def made(one_row, tmp_path):
    """Row 5 is up to date."""
    return one_row.copy(tmp_path)


@pytest.fixture
def table(all_rows, tmp_path):
    """All rows are up to date."""
    return all_rows[0].copy(tmp_path)


@pytest.fixture
def two(two_rows, tmp_path):
    """Rows 3 and 5, the only ones, are up to date."""
    return two_rows.copy(tmp_path)


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

    def counts(module: str) -> bool:
        return notebook == "5_report" or room(module) != SHOWS

    todo, seen = set(filter(counts, imports(code(ROOT / "notebooks" / f"{notebook}.ipynb")))), set()
    while todo:
        module = todo.pop()
        seen.add(module)
        todo |= set(filter(counts, imports(module_file(module).read_text()))) - seen
    return seen


def room(module: str) -> str:
    """The folder of a module, as a package; the ground floor for what lies in none."""
    return (
        ".".join(module.split(".")[:2])
        if (ROOT / module.replace(".", "/")).is_dir() or module.count(".") > 1
        else "lib"
    )


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
def test_a_changed_module_reruns_the_notebooks_that_use_its_room(whole, module):
    direct = [stage for stage in AFTER if room(module) in {room(used) for used in reached(stage)}]
    stale = set().union(*(AFTER[stage] for stage in direct))
    # What pretrained the demo's base model: no stage runs it.
    assert module != "lib.training.pretraining" or not any(module in reached(stage) for stage in AFTER)
    expected = set() if module == "lib.training.pretraining" else stale
    assert whole.planned("-W", str(module_file(module).relative_to(ROOT))) == expected


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == SHOWS])
def test_what_only_shows_reruns_the_report_alone(whole, module):
    assert whole.planned("-W", str(module_file(module).relative_to(ROOT))) == {"5_report"}


def test_a_changed_template_reruns_the_report_alone(whole):
    whole.touch("lib/report/templates/report.html.j2")
    assert whole.ran() == {"5_report"}


def test_a_changed_fact_table_reruns_from_the_sampling_on(whole):
    whole.touch(str(next((ROOT / "lib/demo/tables").iterdir()).relative_to(ROOT)))
    assert whole.ran() >= AFTER["1_sampling"]


@pytest.fixture(scope="module")
def voted(one_row, tmp_path_factory):
    """A graph in which the final adapter was trained further on votes, too."""
    made = one_row.copy(tmp_path_factory.mktemp("graph"))
    for name in ("artifacts/demo/preference/votes.jsonl", "artifacts/demo/preference/settings.json"):
        (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (made.folder / name).write_text("{}")
    made.make(target=FURTHER)
    return made


FURTHER = "reports/demo/6_preference.ipynb"


def test_training_on_votes_is_told_of_the_run_alone_and_runs_once(voted):
    told = [json.loads(line) for line in (voted.folder / "arguments.txt").read_text().splitlines()]
    assert [given for given in told if given[1] == FURTHER] == [["notebooks/6_preference.ipynb", FURTHER, "run=demo"]]
    assert voted.make("-n", target=FURTHER).stdout == ""


@pytest.mark.parametrize("module", sorted({room(module): module for module in MODULES}.values()))
def test_training_on_votes_runs_again_for_what_it_uses_and_no_report_waits_for_it(voted, module):
    changed = ("-W", str(module_file(module).relative_to(ROOT)))
    uses = room(module) in {room(used) for used in reached("6_preference")}
    assert ("lib.running.notebooks" in voted.make("-n", *changed, target=FURTHER).stdout) == uses
    assert "6_preference" not in voted.planned(*changed)


@pytest.mark.parametrize("file", ["notebooks/6_preference.ipynb", "artifacts/demo/preference/votes.jsonl"])
def test_other_votes_and_another_notebook_train_on_votes_again(voted, file):
    assert "lib.running.notebooks" in voted.make("-n", "-W", file, target=FURTHER).stdout


def test_the_page_is_made_again_once_there_was_training_on_votes(made):
    record = made.folder / "artifacts/demo/stages/6_preference.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("{}")
    assert made.ran() == {"5_report"}
    assert made.ran() == set()


def test_training_on_votes_is_asked_for_with_run_and_votes(made):
    (made.folder / "lib/running/preference.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    told = made.make("RUN=mine", "VOTES=a b.jsonl", target="preference").stdout
    assert json.loads(told) == ["--run=mine", "--votes=a b.jsonl"]


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
def test_a_changed_setting_reruns_the_stages_that_see_it(made, section, key, value, stages, file):
    set_key(made, section, key, value, file)
    if file == "iterations/5.toml":
        # The base model is no iteration: what an iteration changes of the evaluation is not the base's.
        stages = stages - BASE if section != "corpus" else stages
    assert made.ran() == stages
    assert made.ran() == set()


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
        # Not the flag -n.
        ("RUN=n", ALL),
    ],
)
def test_a_variable_reruns_what_depends_on_it(made, argument, stages):
    assert made.ran(argument) == stages
    assert made.ran(argument) == set()


def older_in_its_place(path: Path, text: str) -> None:
    """Replace a file by one of the same size whose contents are older than all that was made, as `cp -p` does."""
    assert len(text) == path.stat().st_size
    other = path.with_name("other")
    other.write_text(text)
    os.utime(other, (1_000, 1_000))
    other.replace(path)


@pytest.mark.parametrize(
    ("corpus", "file"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("my rows.jsonl", "my rows.jsonl"),
        ("rows", "rows/a.jsonl"),
        ("my rows", "my rows/b c/d/a.jsonl"),
        ("rows/*.jsonl", "rows/a.jsonl"),
        ("rows/**/*.jsonl", "rows/b/c/a.jsonl"),
        ("r%o;w:s'$x#\\", "r%o;w:s'$x#\\/a.jsonl"),
    ],
)
def test_a_changed_corpus_file_reruns_from_the_sampling_on_wherever_it_lies(graph, corpus, file):
    path = graph.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1")
    given = f"CORPUS={corpus}"
    assert graph.ran(given) == ALL
    older_in_its_place(path, "2")
    assert graph.ran(given) == ALL - BASE
    graph.touch(file)
    assert graph.ran(given) == set(), "its contents are the same"


def test_a_file_more_or_less_reruns_from_the_sampling_on(graph):
    (graph.folder / "rows/deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (graph.folder / f"rows/{name}.jsonl").write_text("1")
    graph.ran("CORPUS=rows")
    (graph.folder / "rows/deep/b.jsonl").unlink()
    assert graph.ran("CORPUS=rows") == ALL - BASE
    (graph.folder / "rows/deep/c.jsonl").write_text("1")
    assert graph.ran("CORPUS=rows") == ALL - BASE
    (graph.folder / "rows/notes.md").write_text("no corpus")
    assert graph.ran("CORPUS=rows") == set()


def test_a_corpus_that_is_away_for_a_while_reruns_nothing(graph):
    (graph.folder / "rows.jsonl").write_text("1")
    graph.ran("CORPUS=rows.jsonl")
    (graph.folder / "rows.jsonl").rename(graph.folder / "away")
    assert graph.ran("CORPUS=rows.jsonl") == set()
    (graph.folder / "away").rename(graph.folder / "rows.jsonl")
    assert graph.ran("CORPUS=rows.jsonl") == set()


def test_a_corpus_that_the_profile_names_is_looked_at_too(graph):
    (graph.folder / "rows.jsonl").write_text("1")
    (graph.folder / "english.jsonl").write_text("1")
    profile = '[corpus]\nsource = "rows.jsonl"\n[english]\nsource = "english.jsonl"\n[model]\nbase_model = "demo"\n'
    (graph.folder / "notebooks/parameters/mine.toml").write_text(profile)
    graph.ran("PROFILE=mine")
    (graph.folder / "rows.jsonl").write_text("2")
    assert graph.ran("PROFILE=mine") == ALL - BASE
    (graph.folder / "english.jsonl").write_text("2")
    assert graph.ran("PROFILE=mine") == AFTER["4_evaluation"]


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("", "lib/demo/base_model/model.safetensors"),
        ("my model", "my model/tokenizer.json"),
        ("a b.gguf", "a b.gguf"),
    ],
)
def test_a_changed_base_model_reruns_what_uses_it(graph, model, file):
    path = graph.folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("1")
    given = f"BASE_MODEL={model}"
    graph.ran(given)
    older_in_its_place(path, "2")
    assert graph.ran(given) == ALL - {"1_sampling_5"}
    graph.touch(file)
    assert graph.ran(given) == set(), "its contents are the same"


@pytest.mark.parametrize("left", ["artifacts/{run}/adapters/{name}/adapter_model.safetensors", *LEFT["5"][1:]])
def test_a_removed_product_is_made_again_by_its_stage(whole, left):
    """As advice such as "run make report" promises."""
    stage = next(stage for stage, files in LEFT.items() if left in files)
    name = "5_seed0" if stage in "34" else "5"
    (whole.folder / left.format(run="demo", name=name)).unlink()
    after = next(stages for first, stages in AFTER.items() if first.startswith(stage))
    assert whole.ran() == (after - BASE if stage == "4" else after)
    assert whole.ran() == set()


def test_benchmarks_that_are_gone_are_asked_again(made):
    made.ran("BENCHMARKS=nusax")
    (made.folder / "artifacts/demo/benchmarks/base.parquet").unlink()
    assert made.ran("BENCHMARKS=nusax") == BASE | {"5_report"}


# --- Several iterations ----------------------------------------------------------------------------------------------


def another_iteration(graph: Graph) -> None:
    (graph.folder / "notebooks/parameters/iterations").joinpath("3.toml").write_text("[lora]\nlora_rank = 16\n")
    (graph.folder / "notebooks/parameters/iterations").joinpath("5.toml").write_text("[sampling]\nclusters = 9\n")
    for extra in (graph.folder / "notebooks/parameters/iterations").iterdir():
        if extra.name not in ("3.toml", "5.toml"):
            extra.unlink()


def row(name: str) -> set[str]:
    """What a row runs that shares nothing."""
    return {f"1_sampling_{name}", f"2_preprocessing_{name}"} | trained(name)


def trained(name: str) -> set[str]:
    """What a row runs that takes another's examples."""
    return {f"3_training_{name}_seed0", f"4_evaluation_{name}_seed0", "5_report"}


def test_all_rows_run_what_is_distinct_once(all_rows):
    # Rows 1 and 2 share a sample, 8 and 9 too; 4 and 6 share everything.
    made, added = all_rows
    assert added == set().union(*(row(name) for name in "013478"), trained("2"), trained("9"))
    assert made.planned("ITERATIONS=all") == set()


def test_more_iterations_rerun_nothing_of_the_first_but_the_report(all_rows):
    assert all_rows[1] & ALL == {"5_report"}


def test_fewer_iterations_rerun_the_report_alone(table):
    assert table.ran("ITERATIONS=6 1") == {"5_report"}
    assert table.ran("ITERATIONS=6 1") == set()


def test_the_second_make_of_all_rows_runs_none(table):
    assert table.ran("ITERATIONS=all") == set()


def test_a_row_alone_uses_the_sample_of_the_row_that_samples_alike(graph):
    assert graph.ran("ITERATIONS=2") == BASE | {"1_sampling_1", "2_preprocessing_1"} | trained("2")


def test_a_study_shares_the_sample_of_row_5_and_has_examples_of_its_own_where_prompts_differ(made):
    assert made.ran("STUDIES=bos") == {"2_preprocessing_bos_two"} | trained("bos_two")
    assert made.ran("STUDIES=bos") == set()


def test_two_seeds_of_all_rows_share_their_samples(two):
    seeded = {f"{stage}_{name}_seed1" for stage in ("3_training", "4_evaluation") for name in (3, 5)}
    assert two.ran("ITERATIONS=all", "SEEDS=0 1") == {*seeded, "5_report"}
    assert two.ran("ITERATIONS=all", "SEEDS=0 1") == set()


@pytest.mark.parametrize(
    ("iteration", "old", "new", "stages"),
    [
        ("3", "lora_rank = 16", "lora_rank = 8", trained("3")),
        # Rows 2 and 1 no longer share a sample, and 6 and 4 nothing.
        ("2", "rows = 1_000", "rows = 1_500", row("2")),
        ("6", "share = 0.01", "share = 0.02", row("6")),
        ("6", "epochs = 1.0", "epochs = 2.0", trained("6")),
        # Row 3 comes to share the sample of row 1, which is older than what row 3 made of its own.
        ("3", "rows = 2_000", "rows = 1_000", trained("3")),
    ],
)
def test_a_changed_row_reruns_that_row_and_the_report(table, iteration, old, new, stages):
    table.rewrite(iteration, old, new)
    assert table.planned("ITERATIONS=all") <= stages, "a look ahead knows the settings of the last run"
    assert table.ran("ITERATIONS=all") == stages
    assert table.ran("ITERATIONS=all") == set()


# --- Side by side ----------------------------------------------------------------------------------------------------


def together(graph: Graph) -> list[set[str]]:
    """For each stage, in the order in which they ran, which ran at its time."""
    return [set(line.split()) for line in (graph.folder / "together.txt").read_text().splitlines()]


@pytest.mark.parametrize("target", ["report", "stages"])
def test_with_one_job_no_stages_run_side_by_side(graph, target):
    another_iteration(graph)
    (graph.folder / "waiting").write_text("0.05")
    assert graph.make("-j4", "JOBS=1", "ITERATIONS=all", target=target).stderr == ""
    assert len(together(graph)) >= 9
    assert all(len(stages) == 1 for stages in together(graph))


@pytest.mark.parametrize("flags", [[], ["-j4"]])
def test_jobs_run_side_by_side_after_the_first_sampling(graph, flags):
    # It writes the corpus, which the others read.
    another_iteration(graph)
    (graph.folder / "waiting").write_text("0.5")
    graph.ran(*flags, "JOBS=2", "ITERATIONS=all")
    ran = together(graph)
    assert ran[0] == {"1_sampling_3"}
    assert max(len(stages) for stages in ran) == 2
    assert ran[-1] == {"5_report"}


@pytest.mark.parametrize(("jobs", "threads"), [("1", None), ("2", max(1, CORES // 2)), ("1000", 1)])
def test_jobs_share_the_cores(graph, jobs, threads):
    # As many threads as cores each, and they would wait for each other.
    graph.ran(f"JOBS={jobs}")
    assert set((graph.folder / "threads.txt").read_text().split()) == {str(threads)}


# --- Failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["1_sampling_5", "3_training_5_seed0", "4_evaluation_5_seed0", "5_report"])
def test_a_failed_stage_leaves_no_target_and_is_where_the_next_make_goes_on(graph, stage):
    graph.fail(stage)
    failed = graph.make()
    assert failed.returncode != 0
    assert f"error: {stage}" in failed.stderr
    assert not graph.there(stage)
    ran = set((graph.folder / "ran.txt").read_text().split())
    assert ran - {stage} == {done for done in ALL if graph.there(done)}
    assert "5_report" not in ran - {stage}, "there is no training to report on"
    graph.fail()
    assert graph.ran() == ALL - ran | {stage}
    assert graph.ran() == set()


def test_a_failed_training_is_missing_in_the_report_and_loses_no_other_row(graph):
    another_iteration(graph)
    graph.fail("3_training_3_seed0")
    assert graph.ran("ITERATIONS=all", fails=True) == ALL | row("3") - {"4_evaluation_3_seed0"}
    assert graph.there("5_report")
    assert graph.failures() == {"3_training_3_seed0"}
    # The next make retries that row, and tells again what is wrong.
    assert graph.ran("ITERATIONS=all", fails=True) == {"3_training_3_seed0", "5_report"}
    graph.fail()
    assert graph.ran("ITERATIONS=all") == trained("3")
    assert graph.failures() == set()
    assert graph.ran("ITERATIONS=all") == set()


def test_the_error_of_a_failed_row_is_told(two):
    two.rewrite("3", "lora_rank = 16", "lora_rank = 8")
    two.fail("3_training_3_seed0")
    failed = two.make("ITERATIONS=all")
    said, ending = failed.stderr.splitlines()
    assert said == "error: 3_training_3_seed0"
    # Of make's own words only the last line stays: that it failed.
    assert re.fullmatch(r"make: \*\*\* \[Makefile:\d+: report\] Error 1", ending)


def test_scores_of_an_older_training_make_no_report(made):
    made.rewrite("5", "#", "[lora]\nlora_rank = 8\n#")
    made.fail("3_training_5_seed0")
    assert made.ran(fails=True) == {"3_training_5_seed0"}
    assert made.there("4_evaluation_5_seed0"), "what a later make compares"


def test_without_the_base_model_s_scores_there_is_no_report(two):
    (two.folder / "reports/demo/4_evaluation_base.ipynb").unlink()
    two.rewrite("3", "lora_rank = 16", "lora_rank = 8")
    two.fail("4_evaluation_base")
    assert two.ran("ITERATIONS=all", fails=True) == BASE | trained("3") - {"5_report"}


def test_without_the_first_sampling_nothing_else_is_tried(two):
    two.touch("lib/sampling/draws.py")
    two.fail("1_sampling_3")
    assert two.ran("ITERATIONS=all", fails=True) == {"1_sampling_3"}


def test_a_row_that_is_not_asked_for_may_have_failed(two):
    two.rewrite("3", "lora_rank = 16", "lora_rank = 8")
    two.fail("3_training_3_seed0")
    two.ran("ITERATIONS=all", fails=True)
    assert two.ran("ITERATIONS=5") == {"5_report"}
    assert two.ran("ITERATIONS=5") == set()


@pytest.mark.parametrize("stop", ["interrupt", "kill"])
def test_a_stopped_make_ends_its_stage_and_counts_nothing_half_done(made, stop):
    made.rewrite("5", "#", "[lora]\nlora_rank = 8\n#")
    (made.folder / "holding").write_text("3_training_5_seed0")
    held = made.folder / "held"
    process = made.start()
    try:
        while not (held.is_file() and held.read_text().endswith(".")):
            assert process.poll() is None
            time.sleep(0.05)
        # Ctrl-C reaches all that runs; a kill make alone.
        if stop == "interrupt":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        process.communicate(timeout=60)
        stage = int(held.read_text().removesuffix("."))
        assert not psutil.pid_exists(stage) or psutil.Process(stage).status() == psutil.STATUS_ZOMBIE
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert not made.there("3_training_5_seed0")
    (made.folder / "holding").unlink()
    assert made.ran() == AFTER["3_training"]


# --- Looking ahead ---------------------------------------------------------------------------------------------------


def test_a_dry_run_plans_what_a_run_would_do(whole):
    assert whole.planned() == set()
    assert whole.planned("-W", "lib/report/plots.py") == {"5_report"}
    assert whole.planned("-W", "lib/training/trainer.py") == AFTER["2_preprocessing"]
    assert whole.planned("STUDIES=bos") == {"2_preprocessing_bos_two"} | trained("bos_two")
    # A look ahead must not make what is there stale.
    whole.planned("BASE_MODEL=some/model")
    assert whole.ran() == set()


@pytest.mark.parametrize("flag", ["-n", "-q", "-nk", "-nj4"])
def test_a_make_that_only_asks_runs_nothing(graph, flag):
    graph.make(flag)
    assert not (graph.folder / "ran.txt").exists()
    assert not (graph.folder / "artifacts").exists()


def test_what_is_marked_as_made_does_not_run(made):
    made.touch("lib/training/trainer.py")
    assert made.ran("-t") == set()
    assert made.ran() == set()


def test_other_benchmarks_run_the_evaluations_and_the_report_again_and_no_training(made):
    assert made.ran("BENCHMARKS=nusax") == AFTER["4_evaluation"]
    assert made.ran("BENCHMARKS=nusax") == set()
    assert made.ran("BENCHMARKS=none") == AFTER["4_evaluation"]


def test_notebooks_know_the_plan_of_what_really_runs(made):
    made.rewrite("5", "#", "[lora]\nlora_rank = 8\n#")
    made.ran("SEEDS=0 1", "JOBS=1")
    planned = [Path(output).stem for output in (made.folder / "planned.txt").read_text().split()]
    assert planned == (made.folder / "ran.txt").read_text().split()
    assert len(planned) == 5


def test_a_stage_that_is_made_alone_has_no_plan(made):
    (made.folder / "planned.txt").unlink()
    made.touch("lib/training/trainer.py")
    made.make(target="reports/demo/3_training_5_seed0.ipynb")
    assert (made.folder / "ran.txt").read_text().split()[-1] == "3_training_5_seed0"
    assert not (made.folder / "planned.txt").exists()


def test_a_make_asks_for_the_graph_once_and_for_the_settings_once(made):
    # Each is a start of Python, and most of what a make costs that runs nothing.
    (made.folder / "asked.txt").unlink()
    made.ran()
    asked = (made.folder / "asked.txt").read_text().splitlines()
    assert ["--graph" in line for line in asked] == [True, False]


def test_notebooks_are_told_which_run(graph):
    another_iteration(graph)
    own = ["RUN=mine", "CORPUS=a b.jsonl", "SUBSETS=a topic", "BASE_MODEL=x/y", "BENCHMARKS=lindsea nusax"]
    graph.ran(*own, "SEEDS=7", "ITERATIONS=3 5")
    calls = {Path(c[1]).stem: c for c in map(json.loads, (graph.folder / "arguments.txt").read_text().splitlines())}
    common = ["run=mine", "profile=demo", "corpus=a b.jsonl", "subsets=a topic", "base_model=x/y"]
    assert calls["3_training_3_seed7"] == [
        "notebooks/3_training.ipynb", "reports/mine/3_training_3_seed7.ipynb", *common, "iteration=3", "seed=7",
    ]  # fmt: skip
    assert calls["1_sampling_3"][2:] == [*common, "iteration=3", "seed=0"]
    assert calls["2_preprocessing_3"][2:] == [*common, "iteration=3", "seed=0"]
    assert calls["4_evaluation_base"][2:] == [*common, "iteration=base", "seed=0", "benchmarks=lindsea nusax"]
    assert calls["5_report"][2:] == [*common, "iterations=3 5", "seeds=7", "studies=", "benchmarks=lindsea nusax"]


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_the_evaluation_is_told_of_a_server(made, by, monkeypatch):
    (made.folder / "reports/demo/4_evaluation_base.ipynb").unlink()
    if by == "environment":
        monkeypatch.setenv("ENGINE_URL", "http://e/v1?a=$b")
    assert made.ran(*(["ENGINE_URL=http://e/v1?a=$b"] if by == "argument" else [])) == BASE | {"5_report"}
    assert (made.folder / "engine.txt").read_text() == "http://e/v1?a=$b"


HOSTILE = 'a%b;c:d\'e$f$(g)`h`\\"i" #j,(k)\u00e9* -l=m'


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_value_goes_through_make_and_the_shell_as_it_is(graph, by, monkeypatch):
    given = {"CORPUS": HOSTILE, "SUBSETS": HOSTILE, "BASE_MODEL": f"-{HOSTILE}"}
    if by == "environment":
        for name, value in given.items():
            monkeypatch.setenv(name, value)
    graph.ran(*(f"{name}={value}" for name, value in given.items() if by == "argument"))
    for call in map(json.loads, (graph.folder / "arguments.txt").read_text().splitlines()):
        assert call[4:7] == [f"corpus={HOSTILE}", f"subsets={HOSTILE}", f"base_model=-{HOSTILE}"]
    assert json.loads((graph.folder / "artifacts/demo/asked.json").read_text()) == given
    assert HOSTILE in graph.make(f"WITH={HOSTILE}", target="help").stdout


def test_the_seed_and_the_study_of_a_variant_are_told_apart(graph):
    graph.ran("STUDIES=bos", "SEEDS=12")
    calls = {Path(c[1]).stem: c for c in map(json.loads, (graph.folder / "arguments.txt").read_text().splitlines())}
    assert calls["4_evaluation_bos_two_seed12"][-3:] == ["iteration=bos_two", "seed=12", "benchmarks="]
    assert calls["5_report"][-2] == "studies=bos"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["PROFILE=dmo"], "error: no profile 'dmo'; did you mean 'demo'?"),
        (["ITERATIONS=55"], "error: no iteration '55'; did you mean '5'?"),
        (["ITERATIONS=5 x"], "error: no iteration 'x'"),
        (["ITERATIONS=none"], "name no training"),
        (["ITERATIONS=base"], "name no training"),
        (["SEEDS=one"], "error: SEEDS: 'one' is no whole number from 0 to 4,294,967,295"),
        (["SEEDS=0 ²"], "error: SEEDS: '²' is no whole number"),
        (["SEEDS=99999999999999999999"], "error: SEEDS: '99999999999999999999' is no whole number"),
        (["TRACKER=tensorbord"], "error: no tracker 'tensorbord'; did you mean 'tensorboard'?"),
        (["STUDIES=bus"], "error: no study 'bus'; did you mean 'bos'?"),
        (["JOBS=0"], "error: JOBS='0' must be a whole number above 0"),
        (["JOBS="], "error: JOBS='' must be a whole number above 0"),
        (["-n", "ITERATIONS=55"], "error: no iteration '55'; did you mean '5'?"),
        (["RUN=a/b"], "error: RUN='a/b' cannot name a folder"),
        (["RUN=published"], "error: RUN='published' cannot name a folder"),
        (["RUN=Embeddings"], "error: RUN='Embeddings' cannot name a folder"),
        (["RUN=a;touch b"], "error: RUN='a;touch b' cannot name a folder"),
        (["RUN=a b"], "error: RUN='a b' cannot name a folder"),
        (["RUN=a:%$'#"], "cannot name a folder of results: use letters, digits"),
        (["RUN=-x"], "error: RUN='-x' cannot name a folder"),
        (["RUN=.x"], "error: RUN='.x' cannot name a folder"),
        (["RUN=" + 300 * "x"], "is too long to name a folder of results: use at most 100 letters"),
        (["-n", "RUN=a;b"], "error: RUN='a;b' cannot name a folder"),
    ],
)
def test_a_wrong_variable_is_one_sentence(whole, arguments, said):
    made = whole.make(*arguments)
    assert made.returncode != 0
    assert said in made.stderr
    assert "Traceback" not in made.stderr
    spoken = [line for line in made.stderr.splitlines() if not line.startswith("make")]
    assert len(spoken) == 1, made.stderr


def test_a_wrong_parameter_file_is_one_sentence(made):
    made.rewrite("7", "share =", "shar =")
    failed = made.make()
    assert failed.returncode != 0
    spoken = [line for line in failed.stderr.splitlines() if not line.startswith("make")]
    assert spoken == [
        "error: notebooks/parameters/iterations/7.toml: unknown setting 'shar' in [sampling]; did you mean 'share'?"
    ]


def commands() -> set[str]:
    """What is meant to be typed: the phony targets apart from the steps of the report."""
    makefile = (ROOT / "Makefile").read_text()
    return set(re.search(r"^# --- Commands -+\n\.PHONY:(.*)$", makefile, re.MULTILINE)[1].split())


def test_help_lists_every_command(whole):
    lines = whole.make(target="help").stdout.splitlines()
    described = dict(re.match(r"  make (\S+)\s+(\S.*)", line).groups() for line in lines if line.startswith("  make "))
    assert set(described) == commands()
    assert {"report", "test", "lab", "bench", "lint", "clean", "help"} <= commands()


def test_a_bare_make_helps(whole):
    assert whole.make(target=None).stdout == whole.make(target="help").stdout


def test_the_help_shows_each_variable_with_its_value(whole):
    shown = whole.make("SEEDS=3 4", target="help").stdout
    for name in ("PROFILE=demo", "RUN=demo", "CORPUS=", "BASE_MODEL=", 'ITERATIONS=""', 'SEEDS="3 4"', 'STUDIES=""'):
        assert name in shown
    assert "JOBS=2" in shown, "two trainings, side by side"
    assert "JOBS=1" in whole.make(target="help").stdout
    for more in ("ITERATIONS=all", "ITERATIONS=1 2", "STUDIES=bos"):
        assert "JOBS=2" in whole.make(more, target="help").stdout
        assert "JOBS=1" in whole.make(more, "PROFILE=paper", target="help").stdout, "they would share a GPU"
    assert "ADAPTER= ENGINE_URL= PORT=8000 WORKERS=1" in shown
    assert "LLAMA_CPP= REPO= PRIVATE=1 YES= WITH= TRACKER= VOTES=" in shown


@pytest.mark.parametrize(("target", "module"), [("chat", "serve"), ("chat-doctor", "serve.doctor")])
def test_chat_is_told_the_variables(made, target, module):
    given = ["RUN=mine", "ADAPTER=a b", "BASE_MODEL=x/y", "ENGINE_URL=http://e/v1", "PORT=81", "WORKERS=2"]
    # A stand-in says what it is told.
    (made.folder / "webapp/serve").mkdir(parents=True)
    for name in ("__init__", "__main__", "doctor"):
        (made.folder / f"webapp/serve/{name}.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    assert json.loads(made.make(*given, target=target).stdout.splitlines()[-1]) == [
        "--run=mine", "--adapter=a b", "--base-model=x/y", "--engine-url=http://e/v1", "--port=81", "--workers=2",
    ]  # fmt: skip
    assert (made.folder / "asked.txt").read_text().splitlines()[-1].startswith(module + " --run=")


def test_advice_is_asked_with_the_variables_of_a_report(whole):
    said = whole.make("-n", "RUN=mine", "PROFILE=laptop", "SEEDS=0 1", "CORPUS=a b.jsonl", target="advice").stdout
    given = "--run='mine' --profile='laptop' --corpus='a b.jsonl' --subsets='' --base-model='' --iterations=''"
    more = "--seeds='0 1' --studies='' --benchmarks=''"
    assert f"./stub -m lib.running.advice {given} {more}" in said.replace("\\\n", "")


def test_a_report_that_is_not_the_demos_points_to_the_advice_and_asks_for_none(whole, tmp_path):
    mine = whole.copy(tmp_path)
    (mine.folder / "asked.txt").unlink()
    assert mine.make("PROFILE=laptop").stdout.splitlines()[0].startswith("make advice, with the same variables, says")
    assert "lib.running.advice" not in (mine.folder / "asked.txt").read_text()
    assert "make advice" not in mine.make().stdout


@pytest.mark.parametrize("gpu", [False, True])
def test_a_hosted_python_gets_torch_first_then_the_locks_and_with_a_gpu_its_lock_too(graph, gpu, monkeypatch):
    programs = graph.folder / "bin"
    programs.mkdir()
    if gpu:
        (programs / "nvidia-smi").write_text("#!/bin/sh\n")
        (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    said = graph.make("-n", "PYTHON=a-python", target="hosted").stdout
    torch, locks, project = (call.strip() for call in said.split("&&"))
    assert torch.endswith("\"$(grep '^torch==' requirements.txt)\"")
    assert locks.endswith("--no-deps -r requirements.txt" + " -r requirements-gpu.txt" * gpu)
    assert project.endswith("--no-deps --no-build-isolation -e .")
    assert all(call.startswith("a-python -m pip install") for call in (torch, locks, project))


@pytest.mark.parametrize(
    ("target", "module", "told"),
    [
        ("merge", "merging", []),
        ("gguf", "llama_cpp", ["--llama-cpp=a b/llama.cpp"]),
        ("publish", "upload", ["--repository=x/y", "--private=0", "--yes=1"]),
    ],
)
def test_what_comes_after_training_is_told_the_variables(made, target, module, told):
    (made.folder / f"lib/release/{module}.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    given = ["RUN=mine", "LLAMA_CPP=a b/llama.cpp", "REPO=x/y", "PRIVATE=0", "YES=1"]
    assert json.loads(made.make(*given, target=target).stdout.splitlines()[-1]) == ["--run=mine", *told]


def test_a_comparison_is_told_both_runs_and_make_names_its_exit_code(made):
    stand_in = "import json, sys\nprint(json.dumps(sys.argv[1:]))\nsys.exit(1)\n"
    (made.folder / "lib/report/reproduction.py").write_text(stand_in)
    compared = made.make("RUN=mine", "WITH=a b/results.csv", target="compare")
    assert json.loads(compared.stdout) == ["--run=mine", "--with=a b/results.csv"]
    assert compared.returncode != 0 and compared.stderr.endswith("Error 1\n")


def test_a_publication_is_private_and_asked_for_unless_told_otherwise(made):
    (made.folder / "lib/release/upload.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    told = json.loads(made.make(target="publish").stdout.splitlines()[-1])
    assert told == ["--run=demo", "--repository=", "--private=1", "--yes="]


def test_clean_removes_the_run_and_nothing_else(made):
    made.ran("RUN=other")
    (made.folder / "reports/published").mkdir()
    made.make("RUN=other", target="clean")
    assert sorted(p.name for p in (made.folder / "reports").iterdir()) == ["demo", "published"]
    assert sorted(p.name for p in (made.folder / "artifacts").glob("[!.]*")) == ["demo"]
    # An empty RUN is the profile's, as everywhere.
    made.make("RUN=", target="clean")
    assert sorted(p.name for p in (made.folder / "reports").iterdir()) == ["published"]


@pytest.mark.parametrize("run", ["published", "example", "../lib", "..", ".", "embeddings", "hub.json", "-rf", "a b"])
def test_clean_refuses_what_is_no_run(made, run):
    for name in ("reports/published", "reports/example", "artifacts/embeddings"):
        (made.folder / name).mkdir()
    (made.folder / "artifacts/hub.json").touch()
    cleaned = made.make(f"RUN={run}", target="clean")
    assert cleaned.returncode != 0
    assert cleaned.stderr.startswith(f"error: RUN={run!r} cannot name a folder")
    assert (made.folder / "lib/config.py").is_file()
    assert {p.name for p in (made.folder / "reports").iterdir()} == {"demo", "example", "published"}
    assert {p.name for p in (made.folder / "artifacts").glob("[!.]*")} == {"demo", "embeddings", "hub.json"}


# --- Two at once -----------------------------------------------------------------------------------------------------


@pytest.fixture
def held(made):
    """Row 5 again, and make at work on its training; what is left of it ends with the test."""
    made.rewrite("5", "#", "[lora]\nlora_rank = 8\n#")
    (made.folder / "holding").write_text("3_training_5_seed0")
    process = made.start()
    told = made.folder / "held"
    try:
        while not (told.is_file() and told.read_text().endswith(".")):
            assert process.poll() is None
            time.sleep(0.05)
        (made.folder / "holding").unlink()
        yield made, process, int(told.read_text().removesuffix("."))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def test_a_run_that_is_being_made_is_neither_made_nor_removed_by_another(held):
    made, process, _ = held
    settings = (made.folder / "artifacts/demo/settings/training_5_seed0.json").read_bytes()
    for arguments, target in ((["SEEDS=1"], "report"), (["BASE_MODEL=x/y"], "settings"), ([], "clean")):
        refused = made.make(*arguments, target=target)
        assert refused.returncode != 0
        said = refused.stderr.splitlines()[0]
        assert re.fullmatch(r"error: RUN=demo: make \(process \d+\) is at work on this run\. Wait until .*", said)
        assert psutil.Process(int(re.search(r"process (\d+)", said)[1])) in psutil.Process(process.pid).children()
    assert (made.folder / "artifacts/demo/settings/training_5_seed0.json").read_bytes() == settings
    assert made.ran("RUN=other") == ALL


def test_a_stage_that_outlives_its_make_still_has_the_run(held):
    made, process, stage = held
    family = psutil.Process(process.pid).children(recursive=True)
    for part in [psutil.Process(process.pid), *family]:
        if part.pid != stage:
            part.kill()
    psutil.wait_procs([part for part in family if part.pid != stage], timeout=30)
    refused = made.make()
    assert f"(process {stage}) is at work on this run" in refused.stderr
    held_stage = psutil.Process(stage)
    held_stage.kill()
    psutil.wait_procs([held_stage], timeout=30)
    assert made.ran() == AFTER["3_training"]
