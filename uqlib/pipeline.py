"""The pipeline's parts: profiles, strict and whole notebook runs, staging, one book at a time.

The Snakefile says what depends on what; this module says how a step is done so that it ends whole
or leaves nothing that looks finished.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import papermill
import yaml
from huggingface_hub import hf_hub_download
from papermill.exceptions import PapermillExecutionError

from uqlib.artifacts import only_one
from uqlib.paths import ROOT, model_name, resolve
from uqlib.planning import (
    MACHINES,
    SHARE,
    access,
    planned_work,
    predicted_hours,
    question_sizes,
    start_hours,
    weight_bytes,
)
from uqlib.processes import claim_gpus, end_with_parent, visible_gpus
from uqlib.questions.pew import read_survey_list
from uqlib.questions.sources import FOLDERS, brought, fetch, missing_files

PROFILE_KEYS = {"collect": dict, "published": list, "notebooks": dict}
PROFILE_OPTIONS = {"chapters": list}
COLLECT_KEYS = {"models": list, "questions": list, "settings": dict}
COLLECT_OPTIONS = {"gpus": int, "parts": int, "threads": int}
BOOKKEEPING = re.compile(
    r"\[\w+ \w+|Finished jobid|Execute \d|Select jobs|Complete log|Elapsed time|Assuming"
    r"|Using shell|Provided (cores|resources)|Rules claiming|Building DAG|\s*$"
)
COLLECT = "notebooks/14_collect_responses.ipynb"
GIVEN = ("model", "questions", "output", "part")


def load_profile(path: Path) -> dict:
    """Read a profile (``config/<name>.yaml``) and check it, naming the key that is wrong.

    Returns
    -------
    dict
        `collect` (study: models, questions, settings of chapter 14, and if need be `gpus` of a
        job, `parts` a table is collected in, `threads`), `published` (sources to import),
        `notebooks` (parameters by notebook) and `chapters` (notebooks of the book, in order; if
        left out, those of ``config/classroom.yaml``).

    Raises
    ------
    ValueError
        Names file and key.
    """
    profile = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    _check_keys(profile, PROFILE_KEYS, Path(path).name, PROFILE_OPTIONS)
    if "chapters" not in profile:
        usual = yaml.safe_load((ROOT / "config/classroom.yaml").read_text(encoding="utf-8"))
        profile["chapters"] = usual["chapters"]
    declared = [name for name in declared_parameters(ROOT / COLLECT) if name not in GIVEN]
    for study, entry in profile["collect"].items():
        place = f"{Path(path).name}: collect.{study}"
        _check_keys(entry, COLLECT_KEYS, place, COLLECT_OPTIONS)
        _check_study(entry, place, declared)
    for source in profile["published"]:
        if source not in FOLDERS:
            raise ValueError(f"{Path(path).name}: published: unknown source {source!r}")
    for notebook in [*profile["notebooks"], *profile["chapters"]]:
        if not (ROOT / "notebooks" / f"{notebook}.ipynb").exists():
            raise ValueError(f"{Path(path).name}: there is no notebook {notebook!r}")
    return profile


def at_hand(profile: dict, downloads: bool = False) -> tuple[dict, list[str]]:
    """Leave out of a profile's questions those whose data are not there.

    Roper's export and Pew's files are not public. A profile may name them; without them their data
    sets are not asked, nor are public ones that could not be downloaded, and a study with nothing
    left to ask is not collected.

    Parameters
    ----------
    profile : dict
    downloads : bool
        Whether public files that are missing count as there, because they are still to come.

    Returns
    -------
    profile : dict
    absent : list of str
        What was left out, for the reader.
    """
    surveys = dict(profile["notebooks"].get("10_survey_questions") or {})
    absent = {}
    if surveys.get("roper") and not resolve(surveys["roper"]).exists():
        absent["roper"] = f"{surveys.pop('roper')} is not there: Roper's questions are left out"
    if surveys.get("pew"):
        files = [survey["file"] for survey in read_survey_list(resolve(surveys["pew"]))]
        if not files or not all(file.exists() for file in files):
            told = "names no files" if not files else "names files that are not there"
            absent["pew"] = f"{surveys.pop('pew')} {told}: Pew's questions are left out"
    asked = {name for entry in profile["collect"].values() for name in entry["questions"]}
    hub = (profile["notebooks"].get("11_knowledge_questions") or {}).get("hub")
    for name in sorted(asked - ({"mmlu", "mmlu_dev"} if hub else set())):
        source = name.removesuffix("_shuffled")
        public = source in FOLDERS
        if ((public and not downloads) or source in brought()) and missing_files(source):
            absent[name] = f"the files of {source} are not there: {name} is left out"
    collect, told = {}, list(absent.values())
    for study, entry in profile["collect"].items():
        kept = [i for i, name in enumerate(entry["questions"]) if name not in absent]
        if not kept:
            told.append(f"study {study!r} has nothing left to ask")
            continue
        settings, styles = entry["settings"], str(entry["settings"].get("prompt_style", ""))
        if "," in styles:
            settings = settings | {"prompt_style": ",".join(styles.split(",")[i] for i in kept)}
        chosen = [entry["questions"][i] for i in kept]
        collect[study] = entry | {"questions": chosen, "settings": settings}
    notebooks = profile["notebooks"] | {"10_survey_questions": surveys}
    return profile | {"collect": collect, "notebooks": notebooks}, told


def declared_parameters(notebook: Path) -> list[str]:
    """Return the names that a notebook's cell tagged `parameters` declares."""
    return list(papermill.inspect_notebook(str(notebook)))


def check_parameters(notebook: Path, parameters: dict) -> None:
    """Refuse parameters that a notebook does not declare.

    Raises
    ------
    ValueError
        Names the notebook, the unknown names and the known ones.
    """
    declared = declared_parameters(notebook)
    unknown = [name for name in parameters if name not in declared]
    if unknown:
        raise ValueError(
            f"{Path(notebook).name} has no parameter {', '.join(unknown)}; "
            f"it has {', '.join(declared)}"
        )


def run_notebook(notebook: Path, output: Path, parameters: dict) -> None:
    """Run a notebook with papermill; `output` exists afterwards only if every cell ran.

    The run happens under a temporary name. A failed one stays, for inspection, as
    ``<output>.failed.ipynb``. What cells print goes to ``<output>.log``.

    Raises
    ------
    ValueError
        If a parameter is unknown.
    PapermillExecutionError
        If a cell fails.
    RuntimeError
        If the kernel died without telling.
    """
    check_parameters(notebook, parameters)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    running, failed = (output.with_suffix(f".{state}.ipynb") for state in ("running", "failed"))
    failed.unlink(missing_ok=True)
    with output.with_suffix(".log").open("w", encoding="utf-8") as log, _stderr_to(log):
        try:
            executed = papermill.execute_notebook(
                str(notebook),
                str(running),
                parameters=parameters,
                progress_bar=False,
                stdout_file=log,
                stderr_file=log,
                cwd=str(ROOT),
            )
        except BaseException:
            if running.exists():
                running.replace(failed)
            raise
    _check_whole(executed, notebook)
    running.replace(output)


def stage_book(notebooks: Path, stage: Path) -> None:
    """Lay out the sources of the book with the executed notebooks, which are not to be rerun.

    The cells that install the package elsewhere are left out: a reader of the pages has no use for
    them.
    """
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["execute_notebooks"] = "off"
    (stage / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    shutil.copy(ROOT / "_toc.yml", stage)
    for folder in ("book", "config", "profiles"):
        shutil.copytree(ROOT / folder, stage / folder)
    shutil.copytree(notebooks, stage / "notebooks", ignore=shutil.ignore_patterns("*.log"))
    for path in (stage / "notebooks").glob("*.ipynb"):
        page = json.loads(path.read_text(encoding="utf-8"))
        cells = page["cells"]
        page["cells"] = [c for c in cells if "install" not in c["metadata"].get("tags", [])]
        path.write_text(json.dumps(page), encoding="utf-8")


def build_book(stage: Path, html: Path, log: Path) -> None:
    """Render a staged book; warnings are errors, and `html` appears only when it is whole.

    Raises
    ------
    RuntimeError
        If a page has a warning or an error; the message holds the end of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(stage), "-W", "-n", "--keep-going"]
    with log.open("w", encoding="utf-8") as file:
        environment = os.environ | {"NO_COLOR": "1"}
        status = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
    if status:
        lines = log.read_text(encoding="utf-8").splitlines()
        told = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-30:]
        raise RuntimeError("the book has problems (see " + str(log) + "):\n" + "\n".join(told))
    shutil.rmtree(html, ignore_errors=True)
    (stage / "_build" / "html").replace(html)


def make_book(profile: str, cores: int, extra: list[str]) -> int:
    """Download what can be, let Snakemake bring the book up to date, return its exit status."""
    path = profile_path(profile)
    started = time.time()
    with only_one(ROOT / "build" / profile):
        loaded = load_profile(path)
        asked = {name for entry in loaded["collect"].values() for name in entry["questions"]}
        wanted = {*loaded["published"], "moral_machine"}
        for source in sorted(wanted | (asked & FOLDERS.keys())):
            download(source)
        command = [sys.executable, "-m", "snakemake", *extra, "--cores", str(cores), "--nolock"]
        command += ["--rerun-incomplete", "--quiet", "rules", "host", "reason"]
        if not any(option.startswith(("--profile", "--executor", "--res")) for option in extra):
            command += ["--resources", f"gpu={max(len(visible_gpus()), 1)}"]
        command += ["--config", f"profile={profile}"]
        status = _run_quietly(command)
    if status == 0 and not extra:
        print(f"The book is at build/{profile}/html/index.html ({time.time() - started:.0f} s).")
    return status


def profile_path(profile: str) -> Path:
    """Return the file of a profile, or refuse its name and list the known ones."""
    path = ROOT / "config" / f"{profile}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in (ROOT / "config").glob("*.yaml")))
        raise ValueError(f"there is no profile {profile!r}; known: {known}")
    return path


def tell_plan(profile: dict, absent: list[str]) -> str:
    """Describe what a profile would do: jobs, prompts, tokens, hours, downloads, what is missing.

    Nothing is loaded, computed or downloaded. Counts and lengths come from
    `uqlib.planning.question_sizes`, models from their shapes.

    Parameters
    ----------
    profile, absent
        As returned by `at_hand`.

    Returns
    -------
    str
    """
    work = planned_work(profile)
    for name in MACHINES:
        work[name] = predicted_hours(work, name)
    jobs = pd.Series(
        {s: len(e["models"]) * e.get("parts", 1) for s, e in profile["collect"].items()}
    )
    studies = work.groupby("study", sort=False)
    table = studies[["prompts", "tokens", "computed"]].sum().assign(jobs=jobs)
    hours = studies[list(MACHINES)].sum(min_count=1)
    unfit = work[list(MACHINES)].isna().groupby(work.study, sort=False).any()
    shown = pd.DataFrame({"jobs": table.jobs.map("{:d}".format)})
    for column in ("prompts", "tokens", "computed"):
        shown[column] = table[column].map("{:,.0f}".format)
    for name in MACHINES:
        marks = unfit[name].map({True: " +", False: ""})
        shown[f"h {name}"] = hours[name].map("{:,.2f}".format).replace("nan", "-") + marks
    models = pd.DataFrame({"model": work.model.unique()})
    models["access"] = models.model.map(access)
    models["GB"] = models.model.map(weight_bytes) / 1e9
    models.loc[models.access == "downloaded", "GB"] = 0.0
    lines = [shown.to_string(), ""]
    total = hours.sum()
    lines.append("hours in all: " + ", ".join(f"{total[name]:,.1f} {name}" for name in MACHINES))
    lines.append(
        f"At {SHARE:.0%} of the roofline's speed (chapter 81); kernels and weights take "
        f"{sum(start_hours(m, 2) for m in work.groupby('study').model.unique().explode()):.1f} h "
        "more. +: some models are too large for it, or unknown, and are not counted."
    )
    fetch = models[models.GB > 0]
    lines.append(f"models to download: {len(fetch)}, {fetch.GB.sum():,.0f} GB")
    asked = {*work.dataset, *profile["published"], "moral_machine"} & FOLDERS.keys()
    data = {s: n for s in sorted(asked) if (n := len(missing_files(s)))}
    told = [f"{source} ({number} files)" for source, number in data.items()]
    lines.append("data to download: " + (", ".join(told) or "none"))
    trouble = models[models.access.isin(["gated, no token", "unknown"])]
    told = [f"{row.model}: {row.access}" for row in trouble.itertuples()]
    lines += ["missing:", *(f"  {line}" for line in [*absent, *told] or ["-"])]
    return "\n".join(lines)


def download(source: str) -> bool:
    """Download a public source if files are missing; say so and return False if that fails."""
    missing = missing_files(source)
    if not missing:
        return True
    try:
        fetch(source)
    except OSError as error:
        reason = type(error).__name__
        print(
            f"{source}: {len(missing)} files are missing and cannot be downloaded ({reason}). "
            "The book will say so and show the rest.",
            file=sys.stderr,
        )
        return False
    return True


def collected_models(profile: dict, study: str) -> dict[str, str]:
    """Return the models of a study by the name they have in paths.

    Raises
    ------
    ValueError
        If two models would share a name.
    """
    models = profile["collect"][study]["models"]
    names = {model_name(model): model for model in models}
    if len(names) < len(models):
        raise ValueError(f"collect.{study}: two models share a name: {', '.join(models)}")
    return names


def condition_ending(settings: dict) -> str:
    """Return what the names of a study's response tables end in, by its settings.

    Examples
    --------
    >>> condition_ending({"device": "cpu"}), condition_ending({"dropout_rate": 0.1})
    ('', '@dropout=0.1')
    """
    rate = settings.get("dropout_rate", 0)
    condition = settings.get("condition", "plain")
    if rate and condition == "plain":
        condition = f"dropout={rate:g}"
    return "" if condition == "plain" else f"@{condition}"


def check_access(models: Iterable[str]) -> None:
    """Refuse hub models that cannot be had, before any job starts.

    A model's configuration is asked for, which is gated like its weights; without network the hub's
    cache is asked.

    Parameters
    ----------
    models : iterable of str
        Hub ids and folders; folders are not looked at.

    Raises
    ------
    OSError
        Names every model that is missing or gated, with the hub's own message.
    """
    refused = []
    for model in sorted(set(models)):
        if resolve(model).is_dir():
            continue
        try:
            hf_hub_download(model, "config.json")
        except (OSError, ValueError) as error:
            refused.append(f"{model}: {error}")
    if refused:
        raise OSError("models that cannot be had:\n" + "\n".join(refused))


@contextmanager
def _stderr_to(file):
    """Send what this process and its children write to stderr into a file."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _run_quietly(command: list[str]) -> int:
    """Run Snakemake, leaving out the lines that only repeat its bookkeeping."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipe) as process:
        for line in process.stdout:
            if not BOOKKEEPING.match(line):
                print(line, end="", flush=True)
    return process.returncode


def _check_whole(executed, notebook: Path) -> None:
    cells = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    if any(cell.execution_count is None for cell in cells):
        raise RuntimeError(f"{Path(notebook).name}: the kernel died before the last cell")


def _check_keys(entry: dict, kinds: dict, place: str, optional: dict | None = None) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{place} must be a mapping, not {entry!r}")
    known = kinds | (optional or {})
    for key in entry:
        if key not in known:
            raise ValueError(f"{place}: unknown key {key!r}; known: {', '.join(known)}")
        if not isinstance(entry[key], known[key]):
            told = f"{place}: {key} must be a {known[key].__name__}, not {entry[key]!r}"
            raise ValueError(told)
    for key in kinds:
        if key not in entry:
            raise ValueError(f"{place}: missing key {key!r}")


def _check_study(entry: dict, place: str, declared: list[str]) -> None:
    for key in COLLECT_OPTIONS:
        if entry.get(key, 1) < (0 if key == "gpus" else 1):
            raise ValueError(f"{place}: {key} must be positive, not {entry[key]!r}")
    for key in entry["settings"]:
        if key not in declared:
            known = ", ".join(declared)
            raise ValueError(f"{place}.settings: unknown key {key!r}; known: {known}")
    datasets = question_sizes().index
    for dataset in entry["questions"]:
        if dataset not in datasets:
            raise ValueError(f"{place}: questions: unknown data set {dataset!r}")
    styles = str(entry["settings"].get("prompt_style", "survey")).split(",")
    if len(styles) not in (1, len(entry["questions"])):
        raise ValueError(
            f"{place}.settings: prompt_style names {len(styles)} styles for "
            f"{len(entry['questions'])} data sets"
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line of the pipeline: `book`, `plan`, `data`, `run`, `merge` and `render`."""
    parser = argparse.ArgumentParser(prog="python -m uqlib.pipeline", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    book = commands.add_parser("book", help="bring a profile's book up to date")
    book.add_argument("profile")
    book.add_argument("--cores", type=int, default=os.cpu_count())
    commands.add_parser("data", help="download the open data")
    run = commands.add_parser("run", help="run one notebook, strictly and whole")
    run.add_argument("notebook", type=Path)
    run.add_argument("output", type=Path)
    run.add_argument("--parameters", type=json.loads, default={}, help="a JSON object")
    run.add_argument("--gpus", type=int, default=0, help="graphics cards to take, of those free")
    merge = commands.add_parser("merge", help="join the parts of a collection: PART ... TABLE")
    merge.add_argument("parts", type=Path, nargs="+")
    merge.add_argument("table", type=Path)
    plan = commands.add_parser("plan", help="say what a profile would do, without doing it")
    plan.add_argument("profile")
    render = commands.add_parser("render", help="render the executed notebooks of a build")
    render.add_argument("build", type=Path)
    for command in (run, merge, render):
        command.add_argument("--end-with-parent", action="store_true", help=end_with_parent.__doc__)
    chosen, extra = parser.parse_known_args(arguments)
    if extra and chosen.command != "book":
        parser.error(f"unrecognised arguments: {' '.join(extra)}")
    try:
        if chosen.command == "book":
            return make_book(chosen.profile, chosen.cores, extra)
        if chosen.command == "plan":
            profile = load_profile(profile_path(chosen.profile))
            print(tell_plan(*at_hand(profile, downloads=True)))
            return 0
        if chosen.command == "data":
            return 0 if all([download(source) for source in FOLDERS]) else 1
        if chosen.end_with_parent:
            end_with_parent()
        started = time.time()
        if chosen.command == "render":
            build, done = chosen.build, "html"
            stage_book(build / "notebooks", build / "stage")
            build_book(build / "stage", build / "html", build / "logs/render.log")
        elif chosen.command == "merge":
            from uqlib.responses import merge_parts

            merge_parts(chosen.parts, chosen.table)
            done = chosen.table.stem
        else:
            with claim_gpus(chosen.gpus, ROOT / "build/.gpus"):
                run_notebook(chosen.notebook, chosen.output, chosen.parameters)
            done = chosen.output.stem
        print(f"{done}: {time.time() - started:.0f} s", flush=True)
    except (OSError, ValueError, RuntimeError, PapermillExecutionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
