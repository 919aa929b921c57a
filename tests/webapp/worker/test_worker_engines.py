"""The engines: the model in this process, and a server that speaks OpenAI's protocol."""

import json
import time
from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import small_adapter
import stand_in_vllm
import torch
from chat_parts import OpenAIServer, request_for
from wire.messages import Request, Settings, Turn
from worker import asked, transformers_engine
from worker import shelf as adapters
from worker.engine import EngineError, EngineRefusalError
from worker.openai_engine import ServerError, load_engine, steps_of
from worker.text import TextStream
from worker.transformers_engine import TransformersEngine

from lib import paths
from lib.config import Config, Lora, Model, Prompt
from lib.model import generation, loading, prompts, references
from lib.model.generation import decoding_of, uniforms
from lib.paths import ADAPTER_RECORD, REFERENCES


@pytest.fixture
def other_model(tiny_model):
    """What an adapter would make of it: the same shape, other weights."""
    made = deepcopy(tiny_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture
def engine(tiny_model, other_model, tokenizer, settings):
    return TransformersEngine({"base": tiny_model, "adapter": other_model}, tokenizer, settings, model="tiny")


def decoded(engine, *requests):
    """Each request's steps, all decoded together."""
    steps = {request.gid: [] for request in requests}
    for request in requests:
        engine.add(request, [], "")
    for _ in range(200):
        for step in engine.step():
            steps[step.gid].append(step)
    return steps


def text_of_steps(steps):
    return "".join(step.text for step in steps)


def evaluated(model, tokenizer, settings, request):
    """What the evaluation makes of the same prompt: ids and text."""
    messages = [{"role": turn.role, "content": turn.content} for turn in request.turns]
    ids, _ = prompts.encode_prompt(tokenizer, messages, settings, 400)
    count = request.settings.max_new_tokens
    decoding = asked.decoding_of(decoding_of(model, prompts.end_of_turn_id(tokenizer, settings), 1), request.settings)
    if request.settings.greedy:
        decoding = generation.Decoding(count, decoding.end_ids, greedy=True)
    draws = np.array([[uniforms(request.seed, 0, 0, count)]])
    ((found,),) = generation.decode(model, [ids], draws, decoding)
    return found, tokenizer.decode(found, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("own", "given", "drawn"),
    [
        ((1.0, 1.0), {}, (0.8, 0.95)),
        ((1.0, 1.0), {"temperature": 1.0}, (1.0, 0.95)),
        ((1.0, 1.0), {"temperature": 1.0, "top_p": 1.0}, (1.0, 1.0)),
        ((0.7, 1.0), {}, (0.7, 1.0)),
        ((1.0, 0.7), {}, (1.0, 0.7)),
        ((0.8, 0.7), {"top_p": 0.5}, (0.8, 0.5)),
    ],
)
def test_an_answer_is_drawn_as_asked_else_as_the_base_model_says_else_soberly(own, given, drawn):
    defaults = generation.Decoding(1, (2,), temperature=own[0], top_p=own[1])
    found = asked.decoding_of(defaults, Settings(max_new_tokens=7, **given))
    assert (found.temperature, found.top_p, found.max_new_tokens, found.end_ids) == (*drawn, 7, (2,))


@pytest.mark.parametrize("greedy", [True, False])
def test_the_text_is_the_evaluations_whatever_else_is_in_the_batch(
    engine, tiny_model, other_model, tokenizer, settings, greedy
):
    requests = [
        request_for(text, target=target, seed=n, max_new_tokens=24, greedy=greedy)
        for n, text in enumerate(["Apa ibu kota Jepang?", "Selamat pagi", "<|eot_id|> é 日"])
        for target in ("base", "adapter")
    ]
    steps = decoded(engine, *requests)
    for request in requests:
        model = tiny_model if request.target == "base" else other_model
        ids, text = evaluated(model, tokenizer, settings, request)
        told = steps[request.gid]
        assert [token for step in told for token in step.ids] == ids
        assert text_of_steps(told) == text
        assert told[-1].finish == ("length" if len(ids) == 24 else "stop")
    assert engine.step() == []


@pytest.mark.parametrize("given", ["Ibu kota", "Ibu kota ", "é 日<|eot_id|>"])
@pytest.mark.parametrize("after", [0, 3])
def test_an_answer_goes_on_from_what_somebody_gave_it(engine, tiny_model, tokenizer, settings, given, after):
    request = request_for("Apa ibu kota Jepang?", max_new_tokens=12, greedy=True, given=given)
    ids, _ = prompts.encode_prompt(tokenizer, [{"role": "user", "content": "Apa ibu kota Jepang?"}], settings, 400)
    begun = tokenizer(given, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    decoding = generation.Decoding(
        12, decoding_of(tiny_model, prompts.end_of_turn_id(tokenizer, settings), 12).end_ids, True
    )
    ((expected,),) = generation.decode(tiny_model, [[*ids, *begun]], np.zeros((1, 1, 12)), decoding)
    # Also if another worker has to go on with it.
    stream = TextStream(tokenizer, before=begun)
    before = "".join(stream.add(token) for token in expected[:after])
    added = engine.add(request, expected[:after], before)
    steps = []
    while not steps or not steps[-1].finish:
        steps += engine.step()
    assert added.prompt_tokens == len(ids) + len(begun)
    assert [*expected[:after], *(token for step in steps for token in step.ids)] == expected
    assert given + before + text_of_steps(steps) == tokenizer.decode([*begun, *expected], skip_special_tokens=True)


@pytest.fixture
def shelf(base_model, tiny_model, tokenizer, tmp_path, monkeypatch):
    """An engine, and the folders of two adapters that it finds; one has scores."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    folders = {}
    for seed, name in enumerate(("satu/5_seed0", "dua/7_seed1")):
        run, training = name.split("/")
        folder = folders[name] = tmp_path / "artifacts" / run / "adapters" / training
        torch.manual_seed(seed)
        model = loading.attach_lora(loading.load_base(Model(base_model=str(base_model))), Lora())
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.data.normal_(0, 0.3)
        model.save_pretrained(folder)
        told = {"base_model": str(base_model), "chat_template_sha256": prompts.chat_template_hash(tokenizer, Prompt())}
        (folder / ADAPTER_RECORD).write_text(json.dumps(told | {"prompt": asdict(Prompt())}))
    (tmp_path / "reports/satu").mkdir(parents=True)
    (tmp_path / "reports/satu/summary.csv").write_text(
        "iteration,seed,protocol,metric,mean\n5,0,clean,chrf,31.26\n5,0,clean,bleu,4\n5,0,cendol,chrf,9\n7,0,clean,chrf,1\n"
    )
    return transformers_engine.load_engine(str(base_model), None), folders


def test_adapters_of_other_runs_are_offered_with_their_scores_as_soon_as_they_are_there(shelf):
    engine, folders = shelf
    assert [(one.name, one.scores) for one in engine.offered()] == [
        ("dua/7_seed1", ""),
        ("satu/5_seed0", "BLEU 4.0, chrF 31.3"),
    ]
    record = folders["dua/7_seed1"] / ADAPTER_RECORD
    record.write_text(json.dumps(json.loads(record.read_text()) | {"base_model": "another"}))
    weights = folders["satu/5_seed0"] / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    assert engine.offered() == ()
    weights.write_bytes(whole)
    assert [one.name for one in engine.offered()] == ["satu/5_seed0"]


def test_several_adapters_answer_in_one_batch_each_as_if_alone(shelf, base_model, tokenizer, settings):
    engine, folders = shelf
    names = [*folders, *folders]
    requests = [
        replace(request_for(f"Apa {n}?", target="adapter", seed=n, max_new_tokens=16), adapter=name)
        for n, name in enumerate(names)
    ]
    base = request_for("Apa 0?", seed=0, max_new_tokens=16)
    steps = decoded(engine, *requests, base)
    for request in requests:
        alone = loading.load_adapter(Model(base_model=str(base_model)), folders[request.adapter])
        ids, text = evaluated(alone, tokenizer, settings, request)
        assert [token for step in steps[request.gid] for token in step.ids] == ids
        assert text_of_steps(steps[request.gid]) == text
    untouched = loading.load_base(Model(base_model=str(base_model)))
    assert [token for step in steps[base.gid] for token in step.ids] == evaluated(untouched, tokenizer, settings, base)[
        0
    ]
    weights = {id(parameter) for parameter in engine._models["base"].parameters()}
    assert weights <= {id(parameter) for parameter in engine._shelved._model.parameters()}, "shared, not copied"


def test_an_adapter_that_is_not_there_is_a_refusal(shelf):
    engine, _ = shelf
    with pytest.raises(EngineRefusalError) as refused:
        engine.add(replace(request_for("Apa?", target="adapter"), adapter="tiga/1_seed0"), [], "")
    assert refused.value.reason == "no_adapter"
    assert engine.step() == []


def test_of_many_adapters_the_last_few_stay_loaded_and_those_that_answer(shelf, monkeypatch):
    engine, folders = shelf
    monkeypatch.setattr(adapters, "KEPT", 1, raising=False)
    one, other = (replace(request_for("Apa?", target="adapter", max_new_tokens=8), adapter=name) for name in folders)

    def texts(*requests):
        found = [text_of_steps(steps) for steps in decoded(engine, *requests).values()]
        # An ended row keeps its adapter until it is dropped.
        engine.reset()
        return found, len(engine._shelved._model.peft_config)

    alone = [*texts(one)[0], *texts(other)[0]]
    assert texts(one) == (alone[:1], 1)
    assert texts(one, other) == (alone, 2), "both answer at once"
    assert texts(other) == (alone[1:], 1)
    engine.look(one, "Kue", True)
    assert list(engine._shelved._model.peft_config) == list(engine._shelved._names.values()) != []


@pytest.mark.parametrize("at_once", [256, 3])
def test_an_answer_is_seen_as_the_models_see_it(
    engine, tiny_model, other_model, tokenizer, settings, monkeypatch, at_once
):
    monkeypatch.setattr(transformers_engine, "LOOKED_AT_ONCE", at_once, raising=False)
    most = []
    hook = tiny_model.register_forward_hook(lambda model, given, found: most.append(found.logits.shape[1]))
    request = request_for("Apa ibu kota <|eot_id|> Jepang?", target="adapter", system="Singkat.")
    text = "Ibu kota é 日"
    seen = engine.look(request, text, True)
    messages = [{"role": turn.role, "content": turn.content} for turn in request.turns]
    prompt, _ = prompts.encode_prompt(tokenizer, messages, settings, 400)
    answer = tokenizer(text, add_special_tokens=False)["input_ids"] + [prompts.end_of_turn_id(tokenizer, settings)]
    hook.remove()
    assert max(most) <= at_once and sum(most) == len(answer)
    assert "".join(piece.text for piece in seen.prompt) == tokenizer.decode(prompt)
    assert len(seen.prompt) == len(prompt)
    assert "".join(piece.text for piece in seen.prompt if piece.written) == "Singkat.Apa ibu kota <|eot_id|> Jepang?"
    assert "".join(token.text for token in seen.answer) == text
    for model, name in ((tiny_model, "base"), (other_model, "adapter")):
        with torch.inference_mode():
            expected = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].softmax(-1)
        told = [getattr(token, name) for token in seen.answer]
        own = expected[range(len(answer)), answer].tolist()
        assert told == pytest.approx(own, abs=2e-6)
        for likely, row in zip((getattr(token, f"{name}_likely") for token in seen.answer), expected, strict=True):
            assert [one.probability for one in likely] == pytest.approx(row.topk(5).values.tolist(), abs=2e-6)
            assert likely[0].text == tokenizer.decode([int(row.argmax())])


def test_a_look_does_not_disturb_what_is_being_written(engine):
    request = request_for("Siapa kamu?", seed=4, max_new_tokens=12)
    undisturbed = [token for step in decoded(engine, request)[request.gid] for token in step.ids]
    engine.add(request, [], "")
    steps = []
    while not steps or not steps[-1].finish:
        steps += engine.step()
        engine.look(request_for("Apa?"), "Kue", False)
    assert [token for step in steps for token in step.ids] == undisturbed


def test_a_server_does_not_answer_for_an_adapter_of_this_machine(server):
    with pytest.raises(EngineRefusalError, match="no adapter demo/5_seed0"):
        load_engine(server.url, None, None).add(
            replace(request_for("Apa?", target="adapter"), adapter="demo/5_seed0"), [], ""
        )


def test_a_server_that_builds_prompts_itself_cannot_be_looked_into(server):
    with pytest.raises(EngineRefusalError) as refused:
        load_engine(server.url, None, None).look(request_for("Apa?"), "Kue", True)
    assert refused.value.reason == "no_look"


def test_a_system_prompt_comes_first_and_stays_when_old_turns_are_left_out(tiny_model, tokenizer, settings):
    engine = TransformersEngine({"base": tiny_model}, tokenizer, settings, model="tiny", max_context=130)
    seen = []
    engine._batches["base"].add = lambda gid, prompt, *_, **__: seen.append(prompt)
    said = [Turn("user", "Halo " * 20), Turn("assistant", "Ya " * 20), Turn("user", "Apa kabar?")]
    request = Request("g", "u", "c", (Turn("system", "Jawab singkat."), *said), "base", 0, Settings(max_new_tokens=8))
    assert engine.add(request, [], "").turns_left_out == 2
    messages = [{"role": "system", "content": "Jawab singkat."}, {"role": "user", "content": "Apa kabar?"}]
    assert seen == [prompts.encode_prompt(tokenizer, messages, settings, 400)[0]]


def test_a_template_without_a_place_for_a_system_prompt_says_so(tiny_model, tokenizer, settings):
    tokenizer = deepcopy(tokenizer)
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}<|eot_id|>{% endfor %}"
    engine = TransformersEngine({"base": tiny_model}, tokenizer, settings, model="tiny")
    with pytest.raises(EngineRefusalError) as refused:
        engine.add(request_for("Apa?", system="Jawab singkat."), [], "")
    assert refused.value.reason == "no_system"


@pytest.mark.parametrize("after", [0, 1, 5, 11])
def test_an_answer_goes_on_where_another_worker_left_it(engine, after):
    request = request_for("Siapa kamu?", seed=4, max_new_tokens=12)
    whole = decoded(engine, request)[request.gid]
    ids = [token for step in whole for token in step.ids]
    # Not the last step of an answer that ends before: it has no token.
    before = [step for step in whole if step.ids][:after]
    engine.add(request, ids[:after], text_of_steps(before))
    rest = []
    while not rest or not rest[-1].finish:
        rest += engine.step()
    assert [token for step in rest for token in step.ids] == ids[after:]
    assert text_of_steps(before) + text_of_steps(rest) == text_of_steps(whole)


def test_what_is_removed_is_told_no_more_and_the_others_go_on(engine):
    one, two = (request_for("Apa?", seed=n, max_new_tokens=10) for n in range(2))
    alone = text_of_steps(decoded(engine, two)[two.gid])
    engine.add(one, [], "")
    engine.add(two, [], "")
    engine.step()
    engine.remove(one.gid)
    engine.remove("never")
    steps = []
    while more := engine.step():
        steps += more
    assert {step.gid for step in steps} == {two.gid}
    assert text_of_steps(steps) == alone[-len(text_of_steps(steps)) :]


def test_after_a_reset_nothing_is_left(engine):
    engine.add(request_for("Apa?"), [], "")
    engine.reset()
    assert engine.step() == []


def test_settings_that_are_given_replace_the_models_own(engine, monkeypatch):
    seen = []
    add = generation.Batch.add
    monkeypatch.setattr(generation.Batch, "add", lambda *args, **kw: (seen.append(args[4]), add(*args, **kw)))
    engine.add(request_for("Apa?", temperature=0.5, top_k=3, max_new_tokens=4), [], "")
    engine.add(request_for("Apa?", top_p=0.5, max_new_tokens=4), [], "")
    engine.add(request_for("Apa?", top_k=0, max_new_tokens=4), [], "")
    assert (seen[0].temperature, seen[0].top_k, seen[0].top_p) == (0.5, 3, 0.95)
    assert (seen[1].temperature, seen[1].top_k, seen[1].top_p) == (0.8, 50, 0.5)
    assert seen[2].top_k == 0, "no limit is a choice"


def conversation(count, target="base"):
    turns = tuple(Turn(("user", "assistant")[n % 2], f"Apa ibu kota Indonesia? {n}") for n in range(count))
    return Request("g", "u", "c", turns, target, 0, Settings(max_new_tokens=20))


def test_a_conversation_that_is_too_long_loses_its_oldest_turns(tiny_model, tokenizer, settings):
    engine = TransformersEngine({"base": tiny_model}, tokenizer, settings, model="tiny", max_context=200)
    short, long = engine.add(conversation(3), [], ""), engine.add(conversation(41), [], "")
    assert short.turns_left_out == 0
    assert long.turns_left_out > 0 and long.turns_left_out % 2 == 0
    assert 90 < long.prompt_tokens <= 180


def test_what_cannot_be_answered_is_refused_with_a_reason(tiny_model, tokenizer, settings):
    engine = TransformersEngine({"base": tiny_model}, tokenizer, settings, model="tiny", max_context=100)
    for request, reason in (
        (request_for("kata " * 200, max_new_tokens=20), "80 tokens are left for the question"),
        (request_for("Apa?", max_new_tokens=100), "max_new_tokens=100 of 100 tokens in all"),
        (request_for("Apa?", target="adapter", max_new_tokens=20), "without an adapter"),
    ):
        with pytest.raises(EngineRefusalError, match=reason):
            engine.add(request, [], "")
    assert engine.step() == []


def test_text_comes_in_whole_characters_and_adds_up(tokenizer):
    for text in ("日本語のテキスト", "é🙂👩‍👩‍👧 kué", "a\ufffdb", "  spasi  ", ""):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        stream = TextStream(tokenizer)
        pieces = [stream.add(token) for token in ids]
        assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text
        assert "".join(pieces) + stream.rest() == stream.whole() == text
        for cut in range(len(ids)):
            again = TextStream(tokenizer, ids[:cut])
            more = [again.add(token) for token in ids[cut:]]
            assert "".join(pieces[:cut] + more) + again.rest() == text


def test_an_answer_that_ends_within_a_character_says_so(tokenizer):
    ids = tokenizer("日", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    stream = TextStream(tokenizer)
    assert [stream.add(token) for token in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.rest() == "\ufffd" == stream.whole()


@pytest.fixture
def adapter(base_model, root):
    """The folder of an adapter that changes something."""
    config = Config(run="t", profile="demo", model=Model(base_model=str(base_model)), lora=Lora(lora_rank=4))
    small_adapter.save(config, spread=1)
    return config.paths.adapter(config.name)


def test_base_and_adapter_are_loaded_once_and_answer_together(adapter):
    engine = transformers_engine.load_engine(None, adapter)
    requests = [request_for("Apa?", target=target, max_new_tokens=12, greedy=True) for target in ("base", "adapter")]
    steps = decoded(engine, *requests)
    base, tuned = (text_of_steps(steps[request.gid]) for request in requests)
    assert base != tuned
    assert len(engine.adapter_sha) == 64


def test_an_adapter_of_another_chat_template_is_refused(adapter):
    path = adapter / ADAPTER_RECORD
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"prompt": asdict(Prompt(date="1 January 2025"))}))
    with pytest.raises(EngineError, match=r"trained with another chat template .* set BASE_MODEL"):
        transformers_engine.load_engine(None, adapter)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "run `make report RUN=t` first"),
        ("{", "is not what"),
        ("{}", "is not what"),
        ('{"prompt": {"x": 1}}', "is not"),
    ],
)
def test_a_folder_without_a_sound_record_is_refused(adapter, record, reason):
    path = adapter / ADAPTER_RECORD
    path.unlink() if record is None else path.write_text(record)
    with pytest.raises(EngineError, match=reason):
        transformers_engine.load_engine(None, adapter)


def test_nothing_to_load_is_said_in_a_sentence(tmp_path):
    with pytest.raises(EngineError, match="set ADAPTER to an adapter's folder, or BASE_MODEL"):
        transformers_engine.load_engine(None, None)
    with pytest.raises(EngineError, match=r"no config\.json in that folder"):
        transformers_engine.load_engine(str(tmp_path), None)


@pytest.fixture
def server():
    with OpenAIServer() as made:
        yield made


def ended(engine, gid):
    steps = []
    deadline = time.monotonic() + 60
    while not steps or not steps[-1].finish:
        assert time.monotonic() < deadline
        steps += [step for step in engine.step() if step.gid == gid]
    return steps


def test_a_server_answers_as_base_and_as_adapter(server):
    engine = load_engine(server.url, None, None, key="secret")
    for target, name in (("base", "llama"), ("adapter", "klepon")):
        request = request_for("Apa?", target=target, seed=9, top_p=0.5, max_new_tokens=6)
        engine.add(request, [], "")
        steps = ended(engine, request.gid)
        assert text_of_steps(steps) == "0é 1é 2é 3é 4é "
        assert steps[-1].finish == "length"
        assert steps[-1].usage == {"prompt_tokens": 7, "completion_tokens": 6}
        body, key = server.asked[-1]
        assert key == "Bearer secret"
        assert (body["model"], body["seed"], body["max_tokens"], body["top_p"]) == (name, 9, 6, 0.5)
        assert "temperature" not in body


def test_a_server_goes_on_after_the_text_that_there_is(server):
    engine = load_engine(server.url, None, None)
    request = request_for("Apa?", greedy=True, given="Ibu ")
    engine.add(request, [], "kota")
    ended(engine, request.gid)
    body, _ = server.asked[-1]
    assert body["messages"][-1] == {"role": "assistant", "content": "Ibu kota"}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert body["temperature"] == 0


@pytest.mark.parametrize(("prompt", "reason"), [("bad", "answers 400: too long by 3"), ("break", "broke off")])
def test_what_a_server_says_of_its_failure_is_in_the_log_and_not_in_the_answer(server, caplog, prompt, reason):
    engine = load_engine(server.url, None, None)
    request = request_for(prompt)
    engine.add(request, [], "")
    last = ended(engine, request.gid)[-1]
    assert (last.finish, last.reason, last.text) == ("error", "server", "")
    assert reason in caplog.text


def test_an_answer_that_is_stopped_is_stopped_at_the_server_too(server):
    engine = load_engine(server.url, None, None)
    request = request_for("long")
    engine.add(request, [], "")
    while not engine.step():
        pass
    engine.remove(request.gid)
    assert server.broken_off.wait(60)
    assert engine.step() == []


def test_a_server_that_went_away_is_an_error_of_the_answer(server, caplog):
    engine = load_engine(server.url, None, None)
    engine._url = "http://127.0.0.1:9/v1"
    request = request_for("Apa?")
    engine.add(request, [], "")
    last = ended(engine, request.gid)[-1]
    assert (last.finish, last.reason) == ("error", "server")
    assert "the model's server at http://127.0.0.1:9/v1" in caplog.text


def test_a_server_without_an_adapter_answers_as_base_only(server):
    server.models[:] = ["llama"]
    engine = load_engine(server.url, None, None)
    with pytest.raises(EngineRefusalError, match="only a base model"):
        engine.add(request_for("Apa?", target="adapter"), [], "")


def test_names_that_the_server_does_not_have_are_refused(server):
    with pytest.raises(EngineError, match=r"ENGINE_ADAPTER=x: the server at .* has only llama, klepon"):
        load_engine(server.url, None, "x")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http:///v1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(EngineError, match="expected http://host:port/v1"):
        load_engine(url, None, None)


def test_a_server_that_is_not_there_or_is_something_else_is_refused(server):
    with pytest.raises(EngineError, match="start the server first"):
        load_engine("http://127.0.0.1:9/v1", None, None)
    with pytest.raises(EngineError, match="answers 404"):
        load_engine(server.url + "/x", None, None)


def test_a_stream_without_an_end_is_an_error():
    with pytest.raises(ServerError, match="ended without a reason"):
        list(steps_of("g", iter([{"choices": [{"delta": {"content": "a"}}]}])))


@pytest.mark.parametrize(("least", "chosen"), [(10**9, 1), (0, 2)])
def test_a_small_model_decodes_with_one_thread(tiny_model, monkeypatch, least, chosen):
    before = torch.get_num_threads()
    monkeypatch.setattr(transformers_engine, "FEW_PARAMETERS", least)
    try:
        torch.set_num_threads(2)
        transformers_engine.settle_threads(tiny_model)
        assert torch.get_num_threads() == chosen
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def released(base_model, root):
    """The folder of a final adapter, with references."""
    config = Config(run="t", iteration="5", model=Model(base_model=str(base_model)), lora=Lora(lora_rank=4))
    small_adapter.save(config, spread=1)
    config.paths.adapter(config.name).rename(config.paths.final_adapter)
    references.write(config)
    return config.paths.final_adapter


@pytest.fixture
def vllm(base_model, released, monkeypatch):
    """A server with base model and adapter."""
    monkeypatch.delenv("ENGINE_KEY", raising=False)
    with stand_in_vllm.served(str(base_model)) as made:
        made.adapters["klepon"] = str(released)
        yield made


@pytest.mark.parametrize("after", [0, 3])
def test_a_server_that_is_known_gets_and_gives_the_tokens_of_the_model_here(vllm, released, after):
    here, there = transformers_engine.load_engine(None, released), load_engine(vllm.url, None, None, folder=released)
    for target in ("base", "adapter"):
        request = request_for("Apa <|eot_id|>?", target=target, max_new_tokens=9, greedy=True, given="Ibu", system="S")
        expected = decoded(here, request)[request.gid]
        before = [step for step in expected if step.ids][:after]
        ids = [token for step in before for token in step.ids]
        added = there.add(request, ids, text_of_steps(before))
        steps = ended(there, request.gid)
        assert [*ids, *(token for step in steps for token in step.ids)] == [t for s in expected for t in s.ids]
        assert text_of_steps(before) + text_of_steps(steps) == text_of_steps(expected)
        assert steps[-1].finish == expected[-1].finish
        assert added == here.add(request, [], "")
        here.reset()


def test_nothing_of_how_a_known_server_decodes_is_left_to_it(vllm, released):
    engine = load_engine(vllm.url, None, None, folder=released)
    for settings, expected in (
        ({}, (0.8, 0.95, 50)),
        ({"temperature": 0.5, "top_p": 0.7, "top_k": 3}, (0.5, 0.7, 3)),
        ({"top_k": 0}, (0.8, 0.95, -1)),
        ({"greedy": True}, (0.0, 0.95, 50)),
    ):
        request = request_for("Apa?", seed=7, max_new_tokens=4, **settings)
        engine.add(request, [], "")
        ended(engine, request.gid)
        body = vllm.asked[-1]
        assert (body["temperature"], body["top_p"], body["top_k"]) == expected
        assert (body["seed"], body["max_tokens"], body["ignore_eos"]) == (7, 4, True)
        assert (body["repetition_penalty"], body["min_p"]) == (1.0, 0.0)


def test_the_date_and_the_beginnings_of_the_training_are_in_what_a_known_server_gets(vllm, released, tokenizer):
    record = json.loads((released / ADAPTER_RECORD).read_text())
    prompt = Prompt(date="1 January 2025", bos_tokens=2)
    (released / ADAPTER_RECORD).write_text(json.dumps(record | {"prompt": asdict(prompt)}))
    engine = load_engine(vllm.url, None, None, folder=released)
    request = request_for("Apa?", max_new_tokens=4)
    engine.add(request, [], "")
    ended(engine, request.gid)
    assert vllm.asked[-1]["prompt"][:2] == [tokenizer.bos_token_id] * 2
    assert "Today Date: 1 January 2025" in tokenizer.decode(vllm.asked[-1]["prompt"])


def test_an_answer_that_does_not_fit_into_a_server_is_shorter(vllm, released):
    vllm.room = 200
    engine = load_engine(vllm.url, None, None, folder=released)
    request = request_for("Apa?", max_new_tokens=1_000, greedy=True)
    added = engine.add(request, [], "")
    ended(engine, request.gid)
    body = vllm.asked[-1]
    assert 100 <= body["max_tokens"] == 200 - len(body["prompt"]) and len(body["prompt"]) == added.prompt_tokens


@pytest.mark.parametrize(
    ("fault", "reason"), [("applies", "answers as the base model does"), ("scales", "adapter|rates")]
)
def test_a_server_whose_adapter_is_not_the_folder_s_is_refused_with_what_to_do(vllm, released, fault, reason):
    setattr(vllm, fault, False)
    with pytest.raises(
        EngineError, match=rf"klepon there .*({reason}).*ADAPTER to the folder of what is served, or to none"
    ):
        load_engine(vllm.url, None, None, folder=released)


@pytest.mark.parametrize("why", ["silent", "no references", "no folder"])
def test_a_server_that_cannot_be_known_is_asked_as_any_and_that_is_said(vllm, server, released, caplog, why):
    if why == "silent":
        vllm.tells_prompts = False
    if why == "no references":
        (released / REFERENCES).unlink()
    vllm.room = 200
    engine = load_engine(vllm.url, None, None, folder=None if why == "no folder" else released)
    assert "not checked" in caplog.text
    engine._url = server.url
    request = request_for("Apa?", top_k=0, max_new_tokens=1_000)
    engine.add(request, [], "")
    ended(engine, request.gid)
    body, _ = server.asked[-1]
    assert body["messages"][-1]["content"] == "Apa?" and body["top_k"] == -1
    assert body["max_tokens"] == 100
