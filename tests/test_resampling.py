import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from uqlib import resampling
from uqlib.resampling import (
    bootstrap_weights,
    group_moments,
    interval,
    moments_correlation,
    weighted_pearson,
    weighted_ranks,
    weighted_spearman,
)

RNG = np.random.default_rng(0)


def test_pearson_matches_scipy_on_every_bootstrap_copy():
    x, y = RNG.normal(size=(3, 40)), RNG.normal(size=40)
    weights = bootstrap_weights(40, 20, seed=1)
    ours = weighted_pearson(x, y, weights)
    for b, counts in enumerate(weights.astype(int)):
        copies = np.repeat(np.arange(40), counts)
        for m in range(3):
            expected = stats.pearsonr(x[m, copies], y[copies]).statistic
            assert ours[b, m] == pytest.approx(expected, abs=1e-10)


def test_within_groups_is_the_partial_correlation_given_dummies():
    # Reference: correlation of the residuals of two regressions on the dummies (statsmodels).
    groups = RNG.integers(0, 4, 60)
    x, y = RNG.normal(size=60) + groups, RNG.normal(size=60) - 2 * groups
    dummies = np.eye(4)[groups]
    residual = lambda v: sm.OLS(v, dummies).fit().resid
    expected = stats.pearsonr(residual(x), residual(y)).statistic
    ours = weighted_pearson(x[None], y, np.ones((1, 60)), groups)[0, 0]
    assert ours == pytest.approx(expected, abs=1e-10)


def test_spearman_matches_scipy_on_every_bootstrap_copy():
    x, y = RNG.integers(0, 8, 30), RNG.integers(0, 2, 30)
    weights = bootstrap_weights(30, 20, seed=2)
    ours = weighted_spearman(x, y, weights)
    for b, counts in enumerate(weights.astype(int)):
        copies = np.repeat(np.arange(30), counts)
        assert ours[b] == pytest.approx(stats.spearmanr(x[copies], y[copies]).statistic, abs=1e-10)


@given(hnp.arrays(np.int64, st.integers(1, 25), elements=st.integers(0, 5)), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_ranks_match_scipy(x, seed):
    weights = bootstrap_weights(len(x), 3, seed).astype(int)
    for row, counts in zip(weighted_ranks(x, weights), weights, strict=True):
        copies = np.repeat(np.arange(len(x)), counts)
        expected = stats.rankdata(x[copies])
        for value, rank in zip(x[copies], expected, strict=True):
            assert rank == pytest.approx(row[np.flatnonzero(x == value)[0]])


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8])
def test_what_does_not_vary_has_no_correlation(constant):
    x, y, ones = np.full((1, 9), constant), np.arange(9.0), np.ones((1, 9))
    assert np.isnan(weighted_pearson(x, y, ones)).all()
    assert np.isnan(weighted_pearson(y[None], x[0], ones)).all()
    assert np.isnan(weighted_spearman(x[0], y, ones)).all()


def test_a_single_question_has_no_correlation():
    assert np.isnan(weighted_pearson([[1.0]], [2.0], [[1.0]])).all()
    assert np.isnan(weighted_spearman([1.0], [2.0], [[1.0]])).all()


def test_bootstrap_weights_reproduce_and_average_to_one():
    weights = bootstrap_weights(50, 4000, seed=3)
    assert (weights == bootstrap_weights(50, 4000, seed=3)).all()
    # Standard error of a mean count: sqrt(.98 / 4000) = .016; five of them.
    assert np.abs(weights.mean(axis=0) - 1).max() < 0.08


def test_intervals_cover_a_known_correlation():
    # 200 samples of 80 from a bivariate normal with rho = .5: coverage of a 95 % interval is
    # binomial with SE .015; percentile intervals run a little low.
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=80)
        y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=80)
        low, high = interval(weighted_pearson(x[None], y, bootstrap_weights(80, 300, seed)))
        covered += low[0] <= 0.5 <= high[0]
    assert 0.88 <= covered / 200 <= 0.99


def test_scaled_groups_match_scaled_values():
    # One pass over the data gives the correlation of x and y times any function of the group.
    groups = np.sort(RNG.integers(2, 6, 80))
    x, y = RNG.uniform(size=(3, 80)) + 5, RNG.uniform(size=80)
    weights = bootstrap_weights(80, 10, seed=4)
    factors = np.log(np.unique(groups))[:, None]
    moments = group_moments(x, y, weights, groups)
    ours = moments_correlation(moments, factors, factors**2)
    values = weighted_pearson(x * np.log(groups), y * np.log(groups) ** 2, weights)
    np.testing.assert_allclose(ours, values, atol=1e-12)


def test_unsorted_groups_and_empty_replicates_of_a_group():
    groups = np.array([3, 2, 3, 2, 5])
    x, y = RNG.normal(size=(2, 5)), RNG.normal(size=5)
    weights = np.array([[1.0, 1, 1, 1, 1], [2, 0, 2, 1, 0]])
    moments = group_moments(x, y, weights, groups)
    assert moments.weight[:, :, 0].tolist() == [[2, 2, 1], [1, 4, 0]]
    order = np.argsort(groups, kind="stable")
    again = weighted_pearson(x[:, order], y[order], weights[:, order], groups[order])
    np.testing.assert_allclose(weighted_pearson(x, y, weights, groups), again)
    copies = np.repeat(np.arange(5), weights[1].astype(int))
    expected = stats.pearsonr(x[0, copies], y[copies]).statistic
    assert moments_correlation(moments)[1, 0] == pytest.approx(expected)


def test_blocks_of_weights_are_the_weights(monkeypatch):
    monkeypatch.setattr(resampling, "BLOCK", 100)
    blocks = list(resampling.bootstrap_blocks(30, 10, seed=3))
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    assert (np.concatenate(blocks) == bootstrap_weights(30, 10, seed=3)).all()
