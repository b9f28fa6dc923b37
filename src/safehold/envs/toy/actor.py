"""An actor without memory, for the toy worlds' own policies."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Memoryless:
    """Acts by a rule of the current observations alone."""

    rule: Callable[[np.ndarray], np.ndarray]

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The rule's actions, in float32."""
        return self.rule(observations).astype(np.float32)

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Nothing is remembered."""
