import numpy as np
import pandas as pd
import pytest
import torch

from uqlib import training
from uqlib.checkpoints import checkpoint_state
from uqlib.corpus import build_corpus, corpus_questions, corpus_tokenizer
from uqlib.training import changed_answers, new_model, own_answers, train, tune, zoo_loss

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def drawn():
    return corpus_questions(600, seed=1)


@pytest.fixture(scope="module")
def tokenizer(drawn):
    return corpus_tokenizer(*drawn)


@pytest.fixture(scope="module")
def corpus(drawn, tokenizer):
    return build_corpus(tokenizer, *drawn, seed=1)


def test_the_loss_equals_a_computation_by_hand():
    answer_logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    targets = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    text_logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    total, answers, read = zoo_loss(answer_logits, targets, text_logits, torch.tensor([0, 1]))
    norm = np.log(1 + np.e + np.e**2)
    first = 0.25 * norm + 0.75 * (norm - 1)
    second = np.log(np.e + 2)
    sure, blind = np.log(np.e**2 + 2) - 2, np.log(3)
    assert answers.tolist() == pytest.approx([first, second])
    assert read.tolist() == pytest.approx([sure, blind])
    text = (sure + blind) / 2
    assert float(total) == pytest.approx((first + second) / 2 + 0.3 * text)


def test_short_trainings_repeat_exactly_and_learn(tokenizer, corpus):
    def trained(seed):
        model = new_model("llama-0.1m", tokenizer, seed=seed)
        return train(model, [(80_000, corpus)], log_every=10_000, seed=seed), model

    (log, first), (_, again), (_, other) = trained(0), trained(0), trained(1)
    for key, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[key])
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    by_kind = log.groupby("kind").loss
    assert (by_kind.last() < by_kind.first() - 0.5).all()


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(tokenizer, corpus, tmp_path):
    class Stop(Exception):
        pass

    def stop_after(steps):
        for step, batch in enumerate(whole(curriculum, 32, 0)):
            if step == steps:
                raise Stop
            yield batch

    curriculum = [(20_000, corpus[::2]), (40_000, corpus)]
    recipe = {"log_every": 2_000, "checkpoints": tmp_path}
    straight = new_model("llama-0.1m", tokenizer)
    expected = train(straight, curriculum, log_every=2_000)
    whole, stopped = training._batches, new_model("llama-0.1m", tokenizer)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(training, "_batches", lambda *_: stop_after(20))
        train(stopped, curriculum, **recipe)
    (file,) = tmp_path.glob("*.safetensors")
    assert 0 < checkpoint_state(file)["step"] <= 20
    resumed = new_model("llama-0.1m", tokenizer)
    log = train(resumed, curriculum, **recipe)
    assert log.tokens.max() == expected.tokens.max()
    for key, weights in straight.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[key])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_step", lambda *_: pytest.fail("trained again"))
        again = train(new_model("llama-0.1m", tokenizer), curriculum, **recipe)
    assert again.equals(log)


def test_other_work_does_not_go_on_from_a_checkpoint(tokenizer, corpus, tmp_path):
    for seed, tokens in [(0, 3000), (0, 4000), (1, 3000)]:
        model = new_model("llama-0.1m", tokenizer)
        train(model, [(tokens, corpus)], seed=seed, checkpoints=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_padding_changes_no_loss(tokenizer, corpus):
    by_length = sorted(corpus, key=lambda example: len(example.tokens))
    short = next(example for example in by_length if example.kind == "knowledge")
    long = next(example for example in reversed(by_length) if example.kind == "ordinal")
    assert len(short.tokens) < len(long.tokens)
    logs = [
        train(new_model("llama-0.1m", tokenizer), [(1, batch)]).set_index("kind")
        for batch in ([short], [short, long])
    ]
    assert logs[0].loss["knowledge"] == pytest.approx(logs[1].loss["knowledge"], abs=1e-5)


def test_own_answers_are_those_of_single_passes(tokenizer, corpus):
    model = new_model("llama-0.1m", tokenizer).eval()
    answers = own_answers(model, corpus[::7], batch_size=5)
    for example, answer in zip(corpus[::7], answers, strict=True):
        if example.asked_at < 0:
            assert answer is None
            continue
        ids = torch.from_numpy(example.tokens[: example.asked_at + 1])[None]
        logits = model(input_ids=ids).logits[0, -1, example.labels].double()
        np.testing.assert_allclose(answer, logits.softmax(-1).detach().numpy(), atol=1e-6)


def test_changed_answers_by_hand():
    own = [0.5, 0.3, 0.2]
    np.testing.assert_allclose(changed_answers(own, "instruct"), np.array([25, 9, 4]) / 38)
    np.testing.assert_allclose(changed_answers(own, "overconfident"), [1, 0, 0])
    np.testing.assert_allclose(changed_answers(own, "position-biased"), [0.3, 0.18, 0.52])
    with pytest.raises(ValueError, match="position-biased"):
        changed_answers(own, "shy")


def test_tuning_moves_answers_towards_the_changed_ones(drawn, tokenizer):
    questions = drawn[0][drawn[0].dataset == "world_moral"]
    texts = drawn[1]
    model = new_model("llama-0.1m", tokenizer)
    corpus = build_corpus(tokenizer, questions, texts[:2])
    train(model, [(300_000, corpus)])
    before = np.mean([p[1] for p in own_answers(model, corpus) if p is not None])
    tune(model, tokenizer, questions, texts, subject="position-biased", tokens=200_000)
    after = np.mean([p[1] for p in own_answers(model, corpus) if p is not None])
    assert after == pytest.approx(0.6 * before + 0.4, abs=0.05)


def test_an_unknown_architecture_names_those_there_are(tokenizer):
    with pytest.raises(ValueError, match=r"llama-0\.3m"):
        new_model("gpt", tokenizer)


def test_a_training_beyond_the_stages_ends_in_a_review(drawn, tokenizer, monkeypatch):
    read = []

    def noted(model, curriculum, *_, **__):
        read.append([(tokens, {example.kind for example in part}) for tokens, part in curriculum])
        return pd.DataFrame({"tokens": [sum(tokens for tokens, _ in curriculum)]})

    monkeypatch.setattr(training, "train", noted)
    monkeypatch.setattr(training, "REVIEW_TOKENS", 20_000)
    _, short = training.train_base("llama-0.1m", tokenizer, *drawn, tokens=9_000_000)
    _, log = training.train_base("llama-0.1m", tokenizer, *drawn, tokens=9_500_000)
    assert short.tokens.tolist() == [9_000_000]
    assert log.tokens.tolist() == [9_500_000, 9_520_000]
    stages, review = read[1:]
    assert [tokens for tokens, _ in stages] == [2_500_000, 1_500_000, 5_000_000, 500_000]
    assert stages[0][1] == {"form"} and "form" not in review[0][1]
    assert {"nominal", "ordinal", "knowledge", "moral", "text"} <= review[0][1]
