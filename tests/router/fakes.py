"""What tests of the router share: waiting with a limit, names, tokenizers, held work."""

import asyncio
import itertools
import os
from concurrent.futures import Executor, Future

import orjson
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

LIMIT_S = 10.0  # of any wait; reached only when a test fails
_numbers = itertools.count()


def unique_instance():
    """A name that no other test and no other run has."""
    return f"test{os.getpid()}.{next(_numbers)}"


async def until(condition, limit_s=LIMIT_S):
    """Wait until the condition holds; fail after limit_s."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110  any state of any object may be waited for
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError("the condition did not come to hold") from None


async def soon(awaitable, limit_s=LIMIT_S):
    """The awaitable's result; fail after limit_s."""
    async with asyncio.timeout(limit_s):
        return await awaitable


async def turns(number=20):
    """Let whatever is ready to run have its turns: for showing that nothing happens."""
    for _ in range(number):
        await asyncio.sleep(0.001)


def write_tokenizer(folder, template="{% for m in messages %}{{ m.content }} {% endfor %}go"):
    """A tokenizer that makes one token of each word, in the form that groups leave it."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    chat = {"chat_template": template, "bos_token": "<s>", "eos_token": None}
    (folder / "chat.json").write_bytes(orjson.dumps(chat))
    return str(folder)


class HeldExecutor(Executor):
    """Keeps what is submitted until the test runs it."""

    def __init__(self):
        self.held = []

    def submit(self, call, /, *arguments, **keywords):
        future = Future()
        self.held.append((future, call, arguments, keywords))
        return future

    def run_all(self):
        held, self.held = self.held, []
        for future, call, arguments, keywords in held:
            if future.set_running_or_notify_cancel():
                future.set_result(call(*arguments, **keywords))
