"""What a base model's licence is taken for."""

import json

import pytest

from lib.paths import GGUF_RECORD
from lib.release import licences

LLAMA_32 = {"model_type": "llama", "vocab_size": 128_256, "rope_scaling": {"factor": 32.0, "rope_type": "llama3"}}


def folder(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "llama3.2"),
        ("meta-llama/Llama-3.2-1B-Instruct@main", "llama3.2"),
        ("models/llama3.2", "llama3.2"),
        ("meta-llama/Llama-3.1-8B", "llama3.1"),
        ("Qwen/Qwen3-0.6B", "other"),
        # A folder above it is no name of it.
        ("/home/me/llama-3.2-trials/SmolLM2-135M", "other"),
        # Not a version of Llama's.
        ("someone/llama-3.25", "other"),
    ],
)
def test_a_llama_is_known_by_its_name(tmp_path, name, identifier):
    assert licences.of_model(name, folder(tmp_path, {"model_type": "qwen3"})).identifier == identifier


def test_a_llama_32_is_known_under_any_name(tmp_path):
    assert licences.of_model("models/mine", folder(tmp_path, LLAMA_32)).identifier == "llama3.2"
    newer = {k: v for k, v in LLAMA_32.items() if k != "rope_scaling"} | {"rope_parameters": {"factor": 32.0}}
    assert licences.of_model("models/mine", folder(tmp_path, newer)).identifier == "llama3.2"
    # Llama 3.1 stretches by 8.
    other = LLAMA_32 | {"rope_scaling": {"factor": 8.0}}
    assert licences.of_model("models/mine", folder(tmp_path, other)).identifier == "other"


def test_the_demo_s_model_is_this_project_s_own(tmp_path):
    found = licences.of_model("demo", tmp_path)
    assert (found.identifier, found.llama, found.notice) == ("apache-2.0", "", "")


def test_the_open_corpus_is_under_the_licences_of_its_sources():
    found = licences.of_corpus("open")
    assert (found.identifier, found.name) == ("other", "mixed, by source: Apache-2.0, CC-BY-4.0, CC-BY-SA-4.0 and MIT")


def test_a_llama_s_notice_names_its_version_and_its_owner(tmp_path):
    notice = licences.of_model("x/Llama-3.2-1B", tmp_path).notice
    assert notice.startswith("Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta Platforms")


@pytest.mark.parametrize(("told", "identifier"), [("apache-2.0", "apache-2.0"), ("llama3.2", "other"), ("", "other")])
def test_a_gguf_file_tells_its_licence(tmp_path, told, identifier):
    (tmp_path / GGUF_RECORD).write_text(json.dumps({"file": "x.gguf", "sha256": "", "licence": told}))
    assert licences.of_model("x.gguf", folder(tmp_path, {"model_type": "llama"})).identifier == identifier
