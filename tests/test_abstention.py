import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binom, entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from uqlib.abstention import (
    DOUBTS,
    choose_weight,
    conformal_threshold,
    coverage_threshold,
    doubt_table,
    error_threshold,
    pooled_auroc,
    right_options,
    tuned_doubts,
    validation_half,
    worst_edits,
)
from uqlib.questions.world import (
    category_questions,
    evaluation_knowledge,
    evaluation_opinions,
    knowledge_questions,
)
from uqlib.resampling import bootstrap_weights
from uqlib.sensitivity import STRATA, js_divergence, sensitivity_table

CANDIDATES = [-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4]


def answers(name, *distributions, edit="order"):
    edits = ["original"] + [edit] * (len(distributions) - 1)
    return pd.DataFrame(
        {"model": "m", "dataset": "d", "question_id": name, "edit": edits,
         "stratum": [STRATA[e] for e in edits], "p": list(map(np.array, distributions))}
    )  # fmt: skip


def simulated(n, slope_s, slope_h, seed=0):
    """Doubts of one model whose errors follow sensitivity and entropy as told."""
    rng = np.random.default_rng(seed)
    s, h = 0.6 * rng.random(n), 1.4 * rng.random(n)
    wrong = rng.random(n) < expit(slope_s * (s - 0.3) + slope_h * (h - 0.7) - 0.5)
    return pd.DataFrame(
        {"model": "m", "dataset": np.where(np.arange(n) % 2, "a", "b"), "wrong": wrong * 1.0,
         "question_id": [f"q/{i}/0" for i in range(n)], "sensitivity": s, "entropy": h}
    )  # fmt: skip


def test_right_is_what_most_people_say_or_the_answer():
    questions = pd.concat([category_questions(60), knowledge_questions(5)], ignore_index=True)
    right = right_options(questions)
    for row in questions.itertuples():
        if row.human_shares is None:
            assert right[row.question_id].nonzero()[0].tolist() == [row.answer]
        else:
            best = max(row.human_shares)
            expected = [math.isclose(share, best) for share in row.human_shares]
            assert right[row.question_id].tolist() == expected
    none = questions.iloc[-1:].assign(answer=pd.NA)
    with pytest.raises(ValueError, match=f"{none.question_id.iloc[0]} has neither"):
        right_options(none)


def test_the_adversary_takes_the_edit_in_which_the_right_option_trails_most():
    p = [[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.3, 0.2, 0.5], [0.4, 0.6, 0.0]]
    table = pd.concat([answers("q", *p), answers("r", *p)], ignore_index=True)
    right = pd.Series({"q": np.array([True, False, False]), "r": np.array([False, True, False])})
    attacked = worst_edits(table, right)
    chosen = attacked[attacked.edit == "original"].groupby("question_id").p.first()
    assert chosen["q"].tolist() == p[2]  # .3 - .5 and .4 - .6 tie: the first
    assert chosen["r"].tolist() == p[2]  # .2 - .5
    assert attacked.groupby("question_id").edit.agg(lambda e: (e == "unedited").sum()).eq(1).all()
    assert [x.tolist() for x in attacked.p] == p + p
    assert table.edit.tolist() == ["original", "order", "order", "order"] * 2


def test_the_adversary_never_makes_an_answer_better_than_the_best_edit():
    rng = np.random.default_rng(0)
    table = pd.concat(
        [answers(f"q{i}", *rng.dirichlet(np.ones(4), 9)) for i in range(50)], ignore_index=True
    )
    right = pd.Series({f"q{i}": np.arange(4) == 0 for i in range(50)})
    before = doubt_table(table, right)
    after = doubt_table(worst_edits(table, right), right)
    edits = table[table.edit != "original"]
    all_right = edits.groupby("question_id", sort=False).p.agg(
        lambda ps: all(p.argmax() == 0 for p in ps)
    )
    assert (after.wrong == 1 - all_right.to_numpy()).all()
    assert after.average_entropy.to_numpy() == pytest.approx(before.average_entropy.to_numpy())


def test_doubts_by_hand():
    p = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2]]
    found = doubt_table(answers("q", *p), pd.Series({"q": np.array([True, False, False])})).iloc[0]
    average = np.mean(p, axis=0)
    expected = {
        "wrong": 0, "average_wrong": 1, "entropy": entropy(p[0]), "max_probability": 0.5,
        "sensitivity": js_divergence(p[0], p[1:]).mean(), "margin": 0.8, "self_consistency": 0.5,
        "average_entropy": entropy(average),
    }  # fmt: skip
    assert found[list(expected)].to_dict() == pytest.approx(expected)
    same = sensitivity_table(answers("q", *p)).iloc[0]
    assert (same.js, same.kl) == pytest.approx((found.sensitivity, found.kl))


def test_identical_answers_leave_the_score_with_entropy_alone():
    p = [0.7, 0.2, 0.1]
    found = doubt_table(answers("q", *[p] * 9), pd.Series({"q": np.array([True, False, False])}))
    assert found.sensitivity[0] == 0 and found.self_consistency[0] == 0
    assert found.average_entropy[0] == pytest.approx(found.entropy[0])


def test_questions_about_one_thing_stay_on_one_side():
    table = pd.concat([evaluation_knowledge(), evaluation_opinions()], ignore_index=True)
    half = validation_half(table.question_id, seed=3)
    about = table.question_id.str.rsplit("/", n=1).str[0]
    assert pd.Series(half).groupby(about.to_numpy()).std(ddof=0).eq(0).all()
    assert 0.4 < half.mean() < 0.6
    assert (validation_half(table.question_id[::-1], seed=3) == half[::-1]).all()
    assert (validation_half(table.question_id, seed=4) != half).any()


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_the_auroc_of_one_stratum_is_sklearns_and_more_strata_never_mix(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, 30).astype(float)
    wrong = np.r_[0, 1, rng.integers(0, 2, 13), 0, 1, rng.integers(0, 2, 13)]
    strata = np.repeat(["a", "b"], 15)
    one = roc_auc_score(wrong, values)
    assert pooled_auroc(values, wrong, np.zeros(30)) == pytest.approx(one)
    parts = [strata == "a", strata == "b"]
    pairs = [wrong[p].sum() * (1 - wrong[p]).sum() for p in parts]
    expected = np.average([roc_auc_score(wrong[p], values[p]) for p in parts], weights=pairs)
    assert pooled_auroc(values, wrong, strata) == pytest.approx(expected)
    moved = values + np.where(strata == "a", 0, 100)
    assert pooled_auroc(moved, wrong, strata) == pytest.approx(expected)


def test_bootstrap_weights_count_questions():
    rng = np.random.default_rng(1)
    values, wrong = rng.random(40), rng.integers(0, 2, 40)
    strata = np.arange(40) % 3
    weights = bootstrap_weights(40, 5, seed=0)
    found = pooled_auroc(values, wrong, strata, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        again = [np.repeat(x, row) for x in (values, wrong, strata)]
        assert value == pytest.approx(pooled_auroc(*again))
    assert np.isnan(pooled_auroc(values, np.zeros(40), strata))


def test_a_missing_doubt_is_an_error():
    with pytest.raises(ValueError, match="missing or infinite"):
        pooled_auroc([0.1, np.nan], [0, 1], [0, 0])


def test_a_stratum_without_errors_does_not_count():
    found = pooled_auroc([1, 2, 3, 4.0], [0, 1, 0, 0], ["a", "a", "b", "b"])
    assert found == 1


def test_the_weight_follows_what_makes_errors():
    for slope_s, slope_h, sign in ((0, 4, -1), (12, 0, 0), (12, -4, 1)):
        table = simulated(4000, slope_s, slope_h)
        weight = choose_weight(
            table.sensitivity, table.entropy, table.wrong, table.dataset, CANDIDATES
        )
        assert np.sign(weight) == sign or (sign == 0 and abs(weight) <= 0.5)


def test_of_equal_weights_the_smallest_is_taken():
    found = choose_weight([0.1, 0.2], [1.0, 1.0], [0, 1], [0, 0], [2, 1, -0.5])
    assert found == -0.5


def test_nothing_is_learnt_from_test_questions():
    table = simulated(400, 6, 2)
    validation = validation_half(table.question_id)
    first = tuned_doubts(table, validation, CANDIDATES)
    changed = table.copy()
    rng = np.random.default_rng(5)
    changed.loc[~validation, "wrong"] = 1 - changed.loc[~validation, "wrong"]
    changed.loc[~validation, ["sensitivity", "entropy"]] = rng.random((sum(~validation), 2))
    second = tuned_doubts(changed, validation, CANDIDATES)
    pd.testing.assert_frame_equal(first[validation], second[validation])
    chosen = ["weight", "signed_weight"]
    assert (second[chosen].drop_duplicates() == first[chosen].drop_duplicates()).all(axis=None)
    for coverage in (0.8, 0.9):
        thresholds = [
            (coverage_threshold(t.sua[validation], coverage),
             conformal_threshold(t.sua[validation], coverage),
             error_threshold(t.sua[validation], t.wrong[validation], 1 - coverage))
            for t in (first, second)
        ]  # fmt: skip
        assert thresholds[0] == thresholds[1]


def test_validation_questions_do_matter():
    table = simulated(400, 6, 2)
    validation = validation_half(table.question_id)
    changed = table.copy()
    changed.loc[validation, "wrong"] = 1 - changed.loc[validation, "wrong"]
    weights = [
        tuned_doubts(t, validation, CANDIDATES).signed_weight.iloc[0] for t in (table, changed)
    ]
    assert weights[0] != weights[1]


def test_only_the_signed_score_may_add_entropy():
    table = simulated(2000, 0, 4)
    found = tuned_doubts(table, validation_half(table.question_id), CANDIDATES).iloc[0]
    assert found.weight == 0 and found.signed_weight < 0
    assert found.sua == found.sensitivity
    expected = found.sensitivity - found.signed_weight * found.entropy
    assert found.sua_signed == pytest.approx(expected)


def test_the_regression_is_a_logistic_one_on_standardised_values():
    table = simulated(600, 6, 2)
    validation = validation_half(table.question_id)
    found = tuned_doubts(table, validation, CANDIDATES)
    assert set(DOUBTS) - {
        "max_probability",
        "margin",
        "self_consistency",
        "average_entropy",
    } <= set(found)
    known = table[validation]
    x = known[["sensitivity", "entropy"]]
    z = (table[["sensitivity", "entropy"]] - x.mean()) / x.std(ddof=0)
    model = LogisticRegression().fit(z[validation].to_numpy(), known.wrong)
    assert found.logistic.to_numpy() == pytest.approx(model.decision_function(z.to_numpy()))
    assert found.sua_1.to_numpy() == pytest.approx((table.sensitivity - table.entropy).to_numpy())


def test_validation_without_errors_is_named():
    table = simulated(50, 1, 1).assign(wrong=0.0)
    with pytest.raises(ValueError, match="all right or all wrong"):
        tuned_doubts(table, np.ones(50, dtype=bool), CANDIDATES)


def test_thresholds_by_hand():
    values = [0.5, 0.1, 0.4, 0.2, 0.3, 0.7, 0.6, 0.9, 0.8]
    assert coverage_threshold(values, 0.8) == 0.8  # the 8th of 9, since 7.2 is not enough
    assert conformal_threshold(values, 0.8) == 0.8  # the 8th: 10 times .8
    assert conformal_threshold(values, 0.9) == 0.9  # the 9th
    assert conformal_threshold(values, 0.95) == math.inf
    wrong = [0, 0, 1, 0, 0, 1, 0, 1, 0]  # at .4, .7 and .9
    assert error_threshold(values, wrong, 0.05) == -math.inf  # (0 + 1) / 10 > .05
    assert error_threshold(values, wrong, 0.1) == 0.3  # no error allowed
    assert error_threshold(values, wrong, 0.2) == 0.6  # one
    assert error_threshold(values, wrong, 0.3) == 0.8
    assert error_threshold(values, wrong, 0.4) == math.inf


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_a_threshold_covers_what_it_was_chosen_on(values, coverage):
    values = np.array(values)
    threshold = coverage_threshold(values, coverage)
    assert (values <= threshold).mean() >= coverage - 1e-9
    assert (values < threshold).mean() < coverage
    assert conformal_threshold(values, coverage) >= threshold


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_on_new_questions_is_within_the_binomial_interval(coverage):
    n, new = 100, 100
    answered = 0
    rounds = 400
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        values = rng.gamma(2, size=n + new)
        threshold = conformal_threshold(values[:n], coverage)
        answered += (values[n] <= threshold) * 1
    k = math.ceil((n + 1) * coverage)
    low, high = binom.interval(0.999, rounds, k / (n + 1))
    assert low <= answered <= high
    assert k / (n + 1) >= coverage


def test_the_error_rate_promised_is_kept_on_average():
    level, rounds = 0.1, 2000
    errors = 0
    for seed in range(rounds):
        table = simulated(81, 0, 3, seed)
        known, new = table[:80], table.iloc[80]
        threshold = error_threshold(known.entropy, known.wrong, level)
        errors += (new.entropy <= threshold) * new.wrong
    assert errors <= binom.ppf(0.999, rounds, level)
    assert errors >= binom.ppf(0.001, rounds, level / 2)
