"""The model card and the data card: what a user must know, from the files of a finished run and nothing else."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from lib import hub, paths
from lib.corpus import splits
from lib.evaluation import floors, statistics
from lib.evaluation.metrics import METRIC_NAMES, digits
from lib.model import loading
from lib.release import licences
from lib.release.finished import Finished
from lib.release.licences import Licence
from lib.storage import whole

#: The names of our metrics on the hub.
HUB_METRICS = {
    "loss_per_byte": "bits_per_byte",
    "bleu": "bleu",
    "chrf": "chrf",
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
    "weighted_f1": "weighted_f1",
}
#: The hub's names for numbers of rows.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
DATA_CARD = "DATA_CARD.md"
#: The settings that may name a place on this machine.
_PLACES = ("source", "base_model")
#: Paths from the root or a home, or up from here: in quotation marks, where they may have spaces, or without. The
#: slashes of `and/or`, of addresses and of HTML begin none.
_PATH = re.compile(
    r"""(?<=['"`])(?:~\w*|\.\.)?/[^'"`\n]+(?=['"`])|(?<![\w.:/<~])(?:~\w*|\.\.)?(?:/[^\s/'"`,;:()<>]+){2,}/?"""
)


def write(run: Finished) -> None:
    """Write both cards beside the final adapter, and the model card beside the merged model where there is one."""
    files = run.config.paths
    _write(files.final_adapter / "README.md", model_card(run))
    _write(files.final_adapter / DATA_CARD, data_card(run))
    if run.merged:
        _write(files.merged / "README.md", model_card(run, merged=True))


def model_card(run: Finished, merged: bool = False, here: str = ".") -> str:
    """The card of the adapter, or of the model that it was merged into, with the hub's metadata on top.

    Args:
        here: what it is loaded from: a repository on the hub, or the folder itself.
    """
    config, base = run.config, _named(run.manifest["base_model"]["source"])
    corpus = _named(run.manifest["corpus"]["source"], run.manifest["corpus"]["commit"])
    licence, scores = licence_of(run), _scores(run)
    room = floors.room(run.results[run.results["protocol"] == "clean"])
    data = ModelCardData(
        language=["id", "en"],
        license=licence.identifier,
        license_name="as-the-base-model" if licence.identifier == "other" else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        base_model=base["repository"],
        # Without it the hub takes every model with a base for a full fine-tuning.
        base_model_relation=("finetune" if merged else "adapter") if base["repository"] else None,
        datasets=[corpus["repository"]] if corpus["repository"] else None,
        tags=["indonesian", "loraplus", *([] if merged else ["lora"]), *(["llama"] if licence.llama else [])],
        model_name=name(run),
        eval_results=_eval_results(scores, room, corpus),
    )
    summary = json.loads(config.paths.corpus_summary.read_text(encoding="utf-8"))
    sample = pd.read_parquet(config.paths.sample(config.sampled_as))
    return _template("model_card.md.j2").render(
        metadata=data.to_yaml(),
        name=name(run),
        merged_model=merged,
        here=here,
        config=config,
        manifest=run.manifest,
        base=base,
        corpus=corpus,
        subsets=[subset for subset, count in summary["kept"].items() if count],
        licence=licence,
        corpus_licence=licences.of_corpus(run.manifest["corpus"]["source"]),
        scores=_score_rows(scores, room),
        floors=floors.FLOORS,
        runs=int(scores["runs"].max()),
        test_rows=_test_rows(run),
        counts=sample["part"].value_counts().to_dict(),
        merge=run.merged,
    )


def data_card(run: Finished) -> str:
    """The card of the sample that was drawn: counts, split and leaks, and no text of the corpus."""
    config, corpus = run.config, _named(run.manifest["corpus"]["source"], run.manifest["corpus"]["commit"])
    licence = licences.of_corpus(run.manifest["corpus"]["source"])
    split = splits.read(config)
    sample = pd.read_parquet(config.paths.sample(config.sampled_as))
    own = corpus["source"] == "demo"
    data = DatasetCardData(
        language=["id"],
        license=licence.identifier,
        license_name="mixed" if licence.identifier == "other" else None,
        multilinguality="monolingual",
        annotations_creators="machine-generated" if own else None,
        size_categories=next((label for most, label in _SIZES if len(sample) < most), "1M<n<10M"),
        source_datasets=["original"] if own else ["extended"],
        task_categories=["text-generation"],
        pretty_name=f"The sample of Klepon's run {config.run}",
    )
    train = sample[sample["part"] == "train"]
    return _template("data_card.md.j2").render(
        metadata=data.to_yaml(),
        config=config,
        manifest=run.manifest,
        corpus=corpus,
        licence=licence,
        summary=json.loads(config.paths.corpus_summary.read_text(encoding="utf-8")),
        by_subset=_markdown(_counts(sample["subset"], sample["part"], "rows")),
        clusters=train["cluster"].nunique() if (train["cluster"] >= 0).any() else 0,
        by_cluster=_markdown(_counts(train["cluster"].astype(int), train["subset"], "rows")),
        sides=_markdown(_counts(split["subset"], split["split"], "rows")),
        groups=split["group"].nunique(),
        leaks=splits.leakage(split, config.corpus.test_share).loc["all"].to_dict(),
        leaked=_leaked(run, split, train),
    )


def licence_of(run: Finished) -> Licence:
    """The licence of what this run made."""
    return licences.of_model(run.manifest["base_model"]["source"], loading.base_model_folder(run.config.model))


def name(run: Finished) -> str:
    """What this run's model is called; a Llama's begins with "Llama", as its licence requires."""
    base = _named(run.manifest["base_model"]["source"])
    if base["source"] == "demo":
        return f"klepon-{run.config.run}"
    short = re.sub(r"(-unsloth)?-bnb-4bit$", "", str(base["short"]))
    begins = "Llama-" if licence_of(run).llama and not short.startswith("Llama") else ""
    return f"{begins}{short}-klepon-{run.config.run}"


def public_name(source: str) -> str:
    """A base model's public name: a hub id with its commit, or the last part of a folder's path."""
    named = _named(source)
    return f"{named['repository']}@{named['commit']}" if named["repository"] else Path(source).name


def public(told: Any) -> Any:
    """A manifest in which files and folders of this machine are named by the last part of their paths alone."""
    if isinstance(told, list):
        return [public(each) for each in told]
    if not isinstance(told, dict):
        return told
    return {
        key: _last_part(value) if key in _PLACES and isinstance(value, str) else public(value)
        for key, value in told.items()
    }


def public_command(command: str) -> str:
    """A command of make, in whose variables files and folders are named by the last part of their paths alone."""
    words = (word.partition("=") for word in shlex.split(command))
    return shlex.join(f"{name}{equals}{_last_part(value)}" for name, equals, value in words)


def public_text(text: str) -> str:
    """A sentence in which paths lead from the project's folder, and elsewhere are named by their last part alone."""
    return _PATH.sub(lambda found: Path(found[0]).name, text.replace(f"{paths.ROOT}/", ""))


def _last_part(name: str) -> str:
    of_the_hub = hub.is_name(name) and not Path(paths.located(name)).exists()
    return name if of_the_hub else Path(name).name


def _named(source: str, commit: str | None = None) -> dict[str, str | None]:
    """A source as a card names it: one on the hub, which has a commit, in full; any other by its last part alone.

    Where a folder is on somebody's machine is private.
    """
    repository, _, revision = source.partition("@")
    at = commit or (revision if re.fullmatch("[0-9a-f]{40}", revision) else None)
    if at:
        return {"source": source, "repository": repository, "commit": at, "short": repository.partition("/")[2]}
    return {"source": source, "repository": None, "commit": None, "short": Path(source).name.removesuffix(".gguf")}


def _scores(run: Finished) -> pd.DataFrame:
    """The clean scores of base and final adapter: means over decoding runs with 95 % intervals over test groups."""
    results, config = run.results, run.config
    own = (results["iteration"] == config.iteration) & (results["seed"] == config.seed)
    shown = results[((results["iteration"] == "base") | own) & (results["protocol"] == "clean")]
    files = config.paths
    pairs = {
        key: pd.read_parquet(files.pairs(name))
        for key, name in ((("base", 0, "clean"), "base"), ((config.iteration, config.seed, "clean"), config.name))
    }
    return statistics.summarise(shown, pairs)


def _score_rows(scores: pd.DataFrame, room: pd.DataFrame) -> list[dict[str, str]]:
    """One line per metric: its name, base and adapter as they are printed, and the room in which they lie, where the
    metric is one of completions: the best answer without a model (`floor`, and `by` which) and the `reference`.
    """
    rows = []
    for metric, part in scores.groupby("metric", sort=False):
        shown_digits = digits(str(metric))
        shown = {
            "base" if row.iteration == "base" else "adapter": f"{row.mean_:.{shown_digits}f}"
            + ("" if pd.isna(row.low) else f" [{row.low:.{shown_digits}f}, {row.high:.{shown_digits}f}]")
            for row in part.rename(columns={"mean": "mean_"}).itertuples()
        }
        shown |= {"floor": "", "by": "", "reference": ""}
        if metric in room.index:
            floor, by, ceiling = room.loc[metric]
            shown |= {"floor": f"{floor:.{shown_digits}f}", "by": by, "reference": f"{ceiling:.{shown_digits}f}"}
        rows.append({"metric": METRIC_NAMES[str(metric)], **shown})
    return rows


def _eval_results(scores: pd.DataFrame, room: pd.DataFrame, corpus: dict[str, str | None]) -> list[EvalResult]:
    """The adapter's means for the hub; the name of each metric of completions says what an answer without a model has.

    Weighted F1 is not what the hub calls `f1`: by it, most answers in the right language are correct.
    """
    adapter = scores[scores["iteration"] != "base"].rename(columns={"mean": "mean_"})
    floor = {metric: f" (the best answer without a model: {value:.4g})" for metric, value in room["floor"].items()}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=corpus["repository"]
            or ("klepon-demo" if corpus["source"] == "demo" else str(corpus["short"])),
            dataset_name=f"{corpus['short']}, test rows kept apart by group",
            dataset_split="test",
            dataset_revision=corpus["commit"],
            metric_type=HUB_METRICS[row.metric],
            metric_name=METRIC_NAMES[row.metric] + floor.get(row.metric, ""),
            metric_value=round(float(row.mean_), 4),
        )
        for row in adapter.itertuples()
    ]


def _test_rows(run: Finished) -> int:
    return len(pd.read_parquet(run.config.paths.pairs(run.config.name), columns=["row"])["row"].unique())


def _leaked(run: Finished, split: pd.DataFrame, train: pd.DataFrame) -> dict[str, float]:
    """The share of the clean test rows whose row, output or group is in the training sample."""
    tested = pd.read_parquet(run.config.paths.pairs(run.config.name), columns=["row"])["row"].unique()
    trained, test = split.iloc[train["position"]], split.loc[tested]
    return {what: float(test[what].isin(trained[what]).mean()) for what in ("pair", "output", "group")}


def _counts(lines: pd.Series, columns: pd.Series, what: str) -> pd.DataFrame:
    table = pd.crosstab(lines, columns)
    table[what] = table.sum(axis=1)
    table.loc["all"] = table.sum()
    return table


def _markdown(table: pd.DataFrame) -> str:
    head = [str(table.index.name or ""), *map(str, table.columns)]
    lines = [head, ["---"] + ["---:"] * len(table.columns)]
    lines += [
        [str(index), *(f"{value:,}" for value in row)] for index, row in zip(table.index, table.values, strict=True)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _template(file: str) -> jinja2.Template:
    # Markdown, and nothing in it comes from a text of the corpus: there is nothing to escape.
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    ).get_template(file)


def _write(path: Path, text: str) -> None:
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
