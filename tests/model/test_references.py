"""What is kept of an adapter's answers, and what a server's are taken for."""

import json
import re

import numpy as np
import pytest
import small_adapter

from lib.config import Config, Lora, Model
from lib.model import loading, references
from lib.model.prompts import encode_prompt
from lib.model.references import MOST_DIFFERENCE, Reference
from lib.paths import REFERENCES


@pytest.fixture
def config(base_model):
    """A run whose final adapter changes a lot."""
    made = Config(run="kecil", iteration="5", model=Model(str(base_model)), lora=Lora(lora_rank=4))
    small_adapter.save(made, 1, spread=1.0)
    made.paths.adapter(made.name).rename(made.paths.final_adapter)
    return made


def answers(effect, count=200):
    """As many tokens in two answers, which the adapter makes more or less likely by about `effect`."""
    random = np.random.default_rng(0)
    base = -random.exponential(2.0, count)
    tuned = base + effect * random.standard_normal(count)
    half = count // 2
    return [
        Reference([1], list(range(half)), list(base[part]), list(tuned[part]))
        for part in (slice(half), slice(half, count))
    ]


def scaled(known, share, noise=0.0):
    random = np.random.default_rng(1)
    return [
        np.array(one.base) + share * (np.array(one.adapter) - one.base) + noise * random.standard_normal(len(one.base))
        for one in known
    ]


def test_what_is_kept_is_what_both_models_say_and_the_prompts_are_those_of_training(config, tokenizer):
    references.write(config)
    known = references.read(config.paths.final_adapter)
    base, tuned = loading.load_base(config.model), loading.load_adapter(config.model, config.paths.final_adapter)
    assert len(known.answers) == len(references.PAIRS)
    for one, (prompt, answer) in zip(known.answers, references.PAIRS, strict=True):
        asked = [{"role": "user", "content": prompt}]
        assert one.prompt == encode_prompt(tokenizer, asked, config.prompt, 400)[0]
        assert tokenizer.decode(one.answer) == answer + "<|eot_id|>"
        for model, said in ((base, one.base), (tuned, one.adapter)):
            ids = model.base_model.embed_tokens.weight.new_tensor([one.prompt + one.answer]).long()
            found = model(input_ids=ids).logits[0].log_softmax(-1)
            wanted = [found[len(one.prompt) + n - 1, token].item() for n, token in enumerate(one.answer)]
            assert said == pytest.approx(wanted, abs=1e-4)
    assert known.decoding.end_ids == (tokenizer.eos_token_id,)


def test_what_is_kept_of_other_weights_or_is_damaged_is_not_taken(config):
    folder = config.paths.final_adapter
    assert references.read(folder) is None
    path = references.write(config)
    told = json.loads(path.read_text())
    for text in ("{", "[]", json.dumps(told | {"answers": [{}]})):
        path.write_text(text)
        assert references.read(folder) is None
    path.write_text(json.dumps(told))
    assert references.read(folder) is not None
    small_adapter.save(config, 2)
    config.paths.adapter(config.name).joinpath("adapter_model.safetensors").replace(
        folder / "adapter_model.safetensors"
    )
    assert references.read(folder) is None
    assert path.name == REFERENCES


@pytest.mark.parametrize("effect", [0.0, 0.01, 0.05, 0.3, 2.0])
@pytest.mark.parametrize("target", ["base", "adapter"])
def test_a_model_that_is_only_rounded_is_known(effect, target):
    known = answers(effect)
    assert references.judge(scaled(known, target == "adapter", 0.02), known, target) == ""


@pytest.mark.parametrize("effect", [0.05, 0.3, 2.0])
@pytest.mark.parametrize(
    ("share", "target", "reason"),
    [
        (0.0, "adapter", "answers as the base model does: the adapter is not applied"),
        (0.18, "adapter", r"applies about 0\.1\d of the adapter: it scales it otherwise"),
        (5.7, "adapter", "rates the reference answers differently"),
        (1.0, "base", "answers as the adapter does, and not as the base model"),
    ],
)
def test_what_is_done_to_an_adapter_is_seen_and_said(effect, share, target, reason):
    known = answers(effect)
    assert re.match(reason, references.judge(scaled(known, share, 0.005), known, target))


def test_another_model_is_said_to_be_one_with_how_far_it_is():
    known = answers(0.3)
    other = [np.array(one.base) - 1.0 for one in known]
    for target in ("base", "adapter"):
        assert f"where rounding explains {MOST_DIFFERENCE}" in references.judge(other, known, target)
    assert references.judge([np.array(one.base) * np.nan for one in known], known, "base")
