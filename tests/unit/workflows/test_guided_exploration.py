"""A guide on the point robot, its student, and a guard that hands over to it: what they cost, at small size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from safehold.core.constraint import Limit
from safehold.core.errors import UsageError
from safehold.core.policy import Actor, Memoryless, Policy
from safehold.deploy.guard import Guard
from safehold.deploy.guarded import GuardedPolicy
from safehold.envs import registry
from safehold.learn.guided.guide import Guide, GuideConfig, load_guide, save_guide
from safehold.learn.guided.handover import Handover, HandoverConfig
from safehold.learn.guided.student import Distillation, StudentConfig
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.sac import SACConfig
from safehold.learn.online.sac_lag import SACLagConfig
from safehold.rollout.episodes import rollout
from safehold.workflows.explore import Exploration, ExploreConfig, OnlineConfig, explore, guide_of

SOURCE, TARGET, LIMIT = "toy/PointRobotGuide", "toy/PointRobot", 5.0
CORE = SACConfig(hidden=(64, 64), batch_size=128, capacity=100_000, gradient_steps=0.25, initial_temperature=0.1)
GUIDES_CORE = CORE.model_copy(update={"initial_temperature": 0.02, "temperature": "fixed"})


def lagged(core: SACConfig) -> SACLagConfig:
    multiplier = MultiplierConfig(initial=0.693, integral_gain=0.03)
    return SACLagConfig(sac=core, multiplier=multiplier, damping=0.0, episodes_per_step=2)


def run(env_id: str, method: OnlineConfig, steps: int) -> Exploration:
    shape = {"environments": 10, "steps_per_batch": 10, "snapshots": 1, "evaluation_episodes": 1}
    return explore(ExploreConfig(env_id=env_id, limit=LIMIT, total_steps=steps, method=method, **shape))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    found = run(SOURCE, GuideConfig(sac_lag=lagged(GUIDES_CORE)), 12_000)
    place = tmp_path_factory.mktemp("guides") / "guide"
    save_guide(place, guide_of(found), registry.spec(TARGET), {})
    return place


def cost(env_id: str, policy: Policy) -> float:
    return float(np.mean([episode.cost_returns[0] for episode in rollout(env_id, policy, range(60), rng_seed=1)]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_guide_is_safe_where_it_learnt_and_where_it_is_taken(trained):
    guide = load_guide(trained)
    assert cost(SOURCE, guide.policy) < LIMIT
    assert cost(TARGET, guide) < LIMIT


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_control_switch_learning_costs_less_than_alone(trained):
    """Not that it stays under the limit: at this size a guide takes about as long as the limit to leave a disc."""

    def behaviour(rule: Handover, distillation: Distillation) -> np.ndarray:
        method = StudentConfig(
            guide=trained, sac_lag=lagged(CORE), distillation=distillation, handover=HandoverConfig(rule=rule)
        )
        return np.array([point.cost for point in run(TARGET, method, 8000).curve])

    guided, alone = behaviour("control_switch", "adaptive"), behaviour("student", "none")
    assert guided.mean() < 0.75 * alone.mean()
    assert alone.mean() > LIMIT


@dataclass(frozen=True)
class ToTheGoal:
    """Straight ahead, whatever is in between."""

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002
        return Memoryless(lambda seen: seen[:, 7:9] / np.abs(seen[:, 7:9]).max(axis=1, keepdims=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_guard_that_hands_over_to_the_guide_costs_less_than_a_reckless_policy(trained):
    guide: Guide = load_guide(trained)
    guard = Guard.start(("cost",), (LIMIT,), (Limit("cost", LIMIT),), {"cost": LIMIT})  # from the first cost on
    guarded = GuardedPolicy(ToTheGoal(), guide, guard, ("cost", "depth"))
    assert cost(TARGET, guarded) < 0.75 * cost(TARGET, ToTheGoal())


def test_only_a_run_of_the_guide_leaves_one():
    small = SACLagConfig(sac=CORE.model_copy(update={"hidden": (8,)}))
    with pytest.raises(UsageError, match="left none"):
        guide_of(run(TARGET, small, 100))
    with pytest.raises(UsageError, match="guide needs a limit"):
        explore(ExploreConfig(env_id=SOURCE, limit=None, method=GuideConfig()))
