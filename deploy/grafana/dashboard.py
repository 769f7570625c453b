"""
The dashboard in Grafana's own form: `python -m deploy.grafana.dashboard` writes levelhead.json.

What it asks stands in deploy/grafana/panels.py; here is only what Grafana wants to be told of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.panel import Drawn, Panel, Query, Unit
from deploy.grafana.panels import FIRST_VARIABLE, ROWS, VARIABLES

FILE = Path(__file__).with_name("levelhead.json")
UID = "levelhead"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHTS = {Drawn.NUMBER: 4}
_HEIGHT = 8
_HEATMAP_POINTS = 300  # of 256 series: what a browser draws at once
_MANY_SERIES = 2


def rendered() -> str:
    """The file's content."""
    built = _dashboard().build()
    return JSONEncoder(sort_keys=True, indent=2).encode(built) + "\n"


def _dashboard() -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard("levelhead")
        .uid(UID)
        .description("Are the data-parallel groups level, and if not, why?")
        .tags(["levelhead", "llm"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
    )
    for name, query in VARIABLES.items():
        variable = _variable(name, query)
        made = made.with_variable(variable.all_value(".*") if name == FIRST_VARIABLE else variable)
    ids = itertools.count(1)
    for row in ROWS:
        made = made.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            made = made.with_panel(_panel(panel).id(next(ids)))
    return made


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NUMERICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


_AnyPanel = stat.Panel | timeseries.Panel | heatmap.Panel | statetimeline.Panel


def _panel(panel: Panel) -> _AnyPanel:
    made = _BY_KIND[panel.drawn](panel)
    for number, query in enumerate(panel.queries):
        made = made.with_target(_target(query, number))
    if panel.about:
        made = made.description(panel.about)
    return (
        made.title(panel.title)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(_HEIGHTS.get(panel.drawn, _HEIGHT))
    )


def _target(query: Query, number: int) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).range().ref_id(chr(ord("A") + number))
    return made.legend_format(query.legend) if query.legend else made


def _number(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .decimals(2 if panel.unit == Unit.TIMES else 0)
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(panel))
    )


def _lines(panel: Panel) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    )
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    return (
        timeseries.Panel()
        .axis_soft_min(0)
        .fill_opacity(0 if len(panel.queries) >= _MANY_SERIES else 10)
        .line_width(1)
        .show_points(VisibilityMode.NEVER)
        .legend(legend)
        .tooltip(tooltip)
        .thresholds(_thresholds(panel))
    )


def _heatmap(panel: Panel) -> heatmap.Panel:
    return heatmap.Panel().calculate(True).max_data_points(_HEATMAP_POINTS)


def _states(panel: Panel) -> statetimeline.Panel:
    values = {
        str(value): ValueMappingResult(text=state.name, color=state.colour, index=value)
        for value, state in enumerate(panel.states)
    }
    return (
        statetimeline.Panel()
        .mappings([ValueMap(values)])
        .show_value(VisibilityMode.NEVER)
        .row_height(0.9)
        .merge_values(True)
    )


_BY_KIND: dict[Drawn, Callable[[Panel], _AnyPanel]] = {
    Drawn.NUMBER: _number,
    Drawn.LINES: _lines,
    Drawn.HEATMAP: _heatmap,
    Drawn.STATES: _states,
}


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green")]
    if panel.floor is not None:
        steps = [Threshold(value=None, color="red"), Threshold(value=panel.floor, color="green")]
    if panel.limit is not None:
        steps.append(Threshold(value=panel.limit, color="red"))
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


if __name__ == "__main__":
    FILE.write_text(rendered())
