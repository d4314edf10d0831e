import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from uqlib import pipeline
from uqlib.artifacts import only_one
from uqlib.paths import ROOT


def write_notebook(path, *cells, parameters="x: int = 1"):
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [first, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "n.ipynb"


def test_a_run_passes_parameters_and_keeps_what_was_printed(tmp_path, output):
    notebook = write_notebook(tmp_path / "n.ipynb", "print('x is', x)")
    pipeline.run_notebook(notebook, output, {"x": 5})
    assert "x is 5" in output.with_suffix(".log").read_text()
    assert nbformat.read(output, 4).cells[-1].outputs[0].text == "x is 5\n"
    assert not output.with_suffix(".running.ipynb").exists()


def test_a_misspelt_parameter_is_refused_before_anything_runs(tmp_path, output):
    notebook = write_notebook(tmp_path / "n.ipynb")
    with pytest.raises(ValueError, match=r"n.ipynb has no parameter y; it has x"):
        pipeline.run_notebook(notebook, output, {"y": 5})
    assert not output.parent.exists()


@pytest.mark.parametrize(
    "cell",
    ["1 / 0", "import sys; sys.exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
    ids=["error", "exit", "killed kernel"],
)
def test_a_run_that_does_not_end_leaves_nothing_that_looks_finished(tmp_path, output, cell):
    notebook = write_notebook(tmp_path / "n.ipynb", cell, "print('after')")
    with pytest.raises((PapermillExecutionError, RuntimeError, SystemExit)):
        pipeline.run_notebook(notebook, output, {})
    assert not output.exists()


def test_a_run_ends_with_the_process_that_started_it(tmp_path, output):
    done = tmp_path / "done"
    notebook = write_notebook(
        tmp_path / "n.ipynb",
        "import os, pathlib, time",
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))",
        f"time.sleep(8); pathlib.Path({str(done)!r}).touch()",
    )
    command = [sys.executable, "-m", "uqlib.pipeline", "run", "--end-with-parent"]
    command += [str(notebook), str(output)]
    script = f"import subprocess; subprocess.run({command!r}, start_new_session=True)"
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    kernel = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(kernel), seconds=7)
    assert not done.exists() and not output.exists()


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.1)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def profile(**changes):
    entry = {"models": ["zoo/llama-0.3m-base"], "questions": ["world_opinions"], "settings": {}}
    return {"collect": {"zoo": entry}, "published": [], "notebooks": {}, "chapters": []} | changes


def study(**changes):
    return {"collect": {"zoo": profile()["collect"]["zoo"] | changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"publshed": []}, "unknown key 'publshed'"),
        ({"chapters": "all"}, "chapters must be a list"),
        ({"published": ["coain"]}, "published: unknown source 'coain'"),
        ({"chapters": ["99_nothing"]}, "no notebook '99_nothing'"),
        ({"collect": {"zoo": {"models": [], "questions": []}}}, "collect.zoo: missing key"),
        ({"collect": {"zoo": []}}, "collect.zoo must be a mapping"),
        (study(part=2), "collect.zoo: unknown key 'part'; known: models, .*, gpus, parts"),
        (study(parts="two"), "collect.zoo: parts must be a int, not 'two'"),
        (study(parts=0), "collect.zoo: parts must be positive"),
        (study(questions=["mmmlu"]), "collect.zoo: questions: unknown data set 'mmmlu'"),
        (study(settings={"dtyp": "float32"}), "collect.zoo.settings: unknown key 'dtyp'; known"),
        (study(settings={"output": "x"}), "collect.zoo.settings: unknown key 'output'"),
        (study(settings={"prompt_style": "survey,dilemma"}), "names 2 styles for 1 data sets"),
    ],
)
def test_a_bad_profile_names_file_and_key(tmp_path, changes, message):
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump(profile(**changes)))
    with pytest.raises(ValueError, match=f"lab.yaml.*{message}"):
        pipeline.load_profile(path)


def test_what_readers_could_bring_is_left_out_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("UQLIB_DATA", str(tmp_path))
    asked = study(
        questions=["roper", "world_opinions", "mmlu", "pew"],
        settings={"prompt_style": "survey,few_shot,survey,survey"},
    )
    asked["collect"]["other"] = study(questions=["pew"])["collect"]["zoo"]
    surveys = {"roper": str(tmp_path / "export.txt"), "pew": "config/sources/pew.yaml"}
    asked = profile(**asked, notebooks={"10_survey_questions": surveys | {"seed": 3}})
    left, told = pipeline.at_hand(asked)
    assert left["collect"].keys() == {"zoo"}
    assert left["collect"]["zoo"]["questions"] == ["world_opinions"]
    assert left["collect"]["zoo"]["settings"] == {"prompt_style": "few_shot"}
    assert left["notebooks"] == {"10_survey_questions": {"seed": 3}}
    assert [line.split(":")[0] for line in told] == [
        f"{tmp_path}/export.txt is not there",
        "config/sources/pew.yaml names no files",
        "the files of mmlu are not there",
        "study 'other' has nothing left to ask",
    ]
    (tmp_path / "export.txt").touch()
    left, told = pipeline.at_hand(asked, downloads=True)
    assert left["collect"]["zoo"]["questions"] == ["roper", "world_opinions", "mmlu"]
    assert left["collect"]["zoo"]["settings"] == {"prompt_style": "survey,few_shot,survey"}
    assert len(told) == 2


def test_a_plan_tells_jobs_prompts_hours_downloads_and_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("UQLIB_DATA", str(tmp_path))
    monkeypatch.setattr("uqlib.planning.get_token", lambda: None)
    models = ["HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B", "nobody/nothing"]
    asked = study(models=models, questions=["mmlu"], settings={"shots": 5}, parts=4)
    told = pipeline.tell_plan(profile(**asked), ["Roper is left out"])
    row = next(line for line in told.splitlines() if line.startswith("zoo"))
    assert row.split()[:3] == ["zoo", "12", "42,126"]
    assert row.split()[3] == f"{42_126 * 138 * 6:,}"
    assert "models to download: 2, 16 GB" in told
    assert "data to download: mmlu (57 files), moral_machine" in told
    missing = told.split("missing:\n")[1].splitlines()
    assert missing == [
        "  Roper is left out",
        "  meta-llama/Llama-3.1-8B: gated, no token",
        "  nobody/nothing: unknown",
    ]


@pytest.mark.parametrize("name", ["classroom", "laptop", "paper"])
def test_plans_of_the_profiles_need_no_network(name, capsys):
    assert pipeline.main(["plan", name]) == 0
    told = capsys.readouterr().out
    assert "unknown" not in told.split("missing:")[1]
    assert "hours in all" in told


def test_models_of_one_name_are_refused():
    same = profile()
    same["collect"]["zoo"]["models"] = ["a/b--c", "a--b/c"]
    with pytest.raises(ValueError, match="two models share a name"):
        pipeline.collected_models(same, "zoo")


def snakemake(*arguments, **environment):
    command = [sys.executable, "-m", "snakemake", "--nolock", "--dry-run", "--cores", "1"]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip


def test_an_unknown_parameter_is_an_error_while_the_graph_is_built(tmp_path):
    lab = yaml.safe_load((ROOT / "config/classroom.yaml").read_text())
    lab["notebooks"] = {"32_uncertainty_alignment": {"replicate": 10}}
    path = ROOT / "config/.test-strict.yaml"
    path.write_text(yaml.safe_dump(lab))
    try:
        run = snakemake("--config", "profile=.test-strict")
    finally:
        path.unlink()
    assert run.returncode != 0
    assert "32_uncertainty_alignment.ipynb has no parameter replicate" in run.stderr + run.stdout


def test_every_collection_is_one_job_a_model():
    run = snakemake("--forceall")
    assert run.returncode == 0, run.stderr
    models = yaml.safe_load((ROOT / "config/classroom.yaml").read_text())["collect"]["zoo"][
        "models"
    ]
    assert re.search(rf"^collect_zoo +{len(models)}$", run.stdout, re.M)


def test_a_study_in_parts_is_one_job_a_part_and_one_to_merge():
    lab = yaml.safe_load((ROOT / "config/classroom.yaml").read_text())
    lab["collect"]["zoo"] |= {"parts": 3, "gpus": 2, "models": ["zoo/llama-0.3m-base"]}
    lab["collect"]["zoo"]["questions"] = ["world_opinions", "world_knowledge"]
    lab["collect"]["zoo"]["settings"] = {"device": "spread"}
    path = ROOT / "config/.test-parts.yaml"
    path.write_text(yaml.safe_dump(lab))
    table = "build/.test-parts/responses/zoo/llama-0.3m-base/world_knowledge.parquet"
    try:
        run = snakemake("--config", "profile=.test-parts", "--printshellcmds", "--", table)
    finally:
        path.unlink()
    assert run.returncode == 0, run.stderr
    assert re.search(r"^collect_zoo +3$", run.stdout, re.M)
    assert re.search(r"^merge_zoo +1$", run.stdout, re.M)
    commands = re.findall(r"pipeline run .*14_collect.*", run.stdout)
    assert sorted(re.findall(r'"part": "(\d/\d)"', " ".join(commands))) == ["1/3", "2/3", "3/3"]
    assert all(command.endswith("--gpus 2") for command in commands)


@pytest.mark.parametrize("name", ["laptop", "paper"])
def test_the_graph_of_a_profile_is_built_for_whoever_has_its_models(name, tmp_path):
    models = pipeline.load_profile(ROOT / f"config/{name}.yaml")["collect"]
    for model in {model for entry in models.values() for model in entry["models"]}:
        place = tmp_path / f"hub/models--{model.replace('/', '--')}"
        (place / "snapshots/0").mkdir(parents=True)
        (place / "snapshots/0/config.json").write_text("{}")
        (place / "refs").mkdir()
        (place / "refs/main").write_text("0")
    run = snakemake("--config", f"profile={name}", "--forceall", HF_HOME=str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    planned, absent = pipeline.at_hand(pipeline.load_profile(ROOT / f"config/{name}.yaml"))
    for study, entry in planned["collect"].items():
        assert re.search(rf"^collect_{study} +{len(entry['models'])}$", run.stdout, re.M)
    assert all(line in run.stderr for line in absent)


@pytest.mark.parametrize(
    ("cards", "extra", "expected"),
    [
        ("", [], "gpu=1"),
        ("0,3", [], "gpu=2"),
        ("0,3", ["--profile=profiles/slurm"], None),
        ("0,3", ["--resources", "gpu=1"], "gpu=1"),
    ],
)
def test_a_book_uses_the_cards_there_are(monkeypatch, cards, extra, expected):
    ran = []
    monkeypatch.setattr(pipeline, "_run_quietly", lambda command: ran.append(command) or 0)
    monkeypatch.setattr(pipeline, "download", lambda source: ran.append(source))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
    assert pipeline.make_book("laptop", 2, extra) == 0
    assert ran[:-1] == ["coane", "mmlu", "moral_machine", "protoqa"]
    limits = [word for word in ran[-1] if word.startswith("gpu=")]
    assert limits == ([expected] if expected else [])


def test_one_build_at_a_time(capsys):
    with only_one(ROOT / "build/classroom"):
        assert pipeline.main(["book", "classroom"]) == 1
    assert "another process is at work in build/classroom" in capsys.readouterr().err


def test_the_command_line_says_what_is_wrong(capsys):
    assert pipeline.main(["book", "nowhere"]) == 1
    assert "no profile 'nowhere'; known: classroom" in capsys.readouterr().err


def test_parameters_are_given_as_json():
    with pytest.raises(SystemExit):
        pipeline.main(["run", "a", "b", "--parameters", "x=1"])
    assert json.loads('{"x": 1}') == {"x": 1}


def test_models_that_cannot_be_had_are_all_named_before_work_starts(monkeypatch, model_folder):
    def download(model, file):
        if model == "org/gated":
            raise OSError("Access to model org/gated is restricted")
        if model == "org/missing":
            raise ValueError("Repository Not Found")

    monkeypatch.setattr(pipeline, "hf_hub_download", download)
    pipeline.check_access(["org/open", str(model_folder)])
    with pytest.raises(OSError, match=r"org/gated: Access .* restricted\norg/missing: .*Not Found"):
        pipeline.check_access(["org/missing", "org/open", "org/gated"])


def test_a_hub_model_out_of_reach_is_refused_with_the_hubs_message():
    with pytest.raises(OSError, match=r"org/model: .* Hub"):
        pipeline.check_access(["org/model"])


@pytest.mark.parametrize("profile", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_profile_asks_for_what_there_is(profile):
    entries = pipeline.load_profile(profile)
    assert [f"notebooks/{chapter}" for chapter in entries["chapters"]] == re.findall(
        r"notebooks/\w+", (ROOT / "_toc.yml").read_text()
    )
    for study, entry in entries["collect"].items():
        assert len(pipeline.collected_models(entries, study)) == len(entry["models"])
    for notebook, parameters in entries["notebooks"].items():
        path = ROOT / f"notebooks/{notebook}.ipynb"
        assert parameters.keys() <= set(pipeline.declared_parameters(path))
