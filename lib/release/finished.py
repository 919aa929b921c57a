"""A finished run, read from its own files: all that merging, converting and publishing use."""

import json
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from lib import paths
from lib.config import SECTIONS, Config, run_name
from lib.model import loading
from lib.paths import RunPaths


class FinishedError(ValueError):
    """The run is not finished, or its files do not belong together; the message says what to run."""


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    config: Config
    """The settings that the final adapter was trained and scored with."""
    manifest: dict[str, Any]
    results: pd.DataFrame
    """results.csv, tidy."""
    adapter: str
    """The final adapter's fingerprint."""

    @property
    def merged(self) -> dict[str, Any] | None:
        """What was measured of the merged model; None where there is none of this adapter, or it has changed since."""
        files = self.config.paths
        if not (files.merge_record.is_file() and files.merged.is_dir()):
            return None
        made: dict[str, Any] = json.loads(files.merge_record.read_text(encoding="utf-8"))
        same = made["adapter"] == self.adapter and made["merged"] == loading.fingerprint(files.merged)
        return made if same else None


def read(run: str) -> Finished:
    """Read a finished run from its manifest, its scores and its final adapter.

    Raises:
        FinishedError: if one of them is missing, or if the adapter is not the one that the manifest names.
        ConfigError: if no run can have this name.
    """
    files = RunPaths(run_name(run))
    cure = f"run `{files.command}`"
    missing = [path for path in (files.manifest, files.results, files.final_adapter) if not path.exists()]
    if missing:
        raise FinishedError(f"the run {run!r} has no {missing[0].name} yet: {cure} first")
    manifest = json.loads(files.manifest.read_text(encoding="utf-8"))
    if "final_adapter" not in manifest:
        raise FinishedError(
            f"the manifest of run {run!r} is from an older version and names no final adapter: remove it and {cure}"
        )
    config = _config(run, manifest)
    adapter = loading.fingerprint(files.final_adapter)
    if manifest["adapters"].get(config.name) != adapter:
        raise FinishedError(
            f"the final adapter of run {run!r} is not the one that was scored ({config.name}): remove "
            f"{files.final_adapter.relative_to(paths.ROOT)} and {cure}"
        )
    return Finished(config, manifest, pd.read_csv(files.results, dtype={"iteration": str}), adapter)


def _config(run: str, manifest: dict[str, Any]) -> Config:
    """The settings as the run had them, whatever the parameter files say by now."""
    told = manifest["final_adapter"]
    names = ("iteration", "seed", "sampled_as", "prepared_as", "trained_as")
    # A manifest may be older than a section.
    had = {name: told["settings"].get(name, {}) for name in SECTIONS}
    sections = {name: type(getattr(Config(), name)) for name in SECTIONS}
    known = {name: [field.name for field in fields(section)] for name, section in sections.items()}
    unknown = [f"{name}.{key}" for name, settings in had.items() for key in settings if key not in known[name]]
    if unknown:
        raise FinishedError(
            f"the run {run!r} was made by another version, with settings that this one does not have "
            f"({', '.join(unknown)}): use that version, or run `{RunPaths(run).command}` again"
        )
    return Config(
        run=run,
        profile=manifest["profile"],
        scale=manifest["scale"],
        **{name: told[name] for name in names},
        **{name: section(**had[name]) for name, section in sections.items()},
    )
