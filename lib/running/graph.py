"""The notebooks of a run: which there are, what each can see of the settings, and which notebook each continues.

    python -m lib.running.graph --profile demo --iterations all

Make calls this, so that it runs again what a changed setting affects, and nothing else.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib import lock
from lib.config import BENCHMARKS, STAGES, Config
from lib.parameters import load_configs
from lib.paths import ADAPTER_RECORD, REFERENCES, STARTERS
from lib.storage import write_if_changed, write_json
from lib.training import tracking


def stage_settings(config: Config, stage: str) -> dict[str, Any]:
    """What one stage can see of the settings, as plain values: when this is unchanged, the stage need not rerun.

    It includes whose sample or examples the stage uses: an iteration that newly shares another's finds them older than
    its own results, yet must run again. It does not include which iteration asks, since several may.
    """
    identity: dict[str, Any] = {"run": config.run}
    if stage == "preprocessing":
        identity["sampled_as"] = config.sampled_as
    if stage == "training":
        identity["prepared_as"] = config.prepared_as
    if stage not in ("sampling", "preprocessing") or (stage == "sampling" and config.sampling.redraw):
        identity["seed"] = config.seed
    if stage == "report":
        identity["iteration"] = config.iteration
    return identity | {name: asdict(getattr(config, name)) for name in STAGES[stage]}


def stages(configs: list[Config]) -> dict[str, tuple[Config, str, str]]:
    """The executed notebooks of a run, apart from the report, in an order in which they can run.

    Returns:
        By the notebook's name: the settings that it runs with, its stage, and the notebook whose work it continues
        ("" for none). What several iterations share is there once, named after the first that shares it.
    """
    found: dict[str, tuple[Config, str, str]] = {}
    trainings = [config for config in configs if config.has_adapter]
    for config in trainings:
        sampled, prepared = f"1_sampling_{config.sampled_as}", f"2_preprocessing_{config.prepared_as}"
        found[sampled] = (config, "sampling", "")
        found[prepared] = (config, "preprocessing", sampled)
    for config in configs:
        if not config.has_adapter:
            found[f"4_evaluation_{config.name}"] = (config, "evaluation", "")
    for config in trainings:
        trained = f"3_training_{config.name}"
        found[trained] = (config, "training", f"2_preprocessing_{config.prepared_as}")
        if config.plan.scored:
            found[f"4_evaluation_{config.name}"] = (config, "evaluation", trained)
    return found


def products(config: Config, stage: str) -> list[Path]:
    """What a stage leaves for later stages and commands: where one of these is gone, it has to run again."""
    files, name, figures = config.paths, config.name, config.paths.figures
    if stage == "sampling":
        corpus = [files.rows, files.corpus_summary, files.split, files.alike, figures / "leakage.png"]
        return [*corpus, files.sample(config.sampled_as)]
    if stage == "preprocessing":
        made = [files.examples(config.prepared_as, part) for part in ("train", "validation")]
        return [*made, figures / f"lengths_{config.prepared_as}.png"]
    if stage == "training":
        return [*adapter_files(files.adapter(name)), files.training_log(name), figures / f"training_{name}.png"]
    if stage == "evaluation":
        drawn = ["clean", "paper", *(["english"] if config.english.source else [])]
        return [
            *(files.completions(name, protocol) for protocol in [*drawn, "greedy", "own"]),
            *(files.pairs(name, protocol) for protocol in [*drawn, "greedy"]),
            *(files.likelihood(name, protocol) for protocol in drawn),
            *([files.benchmarks(name)] if config.benchmarks.tasks else []),
            *(files.scores(name), files.language(name), figures / f"bleu_{name}.png"),
        ]
    released = [*adapter_files(files.final_adapter), *(files.final_adapter / name for name in (STARTERS, REFERENCES))]
    shown = [figures / f"{name}.png" for name in ("loss_per_byte", "bleu", "rouge", "weighted_f1")]
    return [*released, *shown, files.report, files.results, files.summary, files.manifest]


def adapter_files(folder: Path) -> list[Path]:
    """What an adapter's folder must have."""
    return [folder / name for name in ("adapter_config.json", "adapter_model.safetensors", ADAPTER_RECORD)]


def settle(configs: list[Config], asked: dict[str, str]) -> None:
    """Write what each stage can see of the settings to artifacts/<run>/settings/, for Make to compare.

    An executed notebook whose products are gone is removed: Make sees notebooks alone.

    Args:
        asked: the variables that Make was given.
    """
    # Not needed for the graph, which may be drawn before there is an environment.
    from lib.running import inputs

    files = configs[0].paths
    found = stages(configs)
    read = {name: inputs.named(config, stage) for name, (config, stage, _) in found.items()}
    prints = inputs.fingerprints(dict.fromkeys(pair for names in read.values() for pair in names.items()))
    for name, (config, stage, _) in found.items():
        settings = stage_settings(config, stage)
        if known := {kind: prints[kind, of] for kind, of in read[name].items() if (kind, of) in prints}:
            settings["files"] = known
        written = json.dumps(settings, indent=1, ensure_ascii=False)
        write_if_changed(files.settings(name.partition("_")[2]), written + "\n")
    report = [stage_settings(config, "report") for config in configs]
    written = json.dumps(report, indent=1, ensure_ascii=False)
    write_if_changed(files.settings("report"), written + "\n")
    for name, (config, stage, _) in (found | {"5_report": (configs[0], "report", "")}).items():
        if not all(path.is_file() for path in products(config, stage)):
            (files.reports / f"{name}.ipynb").unlink(missing_ok=True)
    own = {"PROFILE": "demo", "RUN": asked["PROFILE"]}
    write_json(files.asked, {name: value for name, value in asked.items() if value not in ("", own.get(name))})


def main() -> None:
    """Write the settings of a run for Make to compare, while nobody else makes it, and go on with a command.

    With --graph, print instead the notebooks of the run as `notebook:notebook it needs`, a word each.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    names = ("run", "profile", "corpus", "base-model", "iterations", "seeds", "studies", "benchmarks", "subsets")
    for name in names:
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--graph", action="store_true")
    parser.add_argument("--then", nargs=argparse.REMAINDER, default=[], help="a command that holds the run too")
    args = parser.parse_args()
    given = args.run, args.profile, args.iterations, args.seeds, args.corpus, args.base_model, args.studies
    try:
        configs = load_configs(*given, args.benchmarks, args.subsets)
        if not args.graph:
            tracking.chosen()
        # Not while the graph is drawn: that may be before there is an environment.
        if not args.graph and not set(configs[0].benchmarks.tasks.split()) <= set(BENCHMARKS):
            from lib.evaluation import benchmarks

            benchmarks.check(configs[0].benchmarks.tasks)
        if args.graph:
            print(*(f"{name}:{need}" for name, (_, _, need) in stages(configs).items()))
            return
        with lock.held(configs[0].paths):
            asked = {name.replace("-", "_").upper(): getattr(args, name.replace("-", "_")) for name in names}
            # Without the server, a run that began at one would go on here, and begin with what it drew again.
            settle(configs, asked | {name: os.environ.get(name, "") for name in ("ENGINE_URL", "TRACKER")})
            if args.then:
                os.execvp(args.then[0], args.then)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
