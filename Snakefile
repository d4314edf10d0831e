# questions -> responses -> analyses -> book; every rule is one papermill run, but merging and rendering
import json
import re
import sys
from pathlib import Path

from uqlib import pipeline
from uqlib.planning import gpus
from uqlib.questions.sources import FOLDERS, brought, files_of, missing_files
from uqlib.paths import data_folder, resolve

NAME = config.get("profile", "classroom")
PROFILE, ABSENT = pipeline.at_hand(pipeline.load_profile(Path("config") / f"{NAME}.yaml"))
BUILD = f"build/{NAME}"
QUESTIONS = f"{BUILD}/questions"
RESPONSES = f"{BUILD}/responses"
RESULTS = f"{BUILD}/results"
PRESENT = [source for source in [*FOLDERS, *brought()] if not missing_files(source)]
STUDIES = [*PROFILE["collect"], *(["published"] if PROFILE["published"] else [])]

SURVEYS = PROFILE["notebooks"].get("10_survey_questions") or {}
ASKED_FOR = {"pew": "pew", "roper": "roper", "own": "own", "country": "global_opinions", "group": "subpop"}
FROM_HUB = (PROFILE["notebooks"].get("11_knowledge_questions") or {}).get("hub")
MORAL = ["moral_published", "moral_counterbalanced"]
QUESTION_NOTEBOOKS = {
    "10_survey_questions": [
        "world_opinions",
        *[source for source in ("protoqa", "gss", "gss_subpop") if source in PRESENT],
        *(["protoqa_shuffled"] if "protoqa" in PRESENT else []),
        *[dataset for parameter, dataset in ASKED_FOR.items() if SURVEYS.get(parameter)],
    ],
    "11_knowledge_questions": [
        "world_knowledge",
        *(["coane"] if "coane" in PRESENT else []),
        *[source for source in ("mmlu", "mmlu_dev") if source in PRESENT or FROM_HUB],
    ],
    "12_moral_scenarios": [*MORAL, *[f"conjoint/{dataset}" for dataset in MORAL]],
}
OWN_FILES = [resolve(SURVEYS[name]) for name in ("pew", "roper", "own") if SURVEYS.get(name)]
if SURVEYS.get("pew"):
    from uqlib.questions.pew import read_survey_list

    OWN_FILES += [survey["file"] for survey in read_survey_list(resolve(SURVEYS["pew"]))]
COLLECTED = {
    (study, name): model
    for study in PROFILE["collect"]
    for name, model in pipeline.collected_models(PROFILE, study).items()
}
ENDING = {study: pipeline.condition_ending(e["settings"]) for study, e in PROFILE["collect"].items()}
if workflow.is_main_process:
    for told in ABSENT:
        print(told, file=sys.stderr)
    pipeline.check_access(COLLECTED.values())
RESPONSE_FILES = [
    f"{RESPONSES}/{study}/{name}/{dataset}{ENDING[study]}.parquet"
    for study, name in COLLECTED
    for dataset in PROFILE["collect"][study]["questions"]
]
PUBLISHED_FILES = [
    f"{RESPONSES}/published/{Path(file).stem.removeprefix(source + '_')}/{source}.parquet"
    for source in PROFILE["published"]
    if source in PRESENT
    for file in files_of(source)
    if not file.endswith("_data.parquet")
]
OWN_RULE = [*QUESTION_NOTEBOOKS, "74_published_outputs", "90_ledger"]
EFFECTS = [data_folder() / f for f in files_of("moral_machine") if "moral_machine" in PRESENT]
CHAPTERS = [notebook for notebook in PROFILE["chapters"] if notebook not in OWN_RULE]


def code(*modules):
    return [f"uqlib/{module}.py" for module in modules]


def table(dataset):
    return f"{QUESTIONS}/{dataset}.parquet"


def parameters(notebook, **given):
    """What the pipeline gives a notebook: its profile entry, and these if it declares them."""
    path = f"notebooks/{notebook}.ipynb"
    declared = pipeline.declared_parameters(path)
    standard = {"output": f"{RESULTS}/{notebook}", "results": RESULTS}
    if "responses" in declared:
        standard |= {"studies": ",".join(STUDIES), "responses": RESPONSES, "questions": QUESTIONS}
    chosen = {name: value for name, value in standard.items() if name in declared}
    chosen |= given | (PROFILE["notebooks"].get(notebook) or {})
    pipeline.check_parameters(path, chosen)
    return json.dumps(chosen)


SCHEMA = code("artifacts", "paths", "questions/schema")
COLLECTION = SCHEMA + code("collect", "dropout", "forward", "measures", "models", "prompts", "responses")
ANALYSIS = [str(p) for p in sorted(Path("uqlib").rglob("*.py")) if p.name != "pipeline.py"]
PLAN = (PROFILE["notebooks"].get("81_plan_a_run") or {}).get("profile", "paper")
SHOWN = {
    "81_plan_a_run": [
        f"config/{PLAN}.yaml",
        "uqlib/pipeline.py",
        "uqlib/architectures.csv",
        "uqlib/question_sizes.csv",
    ],
    "82_on_a_cluster": ["profiles/slurm/config.yaml"],
}
PLAYGROUND = ["uqlib/playground.css", "uqlib/playground.js"]
RUN = (
    "OMP_NUM_THREADS={threads} exec " + sys.executable + " -m uqlib.pipeline run "
    "--end-with-parent {input.notebook} {output.notebook} --parameters {params.parameters:q}"
)


rule book:
    input:
        f"{BUILD}/html",
        [table(dataset) for datasets in QUESTION_NOTEBOOKS.values() for dataset in datasets],
    default_target: True


for notebook, datasets in QUESTION_NOTEBOOKS.items():

    rule:
        name: f"questions_{notebook[:2]}"
        input:
            notebook=f"notebooks/{notebook}.ipynb",
            code=SCHEMA + sorted(map(str, Path("uqlib/questions").glob("*.py"))),
            data=[data_folder() / f for source in PRESENT if source in datasets for f in files_of(source)],
            own=OWN_FILES if notebook == "10_survey_questions" else [],
        output:
            notebook=f"{BUILD}/notebooks/{notebook}.ipynb",
            results=directory(f"{RESULTS}/{notebook}"),
            tables=[table(dataset) for dataset in datasets],
        params:
            parameters=parameters(notebook, questions=QUESTIONS),
        shell:
            RUN


def model_files(study, name):
    folder = Path(COLLECTED[study, name])
    return sorted(map(str, folder.glob("*.*"))) if folder.is_dir() else []


def collection_parameters(study, name, part=""):
    entry = PROFILE["collect"][study]
    return parameters(
        "14_collect_responses",
        **entry["settings"],
        **({"part": part} if part else {}),
        model=COLLECTED[study, name],
        questions=",".join(table(dataset) for dataset in entry["questions"]),
        output=f"{RESPONSES}/{study}/{name}",
    )


for study, entry in PROFILE["collect"].items():
    PARTS = entry.get("parts", 1)
    PART = f".part-{{part}}-of-{PARTS}" if PARTS > 1 else ""
    NAMES = "|".join(re.escape(name) for of, name in COLLECTED if of == study)

    rule:
        name: f"collect_{study}"
        wildcard_constraints:
            name=NAMES,
            part="[0-9]+",
        input:
            notebook="notebooks/14_collect_responses.ipynb",
            code=COLLECTION,
            tables=[table(dataset) for dataset in entry["questions"]],
            model=lambda wildcards, study=study: model_files(study, wildcards.name),
        output:
            notebook=f"{BUILD}/collections/{study}/{{name}}{PART}.ipynb",
            tables=[
                f"{RESPONSES}/{study}/{{name}}/{dataset}{ENDING[study]}{PART}.parquet"
                for dataset in entry["questions"]
            ],
        params:
            parameters=lambda wildcards, study=study, parts=PARTS: collection_parameters(
                study, wildcards.name, f"{wildcards.part}/{parts}" if parts > 1 else ""
            ),
        threads: entry.get("threads", 1)
        resources:
            gpu=gpus(entry),
        shell:
            RUN + " --gpus {resources.gpu}"

    if PARTS > 1:

        rule:
            name: f"merge_{study}"
            wildcard_constraints:
                name=NAMES,
                dataset="|".join(map(re.escape, entry["questions"])),
            input:
                [
                    f"{RESPONSES}/{study}/{{name}}/{{dataset}}{ENDING[study]}.part-{k}-of-{PARTS}.parquet"
                    for k in range(1, PARTS + 1)
                ],
            output:
                f"{RESPONSES}/{study}/{{name}}/{{dataset}}{ENDING[study]}.parquet",
            shell:
                "exec " + sys.executable + " -m uqlib.pipeline merge --end-with-parent {input} {output}"


rule published_outputs:
    input:
        notebook="notebooks/74_published_outputs.ipynb",
        code=ANALYSIS,
        zoo=sorted(map(str, Path("zoo").glob("*/*.*"))),
        tables=[table(source) for source in PROFILE["published"] if source in PRESENT],
        data=[data_folder() / f for s in PROFILE["published"] if s in PRESENT for f in files_of(s)],
    output:
        notebook=f"{BUILD}/notebooks/74_published_outputs.ipynb",
        results=directory(f"{RESULTS}/74_published_outputs"),
        tables=PUBLISHED_FILES,
    params:
        parameters=parameters(
            "74_published_outputs", responses=RESPONSES, sources=",".join(PROFILE["published"])
        ),
    shell:
        RUN


for notebook in CHAPTERS:
    declared = pipeline.declared_parameters(f"notebooks/{notebook}.ipynb")

    rule:
        name: f"chapter_{notebook}"
        input:
            notebook=f"notebooks/{notebook}.ipynb",
            code=ANALYSIS + PLAYGROUND,
            zoo=sorted(map(str, Path("zoo").glob("*/*.*"))),
            benchmarks=sorted(map(str, Path("benchmarks/results").glob("*.json"))),
            questions=[table("world_opinions"), table("world_knowledge")],
            dilemmas=[table(f"conjoint/{dataset}") for dataset in MORAL] if notebook[0] == "5" else [],
            effects=EFFECTS if notebook[:2] in ("52", "53", "54") else [],
            responses=RESPONSE_FILES + PUBLISHED_FILES if "responses" in declared else [],
            shown=SHOWN.get(notebook, []),
        output:
            notebook=f"{BUILD}/notebooks/{notebook}.ipynb",
            results=directory(f"{RESULTS}/{notebook}"),
        params:
            parameters=parameters(notebook),
        shell:
            RUN


rule ledger:
    input:
        notebook="notebooks/90_ledger.ipynb",
        code=ANALYSIS,
        claims="book/claims.yaml",
        results=[f"{RESULTS}/{notebook}" for notebook in CHAPTERS] + [f"{RESULTS}/74_published_outputs"],
    output:
        notebook=f"{BUILD}/notebooks/90_ledger.ipynb",
        results=directory(f"{RESULTS}/90_ledger"),
    params:
        parameters=parameters("90_ledger"),
    shell:
        RUN


rule render:
    input:
        notebooks=[f"{BUILD}/notebooks/{notebook}.ipynb" for notebook in PROFILE["chapters"]],
        code=sorted(map(str, Path("uqlib").rglob("*.py"))),
        pages=[str(p) for p in sorted(Path("book").rglob("*")) if p.is_file()],
        config=["_config.yml", "_toc.yml", *sorted(map(str, Path("config").glob("[a-z]*.yaml")))],
        profiles="profiles/slurm/config.yaml",
    output:
        directory(f"{BUILD}/html"),
    params:
        build=BUILD,
    shell:
        "exec " + sys.executable + " -m uqlib.pipeline render --end-with-parent {params.build}"
