"""SaGui's parts by hand: abstraction, guide, handover, importance ratios, buffers, distillation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_guide import made_up_guide
from made_up_steps import SPEC, made_up_batch

from safehold.core.constraint import Limit
from safehold.core.errors import DataError, UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.seeding import Streams
from safehold.deploy.guard import Guard
from safehold.deploy.guarded import GuardedPolicy
from safehold.learn.guided.abstraction import Abstraction, between
from safehold.learn.guided.guide import LEAST_LOG_DENSITY, Guide, GuideNetwork, actor_of, load_guide, save_guide
from safehold.learn.guided.handover import (
    ControlSwitch,
    Handover,
    HandoverConfig,
    LinearDecay,
    TakingTurns,
    importance,
    turns_of,
)
from safehold.learn.guided.student import GuidedExperience, StudentConfig, pull_of, student
from safehold.learn.learner import State
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.sac import SACConfig, SACLearner
from safehold.learn.online.sac_lag import SACLagConfig, ScalarPrice
from safehold.learn.squashed_policy import freeze_squashed
from safehold.nn.tensors import torch_generator
from safehold.rollout.steps import SharedExplorer

LIMIT = Limit("cost", 0.5)
CORE = SACConfig(
    hidden=(8,), batch_size=16, capacity=64, random_steps=0, gradient_steps=1 / 32, initial_temperature=0.3
)
LAGGED = SACLagConfig(sac=CORE, multiplier=MultiplierConfig(initial=0.7, integral_gain=0.0), damping=0.0)


def test_an_abstraction_keeps_named_parts_in_the_sources_order():
    source = {"hazard": slice(0, 3), "velocity": slice(3, 5)}
    target = {"velocity": slice(0, 2), "goal": slice(2, 4), "hazard": slice(4, 7)}
    abstraction = between(source, target)
    observed = np.arange(14.0).reshape(2, 7)
    np.testing.assert_array_equal(abstraction(observed), [[4, 5, 6, 0, 1], [11, 12, 13, 7, 8]])
    np.testing.assert_array_equal(abstraction(torch.from_numpy(observed)).numpy(), abstraction(observed))
    assert abstraction.dropped == (2, 3)
    assert Abstraction.of_json(abstraction.to_json()) == abstraction


@pytest.mark.parametrize(
    ("source", "target"),
    [({}, {"goal": slice(0, 2)}), ({"hazard": slice(0, 3)}, {"hazard": slice(0, 2)}), ({"a": slice(0, 1)}, {})],
)
def test_a_source_that_shows_what_the_target_does_not_is_refused(source, target):
    with pytest.raises(DataError, match="must be in the target's"):
        between(source, target)


@pytest.mark.parametrize("columns", [(), (0, 0), (3,), (-1,)])
def test_columns_that_are_none_are_refused(columns):
    with pytest.raises(DataError, match="distinct"):
        Abstraction(columns, 3)


def test_a_guide_comes_back_as_it_was_saved_and_no_other_task_takes_it(tmp_path: Path):
    guide = made_up_guide(SPEC)
    digest = save_guide(tmp_path / "guide", guide, SPEC, {"why": "test"})
    loaded = load_guide(tmp_path / "guide", expected_digest=digest)
    observations = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    first, second = (one.start(4, np.random.default_rng(1)).act(observations) for one in (guide, loaded))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(DataError, match="train a guide for this task"):
        save_guide(tmp_path / "other", guide, replace(SPEC, observation_size=4), {})
    with pytest.raises(DataError, match="are of different tasks"):
        Guide(guide.policy, Abstraction((0,), 3))


def test_a_guide_does_not_look_at_what_is_dropped():
    guide = made_up_guide(SPEC).without_noise()
    observations = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    changed = observations.copy()
    changed[:, 0] += 100.0
    acts = [guide.start(4, np.random.default_rng(0)).act(seen) for seen in (observations, changed)]
    np.testing.assert_array_equal(acts[0], acts[1])
    np.testing.assert_allclose(acts[0], guide.policy.means(observations[:, [2, 1]]), rtol=1e-6)


def test_a_guard_can_hand_over_to_a_guide():
    guide = made_up_guide(SPEC).without_noise()
    guard = Guard.start(("cost",), (1.0,), (Limit("cost", 1.0),), {"cost": 0.0})
    actor = GuardedPolicy(Still(), guide, guard, ("cost",)).start(2, np.random.default_rng(0))
    seen = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    assert not actor.act(seen).any()
    actor.observe(np.zeros((2, 2)), np.zeros(2), np.array([[0.5], [1.5]]))
    acted = actor.act(seen)
    np.testing.assert_array_equal(acted[0], [0.0, 0.0])
    np.testing.assert_array_equal(acted[1], guide.start(2, np.random.default_rng(0)).act(seen)[1])


class Still:
    """Never moves."""

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002
        return Memoryless(lambda seen: np.zeros((len(seen), 2)))


def test_a_student_that_begins_as_the_guide_acts_like_it():
    guide = made_up_guide(SPEC)
    learner = student(SPEC, StudentConfig(sac_lag=LAGGED, start="guide"), guide, LIMIT, Streams(0))
    observations = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_allclose(
        learner.policy().draw(observations, np.random.default_rng(2)),
        guide.draw(observations, np.random.default_rng(2)),
        rtol=1e-5,
        atol=1e-6,
    )
    other = LAGGED.model_copy(update={"sac": CORE.model_copy(update={"hidden": (9,)})})
    with pytest.raises(UsageError, match="hidden sizes of that policy"):
        student(SPEC, StudentConfig(sac_lag=other, start="guide"), guide, LIMIT, Streams(0))


def test_a_frozen_policy_becomes_a_network_and_back():
    policy = made_up_guide(SPEC).policy
    again = freeze_squashed(actor_of(policy), policy.log_sd_range, policy.action)
    for mine, theirs in zip((*policy.weights, *policy.biases), (*again.weights, *again.biases), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_densities_of_the_guide_are_those_of_textbooks_and_finite_on_the_bounds():
    guide = made_up_guide(SPEC)
    observations = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    actions = np.tanh(np.random.default_rng(1).standard_normal((5, 2)))
    actions[0] = [1.0, -1.0]
    found = GuideNetwork(guide).log_density(torch.from_numpy(observations), torch.from_numpy(actions).float()).numpy()
    hidden = np.maximum(observations[:, [2, 1]] @ guide.policy.weights[0] + guide.policy.biases[0], 0.0)
    mean, log_sd = np.split(hidden @ guide.policy.weights[1] + guide.policy.biases[1], 2, axis=1)
    inner, sd = np.arctanh(np.clip(actions, -1 + 1e-6, 1 - 1e-6)), np.exp(log_sd)
    normal = -0.5 * ((inner - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
    expected = (normal - np.log(1 - np.tanh(inner) ** 2)).sum(axis=1)
    np.testing.assert_allclose(found[1:], np.maximum(expected, LEAST_LOG_DENSITY)[1:], rtol=1e-4)
    assert LEAST_LOG_DENSITY <= found[0] < -10.0


def test_importance_ratios_by_hand():
    student_logs = torch.log(torch.tensor([0.3, 0.9, 0.001, 0.5, 0.9]))
    guide_logs = torch.log(torch.tensor([0.6, 0.3, 0.9, 0.5, 0.1]))
    guided = torch.tensor([True, True, True, True, False])
    found = importance(student_logs, guide_logs, guided)
    np.testing.assert_allclose(found.numpy(), [0.5, 2.0, 0.1, 1.0, 1.0], rtol=1e-6)
    far = importance(torch.tensor([500.0, -500.0]), torch.zeros(2), torch.ones(2, dtype=torch.bool))
    np.testing.assert_allclose(far.numpy(), [2.0, 0.1], rtol=1e-6)  # no overflow on the way


def turns_taken(turns, costs: np.ndarray, ended: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    said = []
    for cost, end in zip(costs, ended, strict=True):
        said.append(turns.now(len(cost), rng))
        turns.observe(cost[:, None], end)
    return np.array(said)


def test_control_switches_after_the_first_cost_and_back_at_the_episodes_end():
    costs = np.array([[0, 0], [1, 0], [0, 0], [0, 0], [0, 1], [0, 0]], dtype=np.float64)
    ended = np.array([[0, 0], [0, 0], [0, 0], [1, 0], [0, 1], [0, 0]], dtype=np.bool_)
    said = turns_taken(ControlSwitch(0.0, 0), costs, ended)
    np.testing.assert_array_equal(said[:, 0], [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(said[:, 1], [0] * 6)  # its cost came with its last step
    patient = turns_taken(ControlSwitch(1.0, 0), np.array([[1.0], [1.0], [0.0]]), np.zeros((3, 1), np.bool_))
    np.testing.assert_array_equal(patient[:, 0], [0, 0, 1])
    assert turns_taken(ControlSwitch(0.0, 0), np.array([[np.nan], [0.0]]), np.zeros((2, 1), np.bool_))[1, 0]


def test_the_probability_of_the_guide_falls_in_a_line():
    turns = LinearDecay(1000, 1.0)
    costs, ended = np.zeros((200, 10)), np.zeros((200, 10), np.bool_)
    said = turns_taken(turns, costs, ended)
    assert turns.probability == 0.0
    assert not said[100:].any()
    shares = said[:100].reshape(10, 100).mean(axis=1)  # a hundred draws each, of 0.955, 0.855, ... 0.055
    expected = 1.0 - (np.arange(10) + 0.45) / 10
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / 100)).all()


def test_by_episodes_the_guide_has_whole_ones_and_by_steps_it_has_not():
    rng = np.random.default_rng(1)
    ended = rng.random((400, 5)) < 0.05
    whole = turns_taken(LinearDecay(2000, 0.0), np.zeros((400, 5)), ended)
    changes = whole[1:] != whole[:-1]
    assert changes.any()
    assert not (changes & ~ended[:-1]).any()
    steps = turns_taken(LinearDecay(2000, 1.0), np.zeros((400, 5)), ended)
    assert ((steps[1:] != steps[:-1]) & ~ended[:-1]).sum() > 100
    both = turns_taken(LinearDecay(2000, None), np.zeros((400, 5)), ended)
    mixed = ((both[1:] != both[:-1]) & ~ended[:-1]).sum()
    assert 0 < mixed < ((steps[1:] != steps[:-1]) & ~ended[:-1]).sum()


@pytest.mark.parametrize("rule", ["control_switch", "linear_decay", "step_decay", "episode_decay", "guide", "student"])
def test_turns_go_on_where_they_were_saved(rule: Handover):
    config = HandoverConfig(rule=rule, decay_steps=100)
    unbroken, resumed = turns_of(config, 0), turns_of(config, 0)
    rng = np.random.default_rng(3)
    costs, ended = (rng.random((30, 4)) < 0.05).astype(np.float64), rng.random((30, 4)) < 0.1
    turns_taken(unbroken, costs[:15], ended[:15])
    resumed.restore(unbroken.state())
    np.testing.assert_array_equal(
        turns_taken(unbroken, costs[15:], ended[15:]), turns_taken(resumed, costs[15:], ended[15:])
    )
    if unbroken.state().tensors:
        with pytest.raises(DataError, match="whose turn"):
            turns_of(config, 0).restore(State({}, unbroken.state().meta))


class Says:
    """An explorer that always says the same."""

    def __init__(self, value: float) -> None:
        self._value = value

    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.full((len(observations), 2), self._value, np.float32)


def test_two_explorers_take_turns():
    both = TakingTurns(Says(0.0), Says(1.0), ControlSwitch(0.0, 0), np.random.default_rng(0))
    assert isinstance(both, SharedExplorer)
    seen = np.zeros((3, 3), np.float32)
    assert not both.act(seen).any()
    both.observe(np.array([[0.0], [1.0], [1.0]]), np.array([False, False, True]))
    np.testing.assert_array_equal(both.act(seen)[:, 0], [0.0, 1.0, 0.0])
    np.testing.assert_array_equal(both.handed_over, [False, True, False])


def experience(config: StudentConfig | None = None, guide: int = 3) -> GuidedExperience:
    config = StudentConfig(sac_lag=LAGGED) if config is None else config
    return GuidedExperience(SPEC, config, made_up_guide(SPEC, guide), ScalarPrice(SPEC, config.sac_lag, LIMIT), 0)


def handed(seed: int, guided: np.ndarray):
    return replace(made_up_batch(seed), handed_over=guided)


def test_steps_go_to_the_buffer_of_whoever_took_them():
    shared = experience()
    guided = np.random.default_rng(5).random((16, 2)) < 0.4
    batch = handed(0, guided)
    shared.add(batch)
    kept = shared.state().tensors
    for name, rows in (("guides", guided), ("own", ~guided)):
        np.testing.assert_array_equal(kept[f"{name}.rewards"].numpy(), batch.rewards[rows].astype(np.float32))
    shared.add(made_up_batch(1))  # of one policy alone: the student's
    assert len(shared.state().tensors["guides.rewards"]) == guided.sum()


def test_experience_goes_on_with_the_guide_that_it_began_with():
    begun = experience(guide=3)
    begun.add(made_up_batch(0))
    experience(guide=3).restore(begun.state())
    with pytest.raises(DataError, match="another guide"):
        experience(guide=4).restore(begun.state())


@pytest.mark.parametrize(("mixed", "share"), [(0.0, 0.0), (0.4, 0.25), (1.0, 1.0)])
def test_a_batch_is_filled_from_whichever_buffer_holds_any(mixed, share):
    shared = experience()
    shared.add(handed(0, np.random.default_rng(5).random((16, 2)) < mixed))
    actor = actor_of(made_up_guide(SPEC).policy, made_up_guide(SPEC).abstraction)
    lesson = shared.lesson(16, actor, torch_generator(0))
    assert lesson.metrics["guided"] == share
    assert len(lesson.rows.rewards) == 16
    # a student that acts as the guide does has ratios of 1
    np.testing.assert_allclose(lesson.weights.numpy(), 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("distillation", "pull"), [("adaptive", (0.7, 0.7)), ("code", (0.08, 0.0)), ("fixed", (0.2, 0.2)), ("none", (0, 0))]
)
def test_what_the_guide_counts_follows_the_multiplier(distillation, pull):
    config = StudentConfig(sac_lag=LAGGED, distillation=distillation, fixed_weight=0.2)
    found = pull_of(config, 0.7)
    assert (found.reward, found.entropy) == pytest.approx(pull)
    shared = experience(config)
    shared.add(handed(0, np.zeros((16, 2), np.bool_)))
    actor = actor_of(made_up_guide(SPEC, 4).policy, made_up_guide(SPEC).abstraction)
    lesson = shared.lesson(16, actor, torch_generator(0))
    plain = shared._own.sample(16, torch_generator(0))  # the same rows: the same draw
    guides = GuideNetwork(made_up_guide(SPEC)).log_density(plain.observations, plain.actions)
    np.testing.assert_allclose(
        lesson.rows.rewards.numpy(), (plain.rewards + found.reward * guides).numpy(), rtol=1e-5, atol=1e-6
    )
    assert lesson.entropy == found.entropy


def test_a_student_of_another_abstraction_is_refused():
    config = StudentConfig(sac_lag=LAGGED)
    mine = student(SPEC, config, made_up_guide(SPEC), LIMIT, Streams(0))
    guide = made_up_guide(SPEC)
    other = student(SPEC, config, Guide(guide.policy, Abstraction((1, 2), 3)), LIMIT, Streams(0))
    with pytest.raises(DataError, match="the guide that it began with"):
        other.restore(mine.state())


def test_a_guides_steps_count_as_much_as_they_are_weighed(monkeypatch):
    """With a ratio of 0 everywhere neither critics nor policy move, whatever the errors are."""
    monkeypatch.setattr("safehold.learn.guided.student.importance", lambda *logs: torch.zeros(len(logs[0])))
    learner = student(SPEC, StudentConfig(sac_lag=LAGGED), made_up_guide(SPEC), LIMIT, Streams(0))
    before = learner.state().tensors
    metrics = learner.update(handed(0, np.ones((16, 2), np.bool_)))
    after = learner.state().tensors
    for name in before:
        if name.startswith(("parts.actor.model", "parts.critics.model")):
            assert torch.equal(before[name], after[name])
    assert metrics["reward_critic_loss"] == metrics["policy_loss"] == 0.0
    assert metrics["importance"] == 0.0


def test_distillation_alone_draws_the_student_to_the_guide():
    """No reward, no cost, one-step episodes: r'' = omega log pi_g and the entropy leave -omega KL(pi_s || pi_g)."""
    core = CORE.model_copy(
        update={"learning_rate": 5e-3, "batch_size": 64, "capacity": 2000, "temperature": "fixed"}
        | {"initial_temperature": 1e-4, "gradient_steps": 0.25}
    )
    config = StudentConfig(sac_lag=LAGGED.model_copy(update={"sac": core}), distillation="fixed", fixed_weight=1.0)
    guide = made_up_guide(SPEC, seed=6)
    elsewhere = np.array([0.8, -0.8, -1.0, -1.0], np.float32)  # means and log sds
    guide = replace(guide, policy=replace(guide.policy, biases=(guide.policy.biases[0], elsewhere)))
    learner = student(SPEC, config, guide, LIMIT, Streams(0))
    before, rng = divergence(learner, guide), np.random.default_rng(1)
    for seed in range(40):
        batch = made_up_batch(seed)
        acted = learner.explorer(rng).act(batch.observations.reshape(-1, 3)).reshape(16, 2, 2)
        free = {"rewards": np.zeros((16, 2)), "costs": np.zeros((16, 2, 1))}
        over = {"terminated": np.ones((16, 2), np.bool_), "handed_over": np.zeros((16, 2), np.bool_)}
        learner.update(replace(batch, actions=acted.astype(np.float32), **free, **over))
    assert divergence(learner, guide) < 0.3 * before


@torch.no_grad()
def divergence(learner: SACLearner, guide: Guide) -> float:
    """KL(pi_s || pi_g) at standard normal observations, from draws."""
    seen = torch.randn((2000, 3), generator=torch_generator(9))
    drawn, own = actor_of(learner.policy())(seen).sample_with_log_density(torch_generator(8))
    return float((own - GuideNetwork(guide).log_density(seen, drawn)).mean())
