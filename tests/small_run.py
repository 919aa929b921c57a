"""The files of a small finished run, written by hand: for what reads them, from the ablation to the page.

Of the corpus, rows 0 to 23 are tested in the clean protocol and rows 36 to 47 in the paper's. Training has seen rows 24
to 35: of the paper's test rows six are copies of those, three more have their output and one more is of their group.
"""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lib.config import Config
from lib.evaluation import completions, floors, metrics
from lib.model import loading
from lib.parameters import load_configs
from lib.paths import ADAPTER_RECORD
from lib.report import page, provenance
from lib.storage import write_json

SUBSETS = ("dolly", "identity_prompt", "wikihow")
HOSTILE = "<script>alert('x')</script> & \"q\" <img src=http://evil.example/a.png onerror=alert(1)> {{ 7 * 7 }}"
COLUMNS = ["iteration", "seed", "protocol", "decoding_run", "metric", "value"]
RUNS = 3
TESTED = {"clean": range(24), "paper": range(36, 48), "greedy": range(24)}
TRAINED = range(24, 36)
DECODING = {
    "max_new_tokens": 48, "end_ids": [2], "greedy": False, "temperature": 0.6, "top_p": 0.9, "top_k": 50,
}  # fmt: skip
#: The row that a left-over row repeats, in its prompt and output, in its output alone, or in its group alone.
COPIED = {n: n - 12 for n in range(36, 42)}
SAME_OUTPUT = COPIED | {n: n - 12 for n in range(42, 45)}
SAME_GROUP = SAME_OUTPUT | {45: 33}


def prompt(row: int) -> str:
    """Row 0 is hostile."""
    return f"Soal nomor {COPIED.get(row, row)}?" if row else f"Soal {HOSTILE}"


def reference(row: int) -> str:
    """Of four words, so that it has every n-gram that BLEU counts."""
    return f"Jawaban soal nomor {SAME_OUTPUT.get(row, row)}." if row else f"Jawaban {HOSTILE}"


def completion(config: Config, row: int, run: int) -> str:
    """The base writes what nobody asked for; an adapter answers, and goes on."""
    return f"{reference(row)} {config.name} {row} {run}" if config.has_adapter else f"{HOSTILE} base {row} {run}"


def answer(config: Config, row: int) -> str:
    """To one of this project's own prompts."""
    return f"Tanggapan {config.name} {row}" if config.has_adapter else f"{HOSTILE} base {row}"


def make(
    profile: str = "demo",
    iterations: str = "5",
    seeds: str = "0",
    studies: str = "",
    base_model: str = "",
    benchmarks: str = "",
) -> list[Config]:
    """Every file that the notebooks 1 to 4 leave, as far as a report reads it."""
    configs = load_configs(
        "trial", profile, iterations, seeds, base_model=base_model, studies=studies, benchmarks=benchmarks
    )
    files = configs[0].paths
    count = 52
    files.rows.parent.mkdir(parents=True)
    rows = pd.DataFrame(
        {
            "subset_name": [SUBSETS[n % 3] for n in range(count)],
            "input": [prompt(n) for n in range(count)],
            "output": [reference(n) for n in range(count)],
        }
    )
    rows.to_parquet(files.rows, index=False)
    split = pd.DataFrame(
        {
            "subset": rows["subset_name"],
            "pair": [COPIED.get(n, n) for n in range(count)],
            "output": [SAME_OUTPUT.get(n, n) for n in range(count)],
            "group": [SAME_GROUP.get(n, n) for n in range(count)],
            "split": ["test"] * 24 + ["train"] * 24 + ["validation"] * 4,
            "left_over": [n in TESTED["paper"] for n in range(count)],
        }
    )
    table = pa.Table.from_pandas(split, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"made_from": b"[]"}), files.split)
    summary = {
        "corpus": "demo",
        "files": ["corpus.jsonl.gz"],
        "formats": {"JSON lines (gzip): Cendol's columns": 1234},
        "set_aside": {"package.json": "package.json has the columns name, and none of the shapes that are known."},
        "rows_read": 1234,
        "fingerprint": "f" * 64,
        "commit": None,
    }
    summary |= {"kept": {"dolly": 1000, "wikihow": 200}, "left_out": {"other": 30}, "bad": {"no output": 4}}
    write_json(files.corpus_summary, summary)
    for config in configs:
        level = 40 if config.has_adapter else 10
        write_scores(config, level)
        write_completions(config)
        write_answers(config)
        write_language(config, 2.5 if config.has_adapter else 1.5)
        if config.benchmarks.tasks:
            write_benchmarks(config)
        write_json(files.stage_record(f"4_evaluation_{config.name}"), {"seconds": 12.0, "peak_memory_gb": 0.5})
    write_floors(configs[0])
    for config in (config for config in configs if config.has_adapter):
        files.sample(config.sampled_as).parent.mkdir(parents=True, exist_ok=True)
        parts = ["train"] * len(TRAINED) + ["validation"] * 4
        positions = [*TRAINED, *range(48, 52)]
        sample = pd.DataFrame({"position": positions, "part": parts, "subset": [SUBSETS[n % 3] for n in positions]})
        # As lib.sampling.draws writes it: of validation rows no cluster is known.
        sample["cluster"] = [float(n % 2) for n in TRAINED] + [-1.0] * 4
        sample.to_parquet(files.sample(config.sampled_as))
        write_log(config)
        files.adapter(config.name).mkdir(parents=True, exist_ok=True)
        (files.adapter(config.name) / "adapter_config.json").write_text("{}")
        write_json(files.adapter(config.name) / ADAPTER_RECORD, {"trained_by": "peft"})
        (files.adapter(config.name) / "adapter_model.safetensors").write_bytes(config.name.encode())
    return configs


def finish(configs: list[Config]) -> None:
    """The files that notebook 5 leaves, as far as what comes after training reads them; the last training is picked."""
    files = configs[0].paths
    page.collect(configs, bounds())
    files.summary.write_text("iteration,seed,protocol,metric,mean\n")
    write_json(files.manifest, provenance.manifest(configs, configs[-1]))
    shutil.copytree(files.adapter(configs[-1].name), files.final_adapter)
    files.report.write_text("<html>the page</html>")


def score_table(config: Config, level: float) -> pd.DataFrame:
    """Scores from `level` up, one point more in each decoding run, and five more in the paper's protocol."""
    rows = [
        (config.iteration, config.seed, protocol, run, metric, (level + run + more) / (100 if "f1" in metric else 1))
        for protocol, more in (("clean", 0), ("paper", 5))
        for run in range(RUNS)
        for metric in metrics.METRICS
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def bounds() -> pd.DataFrame:
    """Floors and ceiling as `floors.measure` has them: the best floor is the nearest prompt's answer, 20 everywhere."""
    levels = {"reference": [100], "nearest": [20], "random": [12, 11, 13], "shuffled": [3, 2, 4], "echo": [5]}
    rows = [
        (name, 0, protocol, draw, metric, level / (100 if "f1" in metric else 1))
        for protocol in ("clean", "paper")
        for name, some in levels.items()
        for draw, level in enumerate(some)
        for metric in metrics.OF_COMPLETIONS
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def write_scores(config: Config, level: float) -> None:
    config.paths.scores(config.name).parent.mkdir(parents=True, exist_ok=True)
    score_table(config, level).to_csv(config.paths.scores(config.name), index=False)


def write_completions(config: Config, texts=completion) -> None:
    """The completions of every protocol, and what scores are made of: correct is what begins with its reference."""
    for protocol, tested in TESTED.items():
        path = config.paths.completions(config.name, protocol)
        path.parent.mkdir(parents=True, exist_ok=True)
        known = [
            # Every fourth uses up all of its tokens.
            {"row": row, "run": run, "text": texts(config, row, run), "ids": [1] * (5 if row % 4 else 48)}
            for row in tested
            for run in range(1 if protocol == "greedy" else RUNS)
        ]
        head = {"settings": {}, "decoding": DECODING | ({"greedy": True} if protocol == "greedy" else {})}
        path.write_text("\n".join(map(json.dumps, [head, *known])) + "\n")
        pairs = pairs_of(known)
        # What a model answers rightly in its first run, it expects.
        expected = {k["row"]: k["text"].startswith(reference(k["row"])) for k in known if k["run"] == 0}
        pairs["bytes"] = [len(reference(k["row"]).encode()) for k in known]
        pairs["nats"] = pairs["bytes"] * [(2 if expected[k["row"]] else 3) - 0.01 * (k["row"] % 5) for k in known]
        path = config.paths.pairs(config.name, protocol)
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs.to_parquet(path, index=False)


def write_answers(config: Config) -> None:
    """The answers to this project's own prompts."""
    ((protocol, asked),) = completions.own_prompts().items()
    ids = {row: loading.load_tokenizer(config.model)(answer(config, row))["input_ids"] for row in asked.index}
    known = [{"row": row, "run": 0, "text": answer(config, row), "ids": ids[row]} for row in asked.index]
    lines = map(json.dumps, [{"settings": {}, "decoding": DECODING | {"greedy": True}}, *known])
    config.paths.completions(config.name, protocol).write_text("\n".join(lines) + "\n")


def pairs_of(known: list[dict]) -> pd.DataFrame:
    """What the scores of some completions are made of."""
    written, asked = [k["text"] for k in known], [reference(k["row"]) for k in known]
    pairs = pd.DataFrame(known)[["row", "run"]].assign(
        subset=[SUBSETS[k["row"] % 3] for k in known], group=[SAME_GROUP.get(k["row"], k["row"]) for k in known]
    )
    pairs = pd.concat([pairs, metrics.each(written, asked)], axis=1)
    return pairs.assign(correct=[text.startswith(right) for text, right in zip(written, asked, strict=True)])


def write_floors(config: Config, texts=None) -> None:
    """What the scores of floors and ceiling are made of: those that draw have two draws; the reference apart, all say
    what nobody asked for, or what `texts` maps a floor and a row to.
    """
    for name in (floors.CEILING, *floors.FLOORS):
        known = [
            {"row": row, "run": run, "text": texts(name, row) if texts else f"tanpa model {name} {row} {run}"}
            for row in TESTED["clean"]
            for run in range(2 if name in ("random", "shuffled") else 1)
        ]
        if name == floors.CEILING:
            known = [line | {"text": reference(line["row"])} for line in known]
        pairs_of(known).to_parquet(config.paths.pairs(name, "clean"), index=False)


def write_language(config: Config, loss: float) -> None:
    rows = [("clean", run, "indonesian_share", 0.5 + 0.1 * run) for run in range(RUNS)]
    rows.append(("clean", 0, "reference_indonesian_share", 0.95))
    english = {"loss_per_byte_en": loss, "rougeL": 20 * loss, "english_share": 1 / loss, "reference_english_share": 0.9}
    rows += [("english", 0, metric, value) for metric, value in english.items()]
    table = pd.DataFrame(rows, columns=COLUMNS[2:])
    table.insert(0, "iteration", config.iteration)
    table.insert(1, "seed", config.seed)
    table.to_csv(config.paths.language(config.name), index=False)
    pairs = pd.DataFrame({"row": range(12), "run": 0, "subset": "dolly", "group": np.arange(12) // 2, "bytes": 10})
    # Around the loss and the ROUGE-L above, one half of the rows on either side.
    apart = np.where(pairs["group"] % 2, 1.1, 0.9)
    pairs["nats"] = loss * apart * pairs["bytes"] * np.log(2)
    for name in metrics.ROUGES:
        pairs[name] = 20 * loss * apart
    pairs.to_parquet(config.paths.pairs(config.name, "english"), index=False)


def write_benchmarks(config: Config) -> None:
    """Items of `xcopa_id` and of `nusax`: the base has half of a hundred right, an adapter three quarters, in fewer
    bits a byte of Indonesian and in as many of English.
    """
    base = config.name == "base"
    right = [n % 2 == 1 or (not base and n % 4 == 0) for n in range(100)]
    choices = {"task": "xcopa_id", "metric": "accuracy", "item": range(100), "correct": np.array(right, dtype=float)}
    parts = [pd.DataFrame(choices | {"chance": 0.5})]
    for metric, lost in (("loss_per_byte", 0 if base else 1), ("loss_per_byte_en", 0)):
        nats = np.linspace(10, 20, 40) - lost
        parts.append(pd.DataFrame({"task": "nusax", "metric": metric, "item": range(40), "nats": nats, "bytes": 10}))
    items = pd.concat(parts, ignore_index=True)
    # As a text of the benchmark, what the second training row asks.
    items["texts"] = [["Teks rahasia dari tolok ukur", prompt(25)] if n == 0 else [] for n in range(len(items))]
    items["loglikelihoods"] = [[0.0]] * len(items)
    config.paths.benchmarks(config.name).parent.mkdir(parents=True, exist_ok=True)
    items.to_parquet(config.paths.benchmarks(config.name), index=False)


def training_log(last: float = 2.25) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "step": [0, 5, 10],
            "epoch": [0.0, 0.5, 1.0],
            "train_loss": [np.nan, 3.0, 2.0],
            "validation_loss": [3.5, 2.5, last],
            "learning_rate_A": [np.nan, 2e-4, 1e-4],
            "learning_rate_B": [np.nan, 3.2e-3, 1.6e-3],
            "tokens_per_second": [np.nan, 900.0, 1100.0],
            "peak_memory_gb": [np.nan, 0.5, 0.6],
        }
    )


def name_sources(config: Config) -> None:
    """Two sources in the summary of the run's corpus, as `CORPUS=open` writes them."""
    path = config.paths.corpus_summary
    common = {"parser": "p", "commit": "ab" * 20, "stated": "LICENSE", "attribution": "Penguji", "rows": 1024}
    made = [
        common
        | {"name": name, "subset": subset, "licence": licence, "repository": f"https://example.org/someone/{where}"}
        for name, subset, licence, where in (
            ("answers", "identity_prompt", "MIT", "texts"),
            ("poems", "indo_puisi", "CC-BY-4.0", "others"),
        )
    ]
    write_json(path, json.loads(path.read_text()) | {"sources": made})


def write_log(config: Config, last: float = 2.25) -> None:
    """The log of a training that ends with this validation loss."""
    config.paths.training(config.name).mkdir(parents=True, exist_ok=True)
    training_log(last).to_csv(config.paths.training_log(config.name), index=False)


def fail(config: Config, stage: str, why: str) -> None:
    """Take back what a training's evaluation left, and say that this stage of it failed."""
    config.paths.scores(config.name).unlink()
    config.paths.pairs(config.name).unlink()
    write_json(config.paths.failure(stage), why)
