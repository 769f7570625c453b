"""What an instance may tell, for tests of what is shown of it."""

from router.control_plane.door_figures import FrontDoors, front_doors_of
from router.control_plane.loads import loads_of
from router.front_door.meters import Meters
from router.instance import Instance
from router.top.decisions import Decisions
from router.top.picture import Album, Look
from tests.figures import group_figures

INSTANCE = Instance("spirit", 7, "/nowhere", "127.0.0.1", 0, 2, method="minimum_tokens")


def meters(slot=0, epoch=1, *, requests=0, failed=0, ttfts=(), pieces=0, prompt=0, to=(0, 0)):
    """A front door's, with so much counted."""
    counted = Meters(len(to))
    counted.responses.update({200: requests - failed, 503: failed})
    counted.prompt_tokens["exact"] = prompt
    counted.dispatches = list(to)
    for seconds in ttfts:
        counted.ttft_s.observe(seconds)
    for _ in range(pieces):
        counted.inter_token_s.observe(0.025)
    told = counted.as_dict() | {"slot": slot, "epoch": epoch}
    return told | {"responses": {str(status): n for status, n in counted.responses.items()}}


def front_doors(*doors, epoch=7, num_front_doors=None) -> FrontDoors:
    instance = Instance("spirit", epoch, "/nowhere", "127.0.0.1", 0, 2, method="minimum_tokens")
    told = front_doors_of(instance, doors)
    told.num_front_doors = len(doors) if num_front_doors is None else num_front_doors
    return told


def loads(*groups, doors=None):
    """Of these figures; by default two groups, 300 and 100 tokens."""
    default = (group_figures(0, holding_tokens=300), group_figures(1, holding_tokens=100))
    told = loads_of(list(groups or default), 1_000_000.0)
    told.front_doors = front_doors(meters()) if doors is None else doors
    return told


def look(at_s=0.0, told=None, decisions=None):
    return Look(at_s, told or loads(), decisions or Decisions())


def picture(*looks, now_s=None):
    """Of an album with these looks."""
    album = Album()
    for each in looks:
        album.take(each)
    return album.picture(looks[-1].at_s if now_s is None else now_s)
