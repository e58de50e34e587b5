"""Scores -> one HTML page that needs nothing beside it: tables with a sentence each, distributions, pairs, provenance.

Reads the previews of the pairs it shows. Writes the page. Light and dark follow the reader's system.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from tumorgen_cli.files import write_text
from tumorgen_cli.metrics.scores import CaseScores, Comparison, Scores, Summary, values_of
from tumorgen_cli.previews import display_of
from tumorgen_cli.records import Provenance

_PICTURE_WIDTH = 760
_INK = {"#010203": "var(--text)", "#010204": "var(--soft)", "#010205": "var(--line)", "#010206": "var(--mark)"}
_STYLE = """
:root{color-scheme:light dark;--text:#20242a;--soft:#5d6570;--back:#fff;--card:#f5f6f8;--line:#d9dde3;--mark:#1d6fd1}
@media(prefers-color-scheme:dark){:root{--text:#e6e8eb;--soft:#a3abb6;--back:#15181c;--card:#1e2329;--line:#3a414b;--mark:#6db3ff}}
*{box-sizing:border-box}body{margin:0 auto;padding:2rem 1.2rem 4rem;max-width:64rem;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}p{margin:.4rem 0}.soft,caption{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.86rem}td.n{white-space:nowrap}td.s{min-width:14rem}td small{color:var(--soft)}
.big{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;margin:1.2rem 0}
.big div{background:var(--card);border-radius:8px;padding:.8rem 1rem}.big b{display:block;font-size:1.5rem;color:var(--mark)}
svg{max-width:100%;height:auto}img{max-width:100%;height:auto;border-radius:6px;display:block}
figure{margin:0 0 1.4rem}figcaption{margin:.3rem 0 .5rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
"""


def write_report(path: Path, scores: Scores, provenance: Sequence[Provenance], previews: Path) -> None:
    """Writes the page. `previews` holds `<case>.png` for the pairs; a missing one is said to be missing."""
    _, unit = display_of(scores.channel)
    parts = [
        _head(scores),
        _numbers(scores),
        _agreement(scores),
        _statistics(scores, unit),
        _shares(scores),
        _distances(scores),
        _pairs(scores, previews),
        _origin(scores, provenance),
    ]
    title = f"{scores.name}: evaluation"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
        f"<body>\n{''.join(part for part in parts if part)}</body></html>\n",
    )


# -- sections ----------------------------------------------------------------------------------------------------
def _head(scores: Scores) -> str:
    counts = {group: len(scores.of(group)) for group in ("synthetic", "train", "test")}
    return (
        f"<h1>{escape(scores.name)}</h1><p class=soft>{counts['synthetic']} synthetic pairs, beside {counts['train']} training "
        f"and {counts['test']} held-out cases with a tumor · channel {escape(scores.channel)}</p>\n"
    )


def _numbers(scores: Scores) -> str:
    agreement, contrast = scores.agreement, next(c for c in scores.comparisons if c.field == "contrast")
    low = scores.shares[0]
    tiles = [
        ("Dice with the judge", _number(agreement.dice.mean), f"held-out real tumors: {_number(agreement.real_dice.mean)}"),
        (
            "Surface Dice",
            _number(agreement.surface_dice.mean),
            f"held-out real tumors: {_number(agreement.real_surface_dice.mean)}",
        ),
        ("KS distance of contrast", _number(contrast.ks), "0 alike, 1 apart"),
        ("Low-uptake tumors", _percent(low.synthetic), f"training tumors: {_percent(low.training)}"),
    ]
    if not scores.judge:
        tiles = tiles[2:]
    return "<div class=big>" + "".join(f"<div>{a}<b>{b}</b><span class=soft>{c}</span></div>" for a, b, c in tiles) + "</div>\n"


def _agreement(scores: Scores) -> str:
    if not scores.judge:
        text = "No judge was given, so agreement between images and masks was not measured: use --judge FOLDER with an nnU-Net."
        return f"<h2>Do image and mask agree?</h2><p>{text}</p>\n"
    a = scores.agreement
    rows = [
        (
            "Dice",
            _interval(a.dice),
            _interval(a.real_dice),
            "Overlap of the generated mask with what the judge finds in the image.",
        ),
        (
            f"Surface Dice, {scores.tolerance_mm:g} mm",
            _interval(a.surface_dice),
            _interval(a.real_surface_dice),
            "Share of both surfaces that lie within this distance of each other.",
        ),
    ]
    note = (
        "A prediction counts inside the painted box and 10 mm around it (real tumors: their tight box and 10 mm around it). "
        "The held-out real cases are what this judge reaches on real tumors. Agreement above that is a sign of easy, typical "
        "tumors, not only of good masks. Intervals are 95 % bootstraps over pairs, which are alike where they share a host."
    )
    return (
        "<h2>Do image and mask agree?</h2>" + _table(["", "synthetic", "held-out real", ""], rows) + f"<p class=soft>{note}</p>\n"
    )


def _statistics(scores: Scores, unit: str) -> str:
    rows = []
    for c in scores.comparisons:
        rows.append((_titled(c, unit), _quartiles(c.synthetic), _quartiles(c.training), _number(c.ks)))
    note = (
        "Median and quartiles; the curves show the share of tumors at or below a value, and KS is the largest gap between two "
        "curves: 0 alike, 1 apart. Contrast is mean "
        "uptake inside minus the mean of the 2 cm around; the core ratio is below 1 where a tumor's core is darker than its rim."
    )
    return (
        "<h2>Do the tumors look like the training tumors?</h2>"
        + _table(["", "synthetic", "training", "KS"], rows)
        + f"<p class=soft>{note}</p><div class=wide>{_distributions(scores, unit)}</div>\n"
    )


def _shares(scores: Scores) -> str:
    rows = [(s.kind, _percent(s.synthetic), _percent(s.training), f"{s.rule} ({_number(s.threshold)})") for s in scores.shares]
    note = "<p class=soft>A generator that paints typical tumors only has less of these than the data.</p>\n"
    return "<h2>Are the hard ones among them?</h2>" + _table(["", "synthetic", "training", ""], rows) + note


def _distances(scores: Scores) -> str:
    rows = []
    for place, title in (("tumor", "through the tumor"), ("middle", "middle of the window")):
        planes = [p for p in scores.planes if p.place == place]
        columns = [[getattr(p, column) for p in planes] for column in ("synthetic", "matched", "floor")]
        rows += [(f"{p.plane}, {title}", *map(_number, (p.synthetic, p.matched, p.floor))) for p in planes]
        rows.append((f"mean of planes, {title}", *(_number(float(np.mean(c)) if c else math.nan) for c in columns)))
    tests = len(scores.of("test"))
    note = (
        f"Fréchet distance to the training cases' slices in the features <i>{escape(scores.features)}</i> (texture statistics "
        "of a fixed filter bank; not an FID, and not comparable to one). Fewer slices make it larger, so hold the second column, "
        f"taken at the {tests} held-out cases' number, against the third, which is what real cases reach."
    )
    header = ["", "synthetic", f"synthetic, {tests} at a time", "held-out real"]
    return "<h2>How far are the images from real ones?</h2>" + _table(header, rows) + f"<p class=soft>{note}</p>\n"


def _pairs(scores: Scores, previews: Path) -> str:
    by, title = ("dice", "Dice") if scores.judge else ("contrast", "contrast")
    cases = scores.of("synthetic")
    values = values_of(cases, by)
    ranked = [cases[i] for i in np.argsort(-values, kind="stable") if math.isfinite(values[i])]
    if not ranked:
        return ""
    picks = {"best" if scores.judge else "highest": ranked[0]}
    if len(ranked) > 2:
        picks["median"] = ranked[len(ranked) // 2]
    if len(ranked) > 1:
        picks["worst" if scores.judge else "lowest"] = ranked[-1]
    shown = "".join(_pair(f"{name} {title}", case, previews / f"{case.case}.png") for name, case in picks.items())
    return f"<h2>Pairs by {title}</h2>{shown}\n"


def _pair(title: str, case: CaseScores, path: Path) -> str:
    s = case.statistics
    facts = [f"{_number(s.volume_ml)} ml", f"mean {_number(s.mean)}", f"contrast {_number(s.contrast)}"]
    if math.isfinite(case.dice):
        facts.insert(0, f"Dice {_number(case.dice)}, surface Dice {_number(case.surface_dice)}")
    text = f"<b>{title}</b>: {escape(case.case)} on {escape(case.host)} · {' · '.join(facts)}"
    picture = f'<img src="{_photo(path)}" alt="{escape(case.case)}">' if path.is_file() else "<p class=soft>(no preview)</p>"
    return f"<figure><figcaption>{text}</figcaption>{picture}</figure>"


def _origin(scores: Scores, provenance: Sequence[Provenance]) -> str:
    seconds = [sum(line.seconds.values()) if "total" not in line.seconds else line.seconds["total"] for line in provenance]
    rejected: Counter[str] = Counter()
    for line in provenance:
        rejected.update(line.rejected)
    undefined = sum(c.synthetic.undefined for c in scores.comparisons)
    redrawn = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
    facts = {
        "methods": _counted(line.method for line in provenance),
        "hosts": f"{len({line.host for line in provenance})}: {_counted(line.host for line in provenance)}",
        "steps": _counted(str(line.drawn.get("steps", "none")) for line in provenance),
        "seconds a pair": f"median {_number(float(np.median(seconds)))}" if seconds else "–",
        "draws rejected": f"{sum(rejected.values())} ({redrawn})" if rejected else "none",
        "windows padded": str(sum(line.padded for line in provenance)),
        "undefined statistics": str(undefined),
        "plan of the pairs": _counted(line.plan_hash for line in provenance),
        "plan of this evaluation": scores.plan_hash,
        "judge": f"{scores.judge} ({scores.judge_hash})" if scores.judge else "none",
        "weights": _counted(f"{name} {value}" for line in provenance for name, value in sorted(line.weights.items())),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"<h2>Where the pairs come from</h2><dl>{rows}</dl>\n"


# -- pieces ------------------------------------------------------------------------------------------------------
def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    last = 0 if header[-1] else len(header) - 1  # a column without a title holds sentences, which may fold
    body = ""
    for row in rows:
        kinds = ["" if i == 0 else " class=s" if i == last else " class=n" for i in range(len(row))]
        cells = (f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _number(value: float) -> str:
    return (
        f"{value:.3g}"
        if math.isfinite(value) and abs(value) < 1000
        else (f"{value:.0f}" if math.isfinite(value) else "undefined")
    )


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else "undefined"


def _interval(s: Summary) -> str:
    left_out = f", {s.undefined} undefined" if s.undefined else ""
    around = f" ({_number(s.low)} to {_number(s.high)})" if math.isfinite(s.low) else ""
    return f"{_number(s.mean)}{around}<br><small>median {_number(s.median)}, n = {s.count}{left_out}</small>"


def _quartiles(s: Summary) -> str:
    left_out = f" <small>({s.undefined} undefined)</small>" if s.undefined else ""
    return f"{_number(s.median)} <small>({_number(s.quartile_1)} to {_number(s.quartile_3)})</small>{left_out}"


def _counted(names: Iterable[str]) -> str:
    counts = Counter(names).most_common()
    text = ", ".join(f"{name} × {count}" for name, count in counts[:8])
    return text + (f" and {len(counts) - 8} more" if len(counts) > 8 else "") if counts else "–"


def _distributions(scores: Scores, unit: str) -> str:
    """Distribution functions, one panel a statistic, as an inline SVG in the page's own colours."""
    import matplotlib
    from matplotlib.figure import Figure

    text, soft, line, mark = _INK
    columns = 4
    rows = math.ceil((len(scores.comparisons) + 1) / columns)  # the last panel is the legend's
    figure = Figure(figsize=(9.6, 2.3 * rows), facecolor="none")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.07, top=0.94, wspace=0.22, hspace=0.38)
    for panel, comparison in zip(panels, scores.comparisons, strict=False):
        for group, color, label in (("train", soft, "training"), ("synthetic", mark, "synthetic")):
            values = values_of(scores.of(group), comparison.field)  # type: ignore[arg-type]
            values = values[np.isfinite(values)]
            if len(values):
                panel.ecdf(values, color=color, label=label, linewidth=1.8)
        if comparison.field == "volume_ml" and comparison.synthetic.median > 0:
            panel.set_xscale("log")
        panel.set_title(_titled(comparison, unit), fontsize=9, color=text)
        panel.set(facecolor="none", ylim=(0, 1.02))
        panel.tick_params(colors=text, labelsize=7, which="both")
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.grid(color=line, linewidth=0.5)
    for panel in panels[len(scores.comparisons) :]:
        panel.set_axis_off()
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", labelcolor=text, frameon=False)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tumorgen"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    picture = stream.getvalue()
    for ink, color in _INK.items():
        picture = picture.replace(ink, color)
    return picture[picture.index("<svg") :]


def _titled(comparison: Comparison, unit: str) -> str:
    shown = {"scan": unit}.get(comparison.unit, comparison.unit)
    return comparison.title + (f" [{shown}]" if shown else "")


def _photo(path: Path) -> str:
    """A preview as a data URL, reduced to the page's width."""
    from PIL import Image

    with Image.open(path) as picture:
        shown = picture.convert("RGB")
        if shown.width > _PICTURE_WIDTH:
            shown = shown.resize((_PICTURE_WIDTH, round(shown.height * _PICTURE_WIDTH / shown.width)), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        shown.save(stream, "JPEG", quality=82, optimize=True)
    return _data_url(stream.getvalue(), "jpeg")


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
