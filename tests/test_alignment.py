from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from uqlib import controls
from uqlib.alignment import (
    SCALINGS,
    answer_agreement,
    answer_count_correlation,
    expected_published_r,
    kendall_distance,
    order_summary,
    poisson_binomial_tail,
    preference_order,
    rank_alignment,
    relist_options,
    select_measures,
    shuffled_alignment,
    spearman_interval,
    tau_b,
    uncertainty_alignment,
)
from uqlib.measures import MEASURES
from uqlib.questions.schema import human_entropy


def simulated(n_questions=300, seed=0, link=1.0, model="m"):
    """Responses whose normalised measures follow normalised human entropy with known strength."""
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 9, n_questions)
    shares = [rng.dirichlet(np.ones(k)) for k in n]
    entropy = human_entropy(shares) / np.log(n)
    ids = [f"q{i}" for i in range(n_questions)]
    frame = pd.DataFrame({"model": model, "question_id": ids, "n_choices": n})
    frame["human_shares"] = shares
    for measure in MEASURES:
        noise = rng.uniform(size=n_questions)
        frame[measure] = link * entropy + (1 - link) * noise
    for size in (m for m in MEASURES if "size" in m):
        frame[size] = rng.integers(1, 50, n_questions)
    return frame


def row(table, measure):
    return table.set_index("measure").loc[measure]


def answered(predicted, shares, model="m"):
    """Responses to questions of known shares with known answers."""
    n = [len(s) for s in shares]
    log_probs = [
        np.log(np.where(np.arange(k) == p, 0.7, 0.1)) for k, p in zip(n, predicted, strict=True)
    ]
    return pd.DataFrame(
        {
            "model": model,
            "question_id": [f"q{i}" for i in range(len(n))],
            "n_choices": n,
            "human_shares": [np.array(s) for s in shares],
            "predicted": predicted,
            "choice_log_probs": log_probs,
        }
    )


# --- top answers


def test_agreement_by_hand_with_ties():
    shares = [[0.7, 0.3], [0.4, 0.4, 0.2], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5]]
    found = answer_agreement(answered([0, 1, 0, 1], shares)).iloc[0]
    assert found.agreement == 3 / 4
    assert found.published_agreement == 1 / 4
    assert found.chance == pytest.approx((1 / 2 + 2 / 3 + 1 / 4 + 1) / 4)
    assert found.published_chance == pytest.approx(4 / 11)
    # At least three of four agree: enumerate all outcomes of the four draws.
    p = np.array([1 / 2, 2 / 3, 1 / 4, 1])
    outcomes = np.array(list(product([0, 1], repeat=4)))
    mass = np.where(outcomes, p, 1 - p).prod(axis=1)
    assert found.p == pytest.approx(mass[outcomes.sum(axis=1) >= 3].sum())


@given(hnp.arrays(float, st.integers(1, 9), elements=st.floats(0, 1)), st.integers(0, 10))
@settings(max_examples=100, deadline=None)
def test_poisson_binomial_matches_enumeration(p, k):
    outcomes = np.array(list(product([0, 1], repeat=len(p))))
    mass = np.where(outcomes, p, 1 - p).prod(axis=1)
    expected = mass[outcomes.sum(axis=1) >= k].sum()
    assert poisson_binomial_tail(k, p) == pytest.approx(expected, abs=1e-12)


def test_poisson_binomial_of_equal_chances_is_binomial():
    for k in (0, 40, 90, 300):
        assert poisson_binomial_tail(k, np.full(300, 0.25)) == pytest.approx(
            stats.binom.sf(k - 1, 300, 0.25), rel=1e-9
        )
    assert poisson_binomial_tail(5000, np.full(8000, 0.01)) > 0
    assert poisson_binomial_tail(3, [0.5, 0.5]) == 0
    with pytest.raises(ValueError, match=r"one is 1\.5"):
        poisson_binomial_tail(1, [0.5, 1.5])


def test_the_z_test_is_that_of_the_paper():
    # Moore et al. (2025), Table 1 and section 4.3: Llama-3.2-1B, z = (.2705 - .265) / .00806 = .7.
    shares = [[0.9, 0.1, 0, 0]] * 1000
    found = answer_agreement(answered([0] * 280 + [1] * 720, shares)).iloc[0]
    z = (0.28 - 0.25) / np.sqrt(0.25 * 0.75 / 1000)
    assert found.z == pytest.approx(z)
    assert found.p_published == pytest.approx(stats.norm.sf(z))
    assert found.p == pytest.approx(stats.binom.sf(279, 1000, 0.25))


def test_habit_is_the_mean_over_shuffles_and_its_test_the_permutation_test():
    rng = np.random.default_rng(0)
    n = rng.integers(2, 5, 120)
    shares = [rng.dirichlet(np.ones(k)) for k in n]
    predicted = [int(rng.integers(0, k)) if rng.random() < 0.6 else 0 for k in n]
    found = answer_agreement(answered(predicted, shares)).iloc[0]
    modes, predicted = np.array([s.argmax() for s in shares]), np.array(predicted)
    drawn = np.zeros(4000)
    for i in range(len(drawn)):
        for k in (2, 3, 4):
            rows = n == k
            drawn[i] += (rng.permutation(predicted[rows]) == modes[rows]).sum()
    # Standard error of the mean of 4000 shuffles: about .04 of 120.
    assert found.habit * 120 == pytest.approx(drawn.mean(), abs=0.3)
    z = (found.agreement - found.habit) * 120 / drawn.std()
    assert found.p_habit == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.1)


def test_constant_answers_are_all_habit():
    shares = [[0.6, 0.4], [0.2, 0.8], [0.5, 0.3, 0.2]]
    found = answer_agreement(answered([0, 0, 0], shares)).iloc[0]
    assert found.agreement == found.habit == pytest.approx(2 / 3)
    assert np.isnan(found.p_habit)


def test_agreement_by_count_and_position_adds_up():
    rng = np.random.default_rng(1)
    n = rng.integers(2, 6, 200)
    frame = answered([int(rng.integers(0, k)) for k in n], [rng.dirichlet(np.ones(k)) for k in n])
    whole = answer_agreement(frame).agreement[0]
    for by in ("n_choices", "mode_position"):
        parts = answer_agreement(frame, ("model", by))
        assert (parts.agreement * parts.questions).sum() == pytest.approx(whole * 200)


def test_wilson_intervals_cover_a_known_agreement():
    rng = np.random.default_rng(2)
    shares, covered = [[0.6, 0.2, 0.2]] * 60, 0
    for _ in range(200):
        predicted = np.where(rng.random(60) < 0.4, 0, 1)
        found = answer_agreement(answered(list(predicted), shares)).iloc[0]
        covered += found.low <= 0.4 <= found.high
    # Binomial with standard error .015.
    assert 0.9 <= covered / 200 <= 0.995


# --- orders


def brute_force(a, b):
    pairs = list(combinations(range(len(a)), 2))
    signs = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs]
    return np.mean([{1: 0, 0: 0.5, -1: 1}[s] for s in signs])


ORDERS = st.integers(2, 7).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)
)


@given(ORDERS)
@settings(max_examples=200, deadline=None)
def test_kendall_matches_brute_force_and_scipy(orders):
    a, b = orders
    assert kendall_distance(a, b) == pytest.approx(brute_force(a, b))
    assert kendall_distance(a, b) == kendall_distance(b, a)
    expected = stats.kendalltau(a, b, variant="b").statistic
    assert tau_b(a, b) == pytest.approx(expected, nan_ok=True)


@given(ORDERS)
@settings(max_examples=100, deadline=None)
def test_the_published_distance_is_that_of_the_released_code(orders):
    # As it does it: argsort values of all ordered pairs, discordant ones over n (n - 1).
    a, b = (np.argsort(v, kind="stable") for v in orders)
    i, j = np.meshgrid(np.arange(len(a)), np.arange(len(a)))
    disordered = ((a[i] < a[j]) & (b[i] > b[j])) | ((a[i] > a[j]) & (b[i] < b[j]))
    expected = disordered.sum() / (len(a) * (len(a) - 1))
    assert kendall_distance(*orders, method="published") == pytest.approx(expected)


def test_known_facts_of_the_published_slip():
    for a, b, true, published in (
        ([1, 3, 2], [2, 3, 1], 1 / 3, 1),
        ([1, 3, 4, 2], [2, 3, 4, 1], 1 / 6, 5 / 6),
        ([1, 2], [2, 1], 1, 1),
        ([3, 1, 2], [3, 1, 2], 0, 0),
    ):
        assert kendall_distance(a, b) == pytest.approx(true)
        assert kendall_distance(a, b, "published") == pytest.approx(published)


def test_the_slip_does_nothing_where_one_order_is_sorted():
    orders = np.array(list(permutations(range(5))))
    for sorted_order in (np.arange(5), np.arange(5)[::-1]):
        np.testing.assert_allclose(
            kendall_distance(orders, sorted_order, "published"),
            kendall_distance(orders, sorted_order),
        )


def test_unrelated_orders_have_the_known_spread():
    # Kendall (1938): the variance of the distance is (2n + 5) / (18 n (n - 1)).
    for n in (2, 3, 4, 5):
        orders = np.array(list(permutations(range(n))))
        distances = kendall_distance(orders[0], orders)
        assert distances.mean() == pytest.approx(0.5)
        assert distances.var() == pytest.approx((2 * n + 5) / (18 * n * (n - 1)))


def test_bad_orders_are_refused():
    with pytest.raises(ValueError, match="at least 2 options, not of 1"):
        kendall_distance([1], [1])
    with pytest.raises(ValueError, match="not of 2, 3"):
        tau_b([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="missing value"):
        kendall_distance([1, np.nan], [1, 2])
    with pytest.raises(ValueError, match="known: ranks, published"):
        kendall_distance([1, 2], [1, 2], "argsort")
    assert np.isnan(tau_b([1, 1], [1, 2]))


def test_preference_order_is_the_distance_of_each_question():
    rng = np.random.default_rng(3)
    frames = []
    for model in ("a", "b"):
        frame = simulated(60, model=model)
        frame["choice_log_probs"] = [rng.normal(size=k) for k in frame.n_choices]
        frame["predicted"] = [int(np.argmax(v)) for v in frame.choice_log_probs]
        frames.append(frame)
    orders = preference_order(pd.concat(frames))
    for found in orders.itertuples():
        people, model = found.human_shares, found.choice_log_probs
        assert found.distance == pytest.approx(brute_force(people, model))
        assert found.published_distance == kendall_distance(people, model, "published")
    # Habit: mean distance to the orders that this model gave to all questions with as many options.
    for model, n in (("a", 3), ("b", 5)):
        part = orders[(orders.model == model) & (orders.n_choices == n)]
        expected = np.mean(
            [brute_force(p, m) for p in part.human_shares for m in part.choice_log_probs]
        )
        assert part.habit_distance.mean() == pytest.approx(expected)
    summary = order_summary(orders).set_index(["model", "value"])
    values = orders[orders.model == "a"].distance
    half = 1.959964 * values.std() / np.sqrt(60)
    assert summary.loc[("a", "distance"), "mean"] == pytest.approx(values.mean())
    assert summary.loc[("a", "distance"), "low"] == pytest.approx(values.mean() - half)


def test_relisting_changes_no_distance_but_the_published_one(questions):
    table = questions.assign(model="m", n_choices=questions.choices.map(len))
    table["choice_log_probs"] = [np.log(p) for p in controls.noisy(table, seed=1)]
    table["predicted"] = [int(v.argmax()) for v in table.choice_log_probs]
    before = preference_order(table)
    listings = [preference_order(relist_options(table, seed)) for seed in range(20)]
    for after in listings:
        np.testing.assert_allclose(after.distance, before.distance)
        np.testing.assert_allclose(after.tau_b, before.tau_b)
        for shares, log_probs, predicted, old in zip(
            after.human_shares,
            after.choice_log_probs,
            after.predicted,
            table.itertuples(),
            strict=True,
        ):
            assert predicted == np.argmax(log_probs)
            assert sorted(shares) == sorted(old.human_shares)
    assert len({round(after.published_distance.sum(), 6) for after in listings}) > 1


# --- uncertainty


def in_nats(frame, measure, log_n):
    if measure == "choice_entropy":
        return frame[measure] * log_n
    if measure.startswith("top_p_entropy"):
        return frame[measure] * np.log(frame[measure.replace("entropy", "size")])
    return frame[measure]


def scaled(frame, measure, scaling):
    log_n, entropy = np.log(frame.n_choices), pd.Series(human_entropy(frame.human_shares))
    if scaling == "published":
        return frame[measure] * log_n, entropy
    if scaling == "raw":
        return in_nats(frame, measure, log_n), entropy
    return frame[measure], entropy / log_n


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_scalings_match_scipy_and_regression(method):
    # Within n: correlation of the residuals of two regressions on dummies (statsmodels).
    frame = simulated(link=0.6)
    align = uncertainty_alignment if method == "pearson" else rank_alignment
    table = align(frame).set_index(["scaling", "measure"])
    correlate = stats.pearsonr if method == "pearson" else stats.spearmanr
    dummies = pd.get_dummies(frame.n_choices).to_numpy(dtype=float)
    for scaling, measure in product(SCALINGS, MEASURES):
        x, y = scaled(frame, measure, scaling)
        if scaling == "within_n":
            if method == "spearman":
                x, y = stats.rankdata(x), stats.rankdata(y)
            x, y = (sm.OLS(np.asarray(v), dummies).fit().resid for v in (x, y))
            expected = stats.pearsonr(x, y)
        else:
            expected = correlate(x, y)
            assert table.p[scaling, measure] == pytest.approx(expected.pvalue, rel=1e-6)
        assert table.r[scaling, measure] == pytest.approx(expected.statistic, abs=1e-9)


def test_the_p_value_within_n_is_that_of_the_regression():
    frame = simulated(link=0.6)
    dummies = pd.get_dummies(frame.n_choices).to_numpy(dtype=float)
    x, y = scaled(frame, "total_entropy", "within_n")
    expected = sm.OLS(np.asarray(y), np.column_stack([x, dummies])).fit().pvalues[0]
    found = row(uncertainty_alignment(frame, "within_n"), "total_entropy")
    assert found.p == pytest.approx(expected, rel=1e-6)


def test_one_scaling_is_a_part_of_all():
    frame = simulated(100, link=0.5)
    whole = uncertainty_alignment(frame, "all", 50)
    for scaling in SCALINGS:
        part = uncertainty_alignment(frame, scaling, 50)
        expected = whole[whole.scaling == scaling].reset_index(drop=True)
        pd.testing.assert_frame_equal(part, expected)


def test_bootstrap_replicates_are_those_of_copied_questions():
    frame = simulated(80, link=0.4)
    found = row(uncertainty_alignment(frame, "published", 2000, seed=1), "total_entropy")
    rng = np.random.default_rng(5)
    x, y = (np.asarray(v) for v in scaled(frame, "total_entropy", "published"))
    drawn = [rng.integers(0, 80, 80) for _ in range(2000)]
    low, high = np.quantile([np.corrcoef(x[i], y[i])[0, 1] for i in drawn], [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_full_agreement_is_found_and_shuffling_destroys_it():
    frame = simulated(link=1.0)
    assert row(uncertainty_alignment(frame, "normalised", 50), "choice_entropy").r > 0.999999
    # Under the null the mean of 20 has SD .058 / sqrt(20) = .013.
    assert abs(row(shuffled_alignment(frame, "within_n"), "choice_entropy").r) < 0.07


def test_shuffled_measures_pass_the_published_scaling():
    # The artefact: content is gone, the number of options is left. Both sides share ln n.
    frame = simulated(800, link=1.0)
    assert row(shuffled_alignment(frame, "published"), "total_entropy").r > 0.4
    assert abs(row(shuffled_alignment(frame, "normalised"), "total_entropy").r) < 0.05


def test_a_shuffle_keeps_the_measures_of_a_question_together():
    # top-p entropy in nats needs entropy and size of the same answer: raw then is shuffled nats.
    frame = simulated(200, link=1.0)
    found = shuffled_alignment(frame, "raw", shuffles=1, seed=4).set_index("measure").r
    order = np.random.default_rng(4).permutation(200)
    ordered = frame.sort_values("n_choices", kind="stable").reset_index(drop=True)
    nats = in_nats(ordered, "top_p_entropy_90", None).to_numpy()[order]
    expected = np.corrcoef(nats, human_entropy(ordered.human_shares))[0, 1]
    assert found["top_p_entropy_90"] == pytest.approx(expected)


def test_answer_count_alone():
    frame = simulated()
    expected = stats.pearsonr(np.log(frame.n_choices), human_entropy(frame.human_shares))
    assert answer_count_correlation(frame) == pytest.approx(expected.statistic)
    assert np.isnan(answer_count_correlation(frame[frame.n_choices == 4]))


def test_the_formula_of_the_common_factor():
    rng = np.random.default_rng(6)
    x, y, factor = (
        rng.uniform(0.5, 1, 200_000),
        rng.gamma(9, size=200_000),
        rng.gamma(4, size=200_000),
    )
    cv = [v.std() / v.mean() for v in (x, y, factor)]
    simulated_r = np.corrcoef(x * factor, y * factor)[0, 1]
    # Standard error of r: about .002.
    assert expected_published_r(*cv) == pytest.approx(simulated_r, abs=0.01)
    assert np.isnan(expected_published_r(0, 0, 0))


def test_content_blind_responders_pass_all_scalings_but_one(questions):
    rng = np.random.default_rng(7)
    n = rng.integers(2, 9, 600)
    # Human entropy, normalised, that falls with n, as in real surveys.
    shares = [rng.dirichlet(np.full(k, 3 / k)) for k in n]
    table = pd.DataFrame({"question_id": [f"q{i}" for i in range(600)], "dataset": "d"})
    table["choices"] = [[str(j) for j in range(k)] for k in n]
    replies = controls.response_table(table, controls.blind(table), "blind", vocabulary_size=200)
    replies["human_shares"] = shares
    r = uncertainty_alignment(replies, "all", 10).set_index(["scaling", "measure"]).r
    assert r["published", "total_entropy"] > 0.5 and r["raw", "choice_entropy"] > 0.5
    assert r["normalised", "total_entropy"] < -0.15
    # Under the null r has SD 1 / sqrt(600) = .04.
    assert r["within_n"].abs().max() < 0.15


def test_intervals_contain_the_estimate_and_the_seed_reproduces():
    frame = simulated(link=0.5)
    a, b = (uncertainty_alignment(frame, "all", 200, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(a, b)
    assert ((a.low <= a.r) & (a.r <= a.high)).all()


def test_intervals_cover_a_known_partial_correlation():
    # Within n, measure and people are bivariate normal with rho = .5; coverage has SE .02.
    covered = {"pearson": 0, "spearman": 0}
    rho_s = 6 / np.pi * np.arcsin(0.5 / 2)
    for seed in range(120):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=150)
        y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=150)
        low, high = spearman_interval(stats.spearmanr(x, y).statistic, 150)
        covered["spearman"] += low <= rho_s <= high
        frame = simulated(150, seed)
        q = stats.norm.cdf(y)  # Any people: their normalised entropy is replaced below.
        frame["total_entropy"] = x
        shares = {k: shares_of_entropy(q, k) for k in range(2, 9)}
        frame["human_shares"] = [shares[k][i] for i, k in enumerate(frame.n_choices)]
        truth = 0.5 * np.sqrt(3 / np.pi)  # cor(x, cdf(y)) = rho * cor(y, cdf(y))
        found = row(uncertainty_alignment(frame, "within_n", 200, seed), "total_entropy")
        covered["pearson"] += found.low <= truth <= found.high
    assert 0.88 <= covered["pearson"] / 120 <= 0.99
    assert 0.88 <= covered["spearman"] / 120 <= 1


def shares_of_entropy(target, n):
    """Shares over n options of a given normalised entropy: a mixture of sure and even."""
    mixtures = np.linspace(0, 1, 1001)[:, None]
    shares = mixtures / n + (1 - mixtures) * (np.arange(n) == 0)
    return shares[np.abs(human_entropy(shares) / np.log(n) - target[:, None]).argmin(axis=1)]


def test_models_with_as_many_questions_share_their_replicates():
    one, two = simulated(50, link=0.3), simulated(50, link=0.3, model="other")
    table = uncertainty_alignment(pd.concat([one, two]), "within_n", 100)
    a, b = (part.drop(columns="model") for _, part in table.groupby("model", sort=False))
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))


def test_a_constant_measure_is_missing_not_zero():
    frame = simulated().assign(total_entropy=np.float32(0.1))
    for align in (uncertainty_alignment, rank_alignment):
        table = align(frame)
        constant = table[table.measure == "total_entropy"].set_index("scaling")
        for scaling in ("raw", "normalised", "within_n"):
            result = constant.loc[scaling]
            assert np.isnan([result.r, result.low, result.high, result.p, result.p_holm]).all()
        assert constant.r["published"] > 0.5


def test_few_questions_give_missing_values_not_false_certainty():
    one = uncertainty_alignment(simulated(1), "all", 10)
    assert one[["r", "low", "high", "p"]].isna().all(axis=None)
    two = row(uncertainty_alignment(simulated(2, link=0.5), "normalised", 10), "total_entropy")
    assert abs(two.r) == pytest.approx(1) and np.isnan(two.p)
    assert all(np.isnan(v) for v in spearman_interval(0.3, 3))


def test_selection_by_line_and_by_test():
    table = pd.DataFrame(
        {
            "measure": ["total_entropy"] * 2 + ["choice_entropy"] * 2 + ["top1_probability"] * 2,
            "r": [0.6, 0.5, 0.7, 0.2, -0.4, -0.3],
            "p_holm": [0.01, 0.2, 0.01, 0.01, 0.01, 0.01],
        }
    )
    found = select_measures(table).set_index("measure")
    assert list(found.by_line) == [True, False, False]
    assert list(found.by_test) == [False, True, True]
    assert list(found.weakest_r) == [0.5, 0.2, -0.3]
    missing = table.assign(r=[np.nan, 0.6] * 3)
    assert not select_measures(missing)[["by_line", "by_test"]].any(axis=None)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="known: all, published, raw"):
        uncertainty_alignment(simulated(), "publised")
    frame = simulated()
    frame.at[3, "human_shares"] = None
    with pytest.raises(ValueError, match="m: question q3: has no human shares"):
        uncertainty_alignment(frame, "raw")
    with pytest.raises(ValueError, match="m: question q3: has no human shares"):
        answer_agreement(frame.assign(predicted=0))
    frame = simulated()
    frame.loc[5, "top_p_entropy_90"] = np.nan
    with pytest.raises(ValueError, match="question q5: top_p_entropy_90 is missing"):
        rank_alignment(frame)
    frame = simulated()
    frame["human_shares"] = [[1.0] if i == 2 else v for i, v in enumerate(frame.human_shares)]
    with pytest.raises(ValueError, match="question q2: one option is no choice"):
        shuffled_alignment(frame)
    twice = pd.concat([simulated(), simulated()], ignore_index=True)
    with pytest.raises(ValueError, match="m: question q0: occurs twice"):
        uncertainty_alignment(twice)
