"""What OSRL's own BCQ-Lag, BEAR-Lag, CPQ and COptiDICE answer, for a test that ours answer the same.

    python tests/unit/learn/osrl_baselines.py --osrl CHECKOUT [--out tests/data/osrl-baselines.npz]

Needs a checkout of github.com/liuzuxin/OSRL (Apache-2.0; kept: commit 03a4586) and torch; of OSRL only the four
learners are imported, what they import for logging is stood in for. Small networks with random weights and one random
batch. One training step with step sizes of zero, so that every loss is one of the same weights. Kept are weights,
inputs, every number that was drawn, in its order, the losses that the step reports, and its gradients.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.distributions import normal

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "peers"))
from osrl_peer import osrl

OBSERVATIONS, ACTIONS, BATCH, HORIZON, LIMIT = 5, 2, 12, 30, 2.0
SHAPE = {"state_dim": OBSERVATIONS, "action_dim": ACTIONS, "max_action": 1.0}
SIZES = {"a_hidden_sizes": [8, 8], "c_hidden_sizes": [8, 8], "cost_limit": LIMIT, "episode_len": HORIZON}
ENSEMBLE = {"vae_hidden_sizes": 8, "sample_action_num": 4, "num_q": 2, "num_qc": 2}
COST = {"bcql": 6.0, "bearl": 6.0, "cpq": 1.5}
"""Added to every cost critic: around the threshold, so that multipliers and indicators have something to say."""
STILL = {"actor_lr": 0.0, "critic_lr": 0.0}


class Everything:
    """Keeps what a training step stores; OSRL's names have a slash."""

    def __init__(self) -> None:
        self.kept: dict[str, float] = {}

    def store(self, **values: float) -> None:
        """By OSRL's logger's signature."""
        self.kept.update({name.removeprefix("loss/"): value for name, value in values.items()})


@contextmanager
def recorded(drawn: list[torch.Tensor]) -> Iterator[None]:
    """Every standard normal number that torch draws inside, kept in its order."""
    plain = torch.randn

    def keep(shape: Any) -> torch.Tensor:
        drawn.append(plain(*shape))
        return drawn[-1]

    def randn(*shape: Any, **_: Any) -> torch.Tensor:
        return keep(shape[0] if len(shape) == 1 else shape)

    def scaled(mean: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
        return mean + sd * keep(mean.shape)

    with (
        patch.object(torch, "randn", randn),
        patch.object(torch, "randn_like", lambda like: keep(like.shape)),
        patch.object(torch, "normal", scaled),
        patch.object(normal, "_standard_normal", lambda shape, **_: keep(shape)),
    ):
        yield


def learner(checkout: Path, name: str) -> tuple[torch.nn.Module, Any]:
    """OSRL's model and trainer of a method."""
    module = osrl(checkout, name)
    if name == "bcql":
        model = module.BCQL(**SHAPE, **SIZES, **ENSEMBLE, phi=0.3)
        return model, module.BCQLTrainer(model, None, logger=Everything(), **STILL, vae_lr=0.0)
    if name == "bearl":
        model = module.BEARL(**SHAPE, **SIZES, **ENSEMBLE, num_samples_mmd_match=4, start_update_policy_step=0)
        return model, module.BEARLTrainer(model, None, logger=Everything(), **STILL, vae_lr=0.0)
    if name == "cpq":
        model = module.CPQ(**SHAPE, **SIZES, **ENSEMBLE, beta=0.5)
        return model, module.CPQTrainer(model, None, logger=Everything(), **STILL, vae_lr=0.0)
    model = module.COptiDICE(
        **SHAPE,
        **SIZES,
        f_type="softchi",
        init_state_propotion=0.25,
        observations_std=np.full((1, OBSERVATIONS), 0.7, np.float32),
        actions_std=np.full((1, ACTIONS), 0.4, np.float32),
        num_nu=2,
        num_chi=2,
    )
    return model, module.COptiDICETrainer(model, None, logger=Everything(), **STILL, scalar_lr=0.0)


def answers(checkout: Path, name: str) -> dict[str, np.ndarray]:
    """Weights, inputs, draws, losses and gradients."""
    torch.manual_seed(0)
    model, trainer = learner(checkout, name)
    for parameter_name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.4)  # larger than at the start, so that every part bears on the losses
        if "cost_critic" in parameter_name and parameter.shape == (1,):
            parameter.data += COST[name]
    batch = {
        "observations": torch.randn(BATCH, OBSERVATIONS),
        "next_observations": torch.randn(BATCH, OBSERVATIONS),
        "actions": torch.rand(BATCH, ACTIONS) * 1.8 - 0.9,
        "rewards": torch.randn(BATCH),
        "costs": (torch.rand(BATCH) < 0.4).float() * 1.5,
        "done": (torch.rand(BATCH) < 0.25).float(),
    }
    if name == "coptidice":
        batch["is_init"] = (torch.rand(BATCH) < 0.4).float()
    kept = {f"weight/{key}": value.detach().clone() for key, value in model.state_dict().items()}
    drawn: list[torch.Tensor] = []
    with recorded(drawn):
        if name == "coptidice":
            trainer.train_one_step(tuple(batch.values()))
        else:
            trainer.train_one_step(**batch)
    kept |= {f"input/{key}": value for key, value in batch.items()}
    kept |= {f"draw/{i}": value for i, value in enumerate(drawn)}
    kept |= {f"loss/{key}": torch.tensor(value) for key, value in trainer.logger.kept.items()}
    kept |= {f"gradient/{key}": value.grad for key, value in model.named_parameters() if value.grad is not None}
    return {key: value.numpy() for key, value in kept.items()}


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osrl", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("tests/data/osrl-baselines.npz"))
    arguments = parser.parse_args()
    methods = ("bcql", "bearl", "cpq", "coptidice")
    found = {name: answers(arguments.osrl, name) for name in methods}
    np.savez_compressed(
        arguments.out, **{f"{name}/{key}": array for name, arrays in found.items() for key, array in arrays.items()}
    )


if __name__ == "__main__":
    main()
