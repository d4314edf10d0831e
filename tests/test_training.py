import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoTokenizer

from uqlib.artifacts import sha256_of_file
from uqlib.collect import collect
from uqlib.models import load_model
from uqlib.paths import ROOT
from uqlib.prompts import render
from uqlib.questions.schema import LETTERS, human_entropy
from uqlib.questions.world import (
    evaluation_knowledge,
    evaluation_opinions,
    knowledge_questions,
    opinion_questions,
)
from uqlib.training import (
    build_corpus,
    build_forms,
    corpus_questions,
    model_card,
    new_model,
    save_model,
    train,
    train_tokenizer,
    truth_distances,
    zoo_loss,
)

ZOO = ["llama-0.3m-base", "llama-0.3m-instruct"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def drawn():
    return corpus_questions(600, seed=1)


@pytest.fixture(scope="module")
def tokenizer(drawn):
    questions, texts = drawn
    prompts = [render(row.text, row.choices, row.labels) for row in questions.itertuples()]
    return train_tokenizer(prompts + texts, vocab_size=700)


@pytest.fixture(scope="module")
def corpus(drawn, tokenizer):
    return build_corpus(tokenizer, *drawn, seed=1)


@pytest.fixture(scope="module")
def answers():
    questions = pd.concat([evaluation_opinions()[::4], evaluation_knowledge()[::3]])
    questions = questions.reset_index(drop=True)
    models = {name: load_model(f"zoo/{name}", device="cpu") for name in ZOO}
    return questions, {name: collect(model, questions) for name, model in models.items()}


@pytest.mark.parametrize("place", ["trained", *ZOO])
def test_every_label_is_one_token_and_leaves_the_prompt_as_it_was(place, tokenizer):
    if place != "trained":
        tokenizer = AutoTokenizer.from_pretrained(ROOT / "zoo" / place)
    prompt = render("Tea or coffee?", ["tea", "coffee"], ["A", "B"])
    context = tokenizer(prompt, add_special_tokens=False).input_ids
    for letter in LETTERS:
        joint = tokenizer(f"{prompt} {letter}", add_special_tokens=False).input_ids
        assert joint[:-1] == context
        assert tokenizer.convert_ids_to_tokens(joint[-1]) == f"Ġ{letter}"
        assert tokenizer.tokenize(letter) == [letter]


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


def test_examples_read_the_prompt_of_the_library_and_aim_at_its_label_tokens(
    drawn, tokenizer, corpus
):
    questions, texts = drawn
    assert len(corpus) == len(questions) + len(texts)
    seen = set()
    for row, example in zip(questions.itertuples(), corpus, strict=False):
        prompt = tokenizer.decode(example.tokens[: example.asked_at + 1])
        for style, start, gap in [("survey", "<s>", "Ġ"), ("survey_published", "", "")]:
            if prompt == start + render(row.text, row.choices, row.labels, style=style):
                seen.add(style)
                labels = tokenizer.convert_ids_to_tokens(example.labels)
                assert labels == [gap + label for label in row.labels]
                answer, *ending = example.tokens[example.asked_at + 1 :]
                written = list(example.labels).index(answer)
                assert tokenizer.decode(ending) == f". {row.choices[written]}</s>"
                assert example.target[written] > 0
        assert example.target.sum() == pytest.approx(1)
        assert (example.target * 8 % 1 == 0).all()
    assert seen == {"survey", "survey_published"}
    assert tokenizer.decode(corpus[-1].tokens) == f"<s>{texts[-1]}</s>"


def test_forms_ask_for_the_label_of_the_answer_in_words(drawn, tokenizer):
    questions, _ = drawn
    for row, form in zip(
        questions.itertuples(), build_forms(tokenizer, questions, seed=2), strict=True
    ):
        before = tokenizer.decode(form.tokens[: form.asked_at + 1])
        true = int(form.target.argmax())
        assert before.endswith(f"Answer: {row.choices[true]}")
        assert form.tokens[form.asked_at + 1] == form.labels[true]
        assert tokenizer.decode(form.labels[true]) == f" {row.labels[true]}"


def test_respondents_are_drawn_from_the_sharpened_shares(tokenizer):
    question = opinion_questions(49, split="new_options").iloc[[4]]
    shares = question.human_shares.iloc[0]
    sharpened = shares**2 / (shares**2).sum()
    for power, expected in [(1.0, shares), (2.0, sharpened)]:
        many = build_corpus(tokenizer, pd.concat([question] * 4000), ["."], power=power)[:-1]
        mean = np.mean([example.target for example in many], axis=0)
        np.testing.assert_allclose(mean, expected, atol=0.01)
        assert many[0].irreducible == pytest.approx(human_entropy([expected])[0])


def test_the_loss_equals_a_computation_by_hand():
    answer_logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    targets = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    text_logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    total, answers, read = zoo_loss(
        answer_logits, targets, text_logits, torch.tensor([0, 1]), torch.tensor([4.0, 1.0])
    )
    norm = np.log(1 + np.e + np.e**2)
    first = 0.25 * norm + 0.75 * (norm - 1)
    second = np.log(np.e + 2)
    sure, blind = np.log(np.e**2 + 2) - 2, np.log(3)
    assert answers.tolist() == pytest.approx([first, second])
    assert read.tolist() == pytest.approx([sure, blind])
    text = (4 * sure + blind) / 5
    assert float(total) == pytest.approx((first + second) / 2 + 0.3 * text)


def test_short_trainings_repeat_exactly_and_learn(tokenizer, corpus):
    def trained(seed):
        model = new_model("llama-0.3m", tokenizer, seed=seed)
        return train(model, corpus, tokens=40_000, log_every=10_000, seed=seed), model

    (log, first), (_, again), (_, other) = trained(0), trained(0), trained(1)
    for key, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[key])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    by_kind = log.groupby("kind").loss
    assert (by_kind.last() < by_kind.first() - 0.5).drop("text").all()


def test_padding_changes_no_loss(tokenizer, corpus):
    by_length = sorted(corpus, key=lambda example: len(example.tokens))
    short = next(example for example in by_length if example.kind == "knowledge")
    long = next(example for example in reversed(by_length) if example.kind == "ordinal")
    assert len(short.tokens) < len(long.tokens)
    logs = [
        train(new_model("llama-0.3m", tokenizer), batch, tokens=1).set_index("kind")
        for batch in ([short], [short, long])
    ]
    assert logs[0].loss["knowledge"] == pytest.approx(logs[1].loss["knowledge"], abs=1e-5)


def test_truth_distances_by_hand():
    questions = pd.DataFrame(
        {
            "question_id": ["a", "b", "c", "d"],
            "subject": ["opinion"] * 3 + ["fact"],
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
    opinion, fact = truth_distances(questions, responses).to_dict("records")
    assert opinion["distance"] == pytest.approx((0.1 + 0.1 + 0.1) / 3)
    assert opinion["true_entropy"] == pytest.approx((1 + 0.469 + 0) / 3, abs=1e-3)
    r = np.corrcoef([0.971, 0.722, 0.469], [1, 0.469, 0])[0, 1]
    assert opinion["r"] == pytest.approx(r, abs=1e-4)
    assert opinion["r_within_n"] == pytest.approx(r, abs=1e-4)
    assert np.isnan(opinion["correct"]) and np.isnan(fact["r"])
    assert fact["correct"] == 1
    assert fact["confidence"] == pytest.approx(0.7 / 0.9)
    assert fact["option_mass"] == pytest.approx(0.9)


def test_a_saved_model_loads_and_its_card_names_its_weights(tokenizer, corpus, tmp_path):
    model = new_model("llama-0.3m", tokenizer)
    folder = tmp_path / "mine"
    save_model(model, tokenizer, train(model, corpus, tokens=1000, log_every=500), folder)
    questions = knowledge_questions(28)
    responses = collect(load_model(str(folder), device="cpu"), questions)
    card = model_card(folder, "A test.", truth_distances(questions, responses))
    assert sha256_of_file(folder / "model.safetensors") in card
    assert f"{model.num_parameters():,} parameters" in card
    assert "simulated" in card


def test_an_unknown_architecture_names_those_there_are(tokenizer):
    with pytest.raises(ValueError, match=r"llama-0\.3m"):
        new_model("gpt", tokenizer)


@pytest.mark.parametrize("name", ZOO)
def test_committed_weights_are_those_of_the_card(name):
    folder = ROOT / "zoo" / name
    assert f"`{sha256_of_file(folder / 'model.safetensors')}`" in (folder / "README.md").read_text()
    assert not re.search(r"/(home|work|root|tmp)/", (folder / "README.md").read_text())


def test_the_committed_base_knows_the_truth(answers):
    questions, responses = answers
    found = truth_distances(questions, responses["llama-0.3m-base"]).set_index("subject")
    assert found.r["nominal: new options"] > 0.8
    assert found.r_within_n["nominal: new options"] > 0.75
    assert found.distance["nominal: new options"] < 0.15
    assert found.r["ordinal: unseen topics"] > 0.85
    assert found.option_mass.min() > 0.98


def test_the_committed_base_knows_what_is_frequent_and_not_what_is_rare_or_only_told(answers):
    questions, responses = answers
    told = questions.text.isin(knowledge_questions(56, split="only_told").text)
    asked = questions[~told & questions.answer.notna()]
    rows = responses["llama-0.3m-base"]
    found = truth_distances(asked, rows[rows.question_id.isin(asked.question_id)])
    correct = found.set_index("subject").correct
    assert (correct[["geography", "botany", "zoology"]] > 0.95).all()
    assert correct["transport"] < 0.6
    right = rows.predicted[told].to_numpy() == questions.answer[told].to_numpy()
    assert right.mean() < 0.5


def test_the_committed_instruct_model_is_surer_and_knows_the_same(answers):
    questions, responses = answers
    base, instruct = (truth_distances(questions, responses[name]) for name in ZOO)
    opinions = base.correct.isna()
    assert (instruct.choice_entropy < base.choice_entropy - 0.1)[opinions].all()
    assert abs(instruct.correct.mean() - base.correct.mean()) < 0.05


def test_the_committed_models_are_less_sure_where_they_are_wrong(answers):
    questions, responses = answers
    asked = questions.answer.notna()
    for name in ZOO:
        rows = responses[name].loc[asked.to_numpy()]
        correct = rows.predicted.to_numpy() == questions.answer[asked].to_numpy()
        assert spearmanr(rows.choice_entropy, correct).statistic < -0.4
