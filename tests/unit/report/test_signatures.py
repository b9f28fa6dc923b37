"""Each way to fail shows when it is there, and seldom when it is not."""

from dataclasses import replace

import numpy as np
import pytest

from safehold.core.constraint import Limit
from safehold.core.errors import SafetyHold
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.declaration import Declaration
from safehold.deploy.optimizer import TargetOptimizer
from safehold.deploy.prior import Prior
from safehold.deploy.watch import Monitors
from safehold.gp.kernels import SquaredExponential
from safehold.report import signatures as signs

RNG_RUNS = 400
LARGEST = 4  # of 400 runs at level 1e-3: P(more than 4) = 6e-5


def test_no_growth_is_collapse_only_while_asks_are_left():
    assert signs.conservative_collapse([0, 0, 0], asks_left=5).name == "conservative collapse"
    assert "5 asks left" in signs.conservative_collapse([0, 0, 0], asks_left=5).evidence
    assert signs.conservative_collapse([0, 0, 0], asks_left=0) is None
    assert signs.conservative_collapse([0, 3, 0], asks_left=5) is None
    assert signs.conservative_collapse([0, 0], asks_left=5) is None


@pytest.mark.parametrize("n", [5, 20, 60])
def test_right_innovations_are_seldom_called_wrong(n):
    rng = np.random.default_rng(n)
    runs = rng.normal(size=(RNG_RUNS, n))
    for test in (signs.over_confident, signs.under_confident):
        assert sum(test("cost", run) is not None for run in runs) <= LARGEST
    assert sum(signs.drift("cost", run, []) is not None for run in runs) <= LARGEST


def test_wide_and_narrow_innovations_are_named():
    rng = np.random.default_rng(0)
    residuals = rng.normal(size=20)
    assert signs.over_confident("cost", 2.5 * residuals).name == "over-confident model"
    assert signs.under_confident("cost", 0.3 * residuals).name == "under-confident model"
    assert "20 tells" in signs.over_confident("cost", 2.5 * residuals).evidence
    assert signs.over_confident("cost", np.full(4, 9.0)) is None  # too few to say
    assert signs.under_confident("cost", np.array([])) is None


def test_noise_is_compared_with_its_declaration_by_its_lower_bound():
    rng = np.random.default_rng(0)
    alarms = sum(signs.noise_above_floor("cost", s, 60, known=True) is not None for s in rng.chisquare(60, RNG_RUNS))
    assert alarms <= LARGEST
    found = signs.noise_above_floor("cost", 4.0 * 60, 60, known=True)
    assert found.name == "noise larger than declared"
    assert "2 times as much" in found.evidence
    assert "stop asking" in found.remedy
    assert signs.noise_above_floor("cost", 1.7 * 60, 60, known=True) is not None
    assert signs.noise_above_floor("cost", 1.7 * 60, 60, known=False) is None  # bounded from above anyway
    assert signs.noise_above_floor("cost", 99.0, 4, known=True) is None


def test_learning_five_times_from_one_target_is_stuck():
    assert signs.stuck([(1, True), *[(7, True)] * 5]).evidence.startswith("the last 5 asks")
    assert signs.stuck([(7, True)] * 4) is None
    assert signs.stuck([(7, False)] * 9) is None  # the best target again and again is the purpose
    assert signs.stuck([(7, True)] * 4 + [(8, True)]) is None
    assert signs.stuck([]) is None


def dial(slope: float, noise: float, n: int = 12, seed: int = 0) -> signs.Signature | None:
    rng = np.random.default_rng(seed)
    targets = np.column_stack([rng.uniform(0, 3000, n), rng.integers(0, 20, n).astype(np.float64)])
    told = 3.0 + 0.001 * targets[:, 0] + slope * targets[:, 1] + rng.normal(0, noise, n)
    return signs.dial_does_not_respond("cost", targets, 1, told, targets[:, 1], limit=20.0)


def test_a_dead_dial_is_named_and_a_live_or_noisy_one_is_not():
    assert "foretold were" in dial(0.0, 0.5).evidence
    assert dial(-0.5, 0.5) is not None  # one that works backwards is no better
    assert dial(1.0, 0.5) is None
    assert dial(0.0, 20.0) is None  # nobody can tell
    assert dial(0.0, 0.5, n=5) is None
    assert sum(dial(1.0, 3.0, seed=seed) is not None for seed in range(RNG_RUNS)) <= LARGEST


def test_a_dial_whose_changes_nobody_would_feel_is_not_spoken_of():
    targets = np.column_stack([np.arange(12.0), np.arange(12.0) ** 2 % 7])
    assert signs.dial_does_not_respond("cost", targets, 1, np.zeros(12), targets[:, 1], limit=1000.0) is None


def test_spending_early_is_named_before_half_time_only():
    assert signs.spent_early(0.04, 0.045, 8, 20).evidence == "0.04 of 0.045 was spent by 8 of 20 asks"
    assert signs.spent_early(0.04, 0.045, 12, 20) is None
    assert signs.spent_early(0.02, 0.045, 8, 20) is None


def test_revocations_and_a_refuted_premise_are_named():
    assert signs.revocations(0, refuted=False) is None
    assert signs.revocations(1, refuted=False).evidence.startswith("1 deployed target is revoked")
    assert "A6" in signs.revocations(2, refuted=True).remedy


def test_innovations_that_move_are_drift():
    rng = np.random.default_rng(0)
    residuals = rng.normal(size=20)
    residuals[12:] += 4.0
    found = signs.drift("cost", residuals, [])
    assert found.name == "drift"
    assert "from about tell 14 on" in found.evidence
    assert "dearer" in found.evidence


def test_wide_innovations_are_not_drift():
    rng = np.random.default_rng(1)
    assert sum(signs.drift("cost", run, []) is not None for run in 4 * rng.normal(size=(RNG_RUNS, 30))) <= 2 * LARGEST


def test_repeats_that_differ_are_drift_and_equal_ones_are_not():
    rng = np.random.default_rng(0)

    def episodes(shift: float) -> list[tuple[int, np.ndarray]]:
        return [(n % 3, rng.normal(5 + shift * (n >= 3), 2, 10)) for n in range(6)]

    assert "3 target(s)" in signs.drift("cost", np.array([]), episodes(4.0)).evidence
    assert sum(signs.drift("cost", np.array([]), episodes(0.0)) is not None for _ in range(RNG_RUNS)) <= LARGEST
    constant = [(0, np.zeros(5)), (0, np.ones(5))]
    assert signs.drift("cost", np.array([]), constant) is not None
    assert signs.drift("cost", np.array([]), [(0, np.zeros(5)), (0, np.zeros(5))]) is None


# whole runs

SPACE = TargetSpace({"reward": tuple(np.linspace(0, 100, 9)), "cost": tuple(np.linspace(0, 40, 9))})
SEEDS = ((50.0, 0.0), (75.0, 5.0))


def played(
    seed: int, *, tells: int = 15, shift: float = 0.0, scatter: float = 1.0, error: float = 1.0, dead: bool = False
) -> set[str]:
    """Names that show after a run on a world drawn from the declared prior.

    Or not from it: costs that move by `shift` at the ninth tell, `scatter` times the noise, `error` times the dial
    error, or a policy that is asked in vain.
    """
    limits = (Limit("cost", 65.0),)
    prior = Prior.asked(
        SPACE,
        limits,
        np.ones(81, dtype=np.bool_),
        lengthscales={"reward": 60.0, "cost": 24.0},
        dial_error={"cost": 12.0},
        episode_sd={"cost": 4.0},
        kernel=SquaredExponential,
    )
    cost = replace(prior.costs["cost"], mean=prior.costs["cost"].mean + 40.0)
    optimizer = TargetOptimizer(
        Declaration(
            prior=replace(prior, costs={"cost": cost}),
            limits=limits,
            caps={"cost": 1000.0},
            seed_targets=SEEDS,
            delta=0.1,
            horizon=20,
            monitors=Monitors(innovation=None, cost=None),
        )
    )
    rng = np.random.default_rng(seed)
    covariance = np.sum([w * k(SPACE.points, SPACE.points) for w, k in zip(cost.weights, cost.kernels, strict=True)], 0)
    deviation = error * rng.multivariate_normal(np.zeros(81), covariance, method="svd")
    truth = 40.0 + (0.0 if dead else 1.0) * SPACE.points[:, 1] + deviation
    for number in range(tells):
        try:
            trial = optimizer.ask()
        except SafetyHold:
            break
        mean = truth[SPACE.index(trial.target)] + shift * (number >= 8)
        outcome = Measurement(
            rewards=rng.normal(trial.target[0], 5.0, 20),
            costs={"cost": np.maximum(rng.normal(mean, 4.0 * scatter, 20), 0.0)},
            failed=np.zeros(20, dtype=np.bool_),
        )
        optimizer.tell(trial.id, outcome)
    return {found.name for found in signs.signatures(optimizer.state)}


def test_a_run_without_tells_shows_nothing():
    assert played(0, tells=0) == set()


def test_a_world_drawn_from_its_declaration_shows_nothing():
    shown = [played(seed) for seed in range(12)]
    assert [names - {"revocations"} for names in shown] == [set()] * 12
    assert sum("revocations" in names for names in shown) <= 3  # no test: these targets were measured over the limit


def test_a_belief_too_wide_shows():
    assert "under-confident model" in played(0, error=0.05, scatter=0.3)


def test_a_world_that_changes_shows_as_drift():
    assert "drift" in played(0, shift=40.0)


def test_louder_episodes_show_as_noise():
    assert "noise larger than declared" in played(0, scatter=2.0)


def test_a_policy_that_does_not_listen_shows():
    assert "dial does not respond" in played(0, tells=20, error=0.05, dead=True)
