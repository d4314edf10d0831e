"""Containers and launch buttons: what can be checked without building an image or a network."""

import json
import os
import re
import subprocess
import sys

import nbformat
import yaml

from uqlib.paths import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())


def test_the_dockerfile_copies_what_there_is_and_makes_what_the_makefile_knows():
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    instructions = {line.split()[0] for line in lines if line and not line.startswith("#")}
    assert instructions <= {"FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY", "EXPOSE", "CMD", "ARG"}
    for line in lines:
        if line.startswith("COPY"):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)
    targets = set(re.findall(r"make ([\w./-]+)", "\n".join(x for x in lines if x[:3] == "RUN")))
    assert targets == {".venv/ready"}
    assert re.search(r"^\.venv/ready:", (ROOT / "Makefile").read_text(), re.M)
    assert re.findall(r"FROM (\S+) AS (\w+)", DOCKERFILE) == [
        ("python:3.11-slim-bookworm", "base"), ("base", "cuda"), ("base", "cpu"),
    ]  # fmt: skip


def test_an_image_can_install_before_the_rest_is_copied(tmp_path):
    copied = re.findall(r"^COPY --chown=reader (.+) \S+$", DOCKERFILE, re.M)[:2]
    for name in " ".join(copied).split():
        (tmp_path / name).symlink_to(ROOT / name)
    run = subprocess.run(
        ["make", "--dry-run", f"PYTHON={sys.executable}", ".venv/ready"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "--requirement requirements.lock" in run.stdout or sys.version_info[:2] != (3, 11)
    assert "--no-deps --no-build-isolation --editable ." in run.stdout


def test_built_and_downloaded_files_stay_out_of_the_image():
    left_out = set((ROOT / ".dockerignore").read_text().split())
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    assert {name.removeprefix("**/") for name in left_out} >= ignored - {"*.pyc"}


def test_the_devcontainer_makes_the_same_environment():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make .venv/ready"
    build = container["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert f" AS {build['target']}\n" in DOCKERFILE


def test_binder_installs_the_library_alone_at_the_versions_of_the_lock():
    script = ROOT / "binder/postBuild"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "--constraint requirements.lock --editable ." in script.read_text()
    assert (ROOT / "binder/runtime.txt").read_text().strip() == "python-3.11"


def test_launch_buttons_point_to_the_committed_notebooks():
    assert CONFIG["launch_buttons"].keys() >= {"colab_url", "binderhub_url"}
    assert "path_to_book" not in CONFIG["repository"]


def test_the_install_cell_gives_a_notebook_elsewhere_all_it_needs(tmp_path):
    notebook = nbformat.read(ROOT / "notebooks/32_uncertainty_alignment.ipynb", 4)
    (cell,) = [c for c in notebook.cells if "install" in c.metadata.get("tags", [])]
    ran = []
    shell = type("Shell", (), {"system": lambda self, command: ran.append(command)})()
    exec(cell.source, {"get_ipython": lambda: shell})
    assert not ran
    exec(cell.source.replace('"uqlib"', '"no_such_package"'), {"get_ipython": lambda: shell})
    (command,) = ran

    pip = tmp_path / "bin/pip"
    pip.parent.mkdir()
    pip.write_text('#!/bin/sh\necho "$@" > "$PIP_WAS_ASKED"\n')
    pip.chmod(0o755)
    elsewhere = tmp_path / "content"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "PATH": f"{pip.parent}:{os.environ['PATH']}",
        "PIP_WAS_ASKED": str(tmp_path / "asked"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": CONFIG["repository"]["url"],
    }
    subprocess.run(command, shell=True, cwd=elsewhere, env=environment, check=True)
    assert (tmp_path / "asked").read_text() == "install --quiet ./book\n"
    script = "from uqlib.paths import ROOT; print(ROOT)"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, ''); {script}"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(elsewhere)


def test_what_could_not_be_tried_is_said_where_it_is_described():
    text = (ROOT / "book/running.md").read_text().split("## In a container")[1].split("\n## ")[0]
    assert "*not exercised* here" in " ".join(text.split())
    assert all(name in text for name in ("Dockerfile", ".devcontainer/", "binder/", "Colab"))
