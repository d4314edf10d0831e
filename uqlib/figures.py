"""One house style for every figure, and the few kinds of figure the book repeats."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler

from uqlib.measures import MEASURES, TOP_K, TOP_P

PALETTE = sns.color_palette("colorblind")
DIVERGING = "vlag"
MEASURE_LABELS = {
    "top1_probability": "top-1 probability",
    "total_entropy": "total entropy",
    "choice_entropy": "choice entropy",
    **{f"top_k_entropy_{k}": f"top-k entropy, k = {k}" for k in TOP_K},
    **{f"top_p_size_{p}": f"top-p size, p = .{p}" for p in TOP_P},
    **{f"top_p_entropy_{p}": f"top-p entropy, p = .{p}" for p in TOP_P},
}
VERDICT_COLOURS = {
    "reproduced": PALETTE[2],
    "not reproduced": PALETTE[1],
    "artefact": PALETTE[8],
    "refuted": PALETTE[4],
    "not testable here": "0.85",
}
FAMILY_LABELS = {
    "temperature": "temperature",
    "options": "number of plausible tokens",
    "tail": "probability of the tail",
}

TRAINING_KINDS = [
    "form", "knowledge", "ordinal", "nominal", "moral", "category", "judged", "proposed"
]  # fmt: skip


def use_house_style() -> None:
    """Set fonts, sizes and the colour-blind safe palette for every figure that follows."""
    sns.set_theme(style="ticks", palette="colorblind", font_scale=0.95)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": "medium",
            "legend.frameon": False,
            "svg.hashsalt": "uqlib",
        }
    )


def measure_grid(table: pd.DataFrame, value: str, ax: Axes, label: str, limit: float = 1) -> Axes:
    """Draw one value for every model (rows) and measure (columns) as an annotated heat map.

    Parameters
    ----------
    table : DataFrame
        Columns `measure`, `model` and `value`; models are drawn in order of appearance.
    value : str
        The column to draw.
    ax : Axes
    label : str
        What the colour means, with its unit or range.
    limit : float
        The colours run from minus this to plus this.

    Returns
    -------
    Axes
    """
    models = list(dict.fromkeys(table["model"]))
    grid = table.pivot(index="model", columns="measure", values=value).loc[models, list(MEASURES)]
    sns.heatmap(
        grid.rename(columns=MEASURE_LABELS),
        ax=ax,
        cmap=DIVERGING,
        vmin=-limit,
        vmax=limit,
        annot=grid.map(two_digits),
        fmt="",
        annot_kws={"size": 7},
        linewidths=0.5,
        cbar_kws={"label": label, "shrink": 0.5, "aspect": 30},
    )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(length=0)
    ax.tick_params(axis="x", rotation=90)
    return ax


def subject_grid(
    table: pd.DataFrame,
    value: str,
    row: str,
    subjects: list[str],
    ax: Axes,
    label: str,
    limits: tuple[float, float] = (-1, 1),
) -> Axes:
    """Draw one value for every row and subject as a heat map.

    Cells without a value are grey; `+` marks those where every answer is right, `-` where every
    answer is wrong.

    Parameters
    ----------
    table : DataFrame
        Columns `subject`, `accuracy`, `row` and `value`; rows are drawn in order of appearance.
    value, row : str
    subjects : list of str
        The columns, in order.
    ax : Axes
    label : str
        What the colour means.
    limits : tuple of float
        The colours' ends; they diverge from the middle if the lower end is negative.

    Returns
    -------
    Axes
    """
    rows = list(dict.fromkeys(table[row]))
    pick = lambda name: table.pivot(index=row, columns="subject", values=name).loc[rows, subjects]
    grid, accuracy = pick(value), pick("accuracy")
    marks = accuracy.map(lambda a: "+" if a == 1 else "\N{MINUS SIGN}" if a == 0 else "")
    sns.heatmap(
        grid,
        ax=ax,
        cmap=DIVERGING if limits[0] < 0 else "cividis",
        vmin=limits[0],
        vmax=limits[1],
        linewidths=0.3,
        xticklabels=True,
        yticklabels=True,
        cbar_kws={"shrink": 0.9, "aspect": 12},
    )
    for i, j in zip(*(grid.isna() & (marks != "")).to_numpy().nonzero(), strict=True):
        ax.text(j + 0.5, i + 0.5, marks.iloc[i, j], ha="center", va="center", fontsize=7)
    ax.set(xlabel="", ylabel="", facecolor="lightgrey")
    ax.set_title(label)
    ax.tick_params(length=0, labelsize=8 if len(subjects) < 30 else 6.5)
    return ax


def interval_plot(
    table: pd.DataFrame, value: str, row: str, ax: Axes, hue: str | None = None
) -> Axes:
    """Draw a value with its interval (`low`, `high`) for each row, one above the other.

    Parameters
    ----------
    table : DataFrame
        Columns `value`, `low`, `high`, `row` and, if given, `hue`.
    value, row : str
        The columns of the horizontal and the vertical axis; rows in order of appearance.
    ax : Axes
    hue : str, optional
        Colour and marker by this column, side by side where a row has several.

    Returns
    -------
    Axes
    """
    rows = list(dict.fromkeys(table[row]))
    groups = [(None, table)] if hue is None else list(table.groupby(hue, sort=False))
    for number, (name, group) in enumerate(groups):
        shift = 0.5 * ((number + 0.5) / len(groups) - 0.5) if table[row].duplicated().any() else 0
        ax.errorbar(
            group[value],
            [rows.index(r) + shift for r in group[row]],
            xerr=[group[value] - group["low"], group["high"] - group[value]],
            fmt="osD^v"[number % 5],
            markersize=4,
            linewidth=1,
            color=PALETTE[number],
            label=name,
        )
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.set_ylabel("")
    return ax


def family_panels(table: pd.DataFrame, measures: list[str], axes) -> None:
    """Draw measures over the families of `uqlib.shapes`, one panel a family, with their bounds.

    Parameters
    ----------
    table : DataFrame
        From `uqlib.shapes.family_table`.
    measures : list of str
        A colour each; the band runs from `low` to `high`.
    axes : sequence of Axes
        As many as there are families.
    """
    for ax, (family, part) in zip(axes, table.groupby("family", sort=False), strict=True):
        for number, name in enumerate(measures):
            line = part[part["measure"] == name]
            colour = PALETTE[number]
            ax.plot(line["x"], line["value"], color=colour, label=MEASURE_LABELS[name])
            ax.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.2, lw=0)
        ax.set(xlabel=FAMILY_LABELS[family], xscale="log" if family == "temperature" else "linear")
        if family == "temperature":
            ax.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"], minor=False)
            ax.minorticks_off()


def model_boxes(answers: pd.DataFrame, measure: str, ax: Axes) -> Axes:
    """Draw how a measure is distributed over the questions, one box for each model.

    Parameters
    ----------
    answers : DataFrame
        From `uqlib.studies.load_studies`.
    measure : str
        A column of `answers`.
    ax : Axes

    Returns
    -------
    Axes
        Simulated models first, then base, then instruct models. Boxes hold the middle half of the
        questions, whiskers nine tenths of them.
    """
    kinds = {"zoo": "simulated zoo", "base": "base", "instruct": "instruct"}
    kind = pd.Categorical(answers["kind"].map(kinds), kinds.values())
    table = answers.assign(kind=kind)
    sns.boxplot(
        table.sort_values("kind", kind="stable"),
        x=measure,
        y="model",
        hue="kind",
        palette=[PALETTE[2], PALETTE[0], PALETTE[1]],
        dodge=False,
        whis=(5, 95),
        showfliers=False,
        linewidth=0.8,
        legend="full",
        ax=ax,
    )
    ax.set(xlabel=MEASURE_LABELS[measure], ylabel="")
    ax.tick_params(axis="y", labelsize=8)
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3, fontsize=8)
    return ax


def source_table(sources: pd.DataFrame) -> Styler:
    """Return the table of the data on a page, from `uqlib.studies.load_studies`, for display."""
    return (
        sources.style.hide()
        .format(
            {"lowest option mass": "{:.2g}", "highest option mass": "{:.2g}"},
            precision=0,
            na_rep="",
        )
        .set_caption(
            "Data on this page. Option mass: the median over questions, of the model with the "
            "least and the most."
        )
    )


def say_absent(ax: Axes, what: str) -> None:
    """Write in an empty figure that its data are not there."""
    ax.set_axis_off()
    ax.figure.set_size_inches(7, 0.6)
    ax.text(0.5, 0.5, f"{what}: absent from this build", ha="center", transform=ax.transAxes)


def two_digits(value: float) -> str:
    """Write a correlation or share as briefly as a cell of a heat map allows; NaN is left empty.

    Examples
    --------
    >>> two_digits(-0.254), two_digits(1), two_digits(float("nan"))
    ('-.25', '1.00', '')
    """
    return "" if pd.isna(value) else f"{value:.2f}".replace("0.", ".")


def training_curves(records: pd.DataFrame) -> None:
    """Draw the loss of every kind of question against tokens read, a line for each model.

    Parameters
    ----------
    records : DataFrame
        Of `uqlib.zoo.training_records`. Losses are running means of ten records.
    """
    kinds = [kind for kind in TRAINING_KINDS if kind in set(records["kind"])]
    rows = -(-len(kinds) // 4)
    fig, axes = plt.subplots(rows, 4, figsize=(10, 2.7 * rows), sharex=True, squeeze=False)
    for ax, kind in zip(axes.flat, kinds, strict=False):
        part = records[records["kind"] == kind]
        for name, log in part.groupby("model", sort=False):
            smooth = log[["loss", "irreducible"]].rolling(10, min_periods=1).mean()
            ax.plot(log["tokens"] / 1e6, smooth["loss"], label=name)
        ax.plot(log["tokens"] / 1e6, smooth["irreducible"], "--", color="black", linewidth=1)
        ax.set(title=kind, ylim=(0, 2.2))
    for ax in axes.flat[len(kinds) :]:
        ax.set_axis_off()
    fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    fig.supxlabel("tokens (millions)", fontsize=10)
    fig.supylabel("loss (nats)", fontsize=10)


def loss_terms(records: pd.DataFrame, terms: list[str]) -> None:
    """Draw terms of a loss against steps, a panel a term and a line a recipe, mean over seeds.

    Parameters
    ----------
    records : DataFrame
        Columns `recipe`, `step` and the terms, in nats; NaN where a term was not computed.
    terms : list of str
    """
    fig, axes = plt.subplots(1, len(terms), figsize=(2.5 * len(terms), 2.9), squeeze=False)
    styles = ["-", "--", ":", "-."]
    for number, (name, log) in enumerate(records.groupby("recipe", sort=False)):
        means = log.groupby("step")[terms].mean()
        for ax, term in zip(axes[0], terms, strict=True):
            style = {"color": PALETTE[number % 10], "linestyle": styles[number % 4], "label": name}
            ax.plot(means.index, means[term], marker="o", markersize=3, **style)
    for ax, term in zip(axes[0], terms, strict=True):
        ax.set(title=term, xlabel="step", ylim=(0, None))
    axes[0, 0].set_ylabel("nats")
    fig.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )


def verdict_bars(counts: pd.DataFrame, ax: Axes) -> Axes:
    """Draw how many claims of each paper met each verdict, as stacked bars.

    Segments of more than three claims show their number.

    Parameters
    ----------
    counts : DataFrame
        One row a paper, in the order to draw; one column a verdict of `ledger.VERDICTS`.
    ax : Axes

    Returns
    -------
    Axes
    """
    left = 0 * counts.sum(axis=1)
    for verdict, colour in VERDICT_COLOURS.items():
        bars = ax.barh(counts.index, counts[verdict], left=left, color=colour, label=verdict)
        numbers = [n if n > 3 else "" for n in counts[verdict]]
        ax.bar_label(bars, numbers, label_type="center", fontsize=8)
        left = left + counts[verdict]
    ax.invert_yaxis()
    ax.set(xlabel="claims")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1), fontsize=8)
    return ax
