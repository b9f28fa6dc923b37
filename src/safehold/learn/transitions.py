"""Single steps as actors and critics have them, whether a log or a replay buffer brings them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """B steps as networks have them: observations normalised, actions in [-1, 1], rewards scaled, costs in cost units.

    `goes_on` is 1 where the next state counts, and 0 where nothing follows.
    """

    observations: Float[Tensor, "B o"]
    actions: Float[Tensor, "B a"]
    rewards: Float[Tensor, "B"]
    costs: Float[Tensor, "B k"]
    next_observations: Float[Tensor, "B o"]
    goes_on: Float[Tensor, "B"]
