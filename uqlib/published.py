"""Published outputs of real models: per-question results of others, as response tables.

The source is the data release of Moore et al.: for each model one parquet file with the prompt, the
measures, and the log-probability of each option label (added over its one-token spellings).
"""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

from uqlib.artifacts import read_parquet, sha256_of_file
from uqlib.measures import TOP_K, TOP_P
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
        A checked response table. Probabilities come from bfloat16: where the options sum to a
        little more than one (at most `MASS_TOLERANCE`), `option_mass` is 1.

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
        "dtype": "bfloat16",
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
