"""What is said of a dial before it is tuned, on evaluations whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from safehold.core.errors import NoSeed
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.envs.toy import dial as toy
from safehold.rollout.episodes import Job, rollouts
from safehold.workflows.deploy import DeployConfig
from safehold.workflows.dial import heeded, judge_dial, try_dial
from safehold.workflows.evaluate import Evaluation

CONFIG = DeployConfig(limit=20.0)
REWARDS, COSTS = (100.0, 200.0, 300.0), (0.0, 10.0, 20.0, 30.0, 60.0)


def found(cost, scatter=2.0, episodes=40, reward=lambda r, g: r + g, seed=0):
    """Evaluations over a grid whose mean cost is cost(R, G)."""
    rng = np.random.default_rng(seed)
    return [
        Evaluation(
            label="dial",
            target=(r, g),
            stream="evaluate/dial",
            first=0,
            rewards=reward(r, g) + rng.normal(size=episodes),
            costs=cost(r, g) + scatter * rng.normal(size=episodes),
        )
        for r in REWARDS
        for g in COSTS
    ]


def test_an_obedient_dial_is_praised():
    report = judge_dial(found(lambda r, g: 0.9 * g + r / 100.0), CONFIG)
    assert report.warnings == ()
    assert (report.targets, report.near, report.episodes, report.pairs) == (15, 12, 40, 12)
    assert report.slope == pytest.approx(0.9, abs=0.05)
    assert report.rank_cost > 0.9
    assert 0.85 < report.rank_cost_interval.low <= report.rank_cost <= report.rank_cost_interval.high <= 1.0
    assert report.falls == 0


def test_the_slopes_interval_covers_it_and_the_spread_around_the_line_is_what_it_is():
    hits = 0
    for seed in range(60):
        report = judge_dial(found(lambda r, g: 0.7 * g + 5.0, scatter=6.0, seed=seed), CONFIG)  # noqa: ARG005
        hits += report.slope_interval.low <= 0.7 <= report.slope_interval.high
    assert 0.8 <= hits / 60 <= 1.0
    bent = judge_dial(found(lambda r, g: g + (4.0 if r == 200.0 else -2.0), scatter=1e-6), CONFIG)
    assert bent.residual_sd == pytest.approx(np.sqrt((16.0 + 4.0 + 4.0) / 3 * 15 / 13), rel=1e-3)
    single = judge_dial(found(lambda r, g: g, episodes=1), CONFIG)  # noqa: ARG005
    assert single.slope_interval is None


@pytest.mark.parametrize("scatter", [0.5, 8.0])
def test_the_dial_error_is_that_of_the_means_without_the_scatter_of_episodes(scatter):
    errors = [
        judge_dial(found(lambda r, g: g + (6.0 if r == 200.0 else -3.0), scatter, seed=seed), CONFIG).dial_error
        for seed in range(30)
    ]
    expected = np.sqrt((6.0**2 + 3.0**2 + 3.0**2) / 3)
    assert np.mean(np.square(errors)) == pytest.approx(expected**2, rel=0.05)


def test_scatter_of_episodes_is_what_it_is():
    report = judge_dial(found(lambda r, g: g, scatter=8.0, episodes=400), CONFIG)  # noqa: ARG005
    assert report.episode_sd == pytest.approx(8.0, rel=0.05)
    assert [warning for warning in report.warnings if "--episode-sd 0.4" in warning]


@pytest.mark.parametrize(
    ("cost", "why"),
    [
        (lambda r, g: 15.0, "hardly follow"),  # noqa: ARG005
        (lambda r, g: 60.0 - g, "hardly follow"),  # noqa: ARG005
        (lambda r, g: g + 15.0, "--dial-error 0.7"),  # noqa: ARG005
        (lambda r, g: g + (12.0 if g == 10.0 else 0.0), "neighbouring targets"),  # noqa: ARG005
    ],
)
def test_what_speaks_against_a_dial_is_said(cost, why):
    report = judge_dial(found(cost), CONFIG)
    assert any(why in warning for warning in report.warnings), report.warnings


def test_falls_that_may_be_chance_are_none():
    assert judge_dial(found(lambda r, g: 15.0, scatter=5.0), CONFIG).falls <= 2  # noqa: ARG005


def test_a_reward_that_does_not_follow_is_said():
    report = judge_dial(found(lambda r, g: g, reward=lambda r, g: 500.0 - r), CONFIG)  # noqa: ARG005
    assert any("rewards hardly follow" in warning for warning in report.warnings)


def test_one_episode_each_or_few_targets_leave_things_unknown():
    alone = judge_dial(found(lambda r, g: g, episodes=1), CONFIG)  # noqa: ARG005
    assert (alone.dial_error, alone.episode_sd, alone.falls) == (None, None, 0)
    assert sum("unknown" in warning for warning in alone.warnings) == 2
    few = judge_dial(found(lambda r, g: g)[:2], CONFIG)  # noqa: ARG005
    assert any("only 2 targets" in warning for warning in few.warnings)
    none = judge_dial([], CONFIG)
    assert (none.targets, none.slope, none.rank_cost) == (0, None, None)


def test_a_dial_is_tried_where_its_log_supports_it():
    family, config = (
        toy.DialFamily(),
        DeployConfig(
            limit=20.0,
            support_minimum=3,
            support_reward=0.1,
            seed_low=0.6,
            seed_high=0.85,
            reward_points=7,
            cost_points=11,
        ),
    )
    targets = [(reward, cost) for reward in np.linspace(0, 80, 21) for cost in np.linspace(0, 40, 21)]
    seeds = Streams(0).episode_seeds("log", 0, len(targets))
    jobs = [Job(family.at(z), (seed,)) for z, seed in zip(targets, seeds, strict=True)]
    log = OfflineDataset.of([e for of_job in rollouts("toy/Dial", jobs, rng_seed=0) for e in of_job], toy.TASK.spec)
    evaluations, report = try_dial(family, log, "toy/Dial", config, streams=Streams(1), episodes=8)
    assert report.targets == len(evaluations) > 5
    assert report.rank_cost > 0.8
    truth = [toy.expected_cost_return(one.target) for one in evaluations]
    np.testing.assert_allclose([one.costs.mean() for one in evaluations], truth, atol=3.0)
    with pytest.raises(NoSeed):
        try_dial(family, log, "toy/Dial", DeployConfig(limit=20.0, support_minimum=500), streams=Streams(1), episodes=2)


def test_heeding_declares_what_was_found_and_never_less_than_before():
    report = judge_dial(found(lambda r, g: g + (6.0 if r == 200.0 else -3.0), scatter=8.0, episodes=40), CONFIG)
    assert report.dial_error is not None
    assert report.episode_sd is not None
    for declared in (CONFIG, CONFIG.model_copy(update={"dial_error": 0.01, "episode_sd": 0.01})):
        wider = heeded(report, declared)
        assert wider.dial_error >= declared.dial_error
        assert wider.episode_sd >= declared.episode_sd
        assert wider.dial_error * declared.limit >= report.dial_error
        assert wider.episode_sd * declared.limit >= report.episode_sd
    assert heeded(report, CONFIG).dial_error == CONFIG.dial_error  # what was found is less
    assert wider.dial_error - report.dial_error / CONFIG.limit <= 0.01
    unknown = replace(report, dial_error=None, episode_sd=None)
    assert heeded(unknown, CONFIG) == CONFIG
