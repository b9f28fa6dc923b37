"""BCQ-Lag, BEAR-Lag, CPQ and COptiDICE: each loss by hand, each learner resumed, and tried where the best is known."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.policy import Policy
from safehold.core.spec import Box, TaskSpec
from safehold.data.batches import TransitionSampler
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.learn.learner import Learner, State
from safehold.learn.multiplier import LogMultiplier
from safehold.learn.offline import bcq_lag, bear_lag, coptidice, cpq
from safehold.learn.offline.actor_critic import backed_up, critic_loss, least
from safehold.learn.offline.bcq_lag import BCQLagConfig, BCQLagLearner
from safehold.learn.offline.bear_lag import BEARLagConfig, BEARLagLearner, maximum_mean_discrepancy
from safehold.learn.offline.behaviour_model import behaviour_loss
from safehold.learn.offline.coptidice import COptiDICEConfig, COptiDICELearner
from safehold.learn.offline.cpq import CPQConfig, CPQLearner, furthest, penalised, penalised_critic_loss
from safehold.learn.offline.lagrangian import best, lagrangian, mixed
from safehold.learn.transitions import Transitions
from safehold.nn.distributions import DiagonalGaussian
from safehold.testing.learner_contract import LearnerContract

TWO_COSTS = TaskSpec(
    env_id="toy/Two",
    observation_size=3,
    action=Box((-1.0, 0.0), (1.0, 4.0)),
    horizon=12,
    cost_names=("heat", "wear"),
    cost_units=("degrees", "cycles"),
)
LIMITS = {"heat": 2.0, "wear": 10.0}
SMALL = {"hidden": (16, 16), "limits": LIMITS, "batch_size": 32, "steps": 200}
CODED = {**SMALL, "autoencoder_hidden": (16, 16), "candidates": 3}


@cache
def two_costs() -> OfflineDataset:
    """Actions are a function of the observation; two real-valued costs; some episodes end before their clock."""
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((8, 13, 3)).astype(np.float32) + 2.0
    acted = np.tanh(seen[:, :-1, :2] - 2.0).reshape(-1, 2)
    return OfflineDataset(
        spec=TWO_COSTS,
        observations=seen.reshape(-1, 3),
        actions=(acted * [1.0, 2.0] + [0.0, 2.0]).astype(np.float32),
        rewards=rng.standard_normal(96),
        costs=np.column_stack([rng.random(96) < 0.3, rng.random(96) * 5.0]).astype(np.float64),
        offsets=np.arange(0, 97, 12),
        terminated=np.arange(8) % 2 == 0,
    )


def observations() -> Normaliser:
    return Normaliser.fit(two_costs().observations)


class OfFourContract(LearnerContract):
    def task(self) -> TaskSpec:
        return TWO_COSTS

    def sampler(self) -> TransitionSampler:
        return TransitionSampler(two_costs(), 32)

    def policy(self, learnt: Policy) -> Policy:
        return learnt


class TestBCQLag(OfFourContract):
    loss = "critic_loss"

    def learner(self, seed: int) -> BCQLagLearner:
        config = BCQLagConfig(**CODED, acting_candidates=4)
        return BCQLagLearner(TWO_COSTS, observations(), config, seed)


class TestBEARLag(OfFourContract):
    loss = "critic_loss"

    def learner(self, seed: int) -> BEARLagLearner:
        return BEARLagLearner(TWO_COSTS, observations(), BEARLagConfig(**CODED, matched=3), seed)


class TestCPQ(OfFourContract):
    loss = "behaviour_loss"

    def learner(self, seed: int) -> CPQLearner:
        return CPQLearner(TWO_COSTS, observations(), CPQConfig(**CODED), seed)


class TestCOptiDICE(OfFourContract):
    loss = "actor_loss"

    def learner(self, seed: int) -> COptiDICELearner:
        config = COptiDICEConfig(**SMALL, starts=4, actor_learning_rate=3e-3, value_learning_rate=1e-3)
        return COptiDICELearner(TWO_COSTS, observations(), config, seed, two_costs().observations[::13])


FOUR: dict[str, Callable[[int], Learner]] = {
    "bcq-lag": TestBCQLag().learner,
    "bear-lag": TestBEARLag().learner,
    "cpq": TestCPQ().learner,
    "coptidice": TestCOptiDICE().learner,
}


@pytest.mark.parametrize("name", FOUR)
def test_a_saved_policy_acts_the_same(name, tmp_path):
    made = FOUR[name](0)
    made.update(TransitionSampler(two_costs(), 32).sample(np.random.default_rng(0)))
    policy = made.policy()
    policy.save(tmp_path / "policy", {"method": name})
    again = type(policy).load(tmp_path / "policy")
    seen = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
    first, second = (each.start(6, np.random.default_rng(2)).act(seen) for each in (policy, again))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", FOUR)
def test_limits_must_be_those_of_the_task(name):
    kinds = {
        "bcq-lag": (BCQLagLearner, BCQLagConfig),
        "bear-lag": (BEARLagLearner, BEARLagConfig),
        "cpq": (CPQLearner, CPQConfig),
        "coptidice": (COptiDICELearner, COptiDICEConfig),
    }
    learner, config = kinds[name]
    starts = [two_costs().observations[::13]] if name == "coptidice" else []
    with pytest.raises(UsageError, match="give a limit for every cost"):
        learner(TWO_COSTS, observations(), config(limits={"heat": 1.0}), 0, *starts)


@pytest.mark.parametrize("name", FOUR)
def test_a_loss_that_is_not_finite_stops_the_training(name):
    made, data = FOUR[name](0), two_costs()
    batch = TransitionSampler(data, 32).sample(np.random.default_rng(0))
    batch.costs[3, 0] = np.nan
    with pytest.raises(ModelError):
        made.update(batch)


def steps(n: int, rng: np.random.Generator) -> Transitions:
    """Made-up steps with two costs, in float64: what is computed by hand has no other rounding."""
    made = {
        "observations": rng.standard_normal((n, 3)),
        "actions": rng.uniform(-1, 1, (n, 2)),
        "rewards": rng.standard_normal(n),
        "costs": rng.random((n, 2)),
        "next_observations": rng.standard_normal((n, 3)),
        "goes_on": (rng.random(n) < 0.7).astype(float),
    }
    return Transitions(**{name: torch.from_numpy(value) for name, value in made.items()})


def test_the_behaviour_loss_by_hand():
    rng = np.random.default_rng(0)
    decoded, actions, mean, log_sd = (rng.standard_normal((7, width)) for width in (2, 2, 4, 4))
    code = DiagonalGaussian(torch.from_numpy(mean), torch.from_numpy(log_sd))
    found = behaviour_loss(torch.from_numpy(decoded), torch.from_numpy(actions), code, 0.5)
    divergence = -0.5 * (1 + 2 * log_sd - mean**2 - np.exp(2 * log_sd))
    assert found.item() == pytest.approx(((decoded - actions) ** 2).mean() + 0.5 * divergence.mean())


def test_double_critics_are_fitted_to_the_mixture_of_the_best_candidate():
    rng = np.random.default_rng(0)
    batch = steps(5, rng)
    values = rng.standard_normal((5, 6, 4, 3))  # steps, candidates, networks, signals
    expected = np.empty((5, 3))
    for i in range(5):
        for signal in range(3):
            kept = []
            for of in values[i, :, :, signal]:
                first, second = min(of[0], of[1]), min(of[2], of[3])
                kept.append(0.75 * min(first, second) + 0.25 * max(first, second))
            gain = float(batch.rewards[i]) if signal == 0 else float(batch.costs[i, signal - 1])
            expected[i, signal] = gain + 0.9 * float(batch.goes_on[i]) * max(kept)
    found = backed_up(batch, mixed(torch.from_numpy(values), 0.75).amax(dim=1), 0.9)
    np.testing.assert_allclose(found.numpy(), expected)
    said = rng.standard_normal((5, 4, 3))
    loss = critic_loss(torch.from_numpy(said), found).item()
    assert loss == pytest.approx(sum(((said[:, m] - expected) ** 2).mean(axis=0).sum() for m in range(4)))


def test_the_best_candidate_pays_for_its_costs():
    values = torch.tensor([[[3.0, 2.0, 0.0], [2.0, 0.0, 0.0], [2.5, 0.0, 1.0]]])
    assert best(values, torch.tensor([0.0, 0.0])).tolist() == [[3.0, 2.0, 0.0]]
    assert best(values, torch.tensor([1.0, 0.1])).tolist() == [[2.5, 0.0, 1.0]]
    assert best(values, torch.tensor([1.0, 1.0])).tolist() == [[2.0, 0.0, 0.0]]


def test_the_lagrangian_by_hand():
    rng = np.random.default_rng(0)
    values, limits, multipliers = rng.standard_normal((5, 3)), np.array([0.3, 1.2]), np.array([2.0, 0.5])
    found = lagrangian(torch.from_numpy(values), torch.from_numpy(limits), torch.from_numpy(multipliers))
    expected = values[:, 0] - 2.0 * (values[:, 1] - 0.3) - 0.5 * (values[:, 2] - 1.2)
    np.testing.assert_allclose(found.numpy(), expected)


def test_the_discrepancy_of_two_samples_by_hand():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 3, 4, 2))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-((x - y) ** 2).sum() / (2 * 1.7)) for x in a for y in b]))

    pairs = zip(first, second, strict=True)
    expected = [np.sqrt(mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b) + 1e-6) for a, b in pairs]
    found = maximum_mean_discrepancy(torch.from_numpy(first), torch.from_numpy(second), 1.7)
    np.testing.assert_allclose(found.numpy(), expected)
    same = maximum_mean_discrepancy(torch.from_numpy(first), torch.from_numpy(first), 1.7)
    np.testing.assert_allclose(same.numpy(), 1e-3)


def test_what_breaks_a_limit_next_is_worth_nothing():
    rng = np.random.default_rng(0)
    batch, limits = steps(6, rng), np.array([0.6, 0.8])
    values = np.column_stack([rng.standard_normal(6), rng.random((6, 2))])
    expected = np.empty((6, 3))
    for i, (of, goes_on) in enumerate(zip(values, batch.goes_on.tolist(), strict=True)):
        counts = of[0] if of[1] <= 0.6 and of[2] <= 0.8 else 0.0
        expected[i, 0] = float(batch.rewards[i]) + 0.9 * goes_on * counts
        expected[i, 1:] = batch.costs[i].numpy() + 0.9 * goes_on * of[1:]
    found = penalised(batch, torch.from_numpy(values), torch.from_numpy(limits), 0.9)
    np.testing.assert_allclose(found.numpy(), expected)
    assert 0 < (values[:, 1:] <= limits).all(axis=1).sum() < 6


def test_unknown_actions_raise_the_critic_of_costs():
    divergence = torch.tensor([0.1, 3.0, 0.2, 0.3, 0.4, 2.0, 0.0, 0.6])
    assert furthest(divergence, 0.25).tolist() == [False, True, False, False, False, True, False, False]
    said, wanted = torch.zeros(4, 2, 3), torch.ones(4, 3)
    unknown, wished, alpha = (torch.tensor(each) for each in ([1.0, 4.0], [1.5, 1.5], [2.0, 0.1]))
    unknown.requires_grad_()
    loss = penalised_critic_loss(said, wanted, unknown, wished, alpha)
    assert loss.item() == pytest.approx(6.0 - (2.0 * (1.0 - 1.5) + 0.1 * (4.0 - 1.5)))
    torch.autograd.backward(loss)
    np.testing.assert_allclose(unknown.grad, [-2.0, -0.1])  # descent raises what is said of unknown actions


def test_a_critic_learns_from_unknown_actions_unless_it_is_to_be_osrls():
    """Of two learners that differ in nothing else."""
    critics = []
    for gradient in ("critic", "osrl"):
        made = CPQLearner(TWO_COSTS, observations(), CPQConfig(**CODED, unknown_gradient=gradient), 0)
        rng = np.random.default_rng(0)
        for _ in range(40):
            made.update(TransitionSampler(two_costs(), 32).sample(rng))
        critics.append(made.state().tensors["parts.critics.model.ensemble.biases.2"])
    costs = [1, 2, 4, 5]
    assert (critics[0][costs] > critics[1][costs]).all()


def test_a_log_multiplier_climbs_in_its_logarithm_and_stops():
    made = LogMultiplier(2, 0.5)
    made.rise(torch.tensor([1.0, -2.0]))
    np.testing.assert_allclose(made.values, np.exp([0.5, -1.0]), rtol=1e-6)
    made.rise(torch.tensor([1.0, 0.0]))
    np.testing.assert_allclose(made.values, np.exp([0.5 + 0.5 * np.exp(0.5), -1.0]), rtol=1e-6)
    again = LogMultiplier(2, 0.5)
    again.restore(made.state())
    made.rise(torch.tensor([1e6, -1e6]))
    np.testing.assert_allclose(made.values, np.exp([5.0, -5.0]), rtol=1e-6)
    assert again.values[0] < made.values[0]
    with pytest.raises(ModelError, match="finite"):
        made.rise(torch.tensor([float("nan"), 0.0]))
    with pytest.raises(DataError):
        again.restore(State({}))


def soft_chi_square(w: float) -> float:
    return w * np.log(w) - w + 1 if w < 1 else 0.5 * (w - 1) ** 2


def test_the_correction_is_the_best_weight():
    """w = argmax over w >= 0 of w e - alpha f(w), found on a grid."""
    grid = np.linspace(1e-6, 6.0, 60_001)
    errors = np.array([-3.0, -0.7, 0.0, 0.4, 2.0])
    values = [[w * e - 0.5 * soft_chi_square(w) for w in grid] for e in errors]
    best = grid[np.argmax(values, axis=1)]
    np.testing.assert_allclose(coptidice.correction(torch.from_numpy(errors), 0.5).numpy(), best, atol=2e-4)
    some = torch.tensor([0.2, 0.999, 1.0, 3.0], dtype=torch.float64)
    expected = [soft_chi_square(w) for w in some.tolist()]
    np.testing.assert_allclose(coptidice.soft_chi_square(some).numpy(), expected, atol=1e-9)


def test_nus_loss_by_hand_and_its_slope_is_that_of_the_flow():
    """At the best weights the slope in nu is (1 - gamma) at the start plus the weighted flow: w's own slope is nil."""
    rng = np.random.default_rng(0)
    batch = steps(6, rng)
    nu = torch.from_numpy(rng.standard_normal(13)).requires_grad_()
    here, there, first = nu[:6], nu[6:12], nu[12:]
    error = coptidice.advantage(batch, here, there, torch.tensor([0.3, 0.1], dtype=torch.float64), 0.9)
    r, c, goes_on = batch.rewards.numpy(), batch.costs.numpy(), batch.goes_on.numpy()
    values = nu.detach().numpy()
    expected = r - 0.3 * c[:, 0] - 0.1 * c[:, 1] + 0.9 * goes_on * values[6:12] - values[:6]
    np.testing.assert_allclose(error.detach().numpy(), expected)
    weights = coptidice.correction(error, 0.5)
    w = weights.detach().numpy()
    loss = coptidice.nu_loss(first, weights, error, 0.5, 0.9)
    hand = 0.1 * values[12] + np.mean([wi * e - 0.5 * soft_chi_square(wi) for wi, e in zip(w, expected, strict=True)])
    assert loss.item() == pytest.approx(hand)
    torch.autograd.backward(loss)
    np.testing.assert_allclose(nu.grad.numpy(), np.concatenate([-w / 6, 0.9 * goes_on * w / 6, [0.1]]), atol=1e-9)


def test_the_cost_bound_is_the_worst_reweighting_within_its_divergence():
    """The least over tau of the bound equals the most that weights of a mean of 1 can make of the surplus."""
    rng = np.random.default_rng(0)
    surplus, epsilon = rng.standard_normal(9), 0.05
    taus = torch.linspace(0.05, 20.0, 20_000, dtype=torch.float64)
    spread = torch.from_numpy(surplus)[:, None].expand(9, len(taus))
    bounds = coptidice.upper_bound(spread, taus, epsilon)
    tau = taus[bounds.argmin()]
    weights = coptidice.tilt(torch.from_numpy(surplus)[:, None], tau[None])[:, 0].numpy()
    assert weights.mean() == pytest.approx(1.0)
    assert np.mean(weights * np.log(weights)) == pytest.approx(epsilon, abs=1e-3)
    assert bounds.min().item() == pytest.approx(np.mean(weights * surplus), abs=1e-4)
    for _ in range(200):  # no other weights within the divergence make more of it
        other = weights * np.exp(0.3 * rng.standard_normal(9))
        other /= other.mean()
        if np.mean(other * np.log(other)) <= epsilon:
            assert np.mean(other * surplus) <= bounds.min().item() + 1e-4


def test_a_costs_surplus_by_hand():
    rng = np.random.default_rng(0)
    batch = steps(4, rng)
    weights, here, there, first = rng.random(4), *rng.standard_normal((3, 4, 2))
    found = coptidice.cost_surplus(batch, *(torch.from_numpy(each) for each in (weights, here, there, first)), 0.9)
    flow = batch.costs.numpy() + 0.9 * batch.goes_on.numpy()[:, None] * there - here
    np.testing.assert_allclose(found.numpy(), 0.1 * first + weights[:, None] * flow)


def test_a_steps_limit_is_the_critics_times_what_is_left_of_the_discount():
    config = COptiDICEConfig(limits=LIMITS, discount=0.9)
    np.testing.assert_allclose(coptidice.step_limits(TWO_COSTS, config), [2.0 / 12, 10.0 / 12])


def test_weighted_cloning_by_hand():
    rng = np.random.default_rng(0)
    mean, log_sd, actions = rng.standard_normal((3, 5, 2))
    weights = rng.random(5)
    actor = DiagonalGaussian(torch.from_numpy(mean), torch.from_numpy(log_sd))
    density = -0.5 * ((actions - mean) / np.exp(log_sd)) ** 2 - log_sd - 0.5 * np.log(2 * np.pi)
    found = coptidice.weighted_cloning(actor, torch.from_numpy(actions), torch.from_numpy(weights))
    assert found.item() == pytest.approx(-np.mean(weights * density.sum(axis=1)))


def test_the_presets_are_osrls_published_settings():
    """As in examples/configs of OSRL, commit 03a4586."""
    common = {"hidden": (256, 256), "discount": 0.99, "timeouts": "terminal", "batch_size": 512, "reward_scale": 0.1}
    coded = {**common, "autoencoder_hidden": (400, 400), "divergence_weight": 0.5, "autoencoder_learning_rate": 1e-3}
    coded |= {"target_rate": 0.005, "critics": 2, "candidates": 10, "critic_learning_rate": 1e-3}
    double = {**coded, "least_share": 0.75, "choice": "largest", "actor_learning_rate": 1e-3}
    gains = (0.1, 0.003, 0.001)
    published = {
        bcq_lag: {**double, "reach": 0.05, "acting_candidates": 1, "steps": 100_000},
        bear_lag: {**double, "matched": 10, "kernel_width": 50.0, "discrepancy": 0.05, "dual_learning_rate": 1e-3}
        | {"steps": 300_000},
        cpq: {**coded, "unknown_share": 0.25, "unknown_cost": 1.5, "dual_learning_rate": 1e-4}
        | {"actor_learning_rate": 1e-4, "steps": 100_000},
        coptidice: {**common, "divergence_weight": 0.5, "value_networks": 2, "cost_divergence": 0.01, "smoothing": 0.1}
        | {"actor_learning_rate": 1e-4, "value_learning_rate": 1e-4, "scalar_learning_rate": 1e-4, "steps": 100_000},
    }
    for module, expected in published.items():
        preset = module.PRESETS["published"].model_dump()
        assert {name: preset[name] for name in expected} == expected
        if "multiplier" in preset:
            found = preset["multiplier"]
            assert (found["proportional_gain"], found["integral_gain"], found["derivative_gain"]) == gains


def test_the_critic_of_a_signal_is_its_smallest_network():
    values = torch.tensor([[[1.0, 5.0], [2.0, 3.0]]])
    assert least(values).tolist() == [[1.0, 3.0]]
