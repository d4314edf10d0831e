import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.conjoint import (
    effect_replicates,
    marginal_effects,
    published_weights,
    saved_shares,
)
from uqlib.controls import preferring
from uqlib.paths import data_folder
from uqlib.questions.moral import ATTRIBUTES, EFFECTS, moral_scenarios, saved
from uqlib.questions.moral_machine import (
    HUMAN_EFFECTS,
    SHARED_RESPONSES,
    read_model_effects,
    read_shared_responses,
)
from uqlib.questions.sources import missing_files
from uqlib.resampling import bootstrap_weights

real = pytest.mark.skipif(
    bool(missing_files("moral_machine")), reason="moral_machine is not in the data folder"
)


@pytest.fixture(scope="module")
def conjoint():
    return moral_scenarios(150, seed=4, dimensions=ATTRIBUTES)[1]


@pytest.fixture(scope="module")
def counterbalanced():
    return moral_scenarios(300, seed=4, design="counterbalanced", dimensions=ATTRIBUTES)[1]


def shares(conjoint, seed=0):
    first = pd.Series(
        np.random.default_rng(seed).random(conjoint.question_id.nunique()),
        index=conjoint.question_id.unique(),
    )
    p = first.loc[conjoint.question_id].to_numpy()
    return np.where(conjoint.case == 1, 1 - p, p)


@real
def test_the_published_column_of_phi_is_met_to_six_decimals():
    # table_S2.csv of Takemoto (2026), column "Phi 3.5 mini"
    folder = data_folder() / "moral_machine"
    answers = read_shared_responses(folder / SHARED_RESPONSES)
    ours = marginal_effects(answers, answers.saved, number="largest").set_index("dimension").effect
    published = read_model_effects(folder / "table_S2.csv").loc["Phi 3.5 mini"]
    np.testing.assert_allclose(ours[published.index], published, atol=1e-6, rtol=0)
    pooled = marginal_effects(answers, answers.saved).set_index("dimension").effect
    assert pooled["number"] == pytest.approx(-0.1725, abs=5e-5)


@pytest.mark.parametrize("weighting", ["published", "equal"])
@pytest.mark.parametrize("design", ["conjoint", "counterbalanced"])
def test_effects_and_errors_are_those_of_clustered_least_squares(weighting, design, request):
    table = request.getfixturevalue(design)
    p = shares(table)
    ours = marginal_effects(table, p, weighting).set_index("dimension")
    w = published_weights(table) if weighting == "published" else np.ones(len(table))
    for dimension, (query, column, plus, _) in EFFECTS.items():
        part = table.query(query)
        x = sm.add_constant((part[column] == plus).to_numpy(dtype=float))
        groups = pd.factorize(part.base_id)[0]
        fit = sm.WLS(p[part.index], x, weights=w[part.index]).fit(
            cov_type="cluster", cov_kwds={"groups": groups}
        )
        assert ours.effect[dimension] == pytest.approx(fit.params[1], abs=1e-12)
        assert ours.se[dimension] == pytest.approx(fit.bse[1], abs=1e-12)
        assert ours.rows[dimension] == len(part)


def test_weights_are_those_of_the_published_table():
    # PAPERS: barrier .2/.32; pedestrians a x b with a = .48, .32, .2 and b = .48/.2/.32, or
    # .48/.32/.2 where the car swerves and both groups are on the street.
    rows = pd.DataFrame(
        [
            (0, 0, 1, 0, 0.2), (1, 0, 1, 0, 0.32),
            (0, 0, 0, 0, 0.32 * 0.48), (0, 0, 0, 1, 0.32 * 0.2), (0, 0, 0, 2, 0.32 * 0.32),
            (1, 0, 0, 0, 0.2 * 0.48), (1, 0, 0, 1, 0.2 * 0.2), (1, 0, 0, 2, 0.2 * 0.32),
            (0, 1, 0, 0, 0.48 * 0.48), (0, 1, 0, 1, 0.48 * 0.2), (0, 1, 0, 2, 0.48 * 0.32),
            (1, 1, 0, 0, 0.48 * 0.48), (1, 1, 0, 1, 0.48 * 0.32), (1, 1, 0, 2, 0.48 * 0.2),
        ],
        columns=["intervention", "ped_ped", "barrier", "crossing_signal", "p"],
    )  # fmt: skip
    np.testing.assert_allclose(published_weights(rows), 1 / rows.p)


@pytest.mark.parametrize("weighting", ["published", "equal"])
def test_known_preferences_are_recovered_where_position_tells_nothing(counterbalanced, weighting):
    truth = HUMAN_EFFECTS / 2.5
    first = preferring(counterbalanced, truth)
    p = first.loc[counterbalanced.question_id].to_numpy()
    found = marginal_effects(
        counterbalanced, np.where(counterbalanced.case == 1, 1 - p, p), weighting
    )
    np.testing.assert_allclose(found.effect, truth[found.dimension], atol=0.035)
    if weighting == "equal":
        np.testing.assert_allclose(found.effect, truth[found.dimension], atol=0.02)


def test_position_alone_makes_effects_and_only_in_the_published_design(counterbalanced):
    _, conjoint = moral_scenarios(1000, seed=4, dimensions=ATTRIBUTES)
    always = marginal_effects(conjoint, saved(conjoint, 2)).set_index("dimension").effect
    assert always["relation"] == -1
    # PAPERS section 0.3, another generator with the same design, 20,000 scenarios
    expected = {"gender": 0.43, "fitness": -0.44, "status": -0.44, "age": 0.44, "number": -0.44,
                "species": 0.41, "intervention": -0.12, "law": -0.01}  # fmt: skip
    for dimension, value in expected.items():
        assert always[dimension] == pytest.approx(value, abs=0.07), dimension
    balanced = marginal_effects(counterbalanced, saved(counterbalanced, 2), "equal")
    np.testing.assert_allclose(balanced.effect, 0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_turned_answers_turn_every_effect(conjoint, seed):
    p = shares(conjoint, seed)
    there, back = marginal_effects(conjoint, p), marginal_effects(conjoint, 1 - p)
    np.testing.assert_allclose(there.effect, -back.effect, atol=1e-12)
    np.testing.assert_allclose(there.se, back.se, atol=1e-12)


def test_replicates_spread_as_the_clustered_errors_say(counterbalanced):
    p = shares(counterbalanced)
    effects = marginal_effects(counterbalanced, p)
    drawn = effect_replicates(counterbalanced, p, replicates=800, seed=1)
    np.testing.assert_allclose(drawn.std(axis=0), effects.se, rtol=0.12)
    np.testing.assert_allclose(drawn.mean(axis=0), effects.effect, atol=0.01)
    again = effect_replicates(counterbalanced, 1 - p, replicates=800, seed=1)
    np.testing.assert_allclose(again, -drawn, atol=1e-12)


def test_a_replicate_is_the_effect_of_the_scenarios_drawn(conjoint):
    p = shares(conjoint)
    drawn = effect_replicates(conjoint, p, replicates=2, seed=5)
    names = conjoint.base_id.unique()
    counts = bootstrap_weights(len(names), 2, seed=5)[1].astype(int)
    copies = dict(zip(names, counts, strict=True))
    rows = np.repeat(np.arange(len(conjoint)), conjoint.base_id.map(copies))
    copied = marginal_effects(conjoint.iloc[rows], p[rows])
    np.testing.assert_allclose(drawn[1], copied.effect, atol=1e-12)


def test_the_largest_effect_of_number_keeps_its_sign():
    _, conjoint = moral_scenarios(400, seed=1, dimensions=["number"])
    saves_fewer = np.where(conjoint.attribute_level == "fewer", 1.0, 0.0)
    at_two = np.where(conjoint.n_difference == 2, saves_fewer, 0.5)
    found = marginal_effects(conjoint, at_two, number="largest").set_index("dimension")
    assert found.effect["number"] == -1
    pooled = marginal_effects(conjoint, at_two).set_index("dimension").effect["number"]
    assert -0.6 < pooled < -0.1
    assert found.effect[["age", "species"]].isna().all()


def answers(**first):
    return pd.DataFrame(
        [
            {"question_id": q, "choice_log_probs": np.log([p, 1 - p]) - 3}
            for q, passes in first.items()
            for p in passes
        ]
    )


def test_shares_saved_are_means_over_passes():
    conjoint = pd.DataFrame({"question_id": ["a", "a", "b", "b"], "case": [1, 2, 1, 2]})
    table = answers(a=[0.9, 0.2], b=[0.5, 0.5])
    np.testing.assert_allclose(saved_shares(table, conjoint), [0.45, 0.55, 0.5, 0.5])
    np.testing.assert_allclose(saved_shares(table, conjoint, "hard"), [0.5, 0.5, 0, 1])


def test_bad_input_is_named(conjoint):
    with pytest.raises(ValueError, match="unknown weighting 'none'; known: published, equal"):
        marginal_effects(conjoint, shares(conjoint), "none")
    with pytest.raises(ValueError, match="unknown number 'mean'"):
        marginal_effects(conjoint, shares(conjoint), number="mean")
    with pytest.raises(ValueError, match=r"saved has shape \(3,\)"):
        marginal_effects(conjoint, [0, 1, 0])
    wrong = shares(conjoint)
    wrong[7] = np.nan
    with pytest.raises(ValueError, match="row 7 has nan"):
        effect_replicates(conjoint, wrong, 2, 0)
    with pytest.raises(ValueError, match="unknown estimate"):
        saved_shares(answers(a=[0.5]), conjoint, "firm")
    with pytest.raises(ValueError, match=r"900 scenarios were not answered, such as age/4/0"):
        saved_shares(answers(a=[0.5]), conjoint)
