"""Published outputs of real models: per-question results of others, as response tables.

The source is the data release of Moore et al.: for each model one parquet file with the prompt, the
measures, and the log-probability of each option label (added over its one-token spellings).
"""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

from uqlib.artifacts import read_parquet, sha256_of_file
from uqlib.measures import MEASURES, TOP_K, TOP_P
from uqlib.questions.schema import LETTERS
from uqlib.responses import check_responses

MASS_TOLERANCE = 0.01
QUOTES = str.maketrans("“”‘’", "\"\"''")


def published_models(folder: Path) -> list[str]:
    """Return the models whose outputs a folder holds, in alphabetical order."""
    prefix = f"{Path(folder).name}_"
    names = (file.stem.removeprefix(prefix) for file in Path(folder).glob(f"{prefix}*.parquet"))
    return sorted(name for name in names if name != "data")


def published_path(folder: Path, model: str) -> Path:
    """Return the file of a model's published outputs.

    Examples
    --------
    >>> published_path(Path("published/coane"), "Gemma_2B").as_posix()
    'published/coane/coane_Gemma_2B.parquet'
    """
    return Path(folder) / f"{Path(folder).name}_{model}.parquet"


def load_published(folder: Path, model: str, questions: pd.DataFrame) -> pd.DataFrame:
    """Read one model's published multiple-choice outputs as a response table.

    Parameters
    ----------
    folder : Path
        Named after the data set, e.g. ``published/coane``; holds ``coane_<model>.parquet``.
    model : str
        The model's name in the file name.
    questions : DataFrame
        The question table, in the order of the published file.

    Returns
    -------
    DataFrame
        A checked response table. Most probabilities were rounded (`published_dtype`): where the
        options sum to a little more than one (at most `MASS_TOLERANCE`), `option_mass` is 1.

    Raises
    ------
    ValueError
        If a row asks another question, or its prediction is not the likeliest option, or its
        options sum to more; the message names file, row and value.
    """
    path = published_path(folder, model)
    published = read_parquet(path)
    _check_questions_match(published, questions, path.name)
    log_probs = [np.asarray(row, dtype=np.float32) for row in published["mc_choice-pdf"]]
    predicted = [LETTERS.index(letter) for letter in published["cloze_pred"]]
    mass = np.array([np.exp(row, dtype=float).sum() for row in log_probs])
    for row, (values, choice) in enumerate(zip(log_probs, predicted, strict=True), start=1):
        if values.argmax() != choice:
            raise ValueError(f"{path.name}, row {row}: {LETTERS[choice]} is not the likeliest")
        if not mass[row - 1] <= 1 + MASS_TOLERANCE:
            raise ValueError(f"{path.name}, row {row}: the options sum to {mass[row - 1]:.3f}")
    table = pd.DataFrame(
        {
            "model": model,
            "dataset": questions["dataset"].to_numpy(),
            "question_id": questions["question_id"].to_numpy(),
            "n_choices": [len(row) for row in log_probs],
            "choice_log_probs": log_probs,
            "option_mass": mass.clip(max=1).astype(np.float32),
            "predicted": predicted,
            "condition": "plain",
            "dropout_rate": np.float32(0),
            "pass_index": 0,
            "prompt_style": "few_shot",
            "label_style": "sum",
            "shots": 2,
            "top1_probability": np.exp(published["mc_top-1-prob"]),
            "total_entropy": published["mc_total-ent"],
            "choice_entropy": published["mc_choice-ent"],
            **{f"top_k_entropy_{k}": published[f"mc_top-k-ent-{k}"] for k in TOP_K},
            **{f"top_p_size_{p}": published[f"mc_top-p-len-{p / 100:g}"] for p in TOP_P},
            **{f"top_p_entropy_{p}": published[f"mc_top-p-ent-{p / 100:g}"] for p in TOP_P},
        }
    )
    return check_responses(table)


def published_manifest(folder: Path, model: str) -> dict:
    """Return the manifest of an imported table: where it came from, and the file's checksum."""
    path = published_path(folder, model)
    return {
        "model": model,
        "imported_from": path.name,
        "sha256": sha256_of_file(path),
        "condition": "plain",
        "prompt_style": "few_shot",
        "label_style": "sum",
        "shots": 2,
        "dtype": published_dtype(folder, model),
        "top_p_rule": "nucleus",
    }


def prompt_endings(folder: Path, model: str, length: int = 1) -> pd.Series:
    """Count the last characters of a model's published multiple-choice prompts.

    Returns
    -------
    Series
        Counts indexed by the ending.
    """
    path = published_path(folder, model)
    return read_parquet(path)["formatted_question_mcqa"].str[-length:].value_counts()


def published_dtype(folder: Path, model: str) -> str:
    """Return the shortest type that holds all of a model's published log-probabilities.

    Returns
    -------
    str
        `bfloat16`, `float16` or `float32`: the precision in which they were computed, or a shorter
        one that happens to hold them.
    """
    rows = read_parquet(published_path(folder, model))["mc_choice-pdf"]
    return shortest_dtype(np.concatenate([np.asarray(row) for row in rows]))


def shortest_dtype(values) -> str:
    """Return the shortest of bfloat16, float16 and float32 that holds all finite values unchanged.

    Parameters
    ----------
    values : array_like
        Read as float32.

    Examples
    --------
    >>> [shortest_dtype([value]) for value in (-1.90625, -4.06640625, -0.1)]
    ['bfloat16', 'float16', 'float32']
    """
    found = np.asarray(values, dtype=np.float32)
    found = found[np.isfinite(found)]
    if not (found.view(np.uint32) & 0xFFFF).any():
        return "bfloat16"
    with np.errstate(over="ignore"):
        halved = found.astype(np.float16).astype(np.float32)
    return "float16" if (halved == found).all() else "float32"


def published_prompts(folder: Path, model: str, questions: pd.DataFrame) -> pd.DataFrame:
    """Return the questions with the very prompts that a model was sent as their text.

    Parameters
    ----------
    folder, model, questions
        As in `load_published`.

    Returns
    -------
    DataFrame
        A question table for the prompt style `verbatim`, ids, options and shares unchanged. The
        prompts hold examples, chat marks and the beginning-of-sequence token as text.

    Raises
    ------
    ValueError
        If a row asks another question; the message names file and row.
    """
    path = published_path(folder, model)
    published = read_parquet(path)
    _check_questions_match(published, questions, path.name)
    texts = pd.Series(published["formatted_question_mcqa"].to_list(), index=questions.index)
    return questions.assign(text=texts)


def compare_outputs(
    ours: pd.DataFrame, theirs: pd.DataFrame, tolerance: float = 0.01
) -> pd.DataFrame:
    """Compare two response tables of one model to the same questions, measure by measure.

    Parameters
    ----------
    ours, theirs : DataFrame
        Response tables, one row a question. `theirs` may hold more questions.
    tolerance : float
        Two values are the same within rounding if they differ by at most this much; sizes, which
        may be large, by at most this share of theirs.

    Returns
    -------
    DataFrame
        One row for `option_mass` and each of `uqlib.measures.MEASURES`: `measure`, `questions`,
        `r` (Pearson, over questions; NaN where one side does not vary), the means `ours` and
        `theirs`, `difference` (mean of ours minus theirs) and `within`, the share of questions
        within `tolerance`. A last row `top_answer` holds in `within` how often both predict the
        same option.

    Raises
    ------
    ValueError
        If a question occurs twice, is not in `theirs`, or has another number of options there.

    Examples
    --------
    >>> a = pd.DataFrame({"question_id": ["p", "q"], "n_choices": 2, "predicted": [0, 1],
    ...     "option_mass": [0.9, 1.0], **{name: [0.2, 0.4] for name in MEASURES}})
    >>> b = a.assign(predicted=0, top1_probability=[0.2, 0.5])
    >>> table = compare_outputs(a, b).set_index("measure").round(3)
    >>> table.loc[["top1_probability", "top_answer"], ["difference", "within"]].values.tolist()
    [[-0.05, 0.5], [nan, 0.5]]
    """
    for table in (ours, theirs):
        for name in table["question_id"][table["question_id"].duplicated()]:
            raise ValueError(f"question {name} occurs twice")
    columns = ["question_id", "n_choices", "predicted", "option_mass", *MEASURES]
    both = ours[columns].merge(
        theirs[columns], on="question_id", how="left", suffixes=("", "_theirs")
    )
    for row in both[both["n_choices"] != both["n_choices_theirs"]].itertuples():
        raise ValueError(
            f"question {row.question_id} has {row.n_choices} options here and "
            f"{row.n_choices_theirs:g} there"
        )
    rows = []
    for name in ("option_mass", *MEASURES):
        a, b = (both[column].to_numpy(dtype=float) for column in (name, f"{name}_theirs"))
        varies = a.std() > 0 and b.std() > 0
        rows.append(
            {
                "measure": name,
                "questions": len(both),
                "r": np.corrcoef(a, b)[0, 1] if varies else np.nan,
                "ours": a.mean(),
                "theirs": b.mean(),
                "difference": (a - b).mean(),
                "within": (np.abs(a - b) <= tolerance * np.maximum(np.abs(b), 1)).mean(),
            }
        )
    same = (both["predicted"] == both["predicted_theirs"]).mean()
    rows.append({"measure": "top_answer", "questions": len(both), "within": same})
    return pd.DataFrame(rows)


def _check_questions_match(published: pd.DataFrame, questions: pd.DataFrame, name: str) -> None:
    if len(published) != len(questions):
        raise ValueError(f"{name}: {len(published)} rows for {len(questions)} questions")
    rows = zip(published["Question"], published["Answers"], questions.itertuples(), strict=True)
    for number, (text, choices, question) in enumerate(rows, start=1):
        same = [_plain(c) for c in choices] == [_plain(c) for c in question.choices]
        if not same or _plain(text) != _plain(question.text):
            raise ValueError(f"{name}, row {number}: {text!r} is not question {question.text!r}")


def _plain(text: str) -> str:
    """Fold typographic quotes and ellipses, which differ between the published files."""
    return unicodedata.normalize("NFKC", text).translate(QUOTES)
