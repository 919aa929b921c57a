"""The notebooks as they are committed, and what runs them."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest

from lib import paths
from lib.allocator import KEPT_PAGES
from lib.config import SECTIONS, STAGES, Config
from lib.parameters import load_config
from lib.running import memory, notebooks
from lib.storage import write_json

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
WORKING = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
)

every_notebook = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def stage_of(path: Path) -> str:
    return path.stem.split("_", 1)[1]


def test_there_is_a_notebook_for_every_stage():
    assert [path.name for path in SOURCES] == [f"{n}_{stage}.ipynb" for n, stage in enumerate(STAGES, start=1)]


@every_notebook
def test_a_source_notebook_is_valid_and_was_never_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in cells(path, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "papermill" not in cell.metadata
    assert "papermill" not in notebook.metadata


@every_notebook
def test_exactly_one_cell_has_the_parameters_and_all_of_them_are_text(path):
    tagged = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0].id == cells(path, "code")[0].id
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign)
        assert isinstance(statement.value, ast.Constant)
        assert isinstance(statement.value.value, str)


@every_notebook
def test_a_notebook_shows_and_does_not_work(path):
    code = cells(path, "code")
    assert len(code) <= 25
    for cell in code:
        assert len(cell.source.splitlines()) <= 15
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, (*WORKING, ast.Try))]
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), "no shell and no magic"


@every_notebook
def test_a_notebook_begins_with_its_title_and_ends_with_its_conclusion(path):
    first, last = nbformat.read(path, as_version=4).cells[0], nbformat.read(path, as_version=4).cells[-1]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {path.stem[0]} · ")
    assert last.cell_type == "code"
    closing = ast.parse(last.source).body[-1]
    assert isinstance(closing, ast.Expr)
    assert ast.unparse(closing).startswith(f"conclusions.{stage_of(path)}(")


@every_notebook
def test_a_notebook_uses_only_the_settings_that_its_stage_sees(path):
    # Others may change without a rerun of this stage: what it showed would then be false.
    tree = ast.parse("\n".join(cell.source for cell in cells(path, "code")))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "config"
    }
    shown = {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "look.settings"
        for argument in node.args[1:]
    }
    known = {field.name for field in fields(Config)} | {"paths", "name", "has_adapter"}
    assert used <= known
    assert (used | shown) & set(SECTIONS) <= set(STAGES[stage_of(path)])
    assert shown <= set(SECTIONS)


@pytest.mark.parametrize("iteration", ["base", "base_instructed", "base_three_examples"])
def test_no_way_of_asking_the_base_model_needs_a_sample_of_rows(iteration):
    code = [cell.source for cell in cells(ROOT / "notebooks" / "4_evaluation.ipynb", "code")]
    (line,) = (line for source in code for line in source.splitlines() if "floors.measure" in line)
    names = {"config": load_config(iteration=iteration), "tests": {"clean": None}}
    exec(line, names)
    assert names["bounds"] is None


@every_notebook
def test_the_makefile_passes_only_parameters_that_the_notebook_has(path):
    makefile = (ROOT / "Makefile").read_text()
    common = re.search(r"^run_notebook = .*\$\(2\) (.*)$", makefile, re.MULTILINE)[1]
    seeded = re.search(r"^iteration_and_seed = (.*)$", makefile, re.MULTILINE)[1]
    head = r"^\S+: notebooks/(\w+)\.ipynb[^\n]*(?:\n[^\t\n][^\n]*)*"
    rules = re.findall(head + r"\n\t\$\(call run_notebook,\$<,\$@(?:,\$\(on_ray\))?\) (.*)$", makefile, re.MULTILINE)
    own = [arguments for name, arguments in rules if name == path.stem]
    own = [f"{common} {arguments.replace('$(iteration_and_seed)', seeded)}" for arguments in own]
    # What follows a finished run is told of the run alone.
    after = re.findall(head + r"\n\texec \$\(PY\) -m lib\.running\.notebooks \$< \$@ (.*)$", makefile, re.MULTILINE)
    own += [arguments for name, arguments in after if name == path.stem]
    assert own, f"no rule runs {path.name}"
    known = set(papermill.inspect_notebook(str(path)))
    for given in own:
        assert set(re.findall(r"(\w+)=", given)) <= known


# --- Without a clone -------------------------------------------------------------------------------------------------


def bringing(path: Path) -> str:
    """The cell that brings the project: the first after the parameters."""
    return cells(path, "code")[1].source


@every_notebook
def test_every_notebook_brings_the_project_alike_in_five_lines_and_says_where_to_read_on(path):
    assert bringing(path) == bringing(SOURCES[0])
    assert len([line for line in bringing(path).splitlines() if line]) <= 5
    before = nbformat.read(path, as_version=4).cells[2]
    assert before.cell_type == "markdown"
    assert "(README.md#colab-and-kaggle)" in before.source


def test_the_readme_of_the_notebooks_says_what_to_do_when_a_runtime_is_cut_off():
    told = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    for words in ("make -C .. advice PROFILE=t4", "make -C .. report PROFILE=t4", "PROFILE=laptop", "goes on"):
        assert words in told


# The project itself is installed in this environment: its finder must not help.
HIDDEN = "import importlib.util; importlib.util.find_spec = lambda name: None\n"
TOLD = "\nimport lib.config, os; print(lib.config.__file__); print(os.getcwd())"


@pytest.fixture
def bring(tmp_path):
    """Run the cell in a folder without the project and in a process that does not know it, from a clone of this
    repository at its public address. Only the installation is left out. Returns the output and what make was told."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "make").write_text('#!/bin/sh\necho "$@" > made\n')
    (programs / "make").chmod(0o755)
    # git takes this repository for the one at the address in the cell.
    address = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/OWNER/klepon",
    }
    drive = tmp_path / "drive"

    def run(before=HIDDEN):
        # What is not committed yet is tried as well.
        helper = (ROOT / "notebooks" / "hosted.py").read_text().replace("/content/drive/MyDrive", str(drive))
        code = bringing(SOURCES[0]).replace('open("klepon/notebooks/hosted.py").read()', repr(helper))
        assert "exec('" in code
        done = subprocess.run(
            [sys.executable, "-P", "-c", before + code + TOLD],
            cwd=tmp_path,
            env=os.environ | address | {"PATH": f"{programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        made = tmp_path / "made"
        return done.stdout.splitlines(), made.read_text().split() if made.exists() else None

    return run


def test_in_a_clone_nothing_is_brought(bring, tmp_path):
    said, made = bring(before="")
    assert (said, made) == ([str(ROOT / "lib/config.py"), str(tmp_path)], None)
    assert not (tmp_path / "klepon").exists()


def test_elsewhere_the_project_is_cloned_and_its_environment_installed_into_the_kernels_python(bring, tmp_path):
    home = tmp_path / "klepon"
    said, made = bring()
    assert said == [str(home / "lib/config.py"), str(home / "notebooks")]
    assert made == ["-C", str(home), "hosted", f"PYTHON={sys.executable}"]


def test_after_a_cut_the_folder_that_is_there_is_gone_on_with(bring, tmp_path):
    bring()
    (tmp_path / "klepon" / "artifacts").mkdir()
    bring()
    assert (tmp_path / "klepon" / "artifacts").is_dir()


def test_where_the_drive_is_mounted_the_project_lies_there_and_outlives_the_runtime(bring, tmp_path):
    home = tmp_path / "drive" / "klepon"
    # A copy that a dying runtime left behind.
    (home.with_name("klepon.partial") / "lib").mkdir(parents=True)
    said, made = bring()
    assert said == [str(home / "lib/config.py"), str(home / "notebooks")]
    assert made[:2] == ["-C", str(home)]
    (home / "artifacts").mkdir()
    shutil.rmtree(tmp_path / "klepon")
    said, _ = bring()
    assert said[1] == str(home / "notebooks")
    assert (home / "artifacts").is_dir()


# --- Running one -----------------------------------------------------------------------------------------------------


SLEEPER = """\
import os, time
with open("{}", "w") as file:
    file.write(str(os.getpid()) + "\\n")
time.sleep(300)"""


def a_notebook(folder: Path, *sources: str) -> Path:
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    )
    made.cells = [nbformat.v4.new_code_cell('run = ""\niteration = "5"', metadata={"tags": ["parameters"]})]
    made.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    path = folder / "work.ipynb"
    nbformat.write(made, path)
    return path


def start(notebook: Path, output: Path, root: Path, *parameters: str) -> subprocess.Popen:
    """`python -m lib.running.notebooks`, with its artifacts under `root`, in a process group of its own."""
    program = (
        "import sys; from pathlib import Path; from lib import paths; paths.ROOT = Path(sys.argv.pop(1));"
        "from lib.running.notebooks import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(root), str(notebook), str(output), "run=trial", *parameters],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def written_pid(path: Path, process: subprocess.Popen) -> int:
    assert wait_for(lambda: process.poll() is not None or (path.is_file() and path.read_text().endswith("\n")))
    assert process.poll() is None, process.stderr.read()
    return int(path.read_text())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_success_leaves_the_executed_notebook_and_its_record(tmp_path):
    source = a_notebook(
        tmp_path,
        "print(repr(iteration))",
        "import sys\nprint('half way', file=sys.stderr, flush=True)",
        "import os\nprint(os.environ['GLIBC_TUNABLES'])",
        "os.getcwd()",
    )
    output = tmp_path / "reports/trial/work_01.ipynb"
    process = start(source, output, tmp_path, "iteration=01")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "half way" in told, "what a cell writes to stderr is how a long step shows its progress"
    assert output.is_file()
    assert not output.with_suffix(".partial.ipynb").exists()
    executed = nbformat.read(output, as_version=4)
    shown = [o.get("text") or o["data"]["text/plain"] for cell in executed.cells for o in cell.get("outputs", [])]
    assert shown[0] == "'01'\n", "a parameter is text, even where it looks like a number"
    assert shown[-2] == f"{KEPT_PAGES}\n", "its kernel keeps the memory that it will need again"
    assert shown[-1] == repr(str(source.parent)), "a notebook runs where it lies"
    assert "papermill" not in executed.metadata
    assert all("papermill" not in cell.metadata and "execution" not in cell.metadata for cell in executed.cells)
    record = json.loads((tmp_path / "artifacts/trial/stages/work_01.json").read_text())
    assert set(record) == {"seconds", "peak_memory_gb"}
    assert 0.1 < record["seconds"] < 120
    assert 0.01 < record["peak_memory_gb"] < 4


def test_a_notebook_uses_the_lib_of_its_own_clone_whichever_installed_the_environment(tmp_path):
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "demo"))
    (tmp_path / "notebooks").mkdir()
    source = a_notebook(tmp_path / "notebooks", "import lib\nlib.__file__")
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "lib.running.notebooks", str(source), "work.out.ipynb", "run=trial"]
    subprocess.run(command, cwd=tmp_path, env=without, check=True, capture_output=True, timeout=120)
    executed = nbformat.read(tmp_path / "work.out.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0]["data"]["text/plain"] == repr(str(tmp_path / "lib" / "__init__.py"))


def test_a_failed_cell_is_named_and_leaves_what_was_done_to_read(tmp_path):
    source = a_notebook(
        tmp_path, "print('done before')", "raise ValueError('the corpus has no rows')", "print('never')"
    )
    output = tmp_path / "out/work.ipynb"
    with pytest.raises(notebooks.NotebookError, match=r"work\.ipynb, cell \d+: ValueError: the corpus has no rows"):
        notebooks.run(source, output, {"run": "trial"})
    assert not output.exists()
    assert not paths.RunPaths("trial").stage_record("work").exists()
    partial = output.with_suffix(".partial.ipynb").read_text()
    assert "done before" in partial
    assert "the corpus has no rows" in partial


@pytest.mark.parametrize(
    "error",
    [
        "OSError(28, 'No space left on device', 'x')",
        "RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0')",
        "RuntimeError('PytorchStreamWriter failed writing file data/0: file write failed')",
        "Exception('I/O error: No space left on device (os error 28)')",
    ],
)
def test_a_full_disk_is_named_with_its_room(tmp_path, error):
    source = a_notebook(tmp_path, f"raise {error}")
    said = r"work\.ipynb, cell \d+: .*: the disk of \S+ is full, or your share of it: [\d,]+ MB of [\d.,]+ GB are free"
    with pytest.raises(notebooks.NotebookError, match=said):
        notebooks.run(source, tmp_path / "out/work.ipynb", {"run": "trial"})


def test_a_disk_that_is_full_for_the_notebook_itself_is_named(tmp_path, monkeypatch):
    def full(*given, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(notebooks.papermill, "execute_notebook", full)
    with pytest.raises(notebooks.NotebookError, match=r"^work.ipynb: No space left on device: the disk of .* are free"):
        notebooks.run(a_notebook(tmp_path), tmp_path / "out/work.ipynb", {"run": "trial"})


def test_the_command_says_an_error_without_a_traceback(tmp_path):
    source = a_notebook(tmp_path)
    process = start(source, tmp_path / "out.ipynb", tmp_path, "iterations=5")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "no parameter 'iterations'; did you mean 'iteration'?" in told
    assert "Traceback" not in told


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    source = a_notebook(tmp_path, "from pathlib import Path\nPath('ran').touch()")
    with pytest.raises(notebooks.NotebookError, match=r"no parameter 'iteratoin'; did you mean 'iteration'\?"):
        notebooks.run(source, tmp_path / "out.ipynb", {"run": "trial", "iteratoin": "5"})
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), 9)", "its kernel died by SIGKILL: a person or a limit ended it. It had held at most 0."),
        ("os.abort()", "its kernel died by SIGABRT: a library crashed, or a cell ended it. It had held at most 0."),
        ("os._exit(3)", "its kernel died with status 3: a library crashed, or a cell ended it. It had held at most 0."),
    ],
)
def test_a_dead_kernel_is_one_sentence_that_says_what_is_known_and_no_wait(tmp_path, end, said):
    source = a_notebook(tmp_path, f"import os\n{end}")
    process = start(source, tmp_path / "out.ipynb", tmp_path)
    try:
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1
    assert f"error: work.ipynb: {said}" in told
    assert "shows how far it got. Run `make report RUN=trial` again: it continues from there\n" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out.ipynb").exists()


def test_a_kernel_that_the_system_killed_as_memory_ran_out_is_told_from_others(monkeypatch):
    monkeypatch.setattr(notebooks._Kernel, "ended", -9)
    monkeypatch.setattr(memory, "kills", lambda: 4)
    assert "died by SIGKILL: memory ran out: give it more, or fewer rows" in notebooks._death(3)
    assert "died by SIGKILL: a person or a limit ended it" in notebooks._death(4)
    monkeypatch.setattr(memory, "kills", lambda: None)
    assert "died by SIGKILL: memory ran out, or a person or a limit ended it" in notebooks._death(None)


def test_a_killed_parent_leaves_no_kernel_behind(tmp_path):
    pid_file = tmp_path / "kernel"
    source = a_notebook(tmp_path, SLEEPER.format(pid_file))
    process = start(source, tmp_path / "out.ipynb", tmp_path)
    kernel = written_pid(pid_file, process)
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        assert wait_for(lambda: gone(kernel), 30)
    finally:
        if not gone(kernel):
            os.kill(kernel, signal.SIGKILL)
    assert not (tmp_path / "out.ipynb").exists()


def test_an_interrupt_ends_the_notebook_and_its_kernel(tmp_path):
    pid_file = tmp_path / "kernel"
    source = a_notebook(tmp_path, SLEEPER.format(pid_file))
    process = start(source, tmp_path / "out.ipynb", tmp_path)
    kernel = written_pid(pid_file, process)
    try:
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=120)
        assert process.returncode != 0
        assert wait_for(lambda: gone(kernel), 30)
    finally:
        process.kill()
        if not gone(kernel):
            os.kill(kernel, signal.SIGKILL)
    assert not (tmp_path / "out.ipynb").exists()
    assert "stopped: `make report RUN=trial` continues from here" in told
    assert "Traceback" not in told


# --- One of many -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """`python -m lib.running.notebooks` on a notebook of the run `trial`, run by another function; returns stderr."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, run=lambda notebook, output, parameters: output.touch(), planned: tuple = ()) -> str:
        monkeypatch.setattr(notebooks, "run", run)
        monkeypatch.setattr("sys.argv", ["notebooks", "source.ipynb", f"{name}.ipynb", "run=trial"])
        monkeypatch.delenv("KLEPON_TODO", raising=False)
        if planned:
            if not Path("todo").is_file():
                Path("todo").write_text(" ".join(f"{name}.ipynb" for name in planned) + "\n")
            monkeypatch.setenv("KLEPON_TODO", "todo")
        notebooks.main()
        return capsys.readouterr().err

    return call


def took(seconds: dict[str, float]) -> None:
    """These notebooks were run before, and took so long."""
    for name, taken in seconds.items():
        write_json(paths.RunPaths("trial").stage_record(name), {"seconds": taken, "peak_memory_gb": 0.5})


PLANNED = ("1_sampling_3", "3_training_3_seed0", "4_evaluation_3_seed0")


def test_a_planned_notebook_tells_its_place_and_the_time_left(command):
    took({"3_training_5_seed0": 100.0, "4_evaluation_5_seed0": 260.0})
    assert command("1_sampling_3", planned=PLANNED) == "1_sampling_3 · 1 of 3, about 9 min left\n"
    assert command("3_training_3_seed0", planned=PLANNED) == "3_training_3_seed0 · 2 of 3, about 6 min left\n"
    assert command("4_evaluation_3_seed0", planned=PLANNED) == "4_evaluation_3_seed0 · 3 of 3, about 4 min left\n"


def test_notebooks_that_run_side_by_side_share_the_time_left(command, monkeypatch):
    took({"3_training_5_seed0": 100.0, "4_evaluation_5_seed0": 260.0})
    monkeypatch.setenv("KLEPON_JOBS", "2")
    assert command("1_sampling_3", planned=PLANNED).endswith("1 of 3, about 4 min left\n")
    assert command("3_training_3_seed0", planned=PLANNED).endswith("2 of 3, about 3 min left\n")


def test_what_ran_before_its_turn_in_the_plan_is_not_still_to_be_done(command):
    took({"3_training_5_seed0": 100.0, "4_evaluation_5_seed0": 260.0})
    command("3_training_3_seed0", planned=PLANNED)
    assert command("4_evaluation_3_seed0", planned=PLANNED).endswith("2 of 3, about 7 min left\n")
    assert command("1_sampling_3", planned=PLANNED).endswith("3 of 3, about 3 min left\n")


def test_what_an_earlier_run_left_does_not_count_as_done(command):
    for name in PLANNED:
        Path(f"{name}.ipynb").touch()
        os.utime(f"{name}.ipynb", (1_000, 1_000))
    assert command("1_sampling_3", planned=PLANNED) == "1_sampling_3 · 1 of 3\n"


def test_the_last_minute_is_told_as_one(command):
    took({"4_evaluation_5_seed0": 2.0})
    assert command("4_evaluation_3_seed0", planned=PLANNED[2:]).endswith("1 of 1, about 1 min left\n")


def test_a_notebook_that_no_one_planned_tells_its_name_alone(command):
    took({"3_training_5_seed0": 100.0})
    assert command("5_report", planned=PLANNED) == "5_report\n"
    assert command("3_training_3_seed0") == "3_training_3_seed0\n"


def test_the_time_left_is_what_notebooks_of_the_same_stage_took_on_average():
    seconds = {"3_training_5_seed0": 10.0, "3_training_4_seed0": 30.0, "4_evaluation_base": 5.0}
    todo = [Path("3_training_3_seed0.ipynb"), Path("4_evaluation_3_seed0.ipynb")]
    assert notebooks.time_left(todo, seconds) == 25.0
    # A stage that never ran takes what the others take.
    assert notebooks.time_left([*todo, Path("5_report.ipynb")], seconds) == 25.0 + 12.5
    assert notebooks.time_left([], seconds) == 0
    assert notebooks.time_left(todo, {}) is None


def failed(name: str) -> str | None:
    path = paths.RunPaths("trial").failure(name)
    return json.loads(path.read_text()) if path.is_file() else None


def fail(notebook: Path, output: Path, parameters: dict[str, str]) -> None:
    raise notebooks.NotebookError("no memory\nbuy some")


def test_a_failure_is_recorded_until_the_notebook_succeeds(command):
    with pytest.raises(SystemExit, match="error: no memory"):
        command("3_training_3_seed0", run=fail)
    assert failed("3_training_3_seed0") == "no memory\nbuy some"
    command("3_training_3_seed0")
    assert failed("3_training_3_seed0") is None


def test_an_executed_notebook_of_before_is_gone_before_the_new_one_runs(command):
    def run(notebook: Path, output: Path, parameters: dict[str, str]) -> None:
        assert not output.exists()

    Path("3_training_3_seed0.ipynb").touch()
    command("3_training_3_seed0", run=run)
    assert not Path("3_training_3_seed0.ipynb").exists()


def test_whatever_ends_a_notebook_half_way_it_counts_as_failed(command):
    def run(notebook: Path, output: Path, parameters: dict[str, str]) -> None:
        # What is on disk now is what a kill would leave.
        assert failed(output.stem) == "3_training_3_seed0 was stopped before it finished"
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="stopped: `make report RUN=trial` continues from here"):
        command("3_training_3_seed0", run=run)
    assert failed("3_training_3_seed0") == "3_training_3_seed0 was stopped before it finished"


def test_a_disk_too_full_for_the_record_hides_no_error(command, monkeypatch):
    def full(path: Path, value: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(notebooks, "write_json", full)
    with pytest.raises(SystemExit, match="error: no memory"):
        command("3_training_3_seed0", run=fail)
