"""
What the dashboard asks, row by row.

Every panel serves two groups as well as 256: of figures by group, lines show the five
that have most and the five that have least, heatmaps all of them, and strips the sixteen in the
worst state: over all the time that is shown, for at each point they would be others, and all
would have lines, of a point each.  Figures that every group has are joined by recording rules
(deploy/prometheus).
"""

from __future__ import annotations

from deploy.grafana.panel import Drawn, Panel, Query, Row, State, Unit

INSTANCE = 'instance=~"$instance"'
GROUP = f'{INSTANCE}, group=~"$group"'
_ESTIMATED = f'{INSTANCE}, source="estimated"'
_NOT_READY = f'{GROUP}, state!="ready"'
_NOT_200 = f'{INSTANCE}, status!="200"'
_GROUP_NAME = "{{instance}} group {{group}}"
_DOOR_NAME = "{{instance}} door {{front_door}}"
_NUM_LINES, _NUM_STRIPS = 5, 16
_GROUP_STATES = (
    State("ready", "green"),
    State("draining", "blue"),
    State("released", "super-light-blue"),
    State("suspect", "yellow"),
    State("starting", "purple"),
    State("dead", "red"),
)
_BREAKER_STATES = (State("closed", "green"), State("open", "red"), State("half-open", "yellow"))


def _over_all_time(by_group: str, how: str) -> str:
    """One value for each group, the same at every point."""
    return f"{how}_over_time(({by_group})[$__range:$__interval] @ end())"


def _ends(by_group: str) -> Query:
    """The groups that have most, and those that have least; all of them where they are few."""
    each = _over_all_time(by_group, "avg")
    most, least = (f"{end}k({_NUM_LINES}, {each})" for end in ("top", "bottom"))
    return Query(f"{by_group} and ({most} or {least})", _GROUP_NAME)


def _most(number: int, by_group: str) -> Query:
    """The groups that have had most at any time."""
    each = _over_all_time(by_group, "max")
    return Query(f"{by_group} and topk({number}, {each})", _GROUP_NAME)


def _rate(counter: str, by: str = "", where: str = INSTANCE) -> str:
    return f"sum by ({by}) (rate({counter}{{{where}}}[$__rate_interval]))"


def _quantiles(histogram: str, *shares: float) -> tuple[Query, ...]:
    buckets = _rate(f"{histogram}_bucket", "le")
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"p{share * 100:g}") for share in shares
    )


def _latency(title: str, histogram: str, about: str) -> Panel:
    return Panel(title, _quantiles(histogram, 0.5, 0.95, 0.99), Unit.SECONDS, about=about)


def _number(title: str, expr: str, unit: Unit, limit: float | None, about: str) -> Panel:
    return Panel(title, (Query(expr),), unit, Drawn.NUMBER, 4, about, limit)


def _share_of_best(title: str, expr: str, floor: float, about: str) -> Panel:
    return Panel(title, (Query(expr),), Unit.SHARE, Drawn.NUMBER, 4, about, floor=floor)


_LEVEL = Row(
    "Are my groups level?",
    (
        _number("Imbalance, max / mean", f"max(levelhead_imbalance_ratio{{{INSTANCE}}})",
                Unit.TIMES, 1.5, "Of holding + in-flight tokens, over ready groups; 1 is level."),
        _number("Slow-down against perfect balance",
                f"max(levelhead:slow_down:ratio_rate1m{{{INSTANCE}}})", Unit.TIMES, 1.2,
                "How much longer the heaviest group's steps are than those of level groups."),
        _number("Barrier idle share", f"max(levelhead:barrier_idle:ratio_rate1m{{{INSTANCE}}})",
                Unit.SHARE, 0.25, "Of groups' time, spent waiting for the slowest at each step. "
                "Without DP attention there is none."),
        _share_of_best("Slowest group's steps",
                       f"min(levelhead:progress:ratio_rate1m{{{GROUP}}})"
                       f" or max(0 * levelhead:steps:rate1m{{{GROUP}}} + 1)", 0.25,
                       "Of the fastest group's; under 25 % it starves.  100 % while none has "
                       "requests."),
        _number("Groups not ready", f"sum(levelhead_group_state{{{_NOT_READY}}})",
                Unit.PLAIN, 1, "Starting, suspect, draining, released or dead."),
        _number("Alerts firing",
                f'count(ALERTS{{{INSTANCE}, alertname=~"Levelhead.+", alertstate="firing"}})'
                " or vector(0)", Unit.PLAIN, 1, "See the alerts of Prometheus."),
        Panel("Holding + in-flight tokens: fullest and emptiest groups",
              (_ends(f"levelhead_load_tokens{{{GROUP}}}"),
               Query(f"avg(levelhead_load_tokens{{{GROUP}}})", "mean")),
              Unit.TOKENS, width=12),
        Panel("Holding + in-flight tokens: all groups",
              (Query(f"levelhead_load_tokens{{{GROUP}}}", _GROUP_NAME),),
              Unit.TOKENS, Drawn.HEATMAP, 12, "Level groups are one thin line."),
        Panel("Imbalance and slow-down",
              (Query(f"levelhead_imbalance_ratio{{{INSTANCE}}}", "{{instance}} imbalance"),
               Query(f"levelhead:slow_down:ratio_rate1m{{{INSTANCE}}}", "{{instance}} slow-down")),
              Unit.TIMES),
        Panel("Barrier idle share by group",
              (_ends(f"levelhead:group_barrier_idle:ratio_rate1m{{{GROUP}}}"),), Unit.SHARE,
              about="Whoever waits least is waited for."),
        Panel("Steps of a group for each of the fastest's",
              (_ends(f"levelhead:progress:ratio_rate1m{{{GROUP}}}"),), Unit.SHARE,
              about="Of groups that have had requests for a minute."),
    ),
)  # fmt: skip
_LATENCY = Row(
    "Latency",
    (
        _latency("Time to first token", "levelhead_time_to_first_token_seconds",
                 "Request read to first token passed on, of streams."),
        _latency("Inter-token latency", "levelhead_inter_token_latency_seconds",
                 "Between two pieces of a stream."),
        _latency("End to end", "levelhead_e2e_request_latency_seconds",
                 "Request read to answer complete."),
        Panel("Streams that began after 2.5 s",
              tuple(Query(f"levelhead:ttft_slow:ratio_rate{window}{{{INSTANCE}}}",
                          "{{instance}} " + window) for window in ("5m", "30m", "1h", "6h")),
              Unit.SHARE, width=12, about="Objective: 1 % at most.", limit=0.01),
        Panel("Duration of a step: slowest and fastest groups",
              (_ends(f"levelhead_step_time_seconds{{{GROUP}}}"),), Unit.SECONDS, width=12),
    ),
)  # fmt: skip
_DISPATCH = Row(
    "Dispatch",
    (
        Panel("Dispatched by method",
              (Query(_rate("levelhead_dispatches_total", "method", GROUP), "{{method}}"),),
              Unit.PER_SECOND),
        Panel("Dispatched to a group: most and least",
              (_ends(_rate("levelhead_dispatches_total", "instance, group", GROUP)),),
              Unit.PER_SECOND),
        Panel("Prompt tokens found in prefix caches",
              (Query(f"{_rate('levelhead_group_cached_tokens_total', '', GROUP)} / "
                     f"{_rate('levelhead_group_prompt_tokens_total', '', GROUP)}", "found"),
               Query(f"{_rate('levelhead_predicted_cached_tokens_total')} / "
                     f"{_rate('levelhead_prompt_tokens_total')}", "believed")), Unit.SHARE),
        Panel("Requests",
              (Query(f"sum(levelhead_running_requests{{{GROUP}}})", "running in groups"),
               Query(f"sum(levelhead_waiting_requests{{{GROUP}}})", "waiting in groups"),
               Query(f"sum(levelhead_in_flight_requests{{{GROUP}}})", "in flight"),
               Query(f"sum(levelhead_front_door_waiting_requests{{{INSTANCE}}})",
                     "waiting in front doors"))),
        Panel("Waiting in a front door",
              _quantiles("levelhead_front_door_wait_seconds", 0.5, 0.95, 0.99), Unit.SECONDS,
              about="With --admission late or --prefill-align hold."),
        Panel("Choosing a group", _quantiles("levelhead_decision_seconds", 0.5, 0.99),
              Unit.SECONDS),
        Panel("KV cache in use: fullest and emptiest groups",
              (_ends(f"levelhead_kv_usage_ratio{{{GROUP}}}"),), Unit.SHARE, width=12),
        Panel("KV cache in use: all groups",
              (Query(f"levelhead_kv_usage_ratio{{{GROUP}}}", _GROUP_NAME),), Unit.SHARE,
              Drawn.HEATMAP, 12),
    ),
)  # fmt: skip
_TRUST = Row(
    "Can the figures be trusted?",
    (
        Panel("Age of the figures that were used",
              (*_quantiles("levelhead_figure_age_seconds", 0.5, 0.99),
               Query(f"max(levelhead_report_age_seconds{{{GROUP}}})", "oldest report")),
              Unit.SECONDS),
        Panel("Reported less books, as a share of load: most",
              (_most(_NUM_LINES, f"levelhead:drift:ratio{{{GROUP}}}"),),
              Unit.SHARE),
        Panel("Fallbacks",
              (Query(_rate("levelhead_book_decisions_total"), "decisions by the books"),
               Query(_rate("levelhead_torn_snapshots_total"), "torn snapshots"),
               Query(f"{_rate('levelhead_prompt_tokens_total', '', _ESTIMATED)} / "
                     f"{_rate('levelhead_prompt_tokens_total')}", "prompt tokens estimated")),
              Unit.PLAIN),
        Panel("Groups whose figures are stale",
              (Query(f"sum by (instance) (levelhead:stale_figures:max{{{GROUP}}})",
                     "{{instance}}"),)),
        Panel("Backends whose figures are not used",
              (Query(f"sum by (condition) (levelhead_reading_condition{{{GROUP}}})",
                     "{{condition}}"),), about="Of backends alone."),
        Panel("Spread of step times that the cost model explains",
              (Query(f"levelhead_cost_fit_r_squared{{{INSTANCE}}}", _DOOR_NAME),), Unit.SHARE),
    ),
)  # fmt: skip
_FAULTS = Row(
    "Faults",
    (
        Panel("Retries",
              (Query(_rate("levelhead_retries_total", "reason"), "{{reason}}"),
               Query(_rate("levelhead_retries_over_budget_total"), "over budget")),
              Unit.PER_SECOND),
        Panel("Answers that are not 200",
              (Query(_rate("levelhead_responses_total", "status", _NOT_200), "{{status}}"),),
              Unit.PER_SECOND),
        Panel("Lost",
              (Query(_rate("levelhead_groups_lost_total"), "group lost"),
               Query(_rate("levelhead_client_disconnects_total"), "client left"),
               Query(f"sum(levelhead_open_settlements{{{INSTANCE}}})", "open settlements")),
              Unit.PLAIN),
        Panel("State of groups: the worst",
              (_most(_NUM_STRIPS, f"levelhead:group_state:code{{{GROUP}}}"),),
              Unit.PLAIN, Drawn.STATES, 12, states=_GROUP_STATES),
        Panel("Breakers: the worst",
              (_most(_NUM_STRIPS,
                     f"max by (instance, group) (levelhead_breaker_state{{{GROUP}}})"),),
              Unit.PLAIN, Drawn.STATES, 12, "Of backends alone.", states=_BREAKER_STATES),
        Panel("Groups by state",
              (Query(f"sum by (state) (levelhead_group_state{{{GROUP}}})", "{{state}}"),)),
        Panel("Restarts in five minutes",
              (Query(f"sum by (instance) (changes(levelhead_group_epoch{{{GROUP}}}[5m]))",
                     "{{instance}} groups"),
               Query(f"sum by (instance) (changes(levelhead_front_door_epoch{{{INSTANCE}}}[5m]))",
                     "{{instance}} front doors"))),
        Panel("Breakers that turned",
              (Query(_rate("levelhead_breaker_transitions_total", "state"), "{{state}}"),
               Query(_rate("levelhead_breaker_last_resorts_total"), "sent past an open one")),
              Unit.PER_SECOND),
    ),
)  # fmt: skip
_FRONT_DOOR = Row(
    "Front doors",
    (
        Panel("Answered", (Query(_rate("levelhead_responses_total", "instance, front_door"),
                                 _DOOR_NAME),), Unit.PER_SECOND),
        Panel("CPU", (Query(_rate("levelhead_front_door_cpu_seconds_total", "instance, front_door"),
                            _DOOR_NAME),), Unit.SHARE, about="Of one core."),
        Panel("Open",
              (Query(f"sum(levelhead_open_streams{{{INSTANCE}}})", "streams"),
               Query(f"sum(levelhead_open_requests{{{INSTANCE}}})", "requests"),
               Query(f"sum(levelhead_open_connections{{{INSTANCE}}})", "connections"))),
        Panel("Bytes",
              (Query(_rate("levelhead_front_door_sent_bytes_total", "instance"),
                     "{{instance}} sent"),
               Query(_rate("levelhead_front_door_received_bytes_total", "instance"),
                     "{{instance}} received")), Unit.BYTES_PER_SECOND),
        Panel("Tokens in a second",
              (Query(_rate("levelhead_group_prompt_tokens_total", "", GROUP), "of prompts"),
               Query(_rate("levelhead_group_output_tokens_total", "", GROUP), "of outputs")),
              about="Of requests that have ended."),
        Panel("Front doors that answer",
              (Query(f"sum by (instance) (levelhead_front_door_up{{{INSTANCE}}})",
                     "{{instance}}"),)),
    ),
)  # fmt: skip
FIRST_VARIABLE = "model"
"""All of it is any, and not the names that there are: a group that starts may have none yet."""
ROWS = (_LEVEL, _LATENCY, _DISPATCH, _TRUST, _FAULTS, _FRONT_DOOR)
VARIABLES = {
    FIRST_VARIABLE: "label_values(levelhead_group_model, model)",
    "instance": 'label_values(levelhead_group_model{model=~"$model"}, instance)',
    "group": f'label_values(levelhead_group_model{{{INSTANCE}, model=~"$model"}}, group)',
}
"""
What each variable may be, in the order in which they depend on each other.

Models come first: groups have the same numbers in every instance, so a model that one instance
serves has to leave out the others.
"""
