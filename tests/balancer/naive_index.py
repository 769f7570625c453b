"""The oracle of the prefix index: lists that are searched from the front, and no bits."""

from balancer.prefix_index import Change


class NaiveIndex:
    def __init__(self, num_groups, max_digests, max_expected_digests):
        self._ranks = range(num_groups)
        self._max_digests = max_digests
        self._max_expected_digests = max_expected_digests
        self.told = [set() for _ in self._ranks]
        self.used = []  # digests, the last used last
        self.expected = []  # [name, dp_rank, digests, "open", "ended" or "past"]

    def match(self, digests):
        pages = [self._depth(rank, digests) for rank in self._ranks]
        self._use(digests[: max(pages)])
        return pages

    def _depth(self, rank, digests):
        mine = [d for _, r, ds, *_ in self.expected if r == rank for d in ds]
        depth = 0
        while depth < len(digests) and (
            digests[depth] in self.told[rank] or digests[depth] in mine
        ):
            depth += 1
        return depth

    def _use(self, digests):
        for digest in reversed(digests):
            if any(digest in held for held in self.told):
                self.used = [d for d in self.used if d != digest] + [digest]

    def observe(self, rank, event):
        if event.change is Change.STORED:
            self.told[rank].update(event.digests)
            self.expected = [
                each
                for each in self.expected
                if each[1] != rank or each[3] == "open" or each[2][-1] not in event.digests
            ]
            self._use(event.digests)
            for digest in self.used[: -self._max_digests]:
                for held in self.told:
                    held.discard(digest)
        elif event.change is Change.EVICTED:
            self.told[rank].difference_update(event.digests)
        else:
            self.told[rank].clear()
        self.used = [d for d in self.used if any(d in held for held in self.told)]

    def begin_group(self, rank):
        self.told[rank].clear()
        self.used = [d for d in self.used if any(d in held for held in self.told)]
        self.expected = [each for each in self.expected if each[1] != rank]

    def expect(self, name, rank, digests):
        self.expected.append([name, rank, digests, "open"])
        while sum(len(ds) for _, _, ds, *_ in self.expected) > self._max_expected_digests:
            ended = [each for each in self.expected if each[3] != "open"]
            ended.sort(key=lambda each: each[4])
            self.expected.remove((ended or self.expected)[0])

    def fulfil(self, name, number):
        for each in list(self.expected):
            if each[0] == name and each[3] == "open":
                each[3:] = ["ended", number]
                if not each[2] or each[2][-1] in self.told[each[1]]:
                    self.expected.remove(each)

    def withdraw(self, name):
        self.expected = [each for each in self.expected if each[0] != name]

    def age(self):
        self.expected = [each for each in self.expected if each[3] != "past"]
        for each in self.expected:
            if each[3] == "ended":
                each[3] = "past"
