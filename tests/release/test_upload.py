"""Publishing, against a hub on the loopback interface that takes what the real one takes."""

import io
import json
import re
import sys

import pytest
import small_run
from huggingface_hub import ModelCard, constants
from stand_in_hub import Hub, serving

from lib.paths import ADAPTER_RECORD
from lib.release import finished, upload
from lib.release.cards import name
from lib.storage import write_json

REPOSITORY = "someone/klepon-trial"
FILES = {
    "README.md", "DATA_CARD.md", "adapter_config.json", "adapter_model.safetensors", "klepon.json", "report.html",
    "results.csv", "summary.csv", "manifest.json",
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    configs = small_run.make()
    adapter = configs[-1].paths.adapter(configs[-1].name)
    # As PEFT and training write them: with a folder of this machine.
    write_json(adapter / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / "model"), "revision": None})
    write_json(adapter / ADAPTER_RECORD, {"base_model": str(tmp_path / "model"), "trained_by": "peft"})
    small_run.finish(configs)
    return finished.read("trial")


@pytest.fixture
def there(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with serving(Hub(token="hf_right"), monkeypatch, tmp_path / "cache") as there:
        yield there


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["upload", "--run", "trial", "--repository", REPOSITORY, *arguments])
    upload.main()


def published(there):
    repository = there.repositories[f"models/{REPOSITORY}"]
    return repository.commits[repository.main]


def writes(there):
    return [asked for asked in there.requests if asked.startswith(("POST", "PUT"))]


def test_the_files_arrive_whole_in_one_commit(run, there, monkeypatch, capsys):
    call(monkeypatch, "--yes", "1")
    files, there_now = run.config.paths, published(there)
    assert set(there_now) == FILES
    for path in (files.final_adapter / "adapter_model.safetensors", files.report, files.results):
        assert there_now[path.name] == path.read_bytes()
    assert there_now["summary.csv"] == files.summary.read_bytes()
    assert len([asked for asked in there.requests if "/commit/" in asked]) == 1
    assert f"Published: {there.endpoint}/{REPOSITORY}/commit/" in capsys.readouterr().out
    # The weights came as large files do.
    assert (files.final_adapter / "adapter_model.safetensors").read_bytes() in there.stored.values()


def test_the_published_card_loads_from_the_repository_and_is_valid(run, there, monkeypatch):
    call(monkeypatch, "--yes", "1")
    card = published(there)["README.md"].decode()
    assert f'PeftModel.from_pretrained(base, "{REPOSITORY}")' in card
    assert ModelCard(card).data.license == "apache-2.0"


def test_no_path_of_this_machine_is_published(run, there, monkeypatch, tmp_path, base_model):
    settings = run.manifest["final_adapter"]["settings"]
    places = {"corpus": "rows.jsonl", "english": "english.jsonl"}
    own = {name: settings[name] | {"source": str(tmp_path / place)} for name, place in places.items()}
    changed = {
        "corpus": run.manifest["corpus"] | {"source": str(tmp_path / "rows.jsonl")},
        "final_adapter": run.manifest["final_adapter"]
        | {"settings": settings | own | {"model": {"base_model": str(base_model)}}},
    }
    write_json(run.config.paths.manifest, run.manifest | changed)
    call(monkeypatch, "--yes", "1")
    told = json.loads(published(there)["manifest.json"])
    assert told["corpus"]["source"] == told["final_adapter"]["settings"]["corpus"]["source"] == "rows.jsonl"
    assert told["adapters"] == run.manifest["adapters"] and told["base_model"] == run.manifest["base_model"]
    for path, data in published(there).items():
        assert str(tmp_path).encode() not in data and str(base_model).encode() not in data, path
    assert json.loads(published(there)["adapter_config.json"])["base_model_name_or_path"] == "demo"
    # What the chat loads stays as it is.
    assert finished.read("trial").adapter == run.adapter


def test_an_adapter_of_a_model_of_the_hub_names_it_with_its_commit(run, there, monkeypatch):
    source = f"unsloth/Llama-3.2-1B-Instruct-bnb-4bit@{'0a' * 20}"
    write_json(
        run.config.paths.manifest, run.manifest | {"base_model": run.manifest["base_model"] | {"source": source}}
    )
    llama = "someone/Llama-3.2-1B-id"
    call(monkeypatch, "--yes", "1", "--repository", llama)
    repository = there.repositories[f"models/{llama}"]
    files = repository.commits[repository.main]
    settings = json.loads(files["adapter_config.json"])
    assert settings["base_model_name_or_path"] == "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"
    assert settings["revision"] == "0a" * 20
    assert json.loads(files["klepon.json"])["base_model"] == source
    assert files["NOTICE"].decode().startswith("Llama 3.2 is licensed under the Llama 3.2 Community License")


def test_a_llama_under_another_name_is_not_published(run, there, monkeypatch):
    source = f"unsloth/Llama-3.2-1B-Instruct@{'0a' * 20}"
    write_json(
        run.config.paths.manifest, run.manifest | {"base_model": run.manifest["base_model"] | {"source": source}}
    )
    proposed = f"someone/{name(finished.read('trial'))}"
    with pytest.raises(SystemExit, match=rf"a name that begins with Llama: make publish RUN=trial REPO={proposed}$"):
        call(monkeypatch, "--yes", "1")
    assert there.requests == []


def test_all_is_said_before_anything_is_written(run, there, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="Nothing was uploaded"):
        call(monkeypatch)
    assert writes(there) == [] and there.repositories == {}
    said = capsys.readouterr().out
    assert f"To {there.endpoint}/{REPOSITORY}, a new private repository, as someone:" in said
    sizes = {m[1]: int(m[2].replace(",", "")) for m in re.finditer(r"^  (\S+) +([\d,]+) bytes$", said, re.MULTILINE)}
    assert set(sizes) == FILES
    assert f"  9 files, {sum(sizes.values()):,} bytes" in said
    call(monkeypatch, "--yes", "1")
    assert {path: len(data) for path, data in published(there).items()} == sizes


@pytest.mark.parametrize(("answer", "uploaded"), [("y", True), ("yes", True), ("n", False), ("", False)])
def test_at_a_terminal_it_asks(run, there, monkeypatch, answer, uploaded):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    if uploaded:
        call(monkeypatch)
    else:
        with pytest.raises(SystemExit, match="Nothing was uploaded"):
            call(monkeypatch)
    assert bool(there.repositories) == uploaded


def test_anything_but_1_is_no_yes(run, there, monkeypatch):
    with pytest.raises(SystemExit, match="Nothing was uploaded"):
        call(monkeypatch, "--yes", "0")
    assert there.repositories == {}


@pytest.mark.parametrize(("asked", "private", "word"), [("1", True, "private"), ("0", False, "PUBLIC")])
def test_a_new_repository_is_private_unless_told_otherwise(run, there, monkeypatch, capsys, asked, private, word):
    call(monkeypatch, "--yes", "1", "--private", asked)
    assert there.repositories[f"models/{REPOSITORY}"].private == private
    assert f"a new {word} repository" in capsys.readouterr().out


def test_a_repository_that_is_there_keeps_its_kind_and_its_other_files(run, there, monkeypatch, capsys):
    there.add("model", REPOSITORY, {"notes.txt": b"keep"})
    call(monkeypatch, "--yes", "1", "--private", "1")
    assert "an existing PUBLIC repository" in capsys.readouterr().out
    assert published(there)["notes.txt"] == b"keep" and set(published(there)) == FILES | {"notes.txt"}


def test_without_a_token_the_message_has_the_cure(run, there, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SystemExit, match=r"^error: HF_TOKEN is not set: create a token .*/settings/tokens"):
        call(monkeypatch, "--yes", "1")
    assert there.requests == []


def test_offline_the_message_says_so(run, there, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match=r"^error: HF_HUB_OFFLINE is set"):
        call(monkeypatch, "--yes", "1")
    assert there.requests == []


def test_a_token_that_the_hub_does_not_know_is_said(run, there, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SystemExit, match=r"^error: nothing was published .* rejects this token \(401\)"):
        call(monkeypatch, "--yes", "1")
    assert there.repositories == {}


@pytest.mark.parametrize("refused", ["POST /api/repos/create", f"POST /api/models/{REPOSITORY}/preupload", "PUT /lfs/"])
def test_what_a_token_may_not_is_said_and_no_half_is_published(run, there, monkeypatch, refused):
    there.refused[refused] = 403
    with pytest.raises(SystemExit, match=r"^error: nothing was published .*\(403\)\. It needs the role `write`"):
        call(monkeypatch, "--yes", "1")
    assert f"models/{REPOSITORY}" not in there.repositories or published(there) == {}
    there.refused.clear()
    call(monkeypatch, "--yes", "1")
    assert set(published(there)) == FILES


def test_a_hub_that_asks_for_patience_is_said(run, there, monkeypatch):
    there.refused["POST /api/repos/create"] = 429
    with pytest.raises(SystemExit, match=r"fewer requests \(429\)"):
        call(monkeypatch, "--yes", "1")


def test_without_a_network_the_message_says_so(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with serving(Hub(token="hf_right"), monkeypatch, tmp_path / "cache"):
        pass
    with pytest.raises(SystemExit, match=r"^error: nothing was published .* cannot be reached.*Check the network"):
        call(monkeypatch, "--yes", "1")


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        ("", "REPO names no repository"),
        ("klepon", "REPO=klepon is not a hub id"),
        ("a/b@main", "REPO=a/b@main is not a hub id"),
    ],
)
def test_a_name_that_is_none_is_said(run, there, monkeypatch, repository, said):
    with pytest.raises(SystemExit, match=rf"^error: {said}.*make publish RUN=trial REPO=owner/name"):
        call(monkeypatch, "--yes", "1", "--repository", repository)
    assert there.requests == []


def test_private_is_yes_or_no(run, there, monkeypatch):
    with pytest.raises(SystemExit, match="PRIVATE=no must be 1, or 0"):
        call(monkeypatch, "--private", "no")
