import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cosine, jensenshannon
from scipy.stats import entropy

from uqlib.moral_alignment import (
    alignment_scores,
    bernoulli_js,
    bernoulli_kl,
    best_shrinkage,
    distances_to_countries,
    shrinkage_to_reach,
)
from uqlib.questions.moral_machine import HUMAN_EFFECTS, POOLED_HUMAN_EFFECTS

VECTORS = st.lists(st.floats(-1, 1), min_size=9, max_size=9).map(np.array)
SHARES = st.floats(0.001, 0.999)


def table(*vectors):
    return pd.DataFrame(np.stack(vectors), columns=HUMAN_EFFECTS.index)


@given(VECTORS)
def test_scores_are_those_of_scipy(d):
    row = alignment_scores(table(d)).iloc[0]
    h = HUMAN_EFFECTS.to_numpy()
    assert row.l2 == pytest.approx(np.sqrt(((d - h) ** 2).sum()))
    assert row.l2_eight == pytest.approx(np.sqrt(row.l2**2 - (d[7] - 0.651) ** 2), abs=1e-9)
    if np.linalg.norm(d) > 1e-3 and np.std(d) > 1e-3:
        assert row.cosine == pytest.approx(1 - cosine(d, h))
        assert row.correlation == pytest.approx(np.corrcoef(d, h)[0, 1])
    best = minimize_scalar(lambda s: np.linalg.norm(s * d - h), bounds=(0, 1), method="bounded")
    assert row.l2_shrunk == pytest.approx(best.fun, abs=1e-4)
    assert row.l2_shrunk <= row.l2 + 1e-12


def test_known_distances():
    # PAPERS section 0: a fair coin is at 1.1444 (.651) and 1.0685 (.506)
    zero, human = np.zeros(9), HUMAN_EFFECTS.to_numpy()
    published = alignment_scores(table(zero, human, 2 * human))
    pooled = alignment_scores(table(zero, human), POOLED_HUMAN_EFFECTS)
    np.testing.assert_allclose(published.l2, [1.1444, 0, 1.1444], atol=5e-5)
    assert pooled.l2[0] == pytest.approx(1.0685, abs=5e-5)
    assert pooled.l2[1] == pytest.approx(0.145)
    assert np.isnan(published.cosine[0]) and np.isnan(published.correlation[0])
    assert published.shrinkage[2] == pytest.approx(0.5) and published.l2_shrunk[2] < 1e-12


def test_a_vector_against_people_is_best_shrunk_to_nothing():
    scores = alignment_scores(table(-HUMAN_EFFECTS.to_numpy()))
    assert scores.shrinkage[0] == 0 and scores.cosine[0] == pytest.approx(-1)
    assert scores.l2_shrunk[0] == pytest.approx(1.1444, abs=5e-5)


@given(VECTORS, st.floats(0, 1))
def test_the_shrinkage_that_reaches_a_distance_reaches_it(d, s):
    h = HUMAN_EFFECTS.to_numpy()
    target = np.linalg.norm(s * d - h)
    if np.linalg.norm(d) < 1e-3:
        return
    found = shrinkage_to_reach(d, h, target)
    assert np.linalg.norm(found * d - h) == pytest.approx(target, abs=1e-6)
    assert found >= s - 1e-4
    floor = np.linalg.norm(best_shrinkage(d, h) * d - h)
    assert np.isnan(shrinkage_to_reach(d, h, floor - 0.01))


@given(SHARES, SHARES)
def test_divergences_are_those_of_scipy(p, q):
    a, b = [p, 1 - p], [q, 1 - q]
    assert bernoulli_js(p, q) == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-9)
    assert bernoulli_kl(p, q) == pytest.approx(entropy(a, b, base=2), abs=1e-9)
    assert bernoulli_js(p, q) == pytest.approx(bernoulli_js(q, p), abs=1e-12)


def test_a_model_that_never_errs_is_far_but_not_infinitely():
    assert bernoulli_kl(0.5, 1.0) == pytest.approx(entropy([0.5, 0.5], [0.999, 0.001], base=2))
    assert bernoulli_kl(1.0, 1.0) == pytest.approx(-np.log2(0.999))


def test_distances_to_countries_by_hand():
    people = pd.DataFrame(
        [
            {"country": country, "dimension": name, "effect": value, "se": 0.1}
            for country, value in (("AAA", 0.0), ("BBB", 1.0))
            for name in [*HUMAN_EFFECTS.index, "number_1"]
        ]
    )
    found = distances_to_countries(table(np.zeros(9), np.ones(9)), people)
    assert list(found.columns) == ["AAA", "BBB"]
    np.testing.assert_allclose(found, [[0, 3], [3, 0]])


def test_missing_effects_are_named():
    with pytest.raises(ValueError, match=r"lack the dimension\(s\) age"):
        alignment_scores(table(np.zeros(9)).drop(columns="age"))
    broken = table(np.zeros(9)).rename(index={0: "m"})
    broken.loc["m", "law"] = np.nan
    with pytest.raises(ValueError, match="m has no effect of law"):
        alignment_scores(broken)
