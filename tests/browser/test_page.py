"""What the page makes of what it is told: in Chromium, with a stand-in for the instance."""

import pytest

from router.control_plane.loads import Loads
from shm.group_table import GroupState
from tests.browser.stub import Stub
from tests.figures import group_figures
from tests.router.pictures import front_doors, loads, meters

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=document.title='owned'><b>bold</b>"
DECISION = {
    "decided_at": "1970-01-12T13:46:38.5Z", "dp_rank": 1, "prompt_tokens": 1200, "attempt": 1,
    "reason": "its turn", "dp_balance_id": "0123456789abcdef",
}  # fmt: skip


def wire(told: Loads):
    return 200, told.model_dump(mode="json")


def of(*groups, **doors):
    return wire(loads(*groups, doors=front_doors(meters(to=(0,) * len(groups)), **doors)))


@pytest.fixture
def told():
    """Two groups, 300 and 100 tokens, and one decision."""
    return {
        "/v1/loads": wire(loads()),
        "/admin/decisions": (200, {"decisions": [DECISION], "silent_front_doors": []}),
    }


@pytest.fixture
def stub(told):
    with Stub(told) as serving:
        yield serving


def opened(page, stub):
    page.open(stub.url + "/")
    page.eventually("document.querySelector('#rows').children.length")
    return page


def cells(page, row):
    return page.run(
        f"[...document.querySelectorAll('#rows tr')[{row}].children].map(c=>c.innerText)"
    )


def widths(page, row):
    return page.run(
        f"[...document.querySelectorAll('#rows tr')[{row}].querySelectorAll('.bar span')]"
        ".map(each => each.style.width)"
    )


def test_two_groups_are_shown_with_figures_and_bars_to_scale(page, stub, told):
    """
    Holding, what waits of it, and in flight; the fullest fills its bar.
    """
    first = group_figures(0, in_flight=(100, 1), holding_tokens=300, waiting_uncached_tokens=100)
    told["/v1/loads"] = of(first, group_figures(1, holding_tokens=100, running_requests=3))

    opened(page, stub)

    assert cells(page, 0)[:2] == ["0", "ready"]
    assert cells(page, 0)[3:6] == ["300", "100", "100"]
    assert cells(page, 1)[3:7] == ["100", "0", "0", "3"]
    assert widths(page, 0) == ["50%", "25%", "25%"]
    assert widths(page, 1) == ["25%", "0%", "0%"]
    assert page.text("#imbalance") == "1.60"


def test_recent_decisions_are_shown_with_their_reasons(page, stub):
    """
    The page asks for a few of them.
    """
    opened(page, stub)
    page.eventually("document.querySelector('#decisions').children.length")

    row = page.run("[...document.querySelector('#decisions tr').children].map(c=>c.innerText)")
    assert row == ["1.5 s ago", "1", "1,200", "its turn", "0123456789abcdef"]


def test_what_is_told_is_shown_as_text_and_never_run(page, stub, told):
    """
    Markup in names, reasons and conditions stays what it is, and no image of it is asked for.
    """
    group = group_figures(0)
    status, body = of(group)
    body["front_doors"]["instance"] = body["front_doors"]["method"] = EVIL
    body["loads"][0]["condition"] = "always_zero"
    told["/v1/loads"] = status, body
    told["/admin/decisions"] = 200, {"decisions": [DECISION | {"reason": EVIL, "dp_rank": EVIL}]}

    opened(page, stub)
    page.eventually("document.querySelector('#decisions').children.length")

    assert page.text("#instance") == EVIL
    assert EVIL in page.text("#decisions")
    assert page.run("document.querySelectorAll('img, b:not(#imbalance)').length") == 0
    assert page.run("document.title") != "owned"
    assert all(path.startswith(("/?", "/v1/loads", "/admin/dec")) or path == "/"
               for path, _ in stub.asked)  # fmt: skip


def test_of_256_groups_the_worst_are_shown_and_all_on_demand(page, stub, told):
    """
    32 of them, who is not well first; the rest is summed up until a button is pressed.
    """
    groups = [group_figures(rank, holding_tokens=10 * rank) for rank in range(256)]
    groups[7] = group_figures(7, GroupState.DEAD)
    told["/v1/loads"] = of(*groups)

    opened(page, stub)
    page.run("document.querySelector('#order').value = 'worst'; "
             "document.querySelector('#order').dispatchEvent(new Event('change'))")  # fmt: skip

    assert page.run("document.querySelectorAll('#rows tr').length") == 32
    assert cells(page, 0)[:2] == ["7", "dead"]
    assert cells(page, 1)[0] == "255"
    assert page.text("#more") == "and 224 groups more, 0 to 2,240 tokens each"
    page.run("document.querySelector('#all').click()")
    assert page.run("document.querySelectorAll('#rows tr').length") == 256


def test_the_key_is_asked_for_and_kept_for_the_tab_alone(page, stub, told):
    """
    Typed on the keyboard, it goes in a header, and stands in no address.
    """
    fine, refused = told["/v1/loads"], (401, {"error": {"message": "a key is needed"}})
    told["/v1/loads"] = refused
    page.open(stub.url + "/")
    page.eventually("document.activeElement.id === 'key'")
    assert page.text("#said") == "An API key is needed"

    page.type("secret-key")
    told["/v1/loads"] = fine
    page.press("Enter", 13, "\r")
    page.eventually("document.querySelector('#rows').children.length")

    keys = {key for path, key in stub.asked if path.startswith("/v1/loads")}
    assert keys == {None, "Bearer secret-key"}
    assert not any("secret-key" in path for path, _ in stub.asked)
    assert page.run("[location.href.includes('secret'), localStorage.length]") == [False, 0]
    assert page.run("document.querySelector('#key-form').hidden")
    page.run("sessionStorage.clear()")


def test_a_key_that_counts_no_more_makes_what_is_shown_old(page, stub, told):
    """
    It is said, and nothing goes on to look live; with another key it does.
    """
    fine = told["/v1/loads"]
    opened(page, stub)
    told["/v1/loads"] = 401, {"error": {"message": "a key is needed"}}
    page.eventually("!document.querySelector('#key-form').hidden")

    trouble = page.text("#trouble")
    assert "a key is needed. What is shown is old." in trouble
    assert "asked again" not in trouble
    assert page.run("document.body.classList.contains('old')")
    told["/v1/loads"] = fine
    page.type("another")
    page.press("Enter", 13, "\r")
    page.eventually("document.querySelector('#trouble').hidden")
    page.run("sessionStorage.clear()")


def test_without_the_admin_key_the_rest_is_shown_and_the_key_asked_for(page, stub, told):
    """
    Beside the decisions, without taking the focus; and a key that is refused is sent once.
    """
    told["/admin/decisions"] = 401, {"error": {"message": "a valid admin API key is needed"}}

    opened(page, stub)
    page.eventually("!document.querySelector('#admin-form').hidden")
    page.eventually("numLooks > 4")

    assert page.text("#no-decisions") == "a valid admin API key is needed"
    assert page.run("document.activeElement.id") != "admin-key"
    assert sum(path.startswith("/admin") for path, _ in stub.asked) == 1

    told["/admin/decisions"] = 200, {"decisions": [DECISION], "silent_front_doors": []}
    page.run("document.querySelector('#admin-key').focus()")
    page.type("operator")
    page.press("Enter", 13, "\r")
    page.eventually("document.querySelector('#decisions').children.length")
    assert "Bearer operator" in {key for path, key in stub.asked if path.startswith("/admin")}
    page.run("sessionStorage.clear()")


def test_a_lost_instance_is_told_of_and_found_again(page, told):
    """
    The last figures stay, marked as old; a next life of it is told of, too.
    """
    with Stub(told) as stub:
        opened(page, stub)
    page.eventually("document.querySelector('#trouble').innerText.includes('No figures for')")
    assert "no connection" in page.text("#said")
    assert cells(page, 0)[3] == "300"

    told["/v1/loads"] = wire(loads(doors=front_doors(meters(), epoch=8)))
    with Stub(told, stub.port):
        page.eventually("document.querySelector('#trouble').innerText.includes('started anew')")
        assert page.text("#said") == "The instance answers again"


def test_a_failing_instance_is_asked_less_and_less_often(page, stub, told):
    """
    Each wait is twice the one before: within 4 s of the first failure three questions at most.
    """
    opened(page, stub)
    told["/v1/loads"] = 503, {"error": {"message": "the control plane does not answer"}}
    page.eventually("document.querySelector('#trouble').innerText.includes('control plane')")
    before = len(stub.asked)
    page.run("new Promise(done => setTimeout(done, 4000))")

    assert 1 <= len(stub.asked) - before <= 3


def test_a_screen_reader_is_told_of_changes_of_state_and_of_no_figures(page, stub, told):
    """
    A status that says what became of a group; figures change without a word.
    """
    opened(page, stub)
    told["/v1/loads"] = of(group_figures(0, holding_tokens=999), group_figures(1))
    page.eventually("document.querySelector('#rows').innerText.includes('999')")
    assert page.text("#said") == ""

    told["/v1/loads"] = of(group_figures(0), group_figures(1, GroupState.DEAD))
    page.eventually("document.querySelector('#said').innerText")

    assert page.text("#said") == "group 1 is dead"
    live = page.run("[...document.querySelectorAll('[aria-live], [role=status]')].map(e => e.id)")
    assert live == ["said"]


def test_the_page_has_names_and_roles_for_who_does_not_see_it(page, stub):
    """
    By Chromium's own accessibility tree: a named table with heads, and no control without name.
    """
    opened(page, stub)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]

    assert ("table", "Load of each DP group, in tokens and requests") in found
    assert sum(role == "columnheader" for role, _ in found) >= 11
    assert [name for role, name in found if role == "rowheader"][:2] == ["0", "1"]
    assert ("status", "") in found
    assert any(role == "image" and name.startswith("Imbalance over") for role, name in found)
    controls = [f for f in found if f[0] in ("button", "combobox", "textbox", "link", "region")]
    assert controls
    assert all(name for _, name in controls)


def test_everything_can_be_reached_by_the_keyboard_in_reading_order(page, stub):
    """
    What is focused lies never above what was; Pause works by the space bar.
    """
    opened(page, stub)
    reached = []
    for _ in range(12):
        page.press("Tab", 9)
        reached.append(page.run("(e => e.id || e.textContent.trim())(document.activeElement)"))
    assert reached[:4] == ["Skip to the groups", "pause", "order", "groups"]
    assert {"API", "Metrics", "Loads"} <= set(reached)

    page.run("document.querySelector('#pause').focus()")
    page.press(" ", 32, " ")
    assert page.run("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    before = len(stub.asked)
    page.run("new Promise(done => setTimeout(done, 2500))")
    assert len(stub.asked) == before


_CONTRASTS = """
(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v =>
    v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility()) continue;
    if (e.closest('script, style, title, noscript')) continue;
    const [a, b] = [parse(getComputedStyle(e).color), ground(e)].map(light).sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push([walk.currentNode.data, (a + 0.05) / (b + 0.05)]);
  }
  return bad;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_in_light_and_dark(page, stub, told, scheme):
    """
    4.5 to 1 at least, trouble and states that are not well included.
    """
    told["/v1/loads"] = of(
        *(group_figures(rank, state) for rank, state in enumerate(GroupState)), num_front_doors=2
    )
    page.prefer(color_scheme=scheme)
    opened(page, stub)

    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 20, 25)"}[scheme]
    assert page.run(_CONTRASTS) == []


def test_a_phone_scrolls_the_tables_and_not_the_page(page, stub):
    """
    375 pixels wide; each group's bar can be seen without scrolling.
    """
    page.resize(375, 800)
    opened(page, stub)

    assert page.run("document.documentElement.scrollWidth") == 375
    assert page.run("document.querySelector('#rows .bar').getBoundingClientRect().right") < 375


def test_who_wants_no_motion_gets_none(page, stub):
    """
    Bars jump; else they slide.
    """
    opened(page, stub)
    duration = "getComputedStyle(document.querySelector('.bar span')).transitionDuration"
    assert page.run(duration) == "0.3s"

    page.prefer(reduced_motion="reduce")
    assert page.run(duration) == "0s"
