import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from uqlib.corpus import (
    CORPUS_MIX,
    LOOKS_OF,
    build_corpus,
    build_forms,
    corpus_questions,
    corpus_tokenizer,
)
from uqlib.paths import ROOT
from uqlib.prompts import TEMPLATES, render, template
from uqlib.questions.schema import LETTERS, human_entropy
from uqlib.questions.world import evaluation_opinions, opinion_questions

ZOO = sorted(path.parent.name for path in (ROOT / "zoo").glob("*/tokenizer.json"))


@pytest.fixture(scope="module")
def drawn():
    return corpus_questions(600, seed=1)


@pytest.fixture(scope="module")
def tokenizer(drawn):
    return corpus_tokenizer(*drawn)


@pytest.fixture(scope="module")
def corpus(drawn, tokenizer):
    return build_corpus(tokenizer, *drawn, seed=1)


@pytest.mark.parametrize("place", ["trained", *ZOO])
def test_every_label_is_one_token_and_leaves_the_prompt_as_it_was(place, tokenizer):
    if place != "trained":
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "zoo" / place)
    prompt = render("Tea or coffee?", ["tea", "coffee"], ["A", "B"])
    context = tokenizer(prompt, add_special_tokens=False).input_ids
    for label in [*LETTERS, *"123456789", "Yes", "No"]:
        joint = tokenizer(f"{prompt} {label}", add_special_tokens=False).input_ids
        assert joint[:-1] == context
        assert tokenizer.convert_ids_to_tokens(joint[-1]) == f"Ġ{label}"
    for label in [*LETTERS, *"123456789"]:
        assert tokenizer.tokenize(label) == [label]


@pytest.mark.parametrize("place", ["trained", *ZOO])
def test_the_tokenizer_sets_its_own_start_and_gives_texts_back(place, tokenizer):
    if place != "trained":
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "zoo" / place)
    text = "Question: Crème brûlée?\n    A. yes\n\nAnswer:"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[1:] == tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    specials = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(specials) == 3 and None not in specials


def test_the_corpus_has_every_kind_in_its_share(drawn, corpus):
    questions, texts = drawn
    counts = questions.dataset.value_counts()
    assert counts["world_opinions"] == 600 * CORPUS_MIX["opinions"]
    assert counts["world_moral"] == 600 * CORPUS_MIX["dilemmas"]
    assert len(texts) == 600 * CORPUS_MIX["text"]
    kinds = {example.kind for example in corpus}
    assert kinds == {
        "nominal", "ordinal", "knowledge", "moral", "category", "judged", "proposed", "text"
    }  # fmt: skip


def test_examples_read_a_prompt_of_the_library_and_aim_at_its_label_tokens(
    drawn, tokenizer, corpus
):
    questions, texts = drawn
    assert len(corpus) == len(questions) + len(texts)
    seen = set()
    for row, example in zip(questions.itertuples(), corpus, strict=False):
        prompt = tokenizer.decode(example.tokens[: example.asked_at + 1])
        for style in TEMPLATES:
            start = "<s>" if template(style).bos else ""
            if prompt == start + render(row.text, row.choices, row.labels, style, row.subject):
                seen.add((row.dataset, style))
                gap = "" if prompt.endswith(" ") else "Ġ"
                labels = tokenizer.convert_ids_to_tokens(example.labels)
                assert labels == [gap + label for label in row.labels]
                answer, *ending = example.tokens[example.asked_at + 1 :]
                written = list(example.labels).index(answer)
                words = "" if row.dataset in LOOKS_OF else f". {row.choices[written]}"
                assert tokenizer.decode(ending) == f"{words}</s>"
                assert example.target[written] > 0
        assert example.target.sum() == pytest.approx(1)
        assert (example.target * 32 % 1 == 0).all()
    assert {style for _, style in seen} == TEMPLATES.keys() - {"verbatim"}
    assert {style for data, style in seen if data == "world_judged"} == {"judge"}
    assert tokenizer.decode(corpus[-1].tokens) == f"<s>{texts[-1]}</s>"


def test_forms_ask_for_the_label_of_the_answer_in_words(drawn, tokenizer):
    questions = drawn[0][:300]
    for row, form in zip(
        questions.itertuples(), build_forms(tokenizer, questions, seed=2), strict=True
    ):
        before = tokenizer.decode(form.tokens[: form.asked_at + 1])
        true = int(form.target.argmax())
        assert before.endswith(f"Answer: {row.choices[true]}")
        assert form.tokens[form.asked_at + 1] == form.labels[true]
        assert tokenizer.decode(form.labels[true]) == f" {row.labels[true]}"


def test_respondents_are_drawn_from_the_shares(tokenizer):
    question = opinion_questions(49, split="new_options").iloc[[4]]
    shares = question.human_shares.iloc[0]
    many = build_corpus(tokenizer, pd.concat([question] * 4000), ["."])[:-1]
    mean = np.mean([example.target for example in many], axis=0)
    np.testing.assert_allclose(mean, shares, atol=0.01)
    assert many[0].irreducible == pytest.approx(human_entropy([shares])[0])


def test_verdicts_are_true_false_and_neutral_where_they_should_be(drawn):
    judged = drawn[0][drawn[0].dataset == "world_judged"]
    assert set(judged.answer[judged.text.str.contains(r"Which .* is the (?:most|least)")]) == {2}
    assert judged.answer.value_counts().to_dict() == {0: 12, 1: 11, 2: 7}


def test_a_proposal_is_accepted_as_often_as_its_option_is_chosen():
    questions, _ = corpus_questions(4000, seed=3)
    proposed = questions[questions.dataset == "world_proposed"]
    yes = np.stack(proposed.human_shares)
    np.testing.assert_allclose(yes.sum(axis=1), 1)
    assert proposed.labels.iloc[0] == ["Yes", "No"]
    assert 0.2 < yes[:, 0].mean() < 0.35


def test_training_and_evaluation_ask_different_questions():
    questions, _ = corpus_questions(4000, seed=0)
    trained = set(questions.question_id.str.split("#").str[0])
    assert not trained & set(evaluation_opinions().question_id)
