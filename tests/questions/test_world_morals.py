import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from uqlib.questions.moral import ATTRIBUTES, moral_scenarios, saving_differences
from uqlib.questions.world_morals import (
    HUMAN_EFFECTS,
    WEIGHTS,
    dilemma_features,
    dilemma_shares,
    moral_questions,
    share_saved,
    solve_weights,
)


def test_features_by_hand():
    conjoint = pd.DataFrame(
        {
            "characters": [["boy", "large man"], ["female doctor", "criminal", "dog"]],
            "crossing_signal": [1, 2],
            "n_characters": [2, 3],
            "intervention": [1, 0],
            "barrier": [0, 1],
        }
    )
    first, second = dilemma_features(conjoint).to_dict("records")
    assert first == {
        "intervention": 1, "relation": 1, "law": 0.5, "gender": -0.5, "fitness": -0.25,
        "status": 0.0, "age": 0.25, "number": 2, "species": 0.5,
    }  # fmt: skip
    assert second["law"] == -0.5 and second["relation"] == 0 and second["number"] == 3
    assert second["species"] == pytest.approx((0.5 + 0.5 - 0.5) / 3)
    assert second["status"] == pytest.approx(0) and second["gender"] == pytest.approx(0.5 / 3)


def test_the_share_saved_is_a_logistic_function_of_the_difference():
    _, conjoint = moral_scenarios(2, seed=5, design="counterbalanced")
    features = dilemma_features(conjoint).to_numpy()
    weights = np.array([WEIGHTS[name] for name in HUMAN_EFFECTS])
    for k, saved in enumerate(share_saved(conjoint)):
        other = k + 1 if k % 2 == 0 else k - 1
        assert saved == pytest.approx(expit(weights @ (features[k] - features[other])))


def test_the_case_that_is_chosen_kills_the_group_it_names():
    questions, conjoint = moral_questions(2, seed=5)
    chosen = np.stack(questions.human_shares)
    np.testing.assert_allclose(chosen, np.stack(dilemma_shares(conjoint)))
    np.testing.assert_allclose(1 - chosen.ravel(), share_saved(conjoint))


def test_the_order_of_the_cases_changes_nothing():
    _, conjoint = moral_scenarios(3, seed=8, design="counterbalanced")
    table = conjoint.assign(saved=share_saved(conjoint))
    same = table.groupby(["base_id", "group", "intervention"]).saved
    assert (same.max() - same.min()).max() < 1e-12


def test_the_effects_of_the_population_are_those_of_people():
    _, conjoint = moral_scenarios(1500, seed=77, design="counterbalanced", dimensions=ATTRIBUTES)
    effects = saving_differences(conjoint, share_saved(conjoint))
    for name, expected in HUMAN_EFFECTS.items():
        assert effects[name] == pytest.approx(expected, abs=0.025), name


def test_solving_reaches_its_target_on_its_own_scenarios():
    weights = solve_weights(n=60, seed=4)
    _, conjoint = moral_scenarios(60, 4, "counterbalanced", ATTRIBUTES)
    effects = saving_differences(conjoint, share_saved(conjoint, weights))
    np.testing.assert_allclose(
        effects[list(HUMAN_EFFECTS)], list(HUMAN_EFFECTS.values()), atol=2e-3
    )
