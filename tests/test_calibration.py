import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from uqlib import calibration
from uqlib.calibration import correctness_correlation
from uqlib.measures import MEASURES


def simulated(n=200, seed=0, accuracy=0.6, link=1.0):
    rng = np.random.default_rng(seed)
    wrong = rng.uniform(size=n) > accuracy
    frame = pd.DataFrame({"model": "m", "subject": rng.choice(["a", "b"], n), "answer": 0})
    frame["correct"] = ~wrong
    frame["question_id"] = [f"q{i}" for i in range(n)]
    for measure in MEASURES:
        frame[measure] = link * wrong + rng.uniform(size=n)
    return frame


def test_each_group_matches_scipy():
    frame = simulated(link=0.5)
    table = correctness_correlation(frame, ("model", "subject"), replicates=50)
    assert len(table) == 2 * len(MEASURES)
    for row in table.itertuples():
        part = frame[frame.subject == row.subject]
        expected = stats.spearmanr(part[row.measure], part.correct)
        assert row.rho == pytest.approx(expected.statistic, abs=1e-10)
        assert row.p == pytest.approx(expected.pvalue)
        assert row.accuracy == part.correct.mean() and row.questions == len(part)
        assert row.low <= row.rho <= row.high


@pytest.mark.parametrize("accuracy", [0.3, 0.5, 0.9])
def test_a_perfect_separator_reaches_the_closed_form(accuracy):
    # rho = -sqrt(3 a (1 - a)) for many questions; exactly so here, up to 1/n.
    n = 2000
    correct = np.arange(n) < accuracy * n
    frame = simulated(n).assign(correct=correct, total_entropy=np.arange(n))
    table = correctness_correlation(frame, replicates=0).set_index("measure")
    expected = -np.sqrt(3 * accuracy * (1 - accuracy))
    assert table.rho["total_entropy"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("value", [True, False])
def test_all_right_or_all_wrong_has_no_correlation(value):
    table = correctness_correlation(simulated().assign(correct=value), replicates=20)
    assert table.rho.isna().all() and table.p_holm.isna().all() and table.low.isna().all()
    assert (table.accuracy == value).all()


def test_a_question_without_an_answer_is_named():
    frame = simulated()
    frame["answer"] = frame["answer"].astype("Int64")
    frame.loc[4, "answer"] = pd.NA
    with pytest.raises(ValueError, match="question q4 has no right answer"):
        correctness_correlation(frame)


def test_some_measures_only():
    table = correctness_correlation(simulated(), replicates=10, measures=("total_entropy",))
    assert list(table.measure) == ["total_entropy"]


def test_intervals_cover_the_truth():
    # Latent correlation simulated; the truth is the value of a million questions.
    rng = np.random.default_rng(0)
    wrong = rng.random(1_000_000) < 0.3
    truth = stats.spearmanr(wrong * 0.5 + rng.random(len(wrong)), ~wrong).statistic
    samples = [simulated(250, n, accuracy=0.7, link=0.5).assign(model=n) for n in range(150)]
    table = correctness_correlation(
        pd.concat(samples), ("model",), 200, measures=("total_entropy",)
    )
    covered = (table.low <= truth) & (truth <= table.high)
    assert 0.88 <= covered.mean() <= 0.99


def published_by_loop(values, correct, bins=10):
    """Bin by bin, as the recipe reads."""
    z = (values - values.mean()) / values.std(ddof=1)
    beta = max(abs(z.min()), abs(z.max()))
    edges = np.linspace(-beta, beta, bins + 1)
    total = 0
    for b in range(bins):
        last = b == bins - 1
        inside = (z >= edges[b]) & ((z < edges[b + 1]) | last)
        if inside.any():
            confidence = 1 - stats.ecdf(z).cdf.evaluate(z[inside].mean())
            total += inside.sum() * abs(correct[inside].mean() - confidence)
    return total / len(z)


@pytest.mark.parametrize("seed", range(5))
def test_the_published_error_follows_its_recipe(seed):
    rng = np.random.default_rng(seed)
    values, correct = rng.gamma(0.7, size=300), rng.random(300) < 0.6
    ours = calibration.published_ece(values, correct)
    assert ours == pytest.approx(published_by_loop(values, correct), abs=1e-12)


@pytest.mark.parametrize("accuracy", [0.25, 0.5, 0.7])
def test_perfect_and_useless_have_one_limit(accuracy):
    # Moore et al. (2025) recipe, fine bins: (a^2 + (1 - a)^2) / 2 for both.
    n = 200_000
    values = np.arange(n) + 0.5
    perfect = values < accuracy * n
    useless = np.random.default_rng(0).permutation(perfect)
    limit = (accuracy**2 + (1 - accuracy) ** 2) / 2
    assert calibration.uninformative_limit(accuracy) == pytest.approx(limit)
    for correct in (perfect, useless):
        assert calibration.published_ece(values, correct, bins=200) == pytest.approx(
            limit, abs=0.005
        )


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=3, max_size=50))
def test_the_published_error_lies_in_the_unit_interval(data):
    values, correct = (np.array(x, dtype=float) for x in zip(*data, strict=True))
    if np.ptp(values) == 0:
        with pytest.raises(ValueError, match="does not vary"):
            calibration.published_ece(values, correct)
        return
    z = (values - values.mean()) / values.std(ddof=1)
    place = z / np.abs(z).max() * 5
    assume((np.abs(place - place.round()) > 1e-6)[np.abs(place) < 5 - 1e-6].all())
    error = calibration.published_ece(values, correct)
    assert 0 <= error <= 1
    assert calibration.published_ece(values[::-1], correct[::-1]) == pytest.approx(error)
    assert calibration.published_ece(3 * values + 8, correct) == pytest.approx(error)
    one_bin = abs(correct.mean() - (values > values.mean()).mean())
    assert calibration.published_ece(values, correct, bins=1) == pytest.approx(one_bin)


def test_the_null_is_that_of_shuffled_answers():
    rng = np.random.default_rng(0)
    values, correct = rng.gamma(0.7, size=200), rng.random(200) < 0.4
    direct = [calibration.published_ece(values, rng.permutation(correct)) for _ in range(2000)]
    counted = calibration.published_ece_null(values, correct, 20_000, seed=0)
    assert stats.ks_2samp(np.round(direct, 9), counted.round(9)).pvalue > 0.001


def test_rounding_does_not_decide_where_most_values_are_equal():
    # The mean of many equal values can fall an ulp below them; exactly, it is equal to them.
    values = np.append(np.zeros(700), np.random.default_rng(0).uniform(0.2, 1, 300))
    for scale in (1, 0.3, 7e-3):
        index, confidence = calibration.published_confidence(scale * values)
        assert (index[:700] == index[0]).all()
        assert confidence[0] == pytest.approx(0.3)


def test_a_measure_with_missing_values_is_refused():
    with pytest.raises(ValueError, match="missing or infinite"):
        calibration.published_ece([0.1, np.nan, 0.2], [0, 1, 1])


def test_the_published_table_beside_its_null():
    frame = simulated(400, accuracy=0.5).assign(total_entropy=0.3)
    table = calibration.published_ece_table(frame, 200, 50).set_index("measure")
    assert list(table.index) == list(calibration.CALIBRATED)
    assert table.loc["total_entropy", ["ece", "low", "null_mean", "p"]].isna().all()
    known = table.dropna()
    assert (known.low <= known.ece).all() and (known.ece <= known.high).all()
    assert (known.null_low <= known.null_mean).all() and (known.p <= 1).all()
    expected = calibration.published_ece(frame.choice_entropy, frame.correct)
    assert table.ece["choice_entropy"] == pytest.approx(expected)


def test_all_right_moves_nothing():
    frame = simulated(100).assign(correct=True)
    table = calibration.published_ece_table(frame, 50, 20, measures=("choice_entropy",)).iloc[0]
    assert table.null_low == pytest.approx(table.ece) and table.p == 1
