"""What comes after training works on a whole run and no other."""

import json

import pytest
import small_run

from lib.config import ConfigError
from lib.evaluation import floors
from lib.release import finished
from lib.storage import write_json


@pytest.fixture
def configs():
    made = small_run.make(iterations="0 5")
    small_run.finish(made)
    return made


def test_a_finished_run_is_read_with_the_settings_it_had(configs):
    run = finished.read("trial")
    assert run.config == configs[-1]
    assert run.manifest["run"] == "trial"
    assert set(run.results["iteration"]) == {"base", "0", "5", floors.CEILING, *floors.FLOORS}


def test_the_settings_are_the_run_s_whatever_the_parameter_files_say_now(configs):
    manifest = json.loads(configs[0].paths.manifest.read_text())
    manifest["final_adapter"]["settings"]["lora"]["lora_rank"] = 7
    write_json(configs[0].paths.manifest, manifest)
    assert finished.read("trial").config.lora.lora_rank == 7


@pytest.mark.parametrize("missing", ["manifest", "results", "final_adapter"])
def test_a_run_without_one_of_its_files_is_not_finished(configs, missing):
    path = getattr(configs[0].paths, missing)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(finished.FinishedError, match=rf"has no {path.name} yet: run `make report RUN=trial` first"):
        finished.read("trial")


def test_an_adapter_that_its_scores_are_not_of_is_refused(configs):
    (configs[0].paths.final_adapter / "adapter_model.safetensors").write_bytes(b"another")
    cure = "remove artifacts/trial/final_adapter and run `make report RUN=trial`"
    with pytest.raises(finished.FinishedError, match=rf"is not the one that was scored .*: {cure}$"):
        finished.read("trial")


def test_what_cannot_be_a_run_is_refused():
    with pytest.raises(ConfigError, match="RUN='a;b' cannot name a folder"):
        finished.read("a;b")


def test_a_manifest_of_an_older_version_is_to_be_made_again(configs):
    manifest = json.loads(configs[0].paths.manifest.read_text())
    del manifest["final_adapter"]
    write_json(configs[0].paths.manifest, manifest)
    with pytest.raises(finished.FinishedError, match=r"from an older version .* remove it and run `make report"):
        finished.read("trial")


def test_a_manifest_that_is_older_than_a_section_has_its_defaults(configs):
    manifest = json.loads(configs[0].paths.manifest.read_text())
    del manifest["final_adapter"]["settings"]["preference"]
    write_json(configs[0].paths.manifest, manifest)
    assert finished.read("trial").config == configs[-1]


def test_a_manifest_with_a_setting_of_another_version_names_it(configs):
    manifest = json.loads(configs[0].paths.manifest.read_text())
    manifest["final_adapter"]["settings"]["training"]["lookahead"] = 3
    write_json(configs[0].paths.manifest, manifest)
    with pytest.raises(finished.FinishedError, match=r"does not have \(training\.lookahead\): use that version"):
        finished.read("trial")
