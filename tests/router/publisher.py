"""A real publisher of KV events, on real sockets, that does what the test says."""

from contextlib import asynccontextmanager

import msgspec
import zmq
import zmq.asyncio

from tests.router.fakes import soon

END = (-1).to_bytes(8, "big", signed=True)


def number_of(number):
    return number.to_bytes(8, "big")


def payload_of(*events):
    return msgspec.msgpack.encode([1.5, list(events), 0])


def stored(hashes, tokens, parent=None, block_size=2, **more):
    """As vLLM of 2026 says it."""
    return {
        "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent,
        "token_ids": tokens, "block_size": block_size, "lora_id": None, "medium": "GPU",
        "lora_name": None, "extra_keys": [None] * len(hashes), **more,
    }  # fmt: skip


def removed(*hashes):
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU"}


class Publisher:
    """PUB and ROUTER, and the batches that it would repeat."""

    def __init__(self, context, port=0):
        self._context = context
        self._port = port
        self.kept = {}
        """Payloads by number."""
        self.asked = []
        """First numbers that were asked for."""
        self.number = 0
        self.pub = self.router = None
        self.answers = True

    @classmethod
    @asynccontextmanager
    async def open(cls, context, port=0):
        publisher = cls(context, port)
        publisher.start()
        try:
            yield publisher
        finally:
            publisher.stop()

    def start(self):
        self.pub = self._context.socket(zmq.XPUB)  # tells of subscribers, else a PUB
        self.pub.bind(f"tcp://127.0.0.1:{self._port or '*'}")
        self.endpoint = self.pub.get_string(zmq.LAST_ENDPOINT)
        self._port = int(self.endpoint.rpartition(":")[2])
        self.router = self._context.socket(zmq.ROUTER)
        self.router.bind("tcp://127.0.0.1:*")
        self.replay_endpoint = self.router.get_string(zmq.LAST_ENDPOINT)

    def stop(self):
        self.pub.close(linger=0)
        self.router.close(linger=0)

    async def subscribed(self):
        """Wait until somebody listens."""
        assert await soon(self.pub.recv()) == b"\x01"

    async def publish(self, *events, is_lost=False, payload=None):
        """The next batch; is_lost: nobody hears it."""
        payload = payload_of(*events) if payload is None else payload
        self.kept[self.number] = payload
        if not is_lost:
            await self.pub.send_multipart([b"", number_of(self.number), payload])
        self.number += 1

    async def repeat(self, topic=(b"",)):
        """Answer the next question for what was missed."""
        *sender, first = await soon(self.router.recv_multipart())
        first = int.from_bytes(first, "big")
        self.asked.append(first)
        for number, payload in self.kept.items():
            if number >= first:
                frames = [*sender, *topic, number_of(number), payload]
                await self.router.send_multipart(frames)
        await self.router.send_multipart([*sender, *topic, END, b""])
