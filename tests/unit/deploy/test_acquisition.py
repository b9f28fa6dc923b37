from dataclasses import replace

import numpy as np
import pytest
from deploy_toys import answer, declaration, drive, space, two_limits

from safehold.deploy.acquisition import (
    ACQUISITIONS,
    Acquisition,
    best,
    expanders,
    relative_width,
    upper_reward,
    widest,
)
from safehold.deploy.choose import view as view_of
from safehold.deploy.optimizer import TargetOptimizer
from safehold.gp.confidence import alpha


@pytest.fixture
def view():
    optimizer = TargetOptimizer(declaration())
    for _ in range(4):
        trial = optimizer.ask()
        optimizer.tell(trial.id, answer(trial.target))
    return view_of(optimizer.state, optimizer.state.verdict())


@pytest.mark.parametrize("acquisition", ACQUISITIONS.values(), ids=ACQUISITIONS.keys())
def test_an_acquisition_scores_every_candidate(acquisition, view):
    assert isinstance(acquisition, Acquisition)
    scores = acquisition(view).scores
    assert scores.shape == (len(view.space),)
    assert not np.isnan(scores).any()


def test_reward_ucb_is_its_formula(view):
    np.testing.assert_allclose(upper_reward(view), view.reward.mean + alpha(5, 81, 0.1) * np.sqrt(view.reward.variance))


def test_width_is_in_shares_of_the_limit(view):
    band = view.costs["cost"].band
    np.testing.assert_allclose(relative_width(view), (band.upper - band.lower) / 20.0)


def test_an_expander_is_a_target_whose_lucky_measurement_certifies_another(view):
    """The rank-one shortcut against telling the lucky mean to the Gaussian process itself."""
    cost = view.costs["cost"]
    outside = view.support & ~view.safe
    expected = np.zeros(len(view.space), dtype=np.bool_)
    for index in np.flatnonzero(view.safe):
        lucky = cost.process.condition(np.array([index]), cost.band.lower[[index]], cost.noise_variance[[index]])
        upper = np.minimum(cost.kept, lucky.mean + cost.reach * lucky.sd)
        expected[index] = np.any(outside & (upper <= 20.0))
    assert expected.any()
    np.testing.assert_array_equal(expanders(view), expected)
    scores = widest(view).scores
    np.testing.assert_array_equal(np.isfinite(scores), expected)


def test_on_a_large_dial_the_widest_expander_is_searched_for(view, monkeypatch):
    whole, width = expanders(view), relative_width(view)
    monkeypatch.setattr("safehold.deploy.acquisition._PAIRS", 0)
    monkeypatch.setattr("safehold.deploy.acquisition._ROWS", 3)
    found = expanders(view)
    assert found.any()
    assert not np.any(found & ~whole)
    assert best(np.where(found, width, -np.inf), found) == best(np.where(whole, width, -np.inf), whole & view.choices)


@pytest.mark.parametrize("size", [24, 32])
def test_the_search_on_a_large_dial_asks_what_looking_at_all_pairs_asks(size, monkeypatch):
    def asked(pairs):
        monkeypatch.setattr("safehold.deploy.acquisition._PAIRS", pairs)
        trials, _ = drive(TargetOptimizer(declaration(menu=space(size, size))))
        return [trial.target for trial in trials]

    assert asked(0) == asked(2**40)


def test_a_search_ends_with_nothing_when_nothing_expands(view, monkeypatch):
    monkeypatch.setattr("safehold.deploy.acquisition._PAIRS", 0)
    everything = replace(view, safe=view.support)
    assert not expanders(everything).any()
    far = {name: replace(cost, kept=np.full(len(view.space), np.inf), reach=1e6) for name, cost in view.costs.items()}
    assert not expanders(replace(view, costs=far)).any()


def test_an_expander_must_open_a_target_under_every_limit():
    optimizer = TargetOptimizer(two_limits())
    state = optimizer.state
    verdict = state.verdict()
    view = view_of(state, verdict)
    alone = {
        name: expanders(type(view)(**{**{f: getattr(view, f) for f in view.__dataclass_fields__}, "costs": {name: c}}))
        for name, c in view.costs.items()
    }
    together = expanders(view)
    assert not np.any(together & ~(alone["cost"] & alone["fall"]))


def test_without_anything_left_to_certify_nothing_expands(view):
    everything = type(view)(
        **{**{name: getattr(view, name) for name in view.__dataclass_fields__}, "safe": view.support}
    )
    assert not expanders(everything).any()


def test_the_best_is_safe_and_ties_go_to_the_lowest_number():
    scores = np.array([5.0, 3.0, 3.0, 1.0])
    assert best(scores, np.array([False, True, True, True])) == 1


def test_the_goal_is_not_learnt_about_when_it_promises_too_little():
    """Every second ask explores for a goal only while that beats the best certified target by enough."""
    optimizer = TargetOptimizer(declaration(horizon=40))
    for _ in range(3):
        trial = optimizer.ask()
        optimizer.tell(trial.id, answer(trial.target))
    seen = view_of(optimizer.state, optimizer.state.verdict())
    odd = replace(seen, number=1, may_explore=True)
    assert ACQUISITIONS["goal"](odd).phase == "explore"
    assert ACQUISITIONS["goal"](replace(odd, reward_scale=1e6)).phase == "maximise"
    assert ACQUISITIONS["goal"](replace(odd, number=2)).phase == "maximise"
    assert ACQUISITIONS["goal"](replace(odd, may_explore=False)).phase == "maximise"
