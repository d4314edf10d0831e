from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chisquare, ks_2samp

from uqlib.jensen_shannon import (
    jensen_shannon_shift,
    letter_table,
    permutation_p,
    shift_null,
    shift_table,
    split_margins,
    uncertain_half,
)

letters = st.integers(0, 3)
answered = st.lists(st.tuples(letters, letters, st.booleans()), min_size=2, max_size=40)


def simulated(n, seed=0):
    rng = np.random.default_rng(seed)
    right = rng.integers(0, 4, n)
    given_ = np.where(rng.random(n) < 0.5, right, rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05]))
    return given_, right, rng


@given(answered)
def test_the_shift_is_that_of_scipy_on_the_letters(data):
    given_, right, high = (np.array(x) for x in zip(*data, strict=True))
    shift, *distances = jensen_shannon_shift(given_, right, high, 4)
    for half, distance in zip((high, ~high), distances, strict=True):
        if half.any():
            counts = [np.bincount(x[half], minlength=4) for x in (given_, right)]
            assert distance == pytest.approx(jensenshannon(*counts), abs=1e-12)
            assert 0 <= distance <= np.sqrt(np.log(2)) + 1e-12
        else:
            assert np.isnan(distance) and np.isnan(shift)


@given(answered, st.permutations(range(4)))
def test_names_of_letters_and_halves_do_not_matter(data, names):
    given_, right, high = (np.array(x) for x in zip(*data, strict=True))
    shift = jensen_shannon_shift(given_, right, high, 4)[0]
    renamed = jensen_shannon_shift(np.array(names)[given_], np.array(names)[right], high, 4)[0]
    np.testing.assert_allclose(renamed, shift, atol=1e-12)
    np.testing.assert_allclose(jensen_shannon_shift(given_, right, ~high, 4)[0], -shift)


def test_every_split_of_a_few_questions_has_its_probability():
    # All 252 halves of ten questions: the law of the shift is known exactly.
    given_, right = (
        np.array([0, 0, 0, 1, 1, 2, 0, 1, 2, 0]),
        np.array([0, 1, 2, 1, 1, 2, 0, 0, 0, 1]),
    )
    exact = []
    for chosen in combinations(range(10), 5):
        high = np.isin(np.arange(10), chosen)
        exact.append(round(jensen_shannon_shift(given_, right, high, 3)[0], 9))
    values, counts = np.unique(exact, return_counts=True)
    null = shift_null(letter_table(given_, right, 3), 5, 50_000, seed=0).round(9)
    drawn = np.array([(np.abs(null - value) < 1e-8).sum() for value in values])
    assert drawn.sum() == len(null)
    assert chisquare(drawn, counts / counts.sum() * len(null)).pvalue > 0.001


@pytest.mark.parametrize("n_high", [120, 300, 520])
def test_counts_and_questions_give_one_distribution(n_high):
    given_, right, rng = simulated(600)
    high = np.arange(600) < n_high
    direct = [jensen_shannon_shift(given_, right, rng.permutation(high), 4)[0] for _ in range(3000)]
    counted = shift_null(letter_table(given_, right, 4), n_high, 30_000, seed=1)
    assert ks_2samp(np.round(direct, 9), counted.round(9)).pvalue > 0.001


def test_the_published_null_tosses_a_coin_for_every_question():
    given_, right, rng = simulated(600)
    direct = [jensen_shannon_shift(given_, right, rng.random(600) < 0.5, 4)[0] for _ in range(3000)]
    counted = shift_null(letter_table(given_, right, 4), 0, 30_000, seed=1, method="published")
    assert ks_2samp(np.round(direct, 9), counted.round(9)).pvalue > 0.001


@pytest.mark.parametrize("n_high", [1, 37, 5000, 14_041])
def test_margins_have_the_moments_of_drawing_without_replacement(n_high):
    given_, right, rng = simulated(14_042)
    table = letter_table(given_, right, 4)
    drawn = split_margins(table, n_high, 20_000, rng)
    n = table.sum()
    for margin, total in zip(drawn, (table.sum(axis=1), table.sum(axis=0)), strict=True):
        assert (margin.sum(axis=0) == n_high).all() and (margin <= total[:, None]).all()
        assert (margin >= 0).all()
        mean = n_high * total / n
        variance = mean * (1 - total / n) * (n - n_high) / (n - 1)
        np.testing.assert_allclose(
            margin.mean(axis=1), mean, atol=5 * np.sqrt(variance.max() / 2e4)
        )
        np.testing.assert_allclose(margin.var(axis=1), variance, rtol=0.06)


def test_given_and_right_letters_are_drawn_together():
    # A responder without error gives, in every draw, exactly the letters that are right.
    table = np.diag([30, 20, 40, 10])
    given_, right = split_margins(table, 45, 500, np.random.default_rng(0))
    assert (given_ == right).all()
    assert (shift_null(table, 45, 500, seed=0) == 0).all()


def test_a_test_without_effect_is_significant_as_often_as_it_says():
    p = []
    for seed in range(300):
        given_, right, rng = simulated(200, seed)
        high = rng.permutation(np.arange(200) < 60)
        observed = jensen_shannon_shift(given_, right, high, 4)[0]
        p.append(permutation_p(observed, shift_null(letter_table(given_, right, 4), 60, 999, seed)))
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.085


@pytest.mark.parametrize("n_high", [0, 20])
def test_an_empty_half_is_refused(n_high):
    table = np.full((2, 2), 5)
    with pytest.raises(ValueError, match=f"{n_high} of 20 questions"):
        shift_null(table, n_high, 10, seed=0)


def test_bad_letters_and_methods_are_named():
    with pytest.raises(ValueError, match="answer is 4, but there are 4 letters"):
        letter_table([0], [4], 4)
    with pytest.raises(ValueError, match="unknown method 'coin'; known: permutation, published"):
        shift_null(np.ones((2, 2)), 1, 10, seed=0, method="coin")


def test_questions_at_the_mean_are_halved_by_a_coin():
    high = uncertain_half(np.append(np.full(4000, 0.5), [0.4, 0.6]), np.random.default_rng(0))
    assert high[-1] and not high[-2]
    assert 1900 < high[:4000].sum() < 2100


def test_the_table_by_model_and_measure():
    given_, right, rng = simulated(400)
    frame = pd.DataFrame(
        {
            "model": "m",
            "question_id": [f"q{i}" for i in range(400)],
            "predicted": given_,
            "answer": right,
            "n_choices": 4,
            "choice_entropy": (given_ != right) + rng.random(400),
            "total_entropy": 0.5,
        }
    )
    measures = ("choice_entropy", "total_entropy")
    table = shift_table(frame, 500, 0, measures=measures).set_index("measure")
    row = table.loc["choice_entropy"]
    high = frame.choice_entropy > frame.choice_entropy.mean()
    assert row["shift"] == pytest.approx(jensen_shannon_shift(given_, right, high, 4)[0])
    assert row.n_high == high.sum() and row.null_low < row.null_mean < row.null_high
    assert row.p == 1 / 501 and row.p_holm == row.p
    assert np.isnan(table["shift"]["total_entropy"]) and np.isnan(table.p["total_entropy"])
    published = shift_table(frame, 500, 0, "published", measures).set_index("measure")
    assert published.p["choice_entropy"] == 0
    with pytest.raises(ValueError, match="question q0 has no right answer"):
        shift_table(frame.assign(answer=pd.array([None] + [0] * 399, dtype="Int64")))
