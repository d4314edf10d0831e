import pytest

from uqlib.prompts import label_spellings, render, template, template_hash

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
