import numpy as np
import pandas as pd
import pytest
from scipy import stats

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
