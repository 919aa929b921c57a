"""Completions by a server: the ids that it gets and gives, its adapters, and what it may lack."""

from dataclasses import replace

import httpx
import pandas as pd
import pytest
import small_adapter
import stand_in_vllm
import torch

from lib.config import Config, Evaluation, Lora, Model
from lib.evaluation import completions
from lib.model import generation, loading, served
from lib.model.generation import Decoding

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


@pytest.fixture
def config(base_model):
    return Config(
        run="kecil",
        iteration="base",
        model=Model(str(base_model)),
        lora=Lora(lora_rank=4),
        evaluation=Evaluation(decoding_runs=2, max_new_tokens=6, batch_rows=2),
    )


@pytest.fixture
def server(base_model, monkeypatch):
    for name in ("ENGINE_URL", "ENGINE_BASE", "ENGINE_KEY"):
        monkeypatch.delenv(name, raising=False)
    with stand_in_vllm.served(str(base_model)) as made:
        yield made


@pytest.fixture
def rows():
    return pd.DataFrame(
        {"subset_name": ["dolly"] * 3, "input": ["Apa itu laut?", "Siapa kamu?", "Selamat pagi"], "output": ["a"] * 3},
        index=[4, 9, 2],
    )


def trained(config, seed):
    small_adapter.save(config, seed, spread=1.0)


@pytest.mark.parametrize("iteration", ["base", "5"])
def test_likeliest_tokens_are_those_of_this_process(config, server, iteration, tokenizer):
    config = replace(config, iteration=iteration)
    if iteration != "base":
        trained(config, 1)
    decoding = Decoding(12, (tokenizer.eos_token_id,), greedy=True)
    there = served.complete(served.connect(server.url, config), [0, 1, 2], PROMPTS, decoding, 2, seed=0)
    here = generation.complete(completions.load_model(config), [0, 1, 2], PROMPTS, decoding, 2, seed=0)
    assert there == here


def test_a_completion_that_ends_comes_without_its_end(config, server):
    model = served.connect(server.url, config)
    ((whole,),) = served.complete(model, [0], PROMPTS[:1], Decoding(12, (-1,), greedy=True), 1, seed=0)
    end = next(n for n in range(1, 12) if whole[n] not in whole[:n])
    ((cut,),) = served.complete(model, [0], PROMPTS[:1], Decoding(12, (whole[end],), greedy=True), 1, seed=0)
    assert cut == whole[:end]


def test_an_evaluation_hands_the_server_what_the_model_here_would_get(config, rows, server, monkeypatch):
    here = {}
    write = generation.write_completions

    def watched(model, tokenizer, prompts, path, **options):
        here.update(prompts)
        return write(model, tokenizer, prompts, path, **options)

    monkeypatch.setattr(generation, "write_completions", watched)
    completions.complete(config, {"clean": rows})
    path = config.paths.completions("base", "clean")
    plain = path.read_text()
    monkeypatch.setenv("ENGINE_URL", server.url)
    completions.complete(config, {"clean": rows})
    assert path.read_text() != plain, "completions of another engine were gone on with"
    assert generation.read_settings(path)["server"] == server.base
    assert sorted(body["prompt"] for body in server.asked) == sorted(here.values())
    defaults = generation.decoding_of(loading.load_base(config.model), 0, 6)
    for body in server.asked:
        assert (body["n"], body["max_tokens"]) == (2, 6)
        assert (body["temperature"], body["top_p"]) == (defaults.temperature, defaults.top_p)
        assert body["top_k"] == defaults.top_k == 50
    assert len({body["seed"] for body in server.asked}) == 3
    table = completions.read(config, {"clean": rows})
    assert sorted(zip(table["row"], table["run"], strict=True)) == [(n, run) for n in (2, 4, 9) for run in (0, 1)]
    asked = len(server.asked)
    completions.complete(config, {"clean": rows})
    assert len(server.asked) == asked


@pytest.mark.parametrize("bits", [32, 31])
def test_seeds_that_a_server_cuts_to_so_many_bits_still_draw_by_seed_and_row(bits):
    kept = {served.seed_of(seed, row) + run & 2**bits - 1 for seed in range(5) for row in range(200) for run in (0, 1)}
    assert len(kept) == 5 * 200 * 2
    assert served.seed_of(1, 11) != served.seed_of(11, 1)


def test_nothing_is_left_to_the_defaults_of_a_server(config, server):
    model = served.connect(server.url, config)
    served.complete(model, [3], PROMPTS[:1], Decoding(4, (9,), greedy=True), 1, seed=0)
    body = server.asked[-1]
    assert body["temperature"] == 0.0
    assert (body["repetition_penalty"], body["min_p"], body["presence_penalty"], body["frequency_penalty"]) == (
        1,
        0,
        0,
        0,
    )
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([9], True)


def test_a_server_with_too_little_room_is_said_how_to_start(config, server):
    server.room = 1_000
    with pytest.raises(served.ServerError, match=r"at most 1,000 tokens in all, .* up to 1,024: start it with --max"):
        served.connect(server.url, config)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("applies", "answers as the base model does: the adapter is not applied"),
        ("scales", r"applies about 0\.\d\d of the adapter|rates the reference answers differently .* by \d"),
    ],
)
def test_a_server_that_drops_an_adapter_or_scales_it_otherwise_is_refused(config, server, fault, reason):
    config = replace(config, iteration="5")
    trained(config, 1)
    served.connect(server.url, config)
    setattr(server, fault, False)
    with pytest.raises(served.ServerError, match=rf"cannot be believed: kecil-5_seed0-\w+ there ({reason})"):
        served.connect(server.url, config)


def test_another_base_model_under_the_right_name_is_refused(config, server, tiny_model, tokenizer, tmp_path):
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.mul_(1.2)
    tiny_model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    served.connect(server.url, config)
    server.loaded = {(None, True): loading.load_base(Model(str(tmp_path / "other")))}
    with pytest.raises(served.ServerError, match=r"cannot be believed: .* rates the reference answers differently"):
        served.connect(server.url, config)


def test_a_server_that_does_not_say_how_likely_prompts_are_is_refused(config, server):
    server.tells_prompts = False
    with pytest.raises(served.SilentServerError, match="does not say how likely the tokens of a prompt are"):
        served.connect(server.url, config)


@pytest.mark.parametrize(("top_k", "told"), [(7, 7), (0, -1)])
def test_the_server_is_told_how_to_sample(config, server, top_k, told):
    model = served.connect(server.url, config)
    decoding = Decoding(4, (-1,), temperature=0.5, top_k=top_k, top_p=0.8)
    found = served.complete(model, [3], PROMPTS[:1], decoding, 2, seed=0)
    body = server.asked[-1]
    # vLLM's word for all tokens is -1.
    assert (body["temperature"], body["top_k"], body["top_p"]) == (0.5, told, 0.8)
    drawn = generation.complete(completions.load_model(config), [0], PROMPTS[:1], decoding, 2, seed=body["seed"])
    assert found == drawn and drawn[0][0] != drawn[0][1], "the runs are told apart by their index"


def test_an_adapter_is_loaded_once_and_again_when_it_was_trained_again(config, server):
    config = replace(config, iteration="5")
    trained(config, 1)
    first = served.connect(server.url, config)
    assert served.connect(server.url, config) == first
    assert list(server.adapters.values()) == [str(config.paths.adapter(config.name))]
    trained(config, 2)
    assert served.connect(server.url, config).name != first.name
    assert len(server.adapters) == 2


def test_a_server_that_may_load_no_adapter_is_said_how_to_start(config, server):
    config = replace(config, iteration="5")
    trained(config, 1)
    server.may_load = False
    with pytest.raises(served.ServerError, match=r"answers 404 .* VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, .*--lora-mod"):
        served.connect(server.url, config)


def test_another_base_model_is_refused_unless_it_is_named(config, server, monkeypatch):
    server.base = "someone/else"
    with pytest.raises(served.ServerError, match="has the base model someone/else, and this run's is"):
        served.connect(server.url, config)
    monkeypatch.setenv("ENGINE_BASE", "someone/else")
    assert served.connect(server.url, config).name == "someone/else"
    monkeypatch.setenv("ENGINE_BASE", "nobody")
    with pytest.raises(served.ServerError, match=r"ENGINE_BASE=nobody: the server at .* has only someone/else"):
        served.connect(server.url, config)


def test_a_server_that_tells_no_token_ids_is_refused(config, server):
    server.tells_ids = False
    with pytest.raises(served.ServerError, match=r"returns no token ids.*0\.10\.2"):
        served.complete(served.connect(server.url, config), [0], PROMPTS[:1], Decoding(4, (-1,)), 1, seed=0)


def test_a_server_that_is_not_there_is_said_in_a_sentence(config):
    with pytest.raises(served.ServerError, match=r"ENGINE_URL=http://127.0.0.1:9/v1: no answer .*start the server"):
        served.connect("http://127.0.0.1:9/v1", config)


def test_the_key_goes_with_every_request(config, server, monkeypatch):
    monkeypatch.setenv("ENGINE_KEY", "rahasia")
    served.connect(server.url, config)
    assert server.keys == {"Bearer rahasia"}


def test_what_is_no_server_of_models_is_said_in_a_sentence(config, monkeypatch):
    monkeypatch.setattr(httpx, "request", lambda *_, **__: httpx.Response(200, text="<html>"))
    with pytest.raises(served.ServerError, match="not an OpenAI-compatible server"):
        served.connect("http://127.0.0.1:1/v1", config)
