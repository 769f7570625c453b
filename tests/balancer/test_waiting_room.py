"""Who waits for room, who goes first, and that nobody waits for ever."""

from hypothesis import given
from hypothesis import strategies as st

from balancer.load import RequestShape
from balancer.waiting_room import (
    WINDOW,
    Admission,
    PrefillAlign,
    Waiter,
    WaitingRoom,
    WaitingRules,
)

S = 1_000_000_000
LATE = WaitingRules(Admission.LATE, max_waiting_requests=100, max_overtaken_s=5.0)
HOLD = LATE._replace(prefill_align=PrefillAlign.HOLD, max_hold_s=0.5)


class Groups:
    """Places with room for some tokens each."""

    def __init__(self, *free):
        self.free = list(free)
        self.has = {}

    def place(self, waiter):
        tokens, asked = waiter.request.prompt_tokens, waiter.request.dp_rank
        ranks = range(len(self.free)) if asked is None else [asked]
        best = max(ranks, key=lambda rank: self.free[rank])
        if tokens > self.free[best]:
            return None
        self.free[best] -= tokens
        assert waiter not in self.has, "dispatched twice"
        self.has[waiter] = best
        return f"group {best}"

    def finish(self, waiter):
        self.free[self.has.pop(waiter)] += waiter.request.prompt_tokens


def waiter(name, prompt_tokens=10, at_s=0.0, key=0, priority=0, dp_rank=None):
    request = RequestShape(prompt_tokens, dp_rank=dp_rank)
    return Waiter(name, request, round(at_s * S), key, priority)


def room_with(*waiters, rules=LATE, num_groups=2):
    room = WaitingRoom(rules, num_groups)
    for each in waiters:
        room.enter(each)
    return room


def go(room, *free, now_s=0.0, is_idle=False):
    """Names of who goes, in order."""
    gone = room.dispatch(round(now_s * S), Groups(*free).place, is_idle=is_idle)
    room.check_integrity()
    return [each.owner for each, _ in gone]


# Order


def test_whoever_came_first_goes_first():
    """
    As many as there is room for; the rest goes when there is more.
    """
    room = room_with(*(waiter(name) for name in "abcd"))

    assert (go(room, 20), go(room, 0), go(room, 20)) == (["a", "b"], [], ["c", "d"])
    assert len(room) == 0


def test_what_place_says_is_handed_back():
    """
    Whatever it is: where to, or why not.
    """
    alone = waiter("a")
    room = room_with(alone)

    assert room.dispatch(0, Groups(10).place, is_idle=False) == [(alone, "group 0")]


def test_one_whose_group_is_away_is_not_asked_and_keeps_nobody():
    """
    Held or in line, of whatever priority, and however old.
    """
    for rules in (LATE, HOLD):
        room = room_with(
            waiter("away", priority=1), *(waiter(name, at_s=1.0) for name in "bc"), rules=rules
        )
        groups = Groups(100)

        gone = room.dispatch(
            9 * S, groups.place, is_idle=False, is_away=lambda each: each.owner == "away"
        )

        assert [each.owner for each, _ in gone] == ["b", "c"]
        assert len(room) == 1
        assert go(room, 100, now_s=9.0) == ["away"]


def test_the_largest_that_fits_goes_while_the_first_has_no_room():
    """
    50 has none; of 5, 20 and 10 the 20 goes, and then the 10.
    """
    sizes = {"a": 50, "b": 5, "c": 20, "d": 10}
    room = room_with(*(waiter(name, size) for name, size in sizes.items()))

    assert go(room, 30, now_s=4.9) == ["c", "d"]


def test_nobody_goes_past_one_that_has_waited_for_long():
    """
    From 5 s on: then all wait until the first has room.
    """
    room = room_with(waiter("a", 50), waiter("b", 5), waiter("c", 20))

    assert go(room, 30, now_s=5.0) == []
    assert go(room, 60, now_s=5.1) == ["a", "b"]


def test_only_those_at_the_front_may_go_past_the_first():
    """
    The window has sixteen places: the next small one is too far behind.
    """
    large = [waiter("large", 50) for _ in range(WINDOW + 1)]

    assert go(room_with(*large, waiter("small", 5)), 30) == []
    assert go(room_with(*large[1:], waiter("small", 5)), 30) == ["small"]


def test_a_higher_priority_goes_first():
    """
    Whenever it came.
    """
    room = room_with(waiter("a"), waiter("b", priority=2), waiter("c", priority=-1), waiter("d"))

    assert go(room, 40) == ["b", "a", "d", "c"]


def test_one_that_has_waited_for_long_stands_beside_the_highest_priority():
    """
    Then turns are taken; else a stream of urgent requests would keep it for ever.
    """
    room = room_with(waiter("a"), waiter("b", at_s=4, priority=2), waiter("c", at_s=4, priority=2))

    assert go(room, 20, now_s=4.9) == ["b", "c"]
    room = room_with(waiter("a"), waiter("b", at_s=4, priority=2), waiter("c", at_s=4, priority=2))
    assert go(room, 20, now_s=5.0) == ["a", "b"]


def test_keys_take_turns_by_tokens():
    """
    Key 1 asks for tens, key 2 for twenties: two of the first go for one of the second.
    """
    many = [waiter(f"a{n}", 10, key=1) for n in range(5)]
    few = [waiter(f"b{n}", 20, key=2) for n in range(2)]

    assert go(room_with(*many, *few), 90) == ["a0", "b0", "a1", "a2", "b1", "a3", "a4"]


def test_a_key_that_comes_late_owes_nothing_and_is_owed_nothing():
    """
    It takes its turn from now on, though others were served for long before.
    """
    room = room_with(*(waiter(f"a{n}", key=1) for n in range(9)))
    assert len(go(room, 60)) == 6
    for n in range(3):
        room.enter(waiter(f"b{n}", key=2))

    assert go(room, 60) == ["a6", "b0", "a7", "b1", "a8", "b2"]


def test_a_stream_of_new_keys_overtakes_nobody_for_ever():
    """
    Each of them has been given nothing, and the key that waits much: it goes in the end.
    """
    room = room_with(waiter("large", 90, key=1), waiter("waits", key=1), waiter("other", key=9))
    assert go(room, 90) == ["large"]
    for n in range(50):
        room.enter(waiter(f"new {n}", at_s=1, key=10 + n))
        if "waits" in go(room, 10, now_s=1.0):
            break
    else:
        raise AssertionError("it waits for ever")

    assert n < 40


def test_one_that_asks_for_a_group_keeps_only_those_that_ask_for_the_same():
    """
    Group 0 is full: the old request for it holds up nobody else, however long it has waited.
    """
    room = room_with(waiter("a", dp_rank=0), waiter("b", dp_rank=0), waiter("c"), waiter("d"))

    assert go(room, 0, 20, now_s=9.0) == ["c", "d"]
    assert go(room, 20, 0, now_s=9.0) == ["a", "b"]


# Leaving


def test_who_leaves_is_never_dispatched_and_costs_its_key_nothing():
    """
    Twice does no harm, nor after it has gone.
    """
    left = waiter("left", 1000, key=1)
    a, b = waiter("a", key=1), waiter("b", key=2)
    room = room_with(left, a, b)
    for _ in range(2):
        room.leave(left)
        room.check_integrity()

    assert go(room, 20) == ["a", "b"]
    room.leave(a)
    assert len(room) == 0


def test_who_comes_over_the_bound_is_turned_away():
    """
    Those who wait already stay; who can go at once is not asked.
    """
    first, second, third = waiter("a", 50), waiter("b", 50), waiter("c", 5)
    room = room_with(first, rules=LATE._replace(max_waiting_requests=1))
    assert not room.turn_away(first)
    room.enter(second)
    assert go(room, 10) == []

    assert room.turn_away(second)
    room.enter(third)
    assert go(room, 10) == ["c"]
    assert not room.turn_away(third)
    assert [each.owner for each in room.empty()] == ["a"]


def test_everybody_leaves_when_the_room_is_emptied():
    """
    Those that are held too.
    """
    room = room_with(waiter("a"), waiter("b"), rules=HOLD, num_groups=3)

    assert [each.owner for each in room.empty()] == ["a", "b"]
    assert (len(room), go(room, 90, is_idle=True)) == (0, [])


# Holding


def test_prompts_are_held_until_there_is_one_for_each_group():
    """
    Then all go, the longest first.
    """
    room = room_with(waiter("a", 10), waiter("b", 30), rules=HOLD, num_groups=3)
    assert go(room, 90, 90, 90) == []
    room.enter(waiter("c", 20))

    assert go(room, 90, 90, 90) == ["b", "c", "a"]


def test_prompts_are_held_no_longer_than_the_limit():
    """
    The oldest has been held for half a second: the youngest goes with it.
    """
    room = room_with(waiter("a", at_s=0.1), waiter("b", at_s=0.5), rules=HOLD, num_groups=3)

    assert room.due_ns() == 0.6 * S
    assert go(room, 90, now_s=0.599) == []
    assert go(room, 90, now_s=0.6) == ["a", "b"]
    assert room.due_ns() is None


def test_nothing_is_held_while_no_group_has_anything_to_do():
    """
    Whoever waits would wait for nobody.
    """
    assert go(room_with(waiter("a"), rules=HOLD), 90, is_idle=True) == ["a"]


def test_who_was_released_and_found_no_room_is_not_overtaken_by_the_next_release():
    """
    However long the prompts that come with it are.
    """
    room = room_with(waiter("a", 50), rules=HOLD)
    assert go(room, 20, is_idle=True) == []
    room.enter(waiter("b", 60, at_s=9.0))

    assert go(room, 70, now_s=9.9) == ["a"]


# Whatever happens

_steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("enter"),
            st.integers(1, 60),
            st.integers(0, 3),
            st.integers(-1, 1),
            st.sampled_from((None, None, None, 0, 1)),
        ),
        st.tuples(st.just("leave"), st.integers(0, 99)),
        st.tuples(st.just("finish"), st.integers(0, 99)),
        st.tuples(st.just("pass"), st.floats(0.01, 3)),
    ),
    max_size=60,
)
_rules = st.builds(
    WaitingRules,
    st.just(Admission.LATE),
    st.sampled_from(PrefillAlign),
    max_hold_s=st.sampled_from((0.0, 0.2, 1.0)),
    max_waiting_requests=st.integers(0, 8),
    max_overtaken_s=st.sampled_from((0.0, 2.0)),
)


class World:
    """Two groups of 60 tokens, and everything that was ever asked of them."""

    def __init__(self, rules):
        self.room = WaitingRoom(rules, 2)
        self.rules = rules
        self.groups = Groups(60, 60)
        self.now_s = 0.0
        self.log = []
        self.asked, self.left, self.gone = [], [], []

    def play(self, steps):
        for name, *details in steps:
            getattr(self, name if name != "pass" else "wait")(*details)
            self.room.check_integrity()
            assert len(self.room) <= self.rules.max_waiting_requests
            assert len(self.asked) == len(self.left) + len(self.gone) + len(self.room)

    def enter(self, *wanted):
        prompt_tokens, key, priority, dp_rank = wanted
        new = waiter(len(self.asked), prompt_tokens, self.now_s, key, priority, dp_rank)
        self.asked.append(new)
        self.room.enter(new)
        self.dispatch()
        if self.room.turn_away(new):
            self.left.append(new)

    def leave(self, number):
        waiting = [each for each in self.asked if each in self.room]
        if waiting:
            self.left.append(waiting[number % len(waiting)])
            self.room.leave(self.left[-1])

    def finish(self, number):
        if self.groups.has:
            self.groups.finish(list(self.groups.has)[number % len(self.groups.has)])
            self.dispatch()

    def wait(self, seconds):
        self.now_s += seconds
        self.dispatch()

    def dispatch(self):
        now_ns = round(self.now_s * S)
        idle = not self.groups.has
        for each, where in self.room.dispatch(now_ns, self.groups.place, is_idle=idle):
            self.gone.append(each)
            self.log.append((each.owner, where))
        due_ns = self.room.due_ns()
        assert due_ns is None or due_ns > now_ns


@given(_steps, _rules)
def test_everybody_is_dispatched_once_or_leaves_and_the_bound_is_kept(steps, rules):
    """
    Nobody is in two places, nobody is lost, and nothing is held beyond its time.
    """
    world = World(rules)
    world.play(steps)

    assert not set(world.left) & set(world.gone)
    assert len(set(world.gone)) == len(world.gone)


@given(_steps, _rules)
def test_the_same_happens_twice(steps, rules):
    """
    Order is decided by what came, and by nothing else.
    """
    first, second = World(rules), World(rules)
    first.play(steps)
    second.play(steps)

    assert first.log == second.log


@given(_steps, _rules)
def test_all_that_wait_go_once_groups_finish(steps, rules):
    """
    While others keep coming: under a stream of urgent small requests of new keys nobody waits on.
    """
    world = World(rules._replace(max_waiting_requests=50))
    world.play(steps)
    waiting = [each for each in world.asked if each in world.room]
    for n in range(400):
        if not any(each in world.room for each in waiting):
            break
        world.enter(5, 100 + n, 1, None)
        world.wait(1.0)
        if world.groups.has:
            world.finish(0)

    assert not any(each in world.room for each in waiting)
