"""The naive choice behind the line protocol: ask for the best reward at the limit, always, and learn nothing."""

import bisect

from line_protocol import Problem, Told, serve


class NaivePeer:
    """One fixed target: the largest R, and the largest G that is at or under the limit."""

    def __init__(self, problem: Problem) -> None:
        self._index = len(problem.rewards) * len(problem.costs) - len(problem.costs)
        self._index += bisect.bisect_right(problem.costs, problem.limit) - 1

    def ask(self) -> int:
        """The fixed target."""
        return self._index

    def tell(self, told: Told) -> None:
        """Nothing is learnt."""

    def recommend(self) -> int | None:
        """The fixed target."""
        return self._index


if __name__ == "__main__":
    serve(NaivePeer, [])
