"""Response tables: one row a model, question and pass; where they lie, and how they are read."""

import json
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow

from uqlib.artifacts import (
    manifest_difference,
    read_manifest,
    read_parquet,
    write_parquet,
    write_text,
)
from uqlib.measures import MEASURES
from uqlib.paths import display_path

SCHEMA = pyarrow.schema(
    [
        ("model", pyarrow.string()),
        ("dataset", pyarrow.string()),
        ("question_id", pyarrow.string()),
        ("n_choices", pyarrow.int32()),
        ("choice_log_probs", pyarrow.list_(pyarrow.float32())),
        ("option_mass", pyarrow.float32()),
        ("predicted", pyarrow.int32()),
        ("condition", pyarrow.string()),
        ("dropout_rate", pyarrow.float32()),
        ("pass_index", pyarrow.int32()),
        ("prompt_style", pyarrow.string()),
        ("label_style", pyarrow.string()),
        ("shots", pyarrow.int32()),
        *((name, pyarrow.float32()) for name in MEASURES),
    ]
)
PART_SCHEMA = SCHEMA.append(pyarrow.field("position", pyarrow.int64()))
KEY = ["model", "dataset", "condition", "pass_index", "question_id"]

_UNIT = pa.Check.in_range(0, 1 + 1e-5)
_CHECKS = pa.DataFrameSchema(
    {
        "n_choices": pa.Column(checks=pa.Check.in_range(2, 26)),
        "option_mass": pa.Column(checks=_UNIT),
        "predicted": pa.Column(checks=pa.Check.ge(0)),
        **{
            name: pa.Column(checks=pa.Check.ge(0) if "size" in name else _UNIT) for name in MEASURES
        },
    },
    unique=KEY,
)


def check_responses(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a response table with the columns of `SCHEMA`, in order, checked.

    Raises
    ------
    ValueError
        If a column is missing, a value is missing or out of range, or a row occurs twice; the
        message names model, question and value.
    """
    missing = [name for name in SCHEMA.names if name not in frame]
    if missing:
        raise ValueError(f"the response table lacks the column(s) {', '.join(missing)}")
    table = frame[SCHEMA.names].reset_index(drop=True)
    try:
        _CHECKS.validate(table)
    except pa.errors.SchemaError as error:
        raise ValueError(_describe(error, table)) from None
    return table


def response_path(folder: Path, study: str, model: str, dataset: str) -> Path:
    """Return where the responses of a model to a data set lie within a study.

    Examples
    --------
    >>> response_path(Path("responses"), "zoo", "llama-0.3m-base", "mmlu").as_posix()
    'responses/zoo/llama-0.3m-base/mmlu.parquet'
    """
    return Path(folder) / study / model / f"{dataset}.parquet"


def read_responses(folder: Path, study: str, dataset: str) -> pd.DataFrame:
    """Read the responses of every model of a study to one data set, models in alphabetical order.

    Returns
    -------
    DataFrame
        Empty, with the right columns, when the study has none.

    Raises
    ------
    ValueError
        If a file is damaged or breaks the schema; the message names it.
    """
    frames = []
    for path in sorted(Path(folder).glob(f"{study}/*/{dataset}.parquet")):
        try:
            frames.append(check_responses(read_parquet(path)))
        except ValueError as error:
            raise ValueError(f"{display_path(path)}: {error}") from None
    if not frames:
        return pd.DataFrame(columns=SCHEMA.names)
    return pd.concat(frames, ignore_index=True)


def join_questions(responses: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """Put each response beside its question; `correct` says whether the prediction is the answer.

    Raises
    ------
    ValueError
        If a response has no question, or another number of options; the message names it.
    """
    columns = ["question_id", "subject", "text", "choices", "human_shares", "answer", "source"]
    joined = responses.merge(questions[columns], on="question_id", how="left", validate="m:1")
    for row in joined[joined["choices"].isna()].itertuples():
        raise ValueError(f"{row.model}: question {row.question_id} is not in the question table")
    lengths = joined["choices"].map(len)
    for row in joined[lengths != joined["n_choices"]].itertuples():
        raise ValueError(
            f"{row.model}: {row.n_choices} options answered, but question {row.question_id} "
            f"has {len(row.choices)}"
        )
    joined["correct"] = (joined["predicted"] == joined["answer"]).astype("boolean")
    return joined


def merge_parts(paths: list[Path], path: Path) -> None:
    """Join the tables of all parts of a collection: byte for byte the table of one job.

    Parameters
    ----------
    paths : list of Path
        Files of `collect_to_file` with plans of `part_of_plan`, in any order.
    path : Path
        Where the response table goes, with the sum of the parts' ``.run.json`` beside it.

    Raises
    ------
    ValueError
        If a part is missing or twice there, or a file comes from other work; the message says
        which.
    """
    manifests = [read_manifest(part) for part in paths]
    for part, manifest in zip(paths, manifests, strict=True):
        if "part" not in manifest:
            raise ValueError(f"{display_path(part)} is no part of a collection")
    numbers = sorted(manifest["part"] for manifest in manifests)
    parts = int(manifests[0]["part"].split("/")[1])
    expected = sorted(f"{k}/{parts}" for k in range(1, parts + 1))
    whole = [{k: v for k, v in manifest.items() if k != "part"} for manifest in manifests]
    for part, manifest in zip(paths, whole, strict=True):
        if difference := manifest_difference(manifest, whole[0]):
            raise ValueError(f"{display_path(part)} is of other work: {'; '.join(difference)}")
    if numbers != expected:
        raise ValueError(f"{display_path(path)}: parts {', '.join(numbers)} of {parts}")
    table = pd.concat([read_parquet(part) for part in paths], ignore_index=True)
    table = table.sort_values("position", ignore_index=True).drop(columns="position")
    runs = [json.loads(part.with_name(part.name + ".run.json").read_text()) for part in paths]
    run = runs[0] | {key: sum(r[key] for r in runs) for key in ("seconds", "prompts")}
    run |= {"prompt_tokens": sum(r["prompt_tokens"] for r in runs), "parts": parts}
    run["finished"] = max(r["finished"] for r in runs)
    skipped = Path(paths[0]).with_name(Path(paths[0]).name + ".skipped.csv")
    if skipped.exists():
        target = Path(path).with_name(Path(path).name + ".skipped.csv")
        write_text(skipped.read_text(encoding="utf-8"), target)
    write_text(json.dumps(run, indent=1), Path(path).with_name(Path(path).name + ".run.json"))
    write_parquet(check_responses(table), path, whole[0], SCHEMA)


def _describe(error: pa.errors.SchemaError, table: pd.DataFrame) -> str:
    cases = error.failure_cases
    if not isinstance(cases, pd.DataFrame) or cases["index"].isna().all():
        return f"response table: {error}"
    case = cases.iloc[0]
    row = table.iloc[int(case["index"])]
    column = case.get("column") or error.schema.name
    return f"{row.model}, question {row.question_id}: {column} is {case['failure_case']}"
