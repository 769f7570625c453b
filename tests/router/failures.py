"""Ways in which a group fails without a byte of an answer, and what the door is to make of them."""

from shm.group_table import GroupEntry, GroupState
from tests.router.clients import SSE_HEAD, chunk
from tests.router.fakes import until

EVENT = chunk(b'data: {"n":1}\n\n')


def refuse(received):
    received.answer(b'{"busy":true}', b"503 Service Unavailable", b"retry-after: 7\r\n")


def disown(received):
    received.answer(b'{"error":{"code":"wrong_epoch"}}', b"421 Misdirected Request")


def lose(received):
    received.abort()


def lose_after_the_head(received):
    """A stream that was announced, and of which nothing came."""
    received.write(SSE_HEAD)
    received.close()


REASONS = {
    refuse: "refused",
    disown: "wrong_epoch",
    lose: "lost",
    lose_after_the_head: "lost",
}
FAILURES = list(REASONS)


def row(dp_rank, port, state=GroupState.READY, epoch=11):
    return GroupEntry(dp_rank, state, epoch, "127.0.0.1", port)


async def questions(site):
    """Wait for as many answered questions as there were uncertain ends."""
    await until(lambda: site.door.door.settlement.num_open == 0)
    return [len(group.settled) for group in site.groups]
