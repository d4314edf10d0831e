"""Every notebook in git: no outputs, known tags, short cells, figures a reader can use."""

import ast
import re

import nbformat
import papermill
import pytest
import yaml

from uqlib.paths import ROOT

TAGS = {"parameters", "install", "hide-cell", "hide-input", "hide-output", "remove-stderr"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_outputs_are_not_in_git(notebook):
    for cell in code_cells(notebook):
        assert not cell.outputs and cell.execution_count is None
    assert notebook.metadata["kernelspec"]["name"] == "python3"


def test_tags_are_known(notebook):
    for cell in notebook.cells:
        assert set(cell.metadata.get("tags", [])) <= TAGS


def test_parameters_stand_first_annotated_and_with_a_reason(notebook, path):
    cells = [c for c in code_cells(notebook) if "install" not in c.metadata.get("tags", [])]
    assert "parameters" in cells[0].metadata["tags"]
    assert sum("parameters" in c.metadata.get("tags", []) for c in cells) == 1
    for line in cells[0].source.splitlines():
        assert re.match(r"\w+: (str|int|float|bool) = .+  # \S", line), line
    assert "output" in papermill.inspect_notebook(str(path))


def test_the_first_code_cell_installs_the_package_where_it_is_missing(notebook):
    cell = code_cells(notebook)[0]
    assert cell.metadata["tags"] == ["hide-cell", "install"]
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert cell.source == (
        '__import__("importlib.util").util.find_spec("uqlib") or get_ipython().system('
        f'"git clone --quiet --depth 1 {url} book && pip install --quiet ./book && '
        'cp -r book/. .");'
    )


def test_cells_are_short(notebook):
    hidden = {"hide-input", "hide-cell", "parameters"}
    cells = [c for c in code_cells(notebook) if not hidden & set(c.metadata.get("tags", []))]
    lengths = sorted(len(c.source.splitlines()) for c in cells)
    assert max(lengths) <= 10
    assert lengths[len(lengths) // 2] <= 5


def test_figures_have_a_name_a_caption_that_names_its_data_and_alt_text(notebook, path):
    for cell in code_cells(notebook):
        if not re.search(r"plt\.subplots|sns\.\w+plot|\.plot\(", cell.source):
            continue
        mystnb = cell.metadata["mystnb"]
        assert mystnb["figure"]["name"].startswith(f"fig-{path.stem[:2]}-")
        assert re.match(r"\*\*.+?\*\*.+\*[A-Z].+\*$", mystnb["figure"]["caption"]), cell.source
        assert len(mystnb["image"]["alt"]) > 40


def test_a_chapter_has_a_question_and_exercises(notebook):
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    first = notebook.cells[0].source
    assert re.match(r"# [A-Z].+\n\n\*\*.+\?\*\*", first), first
    assert "*Time:" in first
    labels = re.findall(r"```\{exercise\}\n:label: (ex-\d\d-\w+)", text)
    solutions = re.findall(r"```\{solution\} (ex-\d\d-\w+)\n:class: dropdown", text)
    assert labels and labels == solutions


def test_code_is_python_and_does_not_comment_itself(notebook):
    for cell in code_cells(notebook):
        ast.parse(cell.source)
        if "parameters" not in cell.metadata.get("tags", []):
            assert not re.search(r"^\s*#", cell.source, re.M), cell.source


def test_the_table_of_contents_and_the_profile_list_every_notebook():
    toc = (ROOT / "_toc.yml").read_text()
    chapters = yaml.safe_load((ROOT / "config/classroom.yaml").read_text())["chapters"]
    assert [path.stem for path in NOTEBOOKS] == sorted(chapters)
    for chapter in chapters:
        assert f"notebooks/{chapter}" in toc
