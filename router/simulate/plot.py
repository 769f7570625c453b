"""The runs as a picture: slow-down and goodput of each method, a row of panels for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from router.simulate.runs import Run
from router.simulate.table import Row, rows

_PANELS = (("slowdown", "slow-down against perfect balance"), ("goodput", "goodput"))


def plot(runs: Sequence[Run], path: Path) -> None:
    """Bars where there is one load, lines over load where there are several.  Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = rows(runs)
    settings = list(dict.fromkeys(row.setting[:3] for row in found))
    size = (11, 2.8 * len(settings))
    figure, axes = pyplot.subplots(len(settings), len(_PANELS), figsize=size, squeeze=False)
    for panels, setting in zip(axes, settings, strict=True):
        mine = [row for row in found if row.setting[:3] == setting]
        for axis, (name, title) in zip(panels, _PANELS, strict=True):
            _draw(axis, mine, name)
            trace, mode, dp_size = setting
            axis.set_title(f"{trace}, {mode}, {dp_size} groups: {title}", loc="left", fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw(axis: Any, found: Sequence[Row], name: str) -> None:
    methods = list(dict.fromkeys(row.method for row in found))
    if len({row.setting for row in found}) == 1:
        values = [row.figures[name] or 0.0 for row in found]
        axis.barh(methods[::-1], values[::-1], color="#4477aa")
        axis.bar_label(axis.containers[0], fmt="%.3f", padding=2, fontsize=8)
        axis.set_xlim(left=min(1.0, *values) if name == "slowdown" else 0.0)
        axis.margins(x=0.12)
        return
    for method in methods:
        mine = [row for row in found if row.method == method]
        loads = [row.setting[3] for row in mine]
        axis.plot(loads, [row.figures[name] for row in mine], marker="o", label=method)
    axis.set_xlabel("load: part of the KV capacity in use")
    if name == "goodput":
        axis.set_ylim(0, 1.05)
        axis.legend(frameon=False, fontsize=8, loc="lower left")
