import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from balancer.methods import METHODS
from balancer.simulation.settings import Death, Mode, Pace
from router.cli import main
from router.errors import ConfigError
from router.simulate.command import simulate_command
from router.simulate.options import parse_simulate
from router.simulate.progress import Progress

KEYS = [
    *("trace", "mode", "dp_size", "method", "seed", "load", "slowdown", "kv_max_over_mean"),
    *("barrier_idle", "goodput", "prefix_hit_rate", "ttft_p50_s", "ttft_p99_s", "tpot_p50_s"),
    *("tpot_p99_s", "requests", "completed"),
]
SMALL = ("--kv-capacity-tokens", "2000", "--max-requests", "40")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "few.jsonl"
    line = '{"timestamp": %d, "input_length": %d, "output_length": %d, "hash_ids": []}\n'
    path.write_text("".join(line % (100 * n, 30 + 9 * n % 70, 5 + n % 11) for n in range(60)))
    return str(path)


def simulated(*arguments):
    out, err = io.StringIO(), io.StringIO()
    simulate_command(parse_simulate(arguments), out, err)
    assert err.getvalue() == ""
    return out.getvalue()


def runs(*arguments):
    return json.loads(simulated(*arguments, "--json"))["runs"]


def test_json_is_one_object_with_a_row_for_each_combination(trace, tmp_path):
    """
    With the keys that programs rely on, in that order.
    """
    other = str(shutil.copy(trace, tmp_path / "other.jsonl"))
    text = simulated(
        *(
            "--trace",
            trace,
            "--trace",
            other,
            "--dp-size",
            "2,3",
            "--methods",
            "random,round_robin",
        ),
        *("--mode", "decode,unified", "--load", "0.4,0.9", "--seeds", "2", *SMALL, "--json"),
    )

    rows = json.loads(text)["runs"]
    assert text.count("\n") == 1
    assert len(rows) == 2 * 2 * 2 * 2 * 2 * 2
    assert all(list(row) == KEYS for row in rows)
    assert {row["trace"] for row in rows} == {"few", "other"}
    assert {row["seed"] for row in rows} == {0, 1}
    assert {row["load"] for row in rows} == {0.4, 0.9}
    assert all(row["completed"] == row["requests"] > 0 for row in rows)


def test_the_same_command_gives_the_same_figures(trace):
    """
    Byte by byte.
    """
    asked = ("--trace", trace, "--seeds", "2", "--mode", "unified", *SMALL, "--json")

    assert simulated(*asked) == simulated(*asked)


def test_the_figures_do_not_depend_on_the_processs_hash_seed(trace):
    """
    Strings hash otherwise in each process; nothing may be decided by the order of a set of them.
    """
    asked = ("simulate", "--trace", trace, "--mode", "unified", "--dp-size", "3", *SMALL, "--json")
    command = [sys.executable, "-c", "import sys; from router.cli import main; main(sys.argv[1:])"]
    told = [
        subprocess.Popen(
            [*command, *asked],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=60)[0] for process in told)

    assert json.loads(first)["runs"]
    assert first == second


def test_all_methods_are_those_that_there_are(trace):
    """
    None is named here or in the simulator.
    """
    rows = runs("--trace", trace, "--dp-size", "2", *SMALL)

    assert [row["method"] for row in rows] == list(METHODS)


def test_a_rate_scale_tells_the_load_that_follows_from_it(trace):
    """
    Twice the rate is more than twice the load; far more than can be done has none.
    """
    by_scale = [
        runs("--trace", trace, "--rate-scale", scale, "--methods", "random", *SMALL)[0]["load"]
        for scale in ("1", "2", "1e6")
    ]

    assert by_scale[1] > 2 * by_scale[0] > 0
    assert by_scale[2] is None


def test_a_load_is_what_the_kv_cache_then_holds(trace):
    """
    Asked for by load, or by the rate scale that this load amounts to: the same figures.
    """
    scaled = runs("--trace", trace, "--rate-scale", "3", "--methods", "random", *SMALL)[0]
    by_load = ("--trace", trace, "--load", str(scaled["load"]), "--methods", "random", *SMALL)

    assert runs(*by_load)[0]["slowdown"] == pytest.approx(scaled["slowdown"], rel=0.02)


def test_people_get_a_table_with_the_least_slow_down_first(trace):
    """
    A block for each setting, seeds averaged.
    """
    text = simulated("--trace", trace, "--dp-size", "2,4", "--seeds", "2", *SMALL)

    blocks = text.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "few, decode, 2 DP groups, load: 70% of KV",
        "few, decode, 4 DP groups, load: 70% of KV",
    ]
    for block in blocks:
        rows = [line.split() for line in block.splitlines()[2:]]
        assert {row[0] for row in rows} == set(METHODS)
        slowdowns = [float(row[1]) for row in rows]
        assert slowdowns == sorted(slowdowns)


def test_a_picture_is_written(trace, tmp_path):
    """
    Of bars for one load, of lines for several.
    """
    pytest.importorskip("matplotlib")
    for loads in ("0.5", "0.5,0.8"):
        path = tmp_path / f"{loads}.png"
        simulated("--trace", trace, "--load", loads, *SMALL, "--plot", str(path))
        assert path.read_bytes().startswith(b"\x89PNG")


BAD = [
    (("--trace", "waves", "--methods", "best"), "minimum_tokens"),
    (("--trace", "waves", "--dp-size", "0"), "1 to 1024"),
    (("--trace", "waves", "--dp-size", "8,"), "1 to 1024"),
    (("--trace", "waves", "--mode", "prefill"), "decode, unified"),
    (("--trace", "waves", "--engine", "fast"), "lockstep, independent"),
    (("--trace", "waves", "--prefill", "last"), "mixed, first"),
    (("--trace", "waves", "--load", "0"), "0.01 to 1"),
    (("--trace", "waves", "--load", "nan"), "0.01 to 1"),
    (("--trace", "waves", "--rate-scale", "0"), "1e-06 to 1e"),
    (("--trace", "waves", "--rate-scale", "1", "--load", "0.5"), "not together with --load"),
    (("--trace", "waves", "--seeds", "0"), "1 or more"),
    (("--trace", "waves", "--report-loss", "2"), "0 to 1"),
    (("--trace", "waves", "--step-cost", "1,2,3"), "four numbers"),
    (("--trace", "waves", "--step-cost", "0,1,1,1"), "0.001 to"),
    (("--trace", "waves", "--kill", "1"), "RANK@SECONDS"),
    (("--trace", "waves", "--kill", "8@1"), "groups 0 to 7"),
    (("--trace", "waves", "--kv-capacity-tokens", "100"), "two pages or more"),
    (("--trace", "waves", "--plot", "picture.jpg"), ".png"),
    (("--trace", "waves", "--plot", "/no/such/folder/x.png"), "folder that exists"),
    ((), "--trace"),
]


@pytest.mark.parametrize(("arguments", "allowed"), BAD)
def test_a_bad_flag_is_refused_with_what_is_allowed(arguments, allowed):
    """
    Before anything runs.
    """
    with pytest.raises(ConfigError, match=r"levelhead simulate|--\w+") as refused:
        parse_simulate(arguments)

    assert allowed in str(refused.value)


def test_waves_have_no_rate_to_scale():
    """
    They come as fast as they are answered.
    """
    with pytest.raises(ConfigError, match="give --load"):
        simulated("--trace", "waves", "--rate-scale", "2")


def test_flags_reach_the_settings():
    """
    Each at its place.
    """
    options = parse_simulate(
        (
            *("--trace", "waves", "--kill", "1@5+2.5", "--engine", "independent"),
            *("--report-delay-steps", "4", "--page-size", "8", "--step-cost", "1,2,3,4"),
            *("--max-queued-requests", "3", "--prefix-cache-tokens", "0", "--mode", "unified"),
        )
    )

    settings = options.settings
    assert settings.deaths == (Death(5.0, 1, back_after_s=2.5),)
    assert (settings.pace, settings.report_delay_steps) == (Pace.INDEPENDENT, 4)
    assert settings.step == (1.0, 2.0, 3.0, 4.0)
    assert settings.limits.page_size == 8
    assert (settings.limits.max_queued_requests, settings.limits.cache_tokens) == (3, 0)
    assert (options.modes, options.methods) == ((Mode.UNIFIED,), tuple(METHODS))


def test_the_command_line_tells_a_bad_trace_in_one_line(tmp_path, capsys):
    """
    With status 2, as it does for `serve`.
    """
    path = tmp_path / "bad.csv"
    path.write_text("a,b\n1,2\n")

    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--trace", str(path)])

    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"levelhead: {path}, line 2:")
    assert err.count("\n") == 1


def test_the_command_line_prints_the_table(trace, capsys):
    """
    On stdout, and nothing on stderr where that is no terminal.
    """
    main(["simulate", "--trace", trace, "--methods", "random", *SMALL])

    told = capsys.readouterr()
    assert told.out.startswith("few, decode, 8 DP groups")
    assert told.err == ""


def test_torn_lines_of_a_log_are_told_on_stderr(tmp_path, capsys):
    """
    The figures are as ever, those of the other lines.
    """
    line = '{"arrival_s":%d,"prompt_tokens":30,"output_tokens":5}\n'
    path = tmp_path / "log.jsonl"
    path.write_text("".join(line % n for n in range(9)) + (line % 9)[:20])

    main(["simulate", "--trace", str(path), "--methods", "random", "--json", *SMALL])

    told = capsys.readouterr()
    assert json.loads(told.out)["runs"][0]["requests"] == 9
    assert told.err == f"levelhead: {path}: torn lines left out: 1\n"


def test_a_bar_is_drawn_on_a_terminal_ten_times_a_second_and_cleared():
    """
    It never goes back, and leaves an empty line.
    """
    terminal, times = Terminal(), iter([0.0, 0.05, 0.2])
    progress = Progress(terminal, 20, lambda: next(times))

    progress.begin("first")
    progress.show(5)
    progress.show(6)
    progress.begin("second")
    progress.show(4)
    progress.clear()

    drawn = terminal.getvalue().split("\r\x1b[K")
    assert [line.split("] ")[-1] for line in drawn] == ["", " 25% first", " 50% second", ""]


def test_nothing_is_drawn_where_there_is_no_terminal():
    """
    A log file has no use for it.
    """
    plain = io.StringIO()
    progress = Progress(plain, 20, lambda: 0.0)

    progress.show(5)
    progress.clear()

    assert plain.getvalue() == ""
