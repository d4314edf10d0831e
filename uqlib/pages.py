"""What a static page offers beside figures: tables to sort and search, and files to take away."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape

import pandas as pd


def sortable_table(
    table: pd.DataFrame, choices: pd.DataFrame, html: Sequence[str] = (), ids: str = ""
) -> str:
    """Write a table that a reader can sort by its headings and narrow by words and choices.

    Parameters
    ----------
    table : DataFrame
        Cells as they are to be read.
    choices : DataFrame, as long as the table
        Columns by whose values rows can be chosen, whether the table shows them or not.
    html : sequence of str
        Columns that hold HTML; all other cells are escaped.
    ids : str
        Column that names each row, so that a link can lead to it.

    Returns
    -------
    str
        HTML. Without JavaScript it is a plain table; ``book/static/tables.js`` does the rest.

    Examples
    --------
    >>> table = pd.DataFrame({"name": ["a < b"]})
    >>> "<td>a &lt; b</td>" in sortable_table(table, table[[]])
    True
    """
    marks = {f"data-{name}": choices[name] for name in choices} | (
        {"id": table[ids]} if ids else {}
    )
    starts = [
        "".join(f' {name}="{escape(str(values.iloc[row]))}"' for name, values in marks.items())
        for row in range(len(table))
    ]
    columns = [
        [str(value) if name in html else escape(str(value)) for value in table[name]]
        for name in table
    ]
    cells = ["".join(f"<td>{cell}</td>" for cell in row) for row in zip(*columns, strict=True)]
    rows = "".join(f"<tr{start}>{row}</tr>" for start, row in zip(starts, cells, strict=True))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table)
    fields = "".join(_choice(name, choices[name]) for name in choices)
    return (
        f'<div class="sortable"><form hidden>{fields}<input name="words" type="search" '
        'placeholder="search" aria-label="search"> <output name="shown"></output></form>'
        f"<div><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></div>"
        '<script src="../_static/tables.js"></script>'
    )


def download_link(text: str, name: str) -> str:
    """Return a link, as HTML, that hands over a text as a file; the page itself holds it.

    Examples
    --------
    >>> download_link("a,b", "t.csv")
    '<a download="t.csv" href="data:text/plain;base64,YSxi">t.csv</a>'
    """
    data = b64encode(text.encode()).decode()
    return f'<a download="{escape(name)}" href="data:text/plain;base64,{data}">{escape(name)}</a>'


def _choice(name: str, values: pd.Series) -> str:
    options = "".join(f"<option>{escape(str(value))}</option>" for value in values.unique())
    every = f'<option value="">every {escape(name)}</option>'
    return f'<select name="{name}" aria-label="{name}">{every}{options}</select> '
