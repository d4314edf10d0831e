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
        Whether a beginning-of-sequence token is set before the prompt, where the tokenizer has one.
    """

    before: str
    question: str
    choice: str
    after: str
    bos: bool


TEMPLATES = {
    "survey": Template(
        before=INSTRUCTION + "\n\n",
        question="Question: {text}\n",
        choice="    {label}. {choice}\n",
        after="\nAnswer:",
        bos=True,
    ),
    "survey_published": Template(
        before=INSTRUCTION + "\n",
        question="Question: {text}\n",
        choice=" {label}. {choice}\n",
        after="Answer: ",
        bos=False,
    ),
}


def template(style: str) -> Template:
    """Return the template of a prompt style.

    Raises
    ------
    ValueError
        If the style is unknown; the message lists those there are.

    Examples
    --------
    >>> template("survey").after
    '\\nAnswer:'
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
