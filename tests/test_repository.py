"""What the repository promises: one set of versions, clean notebooks, no foreign paths."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from uqlib.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "requirements.lock").read_text().split()
}
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(r) for r in PROJECT["dependencies"] + EXTRAS["book"] + EXTRAS["test"]]


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_the_lock_pins_what_the_project_asks_for(requirement):
    version = LOCK[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the lock is made for Python 3.11")
def test_the_lock_holds_what_is_needed_and_no_more():
    needed, pending = {"setuptools"}, list(DIRECT)
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if (name, frozenset(extras)) in needed:
            continue
        needed |= {name, (name, frozenset(extras))}
        for text in importlib.metadata.requires(name) or []:
            child = Requirement(text)
            if not child.marker or any(child.marker.evaluate({"extra": e}) for e in extras):
                pending.append(child)
    missing = {name for name in needed if isinstance(name, str)} - LOCK.keys()
    # On Linux the wheel of torch for graphics cards asks for more; the lock leaves it to pip.
    assert {m for m in missing if not re.match("nvidia|cuda|triton", m)} == set()
    assert LOCK.keys() - {name for name in needed if isinstance(name, str)} == set()


def test_conda_users_get_the_versions_of_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in environment["dependencies"]
    assert environment["dependencies"][-1] == {"pip": ["--requirement requirements.lock"]}


def test_ruff_has_nothing_to_say():
    for command in (["check"], ["format", "--check", "uqlib", "tests"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stdout


def tracked_files():
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in run.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_holds_a_token_or_a_path_of_somebodys_machine():
    pattern = re.compile(rb"hf_[A-Za-z0-9]{20,}|/(?:home|Users|root|work)/\w+")
    found = {
        file.relative_to(ROOT): match
        for file in tracked_files()
        if file.suffix != ".safetensors" and (match := pattern.search(file.read_bytes()))
        if file.name != "test_repository.py"
    }
    assert not found


def test_data_and_large_files_are_not_tracked():
    for file in tracked_files():
        assert file.relative_to(ROOT).parts[0] not in ("data", "build")
        assert file.stat().st_size < 6 * 2**20


def test_weights_travel_as_safetensors_only():
    suffixes = {file.suffix for file in tracked_files() if "zoo" in file.relative_to(ROOT).parts}
    assert ".safetensors" in suffixes
    assert suffixes <= {".safetensors", ".json", ".csv", ".md"}


def test_modules_import_only_from_their_left():
    order = [
        "paths", "artifacts", "processes", "checkpoints", "questions", "prompts", "measures",
        "shapes", "forward", "models", "responses", "dropout", "collect", "populations",
        "controls", "published", "studies", "resampling", "significance", "conjoint",
        "decomposition", "moral_alignment", "alignment", "counterfactual", "calibration",
        "reliability", "jensen_shannon", "selective", "agreement", "open_answers", "scoreboard",
        "sensitivity", "abstention", "corpus", "training", "sua_training", "zoo", "figures",
        "pages", "playground", "ledger", "planning", "pipeline",
    ]  # fmt: skip
    for file in (ROOT / "uqlib").rglob("*.py"):
        room = file.relative_to(ROOT / "uqlib").parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for imported in re.findall(r"^from uqlib(?:\.(\w+)\S*)? import", file.read_text(), re.M):
            if imported:
                assert order.index(imported) <= order.index(room), f"{file.name}: {imported}"


def test_the_readme_names_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make ([\w-]+)", readme, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target
