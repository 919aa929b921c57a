"""`make report PROFILE=paper` as it is, from a hub on the loopback interface with a small corpus and a small model."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stand_in_hub import Hub, serving

from lib.corpus.files import COLUMNS
from lib.demo import generator

ROOT = Path(__file__).resolve().parent.parent
CORPUS, MODEL = "indonlp/cendol_collection_v2", "someone/tiny-llama"
ROWS = 60

pytestmark = pytest.mark.slow


def shard(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in COLUMNS])), file)
    return file.getvalue()


def corpus(folder):
    """Some rows of each subset in one shard, and rows of other subsets in another."""
    generator.write(folder / "corpus.jsonl.gz")
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    seen, kept, others = Counter(), [], []
    for row in rows:
        seen[row["subset_name"]] += 1
        if row["subset_name"] == "mt_en_id":
            others.append(row)
        elif seen[row["subset_name"]] <= ROWS:
            kept.append(row)
    return {"data/train-00000-of-00002.parquet": shard(kept), "data/train-00001-of-00002.parquet": shard(others)}


def test_the_paper_s_profile_goes_from_the_hub_to_a_report(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("lib", "notebooks", "reports/published"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    model = {path.name: path.read_bytes() for path in (ROOT / "lib" / "demo" / "base_model").iterdir()}
    with serving(Hub()) as hub:
        made_of = hub.add("dataset", CORPUS, corpus(tmp_path))
        weights = hub.add("model", MODEL, model)
        done = subprocess.run(
            ["make", "report", f"PY={sys.executable}", "PROFILE=paper", "RUN=small", f"BASE_MODEL={MODEL}"],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
            | {"PYTHONPATH": str(tmp_path), "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
            | {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
    assert done.returncode == 0, done.stdout[-3_000:]
    manifest = json.loads((tmp_path / "reports/small/manifest.json").read_text())
    assert manifest["corpus"]["source"] == CORPUS
    assert manifest["corpus"]["commit"] == made_of
    assert manifest["corpus"]["sources"] == []
    assert list(manifest["corpus"]["formats"]) == ["parquet: Cendol's columns"]
    assert manifest["base_model"]["source"] == f"{MODEL}@{weights}"
    assert manifest["scale"] == 1.0
    record = json.loads((tmp_path / "artifacts/small/final_adapter/klepon.json").read_text())
    assert record["base_model"] == f"{MODEL}@{weights}"
    assert weights[:10] in (tmp_path / "reports/small/report.html").read_text()
    summary = json.loads((tmp_path / "artifacts/small/corpus/summary.json").read_text())
    assert list(summary["not_fetched"]) == ["data/train-00001-of-00002.parquet"]
