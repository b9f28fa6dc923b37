"""How every method is driven from another process: one JSON object a line in, one out. Standard library only.

The driver keeps the world and its truth; a method sees what an experimenter would. Requests and answers:

    {"do": "start", "problem": {...}}                            -> {"seconds": s, "cpu": s, "versions": {...}}
    {"do": "ask"}                                                -> {"seconds": s, "cpu": s, "index": i}
    {"do": "tell", "index": i, "rewards": [...], "costs": [...]} -> {"seconds": s, "cpu": s}
    {"do": "recommend"}                                          -> {"seconds": s, "cpu": s, "index": i or null}

`seconds` is the wall time of the method's own work, `cpu` the processor time of all threads of its process. An
exception is answered {"error": "..."}; the process stays alive and takes the next "start".
"""

import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Plane:
    """A prior mean over the unit square of the two axes: constant + along_reward u + along_cost v."""

    constant: float
    along_reward: float
    along_cost: float

    def at(self, u: float, v: float) -> float:
        """The mean at one place."""
        return self.constant + self.along_reward * u + self.along_cost * v


@dataclass(frozen=True)
class Told:
    """Episodes of one target: their reward returns and cost returns."""

    index: int
    rewards: tuple[float, ...]
    costs: tuple[float, ...]

    @property
    def mean_reward(self) -> float:
        """Mean reward return."""
        return math.fsum(self.rewards) / len(self.rewards)

    @property
    def mean_cost(self) -> float:
        """Mean cost return."""
        return math.fsum(self.costs) / len(self.costs)


@dataclass(frozen=True)
class Problem:
    """What is told to every method alike before its first ask.

    Candidates are the points of the grid `rewards` x `costs` of target returns, the last axis runs fastest. The mean
    cost of a deployed target is to stay at or under `limit`; one episode's cost is at most `cap`. Prior belief: the
    planes, plus deviations with a squared-exponential kernel whose standard deviations lie in the ranges and whose
    length-scales, as shares of the axes, lie in theirs (a range of one point: it is known). `episode_sd`: noise of
    one episode's reward and of its cost. `start` holds measurements of seed targets, which are known to be safe.
    """

    rewards: tuple[float, ...]
    costs: tuple[float, ...]
    limit: float
    cap: float
    reward_plane: Plane
    cost_plane: Plane
    reward_sd: tuple[float, float]
    cost_sd: tuple[float, float]
    lengthscale: tuple[float, float]
    episode_sd: float
    episodes: int
    asks: int
    delta: float
    start: tuple[Told, ...]
    seed: int

    @property
    def unit_points(self) -> list[tuple[float, float]]:
        """Every candidate on the unit square, in the order of its number."""
        return [
            (_unit(reward, self.rewards), _unit(cost, self.costs)) for reward in self.rewards for cost in self.costs
        ]

    @property
    def mean_sd(self) -> float:
        """Noise of a told mean."""
        return self.episode_sd / math.sqrt(self.episodes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "Problem":
        """The problem that `to_json` wrote."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        fields["reward_plane"], fields["cost_plane"] = Plane(**plain["reward_plane"]), Plane(**plain["cost_plane"])
        fields["start"] = tuple(_told(told) for told in plain["start"])
        return Problem(**fields)


class Method(Protocol):
    """A method behind the protocol: made from a `Problem`, whose start it was told."""

    def ask(self) -> int:
        """Number of the candidate to deploy next."""
        ...

    def tell(self, told: Told) -> None:
        """Episodes of the candidate that was asked."""
        ...

    def recommend(self) -> int | None:
        """Number of the candidate that the method would settle on; None if it names none."""
        ...


def middle(interval: tuple[float, float]) -> float:
    """What a method that needs one value takes for a quantity known to lie in a range."""
    return (interval[0] + interval[1]) / 2


def serve(start: Callable[[Problem], Method], packages: Sequence[str]) -> None:
    """Answers requests on stdin until it is closed. Whatever the method prints goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    versions = {name: importlib.metadata.version(name) for name in packages}
    method: Method | None = None
    for line in sys.stdin:
        request = json.loads(line)
        problem = Problem.from_json(request["problem"]) if request["do"] == "start" else None
        began, worked = time.perf_counter(), time.process_time()
        try:
            answer: dict[str, Any] = {}
            if problem is not None:
                method = start(problem)
                answer["versions"] = versions
            else:
                answer = _answer(method, request)
            answer["seconds"], answer["cpu"] = time.perf_counter() - began, time.process_time() - worked
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


def _answer(method: Method | None, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a started method answers."""
    if method is None:
        raise RuntimeError(f"{request['do']!r} before 'start'")
    match request["do"]:
        case "ask":
            return {"index": method.ask()}
        case "tell":
            method.tell(_told(request))
            return {}
        case "recommend":
            return {"index": method.recommend()}
        case other:
            raise ValueError(f"unknown request {other!r}")


def _told(plain: Mapping[str, Any]) -> Told:
    """Episodes from their JSON form."""
    return Told(plain["index"], tuple(plain["rewards"]), tuple(plain["costs"]))


def _unit(value: float, axis: tuple[float, ...]) -> float:
    """Share of the axis."""
    return (value - axis[0]) / (axis[-1] - axis[0])
