import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_log import TWO_COSTS, two_costs
from scipy.stats import mannwhitneyu

from safehold.core.errors import UsageError
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.spec import TaskSpec
from safehold.data.batches import TransitionSampler
from safehold.data.normalise import Normaliser
from safehold.envs.toy import rain
from safehold.learn.actions import Continuous
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.offline.actor_critic import transitions_of
from safehold.learn.offline.implicit_q import Advantages
from safehold.learn.offline.lspc import (
    LSPCConfig,
    LSPCFamily,
    LSPCLearner,
    autoencoder_loss,
    performance_gap,
    safety_weights,
    weighted_error,
)
from safehold.nn.distributions import DiagonalGaussian
from safehold.testing.learner_contract import LearnerContract
from safehold.testing.rain_log import mixed_log, returns_of

TINY = LSPCConfig(hidden=(16, 16), latent=3, batch_size=32, critic_learning_rate=3e-3, learning_rate=3e-3, epsilon=0.5)


def learner(config: LSPCConfig = TINY, seed: int = 0) -> LSPCLearner:
    return LSPCLearner(TWO_COSTS, Normaliser.fit(two_costs().observations), config, seed)


class TestContract(LearnerContract):
    config = TINY
    updates = 60
    loss = "safety_loss"

    def task(self) -> TaskSpec:
        return TWO_COSTS

    def learner(self, seed: int) -> LSPCLearner:
        return learner(self.config, seed)

    def sampler(self) -> TransitionSampler:
        return TransitionSampler(two_costs(), 32)

    def policy(self, learnt: LSPCFamily) -> Policy:
        return learnt.at((0.5,))


class TestSafetyAloneContract(TestContract):
    config = TINY.model_copy(update={"variant": "s"})


class TestLosses:
    def test_safety_weights_are_by_the_sum_of_the_costs_and_none_where_one_is_too_large(self) -> None:
        judged = Advantages(
            advantage=torch.tensor([[9.0, 0.5, -0.2], [9.0, -1.0, 0.0], [9.0, 4.0, 4.0]]),
            value=torch.tensor([[1.0, -0.1, -0.3], [1.0, -0.1, -0.9], [1.0, -5.0, -4.0]]),
        )
        plain = safety_weights(judged, TINY)
        np.testing.assert_allclose(plain, [np.exp(2 * 0.3), np.exp(-2 * 1.0), 200.0], rtol=1e-5)
        # Q_c = -(value + advantage): (-0.4, 0.5), (1.1, 0.9), (1, 0)
        masked = safety_weights(judged, TINY.model_copy(update={"largest_cost": 0.95}))
        np.testing.assert_allclose(masked, [plain[0], 0.0, 0.0])

    def test_the_autoencoders_loss_is_that_of_the_paper(self) -> None:
        rng = np.random.default_rng(3)
        decoded, actions = rng.standard_normal((2, 6, 2))
        mean, log_sd = rng.standard_normal((2, 6, 4))
        weights = rng.random(6)
        by_hand = 0.0
        for b in range(6):
            divergence = -0.5 * np.mean(1 + 2 * log_sd[b] - mean[b] ** 2 - np.exp(log_sd[b]) ** 2)
            by_hand += weights[b] * (np.sum((decoded[b] - actions[b]) ** 2) + 0.7 * divergence) / 6
        code = DiagonalGaussian(torch.from_numpy(mean), torch.from_numpy(log_sd))
        arrays = [torch.from_numpy(array) for array in (decoded, actions, weights)]
        assert autoencoder_loss(arrays[0], code, arrays[1], arrays[2], 0.7).item() == pytest.approx(by_hand)
        by_hand = np.mean(weights * np.sum((decoded - actions) ** 2, axis=1))
        assert weighted_error(*arrays).item() == pytest.approx(by_hand)

    def test_gradients_are_those_of_differences(self) -> None:
        generator = torch.Generator().manual_seed(0)
        decoded, actions, mean, log_sd = (
            torch.randn((4, 3), generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)
        )
        weights = torch.rand(4, generator=generator, dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda d, m, s: autoencoder_loss(d, DiagonalGaussian(m, s), actions.detach(), weights, 0.5),
            (decoded, mean, log_sd),
        )
        assert torch.autograd.gradcheck(lambda d: weighted_error(d, actions.detach(), weights), (decoded,))


def perceptron(tensors: dict[str, torch.Tensor], prefix: str, x: np.ndarray) -> np.ndarray:
    """A rectified perceptron by its weights."""
    places = sorted({int(name.split(".")[-2]) for name in tensors if name.startswith(prefix)})
    for place in places:
        weight, bias = (tensors[f"{prefix}{place}.{kind}"].double().numpy() for kind in ("weight", "bias"))
        x = (x if place == places[0] else np.maximum(x, 0.0)) @ weight.T + bias
    return x


def ensemble(tensors: dict[str, torch.Tensor], prefix: str, x: np.ndarray) -> np.ndarray:
    """All members of an ensemble, a column each."""
    count = sum(name.startswith(f"{prefix}weights.") for name in tensors)
    hidden = x[None]
    for place in range(count):
        weight, bias = (tensors[f"{prefix}{kind}.{place}"].double().numpy() for kind in ("weights", "biases"))
        hidden = (np.maximum(hidden, 0.0) if place else hidden) @ weight + bias
    return hidden[..., 0].T


def test_one_update_is_what_the_formulas_say_of_the_same_weights_and_batch() -> None:
    config = TINY.model_copy(update={"largest_cost": 0.45, "timeouts": "terminal"})
    made = learner(config)
    sampler, rng = TransitionSampler(two_costs(), 32), np.random.default_rng(0)
    for _ in range(40):
        made.update(sampler.sample(rng))
    drawn = sampler.sample(rng)
    before = made.state().tensors
    metrics = made.update(drawn)
    after = made.state().tensors
    data = transitions_of(drawn, Normaliser.fit(two_costs().observations), Continuous(TWO_COSTS.action), config)
    o, a, o2 = (array.double().numpy() for array in (data.observations, data.actions, data.next_observations))
    gains = np.column_stack([drawn.rewards, -drawn.costs])
    ends = drawn.terminated | drawn.timeouts
    cap = np.array([np.inf, 0.0, 0.0])

    def critics(tensors: dict[str, torch.Tensor], name: str) -> np.ndarray:
        return ensemble(tensors, f"parts.{name}.model.ensemble.", np.hstack([o, a])).reshape(32, 2, 3)

    q = np.minimum(critics(before, "slow_critic").min(axis=1), cap)
    u = q - ensemble(before, "parts.value.model.", o)
    assert metrics["value_loss"] == pytest.approx((np.abs(0.7 - (u < 0)) * u**2).sum(axis=1).mean(), rel=1e-4)
    v, v2 = (np.minimum(ensemble(after, "parts.value.model.", x), cap) for x in (o, o2))
    target = gains + 0.99 * np.where(ends, 0.0, 1.0)[:, None] * v2
    error = ((critics(before, "critic") - target[:, None]) ** 2).sum(axis=(1, 2)).mean()
    assert metrics["critic_loss"] == pytest.approx(error, rel=1e-4)

    cost_value, cost_q = -v[:, 1:], -q[:, 1:]
    safe = np.minimum(np.exp(2.0 * (cost_value - cost_q).sum(axis=1)), 200.0)
    safe *= ((cost_value < 0.45) & (cost_q < 0.45)).all(axis=1)
    assert 0.0 < safe.mean() == pytest.approx(metrics["safety_weight"], rel=1e-4)
    noise = torch.Generator()
    noise.set_state(before["generator"])
    draws = [torch.randn((32, 3), generator=noise).double().numpy() for _ in range(2)]
    code = perceptron(before, "parts.autoencoder.model.encoder.", np.hstack([o, a]))
    mean, log_sd = code[:, :3], np.clip(code[:, 3:], -4.0, 15.0)
    z = mean + np.exp(log_sd) * draws[0]
    decoded = np.tanh(perceptron(before, "parts.autoencoder.model.decoder.", np.hstack([o, z])))
    divergence = -0.5 * (1 + 2 * log_sd - mean**2 - np.exp(2 * log_sd)).mean(axis=1)
    loss = (safe * (((decoded - a) ** 2).sum(axis=1) + 0.5 * divergence)).mean()
    assert metrics["safety_loss"] == pytest.approx(loss, rel=1e-4)

    good = np.minimum(np.exp(2.0 * (q - v)[:, 0]), 200.0)
    code = perceptron(before, "parts.latent.model.", o)
    z = 0.5 * np.tanh(code[:, :3] + np.exp(np.clip(code[:, 3:], -10.0, 2.0)) * draws[1])
    decoded = np.tanh(perceptron(after, "parts.autoencoder.model.decoder.", np.hstack([o, z])))
    assert metrics["reward_loss"] == pytest.approx((good * ((decoded - a) ** 2).sum(axis=1)).mean(), rel=1e-4)


class TestFamily:
    def test_has_a_dial_for_the_box(self) -> None:
        family = learner().policy()
        assert isinstance(family, PolicyFamily)
        assert family.target_names == ("epsilon",)
        assert family.usual.epsilon == 0.5
        for target in ((), (0.0,), (-1.0,), (np.nan,), (0.5, 1.0)):
            with pytest.raises(UsageError, match="one finite epsilon > 0"):
                family.at(target)

    @pytest.mark.parametrize("variant", ["s", "o"])
    def test_codes_stay_in_the_box(self, variant: str) -> None:
        family = learner(TINY.model_copy(update={"variant": variant})).policy()
        seen = np.random.default_rng(0).standard_normal((500, 3)).astype(np.float32)
        decoded: list[np.ndarray] = []
        plain = family.reconstructed

        def remembered(observations: np.ndarray, codes: np.ndarray) -> np.ndarray:
            decoded.append(codes)
            return plain(observations, codes)

        family.reconstructed = remembered  # type: ignore[method-assign]
        for epsilon in (0.1, 2.0):
            family.at((epsilon,)).acts(seen, np.random.default_rng(1))
            assert 0.5 * epsilon < np.abs(decoded[-1]).max() <= epsilon

    def test_the_mode_draws_nothing(self) -> None:
        family = learner(TINY.model_copy(update={"codes": "mode"})).policy()
        seen = np.ones((4, 3), dtype=np.float32)
        actions = [family.usual.acts(seen, np.random.default_rng(seed)) for seed in (0, 1)]
        np.testing.assert_array_equal(*actions)
        drawn = learner().policy()
        actions = [drawn.usual.acts(seen, np.random.default_rng(seed)) for seed in (0, 1)]
        assert not np.array_equal(*actions)

    def test_safety_alone_has_no_latent_policy(self) -> None:
        family = learner(TINY.model_copy(update={"variant": "s"})).policy()
        with pytest.raises(UsageError, match='train variant "o"'):
            family.network.latent_policy(torch.zeros(1, 3))

    def test_round_trips_through_a_checkpoint(self, tmp_path) -> None:
        family = learner().policy()
        loaded = LSPCFamily.load(tmp_path / "p", expected_digest=family.save(tmp_path / "p", {}))
        seen = np.ones((3, 3), dtype=np.float32)
        actions = [f.at((0.3,)).acts(seen, np.random.default_rng(0)) for f in (family, loaded)]
        np.testing.assert_array_equal(*actions)


@pytest.fixture(scope="module")
def on_rain() -> LSPCFamily:
    log = mixed_log(100, 0)
    config = LSPCConfig(
        hidden=(64, 64), latent=2, batch_size=128, steps=1000, critic_learning_rate=1e-3, learning_rate=1e-3
    )
    made = LSPCLearner(log.spec, Normaliser.fit(log.observations), config, 0)
    fit(OfflineRun(made, TransitionSampler(log, config.batch_size), np.random.default_rng(0)), steps=config.steps)
    return made.policy()


class TestWhereTheBestIsKnown:
    """LSPC never hears of a limit: it is held to what the best policy obtains at the cost that LSPC's obtains."""

    @pytest.mark.parametrize("epsilon", [0.1, 0.25, 0.75, 1.5, 2.0])
    def test_no_policy_obtains_much_more_at_such_a_cost(self, on_rain: LSPCFamily, epsilon: float) -> None:
        reward, cost = returns_of(on_rain.at((epsilon,)))
        assert reward >= 0.95 * rain.best(cost).reward

    def test_a_wider_box_never_costs_less_and_reaches_from_nothing_to_nearly_all(self, on_rain: LSPCFamily) -> None:
        found = np.array([returns_of(on_rain.at((epsilon,))) for epsilon in (0.1, 0.5, 0.75, 1.0, 1.5, 2.0)])
        assert (np.diff(found, axis=0) >= -0.1).all()
        assert found[0, 1] <= 0.1
        assert found[-1, 0] >= 0.95 * rain.best(1e6).reward

    @pytest.mark.parametrize("limit", [0.1, 2.2, 15.0])
    def test_the_best_box_under_a_limit_is_near_the_best_policy_under_it(
        self, on_rain: LSPCFamily, limit: float
    ) -> None:
        """At limits that a policy which is sure of its action can use up; between them it falls short of mixtures."""
        found = [returns_of(on_rain.at((epsilon,))) for epsilon in np.geomspace(0.05, 3.0, 13)]
        assert max(reward for reward, cost in found if cost <= limit) >= 0.95 * rain.best(limit).reward

    def test_safe_demonstrations_lie_in_the_box_and_unsafe_ones_outside(self, on_rain: LSPCFamily) -> None:
        """Of drivers that nothing was learnt from: braking or not, at speed on a wet road."""
        held = mixed_log(40, 100)
        rows = np.arange(held.n_steps) + np.repeat(np.arange(len(held)), held.lengths)
        seen, choice = held.observations[rows], rain.choices(held.actions[:, 0].astype(np.float64))
        risky = (seen[:, 0] > 0.6) & (seen[:, 1] == 1.0)
        width = np.abs(on_rain.codes_of(seen, held.actions)).max(axis=1)
        braking, keeping, accelerating = (width[risky & (choice == third)] for third in range(3))
        assert (braking <= 0.6).mean() >= 0.95
        assert (accelerating <= 0.6).mean() == 0.0
        unsafe = np.concatenate([keeping, accelerating])
        assert mannwhitneyu(unsafe, braking).statistic / (len(unsafe) * len(braking)) >= 0.9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), near=st.floats(0.0, 1.0))
def test_no_value_is_further_off_than_the_bound_says(seed: int, near: float) -> None:
    """On Rain, exactly: three random habits, one after another drawn nearer to the last."""
    rng = np.random.default_rng(seed)
    best, safe, own = rng.dirichlet(np.ones(3), size=(3, 8))
    safe = near * best + (1.0 - near) * safe
    own = near * safe + (1.0 - near) * own
    discount = 0.9

    def values(chances: np.ndarray) -> np.ndarray:
        step = np.einsum("sc,sct->st", chances, rain.transitions())
        return np.linalg.solve(np.eye(8) - discount * step, step @ rain.signals())

    def divergence(first: np.ndarray, second: np.ndarray) -> float:
        return max(0.0, float(np.max(np.sum(first * np.log(first / second), axis=1))))

    bound = performance_gap(1.0, discount, divergence(own, safe), divergence(safe, best))
    assert np.abs(values(own) - values(best)).max() <= bound + 1e-9
