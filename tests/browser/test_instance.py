"""The page and `levelhead top` before a real instance with a key, of emulated ranks."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.browser.terminal import CURSOR_ON, SCREEN_OFF, SCREEN_ON, Terminal
from tests.e2e.instance import RunningInstance, eventually
from tests.workers.tiny import write_tiny_llama

pytestmark = [pytest.mark.browser, pytest.mark.slow]
KEY = "instance-key"
AUTHORISED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    model = write_tiny_llama(tmp_path_factory.mktemp("tiny-llama") / "model")
    flags = ("--model", str(model), "--dp-size", "2", "--device", "emulated")
    with RunningInstance(*flags, environment={"LEVELHEAD_API_KEY": KEY}) as running:
        yield running


@pytest.fixture
def shown(page, instance):
    """The page, with the key given, and two groups ready."""
    page.open(instance.url + "/")
    page.run(f"sessionStorage.setItem('levelhead-key', '{KEY}')")
    page.call("Page.reload")
    page.eventually("document.querySelectorAll('.state-ready').length === 2")
    yield page
    page.run("sessionStorage.clear()")


@contextmanager
def loaded(instance, dp_rank):
    """Requests that group dp_rank computes for as long as the block lasts."""
    body = {"prompt": [7] * 400, "max_tokens": 1200, "ignore_eos": True, "stream": True}
    headers = AUTHORISED | {"X-Data-Parallel-Rank": str(dp_rank)}

    def hold(over):
        with httpx.stream(
            "POST", f"{instance.url}/v1/completions", json=body, headers=headers, timeout=60
        ) as answer:
            for _ in answer.iter_bytes():
                if over:
                    return

    over = []
    with ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(hold, over) for _ in range(3)]
        yield
        over.append(True)
        for stream in streams:
            stream.result()


def once(instance, *flags):
    command = [sys.executable, "-m", "router.cli", "top", *flags, "--once", "--json"]
    env = os.environ | {"LEVELHEAD_API_KEY": KEY}
    command += ["--interval", "0.3"]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(told.stdout)


def tokens(row):
    cell = f"document.querySelectorAll('#rows tr')[{row}].children[3]"
    return f"Number({cell}.innerText.replace(/,/g, ''))"


def test_both_move_when_the_load_moves(instance, shown):
    """
    Group 1 alone has requests; then nobody has.  From afar and by the segments it is the same.
    """
    with loaded(instance, 1):
        shown.eventually(f"{tokens(1)} > 1200")
        assert shown.run(tokens(0)) == 0
        assert shown.text("#imbalance") == "2.00"
        for told in (once(instance, "--instance", instance.name), once(instance, instance.url)):
            assert told["groups"][1]["holding_tokens"] > 1200
            assert (told["groups"][0]["holding_tokens"], told["imbalance"]) == (0, 2.0)
            assert told["rates_per_s"]["streamed_tokens"] > 0
            assert told["decisions"][0]["dp_rank"] == 1
    shown.eventually(f"{tokens(1)} === 0")
    assert shown.text("#imbalance") == "1.00"


def test_both_survive_a_groups_death(instance, shown):
    """
    It is shown that it is away, and that it is back; nothing else goes.
    """
    with Terminal("--instance", instance.name) as terminal:
        terminal.eventually(r" 1 \s*ready")
        os.kill(instance.children()["workers1"], signal.SIGKILL)
        said = "document.querySelector('#said').innerText"
        shown.eventually(f"/group 1 is (dead|starting)/.test({said})")
        terminal.eventually(r" 1 \s*(dead|starting)")
        assert shown.run("document.querySelectorAll('#rows tr').length") == 2
        terminal.forget()
        shown.eventually("document.querySelectorAll('.state-ready').length === 2", 60)
        terminal.eventually(r" 1 \s*ready")


def test_top_needs_no_control_plane_and_the_page_says_that_it_is_away(instance, shown):
    """
    Segments and front doors tell everything but the decisions while it is stopped.
    """
    control = instance.children()["router.control_plane"]
    os.kill(control, signal.SIGSTOP)
    try:
        told = once(instance, "--instance", instance.name)
        shown.eventually("document.querySelector('#trouble').innerText.includes('No figures for')")
    finally:
        os.kill(control, signal.SIGCONT)

    assert [group["state"] for group in told["groups"]] == ["ready", "ready"]
    assert told["num_front_doors_up"] == 1
    assert "does not answer" in told["no_decisions"]
    shown.eventually("document.querySelector('#trouble').hidden")


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_leaves_the_terminal_as_it_was(instance, key):
    """
    By q and by ctrl-c: the other screen, the cursor and the modes are back; status 0.
    """
    with Terminal("--instance", instance.name) as terminal:
        terminal.eventually("imbalance 1.00")
        assert terminal.modes != terminal.before
        terminal.press(key)
        assert terminal.ended() == 0
        assert terminal.modes == terminal.before

    assert terminal.written.startswith(SCREEN_ON)
    assert SCREEN_OFF in terminal.written
    assert CURSOR_ON in terminal.written[terminal.written.index(SCREEN_OFF) - 20 :]


def test_top_that_is_ended_before_it_shows_anything_has_changed_no_mode():
    """
    While it waits for the first answer it is ended as any program is, and repairs nothing.
    """
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, Terminal(f"http://127.0.0.1:{silent.getsockname()[1]}") as terminal:
        asking, _ = silent.accept()
        with asking:
            terminal.process.terminate()
            assert terminal.ended() == -signal.SIGTERM
        assert terminal.modes == terminal.before


def test_top_follows_the_size_of_its_terminal(instance):
    """
    At once, not only at the next look.
    """
    with Terminal("--instance", instance.name, "--interval", "3600") as terminal:
        head = len(terminal.eventually(r"group state .*age")[0].rstrip())
        terminal.forget()
        terminal.resize(120, 40)
        wider = len(terminal.eventually(r"group state .*age")[0].rstrip())

    assert (head, wider) == (80, 120)


def test_top_without_a_key_says_which_is_needed(instance):
    """
    From afar; it ends with status 2 and leaves no screen behind.
    """
    with Terminal(instance.url) as terminal:
        assert terminal.ended() == 2

    assert "a valid API key is needed" in terminal.written
    assert "LEVELHEAD_API_KEY" in terminal.written
    assert SCREEN_ON not in terminal.written


def test_an_admin_key_of_its_own_is_not_needed_where_there_is_none(instance, shown):
    """
    The API key opens the decisions, too.
    """
    body = {"prompt": [7], "max_tokens": 1}
    answer = httpx.post(f"{instance.url}/v1/completions", json=body, headers=AUTHORISED)
    assigned = answer.headers["x-levelhead-dp-balance-id"]

    shown.eventually(f"document.querySelector('#decisions').innerText.includes('{assigned}')")
    assert eventually(lambda: once(instance, instance.url)["decisions"], "a decision")
