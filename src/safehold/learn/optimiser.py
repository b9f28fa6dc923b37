"""Optimiser moments as named tensors, so that a checkpoint can carry them without pickle."""

from collections.abc import Mapping

import torch

from safehold.core.errors import DataError
from safehold.learn.checkpoint import match_tensors


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Copies of the moments of an Adam-like optimiser, as "parameter number.moment"; none before the first step."""
    moments: Mapping[int, Mapping[str, torch.Tensor]] = optimiser.state_dict()["state"]
    return {f"{i}.{name}": value.clone() for i, entry in moments.items() for name, value in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts the moments back: those of every parameter, or none at all for an optimiser that never stepped.

    Raises:
        DataError: if a moment is missing, unknown, of another shape, or not finite.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if tensors:
        wanted = {
            f"{i}.{name}": (parameter.shape if name != "step" else torch.Size([]), torch.float32)
            for i, parameter in enumerate(parameters)
            for name in ("step", "exp_avg", "exp_avg_sq")
        }
        match_tensors(wanted, tensors, "optimiser")
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        moments.setdefault(int(number), {})[name] = value.clone()
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})


def require_state(tensors: Mapping[str, torch.Tensor], updates: int) -> None:
    """Refuses to resume without moments once updates were made.

    Raises:
        DataError: if `updates` is above 0 and there are no optimiser tensors.
    """
    if updates > 0 and not tensors:
        raise DataError(
            f"the checkpoint was saved after {updates} updates but holds no optimiser moments; training cannot go on "
            "from it as if it had never stopped. Its policy can still be used"
        )
