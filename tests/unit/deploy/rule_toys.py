"""Dense arithmetic that shares no code with the engines, and a dial with a context."""

import numpy as np
from deploy_toys import LIMIT, measurement
from scipy.stats import multivariate_normal, norm

from safehold.core.errors import SafetyHold
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.optimizer import TargetOptimizer
from safehold.deploy.prior import Prior

LEDGER = (RiskLedger(),)


def told_points(state):
    """(indices, means, episodes) of every told trial of this epoch, in the order of telling."""
    told = [event for event in state.told.values() if state.asked[event.trial].number >= state.epoch_start]
    indices = np.array([state.asked[event.trial].index for event in told], dtype=np.int64)
    return (
        indices,
        np.array([e.measurement.mean_cost("cost") for e in told]),
        np.array([len(e.costs["cost"]) for e in told]),
    )


def dense_posterior(kernel, points, prior_mean, indices, values, noise):
    """(mean, sd, log evidence, ln det(I + D^-1/2 K D^-1/2)) by inverting one dense matrix."""
    x = points[indices]
    gram = kernel(x, x)
    total = gram + np.diag(noise)
    cross = kernel(points, x) @ np.linalg.inv(total)
    mean = prior_mean + cross @ (values - prior_mean[indices])
    variance = kernel.diagonal(points) - np.sum(cross * kernel(points, x), axis=1)
    evidence = multivariate_normal(prior_mean[indices], total).logpdf(values) if len(x) else 0.0
    scaled = np.eye(len(x)) + gram / np.sqrt(np.outer(noise, noise))
    return mean, np.sqrt(variance), float(evidence), float(np.linalg.slogdet(scaled)[1])


def dense_risk(output, points, indices, values, noise, limit, inflate=1.0):
    """P(cost > limit) under the declared mixture, from its definition."""
    evidences, risks = [], []
    for weight, kernel in zip(output.weights, output.kernels, strict=True):
        mean, sd, evidence, _ = dense_posterior(kernel, points, output.mean, indices, values, noise)
        evidences.append(np.log(weight) + evidence)
        wide = np.where(mean < limit, inflate * sd, sd)
        risks.append(norm.sf((limit - mean) / wide))
    weights = np.exp(np.array(evidences) - max(evidences))
    return (weights / weights.sum()) @ np.array(risks)


def drive_with(optimizer, costs, episodes=20):
    """Asks and tells these mean costs, one an ask, until the deployment holds; the trials."""
    trials = []
    for cost in costs:
        try:
            trial = optimizer.ask()
        except SafetyHold:
            break
        trials.append(optimizer.tell(trial.id, measurement(trial.target[0], cost, episodes=episodes, spread=0.5)))
    return trials


def with_context(*, correlation=0.8, rules=LEDGER, delta=0.1, horizon=20, settings=None, limit=LIMIT, **scales):
    """A dial of reward, cost and payload 0 or 1; seed targets with payload 0 alone."""
    menu = TargetSpace(
        {
            "reward": tuple(np.linspace(0.0, 160.0, 5)),
            "cost": tuple(np.linspace(0.0, 40.0, 5)),
            "payload": (0.0, 1.0),
        }
    )
    prior = Prior.asked(
        menu,
        (limit,),
        np.ones(len(menu), dtype=np.bool_),
        lengthscales={"reward": 80.0, "cost": 20.0},
        contexts={"payload": correlation},
        **scales,
    )
    return Declaration(
        prior=prior,
        limits=(limit,),
        caps={"cost": 200.0},
        seed_targets=((0.0, 0.0, 0.0), (40.0, 0.0, 0.0)),
        delta=delta,
        horizon=horizon,
        rules=rules,
        settings=settings or Settings(),
    )


def optimizer_with_context(**declared):
    """An optimizer over the dial with a payload."""
    return TargetOptimizer(with_context(**declared))
