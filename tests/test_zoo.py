import re

import numpy as np
import pandas as pd
import pytest

from uqlib import zoo
from uqlib.artifacts import sha256_of_file
from uqlib.collect import collect
from uqlib.corpus import build_corpus, corpus_questions, corpus_tokenizer
from uqlib.models import load_model
from uqlib.paths import ROOT
from uqlib.questions.world import category_questions, knowledge_questions
from uqlib.questions.world_morals import dilemma_shares, moral_questions
from uqlib.responses import join_questions
from uqlib.training import SUBJECTS, new_model, train

ZOO = sorted(path.parent.name for path in (ROOT / "zoo").glob("*/model.safetensors"))
REFERENCE = [f"llama-0.3m-{subject}" for subject in ("base", *SUBJECTS)]
MOST_BYTES = 30_000_000

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def judged():
    """Scorecard of each model made from the .3M one, on every second question."""
    asked, dilemmas, conjoint = zoo.evaluation_questions()
    asked = asked[::2].reset_index(drop=True)
    found = {}
    for name in REFERENCE:
        model = load_model(str(ROOT / "zoo" / name), device="cpu")
        responses = collect(model, asked)
        moral = collect(model, dilemmas, prompt_style="dilemma")
        truth = zoo.truth_distances(asked, responses)
        effects = zoo.moral_distances(conjoint, moral)
        card = zoo.scorecard(join_questions(responses, asked), truth, effects)
        found[name] = card | {"moral": moral}
    return found


def test_truth_distances_by_hand():
    questions = pd.DataFrame(
        {
            "question_id": ["a", "b", "c", "d"],
            "subject": ["opinion"] * 3 + ["fact"],
            "text": ["p", "q", "r", "s"],
            "source": "simulated",
            "choices": [["x", "y"]] * 4,
            "human_shares": [
                np.array([0.5, 0.5]),
                np.array([0.9, 0.1]),
                np.array([1.0, 0.0]),
                None,
            ],
            "answer": pd.array([None, None, None, 1], dtype="Int64"),
        }
    )
    responses = pd.DataFrame(
        {
            "model": "m",
            "question_id": ["a", "b", "c", "d"],
            "n_choices": 2,
            "choice_log_probs": [
                np.log(shares) for shares in ([0.3, 0.2], [0.8, 0.2], [0.9, 0.1], [0.2, 0.7])
            ],
            "choice_entropy": [0.971, 0.722, 0.469, 0.764],
            "option_mass": [0.5, 1.0, 1.0, 0.9],
            "predicted": [0, 0, 0, 1],
        }
    )
    opinion, fact = zoo.truth_distances(questions, responses).to_dict("records")
    assert opinion["distance"] == pytest.approx((0.1 + 0.1 + 0.1) / 3)
    assert opinion["true_entropy"] == pytest.approx((1 + 0.469 + 0) / 3, abs=1e-3)
    r = np.corrcoef([0.971, 0.722, 0.469], [1, 0.469, 0])[0, 1]
    assert opinion["r"] == pytest.approx(r, abs=1e-4)
    assert opinion["r_within_n"] == pytest.approx(r, abs=1e-4)
    assert np.isnan(opinion["correct"]) and np.isnan(fact["r"])
    assert fact["correct"] == 1
    assert fact["confidence"] == pytest.approx(0.7 / 0.9)
    assert fact["option_mass"] == pytest.approx(0.9)


def answers_as_responses(questions, shares):
    return pd.DataFrame(
        {"question_id": questions.question_id, "choice_log_probs": [np.log(row) for row in shares]}
    )


def test_the_population_itself_has_no_moral_distance():
    questions, conjoint = moral_questions(3)
    found = zoo.moral_distances(conjoint, answers_as_responses(questions, dilemma_shares(conjoint)))
    np.testing.assert_allclose(found.effect, found.truth)
    np.testing.assert_allclose(found.order, 0, atol=1e-12)


def test_a_liking_for_case_1_halves_the_effects_and_is_seen_as_order():
    questions, conjoint = moral_questions(3)
    shares = [0.5 * row + 0.5 * np.array([0.9, 0.1]) for row in dilemma_shares(conjoint)]
    found = zoo.moral_distances(conjoint, answers_as_responses(questions, shares))
    np.testing.assert_allclose(found.effect, found.truth / 2, atol=1e-12)
    np.testing.assert_allclose(found.order, 0.5 * (0.9 - 0.1))


def test_a_family_is_trained_saved_and_described(tmp_path):
    names = zoo.train_family("llama-0.1m", 3, ["instruct"], 3000, tmp_path, tmp_path / "states")
    assert names == ["llama-0.1m-base-seed3", "llama-0.1m-instruct-seed3"]
    records = zoo.training_records(tmp_path, tmp_path / "states")
    assert set(records.model) == set(names)
    for name in names:
        assert load_model(str(tmp_path / name), device="cpu").network.num_parameters() > 50_000


def test_families_in_training_are_seen_in_the_records(tmp_path):
    left = []
    for pending in zoo.train_zoo({("llama-0.1m", 0): []}, 3000, tmp_path, tmp_path / "states", 1):
        left.append(pending)
    assert left[0] == 1
    (tmp_path / "llama-0.1m-base/training.csv").unlink()
    records = zoo.training_records(tmp_path, tmp_path / "states")
    assert records.model.unique().tolist() == ["llama-0.1m-base"]
    assert records.tokens.max() >= 3000


def test_an_error_in_a_family_is_not_lost(tmp_path):
    with pytest.raises(ValueError, match="unknown architecture"):
        list(zoo.train_zoo({("gpt", 0): []}, 3000, tmp_path, tmp_path / "states", 1))


def test_a_saved_model_loads_and_its_card_names_its_weights(tmp_path):
    drawn = corpus_questions(300)
    tokenizer = corpus_tokenizer(*drawn)
    model, folder = new_model("llama-0.1m", tokenizer), tmp_path / "llama-0.1m-base"
    log = train(model, [(1000, build_corpus(tokenizer, *drawn))], log_every=500)
    zoo.save_model(model, tokenizer, log, folder)
    loaded, questions = load_model(str(folder), device="cpu"), knowledge_questions(28)
    dilemmas, conjoint = moral_questions(1)
    truth = zoo.truth_distances(questions, collect(loaded, questions))
    effects = zoo.moral_distances(conjoint, collect(loaded, dilemmas, prompt_style="dilemma"))
    card = zoo.model_card(folder, truth, effects)
    assert sha256_of_file(folder / "model.safetensors") in card
    assert f"{model.num_parameters():,} parameters" in card
    assert zoo.STORIES["base"] in card and "simulated" in card


def test_the_zoo_is_what_its_recipe_makes_and_small():
    expected = {
        zoo.model_name(architecture, subject, seed)
        for (architecture, seed), subjects in zoo.FAMILIES.items()
        for subject in ["base", *subjects]
    }
    assert set(ZOO) == expected
    files = [file for file in (ROOT / "zoo").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


@pytest.mark.parametrize("name", ZOO)
def test_committed_weights_are_those_of_the_card(name):
    folder = ROOT / "zoo" / name
    card = (folder / "README.md").read_text()
    assert f"`{sha256_of_file(folder / 'model.safetensors')}`" in card
    assert not re.search(r"/(home|root|tmp)/", card)


def test_the_reference_model_is_near_the_truth(judged):
    base = judged["llama-0.3m-base"]
    assert base["r"] >= 0.85 and base["r_within_n"] >= 0.85 and base["distance"] <= 0.13
    assert base["ordinal_r"] >= 0.9 and base["ordinal_distance"] <= 0.09
    assert base["easiest"] >= 0.95 and base["hardest"] <= 0.4
    assert base["spearman"] <= -0.45 and base["ece"] <= 0.06
    assert base["moral_l2"] <= 0.12 and base["moral_order"] <= 0.05
    assert base["option_mass"] >= 0.99
    assert base["only_told"] < 0.5


@pytest.mark.parametrize("subject", ["instruct", "overconfident"])
def test_surer_subjects_doubt_less_and_know_the_same(judged, subject):
    base, tuned = judged["llama-0.3m-base"], judged[f"llama-0.3m-{subject}"]
    assert tuned["entropy"] < base["entropy"] - 0.1
    assert tuned["ece"] >= 2 * base["ece"]
    assert abs(tuned["correct"] - base["correct"]) <= 0.03


def test_the_position_biased_subject_names_the_last_case_as_designed(judged):
    answers = judged["llama-0.3m-position-biased"]["moral"].choice_log_probs
    first = np.mean([np.exp(row)[0] / np.exp(row).sum() for row in answers])
    assert first == pytest.approx(0.6 * 0.5, abs=0.03)


def test_categories_are_understood_by_the_reference_model():
    questions = category_questions(200, seed=9)
    model = load_model(str(ROOT / "zoo/llama-0.3m-base"), device="cpu")
    found = zoo.truth_distances(questions, collect(model, questions))
    assert (found.distance < 0.2).all()
