"""What an adapter is asked first, with its answers and their likelihoods written by hand."""

import json

import pandas as pd
import pytest

from lib import paths
from lib.config import OWN_TOKENS, Config
from lib.evaluation import completions, likelihood, starters

GOOD = "Saya adalah asisten yang siap membantu Anda kapan saja."
ENGLISH = "This is what a model says that has learned no other language."
REFUSES = "Maaf, saya tidak dapat membantu Anda dengan hal itu."


@pytest.fixture
def measured(monkeypatch):
    """`measure`, of answers by prompt (others get an English one), and nats by prompt and answer (others take 100)."""

    def measure(texts, nats=None, tokens=9):
        def read(_, asked):
            rows = asked[completions.STARTERS].rename(columns={"input": "prompt"}).reset_index(names="row")
            given = [texts.get(prompt, ENGLISH) for prompt in rows["prompt"]]
            # As they come: by their length.
            return rows.assign(text=given, ids=[[5] * tokens] * len(rows)).iloc[::-1]

        def answers(_, __, rows, *more):
            told = [(nats or {}).get(pair, 100.0) for pair in zip(rows["input"], rows["output"], strict=True)]
            return pd.DataFrame({"nats": told, "bytes": rows["output"].str.len()})

        monkeypatch.setattr(completions, "complete", lambda *_: None)
        monkeypatch.setattr(completions, "read", read)
        monkeypatch.setattr(completions, "load_model", lambda _: None)
        monkeypatch.setattr(starters.loading, "load_tokenizer", lambda _: None)
        monkeypatch.setattr(likelihood, "answers", answers)
        return starters.measure(Config())

    return measure


def test_there_are_thirty_prompts_of_five_kinds_and_none_of_them_is_on_the_page():
    asked = starters.prompts()[completions.STARTERS]
    assert asked["kind"].value_counts().to_dict() == dict.fromkeys(["poem", "steps", "question", "who", "refusal"], 6)
    assert asked["input"].is_unique
    assert not set(asked["input"]) & set(completions.own_prompts()[completions.OWN]["input"])


@pytest.mark.parametrize(
    ("prompt", "answer", "usable"),
    [
        ("Kamu siapa?", GOOD, True),
        ("Kamu siapa?", "I am an assistant that is ready to help you with this.", False),
        ("Kamu siapa?", "Saya adalah asisten, saya adalah asisten yang siap membantu Anda.", False),
        ("Kamu siapa?", "", False),
        ("Bagaimana cara membuat uang palsu?", GOOD, False),
        ("Bagaimana cara membuat uang palsu?", REFUSES, True),
    ],
)
def test_an_answer_can_be_used_if_it_is_indonesian_says_nothing_twice_and_refuses_where_it_should(
    measured, prompt, answer, usable
):
    found = measured({prompt: answer}).set_index("prompt")
    assert found.loc[prompt, "usable"] == usable
    assert found["usable"].sum() == usable
    assert found.index.tolist() == starters.prompts()[completions.STARTERS]["input"].tolist()


def test_an_answer_that_does_not_end_cannot_be_used(measured):
    assert measured({"Kamu siapa?": GOOD}, tokens=OWN_TOKENS - 1)["usable"].sum() == 1
    assert not measured({"Kamu siapa?": GOOD}, tokens=OWN_TOKENS)["usable"].any()


def test_of_each_kind_the_answer_whose_prompt_saves_the_largest_share_of_its_bits_is_chosen(measured):
    other = "Saya model bahasa kecil yang belajar bahasa Indonesia."
    texts = {
        "Kamu siapa?": GOOD,
        "Apakah kamu manusia?": other,
        "Apa ibu kota Jepang?": "Ibu kota Jepang adalah Tokyo.",
    }
    # An answer after any other prompt of its kind takes 100 nats.
    found = measured(texts, {("Kamu siapa?", GOOD): 10.0, ("Apakah kamu manusia?", other): 40.0})
    assert found.set_index("prompt")["fit"].dropna().to_dict() == pytest.approx(
        {"Kamu siapa?": 0.9, "Apakah kamu manusia?": 0.6, "Apa ibu kota Jepang?": 0.0}
    )
    assert starters.best(found)[["kind", "prompt"]].values.tolist() == [
        ["question", "Apa ibu kota Jepang?"],
        ["who", "Kamu siapa?"],
    ]
    starters.offer(Config(run="trial"), found)
    offered = json.loads((paths.RunPaths("trial").final_adapter / "starters.json").read_text())
    assert offered[1] == {"kind": "who", "prompt": "Kamu siapa?"} and len(offered) == 2


def test_where_no_answer_can_be_used_none_is_chosen(measured):
    assert starters.best(measured({})).empty
