"""What made a run: enough to make it again, or to see why it cannot be."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lib import paths
from lib.config import SECTIONS, Config
from lib.evaluation import benchmarks
from lib.model import generation, loading

#: The libraries that numbers depend on.
PACKAGES = (
    "torch", "transformers", "trl", "peft", "datasets", "sentence-transformers", "ctranslate2", "scikit-learn", "rensa",
    "sacrebleu", "rouge-score", "py3langid", "lm_eval", "papermill", "numpy", "pandas", "pyarrow",
)  # fmt: skip


def manifest(configs: list[Config], picked: Config) -> dict[str, Any]:
    """The run's commit, versions, device, seeds, fingerprints, and the seconds and peak memory of each stage.

    Of the picked training, whose adapter is the final one, also every setting: later steps need no others.
    """
    config = configs[-1]
    files = config.paths
    corpus = json.loads(files.corpus_summary.read_text())
    return {
        "run": config.run,
        "profile": config.profile,
        "scale": config.scale,
        "iterations": sorted({c.iteration for c in configs if c.has_adapter}),
        "seeds": sorted({c.seed for c in configs if c.has_adapter}),
        "decoding_runs": config.evaluation.decoding_runs,
        "decoding_seed": config.evaluation.decoding_seed,
        "decoding": decoding(configs[0]),
        "git_commit": git_commit(),
        "corpus": {
            "source": config.corpus.source,
            "commit": corpus["commit"],
            "rows_read": corpus["rows_read"],
            "formats": corpus.get("formats", {}),
            "set_aside": sorted(corpus.get("set_aside", {})),
            "sha256": corpus["fingerprint"],
            "sources": corpus.get("sources", []),
        },
        "benchmarks": {
            "tasks": config.benchmarks.tasks.split(),
            "sources": [one.described() for one in benchmarks.named(config.benchmarks.tasks)],
        },
        "base_model": loading.provenance(config.model),
        "completed_by": sorted({completed_by(c) for c in configs}),
        "trained_by": json.loads((files.adapter(config.name) / paths.ADAPTER_RECORD).read_text())["trained_by"],
        "adapters": {c.name: loading.fingerprint(files.adapter(c.name)) for c in configs if c.has_adapter},
        "final_adapter": {
            "iteration": picked.iteration,
            "seed": picked.seed,
            "sampled_as": picked.sampled_as,
            "prepared_as": picked.prepared_as,
            "trained_as": picked.trained_as,
            "settings": {name: asdict(getattr(picked, name)) for name in SECTIONS} | {"model": _model(picked)},
        },
        "device": device(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "stages": {
            path.stem: json.loads(path.read_text()) for path in sorted(files.stage_record("x").parent.glob("*.json"))
        },
    }


def _model(config: Config) -> dict[str, str]:
    """The settings of the base model. Where a GGUF file is on somebody's machine is private; later steps need none."""
    return {"base_model": loading.pinned(config.model)} if loading.gguf_file(config.model) else asdict(config.model)


#: Where Linux lists its processors.
_CPUINFO = Path("/proc/cpuinfo")
#: Tracked reports, as git's pathspecs: what was made, and not what makes.
_RESULTS = (":!reports/example", ":!reports/smollm2", ":!reports/smollm2_rows")


def git_commit() -> str:
    """The commit of the working tree, with `+changes` if tracked files differ from it; `unknown` without git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *_RESULTS)
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def completed_by(config: Config) -> str:
    """What decoded the completions of one model."""
    settings = generation.read_settings(config.paths.completions(config.name))
    return "a server (ENGINE_URL)" if "server" in settings else "transformers on this machine"


def decoding(config: Config) -> dict[str, Any]:
    """How one model's completions were decoded, in the words of transformers, and whose choice that was.

    All models of a run are decoded alike: the defaults are their base model's. `not_applied` has what the base model
    asks for beyond them.
    """
    used, settings = generation.read_decoding(config.paths.completions(config.name)), config.evaluation
    chosen = {"temperature": settings.temperature > 0, "top_k": settings.top_k >= 0, "top_p": settings.top_p > 0}
    return {
        "do_sample": not used.greedy,
        "temperature": used.temperature,
        "top_k": used.top_k,
        "top_p": used.top_p,
        "max_new_tokens": used.max_new_tokens,
        "set_by_the_run": [name for name, own in chosen.items() if own],
        "not_applied": generation.not_applied(loading.load_generation_config(config.model)),
    }


def device() -> str:
    """The GPU, or the processor and its cores, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({_processor()}), {os.cpu_count()} cores, {platform.machine()}, {platform.system()}"


def _processor() -> str:
    """Its name, and the widest instructions that PyTorch has for it: others round differently."""
    listed = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.is_file() else ""
    name = re.search(r"^model name\s*:\s*(.*\S)", listed, re.MULTILINE)
    parts = [name[1] if name else platform.processor(), torch.backends.cpu.get_cpu_capability()]
    return ", ".join([part for part in parts if part] + (["AMX"] if re.search(r"\bamx_bf16\b", listed) else []))


def version(package: str) -> str:
    """The installed version of a package, or `absent`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
