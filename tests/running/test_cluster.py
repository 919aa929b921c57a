"""Stages on a Ray cluster: what is handed over, what survives, and that nobody else needs Ray."""

import ast
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from test_makefile import ALL, Graph, another_iteration, trained

from lib import paths
from lib.running import cluster
from lib.running.cluster import ClusterError

ROOT = Path(__file__).resolve().parents[2]
# Does what it is given, here, and writes down what that was.
STAND_IN = """\
import json, os, subprocess, sys
from pathlib import Path

mode, *rest = sys.argv[1:]
heard = {name: os.environ.get(name) for name in ("RAY_ADDRESS", "KLEPON_RAY", "KLEPON_JOBS", "OMP_NUM_THREADS")}
with open("handed.txt", "a") as log:
    log.write(json.dumps([mode, rest, heard]) + "\\n")
if mode == "--check":
    sys.exit("error: no cluster" if Path("unreachable").exists() else 0)
if mode == "--local":
    sys.exit(subprocess.call(rest, env=os.environ | {"KLEPON_RAY": "here"}, close_fds=False))
sys.exit(subprocess.call([mode, *rest]))
"""
# A stage that says when it begins and ends, and takes its time over an interrupt.
STAGE = """\
import os, sys, time

def note(text):
    with open("notes.txt", "a") as file:
        file.write(text + "\\n")

try:
    note("begun")
    print("speaking", os.environ.get("KLEPON_X"), file=sys.stderr, flush=True)
    time.sleep(float(sys.argv[1]))
    note("ended")
except KeyboardInterrupt:
    time.sleep(0.7)
    note("interrupted")
"""
WORKER = """\
import json, sys
from lib.running import cluster
print(json.dumps(cluster._work(*json.loads(sys.argv[1]))))
"""


def until(reached, seconds: float = 60.0) -> None:
    """Wait for what other processes bring about."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


# --- Which node ------------------------------------------------------------------------------------------------------

CORES_ONLY = [{"CPU": 8.0, "memory": 1e9}, {"CPU": 4.0}]
GPUS_TOO = [{"CPU": 2.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("nodes", "stage", "threads", "cores_gpus_and_how_many"),
    [
        # All cores of the smaller machine, so that each can take a stage, and the larger one two.
        (CORES_ONLY, "3_training_5_seed0", None, (4, 0, 3)),
        (CORES_ONLY, "2_preprocessing_5", None, (4, 0, 3)),
        (CORES_ONLY, "3_training_5_seed0", 1, (1, 0, 12)),
        # Eight cores to a GPU; the machine without one is of no use here.
        (GPUS_TOO, "3_training_5_seed0", None, (8, 1, 5)),
        (GPUS_TOO, "4_evaluation_base", None, (8, 1, 5)),
        (GPUS_TOO, "1_sampling_5", None, (8, 1, 5)),
        (GPUS_TOO, "2_preprocessing_5", None, (2, 0, 25)),
        # More threads than any machine has cores would never find room.
        (CORES_ONLY, "3_training_5_seed0", 64, (8, 0, 1)),
        # A machine that only steers.
        ([{"CPU": 0.0}, {"CPU": 4.0}], "2_preprocessing_5", None, (4, 0, 1)),
        ([{"CPU": 1.0, "GPU": 2.0}], "3_training_5_seed0", None, (1, 1, 1)),
    ],
)
def test_a_stage_takes_a_gpu_where_it_can_use_one_and_its_share_of_the_cores(
    nodes, stage, threads, cores_gpus_and_how_many
):
    assert cluster.room(nodes, stage, threads) == cores_gpus_and_how_many


def test_a_cluster_without_cores_is_told_what_it_lacks():
    with pytest.raises(ClusterError, match="no node with a core"):
        cluster.room([{"CPU": 0.0}, {}], "3_training_5_seed0")


# --- Without Ray -----------------------------------------------------------------------------------------------------


def test_only_one_function_imports_ray():
    importing = []
    for path in [*ROOT.glob("lib/**/*.py"), *ROOT.glob("webapp/**/*.py")]:
        tree = ast.parse(path.read_text())
        places = [("", tree), *((node.name, node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]
        for name, place in places:
            for node in ast.walk(place):
                imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(module.split(".")[0] == "ray" for module in imported):
                    importing.append((path.name, name))
    assert importing == [("cluster.py", ""), ("cluster.py", "package")]
    imported = subprocess.run(
        [sys.executable, "-c", "import sys, lib.running.cluster; print('ray' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert imported.stdout == "False\n"


@pytest.mark.parametrize("address", ["local", "10.0.0.1:6379"])
def test_without_ray_one_sentence_says_how_to_get_it(tmp_path, address):
    graph = Graph(tmp_path)
    (tmp_path / "ray.py").write_text("raise ImportError\n")
    made = graph.make(f"RAY_ADDRESS={address}")
    assert made.returncode != 0
    spoken = [line for line in made.stderr.splitlines() if not line.startswith("make")]
    assert len(spoken) == 1
    assert re.fullmatch(
        r"error: RAY_ADDRESS is set, and Ray is not installed\. .* -m pip install --no-deps -r requirements-ray\.txt",
        spoken[0],
    )
    assert not (tmp_path / "ran.txt").exists()


# --- What Make hands over --------------------------------------------------------------------------------------------


@pytest.fixture
def graph(tmp_path):
    """Nothing made yet; what is handed to the cluster runs here."""
    made = Graph(tmp_path)
    (tmp_path / "lib/running/cluster.py").write_text(STAND_IN)
    return made


def handed(graph: Graph) -> list[tuple[str, list[str], dict]]:
    path = graph.folder / "handed.txt"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def stages_handed(graph: Graph) -> list[str]:
    return [Path(rest[3]).stem for mode, rest, _ in handed(graph) if not mode.startswith("--")]


def test_the_stages_go_to_the_cluster_and_the_page_is_made_here(graph):
    assert graph.ran("RAY_ADDRESS=head:6379") == ALL
    assert set(stages_handed(graph)) == ALL - {"5_report"}
    modes = [mode for mode, _, _ in handed(graph)]
    assert modes[0] == "--check" and modes.count("--check") == 1 and "--local" not in modes
    assert {heard["RAY_ADDRESS"] for _, _, heard in handed(graph)} == {"head:6379"}
    assert graph.ran("RAY_ADDRESS=head:6379") == set()
    assert len(handed(graph)) == len(modes), "a make that runs nothing asks no cluster"


def test_the_command_that_is_handed_over_is_that_of_the_plain_run(graph):
    given = ["RUN=mine", "CORPUS=a b.jsonl", "BASE_MODEL=x/y", "SEEDS=7", "STUDIES=bos"]
    graph.ran(*given)
    arguments = graph.folder / "arguments.txt"
    plain = sorted(arguments.read_text().splitlines())
    arguments.write_text("")
    graph.make(*given, target="clean")
    graph.ran(*given, "RAY_ADDRESS=head:6379")
    assert sorted(arguments.read_text().splitlines()) == plain
    assert stages_handed(graph)


def test_without_an_address_nothing_is_handed_over(graph):
    assert graph.ran() == ALL
    assert handed(graph) == []


def test_a_local_ray_lasts_as_long_as_the_stages_and_serves_them_all(graph):
    another_iteration(graph)
    graph.ran("RAY_ADDRESS=local", "ITERATIONS=all")
    modes = [mode for mode, _, _ in handed(graph)]
    assert modes[:2] == ["--check", "--local"] and modes.count("--local") == 1
    assert len(stages_handed(graph)) == len(set(stages_handed(graph))) == 9
    assert {heard["KLEPON_RAY"] for mode, _, heard in handed(graph) if not mode.startswith("--")} == {"here"}
    count = len(modes)
    assert graph.ran("RAY_ADDRESS=local", "ITERATIONS=all") == set()
    graph.touch("lib/report/plots.py")
    assert graph.ran("RAY_ADDRESS=local", "ITERATIONS=all") == {"5_report"}
    assert len(handed(graph)) == count, "no Ray is started for nothing"


@pytest.mark.parametrize("address", ["local", "head:6379"])
def test_where_the_cluster_cannot_be_used_nothing_is_run(graph, address):
    (graph.folder / "unreachable").touch()
    assert graph.ran(f"RAY_ADDRESS={address}", fails=True) == set()
    assert [mode for mode, _, _ in handed(graph)] == ["--check"]


def test_a_failed_row_loses_no_other_on_a_cluster_either(graph):
    another_iteration(graph)
    graph.fail("3_training_3_seed0")
    ran = graph.ran("RAY_ADDRESS=head:6379", "ITERATIONS=all", fails=True)
    assert ran >= ALL and "4_evaluation_3_seed0" not in ran
    graph.fail()
    assert graph.ran("RAY_ADDRESS=head:6379", "ITERATIONS=all") == trained("3")


def test_a_cluster_has_many_notebooks_to_choose_from_and_a_local_ray_as_many_as_the_plain_run(graph):
    for more in ([], ["ITERATIONS=all"], ["PROFILE=paper"], ["ITERATIONS=all", "PROFILE=paper"]):
        plain = re.search(r"JOBS=\d+", graph.make(*more, target="help").stdout)[0]
        assert plain in graph.make(*more, "RAY_ADDRESS=local", target="help").stdout
        assert "JOBS=16" in graph.make(*more, "RAY_ADDRESS=head:6379", target="help").stdout
    assert "JOBS=3" in graph.make("JOBS=3", "RAY_ADDRESS=head:6379", target="help").stdout
    assert "RAY_ADDRESS=head:6379" in graph.make("RAY_ADDRESS=head:6379", target="help").stdout


def test_threads_are_counted_on_the_node_and_on_this_machine_as_in_the_plain_run(graph):
    graph.ran("JOBS=2")
    plain = (graph.folder / "threads.txt").read_text().split()[0]
    graph.ran("JOBS=2", "RUN=a", "RAY_ADDRESS=local")
    assert {h["OMP_NUM_THREADS"] for mode, _, h in handed(graph) if not mode.startswith("--")} == {plain}
    (graph.folder / "handed.txt").unlink()
    graph.ran("RUN=b", "RAY_ADDRESS=head:6379")
    assert {h["OMP_NUM_THREADS"] for mode, _, h in handed(graph) if not mode.startswith("--")} == {None}
    assert {h["KLEPON_JOBS"] for mode, _, h in handed(graph) if not mode.startswith("--")} == {"16"}


# --- What happens on a node ------------------------------------------------------------------------------------------


class Node:
    """A folder with a stage in it, and workers that run it, without Ray."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "stage.log"
        self.log.touch()
        self.token = folder / "token"
        self.token.touch()
        (folder / "stage.py").write_text(STAGE)
        self.started: list[subprocess.Popen] = []

    def work(self, *command: str, patience: float = 0.0) -> subprocess.Popen:
        given = [command, str(self.folder), str(self.log), str(self.token), {"KLEPON_X": "up"}, patience]
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-c", WORKER, json.dumps(given)],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self.started[-1]

    def stage(self, seconds: float) -> subprocess.Popen:
        return self.work(sys.executable, "stage.py", str(seconds))

    def notes(self) -> list[str]:
        path = self.folder / "notes.txt"
        return path.read_text().split() if path.is_file() else []


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    for process in made.started:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()


def test_a_node_runs_the_command_in_the_folder_and_its_words_go_to_the_log(node):
    said, complained = node.stage(0).communicate(timeout=60)
    assert json.loads(said) == 0, complained
    assert node.notes() == ["begun", "ended"]
    assert node.log.read_text() == "speaking up\n"


def test_the_status_of_a_failed_command_comes_back(node):
    said, _ = node.work(sys.executable, "-c", "raise SystemExit('error: no memory')").communicate(timeout=60)
    assert json.loads(said) == 1
    assert node.log.read_text() == "error: no memory\n"


def test_a_python_that_the_node_lacks_is_told_in_a_sentence(node):
    said, _ = node.work("no/such/python", "stage.py").communicate(timeout=60)
    assert json.loads(said) == 1
    assert re.fullmatch(r"error: \S+ cannot run no/such/python: No such file or directory\n", node.log.read_text())


def test_a_node_that_does_not_see_the_folder_runs_nothing(node):
    node.token.unlink()
    said, _ = node.stage(0).communicate(timeout=60)
    assert json.loads(said) == os.uname().nodename
    assert node.notes() == []


def test_a_file_that_a_node_sees_late_is_waited_for(node):
    node.token.unlink()
    worker = node.work(sys.executable, "stage.py", "0", patience=50)
    time.sleep(0.5)
    assert worker.poll() is None and node.notes() == []
    node.token.touch()
    assert json.loads(worker.communicate(timeout=60)[0]) == 0


def test_a_command_that_a_signal_ended_is_for_ray_to_try_again(node):
    _, complained = node.work(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)").communicate(timeout=60)
    assert complained.splitlines()[-1] == "ChildProcessError: it was ended by SIGKILL"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_stage_ends_with_its_worker_and_the_next_attempt_waits_for_that(node):
    lost = node.stage(100)
    until(lambda: node.notes() == ["begun"] and node.log.read_text())
    # An attempt that comes before the one before it has ended.
    again = node.stage(0)
    time.sleep(3)
    assert node.notes() == ["begun"]
    lost.kill()
    lost.wait()
    assert json.loads(again.communicate(timeout=60)[0]) == 0
    assert node.notes() == ["begun", "interrupted", "begun", "ended"]
    assert re.fullmatch(
        r"speaking up\n\nrestarted on \S+: its last worker was lost\nspeaking up\n", node.log.read_text()
    )


def test_an_interrupted_worker_stops_its_stage_first(node):
    worker = node.stage(100)
    until(lambda: node.notes() == ["begun"] and node.log.read_text())
    worker.send_signal(signal.SIGINT)
    _, complained = worker.communicate(timeout=60)
    assert complained.splitlines()[-1] == "KeyboardInterrupt"
    assert node.notes() == ["begun", "interrupted"]


# --- What the caller makes of it -------------------------------------------------------------------------------------


class LostError(Exception):
    """As Ray's own."""


class Inline:
    """Ray's calls that a stage needs; the task runs at once, and ends as it is told."""

    class exceptions:  # noqa: N801
        RayError = LostError

    def __init__(self, outcome=None) -> None:
        self.outcome, self.asked, self.cancelled = outcome, {}, False

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 1.0}}]

    def remote(self, **asked):
        self.asked = asked

        def task(function):
            task.remote = lambda *given: given
            return task

        return task

    def wait(self, work, timeout):
        if isinstance(self.outcome, BaseException) and not isinstance(self.outcome, LostError) and not self.cancelled:
            raise self.outcome
        Path(work[0][2]).write_text("speaking")
        self.environment = work[0][4]
        return work, []

    def get(self, work):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self, work):
        self.cancelled = True


NOTEBOOK = ["notebooks/3_training.ipynb", "reports/trial/3_training_5_seed0.ipynb"]
COMMAND = ["python", "-m", "lib.running.notebooks", *NOTEBOOK, "run=trial"]


def run_inline(monkeypatch, outcome) -> tuple[Inline, int]:
    ray = Inline(outcome)
    monkeypatch.setattr(cluster, "connect", lambda address: ray)
    return ray, cluster.run(COMMAND, "head:6379")


def failure() -> str | None:
    path = paths.RunPaths("trial").failure("3_training_5_seed0")
    return json.loads(path.read_text()) if path.is_file() else None


def test_the_stage_s_words_and_status_are_those_of_the_caller(monkeypatch, capfdbinary):
    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setenv("SECRET_OF_MINE", "x")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("KLEPON_JOBS", "16")
    ray, status = run_inline(monkeypatch, 1)
    assert status == 1
    assert capfdbinary.readouterr().err == b"speaking"
    assert ray.asked["max_retries"] > 0
    assert (ray.asked["num_cpus"], ray.asked["num_gpus"]) == (4, 0)
    assert ray.environment["OMP_NUM_THREADS"] == "4"
    assert ray.environment["KLEPON_JOBS"] == "1", "the cluster has room for one"
    assert ray.environment["HF_TOKEN"] == "x"
    assert "SECRET_OF_MINE" not in ray.environment
    assert failure() is None, "a stage that ran records its own"
    assert not list((paths.ROOT / "artifacts").glob(".seen_by_*"))


def test_threads_that_the_caller_set_count(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    ray, _ = run_inline(monkeypatch, 0)
    assert ray.asked["num_cpus"] == 2
    assert ray.environment["OMP_NUM_THREADS"] == "2"


def test_a_node_without_the_folder_is_named_with_the_cure_and_the_report_is_told(monkeypatch):
    with pytest.raises(ClusterError, match=r"node-7 does not see .*file system that all machines .* share"):
        run_inline(monkeypatch, "node-7")
    assert "node-7 does not see" in failure()


def test_a_stage_that_ray_gives_up_has_a_reason_in_the_report(monkeypatch):
    with pytest.raises(ClusterError, match=r"3_training_5_seed0: Ray gave up on it\. The node died"):
        run_inline(monkeypatch, LostError("The node died\nand more"))
    assert "The node died" in failure()


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(15)])
def test_an_end_from_outside_cancels_the_task(monkeypatch, end):
    ray = Inline(end)
    monkeypatch.setattr(cluster, "connect", lambda address: ray)
    with pytest.raises(type(end)):
        cluster.run(COMMAND, "head:6379")
    assert ray.cancelled


# --- With Ray --------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_ray(tmp_path_factory, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
    # A Ray for one machine leaves a token in the home of whoever starts it.
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def needs_ray(test):
    return pytest.mark.slow(pytest.mark.usefixtures("with_ray")(test))


@pytest.fixture
def sweep(tmp_path):
    """Two rows, nothing made yet, and Ray for real."""
    made = Graph(tmp_path)
    another_iteration(made)
    return made


def hold(graph: Graph, stage: str, *arguments: str) -> tuple[subprocess.Popen, psutil.Process]:
    """Start the sweep on a Ray of its own, up to where this stage is at work; return make and the stage."""
    (graph.folder / "holding").write_text(stage)
    held = graph.folder / "held"
    process = graph.start("RAY_ADDRESS=local", "JOBS=2", "ITERATIONS=all", *arguments)

    def reached() -> bool:
        assert process.poll() is None, process.communicate()
        return held.is_file() and held.read_text().endswith(".")

    until(reached, 400)
    (graph.folder / "holding").unlink()
    return process, psutil.Process(int(held.read_text().removesuffix(".")))


def finish(process: subprocess.Popen) -> tuple[int, str]:
    try:
        said, complained = process.communicate(timeout=500)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said + complained


def made_of(folder: Path) -> dict[str, bytes]:
    """All that a run left, apart from what Ray's side keeps for itself."""
    roots = [folder / "artifacts/demo", folder / "reports/demo"]
    found = [path for root in roots for path in root.rglob("*") if path.is_file() and path.parent.name != "cluster"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@needs_ray
def test_a_sweep_survives_a_killed_worker_and_leaves_what_the_plain_run_leaves(sweep, tmp_path_factory):
    plain = Graph(tmp_path_factory.mktemp("plain"))
    another_iteration(plain)
    everything = plain.ran("ITERATIONS=all")

    process, stage = hold(sweep, "3_training_3_seed0")
    worker = stage.parent()
    assert worker.cmdline()[0].startswith("ray::")
    worker.kill()
    status, told = finish(process)
    assert status == 0, told
    assert "restarted on" in told
    ran = (sweep.folder / "ran.txt").read_text().split()
    assert set(ran) == everything
    assert {name for name in ran if ran.count(name) > 1} == {"3_training_3_seed0"}
    assert made_of(sweep.folder) == made_of(plain.folder)
    assert sweep.ran("ITERATIONS=all") == set(), "nothing is left for a plain make"


@needs_ray
def test_a_sweep_survives_a_killed_stage(sweep):
    process, stage = hold(sweep, "4_evaluation_base")
    stage.kill()
    status, told = finish(process)
    assert status == 0, told
    assert (sweep.folder / "ran.txt").read_text().split().count("4_evaluation_base") == 2


@needs_ray
@pytest.mark.parametrize("stop", ["interrupt", "terminate", "kill"])
def test_a_stopped_make_leaves_neither_notebook_nor_ray(sweep, stop):
    process, stage = hold(sweep, "3_training_3_seed0")
    family = psutil.Process(process.pid).children(recursive=True)
    assert stage in family
    if stop == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
    elif stop == "terminate":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=100)
    assert process.returncode != 0
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left
    assert not sweep.there("3_training_3_seed0")
    assert "3_training_3_seed0" in sweep.ran("ITERATIONS=all")


@needs_ray
def test_a_failed_notebook_is_not_tried_again_and_loses_no_other_row(sweep):
    sweep.fail("3_training_3_seed0")
    made = sweep.make("RAY_ADDRESS=local", "JOBS=2", "ITERATIONS=all")
    assert made.returncode != 0
    assert "error: 3_training_3_seed0" in made.stderr
    ran = (sweep.folder / "ran.txt").read_text().split()
    assert ran.count("3_training_3_seed0") == 1
    assert sweep.there("5_report")
    assert sweep.failures() == {"3_training_3_seed0"}


@needs_ray
def test_a_cluster_that_was_there_before_serves_a_run_and_outlives_it(sweep):
    # A head of its own, as `ray start` on some machine, and two makes that join it.
    make = "make report PY=./stub RAY_ADDRESS=$KLEPON_RAY OMP_NUM_THREADS=1"
    joined = subprocess.run(
        [sys.executable, "-m", "lib.running.cluster", "--local", "bash", "-ec", f"{make}; {make} ITERATIONS=all"],
        cwd=sweep.folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        | {"PYTHONPATH": str(sweep.folder)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert joined.returncode == 0, joined.stderr
    assert re.search(r"Ray \S+, machines: 1, cores: \d+, GPUs: 0", joined.stderr)
    assert set((sweep.folder / "ran.txt").read_text().split()) >= ALL | trained("3")
    assert set((sweep.folder / "threads.txt").read_text().split()) == {"1"}


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999", "127.0.0.1:port"])
def test_an_address_that_nothing_listens_at_is_not_left_to_ray_s_patience(monkeypatch, address):
    asked = []
    monkeypatch.setattr(cluster, "package", lambda: SimpleNamespace(init=lambda *args, **options: asked.append(args)))
    with pytest.raises(ClusterError, match=f"RAY_ADDRESS={address}: "):
        cluster.connect(address)
    assert not asked
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster.connect(f"127.0.0.1:{server.getsockname()[1]}")
    cluster.connect("auto")
    assert len(asked) == 2


@needs_ray
def test_an_address_where_nothing_answers_is_one_sentence(sweep):
    made = sweep.make("RAY_ADDRESS=127.0.0.1:9")
    assert made.returncode != 0
    spoken = [line for line in made.stderr.splitlines() if not line.startswith("make")]
    assert len(spoken) == 1 and spoken[0].startswith("error: RAY_ADDRESS=127.0.0.1:9: ")
    assert not (sweep.folder / "ran.txt").exists()
