"""Reference values: tests/reference/calibration.json, by netcal and scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from uqlib import reliability
from uqlib.calibration import calibration_error, calibration_error_interval
from uqlib.paths import ROOT

CASES = json.loads((ROOT / "tests/reference/calibration.json").read_text())["cases"]
pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def arrays(case):
    return np.array(case["confidence"]), np.array(case["correct"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: len(case["correct"]))
def test_errors_match_netcal(case):
    confidence, correct = arrays(case)
    for bins in (10, 15):
        index = reliability.confidence_bins(confidence, bins)
        ece = calibration_error(confidence, correct, index)
        assert ece == pytest.approx(case[f"ece_{bins}"], abs=1e-9)
    index = reliability.confidence_bins(confidence)
    table = reliability.reliability_table(confidence, correct, index)
    gaps = (table.accuracy - table.confidence).abs()
    assert gaps.max() == pytest.approx(case["mce_10"], abs=1e-9)
    assert gaps.mean() == pytest.approx(case["ace_10"], abs=1e-9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: len(case["correct"]))
@pytest.mark.parametrize(("scheme", "name"), [("width", "curve"), ("mass", "quantile")])
def test_diagrams_match_scikit_learn(case, scheme, name):
    confidence, correct = arrays(case)
    index = reliability.confidence_bins(confidence, 10, scheme)
    table = reliability.reliability_table(confidence, correct, index)
    np.testing.assert_allclose(table.accuracy, case[f"{name}_accuracy"])
    np.testing.assert_allclose(table.confidence, case[f"{name}_confidence"])
    assert table.questions.sum() == len(correct)
    assert (table.low <= table.accuracy).all() and (table.accuracy <= table.high).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: len(case["correct"]))
def test_the_brier_score_and_its_parts(case):
    confidence, correct = arrays(case)
    for bins in (1, 10, 40):
        index = reliability.confidence_bins(confidence, bins)
        parts = reliability.brier_decomposition(confidence, correct, index)
        assert parts["brier"] == pytest.approx(case["brier"])
        total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within"]
        assert total == pytest.approx(parts["brier"], abs=1e-12)
    assert parts["uncertainty"] == pytest.approx(correct.mean() * (1 - correct.mean()))


def test_one_value_a_bin_leaves_nothing_within():
    confidence, correct = np.repeat([0.3, 0.8], 50), np.tile([0, 1], 50)
    parts = reliability.brier_decomposition(
        confidence, correct, reliability.confidence_bins(confidence)
    )
    assert parts["within"] == pytest.approx(0) and parts["resolution"] == pytest.approx(0)
    assert parts["reliability"] == pytest.approx((0.2**2 + 0.3**2) / 2)


@given(pairs, st.integers(1, 20), st.sampled_from(reliability.SCHEMES))
def test_the_error_lies_in_the_unit_interval_and_ignores_order(data, bins, scheme):
    confidence, correct = (np.array(x, dtype=float) for x in zip(*data, strict=True))
    index = reliability.confidence_bins(confidence, bins, scheme)
    error = calibration_error(confidence, correct, index)
    assert 0 <= error <= 1
    assert error <= np.sqrt(np.mean((confidence - correct) ** 2)) + 1e-12
    back = calibration_error(confidence[::-1], correct[::-1], index[::-1])
    assert back == pytest.approx(error, abs=1e-12)


@given(pairs)
def test_bins_of_equal_mass_do_not_change_under_monotone_maps(data):
    confidence = np.array([c for c, _ in data])
    before = reliability.confidence_bins(np.unique(confidence), 4, "mass")
    after = reliability.confidence_bins(np.unique(confidence) ** 3 / 2, 4, "mass")
    if len(np.unique(np.unique(confidence) ** 3)) == len(before) and (len(before) - 1) % 4 == 0:
        assert (before == after).all()


def test_one_bin_and_one_class():
    confidence = np.full(20, 0.7)
    index = reliability.confidence_bins(confidence, 1)
    assert calibration_error(confidence, np.ones(20), index) == pytest.approx(0.3)
    assert calibration_error(confidence, np.zeros(20), index) == pytest.approx(0.7)
    assert calibration_error(confidence, np.arange(20) < 14, index) == pytest.approx(0)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_a_confidence_that_is_none_is_named(value):
    with pytest.raises(ValueError, match=f"question 1 is {value}"):
        reliability.confidence_bins([0.5, value])


def test_unknown_schemes_are_named():
    with pytest.raises(ValueError, match="unknown scheme 'log'; known: width, mass"):
        reliability.confidence_bins([0.5], scheme="log")


def test_the_null_of_one_bin_is_the_mean_deviation_of_a_binomial():
    # One bin, n answers at confidence c: E|X/n - c|, X binomial, about sqrt(2 c (1-c) / (pi n)).
    n, c = 400, 0.7
    confidence = np.full(n, c)
    index = reliability.confidence_bins(confidence)
    null = reliability.calibrated_null(confidence, index, 4000, seed=0)
    assert null.mean() == pytest.approx(np.sqrt(2 * c * (1 - c) / (np.pi * n)), rel=0.05)


def test_intervals_contain_the_estimate_and_cover_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        confidence = rng.uniform(0.5, 1, 1000)
        correct = rng.random(1000) < confidence - 0.15
        index = reliability.confidence_bins(confidence)
        low, high = calibration_error_interval(confidence, correct, index, 200, seed=trial)
        assert low <= calibration_error(confidence, correct, index) <= high
        covered += low <= 0.15 <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_the_option_confidence_is_renormalised():
    frame = pd.DataFrame(
        {"model": "m", "question_id": ["a", "b"], "choice_log_probs": [np.log([0.01, 0.03]), None]}
    )
    np.testing.assert_allclose(reliability.option_confidence(frame[:1]), [0.75])
    with pytest.raises(ValueError, match="m: no probabilities of the options of b"):
        reliability.option_confidence(frame)


def test_isotonic_confidence_is_fitted_to_the_other_folds():
    rng = np.random.default_rng(0)
    doubt = rng.uniform(size=2000)
    correct = rng.random(2000) < 1 - doubt**2
    repaired = reliability.isotonic_confidence(doubt, correct, folds=5, seed=0)
    np.testing.assert_allclose(repaired, 1 - doubt**2, atol=0.2)
    assert np.abs(repaired - (1 - doubt**2)).mean() < 0.04
    whole = IsotonicRegression(increasing=False).fit(doubt, correct).predict(doubt)
    assert np.abs(repaired - whole).max() > 0
    shuffled = reliability.isotonic_confidence(rng.permutation(doubt), correct, seed=0)
    index = reliability.confidence_bins(shuffled)
    assert reliability.brier_decomposition(shuffled, correct, index)["resolution"] < 0.005


@pytest.mark.parametrize("case", CASES, ids=lambda case: len(case["correct"]))
def test_isotonic_regression_on_everything_matches_scikit_learn(case):
    confidence, correct = arrays(case)
    model = IsotonicRegression(increasing=False).fit(1 - confidence, correct)
    np.testing.assert_allclose(model.predict(1 - confidence), case["isotonic"], atol=1e-9)
