from pathlib import Path

import pytest

from balancer.methods import METHODS
from router.cli import main
from router.errors import ConfigError
from router.options import parse_serve


def parse(*arguments, environment=None):
    return parse_serve(arguments, environment or {})


BAD = [
    (("--dp-size", "0"), "1 to 1024"),
    (("--dp-size", "1025"), "1 to 1024"),
    (("--dp-size", "two"), "1 to 1024"),
    (("--dp-size", "1.5"), "1 to 1024"),
    (("--dp-size", "²"), "1 to 1024"),
    (("--data-parallel-size", "-1"), "1 to 1024"),
    (("--tp-size", "0"), "1 to 1024"),
    (("--tp-size", "2"), "--enable-dp-attention as well"),
    (("--dist-timeout", "0"), "seconds, 1 to"),
    (("--load-balance-method", "best"), "minimum_tokens"),
    (("--max-model-len", "0"), "1 or more"),
    (("--device", "tpu"), "cuda"),
    (("--dtype", "int8"), "bfloat16"),
    (("--threads-per-rank", "0"), "1 or more"),
    (("--port", "65536"), "0 to 65535"),
    (("--port", "-1"), "0 to 65535"),
    (("--port", "http"), "0 to 65535"),
    (("--max-request-bytes", "1023"), "1024 or more"),
    (("--max-load-age", "0"), "0.001 to 86400"),
    (("--max-load-age", "86401"), "0.001 to 86400"),
    (("--max-load-age", "nan"), "0.001 to 86400"),
    (("--front-doors", "0"), "1 to 64"),
    (("--front-doors", "65"), "1 to 64"),
    (("--retry-max-retries", "-1"), "0 to 16"),
    (("--retry-max-retries", "17"), "0 to 16"),
    (("--drain-timeout-s", "-1"), "0 to 86400"),
    (("--drain-timeout-s", "86401"), "0 to 86400"),
    (("--drain-timeout-s", "nan"), "0 to 86400"),
    (("--drain-timeout-s", "soon"), "0 to 86400"),
    (("--max-running-requests", "0"), "1 or more"),
    (("--max-queued-requests", "-1"), "0 or more"),
    (("--max-total-tokens", "0"), "1 or more"),
    (("--chunked-prefill-size", "0"), "1 or more"),
    (("--page-size", "0"), "1 or more"),
    (("--instance", "a/b"), "1 to 40 letters"),
    (("--instance", ""), "1 to 40 letters"),
    (("--instance", "x" * 41), "1 to 40 letters"),
    (("--seed", "-1"), "0 or more"),
    (("--log-level", "trace"), "debug"),
]


@pytest.mark.parametrize(("arguments", "allowed"), BAD)
def test_a_bad_value_names_flag_value_and_what_is_allowed(arguments, allowed):
    """
    Before anything starts.
    """
    flag, value = arguments
    with pytest.raises(ConfigError) as refused:
        parse(f"{flag}={value}")

    told = str(refused.value)
    assert flag in told
    assert value in told
    assert allowed in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--dp-size", "4", "--tp-size", "6"), "--tp-size 6: a multiple of --dp-size, 4"),
        (("--device", "emulated"), "--emulated-engine lockstep"),
    ],
)
def test_ranks_that_cannot_compute_together_are_refused(arguments, told):
    """
    Before anything starts, with what would be allowed.
    """
    with pytest.raises(ConfigError) as refused:
        parse("--enable-dp-attention", *arguments)

    assert told in str(refused.value)


def test_ranks_that_compute_together_are_as_many_as_groups_unless_told():
    """
    As in SGLang --tp-size counts all ranks of the set.
    """
    assert parse("--enable-dp-attention", "--dp-size", "3").num_ranks == 3
    assert parse("--enable-dp-attention", "--dp-size", "3", "--tp-size", "6").num_ranks == 6
    assert parse("--dp-size", "3").num_ranks == 3
    with pytest.raises(ConfigError, match="only with --enable-dp-attention"):
        parse("--enable-expert-parallel")


@pytest.mark.parametrize("arguments", [("--no-such-flag", "1"), ("extra",), ("--port",)])
def test_what_is_no_flag_is_refused(arguments):
    """
    With the word that was not understood.
    """
    with pytest.raises(ConfigError, match=arguments[0]):
        parse(*arguments)


def test_every_flag_has_a_default():
    """
    `levelhead serve` alone is a whole command.
    """
    options = parse()

    assert (options.dp_size, options.port, options.host) == (2, 8000, "127.0.0.1")
    assert options.load_balance_method == "auto"
    assert (options.front_doors, options.retry_max_retries) == (1, 2)
    assert (options.max_load_age_s, options.drain_timeout_s) == (2.0, 30.0)
    assert options.in_flight_board
    assert (options.api_key, options.admin_api_key) == (None, None)


def test_the_board_can_be_switched_off():
    """
    To measure what it brings.
    """
    assert not parse("--no-in-flight-board").in_flight_board


@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [
        ("--data-parallel-size", "3", "dp_size"),
        ("--max-num-seqs", "3", "max_running_requests"),
        ("--max-num-batched-tokens", "3", "chunked_prefill_size"),
        ("--context-length", "3", "max_model_len"),
        ("--block-size", "3", "page_size"),
    ],
)
def test_flags_have_the_names_of_other_servers_too(flag, value, name):
    """
    As vLLM and SGLang spell them.
    """
    assert getattr(parse(flag, value), name) == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_chosen(method):
    """
    By the name that the balancer knows it under.
    """
    assert parse("--load-balance-method", method).load_balance_method == method


@pytest.mark.parametrize(
    ("flag", "variable", "name"),
    [
        ("--api-key", "LEVELHEAD_API_KEY", "api_key"),
        ("--admin-api-key", "LEVELHEAD_ADMIN_API_KEY", "admin_api_key"),
    ],
)
def test_a_key_comes_from_its_flag_or_the_environment(flag, variable, name):
    """
    The flag wins.
    """
    environment = {variable: "of-environment"}

    assert getattr(parse(environment=environment), name) == "of-environment"
    assert getattr(parse(flag, "of-flag", environment=environment), name) == "of-flag"


def test_help_does_not_show_the_keys(capsys):
    """
    Defaults are printed; a secret is none.
    """
    with pytest.raises(SystemExit):
        parse(
            "--help",
            environment={"LEVELHEAD_API_KEY": "secret", "LEVELHEAD_ADMIN_API_KEY": "secret"},
        )

    told = capsys.readouterr().out
    assert "--load-balance-method" in told
    assert "secret" not in told


def test_help_tells_who_can_read_a_key_on_the_command_line(capsys):
    """
    And where else it may stand.
    """
    with pytest.raises(SystemExit):
        parse("--help")

    told = " ".join(capsys.readouterr().out.split())
    assert "Better set LEVELHEAD_API_KEY: what stands on a command line, every user" in told
    assert "Better set LEVELHEAD_ADMIN_API_KEY, for the same reason" in told


def test_the_cache_follows_the_environment():
    """
    XDG_CACHE_HOME, or the home folder's.
    """
    assert parse(environment={"XDG_CACHE_HOME": "/x"}).cache_dir == Path("/x/levelhead")
    assert parse().cache_dir == Path.home() / ".cache/levelhead"
    assert parse("--cache-dir", "/y").cache_dir == Path("/y")


# The command line around it


def test_a_bad_flag_prints_one_line_and_exits_with_2(capsys):
    """
    No traceback.
    """
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "70000"])

    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("levelhead: ")
    assert told.count("\n") == 1


def test_an_unknown_command_is_refused_by_name():
    """
    With those that there are.
    """
    with pytest.raises(SystemExit, match=r"unknown command 'sevre'.*serve"):
        main(["sevre"])


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_without_a_command_the_commands_are_told(arguments, capsys):
    """
    On standard output, as an answer.
    """
    main(arguments)

    assert "serve" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["api-key", "admin-api-key"])
def test_an_empty_key_is_refused(name):
    """
    It would switch the check off without a word, from the flag and from the environment.
    """
    variable = "LEVELHEAD_" + name.upper().replace("-", "_")
    with pytest.raises(ConfigError, match=f"--{name} '': an empty key would let everybody in"):
        parse_serve([f"--{name}", ""], {})
    with pytest.raises(ConfigError, match=f"--{name}"):
        parse_serve([], {variable: ""})


@pytest.mark.parametrize(
    "given",
    [
        ("--emulated-step-cost", "25,0,0,0"),
        ("--emulated-engine", "lockstep"),
        ("--emulated-step-log", "steps.jsonl"),
    ],
)
def test_flags_of_emulated_ranks_are_refused_without_such_ranks(given):
    """
    Whoever gives one expects steps that are not computed.
    """
    with pytest.raises(ConfigError, match=f"{given[0]} .*only with --device emulated"):
        parse(*given)

    assert parse("--device", "emulated", *given).device == "emulated"


def test_emulated_steps_that_outlast_the_watchdog_are_refused():
    """
    Their base alone is enough: no step would ever end.
    """
    given = ("--device", "emulated", "--watchdog-timeout", "3", "--emulated-step-cost")
    with pytest.raises(ConfigError, match=r"--emulated-step-cost .*--watchdog-timeout, 3 s"):
        parse(*given, "3000,0,0,0")

    assert parse(*given, "2999,0,0,0").emulated_step_cost.base_ms == 2999


def test_a_step_log_in_a_folder_that_is_not_there_is_refused(tmp_path):
    """
    Before anything starts.
    """
    log = tmp_path / "none" / "steps.jsonl"

    with pytest.raises(ConfigError, match=r"--emulated-step-log .*a folder that exists"):
        parse("--device", "emulated", "--emulated-step-log", str(log))
