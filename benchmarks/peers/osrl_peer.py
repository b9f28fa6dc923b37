"""OSRL's own learners, their training steps and the transformer's evaluation loop, as its checkout has them.

Of github.com/liuzuxin/OSRL (Apache-2.0; commit 03a4586) only the modules of networks and their trainers are imported;
what those import for logging and progress is stood in for, so that nothing of OSRL need be installed.
"""

import importlib
import sys
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSettings:
    """What OSRL's other learners are told; as `examples/configs` has it: networks of 256 x 256, autoencoders of 400."""

    hidden: tuple[int, ...] = (256, 256)
    coded: int = 400
    candidates: int = 10
    matched: int = 10
    critics: int = 2
    actor_rate: float
    critic_rate: float
    autoencoder_rate: float = 1e-3
    scalar_rate: float = 1e-4
    limit: float = 10.0


PUBLISHED = {
    "bcq-lag": BaselineSettings(actor_rate=1e-3, critic_rate=1e-3),
    "bear-lag": BaselineSettings(actor_rate=1e-3, critic_rate=1e-3),
    "cpq": BaselineSettings(actor_rate=1e-4, critic_rate=1e-3),
    "coptidice": BaselineSettings(actor_rate=1e-4, critic_rate=1e-4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of a task and, where COptiDICE wants it, of its log."""

    observations: int
    actions: int
    horizon: int
    first_share: float | None = None
    """Share of steps that begin an episode; of full episodes if not said."""
    observation_sd: np.ndarray | None = None
    action_sd: np.ndarray | None = None
    """Standard deviations (1, o) and (1, a); ones if not said."""


def baseline(checkout: Path, method: str, settings: BaselineSettings, of: Sizes) -> Any:
    """OSRL's trainer of another learner."""
    name = BASELINES[method]
    module = osrl(checkout, name)
    sizes: dict[str, Any] = {"state_dim": of.observations, "action_dim": of.actions, "max_action": 1.0}
    sizes |= {"episode_len": of.horizon, "cost_limit": settings.limit}
    sizes |= {"a_hidden_sizes": list(settings.hidden), "c_hidden_sizes": list(settings.hidden)}
    rates = {"actor_lr": settings.actor_rate, "critic_lr": settings.critic_rate}
    if name == "coptidice":
        ones = [np.ones((1, size), np.float32) for size in (of.observations, of.actions)]
        model = module.COptiDICE(
            **sizes,
            f_type="softchi",
            init_state_propotion=1.0 / of.horizon if of.first_share is None else of.first_share,
            observations_std=ones[0] if of.observation_sd is None else of.observation_sd,
            actions_std=ones[1] if of.action_sd is None else of.action_sd,
            num_nu=settings.critics,
            num_chi=settings.critics,
        )
        return module.COptiDICETrainer(model, None, logger=Log(), **rates, scalar_lr=settings.scalar_rate)
    coded = {"vae_hidden_sizes": settings.coded, "sample_action_num": settings.candidates}
    coded |= {"num_q": settings.critics, "num_qc": settings.critics}
    rates["vae_lr"] = settings.autoencoder_rate
    if name == "bcql":
        return module.BCQLTrainer(module.BCQL(**sizes, **coded), None, logger=Log(), **rates)
    if name == "bearl":
        model = module.BEARL(**sizes, **coded, num_samples_mmd_match=settings.matched, start_update_policy_step=0)
        return module.BEARLTrainer(model, None, logger=Log(), **rates)
    return module.CPQTrainer(module.CPQ(**sizes, **coded), None, logger=Log(), **rates)


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
