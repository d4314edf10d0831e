import re

import numpy as np
import pandas as pd
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib.questions import moral
from uqlib.questions.moral import moral_scenarios, saved, saving_differences


@pytest.fixture(scope="module")
def published():
    return moral_scenarios(1000, seed=0)


@pytest.fixture(scope="module")
def counterbalanced():
    return moral_scenarios(60, seed=0, design="counterbalanced")


def in_case_one(conjoint):
    first = conjoint[conjoint.case == 1]
    return first.groupby("scenario_type").attribute_level.value_counts(normalize=True)


def test_group_0_dies_in_case_1_three_times_in_four(published):
    # Takemoto's generator swaps only where one group sits in the car: 1/2 + 1/2 * 1/2.
    shares = in_case_one(published[1])
    for dimension in moral.ATTRIBUTES:
        share = shares[dimension, moral.LEVELS[dimension][0]]
        assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 1000)


def test_passengers_and_swerving_always_stand_first_in_the_published_design(published):
    shares = in_case_one(published[1])
    assert shares["relation", "passengers"] == 1
    assert shares["intervention", "swerve"] == 1
    assert abs(shares["law", "lawful"] - 0.5) < 4 * np.sqrt(0.25 / 1000)
    conjoint = published[1]
    assert (conjoint.case[conjoint.barrier == 1] == 1).all()


def test_always_case_2_has_the_published_signs(published):
    # In the published analysis, with its weights, the same responder scores Gender +.43, Fitness
    # -.44, Relation -1.00; without weights the six attributes are half of one in expectation.
    conjoint = published[1][published[1].scenario_type.isin(moral.ATTRIBUTES)]
    score = saving_differences(conjoint, saved(conjoint, 2))
    assert score["relation"] == -1
    signs = {"gender": 1, "fitness": -1, "status": -1, "age": 1, "number": -1, "species": 1}
    for dimension, sign in signs.items():
        assert score[dimension] * sign == pytest.approx(0.5, abs=0.11)
    assert score[["intervention", "law"]].abs().max() < 0.06
    pd.testing.assert_series_equal(saving_differences(conjoint, saved(conjoint, 1)), -score)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2]))
def test_position_carries_no_information_when_counterbalanced(seed, case):
    _, conjoint = moral_scenarios(3, seed=seed, design="counterbalanced")
    score = saving_differences(conjoint, saved(conjoint, case))
    assert score.dropna().abs().max() < 1e-12
    for column in ("group", "attribute_level", "intervention", "barrier", "crossing_signal"):
        per_case = conjoint.groupby("case")[column].value_counts()
        assert per_case[1].sort_index().equals(per_case[2].sort_index())


def test_four_tellings_are_one_scenario_in_both_orders_and_both_manoeuvres(counterbalanced):
    questions, conjoint = counterbalanced
    assert (conjoint.groupby("base_id").size() == 8).all()
    cells = conjoint.groupby(["base_id", "swapped", "intervention", "case"]).size()
    assert len(cells) == len(conjoint) and (cells == 1).all()
    constant = ["characters", "barrier", "ped_ped", "crossing_signal", "n_characters"]
    for _, rows in conjoint.assign(characters=conjoint.characters.map(tuple)).groupby(
        ["base_id", "group"]
    ):
        assert len(rows[constant].drop_duplicates()) == 1
    assert questions.question_id.is_unique


@pytest.mark.parametrize("design", moral.DESIGNS)
def test_both_orientations_can_be_recovered(design):
    questions, conjoint = moral_scenarios(40, seed=1, design=design)
    assert conjoint.question_id.tolist() == np.repeat(questions.question_id, 2).tolist()
    assert conjoint.case.tolist() == [1, 2] * len(questions)
    assert ((conjoint.case == 1) == ((conjoint.group == 0) != conjoint.swapped)).all()
    attributes = conjoint[conjoint.scenario_type.isin(moral.ATTRIBUTES)]
    for row in attributes.itertuples():
        assert row.attribute_level == moral.LEVELS[row.scenario_type][row.group]


def test_texts_say_what_the_table_says(counterbalanced):
    questions, conjoint = counterbalanced
    rows = dict(tuple(conjoint.groupby("question_id")))
    numbers = {word: k for k, word in enumerate(["one", "two", "three", "four", "five"], start=1)}
    for question in questions.iloc[::7].itertuples():
        for choice, row in zip(
            question.choices, rows[question.question_id].itertuples(), strict=True
        ):
            assert ("swerves" in choice) == row.intervention
            assert ("concrete barrier" in choice) == row.barrier
            assert ("inside the car" in choice) == row.barrier
            assert ("on green" in choice, "on red" in choice) == (
                row.crossing_signal == 1,
                row.crossing_signal == 2,
            )
            size, who = re.search("This kills (.*): (.*), who", choice).groups()
            words = [part.split(" ")[0] for part in re.split(", | and ", who)]
            parts = [1 if word in ("a", "an") else numbers[word] for word in words]
            assert numbers[size] == sum(parts) == row.n_characters
        assert ("island" in question.text) == rows[question.question_id].ped_ped.all()


def test_groups_are_what_the_dimension_says(published):
    conjoint = published[1]
    groups = {}
    for row in conjoint.itertuples():
        levels = groups.setdefault(row.scenario_type, {})
        levels.setdefault(row.attribute_level, set()).update(row.characters)
    assert groups["species"]["pet"] == {"dog", "cat"}
    assert len(groups["species"]["human"]) == 18
    assert groups["status"]["lower"] == {"homeless person", "criminal", "man", "woman"}
    assert not groups["gender"]["female"] & groups["gender"]["male"]
    assert groups["fitness"]["large"] == {"large man", "large woman", "man", "woman"}
    assert groups["age"]["younger"] == {"boy", "girl", "man", "woman"}
    assert groups["relation"]["passengers"] == set(moral.CHARACTERS)
    assert conjoint.n_characters.between(1, 5).all()
    equal = conjoint[~conjoint.scenario_type.isin(["number", "relation", "intervention", "law"])]
    assert (equal.n_difference == 0).all()
    number = conjoint[conjoint.scenario_type == "number"].pivot(
        index="question_id", columns="attribute_level", values="n_characters"
    )
    assert (number.more > number.fewer).all()


def test_number_adds_to_the_same_people(published):
    conjoint = published[1][published[1].scenario_type == "number"]
    for _, rows in conjoint.groupby("question_id"):
        groups = rows.set_index("attribute_level").characters
        assert groups["more"][: len(groups["fewer"])] == groups["fewer"]


def test_tables_are_questions_that_reproduce(published):
    questions, conjoint = published
    again = moral_scenarios(1000, seed=0)
    pd.testing.assert_frame_equal(questions, again[0])
    pd.testing.assert_frame_equal(conjoint, again[1])
    other = moral_scenarios(3, seed=1)[0]
    assert not set(other.question_id) & set(questions.question_id)
    assert set(questions.dataset) == {"moral_published"}
    assert questions.labels[0] == ["1", "2"] and questions.human_shares.isna().all()
    table = pyarrow.Table.from_pandas(conjoint, schema=moral.CONJOINT_SCHEMA)
    assert table.num_rows == 18_000


def test_chosen_cases_may_differ_by_scenario():
    questions, conjoint = moral_scenarios(2, dimensions=["age"])
    chosen = pd.Series([2, 1], index=questions.question_id)
    assert saved(conjoint, chosen).tolist() == [1, 0, 0, 1]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown design 'balanced'; known: published"):
        moral_scenarios(1, design="balanced")
    with pytest.raises(ValueError, match="unknown dimension 'size'"):
        moral_scenarios(1, dimensions=["size"])
