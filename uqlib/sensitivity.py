"""Sensitivity: how far do answers move when a question is edited and its meaning is not?

An edit changes the order of the options, their labels, the template, punctuation and spacing, or a
function word. It keeps the way back: a row of the table of edits says which original question was
edited and where each of its options went. All divergences and entropies are in nats, over the n
options, renormalised. The edits and the thresholds of collapse are ours; Hiremath and Hiremath
(2026) leave them open.
"""

import itertools
import math
import re

import numpy as np
import pandas as pd
from scipy.special import entr, rel_entr, softmax

from uqlib.artifacts import sha256_of
from uqlib.collect import collect
from uqlib.models import LanguageModel
from uqlib.prompts import template
from uqlib.questions.schema import LETTERS, check_questions

STRATA = {
    "original": "original",
    "order": "order",
    "label": "wording",
    "template": "wording",
    "punctuation": "wording",
    "synonym": "wording",
}
PARAPHRASES = {
    "survey": ("survey_published", "few_shot"),
    "survey_published": ("survey", "few_shot"),
    "few_shot": ("survey", "survey_published"),
}
SYNONYMS = (
    (r"^Which(?= (?!of\b|ones?\b))", "What"),
    (r"^(What|Who|Where|When|How) is\b", r"\1's"),
    (r"\b(feel|think|talk|speak|hear|worry|opinions?|views?) about\b", r"\1 regarding"),
    (r"\b(do|does|did|is|are|was|were|has|have|would|should|could) not\b", r"\1n't"),
    (r"\bamong\b", "amongst"),
    (r"\buntil\b", "till"),
    (r"\balthough\b", "though"),
    (r"\bin order to\b", "to"),
    (r"\binstead of\b", "rather than"),
    (r"\bbecause of\b", "owing to"),
    (r"\bfor example\b", "for instance"),
    (r"\bprior to\b", "before"),
)
FLOOR = 1e-6
REGIMES = ("A", "B", "C", "D")


def perturb(
    questions: pd.DataFrame, k: int = 8, prompt_style: str = "survey", seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Edit every question `k` times without changing its meaning.

    Half of the edits, fewer if there are no more orders, put the options in another order. The
    others take one edit of each kind in turn (label, template, punctuation, synonym) as far as the
    question allows. No two edits of a question are the same.

    Parameters
    ----------
    questions : DataFrame
        A checked question table.
    k : int
        Edits of each question, at least 1.
    prompt_style : str
        The style of the original, a key of `PARAPHRASES`.
    seed : int
        With the id of the question, not its place in the table, it decides the edits.

    Returns
    -------
    asked : DataFrame
        A checked question table of k + 1 rows a question; the j-th edit of ``q`` has the id
        ``q~j``, the original ``q~0``. Shares and answer follow the options.
    edits : DataFrame
        One row for each of `asked`: `question_id`, `original_id`, `edit` and `stratum` (see
        `STRATA`), `prompt_style`, `label_style`, and `order`: the j-th option asked is option
        ``order[j]`` of the original.

    Raises
    ------
    ValueError
        If the style has no paraphrases, or a question allows fewer than `k` edits.

    Notes
    -----
    The operationalisation of the perturbations of Hiremath and Hiremath (2026) is ours. Templates
    that promise answers are used only for questions that have one.

    Examples
    --------
    >>> table = check_questions(pd.DataFrame([{
    ...     "question_id": "q", "dataset": "demo", "subject": "tea", "text": "Which tea is best?",
    ...     "choices": ["black", "green"], "human_shares": [0.3, 0.7], "answer": None,
    ...     "source": "made up"}]))
    >>> asked, edits = perturb(table, k=5)
    >>> edits["edit"].tolist()
    ['original', 'order', 'label', 'template', 'punctuation', 'synonym']
    >>> asked.text[5], asked.choices[1], asked.human_shares[1].tolist()
    ('What tea is best?', ['green', 'black'], [0.7, 0.3])
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if prompt_style not in PARAPHRASES:
        known = ", ".join(PARAPHRASES)
        raise ValueError(f"prompt style {prompt_style!r} has no paraphrases; known: {known}")
    asked, edits = [], []
    for row in questions.to_dict("records"):
        rng = np.random.default_rng([seed, int(sha256_of(row["question_id"])[:12], 16)])
        orders = _orders(row, k, rng)
        found = list(itertools.islice(_wordings(row, prompt_style, rng), k - len(orders)))
        if len(orders) + len(found) < k:
            raise ValueError(
                f"question {row['question_id']} allows {len(orders) + len(found)} edits, not {k}"
            )
        for number, (edit, changes) in enumerate([("original", {}), *orders, *found]):
            style = changes.pop("prompt_style", prompt_style)
            order = changes.pop("order", list(range(len(row["choices"]))))
            name = f"{row['question_id']}~{number}"
            asked.append(_reordered(row, order) | changes | {"question_id": name})
            edits.append(
                {
                    "question_id": name,
                    "original_id": row["question_id"],
                    "edit": edit,
                    "stratum": STRATA[edit],
                    "prompt_style": style,
                    "label_style": "space" if template(style).joint else "bare",
                    "order": order,
                }
            )
    return check_questions(pd.DataFrame(asked)), pd.DataFrame(edits)


def distract(questions: pd.DataFrame, sentences: list[str], seed: int = 0) -> pd.DataFrame:
    """Put a true but unrelated sentence before every question.

    Parameters
    ----------
    questions : DataFrame
        A checked question table.
    sentences : list of str
        For a question, one is drawn of those that share no word of four letters or more with its
        text and its options.
    seed : int
        With the id of the question it decides the sentence.

    Returns
    -------
    DataFrame
        The same questions, with the same ids and another text.

    Raises
    ------
    ValueError
        If every sentence shares a word with a question; the message names it.

    Examples
    --------
    >>> table = check_questions(pd.DataFrame([{
    ...     "question_id": "q", "dataset": "demo", "subject": "tea", "text": "Which tea is best?",
    ...     "choices": ["black", "green"], "human_shares": [0.3, 0.7], "answer": None,
    ...     "source": "made up"}]))
    >>> distract(table, ["Ravens are black.", "Best of all is rest.", "The ferry sails."]).text[0]
    'The ferry sails. Which tea is best?'
    """
    words = [_long_words(sentence) for sentence in sentences]
    texts = []
    for row in questions.itertuples():
        own = _long_words(" ".join([row.text, *row.choices]))
        unrelated = [s for s, w in zip(sentences, words, strict=True) if not own & w]
        if not unrelated:
            raise ValueError(f"every sentence shares a word with question {row.question_id}")
        rng = np.random.default_rng([seed, int(sha256_of(row.question_id)[:12], 16)])
        texts.append(f"{unrelated[rng.integers(len(unrelated))]} {row.text}")
    return check_questions(questions.assign(text=texts))


def restore(values, order) -> np.ndarray:
    """Put values of the options asked back in the order of the original's options.

    Parameters
    ----------
    values : array_like, shape (n,)
    order : sequence of int
        From the table of edits.

    Examples
    --------
    >>> restore([0.5, 0.3, 0.2], [2, 0, 1])
    array([0.3, 0.2, 0.5])
    """
    return np.asarray(values)[np.argsort(order)]


def collect_edits(
    model: LanguageModel, asked: pd.DataFrame, edits: pd.DataFrame, **settings
) -> pd.DataFrame:
    """Ask a model every edit, each in its own prompt style.

    Parameters
    ----------
    model : LanguageModel
    asked, edits : DataFrame
        From `perturb`.
    **settings
        Of `uqlib.collect.plan_collection`, but for the two styles.

    Returns
    -------
    DataFrame
        A response table; rows are grouped by prompt style, since these share their beginnings.
    """
    frames = [
        collect(model, part, prompt_style=style, label_style=labels, **settings)
        for style, labels, part in by_style(asked, edits)
    ]
    return pd.concat(frames, ignore_index=True)


def by_style(asked: pd.DataFrame, edits: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Return prompt style, label style and questions of every collection that edits need."""
    return [
        (style, labels, asked[asked["question_id"].isin(part["question_id"])])
        for (style, labels), part in edits.groupby(["prompt_style", "label_style"], sort=False)
    ]


def edited_answers(responses: pd.DataFrame, edits: pd.DataFrame) -> pd.DataFrame:
    """Give each answer to an edit back to its original question.

    Parameters
    ----------
    responses : DataFrame
        Answers to the questions asked, of any number of models.
    edits : DataFrame
        From `perturb`.

    Returns
    -------
    DataFrame
        Columns `model`, `dataset`, `question_id` (of the original), `edit`, `stratum`, and `p`: the
        probabilities of the original's options, in its order, renormalised.

    Raises
    ------
    ValueError
        If a model's answer to an edit is missing; the message names both.
    """
    columns = ["question_id", "original_id", "edit", "stratum", "order"]
    joined = responses.merge(edits[columns], on="question_id", how="inner", validate="m:1")
    for model, part in joined.groupby("model"):
        missing = set(edits["question_id"]) - set(part["question_id"])
        if missing:
            raise ValueError(f"{model}: no answer to {min(missing)}")
    joined["p"] = [
        restore(softmax(np.asarray(values, dtype=float)), order)
        for values, order in zip(joined["choice_log_probs"], joined["order"], strict=True)
    ]
    joined["question_id"] = joined["original_id"]
    return joined[["model", "dataset", "question_id", "edit", "stratum", "p"]]


def kl_divergence(p, q) -> np.ndarray:
    """Kullback-Leibler divergence of `q` from `p`, in nats, over the last axis.

    Probabilities below `FLOOR` are raised to it, then renormalised, so the value is finite: at
    most about 13.8.

    Examples
    --------
    >>> kl_divergence([0.5, 0.5], [0.9, 0.1]).round(4)
    np.float64(0.5108)
    """
    p, q = (np.maximum(np.asarray(x, dtype=float), FLOOR) for x in (p, q))
    p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
    return np.maximum(rel_entr(p, q).sum(-1), 0)


def js_divergence(p, q) -> np.ndarray:
    """Jensen-Shannon divergence, in nats, over the last axis; in [0, ln 2].

    Examples
    --------
    >>> js_divergence([1.0, 0.0], [0.0, 1.0]).round(4)
    np.float64(0.6931)
    """
    p, q = (np.asarray(x, dtype=float) for x in (p, q))
    middle = (p + q) / 2
    return np.maximum((rel_entr(p, middle) + rel_entr(q, middle)).sum(-1) / 2, 0)


def sensitivity_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Measure sensitivity and entropy of every model and question.

    Parameters
    ----------
    answers : DataFrame
        From `edited_answers`.

    Returns
    -------
    DataFrame
        One row a model, question and stratum (`all`, `order`, `wording`). `n_choices`,
        `predicted` and `entropy` (nats) are of the original; `edits` counts; `kl` and `js` are
        means over edits, `kl_max` and `js_max` maxima, in nats; `same` is the share of edits
        that keep the predicted option.

    Raises
    ------
    ValueError
        If a question has not exactly one original answer.

    Notes
    -----
    `kl` is the published sensitivity, an expectation over perturbations. The paper's bounds need a
    supremum, for which the maximum stands in. `js` is bounded, and so comparable with entropy.
    """
    rows = []
    for (model, dataset, name), part in answers.groupby(
        ["model", "dataset", "question_id"], sort=False
    ):
        original = part.loc[part["edit"] == "original", "p"]
        if len(original) != 1:
            raise ValueError(f"{model}, question {name}: {len(original)} original answers, not 1")
        p = original.iloc[0]
        edited = part[part["edit"] != "original"]
        q = np.stack(edited["p"].tolist())
        kl, js, same = kl_divergence(p, q), js_divergence(p, q), q.argmax(-1) == p.argmax()
        for stratum in ("all", "order", "wording"):
            chosen = (edited["stratum"] == stratum).to_numpy() | (stratum == "all")
            if not chosen.any():
                continue
            rows.append(
                {
                    "model": model,
                    "dataset": dataset,
                    "question_id": name,
                    "stratum": stratum,
                    "n_choices": len(p),
                    "predicted": p.argmax(),
                    "entropy": entr(p).sum(),
                    "edits": chosen.sum(),
                    "kl": kl[chosen].mean(),
                    "js": js[chosen].mean(),
                    "kl_max": kl[chosen].max(),
                    "js_max": js[chosen].max(),
                    "same": same[chosen].mean(),
                }
            )
    return pd.DataFrame(rows)


def sua(sensitivity, entropy, weight: float = 1.0) -> np.ndarray:
    """Sensitivity-uncertainty score S - lambda H, in nats; `weight` is lambda.

    Notes
    -----
    Hiremath and Hiremath (2026). A heuristic: the bounds claimed for it do not hold (chapter 61).

    Examples
    --------
    >>> sua([0.4, 0.0], [0.1, 0.7]).round(2)
    array([ 0.3, -0.7])
    """
    return np.asarray(sensitivity, dtype=float) - weight * np.asarray(entropy, dtype=float)


def regimes(sensitivity, entropy) -> np.ndarray:
    """Sort questions into four regimes by the medians of sensitivity and entropy.

    A: both low; B: both high; C: steady and uncertain; D: unsteady and sure, the failure regime.
    A value at the median counts as low.

    Examples
    --------
    >>> regimes([0, 1, 0, 1], [0, 1, 1, 0])
    array(['A', 'B', 'C', 'D'], dtype='<U1')
    """
    unsteady, unsure = (np.asarray(x) > np.median(x) for x in (sensitivity, entropy))
    return np.array(REGIMES)[np.select([unsteady & unsure, unsure, unsteady], [1, 2, 3], 0)]


def strict_failures(sensitivity, entropy) -> np.ndarray:
    """Tell which questions are in the strict failure regime.

    Sensitivity lies above its upper quartile there, entropy below its lower one.

    Examples
    --------
    >>> strict_failures([0, 1, 2, 3, 9], [4, 3, 2, 2, 0])
    array([False, False, False, False,  True])
    """
    s, h = (np.asarray(x, dtype=float) for x in (sensitivity, entropy))
    return (s > np.quantile(s, 0.75)) & (h < np.quantile(h, 0.25))


def ambiguity_collapse(p, q) -> float:
    """Ambiguity collapse AC: by how much a model is surer than people are of each other.

    Parameters
    ----------
    p, q : array_like, shape (n,)
        Probabilities of the model, shares of people.

    Returns
    -------
    float
        ``max(H(q) - H(p), 0) / ln n``, in [0, 1].

    Notes
    -----
    The paper names the collapse and gives no formula for data; this one is ours.

    Examples
    --------
    >>> round(ambiguity_collapse([0.9, 0.1], [0.5, 0.5]), 3)
    0.531
    """
    p, q = (np.asarray(x, dtype=float) for x in (p, q))
    return float(max(entr(q).sum() - entr(p).sum(), 0) / math.log(len(p)))


def collapse_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Measure ambiguity collapse of every answer, people's shares beside the model's.

    Parameters
    ----------
    answers : DataFrame
        With columns `choice_log_probs` and `human_shares`.

    Returns
    -------
    DataFrame
        A row an answer, same index: `divided`, people's entropy over ln n; `unsure`, the model's
        over ln n; `confidence`, its largest probability; `collapse`, see `ambiguity_collapse`. The
        probabilities are over the options, renormalised.

    Raises
    ------
    ValueError
        If the probabilities of the options are missing; the message names model and question.

    Examples
    --------
    >>> collapse_table(pd.DataFrame({
    ...     "choice_log_probs": [np.log([0.18, 0.02])], "human_shares": [[0.5, 0.5]]})).round(3)
       divided  unsure  confidence  collapse
    0      1.0   0.469         0.9     0.531
    """
    for row in answers[answers["choice_log_probs"].isna()].itertuples():
        raise ValueError(f"{row.model}: no probabilities of the options of {row.question_id}")
    found = np.empty((len(answers), 3))
    counts = answers["human_shares"].map(len).to_numpy()
    for n in np.unique(counts):
        rows = np.flatnonzero(counts == n)
        part = answers.iloc[rows]
        q = np.stack(part["human_shares"].tolist()).astype(float)
        p = softmax(np.stack(part["choice_log_probs"].tolist()).astype(float), axis=-1)
        found[rows, 0] = entr(q / q.sum(-1, keepdims=True)).sum(-1) / math.log(n)
        found[rows, 1] = entr(p).sum(-1) / math.log(n)
        found[rows, 2] = p.max(-1)
    table = pd.DataFrame(found, answers.index, ["divided", "unsure", "confidence"])
    return table.assign(collapse=(table["divided"] - table["unsure"]).clip(lower=0))


def _long_words(text: str) -> set[str]:
    return set(re.findall(r"\w{4,}", text.lower()))


def _orders(row: dict, k: int, rng: np.random.Generator) -> list[tuple[str, dict]]:
    """Draw different orders of the options, none of them the original's."""
    n = len(row["choices"])
    wanted = min(k // 2, math.factorial(n) - 1)
    orders = {}
    while len(orders) < wanted:
        order = tuple(map(int, rng.permutation(n)))
        if order != tuple(range(n)):
            orders[order] = None
    return [("order", {"order": list(order)}) for order in orders]


def _wordings(row: dict, prompt_style: str, rng: np.random.Generator):
    """Yield edits that keep the order: the first of each kind, the second of each, ..."""
    labels = list(row["labels"])
    n = len(labels)
    other = LETTERS[:n] if labels != LETTERS[:n] else [str(i + 1) for i in range(n)]
    styles = [
        style
        for style in PARAPHRASES[prompt_style]
        if style != "few_shot" or not pd.isna(row["answer"])
    ]
    kinds = {
        "label": [{"labels": other}] if other[-1] in LETTERS or n <= 9 else [],
        "template": [{"prompt_style": style} for style in styles],
        "punctuation": _punctuations(row["text"], list(row["choices"])),
        "synonym": [
            {"text": text}
            for pattern, words in SYNONYMS
            if (text := re.sub(pattern, words, row["text"], count=1)) != row["text"]
        ],
    }
    drawn = [
        [(kind, found[i]) for i in rng.permutation(len(found))] for kind, found in kinds.items()
    ]
    for edits in itertools.zip_longest(*drawn):
        yield from filter(None, edits)


def _punctuations(text: str, choices: list[str]) -> list[dict]:
    body, mark = re.fullmatch(r"(.*?)\s*([?.!:]?)\s*", text, re.DOTALL).groups()
    texts = [f"{body} {mark or '.'}", body if mark else f"{body}:", f"{text}\n"]
    if " " in text:
        texts.append(text.replace(" ", "  "))
    ended = any(choice.rstrip().endswith((".", "?", "!")) for choice in choices)
    stopped = [] if ended else [{"choices": [f"{choice}." for choice in choices]}]
    return [{"text": t} for t in texts if t != text] + stopped


def _reordered(row: dict, order: list[int]) -> dict:
    """Put the options of a question in another order; shares and answer follow, labels stay."""
    shares, answer = row["human_shares"], row["answer"]
    return row | {
        "choices": [row["choices"][i] for i in order],
        "human_shares": None if shares is None else [shares[i] for i in order],
        "answer": pd.NA if pd.isna(answer) else order.index(answer),
    }
