"""Which worker has seen what before, so that its prefix cache is used. Pure, and bounded in memory.

A client names what its request shares with others: one string (a session, a user, a document), or
a list of hashes of the growing prefix of its prompt, the shortest first. The router remembers which
workers got requests with each name, and sends the next one to where the longest prefix was seen.

Why a table of what was sent, and not consistent hashing: a name that is new goes where there is the
least wait, so that no place on a ring gets more names than others; a worker that leaves takes only
its own names with it; one that comes moves none until the others are busy. It needs no word from
the model servers. Public routers of this kind do the same (the prefix scorer of the Gateway API
Inference Extension, SGLang's and Ray's prefix-aware routers).

Rules:

* **Bound on imbalance**: the known worker is taken only if it would finish the request at most
  `patience` seconds later than the best one, and begin it at most `START_PATIENCE` seconds later.
  Else the best one is taken, and is known for the name as well from then on. So a name that
  everybody uses (a system prompt) spreads over as many workers as it needs.
* Up to `MAX_HOLDERS` workers are known for a name, those that got it last; among them, the one that
  would finish first. A shorter prefix is looked at when no holder of the longer ones is good.
* Names are kept as 64-bit hashes, up to `limit` of them over all endpoints; the one that was not
  used for the longest goes first.
* A worker that booted anew has lost its cache, so it is known for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from stoker.autoscaler.booking import Request, WorkerBook

MAX_HOLDERS = 4

PATIENCE = 3.0
"""Seconds that a request may be expected to finish later for the sake of a cache. Measured
(docs/routing.md): less loses hits, more gains none and takes longer to leave a busy worker."""

START_PATIENCE = 0.5
"""Seconds that it may be expected to wait longer for a slot: a cache saves work, not waiting."""

MAX_NAMES = 100_000
"""About 20 MB."""


class CacheTable:
    """Who has what in its prefix cache, as far as requests that were routed can tell."""

    __slots__ = ("_holders", "_limit", "_next", "_workers", "patience")

    def __init__(self, *, patience: float = PATIENCE, limit: int = MAX_NAMES) -> None:
        """Make an empty table.

        Args:
            patience: seconds; the bound on imbalance.
            limit: names that are remembered, at most.
        """
        self.patience = patience
        self._limit = limit
        self._holders: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._workers: dict[int, WorkerBook] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._holders)

    def names(self, endpoint_id: int, said: Sequence[str]) -> tuple[int, ...]:
        """What a client said, in short."""
        return tuple([hash((endpoint_id, one)) for one in said])

    def boot(self, worker: WorkerBook) -> None:
        """A worker begins with an empty cache."""
        self._workers.pop(worker.cache, None)
        worker.cache = self._next
        self._next += 1
        self._workers[worker.cache] = worker

    def leave(self, worker: WorkerBook) -> None:
        """A worker is no more."""
        self._workers.pop(worker.cache, None)

    def note(self, request: Request, worker: WorkerBook) -> None:
        """`worker` gets `request`, and will have its prefix."""
        cache, table = worker.cache, self._holders
        for name in request.affinity:
            holders = table.pop(name, ())
            if not holders or holders[-1] != cache:
                others = [one for one in holders if one != cache and one in self._workers]
                holders = (*others[1 - MAX_HOLDERS :], cache)
            table[name] = holders
            if len(table) > self._limit:
                table.popitem(last=False)

    def prefer(self, request: Request, best: WorkerBook, max_queue_time: float) -> WorkerBook:
        """The worker that has the most of a request in its cache and is not much worse than `best`.

        Args:
            request: what is to be placed.
            best: where it would go without a cache.
            max_queue_time: seconds; see `WorkerBook.takes`.
        """
        cost = request.cost
        start_by = best.start_after() + min(self.patience, START_PATIENCE)
        finish_by = best.finish_after(cost) + self.patience
        for name in reversed(request.affinity):
            good = [
                worker
                for worker in self._known(name)
                if worker.in_rotation
                and worker.endpoint_id == request.endpoint_id
                and worker.worker_id != request.avoid
                and worker.finish_after(cost) <= finish_by
                and worker.start_after() <= start_by
                and worker.takes(max_queue_time)
            ]
            if good:
                return min(good, key=lambda worker: worker.finish_after(cost))
        return best

    def _known(self, name: int) -> Iterator[WorkerBook]:
        for cache in self._holders.get(name, ()):
            worker = self._workers.get(cache)
            if worker is not None:
                yield worker
