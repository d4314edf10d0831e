import pandas as pd
import pytest

from uqlib.prompts import (
    COUNTERFACTUAL,
    JUDGE,
    label_spellings,
    propose,
    render,
    render_questions,
    template,
    template_hash,
)

INSTRUCTION = (
    "Following is a question and a selection of answer choices. Provide the label for the answer "
    "with which you most agree."
)


def test_survey_prompt_is_figure_1_of_the_paper():
    expected = f"{INSTRUCTION}\n\nQuestion: Tea?\n    A. yes\n    B. no\n\nAnswer:"
    assert render("Tea?", ["yes", "no"], ["A", "B"]) == expected


def test_published_prompt_is_what_the_released_code_sent():
    expected = f"{INSTRUCTION}\nQuestion: Tea?\n A. yes\n B. no\nAnswer: "
    assert render("Tea?", ["yes", "no"], ["A", "B"], "survey_published") == expected
    assert not template("survey_published").bos


def test_braces_in_a_question_are_text():
    assert "{text} and {0}" in render("{text} and {0}", ["{a}", "b"], ["A", "B"])


def test_a_prompt_written_elsewhere_is_sent_as_it_is():
    text = "<s>Tea?\nA. {yes}\nB. no\nAnswer:{"
    assert render(text, ["{yes}", "no"], ["A", "B"], "verbatim") == text
    assert not template("verbatim").bos


def test_unknown_styles_name_the_known_ones():
    with pytest.raises(ValueError, match="survey, survey_published"):
        render("Tea?", ["yes", "no"], ["A", "B"], "surwey")
    with pytest.raises(ValueError, match="space, bare, sum"):
        label_spellings("A", "spaced")


def test_hash_depends_on_the_template():
    assert template_hash("survey") != template_hash("survey_published")


def test_labels_and_choices_must_match():
    with pytest.raises(ValueError, match="zip"):
        render("Tea?", ["yes", "no"], ["A"])


def examples_of(questions):
    solved = questions.assign(text="Solved: " + questions.text)
    return solved.assign(question_id=questions.question_id + "-solved")


def test_shots_are_the_first_solved_examples_of_the_subject(questions):
    examples = examples_of(questions)
    tea = render_questions(
        questions,
        "few_shot",
        2,
        examples_of(questions[questions.subject == "tea"]).pipe(
            lambda t: pd.concat([t, examples[examples.subject != "tea"].loc[[1, 1, 3, 3]]])
        ),
    )[0]
    assert tea == (
        "The following are multiple choice questions (with answers) about tea.\n\n"
        "Solved: Tea?\nA. yes\nB. no\nAnswer: A\n\n"
        "Solved: Hot or cold?\nA. hot\nB. cold\nAnswer: B\n\n"
        "Tea?\nA. yes\nB. no\nAnswer:"
    )


def test_published_shots_put_one_space_before_the_label(questions):
    tea = questions[:1]
    text = render_questions(tea, "survey_published", 1, examples_of(tea))[0]
    assert "Answer: A\n\nQuestion: Tea?" in text


def test_no_shots_need_no_examples(questions):
    expected = [render(r.text, r.choices, r.labels) for r in questions.itertuples()]
    assert render_questions(questions) == expected


def test_shots_that_cannot_be_had_are_refused(questions):
    examples = examples_of(questions)
    with pytest.raises(ValueError, match="2 shots, but 1 examples of 'animals'"):
        render_questions(questions[1:2], "few_shot", 2, examples)
    with pytest.raises(ValueError, match="need a table of examples"):
        render_questions(questions, "few_shot", 2)
    with pytest.raises(ValueError, match="must not be negative"):
        render_questions(questions, "few_shot", -1)
    with pytest.raises(ValueError, match="is also a question asked"):
        render_questions(questions, "few_shot", 1, questions)
    unanswered = examples.assign(answer=pd.array([None] * 4, dtype="Int64"))
    with pytest.raises(ValueError, match=f"{examples.question_id[0]} has no answer"):
        render_questions(questions, "few_shot", 1, unanswered)


def test_every_option_is_proposed_once(questions):
    pairs = propose(questions, list(questions.choices), **COUNTERFACTUAL)
    assert list(pairs.question_id[:3]) == [
        f"{questions.question_id[i]}#{k}" for i, k in [(0, 0), (0, 1), (1, 0)]
    ]
    assert len(pairs) == sum(map(len, questions.choices))
    assert render_questions(pairs, "counterfactual")[1] == (
        "Question: Tea?\nProposed answer: no\n"
        "Is this the answer you agree with most? Yes or No.\nAnswer:"
    )


def test_a_judge_sees_question_and_answer(questions):
    judged = propose(questions[:1], [["green tea"]], **JUDGE)
    assert render_questions(judged, "judge")[0] == (
        "Question: Tea?\nProposed answer: green tea\n"
        "Is this answer to the question true, false or neutral?\n"
        "A. true\nB. false\nC. neutral\nAnswer:"
    )


def test_dilemmas_end_before_the_number():
    text = render("A car.", ["hit one", "hit two"], ["1", "2"], "dilemma")
    assert text == "A car.\nCase 1: hit one\nCase 2: hit two\n\nAnswer: Case"
    assert render("", ["", ""], ["1", "2"], "dilemma_published").endswith("Case ")
