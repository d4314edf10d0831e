"""General Social Survey: the latest answers to each variable, from two files a reader brings."""

from pathlib import Path

import pandas as pd

from uqlib.questions.own import load_own

ALL = {"id": "variable", "options": "options_json", "shares": "proportions_json"}
SUBPOP = {**ALL, "options": "subpop_options_json"}


def load_gss(file: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the toplines of all variables: wording, options and unweighted shares.

    Parameters
    ----------
    file : Path
        ``gss_latest_year.csv``: columns `variable`, `question`, `options_json`,
        `proportions_json`, of the latest year each was asked.

    Returns
    -------
    table : DataFrame
        A checked question table, dataset ``gss``; ids hold the variable's name.
    report : DataFrame
        Nothing is dropped.

    Raises
    ------
    ValueError
        Names file, row and value.

    Notes
    -----
    Background variables are among them, and some wordings hold instructions to interviewers.
    """
    return load_own(file, "gss", ALL)


def load_gss_subpop(file: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the evaluation questions of SubPOP: clean wording, joined to the shares of the survey.

    Parameters
    ----------
    file : Path
        ``gss_subpop_eval_joined.csv``: as for `load_gss`, the options as SubPOP words them
        (`subpop_options_json`).

    Returns
    -------
    table, report : DataFrame
        As `load_gss`; dataset ``gss_subpop``.

    Raises
    ------
    ValueError
        Names file, row and value.

    Notes
    -----
    Suh et al. (2025), evaluation split.
    """
    return load_own(file, "gss_subpop", SUBPOP)
