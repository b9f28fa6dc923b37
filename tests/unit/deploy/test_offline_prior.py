"""Priors: the default mixture, contexts, and the affine map that an offline evaluation fits."""

import math

import numpy as np
import pytest
from deploy_toys import LIMIT, declaration, space
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_toys import with_context

from safehold.core.constraint import Limit
from safehold.core.errors import BadPrior
from safehold.core.target import TargetSpace
from safehold.deploy.declaration import Declaration
from safehold.deploy.prior import OfflineTable, OutputPrior, Prior
from safehold.gp.kernels import Factor, Matern52, Product
from safehold.gp.linear import LinearTerms

ALL = np.ones(81, dtype=np.bool_)
SCALES = {"reward": 80.0, "cost": 20.0}


def table(targets, costs, rewards=None, errors=1.0):
    """An offline evaluation of these targets."""
    targets = np.array(targets, dtype=np.float64)
    rows = len(targets)
    return OfflineTable(
        targets=targets,
        means={"reward": np.array(targets[:, 0] if rewards is None else rewards), "cost": np.array(costs)},
        standard_errors={"reward": np.full(rows, 2.0), "cost": np.full(rows, errors)},
    )


def believed(prior, targets, output="cost"):
    """Mean and covariance of the output at candidates, kernels and coefficients together."""
    cost = prior.costs[output]
    indices = [prior.space.index(target) for target in targets]
    return cost.mean[indices], cost.linear.cross(np.array(indices), np.array(indices))


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_the_affine_map_is_that_of_bayesian_linear_regression_in_information_form(seed, rows):
    """b ~ N(b0, sd^2 I), y = Phi b + g + e: precision = I / sd^2 + Phi^T C^-1 Phi, C = K + diag(se^2)."""
    rng = np.random.default_rng(seed)
    prior = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES, dial_error={"cost": 6.0})
    targets = rng.uniform(0, 1, size=(rows, 2)) * [160.0, 40.0]
    costs = rng.uniform(5, 30, size=rows)
    errors = float(rng.uniform(0.1, 4.0))
    fitted = prior.from_offline([LIMIT], table(targets, costs, errors=errors))

    def features(points):
        return np.column_stack([np.ones(len(points)), points[:, 0] / 80.0 - 1.0, points[:, 1] / 20.0 - 1.0])

    kernel = prior.costs["cost"].kernels[0]
    noise = kernel(targets, targets) + errors**2 * np.eye(rows)
    phi = features(targets)
    precision = np.eye(3) / 36.0 + phi.T @ np.linalg.solve(noise, phi)
    identity = np.array([20.0, 0.0, 20.0])  # the map G = 20 + 20 * (G / 20 - 1)
    covariance = np.linalg.inv(precision)
    mean = covariance @ (identity / 36.0 + phi.T @ np.linalg.solve(noise, costs))
    everywhere = features(prior.space.points)
    np.testing.assert_allclose(fitted.costs["cost"].mean, np.maximum(everywhere @ mean, 0.0), rtol=1e-7, atol=1e-7)
    linear = fitted.costs["cost"].linear
    np.testing.assert_allclose(linear.features, everywhere, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(linear.covariance, covariance, rtol=1e-6, atol=1e-8)


def test_the_offline_evaluation_corrects_the_dial_and_leaves_less_uncertainty_the_more_it_holds():
    prior = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    targets = [(r, c) for r in (20.0, 80.0, 140.0) for c in (5.0, 20.0, 35.0)]
    costs = [0.5 * c + 4.0 for _, c in targets]
    fitted = prior.from_offline([LIMIT], table(targets, costs, rewards=[0.8 * r for r, _ in targets]))
    few = prior.from_offline([LIMIT], table(targets[:2], costs[:2]))
    points = prior.space.points
    gap = np.abs(fitted.costs["cost"].mean - (0.5 * points[:, 1] + 4.0)).mean()
    assert gap < 0.5 * np.abs(prior.costs["cost"].mean - (0.5 * points[:, 1] + 4.0)).mean()
    assert np.trace(fitted.costs["cost"].linear.covariance) < np.trace(few.costs["cost"].linear.covariance)
    assert np.trace(few.costs["cost"].linear.covariance) < 3 * 10.0**2  # below the shrinkage prior
    assert fitted.costs["cost"].kernels == prior.costs["cost"].kernels  # the dial's own error is no smaller
    assert fitted.reward.linear is not None


def test_without_support_an_offline_evaluation_puts_no_cost_under_the_limit():
    support = space().points[:, 0] < 100
    prior = Prior.asked(space(), [LIMIT], support, lengthscales=SCALES)
    fitted = prior.from_offline([LIMIT], table([(20.0, 5.0), (60.0, 20.0), (80.0, 35.0)], [1.0, 1.0, 1.0]))
    assert np.all(fitted.costs["cost"].mean[~support] >= 20.0)
    assert np.any(fitted.costs["cost"].mean[support] < 10.0)
    assert np.all(fitted.costs["cost"].mean >= 0.0)


def test_an_estimate_without_error_in_the_limit_of_many_rows_never_makes_the_map_exact():
    """The targets of the table carry an error of the dial's own: replicating one of them adds nothing in the limit."""
    prior = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    fitted = prior.from_offline([LIMIT], table([(80.0, 20.0)] * 50, [15.0] * 50, errors=1e-3))
    offset, covariance = believed(fitted, [(80.0, 20.0)])
    assert covariance[0, 0] == pytest.approx(50.0, rel=1e-3)  # half of 10^2: the map's share of what was seen
    assert offset[0] == pytest.approx(17.5, rel=1e-3)


def test_a_fitted_prior_survives_the_ledger():
    prior = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    fitted = prior.from_offline([LIMIT], table([(20.0, 5.0), (60.0, 20.0)], [4.0, 12.0]))
    good = declaration()
    before = Declaration(
        prior=fitted, limits=good.limits, caps=good.caps, seed_targets=good.seed_targets, delta=0.1, horizon=5
    )
    after = Declaration.from_json(before.to_json())
    for name in ("features", "covariance"):
        np.testing.assert_array_equal(
            getattr(after.prior.costs["cost"].linear, name), getattr(fitted.costs["cost"].linear, name)
        )
    assert after.to_json() == before.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": {"reward": np.ones(2)}}, "give both for each of"),
        ({"standard_errors": {"cost": np.ones(2)}}, "give both for each of"),
        ({"targets": np.zeros((2, 3))}, "with the axes"),
        ({"targets": np.full((2, 2), np.nan)}, "finite, with the axes"),
        (
            {"standard_errors": {"reward": np.ones(2), "cost": np.zeros(2)}},
            "an estimate without an error is no evidence",
        ),
        ({"means": {"reward": np.ones(2), "cost": np.array([1.0, np.inf])}}, "must be finite"),
    ],
)
def test_a_table_that_is_no_evidence_is_refused(change, message):
    prior = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    good = table([(20.0, 5.0), (60.0, 20.0)], [4.0, 12.0])
    fields = {"targets": good.targets, "means": good.means, "standard_errors": good.standard_errors, **change}
    with pytest.raises(BadPrior, match=message):
        prior.from_offline([LIMIT], OfflineTable(**fields))


def test_a_table_without_rows_is_refused():
    prior = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    with pytest.raises(BadPrior, match="give at least one"):
        prior.from_offline([LIMIT], table(np.zeros((0, 2)), []))


def test_a_table_with_rows_that_do_not_match_is_refused():
    prior = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    ragged = OfflineTable.__new__(OfflineTable)
    for name, value in (
        ("targets", np.ones((2, 2))),
        ("means", {"reward": np.ones(2), "cost": np.ones(3)}),
        ("standard_errors", {"reward": np.ones(2), "cost": np.ones(2)}),
    ):
        object.__setattr__(ragged, name, value)
    with pytest.raises(BadPrior, match="has 2 targets, 3 means and 2 errors"):
        prior.from_offline([LIMIT], ragged)


def test_by_default_a_cost_mixes_short_and_long_scales_and_two_errors_of_the_dial():
    """7 shapes (5 alike along all axes, 2 uneven) times 2 standard deviations; short ones weigh more."""
    prior = Prior.asked(space(), [LIMIT], ALL)
    cost = prior.costs["cost"]
    assert len(cost.kernels) == 14
    assert {kernel.sd for kernel in cost.kernels} == {7.0, 14.0}
    shares = np.array([[k.lengthscales[0] / 160.0, k.lengthscales[1] / 40.0] for k in cost.kernels])
    expected = {(0.1, 0.1), (0.15, 0.15), (0.2, 0.2), (0.3, 0.3), (0.5, 0.5), (0.5, 0.2), (0.2, 0.5)}
    assert {tuple(row) for row in shares.round(12).tolist()} == expected
    weights = 1.0 / np.sqrt(shares[:, 0] * shares[:, 1])
    np.testing.assert_allclose(cost.weights, weights / weights.sum(), rtol=1e-12)
    assert cost.dial_sd == pytest.approx(math.sqrt((7.0**2 + 14.0**2) / 2))
    assert len(prior.reward.kernels) == 1


def test_a_dial_of_one_axis_or_of_one_value_has_a_prior_too():
    narrow = TargetSpace({"reward": (50.0,), "cost": (0.0, 10.0, 20.0)})
    prior = Prior.asked(narrow, [LIMIT], np.ones(3, dtype=np.bool_), reward_dial_error=5.0, reward_episode_sd=1.0)
    assert all(kernel.lengthscales[0] in (0.1, 0.15, 0.2, 0.3, 0.5) for kernel in prior.costs["cost"].kernels)
    fitted = prior.from_offline([LIMIT], table([(50.0, 10.0)], [8.0]))
    assert fitted.costs["cost"].linear.covariance.shape == (2, 2)  # no slope along an axis without a range


def test_a_mixture_covers_the_average_of_its_kernels():
    cost = Prior.asked(space(), [LIMIT], ALL).costs["cost"]
    points = space().points[:7]
    total = sum(w * k(points, points) for w, k in zip(cost.weights, cost.kernels, strict=True))
    np.testing.assert_allclose(cost.covariance(points, points), total, rtol=1e-12)
    np.testing.assert_allclose(np.diag(total), cost.dial_sd**2, rtol=1e-12)


def test_a_context_is_a_categorical_factor_of_every_kernel():
    declared = with_context(correlation=0.6)
    (kernel,) = declared.prior.costs["cost"].kernels
    assert kernel == Product(10.0, (Factor("matern52", 80.0), Factor("matern52", 20.0), Factor("categorical", 0.6)))
    a, b = np.array([[40.0, 10.0, 0.0]]), np.array([[40.0, 10.0, 1.0]])
    assert kernel(a, b)[0, 0] == pytest.approx(0.6 * kernel(a, a)[0, 0])
    mixed = with_context_by_default(0.6)
    assert all(k.lengthscales[2] == 0.6 for k in mixed.costs["cost"].kernels)
    assert len(mixed.costs["cost"].kernels) == 14  # a context has no length-scale to be uncertain of


def with_context_by_default(correlation):
    menu = TargetSpace({**space().axes, "payload": (0.0, 1.0)})
    return Prior.asked(menu, [LIMIT], np.ones(162, dtype=np.bool_), contexts={"payload": correlation})


def test_the_affine_map_has_no_slope_along_a_context():
    prior = with_context_by_default(0.6)
    fitted = prior.from_offline([LIMIT], table([(80.0, 20.0, 0.0), (40.0, 10.0, 1.0)], [15.0, 8.0]))
    assert fitted.costs["cost"].linear.covariance.shape == (3, 3)
    mean = fitted.costs["cost"].mean.reshape(9, 9, 2)
    np.testing.assert_array_equal(mean[..., 0], mean[..., 1])


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ({"payload": 1.0}, r"correlation in \[0, 1\)"),
        ({"weather": 0.5}, "'weather' is no axis of the dial"),
    ],
)
def test_contexts_that_mean_nothing_are_refused(contexts, message):
    menu = TargetSpace({**space().axes, "payload": (0.0, 1.0)})
    with pytest.raises(BadPrior, match=message):
        Prior.asked(menu, [LIMIT], np.ones(162, dtype=np.bool_), contexts=contexts)


def test_the_reward_is_no_context():
    menu = TargetSpace({"payload": (0.0, 1.0), "cost": (0.0, 10.0)})
    kernels = (Matern52(1.0, (1.0, 1.0)),)
    output = OutputPrior(mean=np.zeros(4), kernels=kernels, episode_sd=1.0)
    with pytest.raises(BadPrior, match="or its first, the reward"):
        Prior(
            space=menu,
            reward=output,
            costs={"cost": output},
            support=np.ones(4, dtype=np.bool_),
            contexts=("payload",),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": ()}, "needs at least one kernel"),
        ({"weights": (1.0, 2.0)}, "1 kernels have the weights"),
        ({"weights": (0.0,)}, "one each, positive"),
        ({"weights": (math.inf,)}, "one each, positive"),
    ],
)
def test_kernels_and_weights_of_a_prior_belong_together(change, message):
    with pytest.raises(BadPrior, match=message):
        OutputPrior(**{"mean": np.zeros(3), "kernels": (Matern52(1.0, (1.0,)),), "episode_sd": 1.0, **change})


def test_linear_terms_have_a_row_for_every_candidate():
    good = Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES)
    cost = good.costs["cost"]
    linear = LinearTerms(np.ones((5, 1)), np.eye(1))
    output = OutputPrior(mean=cost.mean, kernels=cost.kernels, episode_sd=1.0, linear=linear)
    with pytest.raises(BadPrior, match="linear terms of cost 'cost' have 5 rows for 81 candidates"):
        Prior(space=space(), reward=good.reward, costs={"cost": output}, support=ALL)


def test_a_chance_limit_expects_the_statistic_of_the_asked_cost():
    limit = Limit("cost", 30.0, "chance", 0.1)
    prior = Prior.asked(space(), [limit], ALL, lengthscales=SCALES, episode_sd={"cost": 4.0})
    np.testing.assert_allclose(prior.costs["cost"].mean, space().points[:, 1] + 1.2815515655446004 * 4.0)


def test_what_was_declared_is_explained_in_words():
    prior = with_context_by_default(0.6)
    words = prior.explain().splitlines()
    assert words[0] == (
        "162 candidates over reward (9 values from 0 to 160), cost (9 values from 0 to 40), "
        "payload (2 values from 0 to 1, a context); the log supports 162 of them."
    )
    assert words[1] == (
        "Cost 'cost': expected 0 to 40 where supported; the dial may be off by a standard deviation of 7 or 14, in 14 "
        "kernels with length-scales reward 16 to 80; cost 4 to 20. One episode scatters by 10 (at least; more where "
        "replicates show it)."
    )
    assert words[2].startswith("The reward: expected 0 to 160")
    nowhere = Prior.asked(space(), [LIMIT], ~ALL, lengthscales=SCALES, noise_known=True)
    fitted = Prior.asked(space(), [LIMIT], ALL).from_offline([LIMIT], table([(80.0, 20.0)], [15.0]))
    assert "the log supports 0 of them" in nowhere.explain()
    assert "(known)" in nowhere.explain()
    assert "an affine map with uncertain coefficients" in fitted.explain()
    shaped = OutputPrior(mean=np.zeros(81), kernels=prior.reward.kernels[:1], episode_sd=np.linspace(1.0, 3.0, 81))
    two = Prior(
        space=space(),
        reward=Prior.asked(space(), [LIMIT], ALL, lengthscales=SCALES).reward,
        costs={
            "cost": OutputPrior(mean=shaped.mean, kernels=(Matern52(1.0, (1.0, 1.0)),), episode_sd=shaped.episode_sd)
        },
        support=ALL,
    )
    assert "One episode scatters by 1 to 3" in two.explain()
