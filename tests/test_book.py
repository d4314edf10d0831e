"""The book as a reader gets it: built by the pipeline, then read page by page."""

import os
import re
import subprocess
import sys
import time
from base64 import b64decode
from urllib.parse import urlencode

import nbformat
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup

from uqlib.ledger import read_claims
from uqlib.paths import ROOT
from uqlib.playground import expected_measures, read_measures
from uqlib.questions.sources import missing_files

BUILD = ROOT / "build/classroom"
CHAPTERS = yaml.safe_load((ROOT / "config/classroom.yaml").read_text())["chapters"]
PAGES = ["book/index", "book/reading", "book/running", "book/data_cards", "book/reference"]
PAGES += ["book/bibliography"]
PAGES += [f"notebooks/{chapter}" for chapter in CHAPTERS]


def make_book():
    command = [sys.executable, "-m", "uqlib.pipeline", "book", "classroom"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def book():
    run = make_book()
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(params=PAGES)
def page(request):
    html = (BUILD / "html" / f"{request.param}.html").read_text()
    return BeautifulSoup(html, "html.parser")


def test_a_second_run_does_nothing_and_is_quick():
    before = (BUILD / "html/index.html").stat().st_mtime_ns
    started = time.time()
    run = make_book()
    assert time.time() - started < 15
    assert "Nothing to be done" in run.stdout
    assert (BUILD / "html/index.html").stat().st_mtime_ns == before


def test_pages_show_no_error_no_warning_and_no_path(page):
    article = page.find("article") or page
    text = article.get_text()
    assert "Traceback" not in text
    assert not article.select("div.output.stderr, div.output.error, .system-message")
    assert str(ROOT) not in str(page)
    assert not re.search(r"\{(doc|numref|cite|glue)\}", text)


def test_pages_need_no_network(page):
    for tag, attribute in (("script", "src"), ("link", "href"), ("img", "src")):
        for element in page.find_all(tag):
            address = element.get(attribute) or ""
            if tag != "link" or "stylesheet" in (element.get("rel") or []):
                assert not address.startswith("http"), address


def test_figures_have_number_caption_and_alt_text(page):
    for figure in page.select("article figure"):
        assert figure.find("figcaption").get_text().strip()
        assert figure.find("figcaption").find(class_="caption-number")
        for image in figure.find_all("img"):
            assert len(image.get("alt", "")) > 40
            assert (BUILD / "html" / "notebooks" / image["src"]).resolve().exists()


def test_every_notebook_ran_to_its_end():
    for chapter in CHAPTERS:
        notebook = nbformat.read(BUILD / "notebooks" / f"{chapter}.ipynb", as_version=4)
        cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
        assert all(cell.execution_count for cell in cells)
        assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)
        assert str(ROOT) not in nbformat.writes(notebook)


def said(chapter):
    """Sentences that the cells of a chapter displayed."""
    notebook = nbformat.read(BUILD / "notebooks" / f"{chapter}.ipynb", as_version=4)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return " ".join(
        o["data"]["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})
    )


@pytest.mark.slow
def test_the_playground_works_from_a_file_and_agrees_with_uqlib(browser):
    state = {"temperature": 0.5, "options": 7, "ratio": 0.8, "tail": 0.6, "vocabulary": 200}
    page = BUILD / "html/notebooks/27_playground.html"
    shown = read_measures(browser(f"{page.as_uri()}#{urlencode(state)}"))
    expected = expected_measures(state)
    assert shown.keys() == expected.keys()
    for name, value in expected.items():
        assert shown[name] == pytest.approx(value, abs=2e-6), name
    check = pd.read_csv(BUILD / "results/27_playground/check.csv")
    assert check.difference.max() < 2e-6


def test_both_studies_are_on_the_analysis_pages_and_marked():
    alignment = ("30_answer_agreement", "31_preference_order", "32_uncertainty_alignment")
    for chapter in (*alignment, "40_correctness_correlation"):
        page = (BUILD / "html/notebooks" / f"{chapter}.html").read_text()
        assert "Simulated zoo" in page and "Published outputs of real models" in page
        absent = "absent from this build" in said(chapter)
        assert absent == bool(missing_files("coane"))


def test_the_zoo_is_found_to_be_aligned_and_ln_n_passes_too():
    # Base models were trained on the population; the true correlation is high by design.
    table = pd.read_csv(BUILD / "results/32_uncertainty_alignment/alignment.csv")
    rows = table[(table.study == "zoo") & (table.measure == "choice_entropy")]
    assert rows[rows.scaling == "within_n"].r.max() > 0.6
    baselines = pd.read_csv(BUILD / "results/32_uncertainty_alignment/baselines.csv")
    assert baselines.log_n_r.iloc[0] > 0.6


def test_the_published_effects_are_met_and_position_alone_is_told_from_morals():
    if missing_files("moral_machine"):
        pytest.skip("moral_machine is not in the data folder")
    results = BUILD / "results"
    check = pd.read_csv(results / "52_marginal_component_effects/phi_check.csv")
    assert check.largest_difference[0] < 1e-6
    references = pd.read_csv(results / "53_moral_alignment/references.csv")
    coin = references[references.responder == "coin"].set_index("human").l2
    assert coin.round(4).to_dict() == {"published": 1.1444, "pooled": 1.0685}
    summary = pd.read_csv(results / "53_moral_alignment/summary.csv").iloc[0]
    assert (summary.models, summary.shrunk_below_1) == (75, 75)
    signs = pd.read_csv(results / "54_dropout_controls/signs.csv").iloc[0]
    assert signs.te_change > 0.3 and signs.mi_change > 0.3 and signs.l2_change < -0.3


def meets(value, rule, limit, tolerance=0.0):
    if rule == "equals":
        return -tolerance <= value - limit <= tolerance
    gap = value - limit if rule == "at_least" else limit - value
    return gap >= -tolerance


def test_every_verdict_of_the_ledger_follows_from_its_own_numbers():
    ledger = pd.read_csv(BUILD / "results/90_ledger/ledger.csv")
    for row in ledger.itertuples():
        if pd.isna(row.ours):
            assert row.verdict == "not testable here", row.id
            assert row.reason and isinstance(row.needs, str), row.id
            continue
        met = meets(row.ours, row.rule, row.published, row.tolerance)
        expected = row.if_met if met else row.if_not
        if expected == "artefact":
            assert isinstance(row.control, str), row.id
            if isinstance(row.control_rule, str):
                shown = meets(row.control_value, row.control_rule, row.control_limit)
                expected = "artefact" if shown else "reproduced"
        assert row.verdict == expected, row.id
    counts = pd.read_csv(BUILD / "results/90_ledger/counts.csv")
    for row in counts.itertuples():
        of = (ledger.paper == row.paper) & (ledger.verdict == row.verdict)
        assert row.claims == of.sum() > 0
    assert counts.claims.sum() == len(ledger)


def test_every_claim_finds_its_one_value_among_the_results():
    shown = pd.read_csv(BUILD / "results/90_ledger/ledger.csv").set_index("id")
    claims = read_claims(ROOT / "book/claims.yaml")
    assert list(shown.index) == [claim["id"] for claim in claims]
    if missing_files("coane"):
        pytest.skip("coane is not in the data folder")
    for claim in claims:
        control = {"id": claim["id"], **claim.get("control", {})}
        for place, column in ((claim, "ours"), (control, "control_value")):
            if not place.get("table") or place["select"].get("study") == "paper":
                continue
            table = pd.read_csv(BUILD / "results" / place["table"])
            for key, value in place["select"].items():
                table = table[table[key] == value]
            assert len(table) == 1, claim["id"]
            assert shown.loc[claim["id"], column] == pytest.approx(table[place["column"]].item())


def test_the_page_of_the_ledger_has_every_row_escaped_and_its_files():
    page = (BUILD / "html/notebooks/90_ledger.html").read_text()
    table = BeautifulSoup(page, "html.parser").select_one("div.ledger table")
    claims = read_claims(ROOT / "book/claims.yaml")
    rows = table.select("tbody tr")
    assert [row["id"] for row in rows] == [claim["id"] for claim in claims]
    for row, claim in zip(rows, claims, strict=True):
        assert row.select("td")[1].contents[0] == claim["statement"]
        assert (BUILD / "html/notebooks" / row.find("a")["href"]).exists()
    tags = {tag.name for row in rows for tag in row.find_all()}
    assert tags == {"td", "br", "small", "code", "a"}
    assert (BUILD / "html/_static/tables.js").exists()
    for name in ("ledger.csv", "counts.csv", "checks.csv"):
        link = re.search(rf'download="{name}" href="data:text/plain;base64,([^"]+)"', page)
        assert b64decode(link[1]) == (BUILD / "results/90_ledger" / name).read_bytes()


@pytest.mark.slow
def test_the_ledger_can_be_filtered_and_sorted_from_a_file(browser):
    drive = """<script>addEventListener("load", () => {
      const form = document.querySelector("div.ledger form");
      form.elements.verdict.value = "refuted";
      form.elements.words.value = "credible";
      form.dispatchEvent(new Event("input"));
      document.querySelectorAll("div.ledger th")[3].click();
    })</script>"""
    source = BUILD / "html/notebooks/90_ledger.html"
    driven = source.with_name("90_ledger_driven.html")
    driven.write_text(source.read_text().replace("</body>", f"{drive}</body>"))
    try:
        page = BeautifulSoup(browser(driven.as_uri()), "html.parser")
    finally:
        driven.unlink()
    ledger = pd.read_csv(BUILD / "results/90_ledger/ledger.csv")
    rows = page.select("div.ledger tbody tr")
    seen = [row["id"] for row in rows if not row.has_attr("hidden")]
    said = ledger.statement.str.contains("credible") | ledger.reason.str.contains("credible")
    assert sorted(seen) == sorted(ledger.id[said & (ledger.verdict == "refuted")]) != []
    assert page.select_one("div.ledger form").get("hidden") is None
    shown = [float(row.select("td")[3].get_text() or "inf") for row in rows]
    assert shown == sorted(shown) and shown[0] < shown[-1] == float("inf")


def test_no_file_is_written_outside_the_build(tmp_path):
    allowed = {"build", "data", ".venv", ".snakemake", ".pytest_cache", ".ruff_cache", ".git",
               ".hypothesis", "uqlib.egg-info", "wheelhouse", "_build"}  # fmt: skip
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    known = {line.split("/")[0] for line in tracked.splitlines()}
    assert {name for name in os.listdir(ROOT)} <= known | allowed
