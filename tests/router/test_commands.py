import os
from dataclasses import replace
from pathlib import Path

import pytest

from balancer.simulation.settings import Settings
from balancer.simulation.step_time import StepTime
from router import commands
from router.instance import Instance
from router.options import parse_serve
from workers.config import parse


def instance(folder):
    return Instance("one", 7, str(folder), "127.0.0.1", 8000, 2, served_model_name="m")


def test_a_worker_understands_the_flags_that_it_is_given(tmp_path):
    """
    The two rooms share no code, so their words are compared here.
    """
    options = parse_serve(
        ["--max-model-len", "99", "--threads-per-rank", "3", "--drain-timeout-s", "7"], {}
    )

    module, *flags = commands.worker(instance(tmp_path), options, Path("/model"), 1)
    config = parse(flags)

    assert module == "workers"
    assert (config.instance, config.instance_epoch, config.dp_rank, config.dp_size) == (
        "one", 7, 1, 2,
    )  # fmt: skip
    assert (config.max_model_len, config.threads, config.model) == (99, 3, Path("/model"))
    for name in ("max_running_requests", "max_queued_requests", "max_total_tokens", "page_size",
                 "chunked_prefill_size", "seed", "device", "dtype", "log_level",
                 "drain_timeout_s", "schedule_policy", "disable_radix_cache",
                 "disable_overlap_schedule", "disable_cuda_graph",
                 "cuda_graph_max_bs"):  # fmt: skip
        assert getattr(config, name) == getattr(options, name)


def test_a_worker_hears_of_the_order_and_of_what_is_switched_off(tmp_path):
    """
    None is what it would be without the flags.
    """
    switches = ["--disable-radix-cache", "--disable-overlap-schedule", "--disable-cuda-graph"]
    others = ["--schedule-policy", "fcfs", "--cuda-graph-max-bs", "24"]
    options = parse_serve([*others, *switches], {})

    _, *flags = commands.worker(instance(tmp_path), options, Path("/model"), 1)
    config = parse(flags)

    assert config.schedule_policy == "fcfs"
    assert (config.disable_radix_cache, config.disable_overlap_schedule) == (True, True)
    assert (config.disable_cuda_graph, config.cuda_graph_max_bs) == (True, 24)


def test_an_emulated_worker_hears_what_its_steps_cost(tmp_path):
    """
    In full precision, and where its steps are to be told; from whatever folder it is started.
    """
    given = ["--device", "emulated", "--emulated-step-cost", "12.5,2.6e-5,0.1,0.3333333333333333"]
    given += ["--emulated-engine", "independent", "--emulated-step-log", "steps.jsonl"]

    _, *flags = commands.worker(instance(tmp_path), parse_serve(given, {}), Path("/model"), 1)
    config = parse(flags)

    assert config.is_emulated
    assert config.emulated_step_cost == (12.5, 2.6e-5, 0.1, 0.3333333333333333)
    assert config.emulated_engine == "independent"
    assert config.emulated_step_log == Path.cwd() / "steps.jsonl"


def test_emulated_steps_cost_what_simulated_ones_do(tmp_path):
    """
    Unless told otherwise.  The two rooms share no code.
    """
    options = parse_serve(["--device", "emulated"], {})

    _, *flags = commands.worker(instance(tmp_path), options, Path("/model"), 0)
    config = parse(flags)

    assert config.emulated_step_cost == StepTime()
    assert config.emulated_engine == Settings(num_groups=1).pace.value


def test_what_is_not_given_is_left_to_the_worker(tmp_path):
    """
    A flag without a value is no flag.
    """
    command = commands.worker(instance(tmp_path), parse_serve([], {}), Path("/model"), 0)

    assert "--max-model-len" not in command
    assert "None" not in command


@pytest.mark.parametrize("dp_size", [1, 2, 1000])
def test_the_cores_are_shared_out(tmp_path, dp_size):
    """
    At least one thread for each rank, for torch and for the libraries under it.
    """
    options = parse_serve(["--dp-size", str(dp_size)], {})

    threads = commands.threads_per_rank(options)

    assert threads == max(1, len(os.sched_getaffinity(0)) // dp_size)
    environment = commands.worker_environment(instance(tmp_path), options, {})
    assert environment["OMP_NUM_THREADS"] == str(threads)


def test_what_the_operator_has_set_for_the_allocator_and_openmp_wins(tmp_path):
    """
    glibc takes the last of two values, but its tunables come before its older variables;
    a spin count comes before a wait policy.
    """

    def environment(**own):
        return commands.worker_environment(instance(tmp_path), parse_serve([], {}), own)

    commands.worker_environment(instance(tmp_path), parse_serve([], {}), os.environ)  # any will do
    usual = environment()
    assert "glibc.malloc.hugetlb=1" in usual["GLIBC_TUNABLES"].split(":")
    assert usual["GOMP_SPINCOUNT"] == "10000"

    told = environment(GLIBC_TUNABLES="glibc.malloc.hugetlb=0")["GLIBC_TUNABLES"]
    assert told == usual["GLIBC_TUNABLES"] + ":glibc.malloc.hugetlb=0"
    assert "mmap_threshold" not in environment(MALLOC_MMAP_THRESHOLD_="1")["GLIBC_TUNABLES"]
    assert "trim_threshold" not in environment(MALLOC_TRIM_THRESHOLD_="1")["GLIBC_TUNABLES"]
    assert "GOMP_SPINCOUNT" not in environment(GOMP_SPINCOUNT="5")
    assert "GOMP_SPINCOUNT" not in environment(OMP_WAIT_POLICY="passive")


def test_the_secret_is_in_the_environment_and_on_no_command_line(tmp_path):
    """
    Command lines are everybody's to read.
    """
    secret = replace(instance(tmp_path), instance_key="c0ffee", api_key="a", admin_api_key="b")
    options = parse_serve([], {})
    lines = [
        commands.worker(secret, options, Path("/model"), 0),
        commands.front_door(secret, 0),
        commands.control_plane(secret),
    ]

    assert commands.worker_environment(secret, options, {})["LEVELHEAD_INSTANCE_KEY"] == "c0ffee"
    assert not [word for line in lines for word in line if word in ("c0ffee", "a", "b")]
    assert "c0ffee" not in repr(secret)
