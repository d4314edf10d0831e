import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from uqlib.collect import collect
from uqlib.measures import MEASURES, total_entropy
from uqlib.models import LanguageModel, encode_prompts, load_model
from uqlib.open_answers import (
    JUDGE_QUESTION,
    compare_doubts,
    exact_match,
    forward_tokens,
    normalise_answer,
    open_answers,
    right_answers,
)
from uqlib.prompts import JUDGE, propose, render
from uqlib.questions.world import knowledge_questions
from uqlib.studies import reference_models


@pytest.fixture(scope="module")
def zoo_model():
    return load_model(reference_models()[0], device="cpu")


def distribution(model, tokens):
    """The plain way: everything is read again, nothing is kept."""
    with torch.no_grad():
        return model.network(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)


def written_plainly(model, text, n):
    (tokens,) = encode_prompts(model.tokenizer, [f"Question: {text}\nProposed answer:"])
    start = len(tokens)
    log_prob, entropies = 0, []
    for _ in range(n):
        log_probs = distribution(model, tokens)
        log_prob += log_probs.max().item()
        entropies.append(total_entropy(log_probs).item())
        tokens = [*tokens, log_probs.argmax().item()]
    return tokens, start, log_prob, entropies


@pytest.fixture
def script(model, monkeypatch):
    """Make the model write given tokens after prompts of a given length, almost surely."""
    plain = model.network.forward

    def install(start, tokens):
        def scripted(*, input_ids, past_key_values=None, **rest):
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            output = plain(input_ids=input_ids, past_key_values=past_key_values, **rest)
            place = seen + input_ids.shape[1] - start
            if 0 <= place < len(tokens):
                output.logits[..., tokens[place]] += 1000
            return output

        monkeypatch.setattr(model.network, "forward", scripted)

    return install


def test_the_judge_question_ends_the_judge_prompt():
    whole = render("Tea?\nProposed answer: yes", **JUDGE, style="judge")
    assert whole == "Question: Tea?\nProposed answer: yes" + JUDGE_QUESTION


def test_cached_and_plain_paths_agree_where_the_bound_cuts_every_answer(model, questions):
    table = open_answers(model, questions, max_new_tokens=3)
    options = [model.tokenizer.convert_tokens_to_ids(f"Ġ{label}") for label in "ABC"]
    question = model.tokenizer("A" + JUDGE_QUESTION, add_special_tokens=False).input_ids[1:]
    for row, text in zip(table.itertuples(), questions.text, strict=True):
        tokens, start, log_prob, entropies = written_plainly(model, text, 3)
        assert row.answer == model.tokenizer.decode(tokens[start:]).strip()
        assert not row.finished and row.answer_tokens == row.written_tokens == 3
        assert row.log_prob == pytest.approx(log_prob, abs=1e-5)
        assert row.perplexity == pytest.approx(np.exp(-log_prob / 3), rel=1e-5)
        assert row.token_entropy == pytest.approx(np.mean(entropies), abs=1e-6)
        assert row.first_entropy == pytest.approx(entropies[0], abs=1e-6)
        judged = distribution(model, tokens + question)
        assert row.choice_log_probs == pytest.approx(judged[options].tolist(), abs=1e-5)
        assert row.p_true == pytest.approx(judged[options].softmax(-1)[0].item(), abs=1e-6)
        assert row.total_entropy == pytest.approx(total_entropy(judged).item(), abs=1e-6)
        assert row.judge_tokens == len(question) + 1  # the last token written was not yet read


def test_the_kept_context_gives_what_the_judge_prompt_gives_anew(zoo_model):
    questions = knowledge_questions(60)
    table = open_answers(zoo_model, questions, max_new_tokens=8)
    assert table.finished.all() and table.as_template.mean() > 0.9
    asked = propose(questions, [[answer] for answer in table.answer], **JUDGE)
    anew = collect(zoo_model, asked, prompt_style="judge")
    same = table.as_template
    columns = ["option_mass", *MEASURES]
    np.testing.assert_allclose(table.loc[same, columns], anew.loc[same, columns], atol=1e-4)
    assert table.predicted[same].equals(anew.predicted[same].astype(int))
    difference = np.stack(table.choice_log_probs) - np.stack(anew.choice_log_probs)
    assert np.abs(difference[same]).max() < 1e-4
    other = open_answers(zoo_model, questions, lead="Answer:", max_new_tokens=8)
    assert not other.as_template.any()


def test_an_answer_ends_at_a_newline_without_its_full_stop(model, questions, script):
    asked = questions[:1]
    (prompt,) = encode_prompts(model.tokenizer, [f"Question: {asked.text[0]}\nProposed answer:"])
    ids = model.tokenizer(" A B.\n", add_special_tokens=False).input_ids
    assert len(ids) == 4
    script(len(prompt), ids)
    row = open_answers(model, asked, samples=4).iloc[0]
    assert (row.answer, row.finished, row.consistency) == ("A B", True, 1)
    assert (row.prompt_tokens, row.answer_tokens, row.written_tokens) == (len(prompt), 2, 4)
    assert (row.drawn_tokens, row.log_prob, row.perplexity) == (12, 0, 1)
    assert row.token_entropy == row.first_entropy == 0
    question = model.tokenizer("A" + JUDGE_QUESTION, add_special_tokens=False).input_ids[1:]
    assert row.judge_tokens == len(question)


def test_an_answer_does_not_end_before_it_begins(model, questions, script):
    asked = questions[:1]
    (prompt,) = encode_prompts(model.tokenizer, [f"Question: {asked.text[0]}\nProposed answer:"])
    newline, word = model.tokenizer("\n A", add_special_tokens=False).input_ids
    script(len(prompt), [newline, newline])
    row = open_answers(model, asked, samples=3).iloc[0]
    assert row.answer_tokens == 1 and row.written_tokens == 2 and row.finished
    assert row.consistency in (0, 1)  # drawn answers may be empty
    script(len(prompt), [word, newline])
    assert open_answers(model, asked).answer[0] == "A"


def test_the_model_may_name_further_endings(model, questions, script, monkeypatch):
    asked = questions[:1]
    (prompt,) = encode_prompts(model.tokenizer, [f"Question: {asked.text[0]}\nProposed answer:"])
    ids = model.tokenizer(" A B", add_special_tokens=False).input_ids
    script(len(prompt), ids)
    monkeypatch.setattr(model.network.generation_config, "eos_token_id", [1, ids[1]])
    assert open_answers(model, asked, max_new_tokens=2).answer[0] == "A"


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_consistency_is_the_probability_of_the_answer(model, questions, temperature):
    asked = questions[:1]
    row = open_answers(
        model, asked, max_new_tokens=1, samples=4000, temperature=temperature, judge=False
    ).iloc[0]
    (prompt,) = encode_prompts(model.tokenizer, [f"Question: {asked.text[0]}\nProposed answer:"])
    p = (distribution(model, prompt) / temperature).softmax(-1)
    texts = [model.tokenizer.decode([token]) for token in range(len(p))]
    texts = ["" if "\n" in text or text == "</s>" else text for text in texts]
    expected = p[exact_match(texts, [row.answer] * len(texts))].sum().item()
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert 0.02 < expected < 0.98
    assert abs(row.consistency - expected) < 4 * error


def test_batches_and_order_do_not_matter(model, questions):
    many = pd.concat([questions, questions.assign(text=questions.text + " Say")], ignore_index=True)
    many["question_id"] = [f"q{i}" for i in range(len(many))]
    kinds = ["answer", "answer_tokens", "judge_tokens", "drawn_tokens", "consistency"]
    one = open_answers(model, many, max_new_tokens=4, samples=3, batch_size=1)
    all_ = open_answers(model, many, max_new_tokens=4, samples=3)
    pd.testing.assert_frame_equal(one[kinds], all_[kinds])
    np.testing.assert_allclose(one[list(MEASURES)], all_[list(MEASURES)], atol=1e-5)
    again = open_answers(model, many[::-1], max_new_tokens=4)
    assert again.answer.tolist() == one.answer.tolist()[::-1]
    assert again.question_id.tolist() == many.question_id.tolist()[::-1]
    assert open_answers(model, many, max_new_tokens=4, judge=False).columns[-1] == "drawn_tokens"


def test_tokens_are_counted_as_the_network_sees_them(model, questions, monkeypatch):
    plain, read = model.network.forward, []

    def counting(*, input_ids, **rest):
        read.append(input_ids.numel())
        return plain(input_ids=input_ids, **rest)

    monkeypatch.setattr("uqlib.open_answers.shares_prefixes", lambda network: True)
    monkeypatch.setattr(model.network, "forward", counting)
    for samples, judge, column in ((0, False, "answer"), (0, True, "judge"), (1, False, "samples")):
        read.clear()
        table = open_answers(model, questions[:1], max_new_tokens=5, samples=samples, judge=judge)
        if not judge:
            table["judge_tokens"] = 0
        assert forward_tokens(table)[column][0] == sum(read)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"samples": -1}, "samples -1"),
        ({"temperature": 0}, "temperature 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"max_new_tokens": 300}, "and may take 3.. more, beyond the model's 256"),
        ({"label_style": "loud"}, "unknown label style 'loud'"),
    ],
)
def test_settings_out_of_range_are_refused(model, questions, settings, message):
    with pytest.raises(ValueError, match=message):
        open_answers(model, questions, **settings)


def test_bad_tables_and_models_are_refused(model, questions):
    with pytest.raises(ValueError, match="no questions"):
        open_answers(model, questions[:0])
    split = LanguageModel("split", model.network, make_tokenizer(space_labels=False), {})
    with pytest.raises(ValueError, match='label_style="bare" works'):
        open_answers(split, questions)
    lacking = questions.assign(answer=[0, None, 1, 3])
    with pytest.raises(ValueError, match=f"question {re.escape(questions.question_id[1])} has no"):
        right_answers(lacking)
    assert right_answers(questions) == ["yes", "whale", "cold", "d"]


def test_a_model_whose_states_cannot_be_kept_is_not_judged_from_them(model, questions, monkeypatch):
    monkeypatch.setattr("uqlib.open_answers.shares_prefixes", lambda network: False)
    with pytest.raises(ValueError, match="tiny: its states cannot be kept"):
        open_answers(model, questions)
    assert len(open_answers(model, questions, max_new_tokens=2, judge=False)) == len(questions)


def test_a_number_that_is_none_names_model_and_questions(model, questions, monkeypatch):
    plain = model.network.forward

    def broken(*, input_ids, **rest):
        output = plain(input_ids=input_ids, **rest)
        output.logits[:] = torch.nan
        return output

    monkeypatch.setattr(model.network, "forward", broken)
    first = re.escape(questions.question_id[0])
    with pytest.raises(ValueError, match=f"tiny, one of the questions {first} to .*NaN"):
        open_answers(model, questions[:1])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("The Beatles.", "beatles", True),
        ("an  OX", "Ox", True),
        ("St. Mary's", "st marys", True),
        ("theatre", "atre", False),
        ("Kelt", "Kilt", False),
        ("", "a", True),
    ],
)
def test_answers_match_by_their_words(a, b, same):
    assert exact_match([a], [b])[0] == same


@given(st.text())
def test_normalising_twice_changes_nothing_in_plain_words(text):
    words = re.sub("[^a-z ]", "", text.lower())
    once = normalise_answer(words)
    assert normalise_answer(once) == once


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), min_size=3))
def test_auroc_agrees_with_scikit_learn_and_differences_are_paired(rows):
    a, b, correct = map(np.array, zip(*rows, strict=True))
    table = compare_doubts(pd.DataFrame({"a": a, "b": b, "c": a}), correct, "a", 20)
    table = table.set_index("score")
    if correct.all() or not correct.any():
        assert table.isna().all(axis=None)
        return
    expected = {name: roc_auc_score(~correct, values) for name, values in {"a": a, "b": b}.items()}
    assert table.auroc["a"] == pytest.approx(expected["a"])
    assert table.difference["b"] == pytest.approx(expected["b"] - expected["a"])
    assert (table.loc[["a", "c"], table.columns[3:]] == 0).all(axis=None)
