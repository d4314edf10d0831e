import numpy as np
import pandas as pd
import pytest

from uqlib.counterfactual import paired_differences, read_proposals, reading_scores
from uqlib.prompts import COUNTERFACTUAL, propose
from uqlib.responses import join_questions


def answers(questions, yes, model="m"):
    """What a model says about each option, in the columns that are read."""
    asked = propose(questions, list(questions["choices"]), **COUNTERFACTUAL)
    return pd.DataFrame(
        {
            "model": model,
            "dataset": asked["dataset"],
            "question_id": asked["question_id"],
            "choice_log_probs": [np.log([p, 0.99 - p]) for p in np.concatenate(yes)],
            "option_mass": 0.99,
        }
    )


YES = [[0.4, 0.4], [0.1, 0.3, 0.6], [0.2, 0.8], [0.1, 0.2, 0.3, 0.6]]


def test_answers_about_options_become_one_row_a_question(questions):
    table = read_proposals(answers(questions, YES).sample(frac=1, random_state=0), questions)
    assert list(table.question_id) == list(questions.question_id)
    assert list(table.predicted) == [0, 2, 1, 3]
    for row, yes in zip(table.itertuples(), YES, strict=True):
        np.testing.assert_allclose(row.yes, yes)
        np.testing.assert_allclose(np.exp(row.choice_log_probs), np.array(yes) / sum(yes))
        assert row.yes_total == pytest.approx(sum(yes)) and row.option_mass == 0.99


def test_a_missing_or_repeated_option_is_named(questions):
    table = answers(questions, YES)
    name = questions.question_id[1]
    with pytest.raises(ValueError, match=rf"m: question {name} has 3 options, .* \[0, 2\]"):
        read_proposals(table.drop(index=3), questions)
    with pytest.raises(ValueError, match=rf"m: question {name} has 3 options, .* \[0, 1, 1, 2\]"):
        read_proposals(pd.concat([table, table[3:4]]), questions)
    with pytest.raises(ValueError, match=rf"{questions.question_id[3]} has 4 options, .* \[\]"):
        read_proposals(table[:-4], questions)


def test_scores_by_hand(questions):
    readings = join_questions(read_proposals(answers(questions, YES), questions), questions)
    scores = reading_scores(readings)
    # Human shares: .5 .5; .1 .2 .7; .9 .1; four times .25. Every tied pair counts one half.
    assert list(scores.agrees) == [1, 1, 0, 1]
    np.testing.assert_allclose(scores.distance, [0.5, 0, 1, 0.5])
    np.testing.assert_allclose(scores.total_variation, [0, 0.1, 0.7, 0.25])


def test_a_model_that_gives_no_option_any_chance_has_ties_at_the_bottom(questions):
    table = answers(questions, YES).astype({"choice_log_probs": object})
    table["choice_log_probs"] = [np.array([-np.inf if "#0" in i else -1.0, -1.0])
                                 for i in table.question_id]  # fmt: skip
    scores = reading_scores(join_questions(read_proposals(table, questions), questions))
    np.testing.assert_allclose(scores.distance, [0.5, 1 / 6, 1, 0.5])


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    base = pd.DataFrame({"model": "m", "question_id": [f"q{i}" for i in range(200)]})
    noise = rng.normal(0, 1, 200)
    first = base.assign(agrees=noise, distance=0.5, total_variation=noise)
    second = first.assign(agrees=noise + 0.1, distance=noise, total_variation=-noise)
    table = paired_differences(first, second[::-1], 500).set_index("score")
    row = table.loc["agrees"]
    np.testing.assert_allclose([row.difference, row.low, row.high], 0.1)
    assert row.second - row.first == pytest.approx(0.1)
    error = noise.std() / np.sqrt(200)
    assert row.first_high - row.first_low == pytest.approx(2 * 1.96 * error, rel=0.1)
    row = table.loc["total_variation"]
    assert row.high - row.low == pytest.approx(4 * 1.96 * error, rel=0.1)
    with pytest.raises(ValueError, match="not of the same models and questions"):
        paired_differences(first, second[:100])
