"""
The dashboard's first panels as a PNG, drawn of a Prometheus' own answers, without Grafana.

    python -m deploy.grafana.picture --prometheus http://127.0.0.1:9090 --minutes 10 --out FILE.png
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator

from deploy.grafana.panel import Drawn, Panel, Unit
from deploy.grafana.panels import ROWS
from deploy.grafana.series import Range, Series, asked

_COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#8ab8ff")
_BACK, _PANEL, _INK, _FAINT = "#111217", "#181b1f", "#d0d1d4", "#35373c"
_NAMED = {"green": "#73bf69", "red": "#f2495c", "yellow": "#f2cc0c", "blue": "#5794f2",
          "purple": "#b877d9", "super-light-blue": "#c0d8ff"}  # fmt: skip
_WIDTH_INCHES, _TOP_INCHES, _BOTTOM_INCHES, _DPI = 13.0, 0.1, 0.45, 84
_HEIGHTS = {Drawn.NUMBER: 0.8}
_HEIGHT = 2.3
_COLUMNS = 24
_HEAT = LinearSegmentedColormap.from_list("heat", ("#3a2a5e", "#b03a6b", "#ff9830", "#ffee9b"))
_MAX_LEGEND = 5
_NUM_LEVELS = 12
_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def draw(url: str, when: Range, out: Path, titles: Sequence[str], instance: str = ".*") -> None:
    """Draw those rows (none: all) of the instance (a pattern) over that time into a PNG."""
    rows = [row for row in ROWS if not titles or row.title in titles]
    lines = [line for row in rows for line in _lines_of(row.title, row.panels)]
    heights = [0.28 if isinstance(line, str) else _height(line) for line in lines]
    figure = plt.figure(figsize=(_WIDTH_INCHES, sum(heights)), facecolor=_BACK, dpi=_DPI)
    grid = figure.add_gridspec(
        len(lines), _COLUMNS, height_ratios=heights, hspace=0.62, wspace=2.0,
        left=0.035, right=0.99, top=1 - _TOP_INCHES / sum(heights),
        bottom=_BOTTOM_INCHES / sum(heights),
    )  # fmt: skip
    for number, line in enumerate(lines):
        if isinstance(line, str):
            _heading(figure.add_subplot(grid[number, :]), line)
            continue
        at = 0
        for panel in line:
            axes = figure.add_subplot(grid[number, at : at + panel.width])
            _panel(
                axes, panel, [asked(url, query, when, instance) for query in panel.queries], when
            )
            at += panel.width
    figure.savefig(out, facecolor=_BACK)
    plt.close(figure)


def _lines_of(title: str, panels: Sequence[Panel]) -> list[str | list[Panel]]:
    """A heading, then panels side by side as Grafana sets them."""
    lines: list[str | list[Panel]] = [title]
    at = _COLUMNS
    for panel in panels:
        if at + panel.width > _COLUMNS:
            lines.append([])
            at = 0
        last = lines[-1]
        assert isinstance(last, list)
        last.append(panel)
        at += panel.width
    return lines


def _height(line: list[Panel]) -> float:
    return max(_HEIGHTS.get(panel.drawn, _HEIGHT) for panel in line)


def _heading(axes: Axes, title: str) -> None:
    axes.axis("off")
    axes.text(0, -0.9, title, color=_INK, fontsize=12, fontweight="bold", va="center")


def _panel(axes: Axes, panel: Panel, answers: list[list[Series]], when: Range) -> None:
    axes.set_facecolor(_PANEL)
    size = 7.0 if panel.drawn is Drawn.NUMBER else 8.5
    axes.set_title(panel.title, color=_INK, fontsize=size, loc="left", pad=4)
    for spine in axes.spines.values():
        spine.set_color(_FAINT)
    found = [series for answer in answers for series in answer]
    if panel.drawn is Drawn.NUMBER:
        _number(axes, panel, found)
        return
    axes.tick_params(colors=_INK, labelsize=7, length=2)
    axes.set_xlim(when.begin_s, when.end_s)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="both"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: _clock(at)))
    if not any(series.values for series in found):
        _nothing(axes)
    elif panel.drawn is Drawn.STATES:
        _states(axes, panel, found, when)
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _told(value, panel.unit)))
        _heatmap(axes, found) if panel.drawn is Drawn.HEATMAP else _lines(axes, panel, found)


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", color=_FAINT, ha="center", va="center", transform=axes.transAxes)


def _number(axes: Axes, panel: Panel, found: list[Series]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if not found or not found[0].values:
        _nothing(axes)
        return
    value = found[0].values[-1]
    is_high = panel.limit is not None and value >= panel.limit
    is_low = panel.floor is not None and value < panel.floor
    colour = _NAMED["red" if is_high or is_low else "green"]
    low, high = min(0.0, *found[0].values), max(1e-9, *found[0].values)
    axes.fill_between(found[0].times_s, found[0].values, low, color=colour, alpha=0.15, lw=0)
    axes.set_ylim(low, high * 1.15)
    axes.margins(x=0)
    axes.text(0.5, 0.5, _told(value, panel.unit), color=colour, fontsize=19, ha="center",
              va="center", transform=axes.transAxes)  # fmt: skip


def _lines(axes: Axes, panel: Panel, found: list[Series]) -> None:
    axes.grid(color=_FAINT, linewidth=0.4)
    for number, series in enumerate(found):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(series.times_s, series.values, color=colour, lw=1.0, label=series.name or None)
    if panel.limit is not None:
        axes.axhline(panel.limit, color=_NAMED["red"], lw=0.6, ls="--")
    top = max((value for series in found for value in series.values), default=0.0)
    axes.set_ylim(-0.04 * (top or 1.0), top * 1.12 or 1.0)
    if found and any(series.name for series in found):
        axes.legend(
            handles=axes.get_lines()[: min(len(found), _MAX_LEGEND)], fontsize=6.5, frameon=False,
            labelcolor=_INK, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.14),
            handlelength=1.2, columnspacing=1.2, borderaxespad=0.0,
        )  # fmt: skip


def _heatmap(axes: Axes, found: list[Series]) -> None:
    times = [at for series in found for at in series.times_s]
    values = [value for series in found for value in series.values]
    if values:
        num_times = max(8, min(len(found[0].times_s), 90))
        axes.hist2d(times, values, bins=(num_times, _NUM_LEVELS), cmap=_HEAT, cmin=1)


def _states(axes: Axes, panel: Panel, found: list[Series], when: Range) -> None:
    axes.set_yticks([])
    axes.set_ylim(-0.6, max(1, len(found)) - 0.4)
    for place, series in enumerate(found):
        axes.text(0.01, place, series.name, fontsize=6.5, va="center", color=_BACK, zorder=3,
                  transform=axes.get_yaxis_transform())  # fmt: skip
        for at, value in zip(series.times_s, series.values, strict=True):
            state = panel.states[min(int(value), len(panel.states) - 1)]
            axes.barh(place, when.step_s, left=at, height=0.8, color=_NAMED[state.colour], lw=0)


def _told(value: float, unit: Unit) -> str:
    if unit is Unit.SHARE:
        return f"{value:.0%}" if value >= 0.1 or not value else f"{value:.1%}"
    if unit is Unit.SECONDS:
        return _seconds(value)
    if unit is Unit.TIMES:
        return f"{value:.2f}"
    for scale, letter in _SCALES:
        if value >= scale:
            return f"{value / scale:.3g} {letter}"
    return f"{value:.3g}"


def _seconds(value: float) -> str:
    if value >= 1 or not value:
        return f"{value:.3g} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def main() -> None:
    """Draw what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.picture")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--row", action="append", default=[], help="may be repeated; else all")
    parser.add_argument("--instance", default=".*", help="a pattern; else all")
    arguments = parser.parse_args()
    now_s = time.time()
    when = Range(now_s - arguments.minutes * 60, now_s)
    draw(arguments.prometheus, when, arguments.out, arguments.row, arguments.instance)


if __name__ == "__main__":
    main()
