import numpy as np
import pandas as pd
import pytest
from scipy import stats

from uqlib.alignment import (
    SCALINGS,
    answer_count_correlation,
    holm,
    permute_measures,
    uncertainty_alignment,
)
from uqlib.measures import MEASURES
from uqlib.questions.schema import human_entropy


def simulated(n_questions=300, seed=0, link=1.0):
    """Responses whose normalised measures follow normalised human entropy with known strength."""
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 9, n_questions)
    shares = [rng.dirichlet(np.ones(k)) for k in n]
    entropy = human_entropy(shares) / np.log(n)
    frame = pd.DataFrame({"model": "m", "n_choices": n, "human_shares": shares})
    for measure in MEASURES:
        noise = rng.uniform(size=n_questions)
        frame[measure] = link * entropy + (1 - link) * noise
    for size in (m for m in MEASURES if "size" in m):
        frame[size] = rng.integers(1, 50, n_questions)
    return frame


def row(table, measure):
    return table.set_index("measure").loc[measure]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scalings_match_scipy(scaling):
    frame = simulated(link=0.6)
    log_n, entropy = np.log(frame.n_choices), human_entropy(frame.human_shares)
    residual = lambda v: v - v.groupby(frame.n_choices).transform("mean")
    expected = {
        "published": lambda m: stats.pearsonr(frame[m] * log_n, entropy),
        "raw": lambda m: stats.pearsonr(
            frame[m] * (log_n if m == "choice_entropy" else 1), entropy
        ),
        "normalised": lambda m: stats.pearsonr(frame[m], entropy / log_n),
        "within_n": lambda m: stats.pearsonr(
            residual(frame[m]), residual(pd.Series(entropy / log_n))
        ),
    }[scaling]
    table = uncertainty_alignment(frame, scaling, replicates=10)
    for measure in ("top1_probability", "total_entropy", "top_k_entropy_5", "choice_entropy"):
        assert row(table, measure).r == pytest.approx(expected(measure).statistic, abs=1e-9)
    if scaling in ("published", "normalised"):
        assert row(table, "total_entropy").p == pytest.approx(expected("total_entropy").pvalue)


def test_raw_top_p_entropy_is_in_nats():
    frame = simulated(link=0.6)
    nats = frame.top_p_entropy_90 * np.log(frame.top_p_size_90)
    expected = stats.pearsonr(nats, human_entropy(frame.human_shares)).statistic
    table = uncertainty_alignment(frame, "raw", replicates=10)
    assert row(table, "top_p_entropy_90").r == pytest.approx(expected)


def test_full_agreement_is_found_and_shuffling_destroys_it():
    frame = simulated(link=1.0)
    assert row(uncertainty_alignment(frame, "normalised", 50), "choice_entropy").r > 0.999999
    shuffled = uncertainty_alignment(permute_measures(frame, seed=1), "within_n", 50)
    # Under the null r has SD 1/sqrt(300) = .058.
    assert abs(row(shuffled, "choice_entropy").r) < 0.25


def test_shuffled_measures_pass_the_published_scaling():
    # The artefact: content is gone, the number of options is left. Both sides share ln n.
    frame = permute_measures(simulated(800, link=1.0), seed=2)
    assert row(uncertainty_alignment(frame, "published", 10), "total_entropy").r > 0.4
    assert abs(row(uncertainty_alignment(frame, "normalised", 10), "total_entropy").r) < 0.2


def test_permuting_keeps_questions_and_the_set_of_measures():
    frame = pd.concat([simulated(50), simulated(50, seed=1).assign(model="other")])
    frame = frame.reset_index(drop=True)
    shuffled = permute_measures(frame, seed=3)
    assert (shuffled.n_choices == frame.n_choices).all()
    for model in ("m", "other"):
        a, b = (t[t.model == model][list(MEASURES)].to_numpy() for t in (frame, shuffled))
        assert sorted(map(tuple, a)) == sorted(map(tuple, b))
        assert not (a == b).all()


def test_answer_count_alone():
    frame = simulated()
    expected = stats.pearsonr(np.log(frame.n_choices), human_entropy(frame.human_shares))
    assert answer_count_correlation(frame) == pytest.approx(expected.statistic)
    assert np.isnan(answer_count_correlation(frame[frame.n_choices == 4]))


def test_intervals_contain_the_estimate_and_the_seed_reproduces():
    frame = simulated(link=0.5)
    a, b = (uncertainty_alignment(frame, "normalised", 200, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(a, b)
    assert ((a.low <= a.r) & (a.r <= a.high)).all()


def test_a_constant_measure_is_missing_not_zero():
    frame = simulated().assign(total_entropy=0.5)
    result = row(uncertainty_alignment(frame, "normalised", 10), "total_entropy")
    assert np.isnan(result.r) and np.isnan(result.p) and np.isnan(result.p_holm)


def test_holm_by_hand():
    # Holm (1979): sorted p times (m, m-1, ...), made monotone.
    np.testing.assert_allclose(holm([0.01, 0.03, 0.04]), [0.03, 0.06, 0.06])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="known: published, raw"):
        uncertainty_alignment(simulated(), "publised")
    frame = simulated().assign(question_id="q7")
    frame.at[3, "human_shares"] = None
    with pytest.raises(ValueError, match="question q7 has no human shares"):
        uncertainty_alignment(frame, "raw")
