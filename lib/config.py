"""Every setting of the study, declared once.

The defaults are the paper's chosen configuration (Table 2, row 5). A profile (`notebooks/parameters/<profile>.toml`)
changes them, then an iteration (`notebooks/parameters/iterations/<n>.toml`), then what the command line names
(run, corpus, base model). A setting belongs to one section, and a stage of the pipeline is given only the sections
named in `STAGES`: so a changed setting reruns the stages that can see it and no other.
"""

import argparse
import difflib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lib import paths
from lib.paths import RunPaths
from lib.storage import write_if_changed

#: Rows of the six subsets in the Cendol Collection v2 (paper, section on the corpus): what a share is a share of.
PAPER_CORPUS_ROWS = 6_542_630


@dataclass(frozen=True)
class Corpus:
    """Where the rows come from, and how test rows are kept apart from training rows."""

    source: str = "indonlp/cendol_collection_v2"
    """`demo`, a hub dataset id, or a file, glob or folder of parquet, jsonl or jsonl.gz in Cendol's schema."""
    near_duplicate_similarity: float = 0.8
    """Jaccard similarity of word 3-grams from which two texts count as near-duplicates."""
    generic_after: int = 10
    """A prompt with more distinct outputs than this names no answer, so it ties no rows together; nor does an output
    of at most three words."""
    test_share: float = 0.1
    validation_share: float = 0.05
    split_seed: int = 0


@dataclass(frozen=True)
class Sampling:
    """Which training rows are drawn (Table 2, column "sampling")."""

    method: str = "per_subset"
    """`random` (rows in all), `per_subset` (rows from each subset) or `stratified` (a share of the corpus, each subset
    in proportion)."""
    rows: int = 3_500
    share: float = 0.0
    """For `stratified`: the share of the paper's 6,542,630 rows; `rows` is then ignored."""
    clusters: int = 10
    """K of K-means on the embedded outputs; 0 for none."""
    rows_per_cluster: int = 1_000
    validation_rows: int = 2_000
    tsne_rows: int = 10_000
    """How many of the drawn rows the t-SNE figure shows at most."""


@dataclass(frozen=True)
class Model:
    """The frozen base model."""

    base_model: str = "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"
    """Hub id or folder."""


@dataclass(frozen=True)
class Prompt:
    """From a row to token ids (Table 1)."""

    date: str = "26 July 2024"
    """The date that the chat template writes into the system turn: pinned, or every day has another prompt."""
    bos_tokens: int = 1
    """Beginning-of-text tokens in front of an example. The paper trained with two, by accident (Table 1)."""
    max_train_tokens: int = 2_048
    max_evaluation_tokens: int = 1_024
    min_answer_tokens: int = 16
    """A training example keeps at least this much of its answer (or all of it), or it is dropped."""


@dataclass(frozen=True)
class Lora:
    """The adapter's shape."""

    lora_rank: int = 32
    lora_alpha: int = 16
    use_rslora: bool = True
    """Scale by alpha / sqrt(rank) instead of alpha / rank."""
    loraplus_lr_ratio: float = 16.0
    """eta_B / eta_A. The paper does not give its own; 16 is the LoRA+ authors' usual choice."""


@dataclass(frozen=True)
class Training:
    """One training."""

    learning_rate: float = 2e-4
    """eta_A; B learns `loraplus_lr_ratio` times faster."""
    schedule: str = "cosine"
    epochs: float = 5.0
    batch_size: int = 8
    """Examples an optimizer step."""
    warmup_share: float = 0.03
    """Share of the steps over which the rate rises from 0."""
    checkpoints: int = 5
    """Checkpoints (and validation losses) over the whole training."""
    backend: str = "auto"
    """`auto` (unsloth on a GPU where it is installed, else PEFT), `unsloth` or `peft`: see lib/backend.py."""


@dataclass(frozen=True)
class Evaluation:
    """How completions are drawn and scored (Table 3)."""

    test_rows: int = 9_800
    decoding_runs: int = 5
    decoding_seed: int = 0
    max_new_tokens: int = 48
    f1_tokens: int = 32
    """Weighted F1 looks at the first 32 tokens of the same completions: what a run with 32 new tokens would write."""
    f1_similarity: float = 0.5
    batch_rows: int = 64
    """Prompts decoded together; each with all its decoding runs."""


@dataclass(frozen=True)
class English:
    """What the adapter costs English: rows in English that every model is measured on too."""

    source: str = ""
    """`demo` for the English twin of the demo's test rows; else a hub dataset id, or a file, glob or folder in
    Cendol's schema that holds English rows; empty: English is not measured."""
    rows: int = 1_000


@dataclass(frozen=True)
class Config:
    """All settings of one run and one iteration."""

    run: str = "paper"
    profile: str = "paper"
    iteration: str = "5"
    seed: int = 0
    scale: float = 1.0
    """One factor on every count of rows (never on K, epochs or tokens): how the demo is made small."""
    sampled_as: str = "5"
    """The first iteration that samples alike: its sample serves this one too."""
    prepared_as: str = "5"
    """The first iteration with the same examples."""
    trained_as: str = "5"
    """The first iteration that is equal in every setting: its adapter and scores are this one's too."""
    corpus: Corpus = field(default_factory=Corpus)
    sampling: Sampling = field(default_factory=Sampling)
    model: Model = field(default_factory=Model)
    prompt: Prompt = field(default_factory=Prompt)
    lora: Lora = field(default_factory=Lora)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    english: English = field(default_factory=English)

    @property
    def paths(self) -> RunPaths:
        """Every file of this run."""
        return RunPaths(self.run)

    @property
    def name(self) -> str:
        """What names this training's files: iteration and training seed; `base` for the untrained model."""
        return "base" if self.iteration == "base" else f"{self.trained_as}_seed{self.seed}"


SECTIONS = tuple(f.name for f in fields(Config) if f.default_factory is not MISSING)
#: The sections that each stage sees.
STAGES = {
    "sampling": ("corpus", "sampling"),
    "preprocessing": ("model", "prompt"),
    "training": ("model", "prompt", "lora", "training"),
    "evaluation": ("model", "prompt", "evaluation", "english"),
    "report": ("corpus", "sampling", "model", "prompt", "lora", "training", "evaluation", "english"),
}
#: The counts of rows that `scale` multiplies.
SCALED = {
    "sampling": ("rows", "rows_per_cluster", "validation_rows"),
    "evaluation": ("test_rows",),
    "english": ("rows",),
}
SCHEDULES = ("linear", "cosine", "cosine_with_restarts")
BACKENDS = ("auto", "unsloth", "peft")
METHODS = ("random", "per_subset", "stratified")
#: What goes beyond the paper: each a folder of variants of row 5 in notebooks/parameters/studies.
STUDIES = ("loraplus", "sampling", "bos")


class ConfigError(ValueError):
    """A setting that cannot be used; the message says which, and what would do."""


def load_config(
    run: str = "", profile: str = "demo", iteration: str = "5", seed: int = 0, corpus: str = "", base_model: str = ""
) -> Config:
    """Read the settings of one run and iteration: defaults, then profile, then iteration, then the arguments.

    An empty `run` is named after the profile; an empty `corpus` or `base_model` is the profile's.

    Raises:
        ConfigError: for an unknown profile, iteration, section or key (naming the nearest right one), a value of the
            wrong type, or a value that makes no sense.
    """
    config = _read(run, profile, iteration, seed, corpus, base_model)
    if iteration == "base":
        return config
    return _shared(config, [_read(run, profile, name, 0, corpus, base_model) for name in iterations()])


def _shared(config: Config, others: list[Config]) -> Config:
    """The same settings, with the names under which it finds what it has in common with an earlier iteration."""

    def first(sections: Sequence[str]) -> str:
        return next(o.iteration for o in others if all(getattr(o, s) == getattr(config, s) for s in sections))

    return replace(
        config,
        sampled_as=first(STAGES["sampling"]),
        prepared_as=first(STAGES["sampling"] + STAGES["preprocessing"]),
        trained_as=first(SECTIONS),
    )


def _read(run: str, profile: str, iteration: str, seed: int, corpus: str, base_model: str) -> Config:
    files = [_known(profile, _profiles(), "profile")]
    if iteration != "base":
        files.append(_known(iteration, _iteration_files(), "iteration"))
    config = Config(run=_run_name(run or profile), profile=profile, iteration=iteration, seed=seed)
    for file in files:
        try:
            config = _merge(config, tomllib.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            wrong = "not TOML: " if isinstance(error, tomllib.TOMLDecodeError) else ""
            raise ConfigError(f"{file.relative_to(paths.PARAMETERS.parent.parent)}: {wrong}{error}") from None
    if corpus:
        config = replace(config, corpus=replace(config.corpus, source=corpus))
    if base_model:
        config = replace(config, model=replace(config.model, base_model=base_model))
    config = _scaled(config)
    _check(config)
    return config


def load_configs(
    run: str = "",
    profile: str = "demo",
    iterations: str = "5",
    seeds: str = "0",
    corpus: str = "",
    base_model: str = "",
    studies: str = "",
) -> list[Config]:
    """The settings of the base model and of every training of a run, base first; lists are words apart by spaces.

    `all` stands for every row of Table 2, or for every study. A study brings its variants, and row 5 that they vary.
    """
    wanted = list(rows()) if iterations.split() == ["all"] else iterations.split()
    chosen = STUDIES if studies.split() == ["all"] else studies.split()
    for study in chosen:
        if study not in STUDIES:
            raise ConfigError(f"no study {study!r}{nearest(study, STUDIES)}; there are: {', '.join(STUDIES)}")
        wanted += ["5", *(name for name in _iteration_files() if name.startswith(f"{study}_"))]
    configs = [load_config(run, profile, "base", 0, corpus, base_model)]
    others = [_read(run, profile, name, 0, corpus, base_model) for name in _iteration_files()]
    for iteration in dict.fromkeys(wanted):
        for seed in dict.fromkeys(seeds.split()):
            if not seed.isdigit():
                raise ConfigError(f"SEEDS={seeds!r} must be whole numbers apart by spaces, such as 0 1 2")
            configs.append(_shared(_read(run, profile, iteration, int(seed), corpus, base_model), others))
    if len(configs) == 1:
        raise ConfigError("ITERATIONS and SEEDS name no training: give at least one of each, such as 5 and 0")
    return configs


def rows() -> list[str]:
    """The rows of the paper's Table 2 that have a parameter file, in order."""
    return sorted((path.stem for path in (paths.PARAMETERS / "iterations").glob("*.toml")), key=int)


def iterations() -> list[str]:
    """All that can be trained: the rows of Table 2, then the variants of the studies, named `<study>_<variant>`."""
    return list(_iteration_files())


def _iteration_files() -> dict[str, Path]:
    variants = sorted((paths.PARAMETERS / "studies").glob("*/*.toml"))
    return {name: paths.PARAMETERS / "iterations" / f"{name}.toml" for name in rows()} | {
        f"{path.parent.name}_{path.stem}": path for path in variants
    }


def _profiles() -> dict[str, Path]:
    return {path.stem: path for path in sorted(paths.PARAMETERS.glob("*.toml"))}


def _known(name: str, files: dict[str, Path], kind: str) -> Path:
    if name not in files:
        raise ConfigError(f"no {kind} {name!r}{nearest(name, list(files))}; there are: {', '.join(files)}")
    return files[name]


def _run_name(run: str) -> str:
    if not run.replace("-", "").replace("_", "").replace(".", "").isalnum() or run in ("example", "published", "bench"):
        raise ConfigError(
            f"RUN={run!r} cannot name a folder of results: use letters, digits, '-', '_' and '.', "
            "and none of the names example, published and bench, which the project keeps for itself"
        )
    return run


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known word is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _merge(config: Config, layer: dict[str, Any]) -> Config:
    for name, value in layer.items():
        if name == "scale":
            config = replace(config, scale=_typed("scale", value, 1.0))
        elif name not in SECTIONS:
            known = ["scale", *SECTIONS]
            raise ConfigError(f"unknown section [{name}]{nearest(name, known)}; there are: {', '.join(known)}")
        else:
            if not isinstance(value, dict):
                raise ConfigError(f"{name} = {value!r} is of type {type(value).__name__}, not a section [{name}]")
            section = getattr(config, name)
            known = [f.name for f in fields(section)]
            for key in value:
                if key not in known:
                    raise ConfigError(f"unknown setting {key!r} in [{name}]{nearest(key, known)}")
            typed = {key: _typed(f"{name}.{key}", given, getattr(section, key)) for key, given in value.items()}
            config = replace(config, **{name: replace(section, **typed)})
    return config


def _typed(name: str, given: Any, example: Any) -> Any:
    if isinstance(example, float) and type(given) is int:
        return float(given)
    if type(given) is not type(example):
        raise ConfigError(f"{name} = {given!r} is of type {type(given).__name__}, not {type(example).__name__}")
    return given


def _scaled(config: Config) -> Config:
    sampling = config.sampling
    if sampling.method == "stratified":
        config = replace(config, sampling=replace(sampling, rows=round(sampling.share * PAPER_CORPUS_ROWS)))
    for name, keys in SCALED.items():
        section = getattr(config, name)
        counts = {key: max(1, round(getattr(section, key) * config.scale)) for key in keys}
        config = replace(config, **{name: replace(section, **counts)})
    return config


def _check(config: Config) -> None:
    def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise ConfigError(f"{name} = {value!r} is unknown{nearest(value, known)}; there are: {', '.join(known)}")

    one_of("sampling.method", config.sampling.method, METHODS)
    one_of("training.schedule", config.training.schedule, SCHEDULES)
    one_of("training.backend", config.training.backend, BACKENDS)
    if config.sampling.method == "stratified" and not 0 < config.sampling.share <= 1:
        raise ConfigError(f"sampling.share = {config.sampling.share} must be above 0 and at most 1")
    if config.corpus.test_share + config.corpus.validation_share >= 1:
        raise ConfigError("corpus.test_share + corpus.validation_share leave no training rows: make them smaller")
    if config.evaluation.f1_tokens > config.evaluation.max_new_tokens:
        raise ConfigError(
            f"evaluation.f1_tokens = {config.evaluation.f1_tokens} is more than "
            f"evaluation.max_new_tokens = {config.evaluation.max_new_tokens}"
        )
    positive = {
        "scale": config.scale,
        "prompt.bos_tokens": config.prompt.bos_tokens,
        "prompt.min_answer_tokens": config.prompt.min_answer_tokens,
        "lora.lora_rank": config.lora.lora_rank,
        "lora.lora_alpha": config.lora.lora_alpha,
        "lora.loraplus_lr_ratio": config.lora.loraplus_lr_ratio,
        "training.learning_rate": config.training.learning_rate,
        "training.epochs": config.training.epochs,
        "training.batch_size": config.training.batch_size,
        "evaluation.decoding_runs": config.evaluation.decoding_runs,
        "evaluation.max_new_tokens": config.evaluation.max_new_tokens,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{name} = {value} must be above 0")


def stage_settings(config: Config, stage: str) -> dict[str, Any]:
    """What one stage can see of the settings, as plain values: when this is unchanged, the stage need not rerun.

    With whose sample or examples it goes on: an iteration that comes to share another's finds them older than its own
    work, and yet must work anew. Not which iteration asks, since several may.
    """
    identity: dict[str, Any] = {"run": config.run}
    if stage == "preprocessing":
        identity["sampled_as"] = config.sampled_as
    if stage == "training":
        identity["prepared_as"] = config.prepared_as
    if stage not in ("sampling", "preprocessing"):
        identity["seed"] = config.seed
    if stage == "report":
        identity["iteration"] = config.iteration
    return identity | {name: asdict(getattr(config, name)) for name in STAGES[stage]}


def stages(configs: list[Config]) -> dict[str, tuple[Config, str, str]]:
    """The executed notebooks of a run, apart from the report, in an order in which they can run.

    Returns:
        By the notebook's name: the settings that it runs with, its stage, and the notebook whose work it goes on with
        ("" for none). What several iterations share is there once, named after the first of all that share it.
    """
    found: dict[str, tuple[Config, str, str]] = {}
    for config in configs[1:]:
        sampled, prepared = f"1_sampling_{config.sampled_as}", f"2_preprocessing_{config.prepared_as}"
        found[sampled] = (config, "sampling", "")
        found[prepared] = (config, "preprocessing", sampled)
    found["4_evaluation_base"] = (configs[0], "evaluation", "")
    for config in configs[1:]:
        trained = f"3_training_{config.name}"
        found[trained] = (config, "training", f"2_preprocessing_{config.prepared_as}")
        found[f"4_evaluation_{config.name}"] = (config, "evaluation", trained)
    return found


def main() -> None:
    """Write what each stage can see of the settings to artifacts/<run>/settings/, for Make to compare.

    With --graph, print instead the notebooks of the run as `notebook:notebook it needs`, a word each.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("run", "profile", "corpus", "base-model", "iterations", "seeds", "studies"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--graph", action="store_true")
    args = parser.parse_args()
    given = args.run, args.profile, args.iterations, args.seeds, args.corpus, args.base_model, args.studies
    try:
        configs = load_configs(*given)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    if args.graph:
        print(*(f"{name}:{need}" for name, (_, _, need) in stages(configs).items()))
        return
    folder = configs[0].paths.artifacts / "settings"
    for name, (config, stage, _) in stages(configs).items():
        settings = json.dumps(stage_settings(config, stage), indent=1, ensure_ascii=False)
        write_if_changed(folder / f"{name.partition('_')[2]}.json", settings + "\n")
    report = [stage_settings(config, "report") for config in configs]
    write_if_changed(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
