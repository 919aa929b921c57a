"""The notebooks of a run: which there are, what each can see of the settings, and which notebook each continues.

    python -m lib.running.graph --profile demo --iterations all

Make calls this, so that it runs again what a changed setting affects, and nothing else.
"""

import argparse
import json
from dataclasses import asdict
from typing import Any

from lib.config import BENCHMARKS, STAGES, Config
from lib.parameters import load_configs
from lib.storage import write_if_changed


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


def main() -> None:
    """Write what each stage can see of the settings to artifacts/<run>/settings/, for Make to compare.

    With --graph, print instead the notebooks of the run as `notebook:notebook it needs`, a word each.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("run", "profile", "corpus", "base-model", "iterations", "seeds", "studies", "benchmarks", "subsets"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--graph", action="store_true")
    args = parser.parse_args()
    given = args.run, args.profile, args.iterations, args.seeds, args.corpus, args.base_model, args.studies
    try:
        configs = load_configs(*given, args.benchmarks, args.subsets)
        # Not while the graph is drawn: that may be before there is an environment.
        if not args.graph and not set(configs[0].benchmarks.tasks.split()) <= set(BENCHMARKS):
            from lib.evaluation import benchmarks

            benchmarks.check(configs[0].benchmarks.tasks)
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
