"""The frame of a report: style, script, and how values are written.

Given the parts as HTML and the figures as data; gives one page that fetches nothing, readable in light and dark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5c6875; --line: #dfe4ea; --page: #ffffff;
  --panel: #f6f8fa; --accent: #3d7fc1; --good: #3f9c6b; --grid: #e6eaef; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ee; --soft: #98a4b1; --line: #2d3640;
  --page: #14181d; --panel: #1b2128; --accent: #6aa5dd; --good: #62bd8c; --grid: #29313a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 64px; max-width: 1180px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; } h2 { font-size: 20px; margin: 44px 0 10px; }
h2.stage { border-top: 1px solid var(--line); padding-top: 28px; }
h3 { font-size: 15px; margin: 28px 0 8px; } p { margin: 6px 0; } a { color: var(--accent); }
.soft { color: var(--soft); } .small { font-size: 13px; } nav a { margin-right: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 10px; margin: 14px 0; }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
.tile b { display: block; font-size: 19px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { overflow-x: auto; }
.interval { position: relative; height: 14px; min-width: 220px; background: var(--panel); margin-top: 4px;
  border-radius: 3px; }
.interval i { position: absolute; top: 5px; height: 4px; background: var(--accent); opacity: .45;
  border-radius: 2px; min-width: 2px; }
.interval b { position: absolute; top: 1px; width: 4px; height: 12px; margin-left: -2px; border-radius: 2px;
  background: var(--accent); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px 2px; min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; }
figcaption small { display: block; font-weight: 400; color: var(--soft); font-size: 12.5px; line-height: 1.35; }
.plot { height: 230px; }
.split { display: flex; height: 16px; border-radius: 4px; overflow: hidden; background: var(--panel); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 6px; font-size: 13px; color: var(--soft); }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
details { border: 1px solid var(--line); border-radius: 8px; margin: 8px 0; }
summary { cursor: pointer; padding: 8px 12px; font-weight: 600; font-size: 14px; }
details > :not(summary) { margin-left: 12px; margin-right: 12px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0; padding: 8px 10px; background: var(--panel);
  border-radius: 6px; font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td pre { padding: 2px 6px; margin: 0; } .group { padding-bottom: 10px; margin-bottom: 14px; }
.tag { border: 1px solid var(--line); border-radius: 10px; padding: 0 8px; font-size: 12px; color: var(--soft); }
.bar { display: block; height: 3px; background: var(--good); border-radius: 2px; margin: 2px 0 0 auto; }
.failure { color: #c2556b; font-size: 13px; }
"""

# Figures carry no colours of light or dark: they are set here and again when the reader's preference changes.
SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const tone = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function layout(figure) {
  const axis = { gridcolor: tone("--grid"), zerolinecolor: tone("--line"), linecolor: tone("--line"),
    automargin: true, ticks: "" };
  return { ...figure.layout, height: 230, margin: { l: 8, r: 12, t: 8, b: 8 }, hovermode: "x unified",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: tone("--soft"), size: 12, family: "system-ui, sans-serif" },
    hoverlabel: { bgcolor: tone("--panel"), bordercolor: tone("--line"), font: { color: tone("--ink") } },
    legend: { orientation: "h", y: 1.0, yanchor: "bottom", x: 0, bgcolor: "rgba(0,0,0,0)" },
    xaxis: { ...axis, title: { text: "step", standoff: 4, font: { size: 12 } }, zeroline: false },
    yaxis: { ...axis, ...figure.layout.yaxis } };
}
const FIGURES = JSON.parse(document.getElementById("figures").textContent);
const draw = id => Plotly.react(id, FIGURES[id].data, layout(FIGURES[id]),
  { displayModeBar: false, responsive: true });
Object.keys(FIGURES).forEach(draw);
dark.addEventListener("change", () => Object.keys(FIGURES).forEach(draw));
"""


def page(title: str, body: str, figures: Mapping[str, Any]) -> str:
    """The whole file. Plotly is written into it once, and only if there is something to draw."""
    from plotly.offline import get_plotlyjs

    # a reward may be called "</script>": no tag can begin inside the data
    data = json.dumps(figures).replace("<", "\\u003c")
    scripts = (
        f'<script type="application/json" id="figures">{data}</script>\n'
        f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script>\n"
        if figures
        else ""
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n{scripts}</body>\n</html>\n"
    )


def table(header: list[str], rows: list[list[str]], numbers_from: int = 1) -> str:
    """A table of cells that are HTML already; columns from `numbers_from` on are numbers."""

    def cell(tag: str, index: int, content: str) -> str:
        css = ' class="number"' if index >= numbers_from else ""
        return f"<{tag}{css}>{content}</{tag}>"

    head = "".join(cell("th", index, escape(name)) for index, name in enumerate(header))
    body = "".join(
        "<tr>" + "".join(cell("td", index, content) for index, content in enumerate(row)) + "</tr>\n" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def tiles(facts: list[tuple[str, str]]) -> str:
    """Value and label side by side; values are text."""
    items = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for label, value in facts
    )
    return f'<div class="tiles">{items}</div>'


def folded(title: str, content: str, is_open: bool = False) -> str:
    """A block that opens on a click."""
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{content}</details>"


def number(value: float) -> str:
    """Four digits that matter; thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


def percent(share: float) -> str:
    """One decimal."""
    return f"{share * 100:.1f} %"
