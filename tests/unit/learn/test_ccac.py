from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_log import TWO_COSTS, two_costs
from pydantic import ValidationError

from safehold.core.policy import Policy, PolicyFamily
from safehold.core.spec import TaskSpec
from safehold.data.batches import TransitionSampler
from safehold.data.normalise import Normaliser
from safehold.envs.toy import rain
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.learner import Learner
from safehold.learn.offline.actor_critic import backed_up, critic_loss, transitions_of
from safehold.learn.offline.behaviour_model import behaviour_loss
from safehold.learn.offline.ccac import (
    CCACConfig,
    CCACFamily,
    CCACLearner,
    Multipliers,
    classifier_loss,
    masked_mean,
    priced_excess,
    spends_more,
    with_thresholds,
)
from safehold.learn.transitions import Transitions
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.ensemble import Critics
from safehold.rollout.episodes import rollout
from safehold.testing.learner_contract import LearnerContract
from safehold.testing.rain_log import mixed_log

TINY = CCACConfig(
    hidden=(16, 16),
    side_hidden=(16, 16),
    latent=3,
    critics=2,
    batch_size=32,
    actor_learning_rate=1e-3,
    multiplier_learning_rate=1e-3,
    critic_learning_rate=3e-3,
)


def learner(seed: int = 0, config: CCACConfig = TINY) -> CCACLearner:
    return CCACLearner(TWO_COSTS, Normaliser.fit(with_thresholds(two_costs(), config).observations), config, seed)


def sampler(config: CCACConfig = TINY) -> TransitionSampler:
    return TransitionSampler(with_thresholds(two_costs(), config), 32)


class TestContract(LearnerContract):
    updates = 60
    loss = "critic_loss"

    def task(self) -> TaskSpec:
        return TWO_COSTS

    def learner(self, seed: int) -> Learner:
        return learner(seed)

    def sampler(self) -> TransitionSampler:
        return sampler()

    def policy(self, learnt: CCACFamily) -> Policy:
        return learnt.at((3.0, 1.0))


@pytest.mark.parametrize(("thresholds", "discount"), [("discounted", 0.99), ("sum", 1.0)])
def test_a_threshold_is_what_the_rest_of_the_episode_costs(thresholds: str, discount: float) -> None:
    log = two_costs()
    shown = with_thresholds(log, TINY.model_copy(update={"thresholds": thresholds}))
    assert shown.spec.observation_size == log.spec.observation_size + 2
    for before, after in zip(log, shown, strict=True):
        np.testing.assert_array_equal(after.observations[:, :3], before.observations)
        for step in range(len(before)):
            rest = before.costs[step:]
            by_hand = (discount ** np.arange(len(rest))) @ rest
            np.testing.assert_allclose(after.observations[step, 3:], by_hand, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(after.observations[-1, 3:], 0.0)


def test_steps_of_larger_thresholds_are_labelled_cost_by_cost() -> None:
    found = spends_more(torch.tensor([[1.0, 5.0], [2.0, 1.0], [3.0, 5.0]]), torch.tensor([2.0, 4.0]))
    assert found.tolist() == [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_the_classifiers_loss_is_the_likelihood_of_its_labels() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 2)), (rng.random((7, 2)) < 0.5).astype(float)
    chance = 1.0 / (1.0 + np.exp(-logits))
    by_hand = -np.sum(labels * np.log(chance) + (1.0 - labels) * np.log(1.0 - chance)) / 7
    assert classifier_loss(torch.from_numpy(logits), torch.from_numpy(labels)).item() == pytest.approx(by_hand)


class TestPricedExcess:
    rng = np.random.default_rng(1)
    costs, thresholds, multipliers = rng.random((3, 6, 2))
    mask = np.array([[1, 0], [0, 0], [1, 0], [1, 0], [0, 0], [1, 0]], dtype=bool)

    def found(self, costs: np.ndarray, multipliers: np.ndarray) -> float:
        arrays = (torch.from_numpy(each) for each in (costs, self.thresholds, multipliers, self.mask))
        return priced_excess(*arrays).item()

    def test_is_the_mean_over_marked_rows_and_0_without_one(self) -> None:
        rows = [0, 2, 3, 5]
        by_hand = np.mean([self.multipliers[i, 0] * (self.costs[i, 0] - self.thresholds[i, 0]) for i in rows])
        assert self.found(self.costs, self.multipliers) == pytest.approx(by_hand)
        nothing = torch.zeros((0, 2))
        assert priced_excess(nothing, nothing, nothing, nothing.bool()).item() == 0.0
        assert masked_mean(torch.ones(3, 2), torch.tensor([[True, False]] * 3)).tolist() == [1.0, 0.0]

    def test_slopes_are_those_of_finite_differences(self) -> None:
        costs, multipliers = (torch.from_numpy(each).requires_grad_() for each in (self.costs, self.multipliers))
        loss = priced_excess(costs, torch.from_numpy(self.thresholds), multipliers, torch.from_numpy(self.mask))
        by_cost, by_multiplier = torch.autograd.grad(loss, (costs, multipliers))
        for place in ((0, 0), (1, 0), (2, 0), (3, 1)):
            moved = np.zeros((6, 2))
            moved[place] = 1e-6
            rise = self.found(self.costs + moved, self.multipliers) - self.found(self.costs - moved, self.multipliers)
            assert by_cost[place].item() == pytest.approx(rise / 2e-6, abs=1e-8)
            rise = self.found(self.costs, self.multipliers + moved) - self.found(self.costs, self.multipliers - moved)
            assert by_multiplier[place].item() == pytest.approx(rise / 2e-6, abs=1e-8)


def test_multipliers_rise_where_a_threshold_is_broken_and_fall_where_it_is_kept() -> None:
    made = learner(config=TINY.model_copy(update={"multiplier_decay": 0.0, "multiplier_learning_rate": 1e-2}))
    told = torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).repeat(8, 1)
    costs = torch.tensor([[5.0, 0.0], [0.0, 0.0]]).repeat(8, 1)
    thresholds, every = torch.ones(16, 2), torch.ones(16, 2, dtype=torch.bool)
    before = made._prices.network(told).detach()
    for _ in range(30):
        made._prices.descend(-priced_excess(costs, thresholds, made._prices.network(told), every))
    rise = (made._prices.network(told) - before).detach()
    assert (rise[0::2, 0] > 0.1).all()
    assert (rise[1::2, 0] < -0.1).all()
    assert (rise[:, 1] < -0.1).all()


def test_multipliers_stay_between_their_bounds() -> None:
    network = Multipliers(2, TINY)
    with torch.no_grad():
        network.perceptron[-1].bias.copy_(torch.tensor([1e4, -1e4]))
    said = network(torch.zeros(1, 2))
    np.testing.assert_allclose(said.detach().numpy(), [np.exp([5.0, -20.0])], rtol=1e-2)
    (slope,) = torch.autograd.grad(said[0, 0], [network.perceptron[-1].bias])
    assert slope[0].item() == pytest.approx(np.exp(5.0), rel=1e-2)  # so that it can come back


class TestThresholdsOfOthers:
    def test_fall_by_what_the_step_cost_and_never_below_nothing(self) -> None:
        made = learner()
        drawn = sampler().sample(np.random.default_rng(0))
        batch = transitions_of(drawn, made._observations, made._code, TINY)
        again = made._reshown(batch)
        own, shown, then = (
            made._told(rows)[1] for rows in (batch.observations, again.observations, again.next_observations)
        )
        torch.testing.assert_close(shown.sort(dim=0).values, own.sort(dim=0).values)
        left = (shown - batch.costs).clamp(min=0.0) / TINY.discount
        torch.testing.assert_close(then, left, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again.observations[:, :3], batch.observations[:, :3])

    def test_of_a_steps_own_follow_the_log(self) -> None:
        made = learner()
        batch = transitions_of(sampler().sample(np.random.default_rng(0)), made._observations, made._code, TINY)
        now, then = (made._told(rows)[1] for rows in (batch.observations, batch.next_observations))
        torch.testing.assert_close(now, batch.costs + TINY.discount * then, atol=1e-4, rtol=1e-4)


def test_a_warm_up_that_leaves_no_step_is_refused() -> None:
    with pytest.raises(ValidationError, match="leaves nothing of 5 steps"):
        CCACConfig(warm_up=5, steps=5)


def test_nothing_but_generator_and_classifier_learns_in_the_warm_up() -> None:
    made = learner(config=TINY.model_copy(update={"warm_up": 2}))
    rng, before = np.random.default_rng(0), made.state()
    metrics = [made.update(sampler().sample(rng)) for _ in range(2)][-1]
    assert set(metrics) == {"generator_loss", "classifier_loss"}
    after = made.state()
    moved = {
        name.split(".")[1]
        for name in before.tensors
        if name.startswith("parts.")
        and ".model." in name
        and not torch.equal(before.tensors[name], after.tensors[name])
    }
    assert moved == {"generator", "classifier"}
    assert "actor_loss" in made.update(sampler().sample(rng))


class TestFamily:
    def test_has_a_dial_for_every_limit(self) -> None:
        family = learner().policy()
        assert isinstance(family, PolicyFamily)
        assert family.target_names == ("heat", "wear")

    @pytest.mark.parametrize("thresholds", ["discounted", "sum"])
    def test_tells_the_actor_what_is_left_as_the_logs_thresholds_count_it(self, thresholds: str) -> None:
        family, told = learner(config=TINY.model_copy(update={"thresholds": thresholds})).policy(), []

        def listening(_: np.ndarray, budgets: np.ndarray) -> np.ndarray:
            told.append(budgets)
            return np.zeros((1, 2))

        family.choose = listening  # type: ignore[method-assign]
        actor = family.at((5.0, 4.0)).start(1, np.random.default_rng(0))
        for cost in ([2.0, 5.0], [0.0, 0.0]):
            actor.act(np.zeros((1, 3), dtype=np.float32))
            actor.observe(np.zeros((1, 2)), np.zeros(1), np.array([cost]))
        spread = (
            [sum(0.99**t for t in range(steps)) / steps for steps in (12, 11)] if thresholds == "discounted" else [1, 1]
        )
        np.testing.assert_allclose(np.concatenate(told), np.array([[5.0, 4.0], [3.0, 0.0]]) * np.array(spread)[:, None])

    def test_round_trips_through_a_checkpoint(self, tmp_path: Path) -> None:
        family = learner().policy()
        loaded = CCACFamily.load(tmp_path / "p", expected_digest=family.save(tmp_path / "p", {}))
        seen = np.ones((3, 3), dtype=np.float32)
        actions = [f.at((3.0, 1.0)).start(3, np.random.default_rng(0)).act(seen) for f in (family, loaded)]
        np.testing.assert_array_equal(*actions)


def test_an_update_is_that_of_numpy_on_the_same_weights_batch_and_noise() -> None:
    """Critics' targets, losses of critics and actor, and shares of doubted pairs, with all products taken in numpy."""
    config = TINY.model_copy(update={"shown": "hindsight"})
    made = learner(config=config)
    batch = transitions_of(sampler(config).sample(np.random.default_rng(3)), made._observations, made._code, config)
    twin = learner(config=config)
    twin.restore(made.state())
    metrics = made._improve(batch)
    told, thresholds = twin._told(batch.observations)
    twin._model(batch, told, thresholds)  # draws the same noise, and moves the generator as in the first
    actor, classifier = (layers(part.network) for part in (twin._actor, twin._classifier))
    rows, after, costs = batch.observations.numpy(), batch.next_observations.numpy(), batch.costs.numpy()
    codes = torch.randn(32, 3, generator=twin._generator).numpy().clip(-1.0, 1.0)
    drawn = product(layers(twin._generates.network.decoder), np.concatenate([told.numpy(), codes], axis=1))
    pairs = np.concatenate([drawn[:, :3].clip(-10.0, 10.0), drawn[:, 3:].clip(-1.0, 1.0)], axis=1)
    beyond = product(classifier, np.concatenate([pairs, told.numpy()], axis=1)) > 0.0
    np.testing.assert_allclose([metrics["doubted.heat"], metrics["doubted.wear"]], beyond.mean(axis=0), atol=1e-6)

    def acts(seen: np.ndarray) -> np.ndarray:
        mean, log_sd = np.split(product(actor, seen), 2, axis=1)
        noise = torch.randn(mean.shape, generator=twin._generator).numpy()
        return np.tanh(mean + noise * np.exp(log_sd.clip(-20.0, 2.0)))

    members = critics_of(twin._slow_critics.network)
    following = judged_by_hand(values_of(members, after, acts(after)))
    signals = np.column_stack([batch.rewards.numpy(), costs])
    wanted = signals + 0.99 * batch.goes_on.numpy()[:, None] * following
    errors = ((values_of(members, rows, batch.actions.numpy()) - wanted[:, None]) ** 2).sum(axis=(1, 2)).mean()
    some = beyond.any(axis=1)
    said = values_of(members, np.concatenate([pairs[some, :3], told.numpy()[some]], axis=1), pairs[some, 3:]).min(
        axis=1
    )
    weights = np.exp(product(layers(twin._doubts.network.perceptron), told.numpy()[some]))
    excess = weights * (said[:, 1:] - thresholds.numpy()[some]) * beyond[some]
    doubt = (excess.sum(axis=0) / np.maximum(1, beyond.sum(axis=0))).sum()
    assert some.any()
    assert metrics["critic_loss"] == pytest.approx(errors - doubt, rel=1e-3)
    # the actor is judged by the critics after their step
    members = critics_of(made._critics.network)
    values = judged_by_hand(values_of(members, rows, acts(rows)))
    prices = np.exp(product(layers(twin._prices.network.perceptron), told.numpy()))
    loss = (prices * (values[:, 1:] - thresholds.numpy())).mean(axis=0).sum() - values[:, 0].mean()
    assert metrics["actor_loss"] == pytest.approx(loss, rel=1e-3)


def judged_by_hand(said: np.ndarray) -> np.ndarray:
    """The smallest of the members; costs at least 0."""
    return np.maximum(said.min(axis=1), [-np.inf, 0.0, 0.0])


def layers(network: torch.nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    found = [each for each in network.modules() if isinstance(each, torch.nn.Linear)]
    return [(each.weight.detach().numpy().copy(), each.bias.detach().numpy().copy()) for each in found]


def product(weights: list[tuple[np.ndarray, np.ndarray]], rows: np.ndarray) -> np.ndarray:
    for place, (weight, bias) in enumerate(weights):
        rows = (np.maximum(rows, 0.0) if place else rows) @ weight.T + bias
    return rows


def critics_of(critics: Critics) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Each member and signal by itself, members outermost."""
    ensemble = critics.ensemble
    stacked = list(zip(ensemble.weights, ensemble.biases, strict=True))
    count = len(ensemble.biases[0])
    return [
        [(w[n].detach().numpy().T.copy(), b[n, 0].detach().numpy().copy()) for w, b in stacked] for n in range(count)
    ]


def values_of(members: list, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
    said = [product(one, np.concatenate([rows, actions], axis=1))[:, 0] for one in members]
    return np.stack(said, axis=1).reshape(len(rows), 2, -1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_training_heeds_many_limits_where_the_best_is_known() -> None:
    """On toy/Rain dearer limits buy more, near the best for what they cost; small costs are overestimated.

    After so few updates it stays well under these limits, so 95 % of the best under them is not reached; the tightest
    ones, below 1, it breaks.
    """
    log = mixed_log(200, 0)
    config = CCACConfig(
        hidden=(32, 32),
        side_hidden=(32, 32),
        latent=4,
        critics=2,
        discount=0.9,
        batch_size=128,
        target_rate=0.1,
        actor_learning_rate=1e-3,
        critic_learning_rate=3e-3,
        side_learning_rate=3e-3,
        warm_up=100,
    )
    shown = with_thresholds(log, config)
    made = CCACLearner(log.spec, Normaliser.fit(shown.observations), config, 0)
    fit(OfflineRun(made, TransitionSampler(shown, 128), np.random.default_rng(0)), steps=2400)
    found = []
    for limit in (2.2, 4.0, 6.0, 9.0):
        episodes = rollout("toy/Rain", made.policy().at((limit,)), range(40), rng_seed=0)
        costs = np.array([episode.cost_returns[0] for episode in episodes])
        reward = float(np.mean([episode.reward_return for episode in episodes]))
        assert costs.mean() <= limit + costs.std(ddof=1) / np.sqrt(len(costs))
        assert reward >= 0.65 * rain.best(limit).reward
        assert reward >= 0.75 * rain.best(float(costs.mean())).reward
        found.append((costs.mean(), reward))
    assert (np.diff(found, axis=0) > 0.0).all()


def test_a_log_without_costs_is_no_trouble() -> None:
    free = replace(two_costs(), costs=np.zeros_like(two_costs().costs))
    log = with_thresholds(free, TINY)
    made = CCACLearner(TWO_COSTS, Normaliser.fit(log.observations), TINY, 0)
    metrics = made.update(TransitionSampler(log, 32).sample(np.random.default_rng(0)))
    assert metrics["threshold.heat"] == 0.0


class TestBesideTheAuthors:
    """Our losses on what the authors' networks answered to one batch (`ccac_authors.py`): the losses of their step."""

    @pytest.fixture
    def theirs(self) -> dict[str, torch.Tensor]:
        with np.load(Path(__file__).parents[2] / "data" / "ccac-authors.npz") as kept:
            return {name: torch.from_numpy(kept[name]) for name in kept}

    def test_generator_and_classifier(self, theirs: dict[str, torch.Tensor]) -> None:
        pairs = torch.cat([theirs["input/observations"], theirs["input/actions"]], dim=1)
        code = DiagonalGaussian(theirs["cvae/0/1"], theirs["cvae/0/2"].log())
        loss = behaviour_loss(theirs["cvae/0/0"], pairs, code, 0.5)
        assert loss.item() == pytest.approx(theirs["loss/loss_vae"].item(), rel=1e-5)
        thresholds = theirs["input/cost_thresholds"][:, None]
        labels = spends_more(thresholds, thresholds[0]).repeat(2, 1)
        logits = torch.logit(theirs["classifier/0/0"].double())[:, None]
        by_labels = classifier_loss(logits, labels.double())
        assert by_labels.item() == pytest.approx(theirs["loss/loss_class"].item(), rel=1e-4)

    def test_critics_and_their_multipliers(self, theirs: dict[str, torch.Tensor]) -> None:
        """The reward's and the cost's losses add up to ours, which is of both."""
        batch = Transitions(
            observations=theirs["input/observations"],
            actions=theirs["input/actions"],
            rewards=theirs["input/rewards"],
            costs=theirs["input/costs"][:, None],
            next_observations=theirs["input/next_observations"],
            goes_on=1.0 - theirs["input/done"],
        )
        following = torch.stack([theirs["critic_old/0/0"], theirs["cost_critic_old/0/0"]], dim=1)
        said = torch.stack([theirs["critic/0/1"], theirs["cost_critic/0/1"]], dim=-1).transpose(0, 1)
        beyond = theirs["classifier/1/0"] > 0.705
        assert 0 < beyond.sum() < len(beyond)
        costs, every = theirs["cost_critic/1/0"][:, None], torch.ones(int(beyond.sum()), 1, dtype=torch.bool)
        thresholds, weights = theirs["input/cost_thresholds"][beyond][:, None], theirs["qc_lag/0/0"].exp()
        excess = priced_excess(costs, thresholds, weights, every)
        loss = critic_loss(said, backed_up(batch, following, 0.99)) - excess
        both = theirs["loss/critic_loss"] + theirs["loss/cost_critic_loss"]
        assert loss.item() == pytest.approx(both.item(), rel=1e-5)
        by_multipliers = excess + 0.01 * theirs["size/qc_lag"]
        assert by_multipliers.item() == pytest.approx(theirs["loss/loss_qc_lag"].item(), rel=1e-5)

    def test_actor_and_its_multipliers(self, theirs: dict[str, torch.Tensor]) -> None:
        thresholds, costs = theirs["input/cost_thresholds"][:, None], theirs["cost_critic/2/0"][:, None]
        excess = priced_excess(costs, thresholds, theirs["actor_lag/0/0"].exp(), torch.ones_like(costs).bool())
        loss = excess - theirs["critic/1/0"].mean()
        assert loss.item() == pytest.approx(theirs["loss/actor_loss"].item(), rel=1e-5)
        by_multipliers = 0.01 * theirs["size/actor_lag"] - excess
        assert by_multipliers.item() == pytest.approx(theirs["loss/loss_actor_lag"].item(), rel=1e-5)
