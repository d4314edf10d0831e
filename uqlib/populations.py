"""Populations: one model made into many members by dropout masks that stay fixed.

A member is a sub-network, its *identity* a mask over the units of some places of the network. The
mask does not depend on question, batch or position, so a member is the same for every question it
is asked, and beginnings of prompts may be computed once *within* a member. Keys and values kept
from one member are wrong for the next; nothing here hands them on.
"""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from scipy.stats import entropy
from transformers import PreTrainedModel

from uqlib.collect import BATCH_TOKENS, plan_collection, run_plan
from uqlib.forward import next_token_log_probs, plan_batches, prefix_reader, shares_prefixes
from uqlib.models import LanguageModel, encode_prompts
from uqlib.prompts import render_questions, template
from uqlib.responses import check_responses

MLP_OUTPUTS = ("mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "fc2")
REPORT_WORDS = ("best", "worst")


def draw_identities(
    network: PreTrainedModel,
    members: int = 20,
    rate: float = 0.1,
    seed: int = 0,
    places: tuple[str, ...] = MLP_OUTPUTS,
) -> list[dict[str, torch.Tensor]]:
    """Draw the dropout masks of the members of a population.

    Parameters
    ----------
    network : PreTrainedModel
    members : int
        The first members do not depend on how many follow.
    rate : float
        Share of units switched off, in [0, 1); the others are divided by 1 - rate.
    seed : int
    places : tuple of str
        Endings of the names of the modules whose outputs are masked; by default the last layer of
        every block's perceptron.

    Returns
    -------
    list of dict of str to Tensor
        For each member the mask of each place, float32, shape (units,).

    Raises
    ------
    ValueError
        If the rate is out of range or no module has such a name; the message lists those there are.

    Notes
    -----
    Stratified dropout after Roberts et al. (2024). Their library masks the same place in models
    that have no dropout of their own, at the same default rate and number of members. One release
    of it drew a row of the mask for each prompt of a batch, a later one a single mask, as here.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the dropout rate must lie in [0, 1), not {rate}")
    widths = {
        name: getattr(module, "out_features", None) or module.nf
        for name, module in network.named_modules()
        if name.endswith(tuple(places))
    }
    if not widths:
        names = sorted({".".join(n.split(".")[-2:]) for n, _ in network.named_modules() if n})
        raise ValueError(f"no module's name ends in {places}; there are: {', '.join(names)}")
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: (torch.rand(width, generator=generator) >= rate) / (1 - rate)
            for name, width in widths.items()
        }
        for _ in range(members)
    ]


@contextmanager
def dropout_identity(network: PreTrainedModel, identity: dict[str, torch.Tensor]):
    """Within the block the network is one member; after it, also after an error, itself again.

    Parameters
    ----------
    network : PreTrainedModel
    identity : dict of str to Tensor
        One entry of `draw_identities`.

    Raises
    ------
    ValueError
        If the network has no module of that name.
    """
    modules = dict(network.named_modules())
    for name in identity.keys() - modules.keys():
        raise ValueError(f"this identity belongs to another model: there is no module {name!r}")
    handles = []
    try:
        for name, mask in identity.items():
            handles.append(modules[name].register_forward_hook(_times(mask)))
        yield network
    finally:
        for handle in handles:
            handle.remove()


def ask_population(
    model: LanguageModel,
    questions: pd.DataFrame,
    identities: list[dict[str, torch.Tensor]],
    rate: float,
    **settings,
) -> pd.DataFrame:
    """Ask every member of a population every question.

    Parameters
    ----------
    model : LanguageModel
    questions : DataFrame
        A checked question table.
    identities : list
        From `draw_identities`.
    rate : float
        The rate they were drawn with, for the column `dropout_rate`.
    **settings
        Those of `uqlib.collect.plan_collection`.

    Returns
    -------
    DataFrame
        A checked response table of condition ``population``; `pass_index` counts the members.
    """
    plan = plan_collection(model, questions, condition="population", **settings)
    tables = []
    for member, identity in enumerate(identities):
        with dropout_identity(model.network, identity):
            table = run_plan(model, plan)
        tables.append(table.assign(pass_index=member, dropout_rate=rate))
    return check_responses(pd.concat(tables, ignore_index=True))


def self_report(
    model: LanguageModel,
    questions: pd.DataFrame,
    chosen,
    words: tuple[str, str] = REPORT_WORDS,
    prompt_style: str = "survey",
) -> pd.DataFrame:
    r"""Let a model say whether its own answer is the best or the worst.

    The prompt of the question goes on with the label that was chosen and ``\nThis answer is``. Of
    either word the first token is read, after a space.

    Parameters
    ----------
    model : LanguageModel
        Within `dropout_identity`, a member reports.
    questions : DataFrame
        A checked question table.
    chosen : sequence of int
        For each question, the option whose label is put as the answer.
    words : tuple of str
        The good and the bad word.
    prompt_style : str
        How the question was put; see `uqlib.prompts`.

    Returns
    -------
    DataFrame
        `question_id`; `report`, P(good) / (P(good) + P(bad)), a certainty in [0, 1]; `word_mass`,
        P(good) + P(bad), which says whether the model took the question for one.

    Raises
    ------
    ValueError
        If both words begin with the same token.

    Notes
    -----
    The words are those of code left in the release of Moore et al. (2025); that the label stands
    for the answer, and the ratio, are ours.
    """
    texts = [
        f"{text} {labels[choice]}\nThis answer is"
        for text, labels, choice in zip(
            render_questions(questions, prompt_style), questions["labels"], chosen, strict=True
        )
    ]
    tokens = [model.tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in words]
    if tokens[0] == tokens[1]:
        raise ValueError(f"{words[0]!r} and {words[1]!r} begin with the same token")
    prompts = encode_prompts(model.tokenizer, texts, template(prompt_style).bos)
    batch_tokens = BATCH_TOKENS[model.network.device.type]
    read, found = prefix_reader(model.network), torch.empty(len(prompts), 2)
    for batch in plan_batches(prompts, batch_tokens, shares_prefixes(model.network)):
        rows = [prompts[i] for i in batch.rows]
        log_probs = next_token_log_probs(model.network, rows, batch.shared, read)
        found[batch.rows] = log_probs[:, tokens].cpu()
    return pd.DataFrame(
        {
            "question_id": questions["question_id"].to_numpy(),
            "report": found.softmax(-1)[:, 0].numpy(),
            "word_mass": found.exp().sum(-1).numpy(),
        }
    )


def answer_frequency(choice_log_probs) -> np.ndarray:
    """Return the expected share of the likeliest option among drawn answers: a certainty.

    Parameters
    ----------
    choice_log_probs : array_like, shape (..., n)
        Log-probability of each option label; renormalised here.

    Returns
    -------
    ndarray, shape (...)
        In [1/n, 1].

    Notes
    -----
    Answers are drawn at temperature 1. The code left in the release of Moore et al. (2025) takes
    100 P(choice) for the count of a choice among 100 answers. Answers that are really drawn give a
    larger value, on average, because the count of the most frequent one is a maximum.

    Examples
    --------
    >>> answer_frequency(np.log([0.3, 0.2])).round(3)
    np.float64(0.6)
    """
    return softmax(np.asarray(choice_log_probs, float), axis=-1).max(-1)


def population_variance(choice_log_probs) -> float:
    """Variance of a probability over members, mean over options; an uncertainty.

    Parameters
    ----------
    choice_log_probs : array_like, shape (members, n)
        Renormalised over the options of each member.

    Returns
    -------
    float
        In [0, (1 - 1/n) / n]; the divisor is the number of members.

    Notes
    -----
    For the ensemble family of Moore et al. (2026) no formula was found; this one is ours.

    Examples
    --------
    Half of the members sure of the one option, half of the other:

    >>> population_variance(np.log([[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9]])).round(6)
    np.float64(0.25)
    """
    return softmax(np.asarray(choice_log_probs, float), axis=-1).var(axis=0).mean()


def population_measures(responses: pd.DataFrame) -> pd.DataFrame:
    """Reduce the answers of a population to one row a question.

    Parameters
    ----------
    responses : DataFrame
        Of `ask_population`; each question answered by the same number of members.

    Returns
    -------
    DataFrame
        `model`, `dataset`, `question_id`, `n_choices`, `members`; `predicted`, the likeliest option
        of the mean; `population_variance`; `population_agreement`, the share of members whose
        likeliest option is the most common one; `population_entropy`, of the mean probabilities,
        and `member_entropy`, the mean over members, both divided by ln n.

    Raises
    ------
    ValueError
        If some question was answered by fewer members; the message names it.
    """
    keys = ["model", "dataset", "question_id"]
    rows = []
    for key, answers in responses.groupby(keys, sort=False):
        log_probs = np.stack(list(answers["choice_log_probs"]))
        p = softmax(log_probs.astype(float), axis=-1)
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "n_choices": p.shape[1],
                "members": len(p),
                "predicted": p.mean(axis=0).argmax(),
                "population_variance": population_variance(log_probs),
                "population_agreement": np.bincount(p.argmax(axis=1)).max() / len(p),
                "population_entropy": entropy(p.mean(axis=0)) / np.log(p.shape[1]),
                "member_entropy": entropy(p, axis=1).mean() / np.log(p.shape[1]),
            }
        )
    table = pd.DataFrame(rows)
    short = table[table["members"] < table["members"].max()]
    if len(short):
        first = short.iloc[0]
        raise ValueError(f"question {first.question_id} was answered by {first.members} members")
    return table


def _times(mask: torch.Tensor):
    def hook(module, inputs, output):
        return output * mask.to(output)

    return hook
