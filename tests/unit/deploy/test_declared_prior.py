import math

import numpy as np
import pytest
from deploy_toys import LIMIT, declaration, space, two_limits

from safehold.core.constraint import Limit
from safehold.core.errors import BadPrior, IntegrityError, NoSeed, UsageError
from safehold.deploy.certificates.log_det import LogDet
from safehold.deploy.declaration import Declaration, Settings, kernel_name
from safehold.deploy.prior import OutputPrior, Prior
from safehold.gp.confidence import alpha
from safehold.gp.kernels import Matern52, SquaredExponential

ALL = np.ones(81, dtype=np.bool_)
SCALES = {"reward": 80.0, "cost": 20.0}


def test_the_policy_is_expected_to_do_what_it_is_asked():
    prior = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    np.testing.assert_array_equal(prior.reward.mean, space().points[:, 0])
    np.testing.assert_array_equal(prior.costs["cost"].mean, space().points[:, 1])
    assert prior.costs["cost"].kernels == (Matern52(10.0, (80.0, 20.0)),)
    assert prior.costs["cost"].episode_sd == 10.0
    assert prior.reward.kernels[0].sd == 40.0


def test_without_support_the_cost_is_expected_at_the_limit_or_above():
    support = space().points[:, 0] < 100
    prior = Prior.asked(space(), [LIMIT], support, lengthscales=SCALES)
    mean = prior.costs["cost"].mean
    np.testing.assert_array_equal(mean[support], space().points[support, 1])
    assert np.all(mean[~support] >= 20.0)
    assert mean[~support].max() == 40.0


def test_declared_scales_are_taken_as_they_are():
    prior = Prior.asked(
        space(),
        [LIMIT],
        ALL,
        lengthscales=SCALES,
        dial_error={"cost": 7.0},
        episode_sd={"cost": 3.0},
        reward_dial_error=11.0,
        reward_episode_sd=2.0,
        kernel=SquaredExponential,
    )
    assert prior.costs["cost"].kernels == (SquaredExponential(7.0, (80.0, 20.0)),)
    assert (prior.costs["cost"].episode_sd, prior.reward.dial_sd, prior.reward.episode_sd) == (3.0, 11.0, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengthscales": {"reward": 80.0}}, "lengthscales are declared for"),
        ({"lengthscales": {"reward": 80.0, "cost": 0.0}}, "dial error of cost 'cost': kernel scales"),
        ({"dial_error": {"cost": math.nan}}, "dial error of cost 'cost'"),
        ({"dial_error": {"coast": 1.0}}, "names 'coast', which has no limit"),
        ({"episode_sd": {"cost": 0.0}}, "must be positive"),
        ({"episode_sd": {"coast": 1.0}}, "names 'coast', which has no limit"),
        ({"reward_dial_error": -1.0}, "dial error of the reward"),
    ],
)
def test_refuses_scales_that_are_missing_or_mean_nothing(change, message):
    with pytest.raises(BadPrior, match=message):
        Prior.asked(space(), [LIMIT], ALL, **{"lengthscales": SCALES, **change})


def test_a_limit_needs_an_axis_of_its_own():
    with pytest.raises(BadPrior, match="no axis for the limited cost 'fall'"):
        Prior.asked(space(), [Limit("fall", 1.0)], ALL, lengthscales=SCALES)


def test_a_limit_of_zero_needs_a_declared_dial_error():
    with pytest.raises(BadPrior, match="dial error of cost 'cost'"):
        Prior.asked(space(), [Limit("cost", 0.0)], ALL, lengthscales=SCALES)


def test_refuses_arrays_that_do_not_fit_the_menu():
    good = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    with pytest.raises(BadPrior, match="support marks"):
        Prior(space=space(), reward=good.reward, costs=good.costs, support=ALL[:5])
    broken = OutputPrior(mean=np.full(81, np.nan), kernels=good.reward.kernels, episode_sd=1.0)
    with pytest.raises(BadPrior, match="81 non-finite"):
        Prior(space=space(), reward=good.reward, costs={"cost": broken}, support=ALL)
    flat = OutputPrior(mean=np.zeros(81), kernels=(Matern52(1.0, (1.0,)),), episode_sd=1.0)
    with pytest.raises(BadPrior, match="1 lengthscales"):
        Prior(space=space(), reward=flat, costs=good.costs, support=ALL)


def test_a_foreign_kernel_has_no_name_in_a_ledger():
    class Mine(Matern52):
        pass

    with pytest.raises(UsageError, match="no name in a ledger"):
        kernel_name(Mine(1.0, (1.0,)))


def test_a_prior_that_certifies_before_any_evidence_is_refused():
    with pytest.raises(BadPrior, match=r"the rule 'paper' would certify .*upper bound .* against limit 20"):
        declaration(dial_error={"cost": 1.0})


def test_the_printed_prior_of_zero_mean_and_unit_variance_is_refused():
    """PLS: zero mean, variance 1, b = 20 in raw units: 0 + 6 sd = 6 < 20 would certify the whole menu unseen."""
    good = declaration().prior
    printed = OutputPrior(mean=np.zeros(81), kernels=(SquaredExponential(1.0, (80.0, 20.0)),), episode_sd=1.0)
    with pytest.raises(BadPrior, match="a certificate must rest on evidence"):
        Declaration(
            prior=Prior(space=good.space, reward=good.reward, costs={"cost": printed}, support=good.support),
            limits=(LIMIT,),
            caps={"cost": 200.0},
            seed_targets=((40.0, 0.0),),
            delta=0.1,
            horizon=10,
        )


def test_a_prior_mean_beyond_the_cap_is_refused():
    with pytest.raises(BadPrior, match=r"outside \[0, cap = 30.0\]"):
        declaration(caps={"cost": 30.0})


def test_a_deployment_without_seed_targets_is_refused():
    with pytest.raises(NoSeed, match="no seed target"):
        declaration(seeds=())


def test_a_seed_target_outside_the_support_is_refused():
    with pytest.raises(UsageError, match="outside the support"):
        declaration(seeds=((40.0, 0.0),), support=space().points[:, 0] > 50)


def test_a_seed_target_beside_the_grid_is_refused():
    with pytest.raises(UsageError, match="not a point of the grid"):
        declaration(seeds=((40.5, 0.0),))


@pytest.mark.parametrize("cap", [math.nan, math.inf, 20.0, -1.0])
def test_a_cap_is_finite_and_above_the_limit(cap):
    with pytest.raises(UsageError, match="cap of cost 'cost'"):
        declaration(caps={"cost": cap})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": 0.0}, "delta is 0"),
        ({"delta": 1.0}, "delta is 1"),
        ({"horizon": -1}, "horizon is -1"),
        ({"caps": {"cost": 200.0, "fall": 1.0}}, "the three must agree"),
        ({"caps": {"fall": 1.0}}, "cap of cost 'cost' is None"),
    ],
)
def test_refuses_a_declaration_that_does_not_fit_together(change, message):
    with pytest.raises(UsageError, match=message):
        declaration(**change)


def test_the_band_of_a_fixed_function_does_not_pretend_to_cover_single_episodes():
    good = declaration()
    with pytest.raises(UsageError, match="covers mean and peak"):
        Declaration(
            prior=good.prior,
            limits=(Limit("cost", 20.0, "chance", 0.1),),
            caps=good.caps,
            seed_targets=good.seed_targets,
            delta=0.1,
            horizon=10,
            rules=(LogDet({"cost": 2.0}, {"cost": 5.0}),),
        )


@pytest.mark.parametrize(
    "change",
    [
        {"exploration_width": -0.1},
        {"exploration_width": math.nan},
        {"exploration_share": 1.1},
        {"pending_cap": 0},
        {"episodes_per_ask": 0},
    ],
)
def test_refuses_settings_that_mean_nothing(change):
    with pytest.raises(UsageError):
        Settings(**change)


def test_a_declaration_survives_the_ledger():
    support = space().points[:, 0] < 150
    before = declaration(support=support, kernel=Matern52, settings=Settings(pending_cap=3))
    after = Declaration.from_json(before.to_json())
    assert after.to_json() == before.to_json()
    assert after.space.names == ("reward", "cost")
    assert after.settings == before.settings
    np.testing.assert_array_equal(after.prior.support, support)
    np.testing.assert_array_equal(after.prior.costs["cost"].mean, before.prior.costs["cost"].mean)
    assert after.prior.costs["cost"].kernels == before.prior.costs["cost"].kernels


def test_an_altered_declaration_is_refused():
    plain = declaration().to_json()
    with pytest.raises(IntegrityError, match="unknown kernel 'periodic'"):
        Declaration.from_json({**plain, "reward": {**plain["reward"], "kernels": [{"kernel": "periodic"}]}})
    with pytest.raises(IntegrityError, match="are ordered as"):
        Declaration.from_json({**plain, "axis_order": ["reward", "price"]})
    with pytest.raises(IntegrityError, match="expected the fields"):
        Declaration.from_json({**plain, "extra": 1})


def test_delta_is_split_over_the_limits_and_not_spent_on_the_reward():
    two = two_limits(delta=0.1)
    assert two.alpha(3) == pytest.approx(alpha(4, len(two.space), 0.045), rel=1e-12)
    assert two.reward_alpha(3) == alpha(4, len(two.space), 0.1)
