import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import norm, spearmanr

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.spec import Box, TaskSpec
from safehold.data.batches import SequenceBatch, SequenceSampler
from safehold.data.dataset import OfflineDataset
from safehold.learn.checkpoint import load_checkpoint, save_checkpoint
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.learner import State
from safehold.learn.offline.cdt import (
    PRESETS,
    CDTLearner,
    action_losses,
    cost_cross_entropy,
    squared_error,
)
from safehold.learn.offline.cdt_network import CDTConfig, Inputs
from safehold.learn.offline.cdt_policy import CDTPolicyFamily
from safehold.learn.offline.dial import windows
from safehold.learn.offline.scales import Scales, ToGoEncoder
from safehold.nn.distributions import DiagonalGaussian
from safehold.testing.learner_contract import LearnerContract, assert_equal_states

TINY = CDTConfig(
    width=16,
    layers=2,
    heads=2,
    context=4,
    batch_size=16,
    steps=40,
    learning_rate=3e-3,
    final_learning_rate=1e-3,
    warm_up=5,
    gradient_clip=1.0,
    to_go_features=("value", "root", "rate"),
    observation_loss_weight=0.1,
)
TWO_COSTS = TaskSpec(
    env_id="toy/Two",
    observation_size=3,
    action=Box((-1.0, 0.0), (1.0, 4.0)),
    horizon=12,
    cost_names=("heat", "wear"),
    cost_units=("degrees", "cycles"),
)


@cache
def two_costs() -> OfflineDataset:
    """Episodes of several lengths, two real-valued costs, actions a function of the observation."""
    rng = np.random.default_rng(0)
    lengths = np.array([12, 5, 12, 1, 9, 12, 7, 12])
    steps = int(lengths.sum())
    observations = rng.standard_normal((steps + len(lengths), 3)).astype(np.float32) + 2.0
    last = np.cumsum(lengths + 1) - 1
    seen = np.delete(observations, last, axis=0)
    return OfflineDataset(
        spec=TWO_COSTS,
        observations=observations,
        actions=np.column_stack([np.tanh(seen[:, 0] - 2.0), 2.0 + np.tanh(seen[:, 1] - 2.0)]).astype(np.float32),
        rewards=rng.standard_normal(steps),
        costs=np.column_stack([rng.random(steps) < 0.3, rng.random(steps) * 5.0]).astype(np.float64),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        terminated=lengths < 12,
    )


def learner(config: CDTConfig = TINY, seed: int = 0) -> CDTLearner:
    data = two_costs()
    return CDTLearner(data.spec, Scales.fit(data, config.to_go_features), config, seed)


def batch(config: CDTConfig = TINY, seed: int = 0) -> SequenceBatch:
    return windows(two_costs(), config, config.context).sample(np.random.default_rng(seed))


class TestContract(LearnerContract):
    loss = "action_loss"

    def task(self) -> TaskSpec:
        return TWO_COSTS

    def learner(self, seed: int) -> CDTLearner:
        return learner(TINY, seed)

    def sampler(self) -> SequenceSampler:
        return windows(two_costs(), TINY, TINY.context)

    def policy(self, learnt: CDTPolicyFamily) -> Policy:
        return learnt.at((3.0, 2.0, 10.0))


class TestDeterministicContract(TestContract):
    def learner(self, seed: int) -> CDTLearner:
        return learner(TINY.model_copy(update={"head": "deterministic", "cost_loss": "value"}), seed)


class TestActionLossAloneContract(TestContract):
    def learner(self, seed: int) -> CDTLearner:
        return learner(TINY.model_copy(update={"cost_loss_weight": 0.0, "observation_loss_weight": 0.0}), seed)


class TestLosses:
    """Against the formulas, computed independently in numpy."""

    rng = np.random.default_rng(1)
    mean, log_sd, actions = rng.standard_normal((3, 6, 5, 2))
    mask = rng.random((6, 5)) < 0.7

    def test_action_loss_temperature_loss_and_entropy(self) -> None:
        log_temperature = torch.tensor(-1.2, dtype=torch.float64, requires_grad=True)
        mean = torch.tensor(self.mean[self.mask], requires_grad=True)
        action, temperature, entropy = action_losses(
            DiagonalGaussian(mean, torch.tensor(self.log_sd[self.mask])),
            torch.tensor(self.actions[self.mask]),
            log_temperature,
        )
        alpha = np.exp(-1.2)
        density = norm.logpdf(self.actions, self.mean, np.exp(self.log_sd)).sum(axis=-1)[self.mask].mean()
        expected = norm.entropy(scale=np.exp(self.log_sd)).sum(axis=-1)[self.mask].mean()
        assert entropy.item() == pytest.approx(expected)
        assert action.item() == pytest.approx(-(density + alpha * expected))
        assert temperature.item() == pytest.approx(alpha * (expected + 2.0))
        action.backward(retain_graph=True)
        assert log_temperature.grad is None, "the action loss must not move the temperature"
        temperature.backward()
        assert log_temperature.grad.item() == pytest.approx(alpha * (expected + 2.0))

    def test_the_temperature_grows_exactly_while_the_entropy_is_below_its_bound(self) -> None:
        for log_sd, grows in ((-4.0, True), (0.0, False)):
            log_temperature = torch.tensor(0.0, requires_grad=True)
            distribution = DiagonalGaussian(torch.zeros(1, 3), torch.full((1, 3), log_sd))
            _, loss, _ = action_losses(distribution, torch.zeros(1, 3), log_temperature)
            loss.backward()
            assert (log_temperature.grad.item() < 0.0) == grows  # descent moves against the gradient

    def test_cost_cross_entropy(self) -> None:
        logits, costs = self.rng.standard_normal((2, 6, 5, 2))
        costs = np.maximum(costs, 0.0)
        probability = 1.0 / (1.0 + np.exp(-logits))
        expected = -np.where(costs > 0.0, np.log(probability), np.log(1.0 - probability))[self.mask].mean()
        loss = cost_cross_entropy(torch.tensor(logits), torch.tensor(costs), torch.tensor(self.mask))
        assert loss.item() == pytest.approx(expected)

    def test_squared_error(self) -> None:
        loss = squared_error(torch.tensor(self.mean), torch.tensor(self.actions), torch.tensor(self.mask))
        assert loss.item() == pytest.approx(((self.mean - self.actions) ** 2)[self.mask].mean())

    def test_steps_that_are_not_there_change_nothing(self) -> None:
        first, second = learner(), learner()
        given = batch()
        assert not given.mask.all()
        hidden = ~given.mask
        poisoned = replace(
            given,
            observations=given.observations + hidden[..., None] * np.float32(7.0),
            actions=given.actions + hidden[..., None] * np.float32(0.3),
            costs=given.costs + hidden[..., None] * 2.0,
            reward_to_go=given.reward_to_go + hidden * 5.0,
        )
        first.update(given)
        second.update(poisoned)
        for name, tensor in first.state().tensors.items():
            torch.testing.assert_close(tensor, second.state().tensors[name], msg=name)


class TestNetwork:
    def test_predictions_never_look_ahead(self) -> None:
        made = learner()
        network, inputs = made.policy().network, made._inputs(batch())
        before = network(inputs)
        for place in range(4):
            later = torch.arange(4) > place
            changed = Inputs(
                reward_to_go=inputs.reward_to_go + later[None, :, None] * 3.0,
                cost_to_go=tuple(values + later[None, :, None] * 3.0 for values in inputs.cost_to_go),
                observations=inputs.observations + later[None, :, None] * 3.0,
                # the action of the same step comes after what predicts it
                actions=inputs.actions + (torch.arange(4) >= place)[None, :, None] * 3.0,
                steps=inputs.steps,
            )
            after = network(changed)
            assert torch.equal(before.action_mean[:, : place + 1], after.action_mean[:, : place + 1])
            assert torch.equal(before.costs[:, :place], after.costs[:, :place])
            assert not torch.equal(before.costs[:, place], after.costs[:, place])

    @pytest.mark.parametrize("field", ["reward_to_go", "cost_to_go", "observations"])
    def test_the_action_sees_every_token_before_it(self, field: str) -> None:
        made = learner()
        network, inputs = made.policy().network, made._inputs(batch())
        value = getattr(inputs, field)
        moved = (
            (value[0], value[1] + 1.0)
            if field == "cost_to_go"
            else value + torch.tensor([1.0, *[0.0] * (value.shape[-1] - 1)])
        )
        changed = replace(inputs, **{field: moved})
        assert not torch.allclose(network(inputs).action_mean, network(changed).action_mean)

    def test_the_temperature_is_saved_with_the_weights(self) -> None:
        assert "model.log_temperature" in learner().state().tensors


class TestToGo:
    def test_features_are_what_they_say_and_scaled_by_the_data(self) -> None:
        values, steps = np.array([-4.0, 9.0, 0.0, 25.0]), np.array([0, 3, 5, 8])
        encoder = ToGoEncoder.fit(values, steps, 10, ("value", "root", "rate"))
        raw = np.column_stack([values, [-2.0, 3.0, 0.0, 5.0], values / np.array([10, 7, 5, 2])])
        expected = (raw - raw.mean(axis=0)) / raw.std(axis=0)
        np.testing.assert_allclose(encoder.encode(values, steps), expected, rtol=1e-5, atol=1e-6)

    def test_values_beyond_the_data_are_held_at_its_edge(self) -> None:
        encoder = ToGoEncoder.fit(np.array([0.0, 10.0]), np.array([0, 0]), 10, ("value",))
        steps = np.zeros(4, dtype=np.int64)
        np.testing.assert_allclose(encoder.encode(np.array([-50.0, 0.0, 10.0, 1e9]), steps)[:, 0], [-1, -1, 1, 1])


def plain_action(
    family: CDTPolicyFamily, target: tuple[float, ...], history: list[dict[str, np.ndarray]]
) -> np.ndarray:
    """The action for the last entry of a history, by the training forward pass over the last K steps."""
    spec, config, scales = family.spec, family.config, family.scales
    rewards = np.cumsum([np.zeros(len(history[0]["seen"])), *[step["reward"] for step in history[:-1]]], axis=0)
    costs = np.cumsum([np.zeros_like(history[0]["cost"]), *[step["cost"] for step in history[:-1]]], axis=0)
    recent = range(max(0, len(history) - config.context), len(history))
    low, high = np.array(spec.action.low), np.array(spec.action.high)
    steps = np.array([list(recent)] * len(history[0]["seen"]))
    inputs = Inputs(
        reward_to_go=torch.tensor(scales.reward_to_go.encode(target[0] - rewards[recent].T, steps)),
        cost_to_go=tuple(
            torch.tensor(encoder.encode(target[1 + i] - costs[recent, :, i].T, steps))
            for i, encoder in enumerate(scales.cost_to_go)
        ),
        observations=torch.tensor(scales.observations.apply(np.stack([history[t]["seen"] for t in recent], axis=1))),
        actions=torch.tensor(
            np.stack([(history[t]["action"] - (low + high) / 2) / ((high - low) / 2) for t in recent], axis=1)
        ).float(),
        steps=torch.tensor(steps),
    )
    with torch.inference_mode():
        mean = family.network(inputs).action_mean[:, -1].numpy()
    return np.clip(mean * (high - low) / 2 + (low + high) / 2, low, high)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("context", [1, 4, 20])
def test_acting_quickly_equals_the_plain_forward_pass(layers: int, context: int) -> None:
    config = TINY.model_copy(update={"layers": layers, "context": context})
    made = learner(config)
    fit(OfflineRun(made, windows(two_costs(), config, config.context), np.random.default_rng(0)), steps=20)
    family, target, rng = made.policy(), (4.0, 3.0, 20.0), np.random.default_rng(1)
    actor = family.at(target).start(10, rng)
    history: list[dict[str, np.ndarray]] = []
    for _ in range(TWO_COSTS.horizon):
        seen = rng.standard_normal((10, 3)).astype(np.float32) + 2.0
        action = actor.act(seen)
        history.append(
            {"seen": seen, "action": action, "reward": rng.standard_normal(10), "cost": rng.random((10, 2)) * 3.0}
        )
        np.testing.assert_allclose(action, plain_action(family, target, history), atol=1e-5)
        actor.observe(action, history[-1]["reward"], history[-1]["cost"])


def test_overfits_five_episodes(logged: Callable[[int], OfflineDataset]) -> None:
    data = logged(5)
    config = TINY.model_copy(update={"width": 32, "head": "deterministic", "steps": 500, "cost_loss_weight": 0.0})
    made = CDTLearner(data.spec, Scales.fit(data, config.to_go_features), config, 0)
    errors: list[float] = []
    fit(
        OfflineRun(made, windows(data, config, config.context), np.random.default_rng(0)),
        steps=500,
        hooks=[lambda progress: errors.append(progress.metrics["action_error"])],
    )
    assert np.mean(errors[-20:]) < 0.25 * np.mean(errors[:5])


def test_the_policy_obeys_both_dials(logged: Callable[[int], OfflineDataset], drive: object) -> None:
    data = logged(200)
    config = PRESETS["small"].model_copy(update={"width": 32, "layers": 1, "steps": 600, "batch_size": 64})
    made = CDTLearner(data.spec, Scales.fit(data, config.to_go_features), config, 0)
    fit(OfflineRun(made, windows(data, config, config.context), np.random.default_rng(0)), steps=config.steps)
    family = made.policy()
    asked = np.column_stack([data.reward_returns, data.cost_returns])[:30]
    obtained = []
    for target in asked:
        episodes = drive.run(family.at(tuple(target.tolist())), 4, np.random.default_rng(1))
        obtained.append(np.mean([[e.reward_return, e.cost_returns[0]] for e in episodes], axis=0))
    rank = [spearmanr(asked[:, i], np.array(obtained)[:, i])[0] for i in range(2)]
    assert rank[0] > 0.95
    assert rank[1] > 0.95
    assert np.abs(asked - obtained).mean(axis=0)[1] < 4.0, "cost units of an episode of 60 steps"


def test_interrupted_and_resumed_from_disk_equals_uninterrupted(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"dropout": 0.2})
    unbroken = OfflineRun(learner(config), windows(two_costs(), config, config.context), np.random.default_rng(0))
    broken = OfflineRun(learner(config), windows(two_costs(), config, config.context), np.random.default_rng(0))
    resumed = OfflineRun(
        learner(config, seed=5), windows(two_costs(), config, config.context), np.random.default_rng(5)
    )
    fit(unbroken, steps=12)
    fit(broken, steps=7)
    state = broken.state()
    save_checkpoint(tmp_path / "c", kind="training", tensors=state.tensors, meta=state.meta)
    loaded = load_checkpoint(tmp_path / "c")
    resumed.restore(State(loaded.tensors, loaded.meta))
    fit(resumed, steps=12)
    assert_equal_states(unbroken.state(), resumed.state())


def test_nan_stops_training_before_the_weights_change() -> None:
    made = learner()
    before = made.state()
    given = batch()
    with pytest.raises(ModelError, match=r"update 1: the loss .* is nan"):
        made.update(replace(given, actions=np.full_like(given.actions, np.nan)))
    for name, tensor in made.state().tensors.items():
        if name.startswith("model."):
            assert torch.equal(tensor, before.tensors[name])


class TestFamily:
    def test_is_a_policy_family_over_reward_and_every_cost(self) -> None:
        family = learner().policy()
        assert isinstance(family, PolicyFamily)
        assert family.target_names == ("reward", "heat", "wear")

    def test_round_trips_through_a_checkpoint(self, tmp_path: Path) -> None:
        made = learner()
        made.update(batch())
        family = made.policy()
        digest = family.save(tmp_path / "policy", {"dataset": "abc"})
        loaded = CDTPolicyFamily.load(tmp_path / "policy", expected_digest=digest)
        assert load_checkpoint(tmp_path / "policy").meta["provenance"] == {"dataset": "abc"}
        seen = np.ones((3, 3), dtype=np.float32)
        actions = [
            one.at((1.0, 2.0, 3.0)).start(3, np.random.default_rng(0)).act(seen)
            for one in (family, loaded, pickle.loads(pickle.dumps(family)))
        ]
        np.testing.assert_array_equal(actions[0], actions[1])
        np.testing.assert_array_equal(actions[0], actions[2])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda meta, _: meta.pop("scales"), "scales"),
            (lambda meta, _: meta["scales"].pop("observations"), "observations"),
            (lambda meta, _: meta["scales"]["cost_to_go"].pop(), "scales of 1 costs"),
            (lambda meta, _: meta["scales"]["observations"].update(std=[0.0] * 3), "positive"),
            (lambda meta, _: meta["scales"]["reward_to_go"].update(low=[9e9] * 3), "low <= high"),
            (lambda meta, _: meta["config"].update(width=32), "expected"),
            (lambda meta, _: meta["config"].update(wdith=32), "wdith"),
            (lambda meta, _: meta["spec"].update(observation_size=4), "3 columns"),
            (lambda _, tensors: tensors.pop("model.cost.bias"), "missing"),
            (lambda _, tensors: tensors["model.cost.bias"].fill_(torch.inf), "not finite"),
        ],
    )
    def test_a_checkpoint_that_does_not_fit_together_is_refused(
        self, tmp_path: Path, change: Callable[[dict, dict], object], message: str
    ) -> None:
        learner().policy().save(tmp_path / "good", {})
        good = load_checkpoint(tmp_path / "good")
        meta, tensors = dict(good.meta), dict(good.tensors)
        change(meta, tensors)
        save_checkpoint(tmp_path / "bad", kind="cdt", tensors=tensors, meta=meta)
        with pytest.raises(DataError, match=message):
            CDTPolicyFamily.load(tmp_path / "bad")

    def test_a_checkpoint_of_another_method_is_refused(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path / "c", kind="bc", tensors={}, meta={})
        with pytest.raises(DataError, match="of kind 'cdt', this is 'bc'"):
            CDTPolicyFamily.load(tmp_path / "c")

    @pytest.mark.parametrize("target", [(1.0, 2.0), (1.0, -2.0, 0.0), (np.nan, 1.0, 1.0), (1.0, np.inf, 1.0)])
    def test_an_impossible_target_is_refused(self, target: tuple[float, ...]) -> None:
        with pytest.raises(UsageError, match="expected finite"):
            learner().policy().at(target)

    def test_an_episode_beyond_the_horizon_is_refused(self) -> None:
        actor = learner().policy().at((0.0, 0.0, 0.0)).start(1, np.random.default_rng(0))
        for _ in range(12):
            action = actor.act(np.zeros((1, 3), dtype=np.float32))
            actor.observe(action, np.zeros(1), np.zeros((1, 2)))
        with pytest.raises(UsageError, match="horizon is 12"):
            actor.act(np.zeros((1, 3), dtype=np.float32))


def test_another_dataset_or_configuration_is_refused_at_resume() -> None:
    state = learner().state()
    with pytest.raises(DataError, match="saved config differs"):
        learner(TINY.model_copy(update={"learning_rate": 1e-2})).restore(state)
    with pytest.raises(DataError, match="saved scales differs"):
        learner().restore(State(state.tensors, {**state.meta, "scales": {}}))


@pytest.mark.parametrize("sampling", ["uniform", "low_cost", "even"])
def test_every_sampling_leaves_no_episode_out(sampling: str) -> None:
    config = TINY.model_copy(update={"sampling": sampling, "batch_size": 4000, "context": 1})
    drawn = batch(config).observations[:, 0]
    data = two_costs()
    for i in range(len(data)):
        assert (drawn[:, None] == data.episode(i).observations[:-1]).all(axis=2).any(axis=0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 10, "heads": 4}, "divide"),
        ({"to_go_features": ("value", "value")}, "each once"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CDTConfig(**change)


def test_the_published_preset_is_the_papers_table() -> None:
    published = PRESETS["published"]
    assert (published.layers, published.heads, published.width, published.batch_size) == (3, 8, 128, 2048)
    assert (published.context, published.learning_rate, published.dropout) == (10, 1e-4, 0.1)
    assert (published.gradient_clip, published.steps) == (0.25, 100_000)
