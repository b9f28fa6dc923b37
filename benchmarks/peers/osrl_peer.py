"""OSRL's own decision transformer, its training step and its evaluation loop, as its checkout has them.

Of github.com/liuzuxin/OSRL (Apache-2.0; commit 03a4586) only the module of the network and its trainer is imported;
what that imports for logging and progress is stood in for, so that nothing of OSRL need be installed.
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

    def store(self, tab: str, **values: float) -> None:  # noqa: ARG002 - OSRL's signature
        """By OSRL's logger's signature."""
        self.kept.update(values)


def osrl(checkout: Path) -> Any:
    """`osrl.algorithms.cdt`, without the packages that only log, or read what we do not need."""
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
    module = importlib.import_module("osrl.algorithms.cdt")
    del sys.modules["tqdm"], sys.modules["tqdm.auto"]  # torch looks for it, too
    return module


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
