import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from uqlib.alignment import uncertainty_alignment
from uqlib.calibration import calibration_error, correctness_correlation
from uqlib.controls import blind_to_count, knows_its_errors, noisy, response_table
from uqlib.measures import MEASURES
from uqlib.questions.world import knowledge_questions, opinion_questions
from uqlib.reliability import confidence_bins
from uqlib.responses import join_questions
from uqlib.scoreboard import (
    CRITERIA,
    SCORED,
    Scores,
    average_scores,
    needed_log_probs,
    response_card,
    score_model,
    score_table,
)

PLACE = {name: number for number, name in enumerate(CRITERIA)}


def told(questions, responder, seed=0, **settings):
    probabilities = responder(questions, seed=seed, **settings)
    return join_questions(response_table(questions, probabilities, "m"), questions)


@pytest.fixture(scope="module")
def people():
    return told(opinion_questions(196), noisy)


@pytest.fixture(scope="module")
def facts():
    return told(knowledge_questions(280), noisy, sd=6.0)


@pytest.fixture(scope="module")
def scores(people, facts):
    return score_model(people, facts, facts[:100], replicates=50)


def test_every_criterion_is_that_of_its_own_chapter(people, facts, scores):
    aligned = uncertainty_alignment(people, "within_n", replicates=2).set_index("measure")["r"]
    correct = facts["correct"].to_numpy(dtype=int)
    for number, measure in enumerate(MEASURES):
        sign = -1 if measure == "top1_probability" else 1
        values = sign * facts[measure].to_numpy(dtype=float)
        alignment, auroc = (scores.value[PLACE[name], number] for name in ("alignment", "auroc"))
        assert alignment == pytest.approx(sign * aligned[measure], abs=1e-6)
        assert auroc == pytest.approx(roc_auc_score(1 - correct, values), abs=1e-9)
    doubt = facts["choice_entropy"].to_numpy(dtype=float)
    index = confidence_bins(1 - doubt)
    expected = calibration_error(1 - doubt, correct, index)
    place = SCORED.index("choice_entropy")
    assert scores.value[PLACE["ece"], place] == pytest.approx(expected)
    order = np.argsort(doubt, kind="stable")
    kept, end = order[:224], doubt[order]
    assert end[223] < end[224], "a tie at the edge would make the next line ambiguous"
    selective = scores.value[PLACE["selective_accuracy"], place]
    assert selective == pytest.approx(correct[kept].mean())


def test_a_measure_agrees_with_itself_and_a_size_has_no_calibration_error(facts, scores):
    varies = [*facts[list(MEASURES)][:100].nunique().gt(1), True]
    expected = np.where(varies, 1, np.nan)
    assert scores.value[PLACE["robustness"]] == pytest.approx(expected, nan_ok=True)
    sizes = [name.startswith("top_p_size") for name in SCORED]
    assert np.isnan(scores.value[PLACE["ece"]]).tolist() == sizes


def test_intervals_hold_their_values_and_replicates_have_their_spread(scores, facts):
    table = score_table(scores)
    criteria = table[table["criterion"].isin(["alignment", "auroc", "selective_accuracy"])]
    assert (criteria["low"] <= criteria["value"]).all()
    assert (criteria["value"] <= criteria["high"]).all()
    place = SCORED.index("choice_entropy")
    right = facts["correct"].mean()
    drawn = scores.drawn[PLACE["selective_accuracy"], :, place]
    assert 0.3 < drawn.std() / np.sqrt(right * (1 - right) / (0.8 * len(facts))) < 2


def test_the_scoreboard_finds_nothing_in_responders_without_content():
    questions, facts = opinion_questions(98), knowledge_questions(140)
    found = []
    for seed in range(30):
        answers = told(facts, blind_to_count, seed)
        people = told(questions, blind_to_count, seed)
        found.append(score_model(people, answers, answers[:0], replicates=1).value)
    place = SCORED.index("choice_entropy")
    values = np.stack(found)[:, :, place]
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    for criterion, null in (("alignment", 0), ("auroc", 0.5)):
        assert abs(values[:, PLACE[criterion]].mean() - null) < 3 * error[PLACE[criterion]]
    assert np.isnan(values[:, PLACE["robustness"]]).all()


def test_one_who_knows_its_errors_is_told_by_every_entropy():
    facts = told(knowledge_questions(280), knows_its_errors)
    found = score_model(facts[:0], facts, facts[:0], replicates=10)
    assert found.value[PLACE["auroc"], SCORED.index("choice_entropy")] == 1
    rho = correctness_correlation(facts, replicates=0).set_index("measure")["rho"]
    assert rho["choice_entropy"] < -0.7


def test_several_data_sets_are_averaged(facts):
    halves = facts.assign(dataset=np.where(np.arange(len(facts)) < 140, "a", "b"))
    both = score_model(halves[:0], halves, halves[:0], replicates=3).value
    parts = [
        score_model(facts[:0], part, part[:0], replicates=3).value
        for _, part in halves.groupby("dataset")
    ]
    np.testing.assert_allclose(both, np.mean(parts, axis=0))


def test_the_better_measure_ranks_first_in_every_replicate_and_equals_share_a_rank():
    value = np.array([[0.9, 0.5, 0.5]])
    drawn = np.broadcast_to(value[:, None], (1, 20, 3))
    table = score_table(Scores(value, drawn))
    rows = table[table["criterion"] == "alignment"]
    assert rows["rank"].tolist() == [1, 2.5, 2.5]
    assert rows[["rank_low", "rank_high"]].to_numpy().tolist() == [[1, 1], [2.5, 2.5], [2.5, 2.5]]


def test_less_error_is_better_and_the_overall_rank_is_the_mean_of_ranks():
    value = np.full((5, 2), np.nan)
    value[PLACE["auroc"]] = 0.9, 0.8
    value[PLACE["robustness"]] = 0.9, 0.7
    value[PLACE["ece"]] = 0.3, 0.1
    drawn = np.repeat(value[:, None], 4, axis=1)
    table = score_table(Scores(value, drawn)).set_index(["criterion", "measure"])
    first, second = SCORED[:2]
    assert table.loc[("ece", second), "rank"] == 1
    assert table.loc[("overall", first), "value"] == pytest.approx(4 / 3)
    assert table.loc[("overall", second), "value"] == pytest.approx(5 / 3)
    assert table.loc[("overall", first), "rank"] == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(0, 9))
def test_an_average_lies_among_its_models(values, seed):
    models = [Scores(np.full((1, 2), v), np.full((1, 8, 2), v)) for v in values]
    average = average_scores(models, seed)
    assert average.value == pytest.approx(np.mean(values))
    low, high = min(values) - 1e-12, max(values) + 1e-12
    assert ((low <= average.drawn) & (average.drawn <= high)).all()


def test_an_average_leaves_out_what_a_model_does_not_have():
    here = Scores(np.array([[0.4]]), np.full((1, 30, 1), 0.4))
    absent = Scores(np.array([[np.nan]]), np.full((1, 30, 1), np.nan))
    average = average_scores([here, absent])
    assert average.value.tolist() == [[0.4]]
    assert set(np.unique(average.drawn[~np.isnan(average.drawn)])) == {0.4}


def test_a_question_without_an_answer_is_named(facts):
    broken = facts.assign(answer=[None, *facts["answer"][1:]])
    with pytest.raises(ValueError, match=broken["question_id"].iloc[0]):
        score_model(facts[:0], broken, facts[:0], replicates=2)


def test_every_measure_has_a_cost():
    costs = {measure: needed_log_probs(measure) for measure in SCORED}
    assert costs["top1_probability"] == "1" and costs["top_p_size_90"] == "V"
    assert costs["top_k_entropy_100"] == "100" and costs["option_doubt"] == "n"


def test_a_card_states_what_was_asked_and_lists_measures_by_rank(people, facts, scores):
    card = response_card("m", people, facts, score_table(scores))
    right = facts["correct"].mean()
    assert f"right in {right:.3f}" in card and f"of {len(facts)} questions" in card
    rows = [line.split("|")[-2] for line in card.splitlines() if line.startswith("| ")][1:]
    overall = pd.to_numeric(pd.Series(rows))
    assert overall.is_monotonic_increasing and len(overall) == len(SCORED)
