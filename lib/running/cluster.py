"""A stage of the report on a Ray cluster: what Make puts before the stage's command where RAY_ADDRESS is set.

    python -m lib.running.cluster .venv/bin/python -m lib.running.notebooks notebooks/3_training.ipynb … run=demo

The command is the plain run's, and so are the files that it reads and writes: a node needs nothing but the project's
folder under the same path. Make knows what is out of date and what waits for what; Ray finds a node with room, and runs
a stage again whose worker or node is lost. Only `package` imports Ray: without RAY_ADDRESS it is not needed.
"""

import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import psutil

from lib import paths
from lib.storage import write_json

RETRIES = 3  # how often a stage is restarted whose worker or node was lost
ON_GPU = ("1_sampling", "3_training", "4_evaluation")  # the stages that take a GPU where there is one
# The caller's variables that notebooks use. The rest is the node's own, such as where its libraries are.
PASSED_ON = (
    *("ENGINE_", "HF_", "KLEPON_", "PYTHON", "TENSORBOARD_", "TOKENIZERS_", "TRACKER", "TRACKIO_", "TRANSFORMERS_"),
    "WANDB_",
)
LISTENS_SECONDS = 5.0  # within which an address must answer
STARTS = 3  # attempts at starting a local Ray
PATIENCE = 30.0  # seconds until a network file system shows one node what another wrote
ENDING = 30.0  # seconds in which an interrupted notebook stops its kernel
# A machine whose network is cut says nothing: Ray's own seven minutes pass until a stage there is given up.
NOTICES_A_CUT = {"RAY_grpc_client_keepalive_time_ms": "15000", "RAY_grpc_client_keepalive_timeout_ms": "15000"}
OBJECT_STORE = 100 * 2**20  # bytes; near the least that Ray accepts, since stages pass files and nothing else


class ClusterError(Exception):
    """Something that keeps a stage from running on the cluster; the message says what to do about it."""


def room(nodes: Sequence[dict[str, float]], stage: str, threads: int | None = None) -> tuple[int, int, int]:
    """The cores and GPUs that a stage is given, and how many such stages the cluster can run at a time.

    A stage that can use a GPU gets one, if any node has one. It gets `threads` cores; if None, its share of the
    smallest node that would do: the cores per GPU there, or all of them where there is none.

    Args:
        nodes: what each node has, such as {"CPU": 8.0, "GPU": 1.0}.

    Raises:
        ClusterError: where no node has a core to give.
    """
    sizes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    sizes = [(cores, gpus) for cores, gpus in sizes if cores > 0]
    if not sizes:
        raise ClusterError("the Ray cluster has no node with a core; start one that has: ray start --address=…")
    wanted = int(stage.startswith(ON_GPU) and any(gpus for _, gpus in sizes))
    able = [(cores, gpus) for cores, gpus in sizes if gpus >= wanted]
    share = min(max(1, cores // max(1, gpus)) for cores, gpus in able)
    # A request for more than any node has would wait forever.
    taken = min(threads or share, max(cores for cores, _ in able))
    return taken, wanted, sum(min(cores // taken, gpus if wanted else cores) for cores, gpus in able)


def package() -> Any:
    """Ray's module.

    Raises:
        ClusterError: where it is not installed.
    """
    try:
        import ray
    except ImportError:
        python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
        raise ClusterError(
            "RAY_ADDRESS is set, and Ray is not installed. Unset RAY_ADDRESS to run without it, or install it with "
            f"{python} -m pip install --no-deps -r requirements-ray.txt"
        ) from None
    return ray


def connect(address: str) -> Any:
    """Ray, joined to the cluster at `address`; "local" starts one on this machine, which ends with this process.

    Raises:
        ClusterError: where Ray is not installed or does not start, or no cluster of the same Ray and Python answers.
    """
    for name, value in NOTICES_A_CUT.items():
        os.environ.setdefault(name, value)
    ray = package()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address != "local":
        try:
            _require_listener(address)
            ray.init(address, **quiet)
        # Ray raises exceptions of many kinds here.
        except Exception as error:
            raise ClusterError(
                f"RAY_ADDRESS={address}: {_reason(error)} Run make on a machine of the cluster "
                "(ray start --address=…), with the same Ray and Python as its other machines"
            ) from None
        return ray
    # A report made offline sends no usage statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for left in reversed(range(STARTS)):
        try:
            ray.init(address, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
            break
        # On a busy machine its parts may take longer to start than they wait for each other: it raises Exception.
        except Exception as error:
            if not left:
                raise ClusterError(f"Ray did not start on this machine: {_reason(error)}") from None
            # What a failed start leaves would run beside the next.
            for part in psutil.Process().children(recursive=True):
                part.kill()
    return ray


def _require_listener(address: str) -> None:
    """Raise OSError where nothing listens at host:port: Ray itself tries for minutes. Other addresses are left to Ray.

    Raises ValueError for an invalid port.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), LISTENS_SECONDS).close()


def run(command: list[str], address: str) -> int:
    """Run the command of a stage on some node, show its output here, and return its exit status.

    An interrupt stops the stage where it runs, and waits for that.

    Raises:
        ClusterError: where no cluster answers, its node does not see the project's folder, or Ray gives up the stage.
    """
    output, parameters = Path(command[4]), dict(text.split("=", 1) for text in command[5:])
    files, stage = paths.RunPaths(parameters["run"]), output.stem
    log = files.cluster_log(stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    try:
        with _token() as token:
            return _hand_over(connect(address), command, stage, log, token)
    except ClusterError as error:
        write_json(files.failure(stage), str(error))
        raise


def _hand_over(ray: Any, command: list[str], stage: str, log: Path, token: Path) -> int:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores, gpus, at_a_time = room(_nodes(ray), stage, int(threads) if threads.isdigit() else None)
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    environment["OMP_NUM_THREADS"] = threads or str(cores)
    environment["KLEPON_JOBS"] = str(min(int(os.environ.get("KLEPON_JOBS", "1")), at_a_time))
    task = ray.remote(
        num_cpus=cores,
        num_gpus=gpus,
        max_retries=RETRIES,
        retry_exceptions=[ChildProcessError],
        scheduling_strategy="SPREAD",
    )(_work)
    work = task.remote(command, str(paths.ROOT), str(log), str(token), environment, PATIENCE)
    shown = 0
    try:
        ended: list[Any] = []
        while not ended:
            ended, _ = ray.wait([work], timeout=0.2)
            shown = _show(log, shown)
        status = ray.get(work)
    except ray.exceptions.RayError as error:
        raise ClusterError(f"{stage}: Ray gave up on it. {_reason(error)}") from None
    except BaseException:
        # A Ctrl-C, or the end of Make.
        ray.cancel(work)
        ray.wait([work], timeout=ENDING)
        _show(log, shown)
        raise
    if isinstance(status, str):
        raise ClusterError(f"{stage}: {_unseen([status])}")
    return int(status)


def check(address: str) -> str:
    """What the cluster at `address` has, in words, once each of its nodes has shown that it sees this folder.

    Raises:
        ClusterError: where Ray is not installed, no cluster answers, or nodes do not see the folder.
    """
    if address == "local":
        return f"Ray {package().__version__}, on this machine"
    ray = connect(address)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    with _token() as token:
        asked = []
        for node in nodes:
            there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append(ray.remote(num_cpus=0, scheduling_strategy=there)(_sees).remote(str(token), PATIENCE))
        seen = ray.get(asked)
    blind = [node["NodeManagerHostname"] for node, sees in zip(nodes, seen, strict=True) if not sees]
    if blind:
        raise ClusterError(_unseen(blind))
    cores, gpus = (sum(int(found.get(kind, 0)) for found in _nodes(ray)) for kind in ("CPU", "GPU"))
    return f"Ray {ray.__version__}, machines: {len(nodes)}, cores: {cores}, GPUs: {gpus}"


def local(command: list[str]) -> int:
    """Run a command beside a local Ray, which ends with it; stages that the command starts find that Ray."""
    ray = connect("local")
    address = ray.get_runtime_context().gcs_address
    # Make passes a descriptor on to the stages, for their output.
    process = subprocess.Popen(command, env=os.environ | {"KLEPON_RAY": address}, close_fds=False)

    def end(signum: int, frame: FrameType | None) -> None:
        process.terminate()

    # A Ctrl-C reaches the command too: it ends first, and needs Ray for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    try:
        return process.wait()
    finally:
        ray.shutdown()


# --- On the node: these go there by value, so that a node without the folder can still say so ------------------------


def _sees(token: str, patience: float) -> bool:
    end = time.monotonic() + patience
    while not Path(token).is_file():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _work(
    command: list[str], folder: str, log: str, token: str, environment: dict[str, str], patience: float
) -> int | str:
    """Run the command here, as long as this worker lives; return its status, or the node's name if it sees no folder.

    Raises:
        ChildProcessError: where a signal ended the command: a problem of the node, not of the stage.
    """
    if not _sees(token, patience):
        return os.uname().nodename
    with Path(log).open("ab") as said:
        # The stage and its kernel inherit this file, and with it the lock: an attempt whose worker was lost may still
        # be ending, and no two may write the same files. A file system without locks does not prevent it.
        while True:
            try:
                fcntl.flock(said, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)
            except OSError:
                break
        if Path(token).read_bytes():
            said.write(f"\nrestarted on {os.uname().nodename}: its last worker was lost\n".encode())
            said.flush()
        Path(token).write_text("begun")
        leash = [sys.executable, "-m", "lib.running.cluster", "--leash", str(os.getpid())]
        stage = subprocess.Popen(
            [*leash, *command],
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        # An interrupt from Ray is seen only between two waits.
        while stage.poll() is None:
            time.sleep(0.1)
    except BaseException:
        stage.send_signal(signal.SIGINT)
        try:
            stage.wait(timeout=20)
        except subprocess.TimeoutExpired:
            stage.kill()
        raise
    if stage.returncode < 0:
        raise ChildProcessError(f"it was ended by {signal.Signals(-stage.returncode).name}")
    return stage.returncode


def _leash(parent: int, command: list[str]) -> None:
    """Become `command`, which is interrupted as by Ctrl-C when the process `parent` ends, whatever ends it."""
    # Ray's processes block interrupts, and what they start inherits that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise SystemExit(f"error: {os.uname().nodename} cannot run {command[0]}: {error.strerror}") from None


# --- Here ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _token() -> Iterator[Path]:
    """A file of a new name in this folder: a node that sees it sees this folder, not a copy of it."""
    folder = paths.ROOT / "artifacts"
    folder.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen_by_", suffix=".partial") as file:
        yield Path(file.name)


def _nodes(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _unseen(names: Sequence[str]) -> str:
    return (
        f"{' '.join(names)} does not see {paths.ROOT}, the project's folder: put it on a file system that all "
        "machines of the cluster share, under one path, or take that machine out of the cluster (ray stop)"
    )


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def _show(log: Path, shown: int) -> int:
    """Write what the log has beyond `shown` bytes to the terminal; return how many it has now."""
    with log.open("rb") as file:
        file.seek(shown)
        said = file.read()
    sys.stderr.buffer.write(said)
    sys.stderr.buffer.flush()
    return shown + len(said)


def main() -> None:
    """Run a stage on the cluster, or --check that there is one, or run a command with a --local one."""
    mode, *rest = sys.argv[1:]
    # A cluster that was started for this run takes precedence over the address that asked for it.
    address = os.environ.get("KLEPON_RAY") or os.environ.get("RAY_ADDRESS", "")
    try:
        if mode == "--leash":
            _leash(int(rest[0]), rest[1:])
        elif mode == "--check":
            print(check(address), file=sys.stderr)
        elif mode == "--local":
            sys.exit(local(rest))
        else:
            sys.exit(run([mode, *rest], address))
    except ClusterError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
