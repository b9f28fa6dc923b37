"""Soft actor-critic with a price: its losses and gradients against NumPy in double precision, its prices by hand."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from made_up_guide import made_up_guide
from made_up_steps import SPEC, made_up_batch, mean_after_bandits

from safehold.core.constraint import Limit
from safehold.core.errors import UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import Box, TaskSpec
from safehold.learn.guided.guide import GuideNetwork
from safehold.learn.guided.student import StudentConfig, student
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.multiplier_network import MultiplierNetworkConfig
from safehold.learn.online.sac import SACConfig, SACLearner
from safehold.learn.online.sac_lag import SACLagConfig, ScalarPrice, sac_lag
from safehold.learn.online.statewise_lag import StateConstraint, StatePrice, StatewiseLagConfig, statewise_lag
from safehold.learn.transitions import Transitions
from safehold.rollout.steps import FinishedEpisode

CORE = SACConfig(hidden=(5,), batch_size=8, capacity=64, random_steps=0, gradient_steps=1 / 32, initial_temperature=0.3)
"""One gradient step a batch of 32."""
Arrays = Mapping[str, np.ndarray]


def relu_net(parameters: list[np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Layers of weights (in, out) and biases in turn."""
    hidden = inputs
    for place in range(0, len(parameters), 2):
        hidden = (np.maximum(hidden, 0.0) if place else hidden) @ parameters[place] + parameters[place + 1]
    return hidden


def actor_net(state: Arrays, part: str = "actor.model") -> list[np.ndarray]:
    names = [f"parts.{part}.perceptron.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    return [state[name].T for name in names]


def critic_net(state: Arrays, part: str, member: int) -> list[np.ndarray]:
    names = [f"parts.{part}.model.{kind}.{layer}" for layer in (0, 1) for kind in ("weights", "biases")]
    return [state[name][member] for name in names]


def drawn(parameters: list[np.ndarray], observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions, and the logs of their densities by the change of variables as it stands in textbooks."""
    mean, log_sd = np.split(relu_net(parameters, observations), 2, axis=1)
    sd = np.exp(np.clip(log_sd, -20, 2))
    inner = mean + sd * noise
    actions = np.tanh(inner)
    normal = -0.5 * ((inner - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
    return actions, (normal - np.log(1 - actions**2)).sum(axis=1)


class Beside:
    """One gradient step of a learner, and what NumPy needs to compute it too.

    `buffer` names where its steps are, `omega` weighs the entropy beside the temperature.
    """

    def __init__(self, learner: SACLearner, buffer: str = "parts.replay", omega: float = 0.0) -> None:
        self.omega = omega
        learner.update(made_up_batch(0))
        self.before = self._doubles(learner)
        self.alpha = float(np.log1p(np.exp(learner.state().meta["parts"]["temperature"]["theta"])))
        generator = torch.Generator()
        generator.set_state(learner.state().tensors["generator"])
        self.metrics = learner.update(made_up_batch(1))
        self.after = self._doubles(learner)
        rows = torch.randint(64, (8,), generator=generator)  # the draws of an update, in their order
        replay = {name: self.after[f"{buffer}.{name}"][rows.numpy()] for name in ("rewards", "costs", "goes_on")}
        self.observations = self.after[f"{buffer}.observations"][rows.numpy()]
        self.next_observations = self.after[f"{buffer}.next_observations"][rows.numpy()]
        self.actions = self.after[f"{buffer}.actions"][rows.numpy()]
        self.rewards, self.costs, self.goes_on = replay["rewards"], replay["costs"][:, 0], replay["goes_on"]
        self.noises = [torch.randn((8, 2), generator=generator).double().numpy() for _ in range(2)]

    @staticmethod
    def _doubles(learner: SACLearner) -> dict[str, np.ndarray]:
        tensors = learner.state().tensors
        return {name: tensor.double().numpy() for name, tensor in tensors.items() if tensor.is_floating_point()}

    @property
    def temperature(self) -> float:
        return self.alpha + self.omega

    def assert_reward_critics_regress(self, rewards: np.ndarray) -> None:
        """On r + gamma (min Q' - alpha' log pi)."""
        following, log_density = drawn(actor_net(self.before), self.next_observations, self.noises[0])
        slow = [self.critic(self.before, "slow_critics", self.next_observations, following, m) for m in (0, 1)]
        soft = np.minimum(*slow) - self.temperature * log_density
        targets = rewards + 0.99 * self.goes_on * soft
        said = [self.critic(self.before, "critics", self.observations, self.actions, m) for m in (0, 1)]
        expected = sum(0.5 * np.mean((one - targets) ** 2) for one in said)
        assert self.metrics["reward_critic_loss"] == pytest.approx(expected, rel=1e-4)

    def critic(
        self, state: Arrays, part: str, observations: np.ndarray, actions: np.ndarray, member: int
    ) -> np.ndarray:
        return relu_net(critic_net(state, part, member), np.hstack([observations, actions]))[:, 0]

    def gradient_of_the_policy(self) -> list[np.ndarray]:
        """From Adam's first moment: m' = 0.9 m + 0.1 g, as it is kept, (out, in)."""
        found = []
        for i in range(4):
            name = f"parts.actor.optimiser.{i}.exp_avg"
            found.append((self.after[name] - 0.9 * self.before[name]) / 0.1)
        return found


def finite_differences(loss: Callable[[list[np.ndarray]], float], at: list[np.ndarray]) -> list[np.ndarray]:
    found = []
    for place, array in enumerate(at):
        slope = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            shifted = []
            for step in (1e-6, -1e-6):
                moved = [parameter.copy() for parameter in at]
                moved[place][index] += step
                shifted.append(loss(moved))
            slope[index] = (shifted[0] - shifted[1]) / 2e-6
        found.append(slope)
    return found


def scalar_learner(**changes: object) -> SACLearner:
    config = SACLagConfig(
        sac=CORE, multiplier=MultiplierConfig(initial=1.5, integral_gain=0.0), damping=2.0
    ).model_copy(update=changes)
    return sac_lag(SPEC, config, Limit("cost", 0.02), Streams(3))


def test_critics_regress_on_the_targets_of_the_equations():
    beside = Beside(scalar_learner())
    beside.assert_reward_critics_regress(beside.rewards)
    following, _ = drawn(actor_net(beside.before), beside.next_observations, beside.noises[0])
    dear = beside.critic(beside.before, "slow_critics", beside.next_observations, following, 2)
    targets = beside.costs + 0.99 * beside.goes_on * np.maximum(dear, 0.0)
    paid = beside.critic(beside.before, "critics", beside.observations, beside.actions, 2)
    assert beside.metrics["cost_critic_loss"] == pytest.approx(0.5 * np.mean((paid - targets) ** 2), rel=1e-4)


def policy_loss_of(beside: Beside, weights: Callable[[np.ndarray], np.ndarray]) -> Callable[[list[np.ndarray]], float]:
    """The policy's loss as a function of the actor's parameters; `weights` of the critic's values, without gradient."""

    def price_at(parameters: list[np.ndarray]) -> np.ndarray:
        actions, _ = drawn(parameters, beside.observations, beside.noises[1])
        return beside.critic(beside.after, "critics", beside.observations, actions, 2)

    fixed = weights(price_at(actor_net(beside.before)))

    def loss(parameters: list[np.ndarray]) -> float:
        actions, log_density = drawn(parameters, beside.observations, beside.noises[1])
        rewards = [beside.critic(beside.after, "critics", beside.observations, actions, m) for m in (0, 1)]
        plain = beside.temperature * log_density - np.minimum(*rewards)
        return float(np.mean(plain + fixed * price_at(parameters)))

    return loss


def assert_gradient(beside: Beside, loss: Callable[[list[np.ndarray]], float]) -> None:
    expected = finite_differences(loss, actor_net(beside.before))
    for found, slope in zip(beside.gradient_of_the_policy(), expected, strict=True):
        np.testing.assert_allclose(found.T, slope, rtol=2e-3, atol=2e-5)
    assert beside.metrics["policy_loss"] == pytest.approx(loss(actor_net(beside.before)), rel=1e-4)


def test_the_policys_gradient_is_that_of_finite_differences():
    beside = Beside(scalar_learner())
    threshold = 0.02 / (0.01 * SPEC.horizon)
    loss = policy_loss_of(beside, lambda paid: np.maximum(1.5 + 2.0 * (paid.mean() - threshold), 0.0) * np.ones(8))
    assert_gradient(beside, loss)


@pytest.mark.parametrize(
    ("distillation", "reward", "entropy"), [("adaptive", 1.5, 1.5), ("code", 0.16, 0.0), ("none", 0.0, 0.0)]
)
def test_distillation_draws_by_the_guides_densities_and_weighs_the_entropy(distillation, reward, entropy):
    lagged = SACLagConfig(sac=CORE, multiplier=MultiplierConfig(initial=1.5, integral_gain=0.0), damping=0.0)
    guide = made_up_guide(SPEC)
    config = StudentConfig(sac_lag=lagged, distillation=distillation)
    learner = student(SPEC, config, guide, Limit("cost", 0.02), Streams(3))
    beside = Beside(learner, "parts.replay.own", entropy)
    told = (torch.from_numpy(values).float() for values in (beside.observations, beside.actions))
    densities = GuideNetwork(guide).log_density(*told).double().numpy()  # against textbooks in test_guided
    beside.assert_reward_critics_regress(beside.rewards + reward * densities)
    assert_gradient(beside, policy_loss_of(beside, lambda _: np.full(8, 1.5)))


@pytest.mark.parametrize("constraint", ["immediate", "value", "reachability"])
def test_the_policys_gradient_under_a_multiplier_for_every_state(constraint):
    beside = Beside(statewise(constraint))
    field = statewise_price(statewise(constraint)).field()  # unmoved: it is still in its warm-up
    multipliers = field(beside.observations.astype(np.float32))
    assert_gradient(beside, policy_loss_of(beside, lambda _: np.ones(8) if constraint == "immediate" else multipliers))


def statewise(constraint: StateConstraint, **multiplier: object) -> SACLearner:
    network = MultiplierNetworkConfig(hidden=(6,), initial=0.7).model_copy(update=multiplier)
    config = StatewiseLagConfig(sac=CORE, multiplier=network, constraint=constraint)
    kind = "mean" if constraint == "value" else "peak"
    return statewise_lag(SPEC, config, Limit("cost", 0.3, kind), Streams(3))


def statewise_price(learner: SACLearner) -> StatePrice:
    assert isinstance(learner.price, StatePrice)
    return learner.price


def rows(costs: list[float], observations: np.ndarray | None = None) -> Transitions:
    n = len(costs)
    seen = torch.zeros((n, 3)) if observations is None else torch.from_numpy(observations.astype(np.float32))
    return Transitions(
        observations=seen,
        actions=torch.zeros((n, 2)),
        rewards=torch.zeros(n),
        costs=torch.tensor(costs)[:, None],
        next_observations=torch.zeros((n, 3)),
        goes_on=torch.ones(n),
    )


def test_the_slow_copies_follow_and_the_temperature_answers_the_entropy():
    learner = scalar_learner()
    learner.update(made_up_batch(0))
    before, theta = learner.state().tensors, learner.state().meta["parts"]["temperature"]["theta"]
    metrics = learner.update(made_up_batch(1))
    after, then = learner.state().tensors, learner.state().meta["parts"]["temperature"]["theta"]
    for name in before:
        if name.startswith("parts.slow_critics"):
            quick = after[name.replace("slow_", "")]
            torch.testing.assert_close(after[name], torch.lerp(before[name], quick, 0.005))
    too_random = metrics["entropy"] > -2.0  # the target is minus the number of action entries
    assert (then < theta) == too_random


def test_the_damped_price_is_the_multiplier_and_never_a_reward():
    price = scalar_learner().price
    assert isinstance(price, ScalarPrice)
    states = torch.zeros((2, 3))
    threshold = 0.02 / (0.01 * 10)
    for paid in (threshold, threshold + 1.0, -50.0):
        found = float(price.weights(states, torch.full((2,), paid)))
        assert found == pytest.approx(max(1.5 + 2.0 * (paid - threshold), 0.0), abs=1e-6)


def episode(cost: float) -> FinishedEpisode:
    return FinishedEpisode(0.0, np.array([cost]), np.array([cost]), 10)


def test_the_scalar_multiplier_steps_once_for_so_many_episodes():
    config = SACLagConfig(sac=CORE, multiplier=MultiplierConfig(integral_gain=0.1), episodes_per_step=3)
    price = ScalarPrice(SPEC, config, Limit("cost", 2.0))
    said = []
    for cost in (5.0, 6.0, 7.0, 1.0, 1.0, 1.0, 9.0):
        price.finish([episode(cost)])
        said.append(price.improve(rows([0.0]), torch.zeros(1))["multiplier"])
    np.testing.assert_allclose(said, [0.0, 0.0, 0.4, 0.4, 0.4, 0.3, 0.3])
    other = ScalarPrice(SPEC, config, Limit("cost", 2.0))
    other.restore(price.state())
    for one in (price, other):
        one.finish([episode(2.0), episode(2.0)])
    assert price.improve(rows([0.0]), torch.zeros(1)) == other.improve(rows([0.0]), torch.zeros(1))


def test_multipliers_rise_where_the_limit_is_broken_and_fall_where_it_is_not():
    price = statewise_price(statewise("value", warm_up=0, interval=1, learning_rate=0.01))
    here, there = np.array([[2.0, 0.0, 0.0]]), np.array([[-2.0, 0.0, 0.0]])
    both = np.repeat(np.vstack([here, there]), 4, axis=0)
    for _ in range(150):
        price.improve(rows([0.0] * 8, both), torch.tensor([4.0] * 4 + [0.0] * 4))  # the limit is 3 in these units
    field = price.field()
    assert field(here)[0] > 2.0 > 0.7 > 0.35 > field(there)[0]
    with torch.no_grad():
        weights = price.weights(rows([0.0] * 8, both).observations, torch.zeros(8)).numpy()
    np.testing.assert_allclose(field(both), weights, rtol=1e-5)


def test_the_immediate_constraint_looks_at_costs_of_steps_and_prices_them_on_the_way():
    price = statewise_price(statewise("immediate", warm_up=0, interval=1, learning_rate=0.01))
    signal = price.signal(rows([0.0, 1.0, 0.5])).numpy()
    np.testing.assert_allclose(signal, 0.7 * np.array([0.0, 1.0, 0.5]), rtol=0.05)
    metrics = price.improve(rows([0.0, 1.0, 0.2, 0.4]), torch.full((4,), 99.0))
    assert metrics["violated"] == 0.5  # costs over 0.3; the critic is not asked
    for _ in range(50):
        price.improve(rows([0.31] * 4), torch.zeros(4))
    assert price.field()(np.zeros((1, 3)))[0] > 0.7


def test_multipliers_wait_for_the_warm_up_keep_their_interval_and_their_bound():
    price = statewise_price(statewise("value", warm_up=5, interval=3, learning_rate=0.5, largest=2.0))
    said = []
    for _ in range(12):
        price.improve(rows([0.0] * 2), torch.full((2,), 50.0))
        said.append(float(price.field()(np.zeros((1, 3)))[0]))
    changes = np.flatnonzero(np.diff([said[0], *said]))
    assert changes[0] == 5  # the sixth offer: past the warm-up of five, and a multiple of three
    assert set(changes) <= {5, 8, 11}
    assert max(said) == 2.0


def test_begins_with_uniform_actions_and_makes_the_gradient_steps_that_are_due():
    core = CORE.model_copy(update={"random_steps": 64, "gradient_steps": 0.1})
    learner = sac_lag(SPEC, SACLagConfig(sac=core), None, Streams(0))
    observed = np.zeros((2000, 3), np.float32)
    actions = learner.explorer(np.random.default_rng(0)).act(observed)
    assert actions.std(axis=0) == pytest.approx(np.array([2.0, 4.0]) / np.sqrt(12), rel=0.05)
    assert "multiplier" not in learner.update(made_up_batch(0))  # 32 steps: still random
    steps = []
    for seed in range(1, 6):
        learner.update(made_up_batch(seed))
        steps.append(learner.state().meta["parts"]["actor"]["updates"])
    assert steps == [3, 6, 9, 12, 16]  # 3.2 a batch, what is owed is not forgotten
    assert type(learner.explorer(np.random.default_rng(0))).__name__ == "SquashedExplorer"


def test_climbs_the_reward_without_a_limit_and_turns_back_where_cost_outweighs_it():
    core = SACConfig(hidden=(16,), batch_size=32, capacity=10_000, random_steps=64, initial_temperature=0.05)
    dear = SACLagConfig(sac=core, multiplier=MultiplierConfig(initial=5.0), damping=0.0)
    assert mean_after_bandits(sac_lag(SPEC, dear, None, Streams(0)), 60, price=2.0, n=16) > 0.5
    assert mean_after_bandits(sac_lag(SPEC, dear, Limit("cost", 0.1), Streams(0)), 60, price=2.0, n=16) < 0.1


def test_a_limit_of_the_wrong_kind_is_refused():
    with pytest.raises(UsageError, match="takes a limit of kind 'mean'"):
        sac_lag(SPEC, SACLagConfig(sac=CORE), Limit("cost", 1.0, "peak"), Streams(0))
    config = StatewiseLagConfig(sac=CORE, constraint="reachability")
    with pytest.raises(UsageError, match="'reachability' takes a limit of kind 'peak'"):
        statewise_lag(SPEC, config, Limit("cost", 1.0), Streams(0))
    other = TaskSpec(env_id="Other", observation_size=3, action=Box((-1.0,), (1.0,)), horizon=10, cost_names=("heat",))
    with pytest.raises(UsageError, match=r"on one of \('heat',\)"):
        sac_lag(other, SACLagConfig(sac=CORE), Limit("cost", 1.0), Streams(0))
