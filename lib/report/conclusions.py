"""What a notebook says in words: each sentence is made from the numbers beside it."""

from pathlib import Path

import pandas as pd
from IPython.display import Markdown
from scipy.stats import binomtest

from lib.config import Config
from lib.evaluation.metrics import LOWER_IS_BETTER, METRIC_NAMES
from lib.preference import outcome
from lib.report import ablation, drawing, look
from lib.sampling.draws import Sample
from lib.training.examples import Examples


def set_aside(reasons: dict[str, str]) -> Markdown:
    """A sentence for each file of a corpus that holds no rows, which says what it is (`CorpusSummary.set_aside`)."""
    lines = [f"- Not read: {reason}" for reason in reasons.values()]
    return Markdown("\n".join(lines) or "Every file of the corpus holds rows.")


def shortages(found: dict[str, tuple[int, int]]) -> Markdown:
    """A sentence for each subset that had too few rows."""
    lines = [
        f"- `{name}` has {there:,} rows on the training side where {asked:,} were asked for; all {there:,} are drawn."
        for name, (asked, there) in found.items()
    ]
    return Markdown("\n".join(lines) or "Every subset has as many rows as were asked for.")


def before(config: Config, failed: dict[str, str]) -> Markdown:
    """What the run's profile said before anything was trained, if it did; the models that failed, and why."""
    lines = [f"- {first_upper(name)} failed: {why}" for name, why in failed.items()]
    question = f"> {config.plan.question.strip()}\n\n" if config.plan.question else ""
    return Markdown(question + ("\n".join(lines) or "Every model that was asked for has finished."))


def picked(rule: str, config: Config, trainings: pd.DataFrame) -> Markdown:
    """The rule for the best row, and which it picks."""
    rows = trainings.groupby("iteration", sort=False)["validation_loss"].mean()
    choice = ablation.candidates(trainings)["iteration"].unique()
    among = ", the only one trained" if len(rows) == 1 else ""
    if len(choice) > 1:
        recipes = any(name.startswith("recipe_") for name in choice)
        among = f" among {len(choice)} rows{' and recipes' if recipes else ''}"
    row, loss = drawing.words(config.iteration), rows[config.iteration]
    said = [rule, f"**It picks {row}**{among} (validation loss {loss:.3f}).", chosen_from(trainings)]
    return Markdown("\n\n".join(one for one in said if one))


def chosen_from(trainings: pd.DataFrame) -> str:
    """The validation losses between which the rule chooses, the lowest first; empty where there was no choice.

    Args:
        trainings: of `ablation.trainings`.
    """
    known = ablation.candidates(trainings)
    losses = known.groupby("iteration", sort=False)["validation_loss"].agg(["mean", "min", "max", "size"])
    if len(losses) < 2:
        return ""
    said = [
        f"{drawing.words(name)} {loss['mean']:.3f}"
        + (f" ({loss['min']:.3f} to {loss['max']:.3f})" if loss["size"] > 1 else "")
        for name, loss in losses.sort_values("mean").iterrows()
    ]
    several = ", the mean over seeds (and the range)" if (losses["size"] > 1).any() else ""
    return f"Validation losses in nats a token{several}: {', '.join(said)}."


def tries(table: pd.DataFrame, trainings: pd.DataFrame) -> str:
    """Whether the learning rates that the recipes have are the best of those that were tried; empty where none were.

    A recipe's rate is compared with those of trainings that differ in nothing else; the rest of the table is said too.

    Args:
        table: of `ablation.tries`.
        trainings: of `ablation.trainings`, whose seeds say what a difference between single trainings is worth.
    """
    said = []
    for own in table[table["iteration"].str.startswith("recipe_")].itertuples() if len(table) else ():
        alike = table[(table["ratio"] == own.ratio) & (table["rows"] == own.rows) & (table["epochs"] == own.epochs)]
        if len(alike) == 1:
            continue
        best = alike.iloc[0]
        named = f"{first_upper(drawing.words(own.iteration))} was tried at {len(alike)} learning rates"
        if best["iteration"] == own.iteration:
            said.append(f"{named}, and has the one whose validation loss was lowest ({own.validation_loss:.3f}).")
        else:
            said.append(
                f"{named}, and does not have the best of them: its validation loss is {own.validation_loss:.4f}, that "
                f"at {best['learning_rate']:g} is {best['validation_loss']:.4f}."
            )
    if len(table) and not table["iteration"].iloc[0].startswith("recipe_"):
        best = table.iloc[0]
        named = drawing.words(best["iteration"]).removeprefix("tries ")
        said.append(f"The lowest validation loss of all is that of the try {named} ({best['validation_loss']:.4f}).")
    seeds = trainings[trainings["iteration"].str.startswith("recipe_")].groupby("iteration")["validation_loss"]
    if said and seeds.size().max() > 1:
        apart = (seeds.max() - seeds.min()).max()
        said.append(
            f"Each is one training: the seeds of one recipe are up to {apart:.3f} apart, and a smaller difference "
            "decides nothing."
        )
    return " ".join(said)


def first_upper(name: str) -> str:
    """As it begins a sentence; `capitalize` would change the letters of LoRA+ too."""
    return name[0].upper() + name[1:]


def answer(
    config: Config, compared: pd.DataFrame, itself: pd.DataFrame, plus: pd.DataFrame, by_seed: list[float]
) -> str:
    """What the first outcome says to the question that the run's profile put before it began; empty where there is no
    question, or the outcome was not measured.

    Args:
        config: the final adapter.
        compared: of `benchmarks.compare`, it against the base model.
        itself: the same of the recipe with LoRA+; empty where that is the final adapter's, or was not trained.
        plus: the same of the recipe with LoRA+ against that with plain LoRA; empty where these were not trained.
        by_seed: of `ablation.plus_by_seed`.
    """
    least = config.plan.smallest_effect
    if not least:
        return ""
    said = []
    for who, whom, table in (
        (f"the adapter ({drawing.words(config.iteration)})", "the base", compared),
        ("LoRA+ itself, its seeds taken together,", "the base", itself),
        ("LoRA+, the seeds of each taken together,", "plain LoRA", plus),
    ):
        measured = table if table.empty else table[(table["task"] == "nusax") & (table["metric"] == "loss_per_byte")]
        for row in measured.itertuples():
            said.append(
                f"{first_upper(_verdict(who, whom, row.low, row.high, least))}: on the Indonesian reviews of NusaX it "
                f"takes {row.after:.3f} bits a byte, {whom} {row.before:.3f} ({row.difference:+.3f}, 95 % interval "
                f"{row.low:+.3f} to {row.high:+.3f})."
            )
    if len(by_seed) > 1 and not plus.empty:
        said.append(
            f"Seed by seed this difference is {', '.join(f'{one:+.3f}' for one in by_seed)}: the interval is over "
            "reviews, for these trainings, and does not cover other seeds."
        )
    return " ".join(said)


def _verdict(who: str, whom: str, low: float, high: float, least: float) -> str:
    """A sentence's beginning: what an interval of a difference, of which less is better, says of one that matters."""
    matters = f"the {least:g} that was said to matter"
    if low <= 0 <= high:
        if -least < low and high < least:
            return f"between {who} and {whom} there is no difference by more than chance, nor one of {matters}"
        turned = " or ".join(word for word, may in (("better", low <= -least), ("worse", high >= least)) if may)
        return f"it is open whether {who} is {turned} than {whom} by {matters}, or alike"
    turned = "better" if high < 0 else "worse"
    near, far = sorted((abs(low), abs(high)))
    if near >= least:
        return f"{who} is {turned} than {whom} by at least {matters}"
    if far < least:
        return f"{who} is {turned} than {whom} by less than {matters}, which counts as no difference"
    return f"{who} is {turned} than {whom}; whether by {matters} is open"


def sampling(sample: Sample, leaked: pd.DataFrame) -> Markdown:
    """One sentence from the numbers.

    Args:
        leaked: table of `splits.leakage`, joined with that of `likeness.shares`.
    """
    trained = int((sample.table["part"] == "train").sum())
    random = leaked.loc["all", "random split: outputs leaked"]
    grouped = leaked.loc["all", "grouped split: outputs alike"]
    clusters = "" if sample.clusters is None else f" from {len(sample.clusters.centres)} clusters"
    return Markdown(
        f"**{trained:,} rows{clusters} will be trained on. A random split of this corpus has {random:.0%} of its test "
        f"answers word for word on the training side; of this one's test answers {grouped:.1%} have one there that is "
        "alike.**"
    )


def preprocessing(table: pd.DataFrame, made: Examples) -> Markdown:
    """One sentence from the numbers."""
    passed = int((table["verdict"] == "pass").sum())
    train = made.counts.loc["train"]
    return Markdown(
        f"**All {passed} checks hold for all {train['examples']:,} examples; {train['trained tokens']:,} of their "
        f"{train['tokens']:,} tokens are trained on; {train['cut to fit']:,} examples were cut to fit "
        f"and {train['dropped']:,} dropped.**"
    )


def training(log: pd.DataFrame) -> Markdown:
    """One sentence from the numbers."""
    losses = log["validation_loss"].dropna()
    lowest = log.loc[losses.idxmin()]
    verb = "falls" if losses.iloc[-1] < losses.iloc[0] else "does not fall"
    sentence = f"**The validation loss {verb}: {losses.iloc[0]:.3f} before training, {losses.iloc[-1]:.3f} after it"
    if losses.idxmin() != losses.index[-1]:
        sentence += f" (lowest at step {lowest['step']:,.0f}: {losses.min():.3f})"
    return Markdown(sentence + ".**")


def evaluation(config: Config, table: pd.DataFrame, found: pd.DataFrame) -> Markdown:
    """One sentence from the numbers."""
    means = found[found["protocol"] == "clean"].groupby("metric")["value"].mean()
    cut = (table.loc[table["protocol"] == "clean", "ids"].map(len) >= config.evaluation.max_new_tokens).mean()
    return Markdown(
        f"**{first_upper(look.model_name(config.iteration, config.seed))}: BLEU {means['bleu']:.1f}, ROUGE-L "
        f"{means['rougeL']:.1f}, Weighted F1 {means['weighted_f1']:.3f}; {cut:.0%} of its completions reached "
        f"the limit of {config.evaluation.max_new_tokens} tokens.**"
    )


def report(
    picked: Config, against_base: pd.DataFrame, against_floors: pd.DataFrame, cost: pd.DataFrame, page: Path
) -> Markdown:
    """What the final adapter gained and what it cost: by the adjusted paired bootstrap, and in English.

    Args:
        against_base, against_floors: of `ablation.comparisons` and `ablation.against_floors`.
        cost: table of `ablation.english_cost`.
    """
    own = against_base[(against_base["iteration"] == picked.iteration) & against_base["differs"]]
    gains = own["difference"].where(~own["metric"].isin(LOWER_IS_BETTER), -own["difference"])
    up, down = ([METRIC_NAMES[m] for m in own.loc[some, "metric"]] for some in (gains > 0, gains < 0))
    adapter = look.model_name(picked.iteration, picked.seed)
    ahead = beside_floors(against_floors)["ahead"]
    return Markdown(
        f"**The final adapter is {adapter}. On Indonesian test rows it is significantly better than the base in "
        f"{', '.join(up) or 'nothing'} and worse in {', '.join(down) or 'nothing'}, and better than every answer "
        f"without a model in {', '.join(ahead) or 'nothing'}. {_english(picked, cost)}** "
        f"The report is `{page.name}`."
    )


def preference(table: pd.DataFrame, compared: pd.DataFrame) -> Markdown:
    """What training on votes changed.

    Args:
        table: the votes, of `lib.preference.dpo.train`.
        compared: of `ablation.voted`.
    """
    return Markdown(f"{votes(table)} **{voted(table, compared)}**")


def votes(table: pd.DataFrame) -> str:
    """What became of the votes (a table with the column `part`)."""
    counts = table["part"].value_counts()
    named = {
        "alike to a test row": "since a user's text in them is alike to a row that is tested on",
        "too long": "since they do not fit into a training example",
        "equal answers": "since both answers are the same",
    }
    left_out = [f"{counts[part]:,} left out {why}" for part, why in named.items() if part in counts]
    return (
        f"Of {len(table):,} votes, {counts['trained on']:,} were trained on and {counts['held out']:,} held out, in "
        f"whole groups of prompts that are alike{''.join(f'; {one}' for one in left_out)}."
    )


def voted(table: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Whether people's votes made the adapter better: by votes that were held out, and by the test rows.

    Args:
        table, compared: as for `preference`.
    """
    found = outcome.held_out(table)
    if found["low"] > 0:
        verdict = "So what the other votes taught holds for these"
    elif found["high"] < 0:
        verdict = "So what the other votes taught does not hold for these: it went the other way"
    else:
        verdict = "The interval leaves open whether what the other votes taught holds for these"
    own = compared[compared["differs"]]
    gains = own["difference"].where(~own["metric"].isin(LOWER_IS_BETTER), -own["difference"])
    better, worse = ([METRIC_NAMES[m] for m in own.loc[some, "metric"]] for some in (gains > 0, gains < 0))
    return (
        f"In {found['gained']} of {found['votes']} held-out votes the chosen answer became likelier, as compared with "
        f"the rejected one: by {found['nats']:+.2f} nats on average, 95 % interval {found['low']:+.2f} to "
        f"{found['high']:+.2f} over {found['groups']} groups. {verdict}. On the test rows the adapter is, by more than "
        f"chance, better than before in {', '.join(better) or 'no metric'}, and worse in {', '.join(worse) or 'none'}."
    )


def beside_floors(table: pd.DataFrame) -> dict[str, list[str]]:
    """The metrics in which a model is `ahead` of every answer without a model by more than chance, those in which it is
    `behind` one of them by more than chance, and those that leave it `open`.

    Args:
        table: of `ablation.against_floors`.
    """
    found: dict[str, list[str]] = {"ahead": [], "behind": [], "open": []}
    for metric, part in table.groupby("metric", sort=False):
        won, lost = part["differs"] & (part["difference"] > 0), part["differs"] & (part["difference"] < 0)
        found["ahead" if won.all() else "behind" if lost.any() else "open"].append(METRIC_NAMES[str(metric)])
    return found


def benchmarks(table: pd.DataFrame) -> str:
    """What the benchmarks say in a sentence; empty where there are none.

    Args:
        table: of `benchmarks.compare`.
    """
    if table.empty:
        return ""
    gains = table["difference"].where(table["metric"] == "accuracy", -table["difference"])
    names = table["task"] + table["metric"].map(
        {"loss_per_byte": " (Indonesian)", "loss_per_byte_en": " (English)"}
    ).fillna("")
    better, worse = (names[table["differs"] & some] for some in (gains > 0, gains < 0))
    said = (
        f"Of {len(table)} benchmark scores the adapter is better than the base by more than chance in "
        f"{', '.join(better) or 'none'}, and worse in {', '.join(worse) or 'none'}."
    )
    tests = table[table["chance"].notna()]
    if tests.empty:
        return said
    by_chance = [binomtest(round(row.after * row.items), row.items, row.chance).pvalue for row in tests.itertuples()]
    tests = tests[pd.Series(by_chance, tests.index) < 0.05]
    gained = tests["after"] > tests["chance"]
    above, below = (names[tests.index[some]] for some in (gained, ~gained))
    return (
        f"{said} Of the {len(by_chance)} with right answers it is better than guessing in "
        f"{', '.join(above) or 'none'}, and worse than guessing in {', '.join(below) or 'none'} (exact binomial test "
        "at 5 %, each by itself): where a model only guesses, a change says little."
    )


def _english(picked: Config, cost: pd.DataFrame) -> str:
    if "loss_per_byte_en" not in cost:
        return "What this cost in English was not measured."
    before = cost[cost["iteration"] == "base"].iloc[0]
    after = cost[(cost["iteration"] == picked.iteration) & (cost["seed"] == picked.seed)].iloc[0]
    verb = "gets worse" if after["loss_per_byte_en"] > before["loss_per_byte_en"] else "gets no worse"
    return (
        f"English {verb}: {before['loss_per_byte_en']:.3f} bits a byte become {after['loss_per_byte_en']:.3f}, and the "
        f"share of English prompts answered in English goes from {before['english_share']:.1%} to "
        f"{after['english_share']:.1%}."
    )
