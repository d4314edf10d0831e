import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from uqlib.measures import MEASURES
from uqlib.paths import ROOT
from uqlib.resampling import bootstrap_weights
from uqlib.selective import (
    oracle_aurc,
    oracle_risk,
    risk_coverage,
    selective_scores,
    selective_table,
)

CASES = json.loads((ROOT / "tests/reference/calibration.json").read_text())["cases"]
answered = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40)


def over_random_orders(values, correct, rng, draws=4000):
    """AURC and risk at 80 % by taking ties in random order, again and again."""
    n, area, risk = len(values), [], []
    for _ in range(draws):
        order = np.lexsort((rng.random(n), values))
        errors = np.cumsum(1 - correct[order])
        area.append((errors / np.arange(1, n + 1)).mean())
        k = 0.8 * n
        below = int(k)
        part = errors[below - 1] + (k - below) * (1 - correct[order])[min(below, n - 1)]
        risk.append(part / k)
    return np.mean(area), np.mean(risk)


@pytest.mark.parametrize("case", CASES, ids=lambda case: len(case["correct"]))
def test_auroc_matches_scikit_learn(case):
    doubt, correct = 1 - np.array(case["confidence"]), np.array(case["correct"])
    assert selective_scores(doubt, correct)[0] == pytest.approx(case["auroc_of_errors"])


def test_ties_are_scored_by_their_expectation():
    rng = np.random.default_rng(0)
    values, correct = rng.integers(0, 4, 30), rng.integers(0, 2, 30)
    auroc, aurc, _, selective = selective_scores(values, correct)
    area, risk = over_random_orders(values, correct, rng)
    assert auroc == pytest.approx(roc_auc_score(1 - correct, values))
    assert aurc == pytest.approx(area, abs=0.003)
    assert 1 - selective == pytest.approx(risk, abs=0.003)


@pytest.mark.parametrize("errors", [1, 7, 19])
def test_oracle_random_and_worst(errors):
    n = 20
    correct = np.arange(n) < n - errors
    best = selective_scores(np.arange(n), correct)
    assert best[0] == 1 and best[2] == pytest.approx(1)
    assert best[1] == pytest.approx(oracle_aurc(errors, n))
    flat = selective_scores(np.zeros(n), correct)
    assert flat[0] == 0.5 and flat[2] == pytest.approx(0)
    assert flat[1] == pytest.approx(errors / n) and flat[3] == pytest.approx(1 - errors / n)
    worst = selective_scores(-np.arange(n), correct)
    assert worst[0] == 0 and worst[2] < 0


def test_the_limit_of_the_oracle():
    # Many questions: the area under max(0, 1 - a/c) is 1 - a + a ln a.
    a, n = 0.7, 100_000
    assert oracle_aurc((1 - a) * n, n) == pytest.approx(1 - a + a * np.log(a), abs=1e-4)
    grid = np.linspace(1e-4, 1, 20_001)
    assert oracle_risk(a, grid).mean() == pytest.approx(1 - a + a * np.log(a), abs=1e-3)


@given(answered)
def test_scores_ignore_order_and_monotone_maps(data):
    values, correct = (np.array(x, dtype=float) for x in zip(*data, strict=True))
    scores = selective_scores(values, correct)
    np.testing.assert_allclose(selective_scores(values[::-1], correct[::-1]), scores)
    np.testing.assert_allclose(selective_scores(np.exp(values), correct), scores)
    assert 0 <= scores[1] <= 1 and 0 <= scores[3] <= 1
    if np.isfinite(scores[0]):
        assert scores[0] + selective_scores(-values, correct)[0] == pytest.approx(1)
    risk = risk_coverage(values, correct, [0.3, 1.0])
    assert 0 <= risk[0] <= 1 and risk[1] == pytest.approx(1 - correct.mean())


@given(answered, st.integers(0, 5))
def test_weights_are_copies(data, seed):
    values, correct = (np.array(x, dtype=float) for x in zip(*data, strict=True))
    weights = bootstrap_weights(len(values), 3, seed)
    scores = selective_scores(values, correct, weights)
    for row, counts in enumerate(weights.astype(int)):
        copies = np.repeat(values, counts), np.repeat(correct, counts)
        np.testing.assert_allclose(scores[:, row], selective_scores(*copies), atol=1e-12)


@pytest.mark.parametrize("right", [0, 1])
def test_one_class_has_no_ranking(right):
    auroc, aurc, gain, selective = selective_scores([0.1, 0.2, 0.3], [right] * 3)
    assert np.isnan(auroc) and np.isnan(gain)
    assert aurc == 1 - right and selective == right


@pytest.mark.parametrize("coverage", [0, 1.2])
def test_bad_coverage_and_values_are_named(coverage):
    with pytest.raises(ValueError, match=f"coverage must lie in .*, not {coverage}"):
        selective_scores([0.1, 0.2], [0, 1], coverage=coverage)
    with pytest.raises(ValueError, match="missing or infinite"):
        selective_scores([0.1, np.nan], [0, 1])


def simulated(n, rng):
    wrong = rng.random(n) < 0.3
    frame = pd.DataFrame({"model": "m", "answer": 0, "correct": ~wrong})
    frame["question_id"] = [f"q{i}" for i in range(n)]
    for measure in MEASURES:
        frame[measure] = rng.normal(size=n) + wrong
    frame["top1_probability"] *= -1
    return frame


def test_the_table_turns_certainties_round():
    table = selective_table(simulated(800, np.random.default_rng(0)), replicates=40)
    assert len(table) == len(MEASURES)
    assert (table.auroc > 0.65).all() and (table.accuracy == table.accuracy[0]).all()
    for score in ("auroc", "aurc", "gain", "selective_accuracy"):
        assert (table[f"{score}_low"] <= table[score]).all()
        assert (table[score] <= table[f"{score}_high"]).all()


def test_intervals_cover_the_truth():
    # Two unit normals one apart: AUROC is Phi(1 / sqrt 2) = .7602.
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(150):
        row = selective_table(simulated(300, rng), 200, trial, measures=("total_entropy",)).iloc[0]
        covered += row.auroc_low <= 0.760250 <= row.auroc_high
    assert 0.88 <= covered / 150 <= 0.99


def test_a_question_without_an_answer_is_named():
    frame = simulated(10, np.random.default_rng(0)).assign(answer=pd.array([0] * 9 + [None]))
    with pytest.raises(ValueError, match="question q9 has no right answer"):
        selective_table(frame)
