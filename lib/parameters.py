"""The settings of a run: the defaults of lib.config, then its profile, its iteration, and the command line."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lib import paths
from lib.config import (
    LARGEST_SEED,
    PAPER_CORPUS_ROWS,
    SCALED,
    SECTIONS,
    STAGES,
    STUDIES,
    VARYING,
    Config,
    ConfigError,
    check,
    nearest,
    run_name,
)


def load_config(
    run: str = "",
    profile: str = "demo",
    iteration: str = "5",
    seed: int = 0,
    corpus: str = "",
    base_model: str = "",
    benchmarks: str = "",
    subsets: str = "",
) -> Config:
    """Read the settings of one run and iteration: defaults, then profile, then iteration, then the arguments.

    An empty `run` is named after the profile; an empty `corpus`, `base_model`, `benchmarks` or `subsets` is the
    profile's. Of benchmarks and subsets, the word `none` stands for none.

    Raises:
        ConfigError: for an unknown profile, iteration, section or key (naming the nearest right one), a value of the
            wrong type, or a value that makes no sense.
    """
    config = _read(run, profile, iteration, seed, corpus, base_model, benchmarks, subsets)
    if not config.has_adapter:
        return config
    others = [_read(run, profile, name, 0, corpus, base_model, benchmarks, subsets) for name in iterations()]
    return _shared(config, others)


def _shared(config: Config, others: list[Config]) -> Config:
    """The same settings, with the names of the iterations whose sample, examples and training it shares."""

    def first(sections: Sequence[str]) -> str:
        return next(o.iteration for o in others if all(getattr(o, s) == getattr(config, s) for s in sections))

    drawn_by = f"_seed{config.seed}" if config.sampling.redraw and config.seed else ""
    return replace(
        config,
        sampled_as=first(STAGES["sampling"]) + drawn_by,
        prepared_as=first(STAGES["sampling"] + STAGES["preprocessing"]) + drawn_by,
        trained_as=first(STAGES["report"]),
    )


def _read(
    run: str, profile: str, iteration: str, seed: int, corpus: str, base_model: str, benchmarks: str, subsets: str
) -> Config:
    config = _profile(
        Config(run=run_name(run or profile), profile=profile, iteration=iteration, seed=seed),
        _known(profile, _profiles(), "profile"),
    )
    if iteration != "base":
        file = _known(iteration, _iteration_files(), "iteration")
        with _named(file):
            config = _merge(config, _toml(file))
    if corpus:
        config = replace(config, corpus=replace(config.corpus, source=corpus))
    if subsets.strip():
        config = replace(config, corpus=replace(config.corpus, subsets=subsets.strip()))
    if base_model:
        config = replace(config, model=replace(config.model, base_model=base_model))
    if benchmarks:
        config = replace(config, benchmarks=replace(config.benchmarks, tasks=" ".join(_words(benchmarks))))
    if not config.plan.trained:
        # Neither benchmarks nor English rows are asked in other words: the base model's scores are this one's too.
        config = replace(
            config, benchmarks=replace(config.benchmarks, tasks=""), english=replace(config.english, source="")
        )
    config = _scaled(config)
    check(config)
    return config


def _profile(config: Config, file: Path) -> Config:
    """The settings with those of a profile, after those of the profile that it extends."""
    with _named(file):
        layer = _toml(file)
        extended = _typed("extends", layer.pop("extends", ""), "")
        if extended:
            first = _known(extended, _profiles(), "profile")
            if "extends" in _toml(first):
                raise ConfigError(f"extends = {extended!r}, which extends another itself; name that one")
            config = _profile(config, first)
        return _merge(config, layer)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Begin the message of an error with the file that it is about."""
    try:
        yield
    except ValueError as error:
        wrong = "not TOML: " if isinstance(error, tomllib.TOMLDecodeError) else ""
        raise ConfigError(f"{file.relative_to(paths.PARAMETERS.parent.parent)}: {wrong}{error}") from None


def _toml(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def load_configs(
    run: str = "",
    profile: str = "demo",
    iterations: str = "",
    seeds: str = "",
    corpus: str = "",
    base_model: str = "",
    studies: str = "",
    benchmarks: str = "",
    subsets: str = "",
) -> list[Config]:
    """The settings of every model of a run: the base model, as it is and then asked in other words, and the trainings.

    Lists are words separated by spaces, and empty ones are the profile's (`config.Plan`). `all` stands for every row of
    Table 2, or for every study, and `none` for no study. A study adds its variants, and row 5 where they vary it. A
    variant has the seeds of its own file, unless the command line names some.
    """
    base = load_config(run, profile, "base", 0, corpus, base_model, benchmarks, subsets)
    wanted = _words(iterations or base.plan.iterations, all_of=rows())
    for study in _words(studies or base.plan.studies, all_of=STUDIES):
        if study not in STUDIES:
            raise ConfigError(f"no study {study!r}{nearest(study, STUDIES)}; choose from: {', '.join(STUDIES)}")
        variants = [name for name in _iteration_files() if name.startswith(f"{study}_")]
        wanted += ["5", *variants] if study in VARYING else variants
    others = [_read(run, profile, name, 0, corpus, base_model, benchmarks, subsets) for name in _iteration_files()]
    asked, trainings = [base], []
    # The base model is part of every run.
    for iteration in dict.fromkeys(name for name in wanted if name != "base"):
        first = _read(run, profile, iteration, 0, corpus, base_model, benchmarks, subsets)
        if not first.plan.trained:
            asked.append(first)
            continue
        for seed in dict.fromkeys(map(_seed, (seeds or first.plan.seeds).split())):
            trainings.append(_shared(replace(first, seed=seed), others))
    if not any(config.plan.scored for config in trainings):
        raise ConfigError(
            "ITERATIONS, SEEDS and STUDIES name no training that is scored: give at least one, such as ITERATIONS=5"
        )
    return asked + trainings


def _words(text: str, all_of: Sequence[str] = ()) -> list[str]:
    """The words of a variable; what `all` stands for, or nothing for `none`."""
    return {"all": list(all_of), "none": []}.get(text.strip(), text.split())


def _seed(text: str) -> int:
    # isdigit alone takes figures that int does not, such as a superscript two.
    found = re.fullmatch(r"0*(\d{1,10})", text, re.ASCII)
    if not found or int(found[1]) > LARGEST_SEED:
        raise ConfigError(
            f"SEEDS: {text!r} is no whole number from 0 to {LARGEST_SEED:,}; give such numbers separated by spaces, "
            'such as SEEDS="0 1 2"'
        )
    return int(found[1])


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
        raise ConfigError(f"no {kind} {name!r}{nearest(name, list(files))}; choose from: {', '.join(files)}")
    return files[name]


def _merge(config: Config, layer: dict[str, Any]) -> Config:
    for name, value in layer.items():
        if name == "scale":
            config = replace(config, scale=_typed("scale", value, 1.0))
        elif name not in SECTIONS:
            known = ["scale", *SECTIONS]
            raise ConfigError(f"unknown section [{name}]{nearest(name, known)}; choose from: {', '.join(known)}")
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
