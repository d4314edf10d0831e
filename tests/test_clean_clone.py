"""The slow tier: a stranger's machine, and a power cut."""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from uqlib.paths import ROOT, data_folder

pytestmark = pytest.mark.slow
NEVER_READ_DATA = ["14", "26", "27", "50", "60", "61", "63", "71", "72", "80", "81", "82"]
CHAPTERS = ["32_uncertainty_alignment", "40_correctness_correlation", "74_published_outputs"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone") / "book"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def environment(**changes):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"UQLIB_DATA": str(data_folder())} | changes


def make(target, clone, **changes):
    return subprocess.run(
        ["make", target], cwd=clone, env=environment(**changes), capture_output=True, text=True
    )


def results(build):
    """Hash of every table a build made; files that hold times are left out."""
    files = [*build.glob("results/**/*.csv"), *build.glob("*/**/*.parquet")]
    return {
        str(file.relative_to(build)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if "80_train_the_zoo" not in str(file)
    }


def test_a_clean_clone_becomes_a_book(clone):
    run = make("book", clone)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (clone / "build/classroom/html/index.html").exists()
    assert "The book is at build/classroom/html/index.html" in run.stdout


def test_a_build_killed_at_any_moment_is_finished_by_the_next(clone):
    expected = results(clone / "build/classroom")
    assert expected, "the clean build of the test before is needed"
    shutil.copy(clone / "config/classroom.yaml", clone / "config/killed.yaml")
    build = clone / "build/killed"
    chapters = [f"build/killed/notebooks/{name}.ipynb" for name in CHAPTERS]
    command = [clone / ".venv/bin/python", "-m", "uqlib.pipeline", "book", "killed", *chapters]
    moments = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            command,
            cwd=clone,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moments.uniform(4, 40))
        if moments.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            snakemake = pids_of("snakemake", clone)
            for pid in snakemake or [process.pid]:
                kill(pid)
        process.wait()
        wait_until_quiet(clone)
    run = subprocess.run(command, cwd=clone, env=environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    found = results(build)
    assert {name.split("/")[1] for name in found if name.startswith("results")} >= set(CHAPTERS)
    assert found == {name: expected[name] for name in found}
    again = subprocess.run(command, cwd=clone, env=environment(), capture_output=True, text=True)
    assert "Nothing to be done" in again.stdout


def test_one_changed_parameter_reruns_only_what_depends_on_it(clone):
    path = clone / "config/classroom.yaml"
    path.write_text(path.read_text().replace("{replicates: 2000}", "{replicates: 300}", 1))
    before = {
        p: p.stat().st_mtime_ns for p in (clone / "build/classroom/notebooks").glob("*.ipynb")
    }
    run = make("book", clone)
    assert run.returncode == 0, run.stdout + run.stderr
    changed = {p.stem for p, time_ns in before.items() if p.stat().st_mtime_ns != time_ns}
    assert changed == {"32_uncertainty_alignment", "90_ledger"}


def test_without_data_and_network_the_pipeline_goes_on_and_says_so(clone, tmp_path):
    shutil.rmtree(clone / "build")
    names = [*CHAPTERS, "53_moral_alignment"]
    chapters = [f"build/classroom/notebooks/{name}.ipynb" for name in names]
    command = [clone / ".venv/bin/python", "-m", "uqlib.pipeline", "book", "classroom", *chapters]
    closed = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}
    run = subprocess.run(
        command,
        cwd=clone,
        env=environment(UQLIB_DATA=str(tmp_path), **closed),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "cannot be downloaded" in run.stdout + run.stderr
    assert "The published outputs are absent" in (clone / chapters[2]).read_text()
    assert "absent from this build" in (clone / chapters[0]).read_text()


def test_the_sources_build_directly_also_without_data(clone, tmp_path):
    config = yaml.safe_load((clone / "_config.yml").read_text())
    config["execute"]["exclude_patterns"] = [f"notebooks/{name}*" for name in NEVER_READ_DATA]
    path = clone / "_config_direct.yml"
    path.write_text(yaml.safe_dump(config))
    jupyter_book = clone / ".venv/bin/jupyter-book"
    command = [jupyter_book, "build", ".", "--path-output", "build/direct", "--config", path]
    run = subprocess.run(
        command,
        cwd=clone,
        env=environment(UQLIB_DATA=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    html = clone / "build/direct/_build/html"
    page = (html / "notebooks/32_uncertainty_alignment.html").read_text()
    assert "Uncertainty alignment" in page and "absent from this build" in page
    page = (html / "notebooks/74_published_outputs.html").read_text()
    assert "The published outputs are absent" in page
    front = (html / "book/index.html").read_text()
    assert "This build lacks the tables of the chapter" in front and "claims:" in front


def processes(clone):
    """Return process id and command line of everything that works in the clone."""
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd").startswith(str(clone)):
                with open(f"/proc/{entry}/cmdline") as file:
                    yield int(entry), file.read()
        except OSError:
            continue


def pids_of(name, clone):
    return [pid for pid, command in processes(clone) if name in command]


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_until_quiet(clone, seconds=20):
    end = time.time() + seconds
    while list(processes(clone)):
        assert time.time() < end, f"left running: {list(processes(clone))}"
        time.sleep(0.2)
