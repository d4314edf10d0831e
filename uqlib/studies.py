"""Studies: sets of response tables that an analysis reads together, with their questions."""

from pathlib import Path

import pandas as pd

from uqlib.artifacts import read_parquet
from uqlib.collect import collect
from uqlib.models import LanguageModel, load_model, prompt_option_tokens
from uqlib.paths import ROOT, data_folder, resolve
from uqlib.prompts import render_questions
from uqlib.published import load_published, published_models
from uqlib.questions.coane import load_coane
from uqlib.questions.moral import ATTRIBUTES, moral_scenarios
from uqlib.questions.sources import FOLDERS, missing_files
from uqlib.questions.world import evaluation_knowledge, evaluation_opinions
from uqlib.responses import join_questions, read_responses

BUILT = "build/classroom"
REFERENCE = "llama-0.3m"
SLICE = 300
DILEMMAS = 40


def load_studies(
    studies: str, need: str, responses: str = "", questions: str = "", without: str = ""
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the responses of several studies to every data set that has what the analysis needs.

    Parameters
    ----------
    studies : str
        Names, separated by commas, in the order of the page.
    need : {"human_shares", "answer"}
        The column of the question table that may not be missing.
    responses, questions : str
        Folders; empty for those of the built book. Where a study has no responses there, `zoo` is
        asked a few hundred questions on the spot, and `published` is read from the data folder.
    without : str
        Data sets to leave out, separated by commas.

    Returns
    -------
    responses : DataFrame
        Joined to their questions, with columns `study`, `data` (simulated or real) and `kind` (zoo;
        base or instruct, for real models); one row a model and question.
    sources : DataFrame
        One row a study and data set: `study`, `dataset`, `models`, `questions`, the lowest and the
        highest median option mass of a model, `data` (simulated, real or absent).

    Raises
    ------
    ValueError
        If no study has simulated questions: the truth is known first, or not at all.
    """
    folder = resolve(responses or f"{BUILT}/responses")
    tables = resolve(questions or f"{BUILT}/questions")
    frames, sources = [], []
    for study in studies.split(","):
        found = list(_built(study, need, folder, tables, without.split(",")))
        if not found and not responses:
            found = list(_on_the_spot(study, need))
        for frame in found:
            simulated = (frame["source"] == "simulated").all()
            data, kind = (
                ("simulated", "zoo") if simulated else ("real", frame["model"].map(model_kind))
            )
            frames.append(frame.assign(study=study, data=data, kind=kind))
            sources.append(_source(frames[-1]))
        if not found:
            sources.append({"study": study, "data": "absent"})
    if not any(source["data"] == "simulated" for source in sources):
        raise ValueError(
            f"none of the studies {studies} has simulated questions with {need}: name one whose "
            "truth is known, such as zoo, before those of real models"
        )
    return pd.concat(frames, ignore_index=True), pd.DataFrame(sources)


def load_dilemmas(
    studies: str, responses: str = "", questions: str = ""
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Read the answers of several studies to the moral dilemmas, in either design.

    Parameters
    ----------
    studies : str
        Names, separated by commas.
    responses, questions : str
        Folders; empty for those of the built book. Where there are none, reference models of the
        zoo are asked a few hundred dilemmas on the spot.

    Returns
    -------
    responses : DataFrame
        A response table with a column `study`; `dataset` names the design.
    conjoint : dict of str to DataFrame
        By data set, the table of its scenarios.
    """
    folder = resolve(responses or f"{BUILT}/responses")
    tables = resolve(questions or f"{BUILT}/questions") / "conjoint"
    conjoint = {path.stem: read_parquet(path) for path in sorted(tables.glob("moral_*.parquet"))}
    frames = [
        read_responses(folder, study, dataset).assign(study=study)
        for study in studies.split(",")
        for dataset in conjoint
    ]
    frames = [frame for frame in frames if len(frame)]
    if not frames and not responses:
        for design, size in (("published", DILEMMAS), ("counterbalanced", DILEMMAS // 4)):
            table, conjoint[f"moral_{design}"] = moral_scenarios(size, 0, design, ATTRIBUTES)
            for model in reference_models()[:2]:
                asked = load_model(model, device="cpu")
                frames.append(collect(asked, table, prompt_style="dilemma").assign(study="zoo"))
    return pd.concat(frames, ignore_index=True), conjoint


def dilemmas_under_dropout(
    design: str,
    scenarios: int,
    dimensions: list[str],
    models: list[str],
    rates: list[float],
    passes: int,
    seed: int = 0,
    dropped: str = "",
    responses: str = "",
    questions: str = "",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return answers to moral dilemmas, plain and under attention dropout.

    Parameters
    ----------
    design, scenarios, dimensions, seed
        Of `uqlib.questions.moral.moral_scenarios`; the seed also of the masks.
    models : list of str
        Folders or hub ids to ask now, on the CPU.
    rates : list of float
        Dropout rates; at 0 every question is asked once.
    passes : int
        Masks a question at the other rates.
    dropped : str
        Studies that hold such answers, separated by commas; then nobody is asked, and only the
        design and the dimensions are looked at.
    responses, questions : str
        Folders of these studies; empty for those of the built book.

    Returns
    -------
    responses : DataFrame
        A response table.
    conjoint : DataFrame
        The scenarios' rows for analysis.

    Raises
    ------
    ValueError
        If a study named holds no such answers.
    """
    if dropped:
        return _dropped(dropped.split(","), f"moral_{design}", dimensions, responses, questions)
    table, conjoint = moral_scenarios(scenarios, seed, design, dimensions)
    frames = []
    for name in models:
        model = load_model(name, device="cpu")
        style = label_style(model, table)
        for rate in rates:
            settings = {"dropout_rate": rate, "n_passes": passes if rate else 1, "seed": seed}
            asked = collect(model, table, prompt_style="dilemma", label_style=style, **settings)
            frames.append(asked)
    return pd.concat(frames, ignore_index=True), conjoint


def reference_models() -> list[str]:
    """Return the zoo's reference model and those made from it: base, instruct, special ones."""
    return [model for model in zoo_models() if model.startswith(f"zoo/{REFERENCE}-")]


def label_style(model: LanguageModel, table: pd.DataFrame) -> str:
    """Return `space`, or `bare` where the tokenizer writes no label as one token after a space."""
    text = render_questions(table[:1], "dilemma")
    try:
        prompt_option_tokens(model.tokenizer, text, list(table["labels"][:1]), "dilemma", "space")
    except ValueError:
        return "bare"
    return "space"


def zoo_models() -> list[str]:
    """Return the folders of the zoo's models, relative to the project's root, smallest first."""
    folders = [file.parent for file in (ROOT / "zoo").glob("*/model.safetensors")]
    sizes = {f: (f / "model.safetensors").stat().st_size for f in folders}
    return [f"zoo/{f.name}" for f in sorted(folders, key=lambda f: (sizes[f], f.name))]


def _built(study: str, need: str, responses: Path, questions: Path, without: list[str]):
    for path in sorted(questions.glob("*.parquet")):
        if path.stem in without:
            continue
        table = read_parquet(path)
        if table[need].isna().any():
            continue
        asked = read_responses(responses, study, path.stem)
        if len(asked):
            yield join_questions(asked, table)


def _on_the_spot(study: str, need: str):
    if study == "zoo":
        table = evaluation_opinions() if need == "human_shares" else evaluation_knowledge()
        table = table.sample(min(SLICE, len(table)), random_state=0).reset_index(drop=True)
        model = load_model(reference_models()[0], device="cpu")
        yield join_questions(collect(model, table), table)
    if study == "published" and not missing_files("coane"):
        folder = data_folder() / FOLDERS["coane"]
        table, _ = load_coane(folder)
        asked = [load_published(folder, model, table) for model in published_models(folder)]
        yield join_questions(pd.concat(asked, ignore_index=True), table)


def _dropped(studies: list[str], dataset: str, dimensions: list[str], responses, questions):
    folder, tables = resolve(responses or f"{BUILT}/responses"), questions or f"{BUILT}/questions"
    conjoint = read_parquet(resolve(tables) / "conjoint" / f"{dataset}.parquet")
    conjoint = conjoint[conjoint["scenario_type"].isin(dimensions)].reset_index(drop=True)
    frames = []
    for study in studies:
        names = {path.stem for path in folder.glob(f"{study}/*/{dataset}*.parquet")}
        if not names:
            raise ValueError(f"study {study} holds no answers to {dataset}")
        frames += [read_responses(folder, study, name) for name in sorted(names)]
    table = pd.concat(frames, ignore_index=True)
    return table[table["question_id"].isin(conjoint["question_id"])], conjoint


def _source(frame: pd.DataFrame) -> dict:
    mass = frame.groupby("model")["option_mass"].median()
    return {
        "study": frame["study"].iloc[0],
        "dataset": frame["dataset"].iloc[0],
        "models": frame["model"].nunique(),
        "questions": frame["question_id"].nunique(),
        "lowest option mass": mass.min(),
        "highest option mass": mass.max(),
        "data": frame["data"].iloc[0],
    }


def label_models(table: pd.DataFrame) -> pd.DataFrame:
    """Add study and data set to the names of models, where the table holds more than one of them.

    Examples
    --------
    >>> table = pd.DataFrame({"model": "m", "study": ["a", "b"], "dataset": "d"})
    >>> list(label_models(table).model)
    ['m (a, d)', 'm (b, d)']
    """
    if len(table[["study", "dataset"]].drop_duplicates()) < 2:
        return table
    return table.assign(
        model=table["model"] + " (" + table["study"] + ", " + table["dataset"] + ")"
    )


def model_kind(model: str) -> str:
    """Tell `instruct` from `base` models by their name, as their makers mark them.

    Examples
    --------
    >>> model_kind("Llama_2_7B_Chat"), model_kind("Mistral_0.3_Ins"), model_kind("Gemma_2B")
    ('instruct', 'instruct', 'base')
    """
    return "instruct" if any(mark in model.lower() for mark in ("ins", "chat")) else "base"
