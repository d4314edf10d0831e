import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from uqlib import agreement, controls
from uqlib.questions.world import evaluation_opinions
from uqlib.resampling import bootstrap_weights
from uqlib.responses import join_questions

pairs = st.lists(
    st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 2)), min_size=2, max_size=40
)


def by_pairs(values, agrees, strata):
    """Wins and number of all pairs of one agreeing and one other answer of the same stratum."""
    won = count = 0
    for u, a, g in zip(values, agrees, strata, strict=True):
        for v, b, h in zip(values, agrees, strata, strict=True):
            if g == h and not a and b:
                won, count = won + (u > v) + (u == v) / 2, count + 1
    return won, count


def simulated(seed, effect=0.6, questions=300, models=12, spreads=(1, 0.5, 0)):
    """Answers by the mixed model itself; returns them, and the models' true slopes."""
    rng = np.random.default_rng(seed)
    of_question, of_model, of_slope = (
        rng.normal(0, spread, size)
        for spread, size in zip(spreads, (questions, models, models), strict=True)
    )
    question, model = np.tile(np.arange(questions), models), np.repeat(np.arange(models), questions)
    doubt = rng.normal(size=len(model))
    slope = effect + of_slope
    p = expit(0.3 + of_question[question] + of_model[model] - slope[model] * doubt)
    table = pd.DataFrame({"model": [f"m{i}" for i in model], "question_id": question})
    return table.assign(
        n_choices=2 + question % 3, choice_entropy=doubt, agrees=rng.random(len(p)) < p
    ), slope


@pytest.fixture(scope="module")
def world():
    return evaluation_opinions()


def respond(table, responder, **settings):
    answers = controls.response_table(table, responder(table, 0, **settings), responder.__name__)
    return agreement.with_agreement(join_questions(answers, table))


def test_agreement_habit_and_division_by_hand():
    shares = [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.8, 0.1, 0.1], [0.4, 0.4, 0.2], [0.9, 0.1]]
    asked = pd.DataFrame({"question_id": list("abcde"), "human_shares": shares})
    asked["n_choices"] = asked.human_shares.map(len)
    answers = pd.concat([asked.assign(model=name) for name in "xy"], ignore_index=True)
    answers["predicted"] = [0, 0, 1, 1, 1, 0, 1, 2, 0, 0]
    found = agreement.with_agreement(answers, classes=3)
    assert list(found.question_id) == list("abceabce")
    assert list(found.agrees) == [True, False, False, False, True, True, False, True]
    np.testing.assert_allclose(found.habit, [2 / 3, 2 / 3, 1 / 3, 0, 2 / 3, 1 / 3, 0, 1])
    assert list(found.division) == [1, 2, 0, 1] * 2
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) / np.log(2)
    assert found.human_entropy[3] == pytest.approx(entropy)


def test_bad_answers_are_named(world):
    answers = respond(world[:5], controls.noisy)
    with pytest.raises(ValueError, match=f"noisy: question {world.question_id[0]}: occurs twice"):
        agreement.with_agreement(pd.concat([answers, answers[:1]]))
    with pytest.raises(ValueError, match=f"{world.question_id[0]}: has no human shares"):
        agreement.with_agreement(answers.assign(human_shares=None))
    with pytest.raises(ValueError, match="missing or infinite"):
        agreement.stratified_auroc([0.1, np.nan], [0, 1])
    with pytest.raises(ValueError, match="two models, not noisy alone"):
        agreement.mixed_agreement(answers, "choice_entropy")


@given(pairs)
def test_auroc_counts_the_pairs_within_strata(rows):
    values, agrees, strata = (np.array(column) for column in zip(*rows, strict=True))
    found = agreement.stratified_auroc(values, agrees, strata)
    won, count = by_pairs(values, agrees, strata)
    assert found["pairs"] == count
    if count:
        assert found["auroc"] == pytest.approx(won / count)
        turned = agreement.stratified_auroc(-values, agrees, strata)
        assert turned["auroc"] == pytest.approx(1 - won / count)
        moved = agreement.stratified_auroc(np.exp(values) + 100 * strata, agrees, strata)
        assert moved["auroc"] == pytest.approx(won / count)
        assert 0 <= found["low"] <= found["auroc"] <= found["high"] <= 1
    else:
        assert np.isnan(found["auroc"])


def test_one_stratum_is_the_auroc_of_scikit_learn_with_the_variance_of_delong():
    rng = np.random.default_rng(0)
    agrees = rng.random(60) < 0.6
    values = rng.integers(0, 9, 60) - 2 * agrees
    found = agreement.stratified_auroc(values, agrees)
    assert found["auroc"] == pytest.approx(roc_auc_score(~agrees, values))
    wins = (values[~agrees][:, None] > values[agrees]) + 0.5 * (
        values[~agrees][:, None] == values[agrees]
    )
    error = np.sqrt(sum(wins.mean(axis=a).var() / wins.shape[1 - a] for a in (0, 1)))
    assert found["high"] - found["auroc"] == pytest.approx(1.959964 * error, rel=1e-5)


def test_the_interval_is_that_of_the_bootstrap_with_questions_as_clusters():
    table, _ = simulated(1, questions=200, models=5)
    strata = table.groupby(["model", "n_choices"]).ngroup().to_numpy()
    found = agreement.stratified_auroc(
        table.choice_entropy, table.agrees, strata, table.question_id
    )
    drawn = []
    for weights in bootstrap_weights(200, 400, 0).astype(int):
        rows = np.repeat(np.arange(len(table)), weights[table.question_id])
        part = table.iloc[rows]
        drawn.append(
            agreement.stratified_auroc(part.choice_entropy, part.agrees, strata[rows])["auroc"]
        )
    half = found["high"] - found["auroc"]
    assert half == pytest.approx(1.96 * np.std(drawn), rel=0.1)


def test_copies_of_a_model_bring_no_certainty():
    table, _ = simulated(2, questions=200, models=1)
    one = agreement.stratified_auroc(table.choice_entropy, table.agrees)
    copies = pd.concat([table] * 4)
    strata = np.repeat(np.arange(4), len(table))
    four = agreement.stratified_auroc(
        copies.choice_entropy, copies.agrees, strata, copies.question_id
    )
    for key in ("auroc", "low", "high", "p"):
        assert four[key] == pytest.approx(one[key])


def test_the_interval_covers_one_half_for_a_coin():
    rng = np.random.default_rng(0)
    inside = [
        found["low"] <= 0.5 <= found["high"]
        for found in (
            agreement.stratified_auroc(
                rng.random(120), rng.random(120) < 0.4, rng.integers(0, 4, 120)
            )
            for _ in range(500)
        )
    ]
    assert 0.91 <= np.mean(inside) <= 0.98


def test_nothing_is_said_of_a_spread_that_is_not_seen():
    found = agreement.stratified_auroc([1, 2, 3, 4], [1, 1, 0, 0])
    assert found["auroc"] == found["low"] == found["high"] == 1 and np.isnan(found["p"])


def test_who_reads_nothing_tells_nothing_within_n(world):
    blind = respond(world, controls.blind)
    overall = agreement.agreement_auroc(blind, (), measures=("total_entropy",)).iloc[0]
    within = agreement.agreement_auroc(blind, measures=("total_entropy",)).iloc[0]
    assert overall.low > 0.6
    assert within.low < 0.5 < within.high
    assert within.habit_auroc == pytest.approx(0.5, abs=0.01)


def test_sorted_options_turn_habit_into_knowledge_and_the_letter_takes_it_back(world):
    by_share = [np.sort(shares)[::-1] for shares in world.human_shares]
    habitual = respond(world.assign(human_shares=by_share), controls.habitual)
    within = agreement.agreement_auroc(habitual, measures=("choice_entropy",)).iloc[0]
    assert within.low > 0.55
    assert within.habit_auroc == pytest.approx(within.auroc)
    letter = agreement.agreement_auroc(
        habitual, ("n_choices", "predicted"), measures=("choice_entropy",)
    ).iloc[0]
    assert np.isnan(letter.auroc) and letter.pairs == 0
    shuffled = respond(world, controls.habitual)
    plain = agreement.agreement_auroc(shuffled, measures=("choice_entropy",)).iloc[0]
    assert plain.low < 0.5 < plain.high


def test_holding_people_fixed_parts_those_who_know_from_those_who_share_doubt(world):
    fixed = {"adjust": ("human_entropy",), "measures": ("choice_entropy",)}
    anybody, knowing = (
        respond(world, r) for r in (controls.any_person, controls.knows_when_it_agrees)
    )
    assert agreement.agreement_odds(anybody, measures=("choice_entropy",)).low[0] > 0.3
    held = agreement.agreement_odds(anybody, **fixed).iloc[0]
    assert held.low < 0 < held.high
    assert agreement.agreement_odds(knowing, **fixed).low[0] > 1
    same = {"within": ("n_choices", "division"), "measures": ("choice_entropy",)}
    assert agreement.agreement_auroc(anybody, **same).auroc[0] < 0.55
    assert agreement.agreement_auroc(knowing, **same).low[0] > 0.85


def test_fifths_of_a_responder_that_knows_and_of_one_that_does_not(world):
    knowing = agreement.agreement_by_class(
        respond(world, controls.knows_when_it_agrees), "choice_entropy", replicates=100
    )
    assert knowing.answers.sum() == len(world)
    assert np.ptp(knowing.answers) <= world.choices.map(len).nunique()
    assert knowing.agreement[0] == 1 and knowing.high[4] < 0.5
    blind = agreement.agreement_by_class(respond(world, controls.blind), "choice_entropy")
    np.testing.assert_allclose(blind.chance, (1 / world.choices.map(len)).mean(), atol=0.01)
    assert ((blind.low < blind.chance) & (blind.chance < blind.high)).sum() >= 4


def test_odds_are_those_of_statsmodels_with_a_dummy_for_n():
    table, _ = simulated(3, models=2)
    table["human_entropy"] = np.random.default_rng(0).random(len(table))
    found = agreement.agreement_odds(table, ("human_entropy",), ("choice_entropy",))
    for name, part in table.groupby("model"):
        z = lambda v: (v - v.mean()) / v.std(ddof=0)
        frame = part.assign(
            y=part.agrees.astype(float),
            z=-part.groupby("n_choices").choice_entropy.transform(z),
            h=part.groupby("n_choices").human_entropy.transform(z),
        )
        fit = smf.logit("y ~ z + h + C(n_choices)", frame).fit(disp=0)
        row = found[found.model == name].iloc[0]
        assert row.log_odds == pytest.approx(fit.params["z"], abs=1e-6)
        np.testing.assert_allclose([row.low, row.high], fit.conf_int().loc["z"], atol=1e-5)
        assert row.p == pytest.approx(fit.pvalues["z"], rel=1e-4)


def test_odds_that_do_not_exist_are_missing():
    table, _ = simulated(4, models=1, questions=60)
    odds = lambda frame: agreement.agreement_odds(frame, measures=("choice_entropy",)).iloc[0]
    assert np.isnan(odds(table.assign(agrees=True)).log_odds)
    assert np.isnan(odds(table.assign(choice_entropy=0.5)).log_odds)
    assert np.isnan(odds(table.assign(choice_entropy=~table.agrees * 1.0)).log_odds)
    always = table.assign(agrees=table.agrees | (table.n_choices == 2))
    rest = odds(always[always.n_choices > 2])
    assert odds(always).log_odds == pytest.approx(rest.log_odds) and rest.answers == 40


def test_without_random_effects_the_mixed_model_is_a_logistic_regression():
    table, _ = simulated(5, spreads=(0, 0, 0))
    fit = agreement.mixed_agreement(table, "choice_entropy")
    z = -agreement.standardised(
        table.choice_entropy, table.groupby(["model", "n_choices"]).ngroup()
    )
    design = np.column_stack([z, pd.get_dummies(table.n_choices)]).astype(float)
    plain = sm.Logit(table.agrees.astype(float), design).fit(disp=0)
    gee = sm.GEE(
        table.agrees.astype(float), design, table.question_id, family=sm.families.Binomial()
    ).fit()
    effect = fit.effects.iloc[0]
    assert effect.log_odds == pytest.approx(plain.params.iloc[0], abs=0.03)
    assert effect.log_odds == pytest.approx(gee.params.iloc[0], abs=0.03)
    assert gee.bse.iloc[0] * 0.95 < effect.sd < gee.bse.iloc[0] * 1.6
    assert fit.spreads.max() < 0.25


def test_the_mixed_model_recovers_what_was_simulated():
    missed, covered = [], 0
    for seed in range(12):
        table, slope = simulated(seed, spreads=(1, 0.5, 0.3))
        fit = agreement.mixed_agreement(table, "choice_entropy")
        effect = fit.effects.iloc[0]
        missed.append(effect.log_odds - 0.6)
        covered += effect.low <= 0.6 <= effect.high
        assert fit.spreads["question"] == pytest.approx(1, abs=0.25)
        assert list(fit.slopes.model) == [f"m{i}" for i in range(12)]
        assert np.corrcoef(fit.slopes.log_odds, slope)[0, 1] > 0.7
        inside = (fit.slopes.low <= slope) & (slope <= fit.slopes.high)
        assert inside.sum() >= 8
    assert abs(np.mean(missed)) < 0.1
    assert covered >= 9


def test_the_plain_reading_is_what_happens():
    table, _ = simulated(7, questions=1000, spreads=(1, 0.5, 0.3))
    reading = agreement.mixed_agreement(table, "choice_entropy").reading.set_index("certainty")
    near = lambda level: 100 * table.agrees[(table.choice_entropy + level).abs() < 0.1].mean()
    for level in (0, 1):
        assert reading.agree[level] == pytest.approx(near(level), abs=5)
        assert reading.low[level] < reading.agree[level] < reading.high[level]
    assert reading.low[1] > reading.high[0]


def test_what_questions_share_is_held_by_their_intercepts():
    table, _ = simulated(8, effect=0, questions=400, models=10, spreads=(0, 0.3, 0))
    rng = np.random.default_rng(0)
    divided = rng.normal(size=400)[table.question_id]
    shared = table.assign(
        choice_entropy=divided + rng.normal(size=len(table)),
        human_entropy=divided,
        agrees=rng.random(len(table)) < expit(-1.5 * divided),
    )
    adjusted = agreement.mixed_agreement(shared, "choice_entropy", ("human_entropy",)).effects
    plain = agreement.agreement_odds(shared, measures=("choice_entropy",))
    assert plain.low.min() > 0.3
    assert adjusted.low[0] < 0 < adjusted.high[0]
    assert adjusted.term[1] == "human_entropy" and adjusted.high[1] < -1
