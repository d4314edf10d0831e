"""Prompts as data: a template says how a question becomes text, and has a hash.

Two styles put the survey question of Moore et al. (2025), Figure 1: `survey`, as the figure
prints it, and `survey_published`, as the released code sent it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

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
        Text up to the question; the same for all questions, so it can be computed once.
    question, choice, after : str
        Format strings for the question (``text``), each option (``label``, ``choice``) and the end.
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


def render(text: str, choices, labels, style: str = "survey") -> str:
    """Write one question as a prompt.

    Parameters
    ----------
    text : str
        The question.
    choices, labels : sequence of str
        The options and their labels, of equal length.
    style : str
        A key of `TEMPLATES`.

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
    options = "".join(
        parts.choice.format(label=label, choice=choice)
        for label, choice in zip(labels, choices, strict=True)
    )
    return parts.before + parts.question.format(text=text) + options + parts.after


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
