import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy

from uqlib.collect import collect
from uqlib.prompts import render_questions
from uqlib.questions.schema import check_questions
from uqlib.questions.world import evaluation_knowledge, evaluation_opinions, fact_statements
from uqlib.sensitivity import (
    PARAPHRASES,
    STRATA,
    ambiguity_collapse,
    by_style,
    collapse_table,
    collect_edits,
    distract,
    edited_answers,
    js_divergence,
    kl_divergence,
    perturb,
    regimes,
    restore,
    sensitivity_table,
    strict_failures,
    sua,
)

PAIR = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*[arrays(float, n, elements=st.floats(1e-3, 1))] * 2)
).map(lambda pair: tuple(x / x.sum() for x in pair))  # fmt: skip


def question(n=3, text="Which tea do people think about?", name="q", **changes):
    row = {
        "question_id": name, "dataset": "demo", "subject": "tea", "text": text,
        "choices": [f"tea {i}" for i in range(n)], "human_shares": [1 / n] * n, "answer": n - 1,
        "source": "tests",
    }  # fmt: skip
    return check_questions(pd.DataFrame([row | changes]))


def rows(*distributions, edit="order"):
    """Answers to one question: the original, then the edits."""
    edits = ["original"] + [edit] * (len(distributions) - 1)
    return pd.DataFrame(
        {"model": "m", "dataset": "d", "question_id": "q", "edit": edits,
         "stratum": [STRATA[e] for e in edits], "p": list(map(np.array, distributions))}
    )  # fmt: skip


@given(PAIR)
def test_divergences_are_scipys(pair):
    p, q = pair
    assert kl_divergence(p, q) == pytest.approx(entropy(p, q), abs=1e-9)
    scipys = np.nan_to_num(jensenshannon(p, q) ** 2)  # NaN where rounding makes it negative
    assert js_divergence(p, q) == pytest.approx(scipys, abs=1e-9)


@given(PAIR)
def test_divergences_bound_the_change_of_a_probability(pair):
    p, q = pair
    variation = np.abs(p - q).sum() / 2
    assert variation <= np.sqrt(kl_divergence(p, q) / 2) + 1e-9
    assert variation <= np.sqrt(2 * js_divergence(p, q)) + 1e-9
    assert 0 <= js_divergence(p, q) <= np.log(2)
    assert js_divergence(p, q) == pytest.approx(js_divergence(q, p))


def test_divergences_are_finite_at_the_edge_and_work_on_rows():
    p, q = np.eye(3), np.roll(np.eye(3), 1, axis=0)
    floor = 1e-6 / (1 + 2e-6)
    expected = (1 - 3 * floor) * np.log(1 / 1e-6)
    assert kl_divergence(p, q) == pytest.approx(expected)
    assert js_divergence(p, q) == pytest.approx(np.log(2))
    assert (kl_divergence(p, p) == 0).all() and (js_divergence(p, p) == 0).all()


@given(st.permutations(range(6)), st.integers(0, 9))
def test_restoring_is_the_inverse_of_reordering(order, seed):
    values = np.random.default_rng(seed).random(6)
    assert (restore(values[order], order) == values).all()
    assert (restore(values, order)[order] == values).all()


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 8), st.sampled_from(sorted(PARAPHRASES)), st.integers(0))
def test_every_edit_leads_back_to_its_question(n, k, style, seed):
    shares = np.arange(1, n + 1) / np.arange(1, n + 1).sum()
    table = question(n, human_shares=shares)
    asked, edits = perturb(table, k, style, seed)
    assert len(asked) == k + 1 and (asked.question_id == edits.question_id).all()
    assert (edits.original_id == "q").all()
    for row, order in zip(asked.itertuples(), edits["order"], strict=True):
        assert restore(row.human_shares, order) == pytest.approx(shares)
        back = restore(np.array(row.choices), order)
        assert [choice.removesuffix(".") for choice in back] == table.choices[0]
        assert order[row.answer] == n - 1
    first = asked.iloc[:1].assign(question_id="q")
    pd.testing.assert_frame_equal(first, table)


@settings(deadline=None)
@given(
    st.integers(2, 9), st.sampled_from(["Tea?", "Which tea do you think about?", "Tea is", "a b:"])
)
def test_edits_differ_and_each_is_of_the_kind_it_says(n, text):
    asked, edits = perturb(question(n, text), k=8)
    prompts = [
        render_questions(asked[i : i + 1], style)[0] for i, style in enumerate(edits.prompt_style)
    ]
    assert len(set(prompts)) == 9
    original = asked.iloc[0]
    for row, edit in zip(asked.itertuples(), edits.itertuples(), strict=True):
        changed = {
            "order": edit.order != list(range(n)),
            "label": list(row.labels) != list(original.labels),
            "template": edit.prompt_style != "survey",
            "synonym": row.text.split() != original.text.split() and edit.edit == "synonym",
            "punctuation": edit.edit == "punctuation",
        }
        assert [kind for kind, is_so in changed.items() if is_so] == (
            [edit.edit] if edit.edit != "original" else []
        )
        if edit.edit == "punctuation":
            letters = lambda x: [c for c in x if c.isalnum()]
            assert letters(row.text) == letters(original.text)
            assert [c.rstrip(".") for c in row.choices] == list(original.choices)


def test_half_of_the_edits_are_orders_where_there_are_enough():
    counts = {n: (perturb(question(n))[1].stratum == "order").sum() for n in (2, 3, 4, 7)}
    assert counts == {2: 1, 3: 4, 4: 4, 7: 4}
    kinds = perturb(question(4))[1].edit.value_counts().to_dict()
    assert kinds == {"order": 4} | dict.fromkeys(set(STRATA) - {"order"}, 1)


def test_edits_depend_on_seed_and_question_not_on_the_table():
    table = pd.concat([question(5, name=name) for name in "abc"], ignore_index=True)
    asked, edits = perturb(table, seed=3)
    alone, alone_edits = perturb(table[1:2], seed=3)
    mine = (edits.original_id == "b").to_numpy()
    pd.testing.assert_frame_equal(asked[mine].reset_index(drop=True), alone)
    pd.testing.assert_frame_equal(edits[mine].reset_index(drop=True), alone_edits)
    assert perturb(table, seed=4)[1]["order"].tolist() != edits["order"].tolist()
    other = edits[edits.original_id == "a"]["order"].tolist()
    assert other != alone_edits["order"].tolist()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Which tea is best?", "What tea is best?"),
        ("What is it for?", "What's it for?"),
        ("How do you feel about tea?", "How do you feel regarding tea?"),
        ("Why is not tea good?", "Why isn't tea good?"),
        ("Who waits until noon?", "Who waits till noon?"),
    ],
)  # fmt: skip
def test_function_words_are_replaced(before, after):
    asked, edits = perturb(question(4, before))
    assert after in asked.text[edits.edit == "synonym"].tolist()


@pytest.mark.parametrize("text", ["Which of these is best?", "Is it about ten?", "Somewhat?"])
def test_words_that_would_change_their_meaning_stay(text):
    assert "synonym" not in set(perturb(question(4, text))[1].edit)


def test_labels_become_digits_or_letters_and_never_two_signs():
    labels = lambda table: {
        tuple(asked) for asked in perturb(table)[0].labels if asked != table.labels[0]
    }
    assert labels(question(3)) == {("1", "2", "3")}
    assert labels(question(3, labels=["1", "2", "3"])) == {("A", "B", "C")}
    assert labels(question(2, labels=["Yes", "No"])) == {("A", "B")}
    assert labels(question(10)) == set()


def test_a_promise_of_answers_is_made_only_where_there_is_one():
    many = lambda answer: set(perturb(question(4, answer=answer), k=12)[1].prompt_style)
    assert many(1) == {"survey", "survey_published", "few_shot"}
    assert many(None) == {"survey", "survey_published"}


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        perturb(question(), k=0)
    with pytest.raises(ValueError, match="'judge' has no paraphrases; known: survey"):
        perturb(question(), prompt_style="judge")
    with pytest.raises(ValueError, match=r"question q allows \d+ edits, not 30"):
        perturb(question(2), k=30)


def test_by_hand():
    table = sensitivity_table(rows([0.5, 0.5], [0.9, 0.1], [0.5, 0.5])).set_index("stratum")
    assert list(table.index) == ["all", "order"]
    kl = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    js = jensenshannon([0.5, 0.5], [0.9, 0.1]) ** 2
    found = table.loc["all"]
    assert found[["kl", "kl_max", "js", "js_max"]].tolist() == pytest.approx(
        [kl / 2, kl, js / 2, js], abs=1e-9
    )
    assert found.entropy == pytest.approx(np.log(2))
    assert (found.edits, found.predicted, found.same, found.n_choices) == (2, 0, 1, 2)


def test_strata_are_kept_apart():
    answers = pd.concat([rows([0.7, 0.3], [0.2, 0.8]), rows([0, 1], [0.7, 0.3], edit="label")[1:]])
    table = sensitivity_table(answers).set_index("stratum")
    assert table.same.to_dict() == {"all": 0.5, "order": 0.0, "wording": 1.0}
    assert table.js["wording"] == 0 and table.kl["wording"] == 0
    assert table.js["all"] == pytest.approx(table.js["order"] / 2)


@given(PAIR, st.integers(1, 8))
def test_identical_answers_have_no_sensitivity(pair, k):
    found = sensitivity_table(rows(*[pair[0]] * (k + 1)))
    assert (found[["kl", "kl_max", "js", "js_max"]] == 0).all(axis=None)
    assert (found.same == 1).all()


def test_a_question_needs_its_original():
    with pytest.raises(ValueError, match="m, question q: 0 original answers, not 1"):
        sensitivity_table(rows([0.5, 0.5], [0.5, 0.5])[1:])


def test_a_responder_that_knows_options_is_steady_and_one_that_knows_places_is_not(questions):
    asked, edits = perturb(questions)
    by_option = [
        np.log([len(c.rstrip(".")) + ord(c[0]) / 100 for c in choices]) for choices in asked.choices
    ]
    by_place = [np.log(np.arange(1, len(choices) + 1)) for choices in asked.choices]
    for log_probs, steady in ((by_option, True), (by_place, False)):
        table = asked[["dataset", "question_id"]].assign(model="m", choice_log_probs=log_probs)
        found = sensitivity_table(edited_answers(table, edits)).set_index("stratum")
        assert (found.js[["order"]] < 1e-12).all() == steady
        assert (found.js[["wording"]] < 1e-12).all()


def test_a_missing_answer_is_named(questions):
    asked, edits = perturb(questions, k=1)
    table = asked[["dataset", "question_id"]].assign(model="m")
    table["choice_log_probs"] = [np.zeros(len(c)) for c in asked.choices]
    with pytest.raises(ValueError, match=f"m: no answer to {asked.question_id[5]}"):
        edited_answers(table.drop(5), edits)


def test_a_model_is_asked_every_edit_in_its_style(model, questions):
    asked, edits = perturb(questions[1:3], k=5)
    edits = edits[edits.edit != "label"]
    asked = asked[asked.question_id.isin(edits.question_id)]
    responses = collect_edits(model, asked, edits)
    assert sorted(responses.question_id) == sorted(asked.question_id)
    styles = responses.set_index("question_id").prompt_style
    assert styles.to_dict() == edits.set_index("question_id").prompt_style.to_dict()
    assert {labels for _, labels, _ in by_style(asked, edits)} == {"space", "bare"}
    answers = edited_answers(responses, edits)
    plain = collect(model, questions[1:3])
    for row in plain.itertuples():
        mine = answers[(answers.question_id == row.question_id) & (answers.edit == "original")]
        assert mine.p.iloc[0] == pytest.approx(softmax(row.choice_log_probs), abs=1e-5)


def test_the_score_and_its_regimes():
    s, h = np.array([0.1, 0.2, 0.6, 0.8]), np.array([0.1, 0.9, 0.8, 0.2])
    assert sua(s, h, 0).tolist() == s.tolist()
    assert sua(s, h, 2) == pytest.approx(s - 2 * h)
    assert regimes(s, h).tolist() == ["A", "C", "B", "D"]
    assert set(regimes([0.0] * 4, h)) == {"A", "C"}


@given(arrays(float, (2, 40), elements=st.floats(0, 1)))
def test_strict_failures_are_failures(values):
    strict = strict_failures(*values)
    assert set(regimes(*values)[strict]) <= {"D"}
    assert strict.sum() <= 10


@given(PAIR)
def test_collapse_is_one_sided_and_at_most_one(pair):
    p, q = pair
    n = len(p)
    both = ambiguity_collapse(p, q), ambiguity_collapse(q, p)
    assert min(both) == 0 and max(both) <= 1
    assert max(both) == pytest.approx(abs(entropy(p) - entropy(q)) / np.log(n), abs=1e-9)
    assert ambiguity_collapse(np.eye(n)[0], np.full(n, 1 / n)) == pytest.approx(1)


def test_a_distracting_sentence_changes_nothing_but_the_text():
    table = pd.concat([evaluation_knowledge()[:40], evaluation_opinions()[:40]], ignore_index=True)
    sentences = fact_statements(60)
    found = distract(table, sentences, seed=1)
    pd.testing.assert_frame_equal(found.drop(columns="text"), table.drop(columns="text"))
    long = lambda text: {w for w in re.findall(r"\w+", text.lower()) if len(w) > 3}
    for before, after in zip(table.itertuples(), found.itertuples(), strict=True):
        sentence = after.text.removesuffix(f" {before.text}")
        assert sentence in sentences
        assert not long(sentence) & long(" ".join([before.text, *before.choices]))


def test_the_sentence_depends_on_seed_and_question_not_on_the_table():
    table, sentences = evaluation_knowledge()[:20], fact_statements(60)
    found = distract(table, sentences, seed=1)
    assert distract(table[7:8], sentences, seed=1).text[0] == found.text[7]
    assert distract(table, sentences, seed=2).text.tolist() != found.text.tolist()


def test_a_question_that_every_sentence_is_about_is_named():
    with pytest.raises(ValueError, match="every sentence shares a word with question q"):
        distract(question(), ["People drink.", "I think so."])


def test_the_table_of_collapse_agrees_with_the_measure_whatever_the_number_of_options():
    rng = np.random.default_rng(0)
    sizes = [2, 5, 3, 2, 4, 5]
    answers = pd.DataFrame(
        {
            "choice_log_probs": [np.log(0.3 * rng.dirichlet(np.ones(n) / 2)) for n in sizes],
            "human_shares": [rng.dirichlet(np.ones(n)) for n in sizes],
        },
        index=[7, 3, 9, 1, 0, 2],
    )
    found = collapse_table(answers)
    assert list(found.index) == list(answers.index)
    for row, mine, n in zip(answers.itertuples(), found.itertuples(), sizes, strict=True):
        p = np.exp(row.choice_log_probs) / 0.3
        expected = [entropy(row.human_shares) / np.log(n), entropy(p) / np.log(n), p.max()]
        assert [mine.divided, mine.unsure, mine.confidence] == pytest.approx(expected)
        assert mine.collapse == pytest.approx(ambiguity_collapse(p, row.human_shares))
    with pytest.raises(ValueError, match="m: no probabilities of the options of q"):
        collapse_table(answers.assign(model="m", question_id="q", choice_log_probs=None))
