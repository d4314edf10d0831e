import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy

from uqlib import controls
from uqlib.measures import MEASURES
from uqlib.questions.moral import moral_scenarios
from uqlib.questions.moral_machine import HUMAN_EFFECTS
from uqlib.questions.world import evaluation_knowledge

RESPONDERS = [
    controls.uniform,
    controls.blind,
    controls.blind_to_count,
    controls.always_first,
    controls.in_order,
    controls.oracle,
    controls.noisy,
    controls.position_biased,
    controls.label_biased,
    controls.biased_when_unsure,
    controls.habitual,
    controls.any_person,
    controls.knows_when_it_agrees,
]


@pytest.mark.parametrize("responder", RESPONDERS, ids=lambda f: f.__name__)
def test_probabilities_fit_the_options_and_seeds_reproduce(responder, questions):
    first, again = responder(questions, seed=3), responder(questions, seed=3)
    for p, q, choices in zip(first, again, questions.choices, strict=True):
        assert p.shape == (len(choices),) and (p > 0).all() and p.sum() <= 1 + 1e-12
        assert np.array_equal(p, q)
    if responder is not controls.blind_to_count:
        np.testing.assert_allclose([p.sum() for p in first], 1)


def test_responders_without_content_do_not_see_the_truth(questions):
    other = questions.assign(human_shares=[np.array(s)[::-1] for s in questions.human_shares])
    blind = (controls.uniform, controls.blind, controls.blind_to_count, controls.in_order)
    for responder in (*blind, controls.habitual):
        for p, q in zip(responder(questions), responder(other), strict=True):
            assert np.array_equal(p, q)


def test_a_responder_blind_to_count_gives_the_same_letters_whatever_the_options(questions):
    two = controls.blind_to_count(questions[:1])
    three = controls.blind_to_count(questions[1:2])
    assert np.array_equal(two[0], three[0][:2])


def test_oracle_temperature_and_knowledge(questions):
    np.testing.assert_allclose(controls.oracle(questions)[1], [0.1, 0.2, 0.7])
    sharp = controls.oracle(questions, temperature=0.5)[1]
    np.testing.assert_allclose(sharp, np.array([0.01, 0.04, 0.49]) / 0.54)
    knowing = controls.oracle(questions.assign(human_shares=None))
    assert [p.argmax() for p in knowing] == list(questions.answer)
    with pytest.raises(ValueError, match=questions.question_id[0]):
        controls.oracle(questions.assign(human_shares=None, answer=None))


def test_position_bias_has_its_rate(questions):
    for p, truth in zip(
        controls.position_biased(questions, rate=0.4), controls.oracle(questions), strict=True
    ):
        np.testing.assert_allclose(p[:-1], 0.6 * truth[:-1], rtol=1e-3)


def test_label_bias_is_one_liking_for_all_questions(questions):
    likings = [
        np.log(p / q)
        for p, q in zip(controls.label_biased(questions), controls.oracle(questions), strict=True)
    ]
    for liking in likings:
        np.testing.assert_allclose(np.diff(liking), np.diff(likings[3])[: len(liking) - 1])


def test_noise_has_its_size(questions):
    many = pd.concat([questions[:1]] * 4000, ignore_index=True)
    p = np.array(controls.noisy(many, sd=0.7))
    # The difference of two independent logits has standard deviation .7 * sqrt(2).
    assert np.log(p[:, 0] / p[:, 1]).std() == pytest.approx(0.7 * 2**0.5, rel=0.05)


def test_response_table_by_value(questions):
    shares = controls.oracle(questions)
    table = controls.response_table(questions, shares, "oracle", 0.8, tail=1, vocabulary_size=50)
    assert list(table.question_id) == list(questions.question_id)
    for p, row in zip(shares, table.itertuples(), strict=True):
        weights = 1 / np.arange(1, 51 - len(p))
        full = np.concatenate([0.8 * p, 0.2 * weights / weights.sum()])
        assert row.option_mass == pytest.approx(0.8, abs=1e-5)
        np.testing.assert_allclose(np.exp(row.choice_log_probs), 0.8 * p, rtol=1e-5)
        assert row.choice_entropy == pytest.approx(entropy(p) / np.log(len(p)), abs=1e-5)
        assert row.total_entropy == pytest.approx(entropy(full) / np.log(50), abs=1e-5)
        assert row.top1_probability == pytest.approx(full.max(), abs=1e-6)
    assert set(MEASURES) <= set(table.columns)
    with pytest.raises(ValueError, match=r"\(0, 1\), not 1"):
        controls.response_table(questions, shares, "oracle", option_mass=1)


def test_who_knows_its_errors_gives_every_letter_as_often_as_it_is_right():
    table = evaluation_knowledge()
    probabilities = controls.knows_its_errors(table, seed=1, accuracy=0.7)
    given = np.array([p.argmax() for p in probabilities])
    sure = np.array([p.max() > 0.7 for p in probabilities])
    right = given == table.answer
    assert (sure == right).all() and 0.65 < right.mean() < 0.75
    for half in (sure, ~sure):
        letters = [np.bincount(x[half], minlength=4) for x in (given, table.answer)]
        assert (letters[0] == letters[1]).all()


def test_who_is_biased_when_unsure_knows_nothing():
    table = evaluation_knowledge()
    probabilities = controls.biased_when_unsure(table, seed=1, rate=0.3)
    given = np.array([p.argmax() for p in probabilities])
    sure = np.array([p.max() > 0.7 for p in probabilities])
    assert (given[~sure] == 0).all() and 0.65 < sure.mean() < 0.75
    assert np.bincount(given[sure]).min() > 0.2 * sure.sum()
    for half in (sure, ~sure):
        assert 0.18 < (given == table.answer)[half].mean() < 0.33


def test_letters_can_be_exchanged_only_among_equal_questions(questions):
    with pytest.raises(ValueError, match="2 to 4 options"):
        controls.knows_its_errors(questions)
    same = questions.assign(choices=[["a", "b"]] * 4, answer=0)
    with pytest.raises(ValueError, match="one letter is right in 4 of 4"):
        controls.knows_its_errors(same, accuracy=0.0)


def test_content_free_answers_have_the_bias_and_noise_asked_for():
    table = pd.DataFrame({"choices": [["Case 1", "Case 2"]] * 20_000})
    p = np.stack(controls.content_free(table, seed=1, bias=3, sd=2))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    logits = np.log(p[:, 1] / p[:, 0])
    assert logits.mean() == pytest.approx(3, abs=0.05)
    assert logits.std() == pytest.approx(2, abs=0.05)
    wider = np.stack(controls.content_free(table, seed=1, bias=3, sd=4))
    np.testing.assert_allclose(np.log(wider[:, 1] / wider[:, 0]) - 3, 2 * (logits - 3), atol=1e-6)


def test_preferences_are_the_share_saved_in_every_dimension():
    _, conjoint = moral_scenarios(30, seed=2, design="counterbalanced")
    effects = HUMAN_EFFECTS / 4
    first = controls.preferring(conjoint, effects)
    assert first.between(0.1, 0.9).all()
    row = conjoint[conjoint.scenario_type == "age"].iloc[0]
    same = conjoint[conjoint.question_id == row.question_id].set_index("case")
    gain = 0.0
    for case, sign in ((2, 1), (1, -1)):
        group = same.loc[case]
        gain += sign * (effects["age"] if group.attribute_level == "younger" else -effects["age"])
        gain += sign * (1 if group.intervention else -1) * effects["intervention"]
        if not group.ped_ped:
            gain += sign * (-1 if group.barrier else 1) * effects["relation"]
        elif group.crossing_signal:
            gain += sign * (1 if group.crossing_signal == 1 else -1) * effects["law"]
    assert first[row.question_id] == pytest.approx(0.5 + gain / 4)


def test_any_person_answers_as_often_as_people_do_and_is_as_unsure():
    shares = [0.2, 0.5, 0.3]
    many = pd.DataFrame({"human_shares": [shares] * 4000})
    found = np.array(controls.any_person(many, seed=1, spread=0))
    answered = np.bincount(found.argmax(axis=1)) / len(found)
    np.testing.assert_allclose(answered, shares, atol=0.02)
    np.testing.assert_allclose(np.sort(found), np.sort(np.tile(shares, (4000, 1))), atol=1e-9)
    spread = entropy(np.array(controls.any_person(many, seed=1)), axis=1)
    agrees = found.argmax(axis=1) == 1
    assert abs(spread[agrees].mean() - spread[~agrees].mean()) < 0.01


def test_who_knows_when_it_agrees_is_sure_of_the_most_popular_option():
    many = pd.DataFrame({"human_shares": [[0.2, 0.5, 0.3]] * 2000})
    found = np.array(controls.knows_when_it_agrees(many, seed=1, rate=0.6))
    sure = found.max(axis=1) > 0.75
    assert sure.mean() == pytest.approx(0.4, abs=0.03)
    assert (found[sure].argmax(axis=1) == 1).all()
    assert (found[~sure].argmax(axis=1) == 1).mean() == pytest.approx(1 / 3, abs=0.04)


def test_habit_prefers_the_first_options():
    many = pd.DataFrame({"choices": [list("abc")] * 3000})
    answered = np.bincount(np.argmax(controls.habitual(many, seed=1, step=1), axis=1))
    assert answered[0] > 1.5 * answered[1] > 2 * answered[2] > 0
    even = np.bincount(np.argmax(controls.habitual(many, seed=1, step=0), axis=1))
    np.testing.assert_allclose(even / 3000, 1 / 3, atol=0.03)
