import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import LIMIT, declaration, deploy, evaluate, log, measure, whole_run

from safehold.core.errors import DataError, IntegrityError, NoCertifiedTarget, UsageError
from safehold.core.measurement import Measurement
from safehold.deploy.choose import CORRELATION, FRESH_EPOCH, NORMAL_EPISODES, PREMISES, SEED_PREMISES
from safehold.deploy.declaration import RULES
from safehold.deploy.optimizer import Deployment
from safehold.ledger.events import Asked, Resumed
from safehold.report import tables, views
from safehold.report.certified import certificate_page
from safehold.report.premises import EXPLAINED, premises
from safehold.report.run import read_run, shown_asks
from safehold.report.run_page import run_page, verdict
from safehold.report.words import over_limit, percent, target_text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("run"), horizon=5, tells=5)


def tell(deployment, costs, failed=None):
    trial = deployment.ask()
    episodes = len(costs)
    deployment.tell(
        trial.id,
        Measurement(
            rewards=np.full(episodes, 1000.0),
            costs={"cost": np.array(costs, dtype=np.float64)},
            failed=np.zeros(episodes, dtype=np.bool_) if failed is None else np.array(failed),
        ),
    )
    return trial


def test_a_run_is_read_as_its_directory_tells_it(whole):
    run = read_run(whole)
    assert run.task == "HalfCheetahVelocity"
    assert run.unit("cost") == "steps above 3.21 m/s"
    assert run.state is not None
    assert run.state.n_told == 5
    assert [found.label for found in run.evaluations] == ["dial"] * 9 + ["naive", "final"]
    assert run.logged is not None
    assert len(run.logged.rewards) == 300


def test_a_safe_run_is_called_safe_with_its_uncertainty(whole):
    said = verdict(read_run(whole))
    assert said.standing == "good"
    # 1 - 0.05 ** (1 / 5) = 45.07 %
    assert said.headline == "0 of 5 deployments had a mean cost above a limit (95 % upper bound of the share: 45.1 %)."
    assert any(line.startswith("Naive target (2900, 25)") for line in said.lines)


def test_the_page_has_every_section_and_fetches_nothing(whole):
    text = run_page(read_run(whole))
    for heading in (
        "Every deployment",
        "Asked and obtained",
        "The data",
        "How the certified set grew",
        "Was the belief honest?",
        "The certificate",
        "Where this comes from",
        "What to do next",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert 'src="http' not in text
    assert 'href="http' not in text
    assert len(text) < 500_000
    assert f"safehold deploy verify {whole}" in text
    assert text == run_page(read_run(whole))


def test_states_before_a_few_asks_are_kept_first_and_last_among_them(whole):
    run = read_run(whole)
    assert [run.state.asked[trial].number for trial in run.before] == [0, 1, 2, 3, 4]
    assert [state.n_told for state in run.before.values()] == [0, 1, 2, 3, 4]
    assert len(run.head) == 64
    assert len(run.written) == len(run.events)


def test_of_many_asks_each_epoch_shows_its_first():
    asked = [Asked.__new__(Asked) for _ in range(9)]
    for number, ask in enumerate(asked):
        object.__setattr__(ask, "trial", f"t{number}")
    events = [*asked[:6], Resumed(by="a", reason="b"), *asked[6:]]
    assert shown_asks(events, 3) == {"t0", "t6", "t4"}
    assert shown_asks(asked, 3) == {"t0", "t4", "t8"}
    assert shown_asks([], 3) == frozenset()


def test_the_menu_grows_as_the_ledger_says(whole):
    run = read_run(whole)
    grown = views.growth(run.state, [(run.state.asked[t], at) for t, at in run.before.items()], None)
    counts = [ask.safe_count for ask in run.state.asked.values()]
    assert list(grown.certified_counts()) == [*counts, int(run.state.verdict().safe.sum())]
    assert grown.moments[0].deployed == {}
    assert grown.moments[1].deployed == {run.state.asked["trial-0000"].target: "premise"}
    assert grown.seeds.sum() == 2
    assert views.chosen_path(run.state, grown).order == tuple(
        list(dict.fromkeys(a.target for a in run.state.asked.values())).index(a.target)
        for a in run.state.asked.values()
    )


def test_one_mean_over_the_limit_makes_the_run_unsafe(tmp_path):
    with deploy(tmp_path, tells=0) as deployment:
        tell(deployment, [LIMIT, LIMIT + 1])
    said = verdict(read_run(tmp_path))
    assert said.standing == "bad"
    assert said.headline == "1 of 1 deployments had a mean cost above a limit."


def test_a_target_that_its_episodes_spoke_against_is_named_as_wrong(tmp_path):
    with deploy(tmp_path, tells=0) as deployment:
        tell(deployment, [LIMIT + 9] * 5)
    text = run_page(read_run(tmp_path))
    assert "What looks wrong" in text
    assert "<dt>revocations</dt>" in text
    assert "a seed target is among those" in text


def test_a_mean_on_the_limit_is_safe(tmp_path):
    with deploy(tmp_path, tells=0) as deployment:
        tell(deployment, [LIMIT, LIMIT])
    assert tables.deployments(read_run(tmp_path).state).rows[0][-1] == "SAFE"


def test_a_failed_episode_is_never_safe(tmp_path):
    with deploy(tmp_path, tells=0) as deployment:
        tell(deployment, [1.0, 1.0], failed=[False, True])
    run = read_run(tmp_path)
    assert verdict(run).standing == "bad"
    assert tables.deployments(run.state).rows[0][-1] == "OVER"
    assert "1 of 2 cost more" in " ".join(verdict(run).lines)
    assert run_page(run)


def test_an_unknown_outcome_counts_as_unsafe(tmp_path):
    with deploy(tmp_path, tells=0) as deployment:
        trial = deployment.ask()
        deployment.deployed(trial.id)
        deployment.abandon(trial.id, "power cut")
    said = verdict(read_run(tmp_path))
    assert said.standing == "bad"
    assert "1 ended with unknown outcome" in said.headline


def test_a_deployment_that_was_never_told_is_no_success(tmp_path):
    with deploy(tmp_path, tells=1) as deployment:
        trial = deployment.ask()
        before = verdict(read_run(tmp_path))
        deployment.deployed(trial.id)
    said = verdict(read_run(tmp_path))
    assert "began" not in before.headline
    assert said.standing == "caution"
    assert "1 deployment began and nothing was told" in said.headline


def test_a_run_that_holds_says_that_nothing_is_recommended(tmp_path):
    with deploy(tmp_path, tells=0) as deployment:
        for _ in range(2):
            trial = deployment.ask()
            deployment.deployed(trial.id)
            deployment.abandon(trial.id, "power cut")
        with pytest.raises(NoCertifiedTarget):
            deployment.ask()
    run = read_run(tmp_path)
    said = verdict(run)
    assert said.standing == "bad"
    assert "2 ended with unknown outcome" in said.headline
    assert any(line.startswith("The run held 1 time") for line in said.lines)
    assert any(line.startswith("Nothing is recommended") for line in said.lines)
    assert "Nothing is recommended" in run_page(run)


def test_safe_outcomes_without_a_certified_target_call_for_caution(tmp_path):
    with deploy(tmp_path, tells=0) as deployment:
        tell(deployment, [0.0, 2 * LIMIT - 1])
    said = verdict(read_run(tmp_path))
    assert said.standing == "caution"
    assert any(line.startswith("Nothing is recommended") for line in said.lines)


def test_nothing_told_is_no_evidence(tmp_path):
    deploy(tmp_path, tells=0).close()
    run = read_run(tmp_path)
    assert verdict(run).standing == "caution"
    assert certificate_page(run) is None
    assert "no deployment yet" in run_page(run)


def test_an_alarm_breaks_the_prior_and_the_verdict(tmp_path):
    with Deployment.create(tmp_path, declaration()) as deployment:
        tell(deployment, [0.0] * 50)
        while deployment.status().state != "alarm":
            tell(deployment, [999.0] * 50)
            if deployment.status().state == "held":
                pytest.skip("this belief holds before it alarms")
    run = read_run(tmp_path)
    assert verdict(run).standing == "bad"
    standing = {premise.id: premise.standing for premise in premises(run.state)}
    assert standing["A1-prior"] == "broken"


@pytest.mark.parametrize(("shift", "standing"), [(-5.0, "good"), (1.0, "caution"), (9.0, "bad")])
def test_fresh_episodes_of_deployed_targets_are_judged(tmp_path, shift, standing):
    deploy(tmp_path, horizon=5, tells=5).close()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 4, 20)
    costs = (LIMIT + shift + noise - noise.mean()).tolist()
    entry = {"label": "deployed", "target": [900, 4], "rewards": [0.0] * 20, "costs": costs}
    (tmp_path / "evaluations.json").write_text(json.dumps({"task": "t", "limit": LIMIT, "targets": [entry]}))
    assert verdict(read_run(tmp_path)).standing == standing


def test_premises_are_checked_where_the_run_can_check_them(whole, tmp_path):
    standing = {premise.id: premise.standing for premise in premises(read_run(whole).state)}
    assert standing["A3-independence"] == "checked"
    assert standing["A5-cap"] == "checked"
    assert standing["A4-unchanged"] == "trusted"
    with deploy(tmp_path, tells=0) as deployment:
        for number in range(2):
            trial = deployment.ask()
            deployment.tell(trial.id, measure(trial.target, number, episodes=2), seeds=(7, 8))
    assert {p.id: p.standing for p in premises(read_run(tmp_path).state)}["A3-independence"] == "broken"


def test_a_seed_target_that_was_not_safe_breaks_its_premise(tmp_path):
    with deploy(tmp_path, tells=0) as deployment:
        tell(deployment, [LIMIT + 9] * 5)
    assert {p.id: p.standing for p in premises(read_run(tmp_path).state)}["A6-seeds-from-log"] == "broken"


def test_evaluations_alone_make_a_cautious_report(tmp_path):
    evaluate(tmp_path / "evaluations.json")
    run = read_run(tmp_path)
    assert verdict(run).standing == "caution"
    assert "Asked and obtained" in run_page(run)


def test_the_log_may_lie_elsewhere(tmp_path):
    deploy(tmp_path / "run", tells=1).close()
    log(tmp_path / "elsewhere.hdf5", episodes=30)
    assert read_run(tmp_path / "run").logged is None
    run = read_run(tmp_path / "run", episodes=tmp_path / "elsewhere.hdf5")
    assert "30 episodes" in run_page(run)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="neither a deployment"):
        read_run(tmp_path)
    with pytest.raises(UsageError, match="not a directory"):
        read_run(tmp_path / "nothing")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"targets": 3}',
        '{"targets": [3]}',
        '{"targets": [{"label": "a"}]}',
        '{"targets": [{"label": "a", "target": [1, 2], "rewards": [1, 2], "costs": [1]}]}',
        '{"targets": [{"label": "a", "target": "xy", "rewards": [1], "costs": [1]}]}',
        "[" * 100_000,
    ],
)
def test_broken_evaluations_are_refused(tmp_path, text):
    (tmp_path / "evaluations.json").write_text(text)
    with pytest.raises(DataError, match=r"evaluations\.json"):
        read_run(tmp_path)


def test_an_altered_ledger_makes_no_report(tmp_path):
    deploy(tmp_path, tells=2).close()
    data = (tmp_path / "ledger.sqlite").read_bytes()
    assert data.count(b'"rewards":[') >= 2
    (tmp_path / "ledger.sqlite").write_bytes(data.replace(b'"rewards":[9', b'"rewards":[8'))
    with pytest.raises(IntegrityError):
        read_run(tmp_path)


def test_hostile_names_of_run_task_and_labels_are_inert(tmp_path):
    place = tmp_path / "<script>x<"
    place.mkdir()
    entry = {"label": "</style><script>", "target": [1.0, 2.0], "rewards": [1.0], "costs": [1.0]}
    record = {"task": "\u202e\x1b[2J<img src=x onerror=alert(1)>", "targets": [entry]}
    (place / "evaluations.json").write_text(json.dumps(record))
    text = run_page(read_run(place))
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_page_of_a_long_run_stays_small(tmp_path):
    with Deployment.create(tmp_path, declaration(horizon=15)) as deployment:
        for number in range(15):
            trial = deployment.ask()
            deployment.tell(trial.id, measure(trial.target, number, episodes=400))
    assert len(run_page(read_run(tmp_path))) < 500_000


def test_words_of_targets_and_shares():
    assert target_text((2900.0, 12.5)) == "(2900, 12.5)"
    assert target_text(None) == "none"
    assert over_limit([1.0, 2.0, np.nan, 3.0], 2.0) == 2
    assert percent(0.1234) == "12.3 %"
    assert percent(float("nan")) == "-"


def test_every_premise_that_a_certificate_can_name_is_explained_here_and_in_the_guarantees():
    of_rules = {premise for rule in RULES.values() for premise in rule.premises}
    named = {*PREMISES, *SEED_PREMISES.values(), NORMAL_EPISODES, FRESH_EPOCH, CORRELATION, *of_rules}
    guarantees = (Path(__file__).parents[3] / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert sorted(EXPLAINED) == sorted(named)
    assert all(name in guarantees for name in named)
