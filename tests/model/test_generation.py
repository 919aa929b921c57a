import json
from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lib import paths
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


@pytest.mark.parametrize("at_once", [1, 20, 45, 10_000])
def test_a_completion_does_not_depend_on_which_prompts_are_read_together(tiny_model, monkeypatch, at_once):
    prompts, draws, decoding = random_prompts(9), random_draws(9, 2, 6), Decoding(6, NEVER)
    expected = decode(tiny_model, prompts, draws, decoding)
    monkeypatch.setattr(generation, "TOKENS_READ", at_once)
    assert decode(tiny_model, prompts, draws, decoding) == expected


def test_prompts_that_follow_each_other_are_read_together_as_far_as_they_fit_padded(monkeypatch):
    monkeypatch.setattr(generation, "TOKENS_READ", 12)
    prompts = [[0] * length for length in (2, 3, 4, 4, 6, 6, 30, 1)]
    found = [[len(prompt) for prompt in prompts[some]] for some in generation._read_together(prompts)]
    assert found == [[2, 3, 4], [4, 6], [6], [30], [1]]


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


def warped(logits, temperature, top_p, top_k):
    """The probabilities after transformers' own warpers, in double precision: their sums over a vocabulary round."""
    logits = TemperatureLogitsWarper(temperature)(None, logits.double())
    if top_k:
        logits = TopKLogitsWarper(top_k)(None, logits)
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    return logits.softmax(-1)


def some_logits(shape):
    size, spread = {"small": (12, 2.0), "peaked": (600, 4.0), "flat": (600, 0.3), "equal": (613, 0.0)}.get(
        shape, (640, 1.0)
    )
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(1, size)) * spread).float()
    # Logits of 16 bits are often equal.
    return (4 * logits).round() / 4 if shape == "ties" else logits


@pytest.mark.parametrize("shape", ["small", "peaked", "flat", "ties", "equal"])
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [
        (1.0, 1.0, 0), (0.6, 0.9, 0), (1.7, 1.0, 0), (1.0, 0.5, 0), (1.0, 1.0, 5), (0.8, 0.95, 300), (1.0, 1e-6, 0),
        (1.0, 1.0, 50), (0.6, 0.9, 50), (1.0, 0.999, 10_000),
    ],
)  # fmt: skip
def test_what_is_drawn_follows_the_softmax_after_transformers_own_warpers(shape, temperature, top_p, top_k):
    logits = some_logits(shape)
    expected = warped(logits, temperature, top_p, top_k)[0].numpy()
    # Of equal tokens, transformers may keep others than we do, but as many.
    _, same = np.unique(logits[0].numpy(), return_inverse=True)
    draws = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID
    decoding = Decoding(1, NEVER, temperature=temperature, top_p=top_p, top_k=top_k)
    drawn = torch.cat([pick(logits.expand(len(part), -1), part, decoding) for part in draws.split(5_000)])
    share = np.bincount(drawn.numpy(), minlength=logits.shape[-1]) / GRID
    wanted, found = np.bincount(same, expected), np.bincount(same, share)
    # On an even grid of draws the shares are the probabilities, to a step or two; what top-p does not keep is drawn
    # again, and that is left to chance.
    chance = 0 if top_p == 1 else 5 * np.sqrt(wanted / GRID)
    assert (abs(found - wanted) <= 3 * np.bincount(same) / GRID + chance).all()
    kept, drawn_of = (np.bincount(same, some > 0).astype(int) for some in (expected, share))
    often = np.bincount(same, expected * GRID > 20) > 0
    np.testing.assert_array_equal(drawn_of[often], kept[often])
    assert (drawn_of <= kept).all()


@pytest.mark.parametrize(("spread", "step"), [(0.3, 0), (4.0, 0), (0.3, 1 / 16), (4.0, 1 / 16)])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.9, 0), (0.3, 0), (1.0, 50), (0.9, 50), (1.0, 3_000), (0.9, 3_000)])
def test_of_a_real_vocabulary_only_what_transformers_keeps_is_drawn_and_as_often(spread, step, top_p, top_k):
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 49_152)) * spread).float()
    if step:
        logits = (logits / step).round() * step
    expected = warped(logits, 1.0, top_p, top_k)[0]
    rows = 1_000
    draws = torch.from_numpy(np.random.default_rng(2).random(rows))
    decoding = Decoding(1, NEVER, top_p=top_p, top_k=top_k)
    drawn = torch.cat([pick(logits.expand(len(part), -1), part, decoding) for part in draws.split(100)])
    least = logits[0][expected > 0].min()
    assert (logits[0, drawn] >= least).all()
    # By chi-square over tenths of the probability, from the likeliest token down.
    values, place = logits[0].unique(return_inverse=True)
    by_value = torch.zeros(len(values), dtype=torch.float64).index_add(0, place, expected)
    tenth = ((by_value.flip(0).cumsum(0).flip(0) - by_value / 2) * 10).long().clamp(0, 9)[place]
    share = torch.zeros(10, dtype=torch.float64).index_add(0, tenth, expected)
    found = torch.bincount(tenth[drawn], minlength=10)
    some = share * rows > 5
    assert ((found - share * rows)[some] ** 2 / (share * rows)[some]).sum() < 35
    assert (found[~some] <= 20).all()


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (0.2, 0), (1.0, 50), (0.9, 50), (0.9, 30_000)])
def test_a_token_hangs_on_its_own_logits_and_draw_alone(top_p, top_k):
    rng = np.random.default_rng(0)
    # Flat rows, peaked rows and one of equal logits; more than are sampled together.
    logits = torch.from_numpy(rng.normal(size=(30, 49_152)) * np.tile([0.3, 4.0, 0.0], 10)[:, None]).float()
    draws = torch.from_numpy(rng.random(30))
    decoding = Decoding(1, NEVER, temperature=0.8, top_p=top_p, top_k=top_k)
    together = pick(logits, draws, decoding)
    assert len(set(together.tolist())) > 10
    order = torch.from_numpy(rng.permutation(30))
    assert pick(logits[order], draws[order], decoding).tolist() == together[order].tolist()
    alone = torch.cat([pick(logits[n : n + 1], draws[n : n + 1], decoding) for n in range(30)])
    assert alone.tolist() == together.tolist()


class Sorted(TorchDispatchMode):
    """Notes how many numbers are put in order at a time."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name in ("sort", "argsort"):
            self.counts.append(args[0].shape[-1])
        elif name == "topk":
            self.counts.append(args[1])
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (0.1, 0), (1.0, 50), (0.9, 50)])
def test_no_vocabulary_is_sorted_however_flat_a_row_is(top_p, top_k):
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 20_000)) * 0.1).float()
    with Sorted() as noted:
        pick(logits, torch.full((8,), 0.7), Decoding(1, NEVER, top_p=top_p, top_k=top_k))
    assert max(noted.counts, default=0) <= top_k


def test_the_greedy_pick_is_the_likeliest_whatever_is_drawn():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 1.0]])
    for draw in (0.0, 0.999999):
        assert pick(logits, torch.full((2,), draw), Decoding(1, NEVER, greedy=True)).tolist() == [1, 0]


@pytest.mark.parametrize("draw", [0.0, 0.5, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (1.0, 2), (0.9, 2)])
def test_the_least_and_the_greatest_draw_name_tokens_that_are_kept(top_p, top_k, draw):
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.tensor([[-torch.inf, 3.0, -2.0, 1.0, -torch.inf]], dtype=dtype)
        token = pick(logits, torch.tensor([draw]), Decoding(1, NEVER, top_p=top_p, top_k=top_k)).item()
        assert token in ((1, 2, 3) if (top_p, top_k) == (1, 0) else (1, 3))


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.9, 0), (0.9, 50)])
def test_logits_of_16_bits_are_divided_in_32(top_p, top_k):
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 3_000)) * 3).bfloat16()
    draws, decoding = random_draws(200, 1, 1)[:, 0, 0], Decoding(1, NEVER, temperature=0.7, top_p=top_p, top_k=top_k)
    wide, narrow = (pick(some, torch.from_numpy(draws), decoding) for some in (logits.float(), logits))
    assert narrow.tolist() == wide.tolist()


def test_at_temperature_0_the_likeliest_token_is_picked():
    assert pick(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.999]), Decoding(1, NEVER, temperature=0.0)) == 1


OWN = {
    "demo": GenerationConfig.from_pretrained(paths.ROOT / "lib" / "demo" / "base_model").to_diff_dict(),
    "nothing": {},
    "no-limit": {"do_sample": True, "top_k": 0},
    "greedy": {"do_sample": False},
    "all": {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
}


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize(
    "asked",
    [{}, {"do_sample": False}, {"temperature": 0.3}, {"top_k": 0}, {"top_k": 7}, {"top_p": 0.5}, {"top_p": 1.0}],
    ids=str,
)
def test_settings_are_resolved_as_generate_of_transformers_does(tiny_model, own, asked):
    tiny_model.generation_config = GenerationConfig(**OWN[own])
    # Whether to sample is what we do not leave to the model.
    asked = {"do_sample": True} | asked
    used, _ = tiny_model._prepare_generation_config(None, **asked)
    warpers = tiny_model._get_logits_processor(used, input_ids_seq_length=1, device="cpu")
    names = {TemperatureLogitsWarper: "temperature", TopKLogitsWarper: "top_k", TopPLogitsWarper: "top_p"}
    expected = {names[type(warper)]: getattr(warper, names[type(warper)]) for warper in warpers}
    found = generation.decoding_of(tiny_model, 5, 48, **asked)
    assert found.greedy is not asked["do_sample"]
    if not found.greedy:
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        assert {name: getattr(found, name) for name in neutral} == neutral | expected
    else:
        assert expected == {}


def test_a_model_that_says_nothing_is_sampled_with_the_defaults_of_transformers(tiny_model):
    tiny_model.generation_config = GenerationConfig(eos_token_id=5)
    assert generation.decoding_of(tiny_model, 5, 48) == Decoding(48, (5,), temperature=1.0, top_p=1.0, top_k=50)


def test_what_a_model_asks_for_and_does_not_get_is_named():
    asked = GenerationConfig(repetition_penalty=1.1, min_p=0.05, num_beams=1, temperature=0.3, top_k=7)
    assert generation.not_applied(asked) == {"repetition_penalty": 1.1, "min_p": 0.05}
    assert generation.not_applied(GenerationConfig()) == {}


def test_both_ends_of_the_model_and_the_end_of_the_turn_end_a_completion(tiny_model):
    tiny_model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[7, 5])
    assert generation.decoding_of(tiny_model, end_of_turn=9, max_new_tokens=48) == Decoding(
        max_new_tokens=48, end_ids=(5, 7, 9), temperature=0.6, top_p=0.9, top_k=50
    )


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


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        (6, b'"text": "', b'"text": "Jawaban lain '),
        (6, b'"ids": [', b'"ids": [9, '),
        (6, b'"ids": [', b'"ids": ["a", '),
        (6, b'"run": ', b'"run": 1'),
        (6, b'"row": ', b'"row": 1'),
        (6, b'"ids"', b'"id"'),
        (6, b'{"row"', b'["row"'),
        (9, b'"text": "', b'"text": "Jawaban lain '),
    ],
)
def test_completions_that_somebody_changed_are_made_again(tmp_path, tokenizer, decoded, line, old, new):
    path = tmp_path / "c.jsonl"
    whole = write(path, None, tokenizer)
    lines = whole.splitlines(keepends=True)
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new)
    path.write_bytes(b"".join(lines))
    decoded.clear()
    assert write(path, None, tokenizer) == whole
    assert len(decoded) == (2 if line < 9 else 1), "the batches before are kept"


def test_a_finished_file_is_left_as_it_is(tmp_path, tokenizer, decoded):
    write(tmp_path / "c.jsonl", None, tokenizer)
    decoded.clear()
    write(tmp_path / "c.jsonl", None, tokenizer)
    assert decoded == []


def test_the_first_line_says_what_the_completions_depend_on(tmp_path, tokenizer, decoded):
    head = json.loads(write(tmp_path / "c.jsonl", None, tokenizer).splitlines()[0])
    assert head["settings"] == {"model": "kecil"}
    assert (head["rows"], head["runs"], head["seed"]) == (5, 2, 0)
    assert generation.read_settings(tmp_path / "c.jsonl") == {"model": "kecil"}
    assert generation.read_decoding(tmp_path / "c.jsonl") == Decoding(4, NEVER)


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
