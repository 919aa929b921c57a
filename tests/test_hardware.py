import pytest
import torch

from lib import hardware
from lib.sampling import embedding


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A machine on which nvidia-smi does what these lines of shell do, and PyTorch sees no GPU."""

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware._gpu_of_the_driver.cache_clear()
    yield install
    hardware._gpu_of_the_driver.cache_clear()


def test_a_gpu_that_pytorch_cannot_use_stops_the_run_unless_it_is_hidden(driver, monkeypatch):
    driver("echo 'Tesla T4, 470.82.01'; echo 'Tesla T4, 470.82.01'")
    with pytest.raises(hardware.HardwareError, match=r"lists a GPU \(Tesla T4, driver 470.82.01\).*VISIBLE_DEVICES=-1"):
        hardware.device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert hardware.device().type == "cpu"


@pytest.mark.parametrize("script", ["echo 'cannot talk to the driver'; exit 9", "echo 'No devices were found'", ""])
def test_where_the_driver_lists_no_gpu_the_cpu_is_used(driver, script):
    driver(script)
    assert hardware.device().type == "cpu"


def test_no_text_is_embedded_on_the_cpu_beside_a_gpu_that_pytorch_cannot_use(driver, tmp_path):
    driver("echo 'Tesla T4, 470.82.01'")
    with pytest.raises(hardware.HardwareError, match="Tesla T4"):
        embedding.embed(["Apa kabar?"], tmp_path)
