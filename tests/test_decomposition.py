import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit
from scipy.stats import entropy
from statsmodels.stats.anova import anova_lm

from uqlib.decomposition import (
    COMPONENTS,
    PARTS,
    binary_entropy,
    confidence,
    death_probabilities,
    decompose,
    decomposition_table,
    heat_to_entropy,
    mix_to_entropy,
    variance_components,
    variance_shares,
)
from uqlib.questions.moral import moral_scenarios

P = arrays(float, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(0, 1))


def responses(first, rate=0.0, passes=1):
    """A table of answers, from the probability of Case 1 by question."""
    rows = [
        {"model": "m", "dropout_rate": rate, "pass_index": k, "question_id": q,
         "choice_log_probs": np.log([max(p, 1e-12), max(1 - p, 1e-12)]) - 1}
        for k in range(passes)
        for q, p in first.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


@given(st.floats(0, 1))
def test_binary_entropy_is_scipys(p):
    assert binary_entropy(p) == pytest.approx(entropy([p, 1 - p], base=2), abs=1e-12)
    assert binary_entropy(p) == pytest.approx(binary_entropy(1 - p), abs=1e-12)
    assert confidence(p) == pytest.approx(1 - 4 * p * (1 - p))


@given(P)
def test_parts_are_not_negative_and_sum_to_the_whole(p):
    row = decompose(p).iloc[0]
    assert row.aleatoric + row["mask"] + row.scenario == pytest.approx(row.total, abs=1e-12)
    assert row.min() > -1e-12 and row.total <= 1 + 1e-12
    turned = decompose(1 - p).iloc[0]
    pd.testing.assert_series_equal(row, turned, atol=1e-9)
    one = decompose(p[:, 0]).iloc[0]
    assert one["mask"] == pytest.approx(0, abs=1e-12)
    assert one.total == pytest.approx(binary_entropy(p[:, 0].mean()))
    assert one.aleatoric == pytest.approx(binary_entropy(p[:, 0]).mean())


def test_each_part_alone():
    half = np.full((4, 3), 0.5)
    by_scenario = np.repeat([[1.0], [0.0]], 3, axis=1)
    by_mask = np.repeat([[1.0, 0.0]], 3, axis=0)
    for p, part in ((half, "aleatoric"), (by_scenario, "scenario"), (by_mask, "mask")):
        row = decompose(p).iloc[0]
        assert row[part] == pytest.approx(1)
        assert row[list(PARTS[1:])].sum() == pytest.approx(1)


def test_weights_are_copies():
    p = np.random.default_rng(0).random((5, 4))
    counts = np.array([[2, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = decompose(p, counts)
    expected = decompose(np.repeat(p, counts[0], axis=0)).iloc[0]
    np.testing.assert_allclose(found.iloc[0], expected)
    np.testing.assert_allclose(found.iloc[1], decompose(p).iloc[0])


def test_few_masks_see_too_little_of_them():
    rng = np.random.default_rng(1)
    p = expit(0.5 + 0.4 * rng.normal(size=(4000, 64)))
    true = decompose(p).iloc[0]["mask"] / (1 - 1 / 64)
    for m in (2, 4, 16):
        assert decompose(p[:, :m]).iloc[0]["mask"] / true == pytest.approx(1 - 1 / m, abs=0.03)


def test_orientation_decides_what_always_case_2_is():
    # PAPERS section 2.2: by case MI is 0; by group .79 to .84 bit for six attributes, 1 for law, 0
    # for relation and intervention; CE is 0 either way.
    _, conjoint = moral_scenarios(400, seed=0)
    answers = responses({q: 0.0 for q in conjoint.question_id.unique()})
    by = {
        orientation: decomposition_table(
            death_probabilities(answers, conjoint, orientation)
        ).set_index("dimension")
        for orientation in ("case", "group")
    }
    np.testing.assert_allclose(by["case"].mi, 0, atol=1e-9)
    np.testing.assert_allclose(by["group"].ce, 0, atol=1e-9)
    for dimension in ("species", "status", "gender", "age", "fitness", "number"):
        assert by["group"].mi[dimension] == pytest.approx(0.81, abs=0.07)
    assert by["group"].mi["law"] == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(by["group"].mi[["relation", "intervention"]], 0, atol=1e-9)


def test_group_probabilities_are_read_from_the_case_in_which_the_group_dies():
    _, conjoint = moral_scenarios(3, seed=1, design="counterbalanced", dimensions=["law"])
    first = dict(zip(conjoint.question_id.unique(), np.linspace(0.1, 0.9, 12), strict=True))
    found = death_probabilities(responses(first), conjoint, "group").set_index("question_id").p
    lawful = conjoint[conjoint.attribute_level == "lawful"].set_index("question_id").case
    for question, p in first.items():
        assert found[question] == pytest.approx(p if lawful[question] == 1 else 1 - p)


def test_the_table_decomposes_pass_by_pass_and_intervals_hold_the_value():
    _, conjoint = moral_scenarios(12, seed=1, design="counterbalanced", dimensions=["age", "law"])
    rng = np.random.default_rng(0)
    names = conjoint.question_id.unique()
    table = pd.concat(
        [
            responses(dict(zip(names, rng.random(len(names)), strict=True))).assign(pass_index=k)
            for k in range(3)
        ]
    )
    answers = death_probabilities(table, conjoint, "case")
    found = decomposition_table(answers, replicates=200).set_index("dimension")
    assert list(found.scenarios) == [48, 48] and list(found.masks) == [3, 3]
    age = answers[answers.dimension == "age"]
    once = age[age.pass_index == 0].p
    assert found.te["age"] == pytest.approx(binary_entropy(once.mean()))
    assert found.confidence["age"] == pytest.approx(confidence(age.p).mean())
    for name in ("te", "mi", "mask"):
        assert (found[f"{name}_low"] < found[f"{name}_high"]).all()
    assert (found.mask_low <= found["mask"]).all() and (found["mask"] <= found.mask_high).all()
    with pytest.raises(ValueError, match="a question of law was not asked in every pass"):
        decomposition_table(answers.drop(answers.index[-1]))


@given(arrays(float, 20, elements=st.floats(0, 1)), st.floats(0.01, 1))
def test_randomised_answers_have_the_entropy_asked_for_and_keep_their_order(p, part):
    bits = part + (1 - part) * binary_entropy(p).mean()
    for change in (mix_to_entropy, heat_to_entropy):
        found = change(p, bits)
        assert binary_entropy(found).mean() == pytest.approx(bits, abs=1e-6)
        assert (np.diff(found[np.argsort(p)]) >= -1e-9).all()
        np.testing.assert_allclose(change(1 - p, bits), 1 - found, atol=1e-6)


def test_randomising_cannot_make_answers_surer():
    p = [0.8, 0.3]
    for change in (mix_to_entropy, heat_to_entropy):
        np.testing.assert_allclose(change(p, binary_entropy(p).mean()), p)
        with pytest.raises(ValueError, match=r"between 0\.8016 and 1 bit, not 0\.5000"):
            change([0.8, 0.3], 0.5)


def test_variance_components_are_those_of_the_mean_squares_of_statsmodels():
    x = np.random.default_rng(0).normal(size=(4, 3, 5)) + np.arange(4)[:, None, None]
    a, b, n = x.shape
    index = pd.MultiIndex.from_product([range(a), range(b), range(n)], names=["m", "d", "s"])
    frame = pd.Series(x.ravel(), index=index, name="y").reset_index()
    ms = anova_lm(smf.ols("y ~ C(m) * C(d)", frame).fit())
    ms = ms["sum_sq"] / ms["df"]
    found = variance_components(x)
    assert found["scenario"] == pytest.approx(ms["Residual"])
    assert found["interaction"] == pytest.approx((ms["C(m):C(d)"] - ms["Residual"]) / n)
    assert found["model"] == pytest.approx((ms["C(m)"] - ms["C(m):C(d)"]) / (b * n))
    assert found["dimension"] == pytest.approx((ms["C(d)"] - ms["C(m):C(d)"]) / (a * n))


def test_known_variances_are_recovered_and_their_shares_covered():
    rng = np.random.default_rng(2)
    a, b, n = 30, 9, 50
    sd = {"model": 1.0, "dimension": 0.5, "interaction": 0.3, "scenario": 0.8}
    x = (
        sd["model"] * rng.normal(size=(a, 1, 1))
        + sd["dimension"] * rng.normal(size=(1, b, 1))
        + sd["interaction"] * rng.normal(size=(a, b, 1))
        + sd["scenario"] * rng.normal(size=(a, b, n))
    )
    table = variance_shares(x, replicates=200, seed=0).set_index("component")
    assert list(table.index) == list(COMPONENTS)
    assert table.share.sum() == pytest.approx(1)
    assert table.variance["scenario"] == pytest.approx(0.64, rel=0.05)
    assert table.variance["interaction"] == pytest.approx(0.09, rel=0.25)
    assert table.low["model"] < 1 / (1 + 0.25 + 0.09 + 0.64) < table.high["model"]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="unknown orientation 'side'; known: case, group"):
        death_probabilities(responses({"q": 0.5}), moral_scenarios(1)[1], "side")
    with pytest.raises(ValueError, match="question q is not among the scenarios"):
        death_probabilities(responses({"q": 0.5}), moral_scenarios(1)[1], "case")
    with pytest.raises(ValueError, match="a probability is missing"):
        decompose([0.5, np.nan])
    with pytest.raises(ValueError, match="two models, dimensions and scenarios"):
        variance_components(np.ones((1, 3, 3)))
