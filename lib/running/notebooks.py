"""Running one notebook of the report, headlessly: the step behind every target of the Makefile.

    python -m lib.running.notebooks notebooks/3_training.ipynb reports/demo/3_….ipynb run=demo iteration=5

The output appears under its name only if every cell succeeded. A failure leaves `<name>.partial.ipynb` to read, one
sentence that says which cell failed and why, and that sentence in artifacts/<run>/failures/ for the report.
"""

# ruff: noqa: E402  (one line below must come before the imports)

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean

# jsonschema builds a grammar of internationalised addresses where this is installed, for more than a second at each
# start; no notebook's schema asks for that format.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lib import paths
from lib.allocator import KEPT_PAGES
from lib.config import nearest
from lib.running import memory
from lib.storage import FullDiskError, full_disk, write_json


class NotebookError(Exception):
    """A notebook that could not be run to its end; the message says which cell, and why."""


def run(notebook: Path, output: Path, parameters: dict[str, str]) -> None:
    """Execute a notebook with these parameters (all as text), and record its seconds and peak memory.

    Raises:
        NotebookError: for an unknown parameter, a cell that failed, a kernel that died, or a full disk.
    """
    partial = output.with_suffix(".partial.ipynb")
    files = paths.RunPaths(parameters["run"])
    output.parent.mkdir(parents=True, exist_ok=True)
    again = _again(files, output)
    known = list(papermill.inspect_notebook(str(notebook)))
    for name in parameters:
        if name not in known:
            # Papermill only warns, and runs on with the default.
            raise NotebookError(f"{notebook} has no parameter {name!r}{nearest(name, known)}")
    # Libraries ask for notebook widgets; our progress goes to the terminal.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    os.environ.setdefault("GLIBC_TUNABLES", KEPT_PAGES)
    # The kernel starts in the notebook's folder, and would import the `lib` of the clone that made the environment.
    given = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *given])
    begun, kills = time.monotonic(), memory.kills()
    try:
        papermill.execute_notebook(
            str(notebook),
            str(partial),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(notebook.parent),
            progress_bar=False,
            # What a cell writes to stderr (its progress bar) goes to the terminal as it comes.
            stderr_file=sys.stderr,
            coalesce_streams=True,
            # What goes wrong in a cell is reported below; what goes wrong while a stopped kernel ends is of no use.
            extra_arguments=["--log-level=50"],
            kernel_manager_class=_Kernel,
        )
        _tidy(partial)
        record = {"seconds": round(time.monotonic() - begun, 1), "peak_memory_gb": round(_peak_gb(), 2)}
        write_json(files.stage_record(output.stem), record)
        partial.replace(output)
    except PapermillExecutionError as error:
        why = _and_the_disk(f"{error.ename}: {error.evalue}".strip(), files)
        raise NotebookError(
            f"{notebook.name}, cell {error.exec_count}: {why}\n"
            f"Read {_shown(partial)}, fix the cause, and run `{again}` again"
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{notebook.name}: {_death(kills)}. {_shown(partial)} shows how far it got. Run `{again}` again: "
            "it continues from there"
        ) from None
    except (OSError, FullDiskError) as error:
        why = _and_the_disk(getattr(error, "strerror", None) or str(error), files)
        raise NotebookError(f"{notebook.name}: {why}. Fix that, and run `{again}` again") from None


def _again(files: paths.RunPaths, output: Path) -> str:
    """The command that makes a notebook again: that of its run, or the one that follows it."""
    votes = os.environ.get("VOTES", "")
    return files.preference_command(votes) if output.stem == "6_preference" else files.command


class _Kernel(AsyncKernelManager):
    """Remembers how its process has ended."""

    ended: int | None = None

    async def _async_is_alive(self) -> bool:
        alive = await super()._async_is_alive()
        if not alive and self.provisioner is not None and self.provisioner.has_process:
            _Kernel.ended = await self.provisioner.poll()
        return alive


def _death(kills: int | None) -> str:
    """How the kernel has died, and why, as far as that is known.

    Args:
        kills: `memory.kills` before it began.
    """
    now, ended = memory.kills(), _Kernel.ended
    if now != kills:
        why = "memory ran out: give it more, or fewer rows (scale, in the profile)"
    elif ended == -signal.SIGKILL:
        why = "a person or a limit ended it" if now is not None else "memory ran out, or a person or a limit ended it"
    else:
        why = "a library crashed, or a cell ended it"
    how = "" if ended is None else f" with status {ended}" if ended >= 0 else f" by {signal.Signals(-ended).name}"
    return (
        f"its kernel died{how}: {why}. It had held at most {_peak_gb():.2f} GB of the {memory.limit() / 1e9:.1f} GB of "
        "memory that it may have"
    )


def _peak_gb() -> float:
    """The most memory that the kernel has held: it is the only child that this process had."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9


def _and_the_disk(why: str, files: paths.RunPaths) -> str:
    """An error, with the disk that is full if that is what it says."""
    full = full_disk(why, files.artifacts, files.reports, Path(tempfile.gettempdir()))
    return f"{why}: {full}" if full else why


def _tidy(path: Path) -> None:
    """Drop what papermill adds for itself and what differs from run to run without meaning: paths and durations."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, path)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def time_left(todo: Sequence[Path], seconds: dict[str, float]) -> float | None:
    """Seconds that the stages of a run still need, by what stages of the same kind took; None where none ever ran.

    Args:
        todo: outputs that are still to be made.
        seconds: what each executed notebook took, by its name.
    """
    if not seconds:
        return None
    kinds: dict[str, list[float]] = {}
    for name, taken in seconds.items():
        kinds.setdefault(name[0], []).append(taken)
    usual = {kind: fmean(taken) for kind, taken in kinds.items()}
    return sum(usual.get(path.stem[0], fmean(usual.values())) for path in todo)


def _place_in_run(output: Path, run: str) -> str:
    """This notebook's place in its run, such as `12 of 34, about 6 min left`; nothing where Make planned none.

    The plan is a file that KLEPON_TODO names: the outputs of all that is out of date, in the order in which they run.
    """
    if not (todo := os.environ.get("KLEPON_TODO")):
        return ""
    plan, files = Path(todo), paths.RunPaths(run)
    planned = [Path(name).resolve() for name in plan.read_text(encoding="utf-8").split()]
    if output not in planned:
        return ""
    since = plan.stat().st_mtime_ns

    def newer(path: Path) -> bool:
        return path.is_file() and path.stat().st_mtime_ns >= since

    # Side by side they do not run in the order of the plan. What has begun counts as failed until it has succeeded.
    unfinished = [path for path in planned if not newer(path)]
    begun = len(planned) - sum(not newer(files.failure(path.stem)) for path in unfinished)
    records = files.stage_record("x").parent.glob("*.json")
    left = time_left(unfinished, {path.stem: json.loads(path.read_text())["seconds"] for path in records})
    place = f" · {begun} of {len(planned)}"
    if left is None:
        return place
    at_a_time = int(os.environ.get("KLEPON_JOBS", "1"))
    return f"{place}, about {max(1, round(left / 60 / at_a_time))} min left"


def _record_failure(file: Path, why: str) -> None:
    # A full disk is a failure too, and is reported on the terminal all the same.
    with suppress(OSError):
        write_json(file, why)


def main() -> None:
    """Execute one notebook into its output."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("parameters", nargs="*", help="name=value")
    args = parser.parse_args()
    parameters = dict(text.split("=", 1) for text in args.parameters)
    output = args.output.resolve()
    failure = paths.RunPaths(parameters["run"]).failure(output.stem)
    # The old output is out of date, or this stage would not run; until the stage succeeds it counts as failed.
    output.unlink(missing_ok=True)
    _record_failure(failure, f"{output.stem} was stopped before it finished")
    print(f"{output.stem}{_place_in_run(output, parameters['run'])}", file=sys.stderr, flush=True)
    try:
        run(args.notebook.resolve(), output, parameters)
    except NotebookError as error:
        _record_failure(failure, str(error))
        raise SystemExit(f"\nerror: {error}") from None
    except KeyboardInterrupt:
        again = _again(paths.RunPaths(parameters["run"]), output)
        raise SystemExit(f"\nstopped: `{again}` continues from here") from None
    failure.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
