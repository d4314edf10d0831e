"""The playground: a page on which the reader shapes a distribution and sees every measure move.

The page computes everything itself, by the transforms of two Vega-Lite charts whose parameters are
bound to sliders, and holds the JavaScript it needs. `playground_log_probs` is the same family of
distributions in Python, so that the numbers of the page can be checked against `uqlib.measures`.
"""

import copy
import json
import re
from functools import cache
from html import escape
from importlib.resources import files

import altair as alt
import numpy as np
import vl_convert

from uqlib.figures import MEASURE_LABELS
from uqlib.measures import (
    MEASURES,
    TOLERANCE,
    TOP_K,
    TOP_P,
    choice_entropy,
    vocabulary_measures,
)
from uqlib.shapes import with_tail

START = {"temperature": 1.0, "options": 4, "ratio": 0.6, "tail": 0.2, "vocabulary": 1000}
VOCABULARIES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
FLOOR = 1e-8
FONT = "Helvetica, Arial, sans-serif"
BLUE, ORANGE, GREY = "#0173b2", "#b35806", "#767676"
SIZES = [name for name in MEASURES if "size" in name]
SHARES = [name for name in MEASURES if "size" not in name]


def playground_log_probs(
    temperature: float, options: int, ratio: float, tail: float, vocabulary: int
) -> np.ndarray:
    """Log-probabilities of the playground's family of next-token distributions.

    Parameters
    ----------
    temperature : float
        Divides the log-probabilities of temperature 1 before they are renormalised.
    options : int
        Plausible tokens, 2 or more: the option labels.
    ratio : float
        Probability of each option over that of the one before, in (0, 1].
    tail : float
        Probability, at temperature 1, of all other tokens, in [0, 1); they follow Zipf's law.
    vocabulary : int
        Number of tokens, more than `options`.

    Returns
    -------
    ndarray of float64, shape (vocabulary,)
        The options come first; nothing is sorted.

    Examples
    --------
    >>> np.exp(playground_log_probs(1, 2, 0.5, 0.1, 4)).round(3)
    array([0.6  , 0.3  , 0.067, 0.033])
    """
    plausible = ratio ** np.arange(options)
    shares = with_tail((1 - tail) * plausible / plausible.sum(), tail, vocabulary)
    with np.errstate(divide="ignore"):
        logits = np.log(shares) / temperature
    return logits - np.logaddexp.reduce(logits)


def expected_measures(state: dict) -> dict[str, float]:
    """Compute the sixteen measures of a state of the playground with `uqlib.measures`.

    Examples
    --------
    >>> expected_measures(START | {"ratio": 1.0, "tail": 0.0})["top_p_size_95"]
    4.0
    """
    log_probs = playground_log_probs(**state)
    values = vocabulary_measures(log_probs[None])
    values["choice_entropy"] = choice_entropy(log_probs[None, : state["options"]])
    return {name: values[name].item() for name in MEASURES}


@cache
def charts() -> dict[str, dict]:
    """Return the Vega-Lite specifications of the page: `curve`, `shares` and `sizes`."""
    return {
        "curve": _styled(
            _curve(), 300, "Probability of every token by rank, with the cuts of the measures."
        ),
        "shares": _styled(
            _bars(SHARES, alt.Scale(domain=[0, 1]), "value, from 0 to 1"),
            alt.Step(21),
            "Twelve measures between 0 and 1 as bars.",
        ),
        "sizes": _styled(
            _bars(SIZES, _log([1, VOCABULARIES[-1]]), "tokens"),
            alt.Step(21),
            "Numbers of tokens in the four top-p sets as bars.",
        ),
    }


def drawn_measures(state: dict) -> dict[str, float]:
    """Let Vega draw the charts in a state, without a browser, and read the measures off them."""
    found = {}
    for name in ("shares", "sizes"):
        spec = copy.deepcopy(charts()[name])
        for parameter in spec["params"]:
            parameter["value"] = state[parameter["name"]]
        found |= read_measures(vl_convert.vegalite_to_svg(spec))
    return found


def read_measures(page: str) -> dict[str, float]:
    """Read the measures from drawn charts (SVG, or a page that holds it).

    Examples
    --------
    >>> read_measures('<text aria-label="total_entropy=0.25">.25</text>')
    {'total_entropy': 0.25}
    """
    return {k: float(v) for k, v in re.findall(r'aria-label="(\w+)=([-\d.e]+)"', page)}


def playground_html() -> str:
    """Return the playground as one piece of HTML that needs neither network nor kernel."""
    specs = json.dumps(charts()).replace("</", "<\\/")
    folder = files("uqlib")
    script = folder.joinpath("playground.js").read_text(encoding="utf-8")
    library = vl_convert.javascript_bundle().replace("</script", "<\\/script")
    return (
        f"<style>{folder.joinpath('playground.css').read_text(encoding='utf-8')}</style>"
        f'<div id="playground"><form>{_controls()}</form>'
        '<div id="playground-curve" class="chart"></div>'
        '<div class="pair"><div id="playground-shares" class="chart"></div>'
        '<div id="playground-sizes" class="chart"></div></div></div>'
        f"<script>(() => {{{library}\n}})();</script>"
        f"<script>(async (charts, start) => {{\n{script}}})({specs}, {json.dumps(START)});</script>"
    )


def _controls() -> str:
    sliders = {
        "temperature": ("Temperature", "0.1", "5", "0.05"),
        "options": ("Options", "2", "10", "1"),
        "ratio": ("Ratio of options", "0.05", "1", "0.05"),
        "tail": ("Other tokens' share", "0", "0.95", "0.05"),
    }
    parts = [
        f'<label>{escape(text)} <output></output><input type="range" name="{name}" '
        f'min="{low}" max="{high}" step="{step}"></label>'
        for name, (text, low, high, step) in sliders.items()
    ]
    sizes = "".join(f'<option value="{n}">{n:,}</option>' for n in VOCABULARIES)
    parts.append(f'<label>Vocabulary <select name="vocabulary">{sizes}</select></label>')
    return "".join(parts) + '<button type="reset">Start again</button>'


def _log(domain: list[float]) -> alt.Scale:
    return alt.Scale(type="log", domain=domain, clamp=True)


def _tokens() -> alt.LayerChart:
    """One row a token with probability, rank and what is reached up to it, as a base to draw on."""
    share = "datum.base / datum.total * (datum.option ? 1 - tail : tail)"
    rows = alt.sequence(1, VOCABULARIES[-1] + 1, as_="token")
    return (
        alt.Chart(rows)
        .transform_filter("datum.token <= vocabulary")
        .transform_calculate(option="datum.token <= options")
        .transform_calculate(
            base="datum.option ? pow(ratio, datum.token - 1) : 1 / (datum.token - options)"
        )
        .transform_joinaggregate(total="sum(base)", groupby=["option"])
        .transform_calculate(logit=f"log({share}) / temperature")
        .transform_joinaggregate(top="max(logit)")
        .transform_calculate(weight="exp(datum.logit - datum.top)")
        .transform_joinaggregate(all="sum(weight)")
        .transform_calculate(p="datum.weight / datum.all")
        .transform_calculate(h="datum.p > 0 ? -datum.p * log(datum.p) : 0")
        .transform_window(
            rank="row_number()",
            mass="sum(p)",
            sort=[alt.SortField("p", order="descending")],
            frame=[None, 0],
            ignorePeers=True,
        )
        .transform_window(
            [alt.WindowFieldDef(op="lag", field="mass", param=1, **{"as": "before"})],
            sort=[alt.SortField("rank")],
        )
    )


def _measured(base):
    """One row with all measures, from one row a token."""
    kept = {"all": "true", "choice": "datum.option"}
    kept |= {f"k{k}": f"datum.rank <= {k}" for k in TOP_K}
    kept |= {f"p{p}": f"(datum.before || 0) < {p / 100 - TOLERANCE}" for p in TOP_P}
    for name, test in kept.items():
        inside = {f"{field}_{name}": f"{test} ? datum.{field} : 0" for field in "ph"}
        base = base.transform_calculate(**inside, **{f"n_{name}": f"{test} ? 1 : 0"})
    sums = {f"{field}_{name}": f"sum({field}_{name})" for name in kept for field in "phn"}
    base = base.transform_aggregate(**sums, top="max(p)")
    entropy = {
        name: f"datum.n_{name} > 1 ? clamp((datum.h_{name} / datum.p_{name} + "
        f"log(datum.p_{name})) / log(datum.n_{name}), 0, 1) : 0"
        for name in kept
    }
    return base.transform_calculate(
        top1_probability="datum.top",
        total_entropy=entropy["all"],
        choice_entropy=entropy["choice"],
        **{f"top_k_entropy_{k}": entropy[f"k{k}"] for k in TOP_K},
        **{f"top_p_entropy_{p}": entropy[f"p{p}"] for p in TOP_P},
        **{f"top_p_size_{p}": f"datum.n_p{p}" for p in TOP_P},
    )


def _bars(names: list[str], scale: alt.Scale, title: str) -> alt.LayerChart:
    labels = {name: MEASURE_LABELS[name] for name in names}
    measured = (
        _measured(_tokens())
        .transform_fold(names, as_=["name", "value"])
        .transform_calculate(
            measure=f"{json.dumps(labels)}[datum.name]",
            exact="datum.name + '=' + format(datum.value, '.7f')",
            shown="indexof(datum.name, 'size') < 0 ? format(datum.value, '.3f')"
            " : format(datum.value, ',')",
        )
    )
    start = expected_measures(START)
    first = alt.Chart(
        alt.Data(values=[{"measure": labels[name], "value": start[name]} for name in names])
    )
    y = alt.Y("measure:N", sort=list(labels.values()), title=None, axis=alt.Axis(labelLimit=200))
    x = alt.X("value:Q", scale=scale, title=title, axis=alt.Axis(tickCount=4, format="~s"))
    zero = {"x2": alt.datum(scale.domain[0])}
    bars = measured.mark_bar(color=BLUE, height=12, aria=False).encode(x=x, y=y, **zero)
    text = measured.mark_text(align="right", dx=44, fontSize=12).encode(
        x=alt.value("width"), y=y, text="shown:N", description="exact:N"
    )
    ticks = first.mark_tick(color="black", thickness=2, size=18, aria=False).encode(x=x, y=y)
    return alt.layer(bars, ticks, text)


def _curve() -> alt.LayerChart:
    axis = alt.Axis(grid=False, tickCount=5, format="~s")
    powers = alt.Axis(
        grid=False, tickCount=5, labelExpr="'1e' + format(log(datum.value) / LN10, '.0f')"
    )
    x = alt.X("rank:Q", scale=_log([1, VOCABULARIES[-1]]), title="rank of the token", axis=axis)
    y = alt.Y("p:Q", scale=_log([FLOOR, 1]), title="probability", axis=powers)
    drawn = (
        _tokens()
        .transform_calculate(step="floor(12 * log(datum.rank))")
        .transform_filter(
            f"datum.p >= {FLOOR} && (datum.rank <= 30 || datum.option || "
            "datum.step != floor(12 * log(datum.rank - 1)) || datum.rank == vocabulary)"
        )
        .transform_calculate(kind="datum.option ? 'option label' : 'other token'")
    )
    kind = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=["option label", "other token"], range=[ORANGE, BLUE]),
        legend=alt.Legend(title=None, orient="top-right"),
    )
    points = drawn.mark_point(filled=True, size=32, opacity=1, aria=False).encode(
        x=x, y=y, color=kind
    )
    sizes = _measured(_tokens()).transform_fold(SIZES, as_=["name", "rank"])
    sizes = sizes.transform_calculate(label="'p = .' + slice(datum.name, -2)")
    across = {"x": alt.X("rank:Q")}
    names = (
        sizes.transform_window(line="row_number()")
        .transform_calculate(base=f"{FLOOR} * pow(6, datum.line - 0.5)")
        .encode(**across, y="base:Q", text="label:N")
    )
    halo = [{"stroke": "white", "strokeWidth": 4, "aria": False}, {"fontWeight": "bold"}]
    solid = alt.Chart(alt.Data(values=[{"rank": k, "label": str(k)} for k in TOP_K]))
    solid = solid.transform_filter("datum.rank <= vocabulary")
    cuts = [
        solid.mark_rule(color=GREY, aria=False).encode(**across),
        solid.mark_text(dy=-8, fontSize=11, color="#555").encode(
            **across, y=alt.value(0), text="label:N"
        ),
        sizes.mark_rule(strokeDash=[3, 3], strokeWidth=1.5, aria=False).encode(**across),
        *(names.mark_text(align="left", dx=4, fontSize=11, **style) for style in halo),
    ]
    return alt.layer(*cuts, points)


def _styled(chart: alt.LayerChart, height, description: str) -> dict:
    return (
        chart.add_params(*(alt.param(name=name, value=value) for name, value in START.items()))
        .properties(
            description=description,
            width="container",
            height=height,
            autosize=alt.AutoSizeParams(contains="padding", type="fit-x"),
        )
        .configure(font=FONT, padding={"left": 5, "top": 20, "right": 10, "bottom": 5})
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
        .configure_legend(labelFontSize=12, symbolSize=60)
        .configure_view(stroke=None)
        .to_dict()
    )
