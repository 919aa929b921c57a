"""The hub, against one on the loopback interface that serves the real interface."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants, file_download
from stand_in_hub import Hub, serving

from lib import hub, paths
from lib.config import Model
from lib.corpus import selection
from lib.corpus.files import COLUMNS, SUBSETS, CorpusError, bytes_to_fetch
from lib.model import loading

NAME = "someone/cendol"


def rows(subset, count, size=400):
    """Rows of one subset, each with a long and incompressible output."""
    choice = random.Random(subset)
    letters = "abcdefghijklmnopqrstuvwxyz "
    return [
        dict.fromkeys(COLUMNS, "x")
        | {"subset_name": subset, "input": f"{subset} {n}?", "output": "".join(choice.choices(letters, k=size))}
        for n in range(count)
    ]


def parquet(rows, row_group_size=500):
    table = pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in COLUMNS]))
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=row_group_size, compression="none")
    return file.getvalue()


@pytest.fixture(scope="module")
def shards():
    mixed = [row for subset in SUBSETS for row in rows(subset, 20)] + rows("mt_en_id", 30)
    return {
        "data/train-0.parquet": parquet(mixed, 150),
        "data/train-1.parquet": parquet(rows("mt_en_id", 10_000)),
        "README.md": b"# Not a row.",
    }


@pytest.fixture
def there(monkeypatch, tmp_path, shards):
    with serving(Hub(), monkeypatch, tmp_path / "cache") as there:
        there.add("dataset", NAME, shards)
        yield there


def selected(tmp_path, name=NAME):
    return selection.select(name, tmp_path / "selected" / "rows.parquet")


def test_a_data_set_of_the_hub_is_read(there, tmp_path):
    summary = selected(tmp_path)
    assert summary.kept == dict.fromkeys(SUBSETS, 20)
    assert summary.left_out == {"mt_en_id": 30}


def test_of_a_file_without_the_subsets_only_the_footer_crosses_the_network(there, tmp_path, shards):
    summary = selected(tmp_path)
    assert summary.not_fetched == {"data/train-1.parquet": 10_000}
    assert summary.files == ("data/train-0.parquet",)
    size = len(shards["data/train-1.parquet"])
    assert size > 4_000_000
    assert there.sent["data/train-1.parquet"] < size / 2
    assert "README.md" not in there.sent


def test_a_second_reading_asks_the_network_nothing(there, tmp_path, monkeypatch):
    first = selected(tmp_path)
    there.requests.clear()
    assert selected(tmp_path) == first
    assert there.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert selected(tmp_path) == first


def test_a_corpus_that_is_cut_twice_in_a_file_comes_whole(there, tmp_path):
    there.cut["data/train-0.parquet"] = 2
    assert selected(tmp_path).kept["dolly"] == 20
    assert there.cut["data/train-0.parquet"] == 0


def test_a_download_of_which_no_byte_comes_ends_in_a_sentence(there, tmp_path, monkeypatch):
    there.stalled.add("data/train-0.parquet")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(**vars(time) | {"sleep": lambda _: None}))
    with pytest.raises(CorpusError, match=r"could not be fetched from .*timed out.*run again: what was fetched is"):
        selected(tmp_path)
    assert sum(asked.startswith("GET") and asked.endswith("train-0.parquet") for asked in there.requests) == 6


def test_a_hub_that_says_nothing_ends_in_a_sentence_and_lets_go_of_the_lock(there, tmp_path, monkeypatch):
    there.silent.add(f"/api/datasets/{NAME}")
    monkeypatch.setattr(hub, "SILENCE_SECONDS", 0.2)
    with pytest.raises(CorpusError, match=r"could not be fetched from .*timed out.*Check the network"):
        selected(tmp_path)
    there.silent.clear()
    monkeypatch.setattr(hub, "SILENCE_SECONDS", 60.0)
    assert selected(tmp_path).kept["dolly"] == 20


def test_a_full_disk_of_the_hubs_cache_is_named_and_not_the_network(there, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", full)
    with pytest.raises(CorpusError, match=r"the disk of .* is full, or your share of it") as told:
        selected(tmp_path)
    assert "network" not in str(told.value)


@pytest.mark.parametrize(("asked", "off"), [({}, "True"), ({"HF_HUB_DISABLE_XET": "0"}, "False")])
def test_a_download_that_could_stall_for_ever_is_had_only_by_asking_for_it(asked, off):
    code = "from lib import hub; print(hub.constants.HF_HUB_DISABLE_XET)"
    others = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_XET"}
    root = Path(selection.__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], env=others | asked, cwd=root, capture_output=True, text=True)
    assert said.stdout.strip() == off, said.stderr


def select_apart(tmp_path, **environment):
    """Select in a process of its own, since the hub's variables are read once, at import."""
    code = (
        "import sys, pathlib; from lib import paths; from lib.corpus import selection\n"
        "paths.ROOT = pathlib.Path(sys.argv[2])\n"
        "try: print(selection.select(sys.argv[1], paths.ROOT / 'selected' / 'rows.parquet').to_json())\n"
        "except selection.CorpusError as error: sys.exit(f'CorpusError: {error}')"
    )
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"} | environment
    command = [sys.executable, "-c", code, NAME, str(tmp_path)]
    root = Path(selection.__file__).parents[2]
    return subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=60)


def test_the_variables_of_the_hub_hold(tmp_path, shards):
    with serving(Hub()) as there:
        there.add("dataset", NAME, shards)
        online = select_apart(tmp_path, HF_ENDPOINT=there.endpoint, HF_HUB_OFFLINE="0")
    assert online.returncode == 0, online.stderr
    assert (tmp_path / "home" / "hub").is_dir()
    offline = select_apart(tmp_path, HF_ENDPOINT=there.endpoint, HF_HUB_OFFLINE="1")
    assert json.loads(offline.stdout) == json.loads(online.stdout)
    (tmp_path / "artifacts" / "hub.json").unlink()
    shutil.rmtree(tmp_path / "home")
    never = select_apart(tmp_path, HF_ENDPOINT=there.endpoint, HF_HUB_OFFLINE="1")
    assert never.returncode == 1
    assert f"CorpusError: no file or folder is named '{NAME}', and the data set" in never.stderr
    assert "HF_HUB_OFFLINE is set" in never.stderr


def test_a_revision_that_moves_on_is_not_followed_until_it_is_named(there, tmp_path):
    first = selected(tmp_path)
    second = there.add("dataset", NAME, {"only.parquet": parquet(rows("dolly", 5))})
    assert selected(tmp_path) == first
    assert selected(tmp_path, f"{NAME}@{second}").kept["dolly"] == 5
    record = json.loads((paths.ROOT / "artifacts" / "hub.json").read_text())
    assert record[f"data set {NAME}"]["commit"] != record[f"data set {NAME}@{second}"]["commit"] == second


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "it answers 401. Set HF_TOKEN"),
        (403, "it answers 403. Set HF_TOKEN"),
        (429, r"it asks for fewer requests \(429\). Wait a few minutes and run again"),
        (500, "Check the network and run again"),
    ],
)
def test_what_the_hub_refuses_is_said_with_its_cure(there, tmp_path, status, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http._DEFAULT_RETRY_ON_STATUS_CODES", (), raising=False)
    there.status = status
    with pytest.raises(CorpusError, match=f"the data set '{NAME}' could not be fetched from .*{said}"):
        selected(tmp_path)


def test_a_name_that_the_hub_does_not_have_is_said(there, tmp_path):
    with pytest.raises(
        CorpusError, match=r"no file or folder is named 'some/thing', and the data set .* none of this name"
    ):
        selected(tmp_path, "some/thing")
    with pytest.raises(CorpusError, match=r"it has no such revision\. Check what follows the @"):
        selected(tmp_path, f"{NAME}@v9")


def test_without_a_network_or_with_the_hub_switched_off_the_message_says_so(monkeypatch, tmp_path):
    with serving(Hub(), monkeypatch, tmp_path / "cache"):
        pass
    with pytest.raises(CorpusError, match="Check the network and run again: what was fetched is"):
        selected(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError, match="HF_HUB_OFFLINE is set, and not all of it was downloaded before"):
        selected(tmp_path)


@pytest.fixture
def model_files(tiny_model, tokenizer, tmp_path):
    folder = tmp_path / "made"
    tiny_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"pytorch_model.bin": b"another copy"}


def test_a_model_of_the_hub_is_fetched_whole_and_once(there, model_files, tmp_path):
    # The hub's client keeps what has come in pieces of 10 MB.
    there.add("model", "someone/tiny", model_files | {"large.txt": bytes(25_000_000)})
    there.cut["large.txt"] = 1
    settings = Model("someone/tiny")
    assert loading.load_base(settings).config.hidden_size == 32
    assert "pytorch_model.bin" not in there.sent
    assert there.cut["large.txt"] == 0
    assert there.sent["large.txt"] < 1.2 * 25_000_000, "what had come did not come again"
    there.requests.clear()
    assert loading.load_tokenizer(settings).chat_template
    assert there.requests == []
    assert loading.base_fingerprint(settings) == loading.fingerprint(tmp_path / "made")


def test_what_is_still_to_come_of_a_data_set_is_known_before_and_after(there, tmp_path, shards):
    def to_come():
        return bytes_to_fetch(NAME)

    # Nobody has looked into the files yet.
    assert to_come() == sum(len(data) for name, data in shards.items() if name.endswith(".parquet"))
    assert "data/train-0.parquet" not in there.sent
    selected(tmp_path)
    assert to_come() == 0, "what holds none of the subsets never comes"


def test_what_is_still_to_come_of_a_model_is_what_its_folder_needs(there, model_files):
    there.add("model", "someone/tiny", model_files)
    needed = sum(len(data) for name, data in model_files.items() if name != "pytorch_model.bin")
    assert hub.model_to_fetch("someone/tiny") == needed
    assert hub.model_config("someone/tiny")["hidden_size"] == 32
    assert hub.model_to_fetch("someone/tiny") == needed - len(model_files["config.json"])
    hub.model("someone/tiny")
    assert hub.model_to_fetch("someone/tiny") == 0


def test_what_is_still_to_come_of_a_gated_model_is_told_with_its_cure(there, model_files, monkeypatch):
    there.add("model", "meta-llama/Llama-3.2-1B-Instruct", model_files, gated=True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(hub.HubError, match=r"it is gated\. Accept its licence on"):
        hub.model_config("meta-llama/Llama-3.2-1B-Instruct")


def test_a_gated_model_names_the_licence_and_the_ungated_mirror(there, model_files, monkeypatch):
    there.add("model", "meta-llama/Llama-3.2-1B-Instruct", model_files, gated=True)
    settings = Model("meta-llama/Llama-3.2-1B-Instruct")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(
        loading.ModelError,
        match=r"it is gated\. Accept its licence on .*, or take the ungated mirror unsloth/Llama-3\.2-1B",
    ):
        loading.load_tokenizer(settings)
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    assert loading.load_tokenizer(settings).chat_template
