"""A zoo for the toy world whose returns are known, and what makes the whole road a matter of a second there."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from safehold.envs.toy import dial
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.offline import bc, cdt
from safehold.learn.offline.bc import BCConfig
from safehold.learn.offline.cdt_network import CDTConfig
from safehold.learn.online.zoo import Evaluation, ZooPolicy, save_zoo
from safehold.workflows import collect, road

EPISODES = 208
CDT = CDTConfig(
    width=16,
    layers=1,
    heads=2,
    context=2,
    dropout=0.0,
    to_go_features=("value", "rate"),
    head="deterministic",
    cost_loss="value",
    sampling="uniform",
    batch_size=64,
    steps=160,
    learning_rate=5e-3,
    warm_up=10,
    gradient_clip=1.0,
)
BC = BCConfig(hidden=(8,), batch_size=64, steps=40, learning_rate=0.05)


def always(reward: float, cost: float) -> ZooPolicy:
    """A behaviour that earns and costs so much an episode, whatever it sees."""
    action = np.array([reward, cost], dtype=np.float32) / dial.HORIZON
    judged = Evaluation(noise=0.0, episodes=1, reward=reward, reward_sd=0.0, cost=cost, cost_sd=0.0)
    return ZooPolicy(
        name=f"reward-{reward:.2f}-cost-{cost:.2f}",
        run="toy",
        limit=None,
        seed=0,
        step=0,
        evaluations=(judged,),
        policy=GaussianPolicy(
            weights=(np.zeros((3, 2), dtype=np.float32),),
            biases=(action,),
            observation_mean=np.zeros(3, dtype=np.float32),
            observation_sd=np.ones(3, dtype=np.float32),
            sd=np.zeros(2, dtype=np.float32),
            action=dial.TASK.spec.action,
        ),
    )


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Behaviours under and on a frontier: the reward that can be had at a cost c is 40 + 1.2 c."""
    path = tmp_path_factory.mktemp("zoo") / "toy" / "Dial"
    policies = [
        always(float(share * (40.0 + 1.2 * cost)), float(cost))
        for cost in np.linspace(0.0, 40.0, 13)
        for share in (0.6, 0.8, 0.9, 1.0)
    ]
    path.parent.mkdir()
    save_zoo(path, env_id="toy/Dial", policies=policies, provenance={})
    return path


@pytest.fixture(scope="module")
def toy_size(zoo: Path) -> Iterator[None]:
    """The zoo is shipped, the preset `small` is tiny, the log is short."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "ZOO", zoo.parent.parent)
        patch.setattr(road, "collect", functools.partial(collect.collect, episodes=EPISODES))
        patch.setattr(road, "TRAINING_THREADS", 1)
        patch.setattr(road, "DIAL_REWARDS", 3)
        patch.setitem(cdt.PRESETS, "small", CDT)
        patch.setitem(bc.PRESETS, "small", BC)
        yield
    torch.set_num_threads(threads)
