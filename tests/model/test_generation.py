import json
from itertools import chain

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lib.model import generation
from lib.model.generation import Batch, Decoding, decode, pick, read_completions, uniforms, write_completions

NEVER = (10**6,)
"""Ends that no model writes."""


@pytest.fixture
def gpt2_model(tokenizer):
    """Another architecture, with learned absolute positions: unlike rotary ones, they tell if padding shifts them."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(params=["tiny_model", "gpt2_model"])
def model(request):
    return request.getfixturevalue(request.param)


def random_prompts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 600, size=rng.integers(1, 30)).tolist() for _ in range(count)]


def random_draws(count, runs, length):
    return np.array([[uniforms(0, row, run, length) for run in range(runs)] for row in range(count)])


@pytest.mark.parametrize("count", [1, 8, 64])
def test_greedy_completions_are_those_of_transformers_generate(model, tokenizer, count):
    prompts = random_prompts(count)
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    # Tokens that the model does write, so that some sequences end early.
    first = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=12, eos_token_id=None)
    ends = sorted(set(first[:: max(1, count // 4), longest + 5].tolist()))
    expected = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=12, eos_token_id=ends)
    found = decode(model, prompts, np.zeros((count, 1, 12)), Decoding(12, tuple(ends), greedy=True))
    for row, completions in zip(expected[:, longest:].tolist(), found, strict=True):
        end = next((n for n, token in enumerate(row) if token in ends), len(row))
        assert completions == [row[:end]]
    assert any(len(completions[0]) < 12 for completions in found)


def test_the_token_that_ends_a_completion_is_no_part_of_it(tiny_model):
    prompts = random_prompts(4)
    draws = random_draws(4, 2, 10)
    free = decode(tiny_model, prompts, draws, Decoding(10, NEVER))
    end = free[1][1][6]
    ended = decode(tiny_model, prompts, draws, Decoding(10, (end,)))
    for completions, shorter in zip(chain(*free), chain(*ended), strict=True):
        assert shorter == (completions[: completions.index(end)] if end in completions else completions)


def test_a_completion_has_at_most_the_tokens_allowed(tiny_model):
    completions = decode(tiny_model, random_prompts(3), random_draws(3, 2, 7), Decoding(7, NEVER))
    assert [[len(ids) for ids in runs] for runs in completions] == [[7, 7]] * 3


def test_a_completion_does_not_depend_on_its_batch_mates(model):
    prompts = random_prompts(9)
    draws = random_draws(9, 3, 12)
    decoding = Decoding(12, tuple(range(0, 600, 12)), temperature=0.6, top_p=0.9)
    together = decode(model, prompts, draws, decoding)
    assert len({len(ids) for ids in chain(*together)}) > 1
    for n, prompt in enumerate(prompts):
        assert decode(model, [prompt], draws[n : n + 1], decoding) == [together[n]]
        for run in range(3):
            assert decode(model, [prompt], draws[n : n + 1, run : run + 1], decoding) == [[together[n][run]]]


def test_runs_of_a_prompt_differ_and_come_again_the_same(tiny_model):
    prompts = random_prompts(2)
    first, again = (decode(tiny_model, prompts, random_draws(2, 3, 8), Decoding(8, NEVER)) for _ in range(2))
    assert first == again
    assert len({tuple(ids) for ids in first[0]}) == 3


def test_random_numbers_are_told_apart_by_seed_row_and_run_and_not_by_their_count():
    streams = {(s, r, n): tuple(uniforms(s, r, n, 4)) for s in (0, 1) for r in (0, 1, 2**20) for n in (0, 1)}
    assert len(set(streams.values())) == len(streams)
    assert all(0 <= value < 1 for stream in streams.values() for value in stream)
    np.testing.assert_array_equal(uniforms(3, 4, 5, 48)[:4], uniforms(3, 4, 5, 4))


GRID = 20_000


@pytest.mark.parametrize("shape", ["small", "peaked", "flat"])
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, 0), (0.6, 0.9, 0), (1.7, 1.0, 0), (1.0, 0.5, 0), (1.0, 1.0, 5), (0.8, 0.95, 300), (1.0, 1e-6, 0)],
)
def test_what_is_drawn_follows_the_softmax_after_transformers_own_warpers(shape, temperature, top_p, top_k):
    # Above 256 tokens only the likeliest are sorted at first; flat logits need them all.
    size, spread = {"small": (12, 2.0), "peaked": (600, 4.0), "flat": (600, 0.3)}[shape]
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(1, size)) * spread).float()
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    expected = expected.softmax(-1)[0].numpy()
    # Every draw of an even grid: a token's share of them is its probability, to a step or two of the grid.
    draws = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    decoding = Decoding(1, NEVER, temperature=temperature, top_p=top_p, top_k=top_k)
    drawn = torch.cat([pick(logits.expand(len(part), -1), part, decoding) for part in draws.split(5_000)])
    share = np.bincount(drawn.numpy(), minlength=size) / GRID
    np.testing.assert_allclose(share, expected, atol=3 / GRID)
    assert not share[expected == 0].any()


def test_the_greedy_pick_is_the_likeliest_whatever_is_drawn():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 1.0]])
    for draw in (0.0, 0.999999):
        assert pick(logits, torch.full((2,), draw), Decoding(1, NEVER, greedy=True)).tolist() == [1, 0]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_greatest_draw_still_names_a_token_that_is_kept(top_p):
    logits = torch.tensor([[0.0, 3.0, -2.0, 1.0]])
    draw = torch.tensor([np.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert pick(logits, draw, Decoding(1, NEVER, top_p=top_p)).item() == (2 if top_p == 1 else 3)


def test_the_models_own_defaults_and_both_its_ends_are_used(tiny_model):
    tiny_model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[7, 5])
    assert generation.model_defaults(tiny_model, end_of_turn=9, max_new_tokens=48) == Decoding(
        max_new_tokens=48, end_ids=(5, 7, 9), temperature=0.6, top_p=0.9, top_k=0
    )


def test_a_model_without_defaults_samples_plainly(tiny_model):
    tiny_model.generation_config = GenerationConfig(eos_token_id=5)
    assert generation.model_defaults(tiny_model, 5, 48) == Decoding(48, (5,), temperature=1.0, top_p=1.0, top_k=0)


def write(path, model, tokenizer, **changed):
    prompts = {row: prompt for row, prompt in zip((3, 14, 15, 92, 65), random_prompts(5), strict=True)}
    options = {
        "prompts": prompts, "decoding": Decoding(4, NEVER), "runs": 2, "seed": 0, "batch_rows": 2,
        "settings": {"model": "kecil"},
    }  # fmt: skip
    write_completions(model, tokenizer, path=path, **options | changed)
    return path.read_bytes()


@pytest.fixture
def decoded(monkeypatch):
    """Stand in for the model with tokens that depend on prompt and draws; list the batches that were decoded."""
    batches = []

    def stand_in(model, prompts, draws, decoding):
        batches.append(len(prompts))
        return [[[len(prompt), *(int(600 * d) for d in run)] for run in runs]
                for prompt, runs in zip(prompts, draws, strict=True)]  # fmt: skip

    monkeypatch.setattr(generation, "decode", stand_in)
    # What a disk has when the power fails cannot be tested here, and waiting for it a thousand times is slow.
    monkeypatch.setattr(generation.os, "fsync", lambda file: None)
    return batches


def test_completions_are_written_a_line_each_for_every_row_and_run(tmp_path, tiny_model, tokenizer):
    write(tmp_path / "c.jsonl", tiny_model, tokenizer)
    found = list(read_completions(tmp_path / "c.jsonl"))
    assert sorted((record["row"], record["run"]) for record in found) == [
        (row, run) for row in (3, 14, 15, 65, 92) for run in (0, 1)
    ]
    prompts = dict(zip((3, 14, 15, 92, 65), random_prompts(5), strict=True))
    for record in found:
        draws = uniforms(0, record["row"], record["run"], 4).reshape(1, 1, 4)
        assert decode(tiny_model, [prompts[record["row"]]], draws, Decoding(4, NEVER)) == [[record["ids"]]]
        assert record["text"] == tokenizer.decode(record["ids"], skip_special_tokens=True)


def test_an_interrupted_file_ends_the_same_wherever_it_was_torn(tmp_path, tokenizer, decoded):
    path = tmp_path / "c.jsonl"
    whole = write(path, None, tokenizer)
    lines = whole.splitlines(keepends=True)
    assert decoded == [2, 2, 1]
    ends = np.cumsum([len(b"".join(part)) for part in (lines[:5], lines[5:9], lines[9:])])
    for torn in range(len(whole) + 1):
        path.write_bytes(whole[:torn])
        decoded.clear()
        assert write(path, None, tokenizer) == whole
        # No whole batch is decoded again.
        assert len(decoded) == 3 - int((ends <= torn).sum())


def test_a_real_model_goes_on_with_an_interrupted_file_to_the_same_bytes(tmp_path, tiny_model, tokenizer):
    path = tmp_path / "c.jsonl"
    whole = write(path, tiny_model, tokenizer)
    for torn in (len(whole) // 3, len(whole) * 2 // 3, len(whole) - 1):
        path.write_bytes(whole[:torn])
        assert write(path, tiny_model, tokenizer) == whole


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": {"model": "besar"}},
        {"prompts": dict(zip((3, 14, 15, 92, 65), random_prompts(5, seed=1), strict=True))},
        {"prompts": dict(zip((3, 14, 15, 92, 66), random_prompts(5), strict=True))},
        {"decoding": Decoding(4, NEVER, temperature=0.5)},
        {"seed": 1},
        {"runs": 3},
    ],
    ids=["settings", "texts", "rows", "decoding", "seed", "runs"],
)
def test_a_file_made_otherwise_is_begun_anew(tmp_path, tokenizer, decoded, changed):
    fresh = write(tmp_path / "fresh.jsonl", None, tokenizer, **changed)
    write(tmp_path / "old.jsonl", None, tokenizer)
    decoded.clear()
    assert write(tmp_path / "old.jsonl", None, tokenizer, **changed) == fresh
    assert sum(decoded) == 5


def test_a_finished_file_is_left_as_it_is(tmp_path, tokenizer, decoded):
    write(tmp_path / "c.jsonl", None, tokenizer)
    decoded.clear()
    write(tmp_path / "c.jsonl", None, tokenizer)
    assert decoded == []


def test_the_first_line_says_what_the_completions_depend_on(tmp_path, tokenizer, decoded):
    head = json.loads(write(tmp_path / "c.jsonl", None, tokenizer).splitlines()[0])
    assert head["settings"] == {"model": "kecil"}
    assert (head["rows"], head["runs"], head["seed"]) == (5, 2, 0)


def alone(model, prompt, draws, decoding):
    return decode(model, [prompt], draws[None, None], decoding)[0][0]


def test_sequences_that_join_and_leave_write_what_they_write_alone(model):
    prompts, decoding = random_prompts(5), Decoding(14, tuple(range(0, 600, 40)), temperature=0.6, top_p=0.9)
    greedy = Decoding(9, NEVER, greedy=True)
    draws = random_draws(5, 1, 14)[:, 0]
    batch = Batch(model)
    written = {key: [] for key in range(5)}

    def steps(count):
        for _ in range(count):
            for key, token in batch.step():
                written[key] += [token] if token is not None else []

    batch.add(0, prompts[0], draws[0], decoding)
    steps(3)
    batch.add(1, prompts[1], draws[1], greedy)
    batch.add(2, prompts[2], draws[2], decoding)
    steps(4)
    batch.remove(2)
    batch.add(3, prompts[3], draws[3], decoding)
    steps(2)
    batch.add(4, prompts[4], draws[4], decoding)
    while len(batch):
        steps(1)
    for key in (0, 1, 3, 4):
        assert written[key] == alone(model, prompts[key], draws[key], greedy if key == 1 else decoding)
    whole = alone(model, prompts[2], draws[2], decoding)
    assert written[2] == whole[: len(written[2])] and len(written[2]) <= 4


def test_a_sequence_goes_on_from_what_was_written_elsewhere(model):
    prompt, draws = random_prompts(1)[0], random_draws(1, 1, 12)[0, 0]
    decoding = Decoding(12, NEVER, temperature=0.8)
    whole = alone(model, prompt, draws, decoding)
    for cut in (0, 1, 7, 11):
        batch = Batch(model)
        batch.add("it", prompt, draws, decoding, written=whole[:cut])
        rest = []
        while len(batch):
            rest += [token for _, token in batch.step()]
        assert rest == whole[cut:]


def test_an_empty_batch_steps_to_nothing_and_takes_sequences_again(tiny_model):
    batch, decoding, draws = Batch(tiny_model), Decoding(2, NEVER), random_draws(1, 1, 2)[0, 0]
    assert batch.step() == []
    for _ in range(2):
        batch.add("again", [7], draws, decoding)
        assert len(batch) == 1
        assert [len(batch.step()) for _ in range(3)] == [1, 1, 0]
        batch.remove("again")
        batch.remove("never there")
