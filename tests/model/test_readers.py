"""transformers 4.57 and a PEFT of its time, of their own environment (`make readers`), read what is saved here."""

import json
import subprocess
from pathlib import Path

import pytest
import small_training
import torch
from peft import PeftModel
from test_saving import TEXT, tiny_config  # noqa: F401  (the fixture with Llama 3.2's RoPE)
from transformers import AutoModelForCausalLM

from lib.model import loading, saving
from lib.release import merging
from lib.training import trainer

READER = Path(__file__).resolve().parents[2] / ".readers" / "bin" / "python"
IDS = [list(range(5, 105))]
READ = """
import json, sys
import torch, transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

assert transformers.__version__.startswith("4."), transformers.__version__
base, text, ids, *folders = json.loads(sys.argv[1])
torch.set_num_threads(1)

def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.tensor(ids)).logits.flatten().tolist()

def model(folder):
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    return adapter.eval()

found = {}
for kind, folder in folders:
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) if kind == "model" else model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found[folder] = {
        "logits": logits(read),
        "ids": tokenizer(text, add_special_tokens=False)["input_ids"],
        "ends": [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token],
        "asked": tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False),
    }
print("FOUND" + json.dumps(found))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not READER.is_file(), reason="transformers 4.57 is not installed: make readers"),
]


def read_by_others(base, *folders):
    given = json.dumps([str(base), TEXT, IDS, *((kind, str(folder)) for kind, folder in folders)])
    done = subprocess.run([READER, "-I", "-c", READ, given], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.rpartition("FOUND")[2])


@torch.inference_mode()
def logits(model):
    return model(input_ids=torch.tensor(IDS)).logits.flatten()


def test_merged_model_adapter_and_checkpoint_are_the_same_for_them(base_model, tokenizer):
    saving.for_all_readers(base_model)
    config = small_training.make(base_model, tokenizer, learning_rate=1e-2)
    trainer.train(config)
    adapter = config.paths.adapter(config.name)
    checkpoint = max(config.paths.training(config.name).glob("checkpoint-*"))
    merged = config.paths.merged
    base = AutoModelForCausalLM.from_pretrained(base_model)
    PeftModel.from_pretrained(base, adapter).merge_and_unload().to(torch.bfloat16).save_pretrained(merged)
    merging.save_tokenizer(loading.load_tokenizer(config.model), config.prompt, merged)
    saving.for_all_readers(merged)
    folders = [("model", base_model), ("model", merged), ("adapter", adapter), ("adapter", checkpoint)]
    found = read_by_others(base_model, *folders)
    plain = logits(AutoModelForCausalLM.from_pretrained(base_model))
    for kind, folder in folders:
        here = AutoModelForCausalLM.from_pretrained(base_model if kind == "adapter" else folder, dtype=torch.float32)
        here = PeftModel.from_pretrained(here, folder) if kind == "adapter" else here
        there = found[str(folder)]
        torch.testing.assert_close(torch.tensor(there["logits"]), logits(here.eval()), rtol=1e-4, atol=1e-4)
        assert there["ids"] == tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        assert there["ends"] == [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token]
        assert there["asked"].startswith("<|begin_of_text|><|start_header_id|>system")
        assert folder == base_model or (torch.tensor(there["logits"]) - plain).abs().max() > 0.01
