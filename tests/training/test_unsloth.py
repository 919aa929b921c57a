"""unsloth's path, for real on a CPU, against PEFT's; in processes of their own, since unsloth changes what it meets."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_training
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
UNSLOTH = ROOT / ".unsloth"
TRAIN = """
import json, pickle, sys
from pathlib import Path
from lib import paths
from lib.training import backend, loraplus, trainer
paths.ROOT = Path(sys.argv[1])
config = pickle.loads(Path(sys.argv[2]).read_bytes())
model = backend.fresh_adapter(config)
rates = loraplus.learning_rates(loraplus.optimizer(model, config.lora, config.training), model)
trainer.train(config)
print("RATES", json.dumps(rates.groupby(level=0).agg({"learning rate": "max", "parameters": "sum"}).to_dict()))
print("UNSLOTH", "unsloth" in sys.modules)
"""

KILLED = """
import os, pickle, sys
from pathlib import Path
from lib import paths
from lib.training import backend, loraplus, trainer
paths.ROOT = Path(sys.argv[1])
backend.fresh_adapter(pickle.loads(Path(sys.argv[2]).read_bytes()))
from trl import SFTTrainer
step, taken = SFTTrainer.training_step, []
def counted(*args, **kwargs):
    taken.append(1)
    return os._exit(9) if len(taken) == 5 else step(*args, **kwargs)
SFTTrainer.training_step = counted
trainer.train(pickle.loads(Path(sys.argv[2]).read_bytes()))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not UNSLOTH.is_dir(), reason="unsloth is not installed: make unsloth"),
]


def start(code, chosen, root):
    """Run a training's code in a process of its own."""
    (root / "config.pickle").write_bytes(pickle.dumps(chosen))
    return subprocess.run(
        [sys.executable, "-c", code, str(root), str(root / "config.pickle")],
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{UNSLOTH}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def train(chosen, root):
    """Train in a process; its log, the rates of A and B, and whether unsloth was there."""
    done = start(TRAIN, chosen, root)
    assert done.returncode == 0, done.stderr[-3_000:]
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("RATES ", "UNSLOTH ")))
    return pd.read_csv(chosen.paths.training_log(chosen.name)), json.loads(told["RATES"]), told["UNSLOTH"] == "True"


def test_unsloth_and_peft_train_the_same_matrices_at_the_same_rates_to_the_same_losses(base_model, tokenizer, root):
    (ours, our_rates, with_unsloth), (peer, peer_rates, without) = (
        train(small_training.make(base_model, tokenizer, backend, backend=backend, epochs=20.0, checkpoints=5), root)
        for backend in ("unsloth", "peft")
    )
    assert with_unsloth and not without
    assert our_rates == peer_rates
    assert our_rates["learning rate"] == pytest.approx({"A": 1e-3, "B": 1.6e-2})
    assert ours["step"].tolist() == peer["step"].tolist() and ours["step"].iloc[-1] == 60
    np.testing.assert_allclose(ours["learning_rate_B"], peer["learning_rate_B"], rtol=1e-6)
    mine, other = ours["validation_loss"].dropna(), peer["validation_loss"].dropna()
    # B is zero: before the first step both are the base model.
    assert mine.iloc[0] == pytest.approx(other.iloc[0], rel=1e-4)
    # The A of each is drawn by its own library, so the two part on the way and meet at the end.
    assert mine.iloc[-1] < mine.iloc[0] / 2 and other.iloc[-1] < other.iloc[0] / 2
    assert mine.iloc[-1] == pytest.approx(other.iloc[-1], abs=0.1 * other.iloc[0])


def test_a_killed_training_of_unsloth_goes_on_and_ends_the_same(base_model, tokenizer, root):
    whole, killed = (small_training.make(base_model, tokenizer, run, backend="unsloth") for run in ("whole", "killed"))
    train(whole, root)
    assert start(KILLED, killed, root).returncode == 9
    assert list(killed.paths.training(killed.name).glob("checkpoint-*")), "it was killed before a checkpoint"
    assert not killed.paths.adapter(killed.name).is_dir()
    train(killed, root)
    logs = [pd.read_csv(each.paths.training_log(each.name)) for each in (whole, killed)]
    # Both groups' moments and rates come back: a step with others would part the losses.
    np.testing.assert_array_equal(*(log["train_loss"].dropna().to_numpy() for log in logs))
    weights = [load_file(each.paths.adapter(each.name) / "adapter_model.safetensors") for each in (whole, killed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
