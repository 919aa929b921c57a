"""A real vLLM, of an environment of its own (`make vllm`), against the model here: the demo's and a random adapter."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import small_adapter
from wire.messages import Request, Settings, Turn
from worker import openai_engine, transformers_engine

from lib import paths
from lib.config import Config, Lora, Model, Prompt
from lib.evaluation import completions
from lib.model import generation, loading, references, served
from lib.model.generation import Decoding
from lib.model.prompts import encode_prompt, end_of_turn_id
from lib.release import merging

VLLM = Path(__file__).resolve().parents[2] / ".vllm" / "bin" / "python"
BASE = paths.DEMO_BASE_MODEL
ASKED = ["Apa ibu kota Indonesia?", "Siapa kamu?", "Tulislah sebuah pantun tentang laut."]
#: Importing vLLM alone may take a minute.
STARTS_WITHIN = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM.is_file(), reason="vLLM is not installed: make vllm"),
]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    """The URL of a server with the demo's base model."""
    with serving(
        BASE, tmp_path_factory.mktemp("vllm"), "--enable-lora", "--max-lora-rank", "32", "--max-loras", "2"
    ) as url:
        yield url


@contextlib.contextmanager
def serving(model, folder, *more):
    """The URL of a server with that model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")} | {
        "PATH": f"{VLLM.parent}{os.pathsep}{os.environ['PATH']}",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        *(VLLM, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)),
        *("--model", model, "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "16"),
        *more,
    ]
    url = f"http://127.0.0.1:{port}/v1"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=told, stdout=log, stderr=log)
    try:
        ends = time.monotonic() + STARTS_WITHIN
        while not _answers(url):
            said = (folder / "log").read_text(errors="replace")[-3_000:]
            assert process.poll() is None and time.monotonic() < ends, said
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _answers(url):
    try:
        return httpx.get(f"{url}/models", timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(autouse=True)
def no_names(monkeypatch):
    for name in ("ENGINE_BASE", "ENGINE_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["base", "5"])
def config(request):
    """The base model, and an adapter that changes much of what it says."""
    made = Config(run="asli", iteration=request.param, model=Model("demo"), lora=Lora(lora_rank=32))
    if made.has_adapter:
        small_adapter.save(made, 1, spread=0.3)
    return made


def asked(config):
    tokenizer = loading.load_tokenizer(config.model)
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}], Prompt(), 500)[0] for text in ASKED]
    return prompts, end_of_turn_id(tokenizer, Prompt())


def test_it_is_known_and_its_likeliest_tokens_are_those_of_this_process(vllm, config):
    prompts, end = asked(config)
    decoding = Decoding(24, (end,), greedy=True)
    there = served.complete(served.connect(vllm, config), [0, 1, 2], prompts, decoding, 1, seed=0)
    here = generation.complete(completions.load_model(config), [0, 1, 2], prompts, decoding, 1, seed=0)
    assert there == here


def test_seeds_rows_and_runs_draw_otherwise_and_the_same_again(vllm, config):
    if config.has_adapter:
        pytest.skip("the base model's seeds are enough")
    prompts, end = asked(config)
    model, decoding = served.connect(vllm, config), Decoding(16, (end,), temperature=1.5)

    def drawn(seed, row):
        return served.complete(model, [row], prompts[2:], decoding, 2, seed)[0]

    first = drawn(0, 4)
    assert drawn(0, 4) == first and first[0] != first[1]
    assert len({str(ids) for seed, row in ((0, 4), (1, 4), (0, 5)) for ids in drawn(seed, row)}) == 6


def test_a_limit_of_likeliest_tokens_and_its_absence_are_heard(vllm, config):
    prompts, end = asked(config)
    model = served.connect(vllm, config)
    one = served.complete(model, [0], prompts[:1], Decoding(16, (end,), temperature=2.0, top_k=1), 1, seed=0)
    likeliest = served.complete(model, [0], prompts[:1], Decoding(16, (end,), greedy=True), 1, seed=0)
    assert one == likeliest
    free = served.complete(model, [0], prompts[:1], Decoding(16, (end,), temperature=2.0), 1, seed=0)
    assert free != likeliest


def test_an_adapter_that_is_dropped_or_scaled_otherwise_is_seen(vllm, config, tmp_path):
    if not config.has_adapter:
        pytest.skip("there is no adapter to drop")
    adapter = config.paths.adapter(config.name)
    known = references.measure(config, adapter).answers
    assert "answers as the base model does" in served.recognise(vllm, str(BASE), known, "adapter")
    assert "answers as the adapter does" in served.recognise(vllm, served.connect(vllm, config).name, known, "base")
    other = shutil.copytree(adapter, tmp_path / "other")
    told = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(told | {"use_rslora": False}))
    loaded = httpx.post(f"{vllm}/load_lora_adapter", json={"lora_name": "other", "lora_path": str(other)}, timeout=600)
    assert loaded.is_success
    assert served.recognise(vllm, "other", known, "adapter")


def test_the_chat_gets_from_it_what_the_model_here_answers(vllm, config):
    if not config.has_adapter:
        pytest.skip("the chat has both at once")
    name = served.connect(vllm, config).name
    folder = config.paths.final_adapter
    shutil.copytree(config.paths.adapter(config.name), folder)
    references.write(config)
    there = openai_engine.load_engine(vllm, None, name, folder=folder)
    here = transformers_engine.load_engine(None, folder)
    for target in ("base", "adapter"):
        for text in ASKED:
            settings = Settings(max_new_tokens=24, greedy=True)
            request = Request("g", "u", "c", (Turn("user", text),), target, 0, settings)
            assert there.add(request, [], "") == here.add(request, [], "")
            assert answered(there) == answered(here)


def answered(engine):
    steps, ends = [], time.monotonic() + 120
    while not steps or not steps[-1].finish:
        assert time.monotonic() < ends
        steps += engine.step()
    assert steps[-1].finish != "error"
    return "".join(step.text for step in steps), [token for step in steps for token in step.ids], steps[-1].finish


def test_too_little_room_is_said_before_anything_is_asked(vllm, config):
    roomy = replace(config, prompt=Prompt(max_evaluation_tokens=2_000))
    with pytest.raises(served.ServerError, match="at most 1,024 tokens in all"):
        served.connect(vllm, roomy)


def test_a_merged_model_says_there_what_it_says_here(tmp_path):
    run = small_adapter.run("demo")
    merging.merge(run)
    config = replace(run.config, iteration="base", model=Model(str(run.config.paths.merged)))
    prompts, end = asked(config)
    decoding = Decoding(24, (end,), greedy=True)
    with serving(run.config.paths.merged, tmp_path) as url:
        there = served.complete(served.connect(url, config), [0, 1, 2], prompts, decoding, 1, seed=0)
    here = generation.complete(completions.load_model(config), [0, 1, 2], prompts, decoding, 1, seed=0)
    assert there == here
