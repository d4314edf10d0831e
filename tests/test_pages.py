import base64
import re

import pandas as pd
from bs4 import BeautifulSoup

from uqlib.pages import download_link, sortable_table

TABLE = pd.DataFrame(
    {
        "id": ["P-1", "P-2", "P-3"],
        "verdict": ["held", 'said "no"', "held"],
        "claim": ["a < b & c", "<script>alert(1)</script>", "plain"],
        "in": ['<a href="x.html">10</a>', "", '<a href="y.html">11</a>'],
    }
)


def parsed(choices=(), **settings):
    return BeautifulSoup(sortable_table(TABLE, TABLE[list(choices)], **settings), "html.parser")


def test_cells_are_read_as_they_were_written():
    rows = parsed(html=["in"]).tbody.find_all("tr")
    texts = [[cell.get_text() for cell in row.find_all("td")] for row in rows]
    assert texts == TABLE.assign(**{"in": ["10", "", "11"]}).to_numpy().tolist()


def test_survey_text_never_becomes_markup():
    page = parsed()
    assert not page.select("td *")
    assert len(page.find_all("script")) == 1


def test_rows_carry_their_id_and_what_they_are_chosen_by():
    page = parsed(choices=["verdict"], ids="id")
    rows = page.tbody.find_all("tr")
    assert [row["id"] for row in rows] == TABLE["id"].tolist()
    assert [row["data-verdict"] for row in rows] == TABLE["verdict"].tolist()
    options = [option.get_text() for option in page.select("select[name=verdict] option")]
    assert options == ["every verdict", "held", 'said "no"']


def test_a_file_comes_back_as_it_was():
    text = "model,r\nnaïve,0.5\n"
    data = re.search(r"base64,([^\"]+)", download_link(text, "t.csv"))[1]
    assert base64.b64decode(data).decode() == text
