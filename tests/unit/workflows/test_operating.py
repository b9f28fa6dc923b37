"""Declared oversight on a toy world: seeds verified by rolling out, operators, stages, and a guard in every episode."""

import contextlib
import dataclasses

import numpy as np
import pytest

from safehold.core.certificate import TrialState
from safehold.core.errors import Alarm, NoCertifiedTarget, NoSeed, Unapproved, UsageError
from safehold.core.policy import Alternatives
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.deploy.audit import audit
from safehold.deploy.optimizer import Deployment
from safehold.deploy.verify import verify
from safehold.envs.toy import dial
from safehold.gp.kernels import Product
from safehold.ledger.events import Approved, Asked, Observed, Rejected, SeedTested, Shadowed, Told
from safehold.rollout.episodes import Job, rollouts
from safehold.workflows.deploy import (
    Decision,
    DeployConfig,
    GuardPlan,
    Oversight,
    drive,
    open_or_create,
    plan,
    verify_seed,
)

CONFIG = DeployConfig(
    limit=20.0,
    iterations=5,
    episodes_per_ask=6,
    reward_points=7,
    cost_points=11,
    support_minimum=3,
    support_reward=0.1,
    seed_low=0.7,
    seed_high=0.8,
)
FAMILY = dial.DialFamily()


@pytest.fixture(scope="module")
def log():
    targets = [(reward, cost) for reward in np.linspace(0, 100, 21) for cost in np.linspace(0, 40, 21)]
    seeds = Streams(0).episode_seeds("log", 0, len(targets))
    jobs = [Job(FAMILY.at(z), (seed,)) for z, seed in zip(targets, seeds, strict=True)]
    done = rollouts("toy/Dial", jobs, rng_seed=0)
    return OfflineDataset.of([episode for of_job in done for episode in of_job], dial.TASK.spec)


def declared(log, path, config=CONFIG, **oversight):
    same = {"dataset": "log", "policy": "weights", "task": "toy/Dial", "seed": 0}
    return open_or_create(path, plan(log, config, Oversight(**oversight)), **same)


def go(deployment, **how):
    drive(deployment, "toy/Dial", FAMILY, streams=Streams(0), **how)


def yes(_):
    return Decision(by="R. Okafor", approved=True)


def events(deployment, kind):
    return [event for event in deployment.events() if isinstance(event, kind)]


def test_who_attests_the_seed_targets_is_in_the_ledger(log, tmp_path):
    with declared(log, tmp_path / "run", seed_by="R. Okafor") as deployment:
        assert deployment.state.declaration.seed_rule == "attested"
        assert deployment.events()[1].evidence["attested_by"] == "R. Okafor"


def test_a_correlation_with_the_reward_is_declared_driven_and_audited(log, tmp_path):
    config = CONFIG.model_copy(update={"correlation": (-0.6,), "reward_dial_error": 0.3, "reward_episode_sd": 0.1})
    with declared(log, tmp_path / "run", config) as deployment:
        with contextlib.suppress(NoCertifiedTarget):
            go(deployment)
        prior = deployment.state.declaration.prior
        told = len(deployment.state.told)
        assert deployment.state.costs["cost"].process.n_told == 2 * told > 0
    assert prior.coupled == "cost"
    assert set(prior.costs["cost"].correlation) == {-0.6}
    span = np.ptp(prior.space.points[:, 0])
    assert (prior.reward.dial_sd, prior.reward.episode_sd) == (pytest.approx(0.3 * span), pytest.approx(0.1 * span))
    assert verify(tmp_path / "run") == []
    assert audit(tmp_path / "run").ok
    single = plan(log, config.model_copy(update={"certificate": "paper"})).declaration.prior.costs["cost"]
    assert [type(kernel) for kernel in single.kernels] == [Product]


@dataclasses.dataclass(frozen=True)
class Poorer:
    """The same dial, but every target earns a share of what it does and costs a little more."""

    target_names = FAMILY.target_names

    def at(self, target):
        pi = FAMILY.at(target)
        return dial.Constant(reward=0.6 * pi.reward, cost=pi.cost + 1.0 / dial.HORIZON)


def test_the_deployment_chooses_the_policy_and_its_target(log, tmp_path):
    """Of two policies the better is recommended, whichever comes first; each target of each is certified by itself."""
    config = CONFIG.model_copy(update={"iterations": 8, "episodes_per_ask": 10})
    found = []
    for number, families in enumerate([(Poorer(), FAMILY), (FAMILY, Poorer())]):
        place = tmp_path / str(number)
        policies = plan(log, config, policies=2)
        same = {"dataset": "log", "policy": "a+b", "task": "toy/Dial", "seed": 0}
        with open_or_create(place, policies, **same) as deployment:
            with contextlib.suppress(NoCertifiedTarget):
                drive(deployment, "toy/Dial", Alternatives(families), streams=Streams(0))
            space, best = deployment.state.declaration.space, deployment.recommend()
            asked = [event.target for event in deployment.state.asked.values()]
        assert space.names == ("reward", "cost", "policy")
        costs = [20 * families[int(z[2])].at(z[:2]).cost for z in asked]
        assert max(costs) <= 20.0
        assert {z[2] for z in asked} == {0.0, 1.0}
        found.append(families[int(best.target[2])])
        assert verify(place) == []
        assert audit(place).ok
    assert found == [FAMILY, FAMILY]


def test_policies_to_choose_among_need_one_dial():
    class Other:
        target_names = ("reward",)

        def at(self, target):
            return FAMILY.at((target[0], 0.0))

    with pytest.raises(UsageError, match="need one, the same"):
        Alternatives((FAMILY, Other()))
    with pytest.raises(UsageError, match="need one, the same"):
        Alternatives(())


def test_attesting_and_verifying_at_once_is_refused(log):
    with pytest.raises(UsageError, match="either attested by somebody or verified"):
        plan(log, CONFIG, Oversight(seed_by="R. Okafor", verify_seeds=1))


def test_shares_of_delta_are_declared_and_add_up(log):
    declaration = plan(log, CONFIG, Oversight(verify_seeds=2, seed_share=0.2, canary_targets=1)).declaration
    assert declaration.share.seed == pytest.approx(0.01)
    assert len(declaration.seed_targets) == 2
    assert sum(stage.share for stage in declaration.stages) == pytest.approx(declaration.share.certificate)
    assert declaration.share.seed + declaration.share.certificate + declaration.share.noise == pytest.approx(0.05)


def test_a_seed_target_is_verified_by_rolling_it_out_before_anything_is_asked(log, tmp_path):
    with declared(log, tmp_path / "run", verify_seeds=1) as deployment:
        with pytest.raises(NoSeed):
            go(deployment)
        (target,) = deployment.state.declaration.seed_targets
        looks = []
        for _ in range(3):  # broken off, and gone on with
            verified = verify_seed(
                deployment,
                target,
                "toy/Dial",
                FAMILY,
                episodes=120,
                streams=Streams(0),
                on_batch=lambda ran, evidence: looks.append((ran, evidence)),
            )
        assert verified
        assert looks[-1][1] >= 1.0 / deployment.state.declaration.seed_level
        tests = events(deployment, SeedTested)
        assert len({test.source for test in tests}) == len(tests)
        assert all(len(test.failed) <= 10 for test in tests)
        go(deployment)
        assert len(events(deployment, Told)) == CONFIG.iterations
    assert verify(tmp_path / "run") == []


def test_without_an_operator_a_run_that_needs_approval_holds(log, tmp_path):
    with declared(log, tmp_path / "run", approve=True) as deployment:
        with pytest.raises(Unapproved):
            go(deployment)
        assert list(deployment.state.states.values()) == [TrialState.PLANNED]
        go(deployment, decide=yes)  # the same trial goes on
        assert len(events(deployment, Approved)) == len(events(deployment, Told)) == CONFIG.iterations
    assert verify(tmp_path / "run") == []


def test_a_rejected_trial_never_runs_and_its_target_does_not_come_back(log, tmp_path):
    def picky(trial):
        return Decision(by="R. Okafor", approved=trial.number % 2 == 1, reason="even numbers are unlucky")

    with declared(log, tmp_path / "run", approve=True) as deployment:
        with contextlib.suppress(NoCertifiedTarget):  # so many were rejected that nothing is left
            go(deployment, decide=picky)
        rejected = events(deployment, Rejected)
        assert rejected
        asked = {event.trial: event for event in events(deployment, Asked)}
        ran = {asked[event.trial].index for event in events(deployment, Told)}
        for event in rejected:
            later = [a.index for a in asked.values() if a.number > asked[event.trial].number]
            assert asked[event.trial].index not in later
        assert ran
    assert verify(tmp_path / "run") == []


def test_a_staged_roll_out_runs_fewer_episodes_on_reset_seeds_of_their_own(log, tmp_path):
    with declared(log, tmp_path / "run", canary_targets=1, canary_episodes=3) as deployment:

        def two_then_stop(trial, _):
            if trial.number % 2 == 1:
                raise KeyboardInterrupt

        for reason in ("as planned", "quiet"):
            with pytest.raises(KeyboardInterrupt):
                go(deployment, on_told=two_then_stop)
            deployment.advance("R. Okafor", reason)
        go(deployment)
        told = events(deployment, Told)
        assert [len(event.seeds) for event in told] == [3, 3, 3, 3, 6]
        seeds = [seed for event in told for seed in event.seeds]
        assert len(set(seeds)) == len(seeds)
        assert len(events(deployment, Shadowed)) == 2
        assert deployment.state.stage.name == "full"
    assert verify(tmp_path / "run") == []


def test_a_guarded_deployment_says_so_and_bounds_every_episode(log, tmp_path):
    guard = GuardPlan(margins={"cost": 2.0}, recovery=dial.Constant(reward=0.0, cost=0.0))

    class Reckless(dial.DialFamily):
        def at(self, target):  # noqa: ARG002 - it costs the same whatever is asked
            return dial.Constant(reward=1.0, cost=2.0)

    same = {"dataset": "log", "policy": "weights", "task": "toy/Dial", "seed": 0}
    oversight = plan(log, CONFIG)
    with open_or_create(tmp_path / "run", oversight, **same, guard=guard.margins) as deployment:
        assert deployment.events()[0].provenance["guard"] == {"cost": 2.0}
        with contextlib.suppress(NoCertifiedTarget):
            drive(deployment, "toy/Dial", Reckless(), streams=Streams(0), guard=guard)
        costs = [cost for event in events(deployment, Told) for cost in event.costs["cost"]]
        assert costs
        assert max(costs) <= 18.0 + 2.0 * (1 + dial.NOISE)
    with pytest.raises(UsageError, match="other data, seed or settings"):
        open_or_create(tmp_path / "run", oversight, **same)


def test_an_interrupted_run_under_oversight_is_as_an_unbroken_one(log, tmp_path):
    with declared(log, tmp_path / "whole", approve=True) as whole:
        go(whole, decide=yes)
        expected = [repr(event) for event in whole.events()]

    def cut(trial, _):
        if trial.number in (0, 2):
            raise KeyboardInterrupt

    with declared(log, tmp_path / "broken", approve=True) as broken:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                go(broken, decide=yes, on_told=cut)
    with Deployment.open(tmp_path / "broken") as again:
        go(again, decide=yes)
        assert [repr(event) for event in again.events()] == expected


def test_another_declaration_of_oversight_is_another_deployment(log, tmp_path):
    declared(log, tmp_path / "run", approve=True).close()
    with pytest.raises(UsageError, match="other data, seed or settings"):
        declared(log, tmp_path / "run")
    assert dataclasses.asdict(plan(log, CONFIG).declaration.settings)["approval"] is False


LONG = CONFIG.model_copy(update={"episodes_per_ask": 30})
"""Enough of an unsafe target for the costs' monitor to be sure."""


@dataclasses.dataclass(frozen=True)
class Worn(dial.DialFamily):
    """Obeys at some targets; costs far too much at all others."""

    obeyed: tuple = ()

    def at(self, target):
        return FAMILY.at(target) if target in self.obeyed else dial.Constant(reward=1.0, cost=4.0)


def test_after_an_alarm_the_fallback_runs_and_is_observed_batch_by_batch(log, tmp_path):
    with declared(log, tmp_path / "run", LONG) as deployment:
        worn = Worn(deployment.state.declaration.seed_targets)

        def run(batches):
            with pytest.raises(Alarm, match="The fallback is the seed target"):
                drive(deployment, "toy/Dial", worn, streams=Streams(0), fallback_batches=batches)

        run(0)
        told = len(events(deployment, Told))
        assert deployment.state.level == "seed"
        assert events(deployment, Observed) == []
        run(2)
        run(3)  # goes on where the two batches ended
        observed = events(deployment, Observed)
        assert len(observed) == 3
        assert len({event.source for event in observed}) == 3
        assert all(event.target in worn.obeyed and len(event.rewards) == 30 for event in observed)
        assert len(events(deployment, Told)) == told
    assert verify(tmp_path / "run") == []


def test_a_fallback_that_turns_out_unsafe_runs_no_further(log, tmp_path):
    with declared(log, tmp_path / "run", LONG) as deployment:
        worn = Worn(deployment.state.declaration.seed_targets)
        with pytest.raises(Alarm):
            drive(deployment, "toy/Dial", worn, streams=Streams(0))
        with pytest.raises(Alarm):
            drive(deployment, "toy/Dial", Worn(()), streams=Streams(0), fallback_batches=50)
        assert 1 <= len(events(deployment, Observed)) < 10
        assert deployment.state.level in ("seed", "stop")
        assert "No fallback is left" in deployment.status().reason
