"""
A segment whose bytes are seen word by word, while a writer is at work.

Stores are (where, word, value): where is "words" for the header line and
"payload" for the rest.  A processor may let them be seen one at a time.
"""

from itertools import chain, repeat

from shm.segment import LINE_WORDS, WORD_BYTES


class FakeSegment:
    """The part of a Segment that its readers and writers use."""

    name = "/fake"

    def __init__(self, words, payload):
        self.words, self.payload = words, payload


class RecordingWords(list):
    """A header line that remembers its stores, in order."""

    def __init__(self, stores):
        super().__init__([0] * LINE_WORDS)
        self._stores = stores

    def __setitem__(self, word, value):
        self._stores.append(("words", word, value))
        super().__setitem__(word, value)


class RecordingPayload(bytearray):
    """A payload that remembers its stores: a copy is as many stores as it has words."""

    def __init__(self, size, stores, order):
        super().__init__(size)
        self._stores, self._order = stores, order

    def __setitem__(self, key, value):
        first = key.start // WORD_BYTES
        words = [value[i : i + WORD_BYTES] for i in range(0, len(value), WORD_BYTES)]
        stores = [("payload", first + i, word) for i, word in enumerate(words)]
        self._stores.extend(self._order(stores))
        super().__setitem__(key, value)


class Race:
    """Memory whose i-th load finds that a writer has got as far as schedule[i] stores."""

    def __init__(self, segment, stores, schedule):
        self.memory = {"words": list(segment.words), "payload": bytearray(segment.payload)}
        self._stores, self._schedule, self._done = stores, schedule, 0

    @classmethod
    def segment(cls, before, stores, schedule):
        """A segment to read from, that begins as `before`; after the schedule all is stored."""
        race = cls(before, stores, chain(schedule, repeat(len(stores))))
        return FakeSegment(RacingWords(race), RacingPayload(race))

    def load(self, where, word):
        upto = next(self._schedule)
        for target, number, value in self._stores[self._done : upto]:
            self._store(target, number, value)
        self._done = upto
        if where == "words":
            return self.memory["words"][word]
        return self.memory["payload"][word * WORD_BYTES : (word + 1) * WORD_BYTES]

    def _store(self, where, word, value):
        if where == "words":
            self.memory["words"][word] = value
        else:
            self.memory["payload"][word * WORD_BYTES : (word + 1) * WORD_BYTES] = value


class RacingWords:
    """The header line of a race."""

    def __init__(self, race):
        self._race = race

    def __getitem__(self, word):
        return self._race.load("words", word)


class RacingPayload:
    """The payload of a race: copying a slice of it is a load for each word."""

    def __init__(self, race):
        self._race = race

    def __len__(self):
        return len(self._race.memory["payload"])

    def __getitem__(self, key):
        words = range(key.start // WORD_BYTES, key.stop // WORD_BYTES)
        return b"".join(bytes(self._race.load("payload", word)) for word in words)
