"""What an operator may do to backends, asked without a network."""

import pytest

from tests.router.fakes import until
from tests.router.hotel import hotel
from tests.router.test_app import error_of

pytestmark = pytest.mark.anyio
B = "http://b:1,kind=llamacpp,weight=2"


async def backends(site):
    told = (await site.operator.get("/admin/backends")).json()
    return {each["backend"]: (each["course"], each["dp_ranks"]) for each in told}


async def test_a_backend_that_is_added_is_looked_for_and_then_serves():
    """
    202 with where to look, and there is why it does not serve yet.
    """
    async with hotel("a") as site:
        await site.run()
        answer = await site.operator.post("/admin/groups", json={"backend": B})
        assert (answer.status_code, answer.headers["location"]) == (202, "/admin/backends")
        assert answer.json() == {
            "backend": "http://b:1", "dp_ranks": [], "look_at": "/admin/backends",
        }  # fmt: skip
        await until(lambda: site.enrolled.enrolment.newcomers.problem("http://b:1"))
        told = (await site.operator.get("/admin/backends")).json()[1]
        assert (told["course"], told["sources"], told["weight"]) == ("looking", ["operator"], 2.0)
        assert told["problem"] == "http://b:1 does not answer: it is asked until it does"

        site.engines.up["b"] = "m"
        await site.shows((0, "a", "ready"), (1, "b", "ready"))
        assert await backends(site) == {
            "http://a:1": ("serving", [0]), "http://b:1": ("serving", [1]),
        }  # fmt: skip


async def test_groups_are_listed_with_who_names_them():
    """
    And with their weight, models and age.
    """
    async with hotel("a") as site:
        await site.run()
        await site.shows((0, "a", "ready"))

        (group,) = (await site.operator.get("/admin/groups")).json()

        assert group["age_s"] >= 0
        told = {key: group[key] for key in ("dp_rank", "engine", "weight", "models", "sources")}
        assert told == {
            "dp_rank": 0, "engine": "llamacpp", "weight": 1.0, "models": [],
            "sources": ["--backend"],
        }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "status", "said"),
    [
        ("http://a:1", 409, "http://a:1 is there already"),
        ("http://a:1,weight=3", 409, "http://a:1 is there already"),
        ("ftp://a", 400, "allowed is http://host:port"),
        ("http://999.1.1.1:1", 400, "'999.1.1.1': that is no host's name or address"),
        ("http://b:1,weight=0", 400, "weight=0: allowed are 0.01 to 100"),
        (
            "http://b:1,kv-events=5557",
            400,
            "backend: kv-events: names pages by token ids: say --to",
        ),
        ("http://b:1,kind=vllm,dp-size=4", 409, "no free slot: http://b:1 needs 4, 3 of 4"),
    ],
)
async def test_what_cannot_be_added_is_refused_by_name(told, status, said):
    """
    And nothing has changed.
    """
    async with hotel("a") as site:
        answer = await site.operator.post("/admin/groups", json={"backend": told})

        assert (answer.status_code, said in error_of(answer)["message"]) == (status, True)
        assert await backends(site) == {"http://a:1": ("serving", [0])}


async def test_with_a_tokenizer_the_events_of_newcomers_can_be_used():
    """
    And such a backend is deleted as any other.
    """
    told = "http://b:1,kv-events=5557,kv-replay=5558"
    async with hotel(tokenizer_path="/some") as site:
        assert (await site.operator.post("/admin/groups", json={"backend": told})).is_success
        (backend,) = (each.backend for each in site.enrolled.enrolment.roster.wanted.values())
        assert (backend.kv_events, backend.kv_replay) == ("tcp://b:5557", "tcp://b:5558")
        there = {"backend": told}
        assert (await site.operator.delete("/admin/backends", params=there)).status_code == 202
        assert await backends(site) == {}


@pytest.mark.parametrize("body", [{}, {"backend": 5}, [], "x"])
async def test_what_is_no_newcomer_is_refused(body):
    """
    400, as any other body that is not understood.
    """
    async with hotel("a") as site:
        assert (await site.operator.post("/admin/groups", json=body)).status_code == 400


async def test_a_backend_that_is_deleted_drains_and_by_force_is_gone_at_once():
    """
    What is open is on nobody's books then.
    """
    async with hotel("a") as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        site.has_open(0, 1)
        for _ in range(2):
            answer = await site.operator.delete("/admin/groups/0")
            assert (answer.status_code, answer.json()["dp_ranks"]) == (202, [0])
            assert site.rows == [(0, "a", "draining")]
        assert (await backends(site))["http://a:1"] == ("leaving", [0])

        answer = await site.operator.delete("/admin/groups/0?force=true")
        assert (answer.status_code, site.rows) == (202, [])
        assert await backends(site) == {}


async def test_one_that_is_no_group_yet_may_be_deleted_too():
    """
    By its URL.
    """
    async with hotel() as site:
        await site.run()
        await site.operator.post("/admin/groups", json={"backend": B})
        there = {"backend": "http://b:1"}

        assert (await site.operator.delete("/admin/backends", params=there)).status_code == 202
        assert (await site.operator.delete("/admin/backends", params=there)).status_code == 404
        assert await backends(site) == {}


async def test_a_group_is_drained_and_undrained():
    """
    It serves from its next good answer on.
    """
    async with hotel("a") as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        await site.operator.post("/admin/groups/0/drain")
        assert site.rows == [(0, "a", "draining")]

        answer = await site.operator.post("/admin/groups/0/undrain")
        assert (answer.status_code, answer.json()["state"]) == (202, "suspect")
        await site.shows((0, "a", "ready"))


@pytest.mark.parametrize("weight", [0, 101, -1, "x", None, True, "nan"])
async def test_a_weight_that_cannot_be_is_refused(weight):
    """
    400, naming it.
    """
    async with hotel("a") as site:
        answer = await site.operator.patch("/admin/groups/0", json={"weight": weight})

        assert (answer.status_code, "weight" in error_of(answer)["message"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", ""), ("PATCH", ""), ("POST", "/undrain"), ("POST", "/drain")],
)
async def test_who_is_not_there_cannot_be_changed(method, path):
    """
    404, with those that there are; 409 for one that is leaving.
    """
    async with hotel("a") as site:
        await site.run()
        await site.shows((0, "a", "ready"))
        body = {"weight": 2} if method == "PATCH" else None
        answer = await site.operator.request(method, f"/admin/groups/3{path}", json=body)
        assert answer.status_code == 404
        assert error_of(answer)["message"] == "there is no DP group 3: there are 0 to 0"

        site.has_open(0, 1)
        await site.operator.delete("/admin/groups/0")
        answer = await site.operator.request(method, f"/admin/groups/0{path}", json=body)
        is_change = path == "/undrain" or method == "PATCH"
        assert answer.status_code == (409 if is_change else 202)


async def test_every_answer_is_described():
    """
    In the OpenAPI document.
    """
    async with hotel("a") as site:
        paths = (await site.operator.get("/openapi.json")).json()["paths"]

        for path, method in [
            ("/admin/groups", "post"), ("/admin/groups/{dp_rank}", "delete"),
            ("/admin/groups/{dp_rank}", "patch"), ("/admin/groups/{dp_rank}/undrain", "post"),
            ("/admin/groups/{dp_rank}/drain", "post"), ("/admin/backends", "delete"),
        ]:  # fmt: skip
            assert {"202", "400", "404", "409"} <= paths[path][method]["responses"].keys()
            assert "422" not in paths[path][method]["responses"]


async def test_who_adds_a_backend_cannot_have_a_variable_of_ours_sent_there():
    """
    A key would go to whatever server is named.
    """
    async with hotel("a") as site:
        await site.run()
        wanted = {"backend": "http://b:1,api-key-env=LEVELHEAD_ADMIN_API_KEY"}
        answer = await site.operator.post("/admin/groups", json=wanted)

        assert answer.status_code == 400
        assert "api-key-env is for flags and files alone" in answer.text
