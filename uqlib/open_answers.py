"""Open-ended answers: a model writes one, then judges it with what it has read kept in memory.

Moore et al. (2025) propose this in section 6.2 and leave it untested: after an answer in free words
the model is asked whether it is true, false or neutral, and the measures of a choice among three
apply. Beside them stand the usual measures of a written answer, which need no second question.
"""

import copy
import re
import string
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax

from uqlib.collect import reduced
from uqlib.forward import continued_log_probs, shares_prefixes, step_log_probs
from uqlib.measures import total_entropy
from uqlib.models import LanguageModel, encode_prompts, option_tokens
from uqlib.prompts import JUDGE, propose, render, render_questions
from uqlib.resampling import bootstrap_weights, interval
from uqlib.selective import selective_scores

LEAD = "Proposed answer:"
JUDGE_QUESTION = render("", **JUDGE, style="judge").removeprefix("Question: ")


def open_answers(
    model: LanguageModel,
    questions: pd.DataFrame,
    lead: str = LEAD,
    max_new_tokens: int = 16,
    samples: int = 0,
    temperature: float = 1.0,
    judge: bool = True,
    label_style: str = "space",
    batch_size: int = 64,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Ask questions without their options, and let the model judge what it has answered.

    The answer is the likeliest token at each step, up to a newline or the end of text, neither of
    which may come first; a closing full stop is not part of it. The judge question is read after
    the kept states of question and answer, so that none of their tokens is computed twice.

    Parameters
    ----------
    model : LanguageModel
    questions : DataFrame
        A checked question table; options and answers are not shown to the model.
    lead : str
        What stands before the answer. With the default, question, answer and judge question
        together are the prompt style `judge`.
    max_new_tokens : int
        Tokens written at most; an answer that is not finished by then is cut there.
    samples : int
        Answers drawn at random, for `consistency`.
    temperature : float
        Above 0; divides the logits of the drawn answers.
    judge : bool
        False leaves the judge question out.
    label_style : {"space", "bare", "sum"}
        How the judge's labels are spelled.
    batch_size : int
        Questions asked together at most; only prompts of as many tokens share a batch, so that
        nothing is padded and every state is exact.
    seed : int
        Of the drawn answers, with the question's place in the table.

    Returns
    -------
    DataFrame
        One row a question, in order.

        `model`, `dataset`, `question_id`, `lead`, `answer` (stripped), `finished` (within the
        bound).

        Of the written answer: `log_prob` (sum over its tokens, nats), `perplexity` (exp of minus
        the mean), `token_entropy` (mean over its tokens of the entropy over the vocabulary, in
        [0, 1]), `first_entropy` (of the first token), `consistency` (share of the drawn answers
        that match it, NaN without any).

        Of the judge question: `as_template` (whether the tokens read are those of the prompt style
        `judge`), `p_true` (probability of *true* among the three) and the columns of
        `uqlib.collect.reduced`: `predicted` is the verdict, 0 for true.

        Tokens through the network: `prompt_tokens`, `answer_tokens`, `written_tokens` (with full
        stop and ending, the last of which is not read again), `drawn_tokens` (the same, summed over
        the drawn answers), `judge_tokens`.

    Raises
    ------
    ValueError
        If a setting is out of range, the table is empty, a prompt with its answer and the judge
        question is longer than the model's context, a label is not one token, the model keeps
        something else than keys and values, or a logit is not finite; the message names the
        question.

    Notes
    -----
    Moore et al. (2025), section 6.2; no prompt is printed there. The settings of generation that
    come with a model (temperature, penalties) are left aside: they would change the distributions
    that are measured.

    Examples
    --------
    >>> from uqlib.models import load_model
    >>> from uqlib.questions.world import knowledge_questions
    >>> model = load_model("zoo/llama-0.3m-base", device="cpu")
    >>> told = open_answers(model, knowledge_questions(2), max_new_tokens=4)
    >>> told["answer"].tolist(), [JUDGE["choices"][verdict] for verdict in told["predicted"]]
    (['Thistle', 'Raven'], ['true', 'true'])
    """
    if max_new_tokens < 1 or samples < 0 or batch_size < 1 or temperature <= 0:
        raise ValueError(
            f"max_new_tokens {max_new_tokens}, samples {samples}, batch_size {batch_size}, "
            f"temperature {temperature}: samples must be 0 or more, the temperature above 0, the "
            "other two 1 or more"
        )
    if questions.empty:
        raise ValueError("there are no questions to ask")
    rows, tokenizer = questions.reset_index(drop=True), model.tokenizer
    prompts = encode_prompts(tokenizer, [f"Question: {text}\n{lead}" for text in rows["text"]])
    question, options = [], []
    if judge:
        question = _continuation(tokenizer, JUDGE_QUESTION)
        options = option_tokens(tokenizer, JUDGE_QUESTION, JUDGE["labels"], label_style)
    _check_lengths(model, rows, prompts, max_new_tokens + len(question))
    lengths = np.array([len(prompt) for prompt in prompts])
    frames = []
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        for part in np.split(alike, range(batch_size, len(alike), batch_size)):
            ids = rows["question_id"].iloc[part].tolist()
            shape = (samples, max_new_tokens)
            uniform = [np.random.default_rng([seed, place]).random(shape) for place in part]
            try:
                written, states = _write(
                    model, [prompts[i] for i in part], max_new_tokens, uniform, temperature
                )
                if judge:
                    if not frames:
                        _check_states(model)
                    judged = _judge(model, list(written["tokens"]), states, question, options)
                    written = pd.concat([written, judged], axis=1)
            except FloatingPointError as error:
                between = f"one of the questions {ids[0]} to {ids[-1]}"
                raise ValueError(f"{model.name}, {between}: {error.args[0]}") from None
            frames.append(written.set_axis(part))
    table = pd.concat(frames).sort_index()
    if judge:
        asked = propose(rows, [[answer] for answer in table["answer"]], **JUDGE)
        as_judge = encode_prompts(tokenizer, render_questions(asked, "judge"))
        pairs = zip(table["tokens"], as_judge, strict=True)
        table["as_template"] = [read + question == ids for read, ids in pairs]
    told = rows[["dataset", "question_id"]].assign(lead=lead, prompt_tokens=lengths)
    told.insert(0, "model", model.name)
    return pd.concat([told, table.drop(columns="tokens")], axis=1)


def normalise_answer(text: str) -> str:
    """Write an answer in small letters, without punctuation, articles and superfluous spaces.

    Notes
    -----
    The rule by which answers in free words are usually matched, from Rajpurkar et al. (2016).

    Examples
    --------
    >>> normalise_answer(" The  Beatles. "), normalise_answer("An ox")
    ('beatles', 'ox')
    """
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(answers, right) -> np.ndarray:
    """Say of each answer whether it is the right one, after `normalise_answer`.

    Examples
    --------
    >>> exact_match(["The Beatles", "Kelt"], ["Beatles", "Kilt"])
    array([ True, False])
    """
    pairs = zip(answers, right, strict=True)
    return np.array([normalise_answer(a) == normalise_answer(b) for a, b in pairs], dtype=bool)


def right_answers(questions: pd.DataFrame) -> list[str]:
    """Return the right answer of every question, in words.

    Raises
    ------
    ValueError
        If a question has none; the message names it.
    """
    for row in questions[questions["answer"].isna()].itertuples():
        raise ValueError(f"question {row.question_id} has no right answer to compare with")
    return [row.choices[int(row.answer)] for row in questions.itertuples()]


def forward_tokens(answers: pd.DataFrame) -> pd.DataFrame:
    """Count the tokens that must go through the network for each question, padding left out.

    Parameters
    ----------
    answers : DataFrame
        From `open_answers`, with the judge.

    Returns
    -------
    DataFrame
        One row a question: `answer` (question and answer; perplexity and entropies come with it),
        `judge` (the same and the judge question, after kept states), `judge_anew` (nothing kept:
        question and answer are read once more), `samples` (the answer and the drawn ones, the
        question read once), `samples_anew` (the question read for each).

    Examples
    --------
    Ten tokens of a question, two of the answer and two that end it, a judge question of 30, and
    five drawn answers of four tokens each:

    >>> row = {"prompt_tokens": 10, "answer_tokens": 2, "written_tokens": 4, "judge_tokens": 30}
    >>> forward_tokens(pd.DataFrame([row | {"drawn_tokens": 15, "samples": 5}])).iloc[0].to_dict()
    {'answer': 13, 'judge': 43, 'judge_anew': 55, 'samples': 28, 'samples_anew': 78}
    """
    answer = answers["prompt_tokens"] + answers["written_tokens"] - 1
    whole = answers["prompt_tokens"] + answers["answer_tokens"] + answers["judge_tokens"]
    drawn = answer + answers["drawn_tokens"]
    return pd.DataFrame(
        {
            "answer": answer,
            "judge": answer + answers["judge_tokens"],
            "judge_anew": answer + whole,
            "samples": drawn,
            "samples_anew": drawn + answers["samples"] * answers["prompt_tokens"],
        }
    )


def compare_doubts(
    doubts: pd.DataFrame, correct, reference: str, replicates: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Score several uncertainties by AUROC of errors, each also against one of them.

    Parameters
    ----------
    doubts : DataFrame
        A column an uncertainty, high is uncertain; a row a question.
    correct : array_like of 0 and 1, shape (n,)
    reference : str
        The column that the others are compared with.
    replicates, seed : int
        The same bootstrap replicates over questions for all, so that differences are paired.

    Returns
    -------
    DataFrame
        `score`, `auroc` with percentile interval `low`, `high` (95 %), and `difference` from the
        reference with `difference_low`, `difference_high`. NaN where all answers are right or all
        are wrong.

    Examples
    --------
    >>> doubts = pd.DataFrame({"good": [0.1, 0.2, 0.8, 0.9], "bad": [0.9, 0.1, 0.2, 0.8]})
    >>> compare_doubts(doubts, [1, 1, 0, 0], "good", 100)[["score", "auroc", "difference"]]
      score  auroc  difference
    0  good    1.0         0.0
    1   bad    0.5        -0.5
    """
    weights = bootstrap_weights(len(doubts), replicates, np.random.default_rng(seed))
    plain = {name: selective_scores(doubts[name], correct)[0] for name in doubts}
    drawn = {name: selective_scores(doubts[name], correct, weights)[0] for name in doubts}
    rows = []
    for name, value in plain.items():
        low, high = interval(drawn[name])
        less, more = interval(drawn[name] - drawn[reference])
        rows.append(
            {
                "score": name, "auroc": value, "low": low, "high": high,
                "difference": value - plain[reference],
                "difference_low": less, "difference_high": more,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _check_lengths(model, rows, prompts, more: int) -> None:
    limit = getattr(model.network.config.get_text_config(), "max_position_embeddings", None)
    longest = int(np.argmax([len(prompt) for prompt in prompts]))
    if limit and len(prompts[longest]) + more > limit:
        raise ValueError(
            f"question {rows['question_id'][longest]} has {len(prompts[longest])} tokens and may "
            f"take {more} more, beyond the model's {limit}"
        )


def _check_states(model: LanguageModel) -> None:
    if not shares_prefixes(model.network):
        raise ValueError(
            f"{model.name}: its states cannot be kept and gone on from without changing what it "
            "says; ask it with judge=False, then collect its answers in the prompt style judge"
        )


def _continuation(tokenizer, text: str) -> list[int]:
    """Tokens of a text that goes on from another, without what a tokenizer sets before a text."""
    start = tokenizer("A", add_special_tokens=False).input_ids
    whole = tokenizer("A" + text, add_special_tokens=False).input_ids
    if whole[: len(start)] != start:
        raise ValueError(f"this tokenizer joins the beginning of {text[:20]!r} to what precedes it")
    return whole[len(start) :]


def _write(model: LanguageModel, prompts, max_new_tokens: int, uniform, temperature: float):
    """Write the likeliest answer to prompts of one length, and the drawn ones; keep the states."""
    ending, samples = _ending(model), len(uniform[0])
    log_probs, states = step_log_probs(model.network, prompts)
    drawn, steps = [], []

    def likeliest(values, step):
        chosen = _likeliest(values, ending if step == 0 else None)
        read = [values.gather(1, chosen[:, None])[:, 0], total_entropy(values)]
        steps.append(torch.stack(read, dim=1).cpu())
        return chosen

    if samples:
        numbers = torch.tensor(np.concatenate(uniform)).to(log_probs)
        draw = lambda values, step: _draw(values / temperature, numbers[:, step])
        many = copy.deepcopy(states)
        many.batch_repeat_interleave(samples)
        repeated = log_probs.repeat_interleave(samples, 0)
        drawn = _extend(model.network, repeated, many, max_new_tokens, draw, ending)
    written = _extend(model.network, log_probs, states, max_new_tokens, likeliest, ending)
    steps = torch.stack(steps, dim=1)
    rows = []
    for i, ids in enumerate(written):
        kept, answer = _answer(model.tokenizer, ids, ending)
        others = drawn[i * samples : (i + 1) * samples]
        texts = [_answer(model.tokenizer, other, ending)[1] for other in others]
        log_prob, entropy = steps[i, :kept].T
        rows.append(
            {
                "answer": answer,
                "finished": ending(ids[-1]),
                "log_prob": log_prob.sum().item(),
                "perplexity": (-log_prob.mean()).exp().item(),
                "token_entropy": entropy.mean().item(),
                "first_entropy": steps[i, 0, 1].item(),
                "consistency": exact_match(texts, [answer] * samples).mean() if samples else np.nan,
                "tokens": prompts[i] + ids[:kept],
                "answer_tokens": kept,
                "written_tokens": len(ids),
                "samples": samples,
                "drawn_tokens": sum(len(other) - 1 for other in others),
            }
        )
    return pd.DataFrame(rows), states


def _extend(network, log_probs, states, max_new_tokens: int, choose, ending) -> list[list[int]]:
    """Go on token by token until every row has ended; return each row's tokens, its ending last."""
    tokens = [[] for _ in log_probs]
    for step in range(max_new_tokens):
        if step:
            log_probs, states = step_log_probs(network, [row[-1:] for row in tokens], states)
        chosen = choose(log_probs, step).tolist()
        tokens = [[*row, token] for row, token in zip(tokens, chosen, strict=True)]
        ends = [next((k for k, t in enumerate(row, 1) if ending(t)), 0) for row in tokens]
        if all(ends):
            break
    return [row[: end or len(row)] for row, end in zip(tokens, ends, strict=True)]


def _likeliest(log_probs: torch.Tensor, excluded=None) -> torch.Tensor:
    """Choose the likeliest token of each row, but for those of which `excluded` is true."""
    chosen = log_probs.argmax(-1)
    while excluded and any(out := [excluded(token) for token in chosen.tolist()]):
        log_probs = log_probs.clone()
        log_probs[out, chosen[out]] = -torch.inf
        chosen = log_probs.argmax(-1)
    return chosen


def _draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw a token for each row: the first at which the summed probability passes a number."""
    mass = logits.softmax(-1).cumsum(-1)
    return (mass <= uniform[:, None] * mass[:, -1:]).sum(-1).clamp(max=mass.shape[-1] - 1)


def _ending(model: LanguageModel):
    """Return a function that says of a token whether it ends an answer."""
    more = model.network.generation_config.eos_token_id
    ends = {model.tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])}
    return lru_cache(maxsize=None)(lambda t: t in ends or "\n" in model.tokenizer.decode([t]))


def _answer(tokenizer, ids: list[int], ending) -> tuple[int, str]:
    """Return how many tokens are the answer, without ending and closing full stop, and its text."""
    kept = len(ids) - ending(ids[-1])
    if kept > 1 and tokenizer.decode([ids[kept - 1]]).strip() == ".":
        kept -= 1
    return kept, tokenizer.decode(ids[:kept]).strip()


def _judge(model: LanguageModel, contexts, states, question: list[int], options) -> pd.DataFrame:
    """Read the judge question after each context, longest first, so that states are only cut."""
    kept = np.minimum([len(tokens) for tokens in contexts], states.get_seq_length())
    found = {}
    for length in sorted(set(kept.tolist()), reverse=True):
        states.crop(length - states.get_seq_length())
        rows = np.flatnonzero(kept == length).tolist()
        endings = [contexts[row][length:] + question for row in rows]
        found |= zip(rows, continued_log_probs(model.network, endings, states, rows), strict=True)
    log_probs = torch.stack([found[row] for row in range(len(contexts))])
    columns = reduced(log_probs, [options] * len(contexts))
    true = [np.exp(log_softmax(values)[0]) for values in columns["choice_log_probs"]]
    read = [len(tokens) + len(question) for tokens in contexts] - kept
    return pd.DataFrame({"p_true": true, **columns, "judge_tokens": read})
