import json

import numpy as np
import pytest
from deploy_toys import LIMIT, declaration, space

from safehold.core.errors import DataError, NoSeed
from safehold.deploy.seeds import SeedRule, from_returns
from safehold.ledger.encoding import canonical

ALL = np.ones(81, dtype=np.bool_)
REWARDS = np.array([100.0, 75.0, 76.0, 77.0, 78.0, 79.0, 160.0, 75.0])
COSTS = np.array([4.0, 1.0, 2.0, 3.0, 0.0, 1.0, 30.0, 30.0])


def select(rewards=REWARDS, costs=COSTS, support=ALL, rule=None):
    return from_returns(space(), (LIMIT,), support, rewards, {"cost": costs}, rule)


def test_seed_targets_are_cheap_supported_and_below_the_best_cheap_reward():
    selection = select(rule=SeedRule(low=0.5, high=0.8))
    assert selection.best_reward == 100.0
    assert selection.reward_range == (50.0, 80.0)
    assert selection.targets == ((60.0, 0.0), (60.0, 5.0), (80.0, 0.0), (80.0, 5.0))


def test_the_margin_is_what_the_logged_episodes_in_the_box_say():
    selection = select()
    assert selection.episodes == 5
    assert selection.cost_means == {"cost": pytest.approx(1.4)}
    assert selection.cost_maxima == {"cost": 3.0}
    assert selection.margins == {"cost": pytest.approx(18.6)}
    canonical(selection.evidence())
    assert "at least 5 episodes" in selection.rule
    assert json.loads(canonical(selection.evidence()))["reward_range"] == [70.0, 80.0]


def test_the_evidence_says_what_such_rewards_cost_without_selection():
    evidence = select().evidence()
    assert evidence["episodes_in_reward_band"] == 6
    assert evidence["mean_costs_in_reward_band"] == {"cost": pytest.approx(37.0 / 6)}
    assert "selected for low cost" in select().rule


@pytest.mark.parametrize("best", [0.0, -10.0])
def test_without_a_positive_best_reward_no_seed(best):
    with pytest.raises(NoSeed, match="needs a positive one: attest seed targets by hand"):
        select(rewards=np.minimum(REWARDS, best), costs=np.full(8, 1.0))


def test_expensive_episodes_do_not_set_the_best_reward():
    assert select(costs=np.where(REWARDS == 100.0, 6.0, COSTS), rule=SeedRule(low=0.2, high=1.0)).best_reward == 79.0


def test_no_safe_episode_no_seed():
    with pytest.raises(NoSeed, match="smallest cost 30"):
        select(costs=np.full(8, 30.0))
    with pytest.raises(NoSeed, match="smallest cost nan"):
        select(rewards=np.zeros(0), costs=np.zeros(0))


def test_no_candidate_in_the_box_no_seed():
    with pytest.raises(NoSeed, match=r"no supported target has a reward in \[70, 75\]"):
        select(rule=SeedRule(low=0.7, high=0.75))
    with pytest.raises(NoSeed, match="no supported target"):
        select(support=~ALL)


def test_too_few_episodes_no_seed():
    with pytest.raises(NoSeed, match="5 logged episodes lie in the seed box"):
        select(rule=SeedRule(minimum=6))


def test_a_log_with_holes_is_refused():
    with pytest.raises(DataError, match="logged cost returns hold 1 non-finite"):
        select(costs=np.where(COSTS == 3.0, np.nan, COSTS))


@pytest.mark.parametrize("change", [{"cost_share": 0.0}, {"cost_share": 1.0}, {"low": 0.9}, {"minimum": 0}])
def test_a_rule_that_means_nothing_is_refused(change):
    with pytest.raises(DataError, match="seed rule"):
        SeedRule(**change)


def test_seed_targets_from_the_log_start_a_deployment_that_says_so():
    selection = select()
    chosen = declaration(seeds=selection.targets)
    assert chosen.seeds.sum() == len(selection.targets)
