"""Adapters beside the chat's own: those of all runs on this machine that fit its base model.

They share the base model's weights, and answer in one batch, each row with its own (PEFT's mixed batches); so one more
costs its matrices alone. They are loaded when first asked, and found without a restart. Not being added into the
weights, they are slower than the chat's own adapter, and round otherwise.
"""

import csv
import itertools
import json
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel
from wire.messages import Offered

from lib import paths
from lib.model import adapter_files, loading
from lib.paths import ADAPTER_RECORD, RunPaths

SCORES = {"bleu": "BLEU", "chrf": "chrF", "rougeL": "ROUGE-L"}
"""Shown beside an adapter, where its run's report has them."""

KEPT = 8
"""So many stay loaded, those that were asked last; and those that answer."""


class Shelf:
    """What there is, and a model of all that were asked.

    Args:
        base_model, template: what an adapter's record has to say.
        own: the fingerprint of the chat's own adapter, which is not offered twice.
    """

    def __init__(self, base_model: str, template: str, own: str | None) -> None:
        self._wanted = {"base_model": base_model, "chat_template_sha256": template}
        self._own = own
        self._known: dict[Path, tuple[tuple[int, ...], str | None]] = {}

    def offered(self) -> tuple[Offered, ...]:
        """What can be asked now."""
        return tuple(Offered(name, sha, _scores(name)) for name, _, sha in self._there())

    def find(self, name: str) -> tuple[Path, str] | None:
        """An adapter's folder and fingerprint; None if there is none of this name that fits."""
        return next(((folder, sha) for own, folder, sha in self._there() if own == name), None)

    def _there(self) -> Iterator[tuple[str, Path, str]]:
        home = paths.ROOT / "artifacts"
        records = (*home.glob(f"*/adapters/*/{ADAPTER_RECORD}"), *home.glob(f"*/final_adapter/{ADAPTER_RECORD}"))
        for folder in sorted(record.parent for record in records):
            if sha := self._looked_at(folder):
                yield "/".join(part for part in folder.relative_to(home).parts if part != "adapters"), folder, sha

    def _looked_at(self, folder: Path) -> str | None:
        """The fingerprint of an adapter that fits; looked at again only when its files have changed."""
        files = [folder / name for name in (ADAPTER_RECORD, "adapter_config.json", "adapter_model.safetensors")]
        try:
            now = tuple(file.stat().st_mtime_ns for file in files)
            if self._known.get(folder, ((), None))[0] != now:
                told = json.loads(files[0].read_bytes())
                fits = all(told.get(name) == value for name, value in self._wanted.items())
                sha = loading.fingerprint(folder) if fits and not adapter_files.fault(folder) else None
                self._known[folder] = now, sha if sha != self._own else None
            return self._known[folder][1]
        except (OSError, ValueError, AttributeError):
            # Being written, or none.
            return None


class Shelved:
    """The model of the adapters that were asked, as a batch calls it: every row with its own.

    Args:
        base: stays as it is.
        keys: of the batch's rows.
    """

    def __init__(self, base: PreTrainedModel, keys: Callable[[], list[Hashable]]) -> None:
        self.config, self.device, self.generation_config = base.config, base.device, base.generation_config
        self._base, self._keys = base, keys
        self._model: PeftModel | None = None
        self._names: dict[str, str] = {}
        self._numbers = itertools.count()
        self._of: dict[Hashable, str] = {}
        self._reading: str | None = None

    def name(self, folder: Path, sha: str) -> str:
        """What PEFT calls the adapter of this fingerprint, loaded if it is not yet.

        Raises:
            loading.ModelError: if it cannot be loaded.
        """
        name = self._names.pop(sha, None)
        if name is None:
            # PEFT takes no names with dots.
            name = f"a{next(self._numbers)}"
            self._model = loading.put_on(self._model or loading.twin(self._base), folder, name)
        self._names[sha] = name
        self._drop()
        return name

    def _drop(self) -> None:
        """Let go of the adapters that were not asked lately."""
        assert self._model is not None
        used = {self._of[key] for key in self._keys() if key in self._of}
        for sha, name in list(self._names.items())[:-KEPT]:
            if name not in used:
                with warnings.catch_warnings():
                    # That another becomes the active one makes no difference: every call names its own.
                    warnings.simplefilter("ignore")
                    self._model.delete_adapter(name)
                del self._names[sha]

    @contextmanager
    def reading(self, name: str | None) -> Iterator[None]:
        """Within this, what is read is for one adapter; None: for none here."""
        self._reading = name
        try:
            yield
        finally:
            self._reading = None

    def join(self, key: Hashable, name: str) -> None:
        """A row's adapter. Those of rows that are gone are forgotten."""
        self._of = {row: self._of[row] for row in self._keys() if row in self._of} | {key: name}

    def __call__(self, **inputs: Any) -> Any:
        assert self._model is not None
        names = [self._reading] if self._reading else [self._of[key] for key in self._keys()]
        return self._model(**inputs, adapter_names=names)


def _scores(name: str) -> str:
    run, _, training = name.partition("/")
    iteration, _, seed = training.partition("_seed")
    path = RunPaths(run).summary
    try:
        return _scores_in(path, path.stat().st_mtime_ns, iteration, seed)
    except OSError:
        return ""


# With every heartbeat all adapters are offered.
@lru_cache(maxsize=1_000)
def _scores_in(path: Path, changed: int, iteration: str, seed: str) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if (row["iteration"], row["seed"]) == (iteration, seed)]
        found = {row["metric"]: float(row["mean"]) for row in rows if row["protocol"] == "clean"}
    except (OSError, ValueError, KeyError):
        return ""
    return ", ".join(f"{label} {found[metric]:.1f}" for metric, label in SCORES.items() if metric in found)
