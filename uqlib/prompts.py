"""Prompts as data: a template says how a question becomes text, and has a hash.

`survey` puts a question as Figure 1 of Moore et al. (2025) prints it, `survey_published` as their
released code sent it. `few_shot` is the form of Hendrycks et al. (2020), with or without solved
examples. `counterfactual` and `judge` ask about one proposed answer at a time. `dilemma` puts two
cases; `dilemma_published` ends as the released code of Kwon et al. (2025) does. `verbatim` sends
the text of a question as it is: a prompt that was written elsewhere.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import pandas as pd

from uqlib.questions.schema import check_questions

INSTRUCTION = (
    "Following is a question and a selection of answer choices. "
    "Provide the label for the answer with which you most agree."
)


@dataclass(frozen=True)
class Template:
    """How a question is written out.

    Attributes
    ----------
    before : str
        Text up to the question or its examples; may name the ``subject``.
    question, choice, after : str
        Format strings for the question (``text``), each option (``label``, ``choice``) and the end.
        An empty `choice` leaves the options out.
    bos : bool
        Whether the prompt begins with the tokenizer's beginning-of-sequence token, if it sets one.
    joint : bool
        Whether labels are encoded together with the prompt. The released code of Moore et al.
        encoded the bare letters alone, although its prompt ends in a space.
    """

    before: str
    question: str
    choice: str
    after: str
    bos: bool
    joint: bool


LABEL_STYLES = ("space", "bare", "sum")
COUNTERFACTUAL = {"choices": ["yes", "no"], "labels": ["Yes", "No"]}
JUDGE = {"choices": ["true", "false", "neutral"], "labels": ["A", "B", "C"]}
TEMPLATES = {
    "survey": Template(
        before=INSTRUCTION + "\n\n",
        question="Question: {text}\n",
        choice="    {label}. {choice}\n",
        after="\nAnswer:",
        bos=True,
        joint=True,
    ),
    "survey_published": Template(
        before=INSTRUCTION + "\n",
        question="Question: {text}\n",
        choice=" {label}. {choice}\n",
        after="Answer: ",
        bos=False,
        joint=False,
    ),
    "few_shot": Template(
        before="The following are multiple choice questions (with answers) about {subject}.\n\n",
        question="{text}\n",
        choice="{label}. {choice}\n",
        after="Answer:",
        bos=True,
        joint=True,
    ),
    "counterfactual": Template(
        before="",
        question="Question: {text}\n",
        choice="",
        after="Is this the answer you agree with most? Yes or No.\nAnswer:",
        bos=True,
        joint=True,
    ),
    "judge": Template(
        before="",
        question="Question: {text}\nIs this answer to the question true, false or neutral?\n",
        choice="{label}. {choice}\n",
        after="Answer:",
        bos=True,
        joint=True,
    ),
    "dilemma": Template(
        before="",
        question="{text}\n",
        choice="Case {label}: {choice}\n",
        after="\nAnswer: Case",
        bos=True,
        joint=True,
    ),
    "dilemma_published": Template(
        before="Please respond to binary questions.\n\n",
        question="{text}\n",
        choice="Case {label}. {choice}\n",
        after="Case ",
        bos=True,
        joint=False,
    ),
    "verbatim": Template(
        before="",
        question="{text}",
        choice="",
        after="",
        bos=False,
        joint=True,
    ),
}


def template(style: str) -> Template:
    r"""Return the template of a prompt style.

    Raises
    ------
    ValueError
        If the style is unknown; the message lists those there are.

    Examples
    --------
    >>> template("survey").after
    '\nAnswer:'
    """
    if style not in TEMPLATES:
        raise ValueError(f"unknown prompt style {style!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[style]


def template_hash(style: str) -> str:
    """SHA-256 of a template, written into every manifest.

    Examples
    --------
    >>> template_hash("survey") == template_hash("survey_published")
    False
    """
    text = json.dumps(asdict(template(style)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def render(text: str, choices, labels, style: str = "survey", subject: str = "") -> str:
    """Write one question as a prompt.

    Parameters
    ----------
    text : str
        The question.
    choices, labels : sequence of str
        The options and their labels, of equal length.
    style : str
        A key of `TEMPLATES`.
    subject : str
        Named by `few_shot` only.

    Returns
    -------
    str
        Ends without a newline, where the model's answer begins.

    Notes
    -----
    Moore et al. (2025), Figure 1. The published style follows the released code.

    Examples
    --------
    >>> print(render("Tea or coffee?", ["tea", "coffee"], ["A", "B"]))
    Following is a question and a selection of answer choices. Provide the label for the answer with which you most agree.
    <BLANKLINE>
    Question: Tea or coffee?
        A. tea
        B. coffee
    <BLANKLINE>
    Answer:
    """  # noqa: E501
    parts = template(style)
    return parts.before.format(subject=subject) + _body(parts, text, choices, labels)


def render_questions(
    questions: pd.DataFrame,
    style: str = "survey",
    shots: int = 0,
    examples: pd.DataFrame | None = None,
) -> list[str]:
    """Write every question of a table as a prompt, with solved examples before it if asked for.

    Parameters
    ----------
    questions : DataFrame
        A checked question table.
    style : str
        A key of `TEMPLATES`.
    shots : int
        Examples before each question: the first ones of its subject.
    examples : DataFrame, optional
        A checked question table with answers; needed if `shots` is not 0.

    Raises
    ------
    ValueError
        If a subject has fewer examples than `shots`, an example has no answer or is the question
        itself; the message names it.
    """
    parts = template(style)
    if shots < 0:
        raise ValueError(f"shots must not be negative: {shots}")
    if shots and examples is None:
        raise ValueError(f"{shots} shots need a table of examples")
    solved = {
        subject: _examples(parts, examples, subject, shots, set(rows["text"]))
        for subject, rows in questions.groupby("subject", sort=False)
    }
    return [
        parts.before.format(subject=row.subject)
        + solved[row.subject]
        + _body(parts, row.text, row.choices, row.labels)
        for row in questions.itertuples()
    ]


def propose(
    questions: pd.DataFrame, answers: list[list[str]], choices: list[str], labels: list[str]
) -> pd.DataFrame:
    """Make one question of every question and proposed answer, to be judged by one of `choices`.

    Parameters
    ----------
    questions : DataFrame
        A checked question table.
    answers : list of list of str
        For each question, the answers to propose: its options (`counterfactual`), or what a model
        has written (`judge`).
    choices, labels : list of str
        ``**COUNTERFACTUAL`` or ``**JUDGE``.

    Returns
    -------
    DataFrame
        A checked question table; the k-th answer of question ``q`` has the id ``q#k``.

    Notes
    -----
    Counterfactual prompting after Roberts et al. (2024), judging after Moore et al. (2025), section
    6.2; neither paper prints a prompt, so the words are ours.
    """
    rows = [
        {
            "question_id": f"{row.question_id}#{k}",
            "dataset": row.dataset,
            "subject": row.subject,
            "text": f"{row.text}\nProposed answer: {answer}",
            "choices": choices,
            "labels": labels,
            "human_shares": None,
            "answer": None,
            "source": row.source,
        }
        for row, proposed in zip(questions.itertuples(), answers, strict=True)
        for k, answer in enumerate(proposed)
    ]
    return check_questions(pd.DataFrame(rows))


def _body(parts: Template, text: str, choices, labels) -> str:
    options = "".join(
        parts.choice.format(label=label, choice=choice)
        for label, choice in zip(labels, choices, strict=True)
    )
    return parts.question.format(text=text) + options + parts.after


def _examples(parts: Template, examples, subject: str, shots: int, asked: set[str]) -> str:
    if not shots:
        return ""
    chosen = examples[examples["subject"] == subject][:shots]
    if len(chosen) < shots:
        raise ValueError(f"{shots} shots, but {len(chosen)} examples of {subject!r}")
    texts = []
    for row in chosen.itertuples():
        if pd.isna(row.answer):
            raise ValueError(f"example {row.question_id} has no answer")
        if row.text in asked:
            raise ValueError(f"example {row.question_id} is also a question asked")
        space = "" if parts.after.endswith(" ") else " "
        body = _body(parts, row.text, row.choices, row.labels)
        texts.append(body + space + row.labels[row.answer] + "\n\n")
    return "".join(texts)


def label_spellings(label: str, label_style: str) -> list[str]:
    """Return the texts that count as an answer with this label, right after the prompt.

    Parameters
    ----------
    label : str
    label_style : {"space", "bare", "sum"}
        `space`: the label after a space. `bare`: the label alone. `sum`: either, in upper or lower
        case; their probabilities are added.

    Raises
    ------
    ValueError
        If the style is unknown.

    Examples
    --------
    >>> label_spellings("A", "space"), label_spellings("A", "sum")
    ([' A'], [' A', 'A', ' a', 'a'])
    """
    spellings = {
        "space": [f" {label}"],
        "bare": [label],
        "sum": [f" {label}", label, f" {label.lower()}", label.lower()],
    }
    if label_style not in spellings:
        known = ", ".join(LABEL_STYLES)
        raise ValueError(f"unknown label style {label_style!r}; known: {known}")
    return spellings[label_style]
