"""OSRL's own learners, their training steps and the transformer's evaluation loop, as its checkout has them.

Of github.com/liuzuxin/OSRL (Apache-2.0; commit 03a4586) only the modules of networks and their trainers are imported;
what those import for logging and progress is stood in for, so that nothing of OSRL need be installed.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch


class Log:
    """Keeps what a training step stores."""

    def __init__(self) -> None:
        self.kept: dict[str, float] = {}

    def store(self, tab: str = "", **values: float) -> None:  # noqa: ARG002 - OSRL's signature
        """By OSRL's logger's signature."""
        self.kept.update(values)


def osrl(checkout: Path, module: str = "cdt") -> Any:
    """`osrl.algorithms.cdt`, or another one, without the packages that only log, or read what we do not need."""
    logging = ModuleType("fsrl.utils")
    logging.DummyLogger = logging.WandbLogger = Log  # type: ignore[attr-defined]
    progress = ModuleType("tqdm.auto")
    progress.trange = range  # type: ignore[attr-defined]
    sys.modules |= {"fsrl": ModuleType("fsrl"), "fsrl.utils": logging, "tqdm": ModuleType("tqdm")}
    sys.modules["tqdm.auto"] = progress
    for name in ("osrl", "osrl.common", "osrl.algorithms"):
        package = ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    imported = importlib.import_module(f"osrl.algorithms.{module}")
    del sys.modules["tqdm"], sys.modules["tqdm.auto"]  # torch looks for it, too
    return imported


class Environment(Protocol):
    """What OSRL's loop calls."""

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """First observation and info."""
        ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Observation, reward, terminated, truncated, and an info with "cost"."""
        ...


def published_trainer(module: Any, *, observations: int, actions: int, horizon: int, env: Environment | None) -> Any:
    """OSRL's trainer of the network of `examples/configs/cdt_configs.py`: d 128, 3 layers, 8 heads, K 10."""
    model = module.CDT(
        state_dim=observations,
        action_dim=actions,
        max_action=1.0,
        seq_len=10,
        episode_len=horizon,
        embedding_dim=128,
        num_layers=3,
        num_heads=8,
        attention_dropout=0.1,
        residual_dropout=0.1,
        embedding_dropout=0.1,
        use_rew=True,
        use_cost=True,
        cost_transform=True,
        stochastic=True,
        init_temperature=0.1,
        target_entropy=-actions,
    )
    return module.CDTTrainer(
        model, env, logger=Log(), lr_warmup_steps=500, reward_scale=0.1, loss_cost_weight=0.02, loss_state_weight=0.0
    )


BASELINES = {"bcq-lag": "bcql", "bear-lag": "bearl", "cpq": "cpq", "coptidice": "coptidice"}
"""Modules of OSRL's other learners, by the names that ours have."""


def published_baseline(checkout: Path, method: str, *, observations: int, actions: int, horizon: int) -> Any:
    """OSRL's trainer of another learner, as `examples/configs` has it: networks of 256 x 256, autoencoders of 400."""
    name = BASELINES[method]
    module = osrl(checkout, name)
    sizes: dict[str, Any] = {"state_dim": observations, "action_dim": actions, "max_action": 1.0}
    sizes |= {"episode_len": horizon, "a_hidden_sizes": [256, 256], "c_hidden_sizes": [256, 256]}
    rates = {"actor_lr": 1e-3, "critic_lr": 1e-3}
    if name == "coptidice":
        spread = {
            "observations_std": np.ones((1, observations), np.float32),
            "actions_std": np.ones((1, actions), np.float32),
        }
        model = module.COptiDICE(
            **sizes, **spread, f_type="softchi", init_state_propotion=1.0 / horizon, num_nu=2, num_chi=2
        )
        return module.COptiDICETrainer(model, None, logger=Log(), actor_lr=1e-4, critic_lr=1e-4, scalar_lr=1e-4)
    coded = {"vae_hidden_sizes": 400, "sample_action_num": 10, "num_q": 2, "num_qc": 2}
    if name == "bcql":
        return module.BCQLTrainer(module.BCQL(**sizes, **coded), None, logger=Log(), **rates, vae_lr=1e-3)
    if name == "bearl":
        model = module.BEARL(**sizes, **coded, num_samples_mmd_match=10, start_update_policy_step=0)
        return module.BEARLTrainer(model, None, logger=Log(), **rates, vae_lr=1e-3)
    return module.CPQTrainer(
        module.CPQ(**sizes, **coded), None, logger=Log(), actor_lr=1e-4, critic_lr=1e-3, vae_lr=1e-3
    )


def baseline_step(trainer: Any, batch: Any, first: np.ndarray) -> None:
    """One training step on one of our transition batches; `first`: which steps begin an episode."""

    def single(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float32))

    arguments = {
        "observations": single(batch.observations),
        "next_observations": single(batch.next_observations),
        "actions": single(batch.actions),
        "rewards": single(batch.rewards),
        "costs": single(batch.costs[:, 0]),
        "done": single(batch.terminated | batch.timeouts),
    }
    if type(trainer).__name__ == "COptiDICETrainer":
        trainer.train_one_step((*arguments.values(), single(first)))
    else:
        trainer.train_one_step(**arguments)


def tensors(batch: Any) -> tuple[torch.Tensor, ...]:
    """One of our batches as the arguments of OSRL's training step."""

    def single(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float32))

    return (
        single(batch.observations),
        single(batch.actions),
        single(batch.reward_to_go) * 0.1,
        single(batch.cost_to_go[..., 0]),
        torch.from_numpy(np.array(batch.steps)),
        single(batch.mask),
        single(batch.cost_to_go[:, 0, 0]),
        single(batch.costs[..., 0]),
    )


def episode(trainer: Any, reward: float, cost: float) -> int:
    """One episode of OSRL's evaluation; returns its steps."""
    trainer.model.eval()
    steps = trainer.rollout(trainer.model, trainer.env, reward * trainer.reward_scale, cost)[1]
    trainer.model.train()
    return int(steps)
