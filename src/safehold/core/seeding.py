"""Named random streams from one seed: a new consumer never shifts the others."""

import hashlib
from dataclasses import dataclass

import numpy as np

from safehold.core.errors import UsageError


def _spawn_key(name: str) -> tuple[int, ...]:
    """Four words of a hash of the name; NumPy's SeedSequence keeps different keys independent."""
    digest = hashlib.sha256(name.encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))


@dataclass(frozen=True, slots=True)
class Streams:
    """Every random draw of a run comes from a stream of this object, by name.

    `streams["rollout"]` is a fresh generator each time; whoever draws from it twice keeps it.
    """

    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; a seed is an integer from 0 to 2**63 - 1")

    def __getitem__(self, name: str) -> np.random.Generator:
        """A NumPy generator for this name."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=_spawn_key(name))))

    def integer(self, name: str) -> int:
        """One 63-bit seed for this name: for a torch generator, or for a child's `Streams`."""
        state = np.random.SeedSequence(self.seed, spawn_key=_spawn_key(name)).generate_state(1, np.uint64)
        return int(state[0] >> np.uint64(1))

    def episode_seeds(self, name: str, start: int, count: int) -> tuple[int, ...]:
        """Reset seeds of episodes `start` to `start + count - 1` of the stream `name`.

        The seed of an episode depends on its number alone, not on how many are drawn at once; 62 random bits
        make a collision between two streams of a million episodes less likely than 1e-6.
        """
        key = _spawn_key(name)
        seeds = []
        for number in range(start, start + count):
            state = np.random.SeedSequence(self.seed, spawn_key=(*key, number)).generate_state(1, np.uint64)
            seeds.append(int(state[0] >> np.uint64(2)))
        return tuple(seeds)
