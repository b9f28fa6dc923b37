import math
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from safehold.core.errors import DataError, UsageError
from safehold.core.intervals import mean_interval
from safehold.core.target import TargetSpace
from safehold.report.figures import (
    asked_obtained,
    benchmark,
    bounds,
    calibration,
    certificate,
    data_plane,
    monitors,
    palette,
    path,
    risk,
    safe_set,
    timeline,
)

SPACE = TargetSpace({"reward": (0.0, 10.0), "cost": (0.0, 1.0, 2.0)})


def rendered(figure: Figure) -> str:
    return palette.svg(figure, "test")


# data_plane


def test_the_frontier_is_what_no_cheaper_episode_out_earns():
    costs = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 0.0])
    rewards = np.array([5.0, 4.0, 6.0, 6.0, 9.0, 5.0])
    assert data_plane.info(costs, rewards).frontier.tolist() == [True, False, True, False, True, False]


def test_share_over_the_limit_counts_a_missing_cost_as_over():
    view = data_plane.info(np.array([1.0, 3.0, math.nan]), np.zeros(3), limit=2.0)
    assert view.share_over_limit == pytest.approx(2 / 3)


@pytest.mark.parametrize(("episodes", "limit"), [(0, None), (0, 25.0), (1, 0.0), (2, None), (400, 25.0)])
def test_data_plane_draws_any_number_of_episodes(episodes, limit):
    rng = np.random.default_rng(0)
    told = data_plane.outcome("final", rng.normal(size=20), rng.exponential(size=20))
    single = data_plane.outcome("naive", np.array([1.0]), np.array([2.0]))
    view = data_plane.info(
        rng.exponential(size=episodes), rng.normal(size=episodes), limit=limit, outcomes=(told, single)
    )
    text = rendered(data_plane.draw(view))
    assert "cost return of an episode (cost units)" in text
    assert f"{episodes} episode" in text


def test_episodes_that_the_task_ended_are_told_apart():
    ended = np.array([True, False, True])
    text = rendered(data_plane.draw(data_plane.info(np.arange(3.0), np.arange(3.0), terminated=ended)))
    assert "2 episodes that the task itself ended" in text
    assert "1 episode that the clock ended" in text


# asked_obtained


def test_answers_of_one_label_stand_together_and_keep_their_numbers():
    naive = asked_obtained.answer("naive", (9.0, 2.0), np.array([8.0, 8.0]), np.array([5.0, 5.0]))
    dial = asked_obtained.answer("dial", (3.0, 1.0), np.array([4.0]), np.array([0.0]))
    view = asked_obtained.info([naive, dial, naive], limit=2.0)
    assert [a.label for a in view.answers] == ["dial", "naive", "naive"]
    assert (view.answers[1].asked_reward, view.answers[1].asked_cost) == (9.0, 2.0)
    assert (view.answers[1].reward.estimate, view.answers[1].cost.estimate) == (8.0, 5.0)
    assert "naive target" in rendered(asked_obtained.draw(view))


def test_asked_obtained_draws_nothing_without_answers():
    assert "no target was run yet" in rendered(asked_obtained.draw(asked_obtained.info([])))


# safe_set


def test_the_mask_of_candidates_lies_on_the_plane_in_c_order():
    mask = np.array([True, False, False, False, False, True])
    shown = safe_set.moment(SPACE, "before ask 3", mask, deployed={(0.0, 0.0): "paid"}, asked=(10.0, 2.0))
    assert shown.certified.tolist() == [[True, False, False], [False, False, True]]
    assert shown.n_certified == 2


def test_a_third_axis_is_folded_so_that_nothing_looks_worse_than_its_best():
    space = TargetSpace({"reward": (0.0,), "a": (0.0, 1.0), "b": (0.0, 1.0)})
    shown = safe_set.moment(
        space, "now", np.array([False, True, False, False]), revoked=np.array([True, False, True, True])
    )
    assert shown.certified.tolist() == [[True, False]]
    assert shown.revoked.tolist() == [[False, True]]


def test_the_frontier_is_the_certified_target_of_highest_expected_reward_at_each_cost():
    certified = np.array([True, True, False, True, True, False])
    by_target = safe_set.moment(SPACE, "now", certified).frontier
    by_belief = safe_set.moment(SPACE, "now", certified, reward=np.array([5.0, 0.0, 9.0, 4.0, 1.0, 9.0])).frontier
    np.testing.assert_array_equal(by_target, [10.0, 10.0, np.nan])
    np.testing.assert_array_equal(by_belief, [0.0, 10.0, np.nan])


def test_only_certified_targets_are_expanders():
    shown = safe_set.moment(SPACE, "now", np.arange(6) < 2, expanders=np.ones(6, dtype=np.bool_))
    assert shown.expanders.sum() == 2


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(DataError, match="6 candidates"):
        safe_set.moment(SPACE, "now", np.ones(5, dtype=np.bool_), reward=np.ones(5))


def test_a_target_shows_the_costliest_grounds_it_was_handed_out_on():
    a, b = (0.0, 0.0), (10.0, 0.0)
    asks = [(a, "premise"), (b, "paid"), (a, "bound"), (b, "bound")]
    assert safe_set.grounds_of(asks) == {a: "bound", b: "paid"}


@pytest.mark.parametrize("count", [0, 1, 4])
def test_safe_set_draws_any_number_of_moments(count):
    supported = np.array([True, True, True, True, True, False])
    moments = [
        safe_set.moment(
            SPACE,
            f"before ask {n}",
            np.arange(6) < n,
            expanders=np.arange(6) < 1,
            revoked=np.arange(6) == 4,
            deployed={(0.0, 0.0): "premise"},
            asked=(10.0, 1.0),
        )
        for n in range(count)
    ]
    view = safe_set.info(SPACE, moments, seeds=np.arange(6) < 1, supported=supported, final=(10.0, 0.0))
    text = rendered(safe_set.draw(view))
    assert ("no ask yet" in text) == (count == 0)
    assert view.certified_counts() == tuple(range(count))
    assert not view.unsupported[0].any()
    assert view.unsupported[1].tolist() == [False, False, True]


def test_a_dial_with_one_axis_is_drawn():
    space = TargetSpace({"epsilon": (0.1, 0.2, 0.4)})
    mask = np.array([True, False, True])
    shown = safe_set.moment(space, "now", mask, deployed={(0.1,): "bound"}, asked=(0.4,))
    np.testing.assert_array_equal(shown.frontier, [0.4])
    view = safe_set.info(space, [shown], seeds=mask)
    assert "target epsilon" in rendered(safe_set.draw(view))
    assert "target epsilon" in rendered(path.draw(path.info(view, [(0, (0.1,), "bound"), (1, (0.4,), "paid")])))


def test_a_big_grid_stays_a_small_drawing():
    space = TargetSpace({"reward": tuple(map(float, range(200))), "cost": tuple(map(float, range(200)))})
    mask = (space.points.sum(axis=1) % 40 < 30).astype(np.bool_)
    view = safe_set.info(space, [safe_set.moment(space, "now", mask)])
    assert len(rendered(safe_set.draw(view))) < 300_000


# path


def now(space: TargetSpace) -> safe_set.SafeSet:
    return safe_set.info(space, [safe_set.moment(space, "now", np.ones(len(space), dtype=np.bool_))])


def test_a_path_visits_its_targets_in_the_order_of_the_asks():
    a, b = (0.0, 0.0), (10.0, 2.0)
    view = path.info(
        now(SPACE), [(0, a, "premise"), (1, b, "paid"), (2, a, "premise"), (3, a, "bound")], frozenset({b})
    )
    assert view.order == (0, 1, 0, 0)
    assert [(stop.target, stop.numbers, stop.grounds, stop.revoked) for stop in view.stops] == [
        (a, (0, 2, 3), "bound", False),
        (b, (1,), "paid", True),
    ]
    text = rendered(path.draw(view))
    assert "0, 2, 3" in text
    assert "deployed, revoked now" in text


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((3,), "3"),
        ((3, 4), "3, 4"),
        ((3, 4, 5, 9), "3-5, 9"),
        ((0, 2, 4, 6, 8), "0, 2, 4, 6 …"),
    ],
)
def test_runs_of_asks_are_joined(numbers, words):
    assert path.runs_of(numbers) == words


def test_numbers_on_a_crowded_plane_never_cover_each_other():
    space = TargetSpace({"reward": tuple(map(float, range(30))), "cost": tuple(map(float, range(30)))})
    rng = np.random.default_rng(0)
    asks = [(n, space.target(int(i)), "paid") for n, i in enumerate(rng.choice(900, 200, replace=False))]
    figure = path.draw(path.info(now(space), asks))
    (ax,) = figure.axes
    boxes = [text.get_window_extent() for text in ax.texts]
    assert 10 < len(boxes) <= 60
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert {"0", "199"} <= {text.get_text() for text in ax.texts}


def test_a_path_of_nothing_says_so():
    assert "no ask yet" in rendered(path.draw(path.info(now(SPACE), [])))


# timeline


def deployment(number: int, costs: list[float]) -> timeline.Deployed:
    return timeline.Deployed(
        number=number, label="seed", costs=np.array(costs), rewards=np.zeros(len(costs)), upper=9.0 if number else None
    )


def test_deployments_over_the_limit_are_counted_and_an_unmeasured_one_is_one():
    deployed = [deployment(0, [1.0, 3.0]), deployment(1, [2.0, 3.0]), deployment(2, [math.nan]), deployment(3, [])]
    assert timeline.info(deployed, limit=2.0).over_limit == 3
    assert timeline.info(deployed).over_limit == 0


@pytest.mark.parametrize(("count", "episodes"), [(0, 1), (1, 1), (1, 20), (12, 60)])
def test_timeline_draws_any_number_of_deployments(count, episodes):
    rng = np.random.default_rng(0)
    deployed = [deployment(n, rng.exponential(size=episodes).tolist()) for n in range(count)]
    view = timeline.info(deployed, naive_costs=np.ones(5), naive_rewards=np.ones(5), limit=2.0)
    assert ("no deployment yet" in rendered(timeline.draw(view))) == (count == 0)


def test_timeline_draws_costs_that_are_not_there():
    assert rendered(timeline.draw(timeline.info([deployment(0, [math.nan, math.inf])], limit=2.0)))


# calibration


def test_residuals_and_share_inside_the_band_by_hand():
    predictions = [
        calibration.Prediction(number=0, mean=1.0, deviation=2.0, told=4.0),
        calibration.Prediction(number=1, mean=0.0, deviation=1.0, told=-2.5),
        calibration.Prediction(number=2, mean=0.0, deviation=0.0, told=0.0),
    ]
    shown = calibration.belief("cost", predictions)
    assert [p.residual for p in predictions][:2] == [1.5, -2.5]
    assert math.isnan(predictions[2].residual)
    assert (shown.inside.estimate, shown.inside.n) == (1 / 3, 3)
    assert "1 of 3 inside" in rendered(calibration.draw(calibration.info([shown, calibration.belief("reward", [])])))


def standard(residuals) -> calibration.Belief:
    return calibration.belief(
        "cost", [calibration.Prediction(number=n, mean=0.0, deviation=1.0, told=r) for n, r in enumerate(residuals)]
    )


def test_places_in_the_prediction_are_counted_in_bins_with_their_range_by_chance():
    found = standard([-3.0, -0.1, 0.1, 0.2, 3.0, 3.1]).histogram
    assert found.counts == (1, 0, 3, 0, 2)
    # binomial, 6 tells, 1 / 5 each: P(0) = .262 > .025; P(<= 3) = .983 >= .975 > P(<= 2) = .901
    assert (found.low, found.high) == (0.0, 3.0)
    assert len(standard(np.linspace(-2, 2, 60)).histogram.counts) == 10


@pytest.mark.parametrize("tells", [1, 4, 5, 400])
def test_calibration_draws_any_number_of_tells(tells):
    shown = standard(np.random.default_rng(0).normal(size=tells))
    text = rendered(calibration.draw(calibration.info([shown, calibration.belief("reward", [])])))
    assert ("too few" in text) == (tells < 5)
    assert len(text) < 120_000


def test_calibration_draws_nothing_without_tells():
    assert "nothing told yet" in rendered(calibration.draw(calibration.info([calibration.belief("cost", [])])))


# monitors


def evidence(monitor: str, values: tuple[float, ...]) -> monitors.Evidence:
    return monitors.Evidence(
        monitor=monitor, limit="cost", numbers=tuple(range(len(values))), values=values, needed=100.0
    )


def test_monitors_draw_a_panel_a_kind_and_the_height_of_the_alarm():
    view = monitors.info(
        [evidence("innovations", (0.5, 1e300, 1.0)), evidence("costs", (0.0, 0.5))],
        [bounds.Break(number=2, word="alarm: innovations")],
    )
    assert view.evidence[0].peak == 1e300
    figure = monitors.draw(view)
    assert len(figure.axes) == 2
    text = rendered(figure)
    assert monitors.TITLES["innovations"] in text
    assert "a: alarm: innovations" in text


def test_monitors_of_nothing_say_so():
    assert "nothing told yet" in rendered(monitors.draw(monitors.info([])))


# bounds


def at_ask(number: int, **changed) -> bounds.BoundAtAsk:
    usual = {"number": number, "mean": 1.0, "upper": 2.0, "limit": 5.0, "risk": 0.01, "told": None}
    return bounds.BoundAtAsk(**{**usual, **changed})


def test_slack_is_the_nearest_certified_bound_to_the_limit_of_its_time():
    asks = [at_ask(0, upper=None), at_ask(1, upper=3.0), at_ask(2, upper=3.9, limit=4.0)]
    assert bounds.cost("c", "w", "u", asks, certified=True).slack == pytest.approx(0.1)
    assert bounds.cost("c", "w", "u", asks, certified=False).slack is None
    assert bounds.cost("c", "w", "u", asks[:1], certified=True).slack is None


@pytest.mark.parametrize("limits", [1, 2, 3])
@pytest.mark.parametrize("certified", [True, False])
def test_bounds_draw_a_panel_a_limit_and_one_for_risks_where_risk_is_what_is_paid(limits, certified):
    told = mean_interval(np.array([1.0, 2.0]))
    over = mean_interval(np.array([7.0, 8.0]))
    asks = [at_ask(0), at_ask(1, told=told), at_ask(2, told=over, limit=4.0), at_ask(3, failed=True, risk=0.0)]
    costs = [bounds.cost(f"c{n}", f"expected c{n} return", "units", asks, certified=certified) for n in range(limits)]
    figure = bounds.draw(bounds.info(costs, [bounds.Break(number=2, word="limit 4")]))
    assert len(figure.axes) == limits + (not certified)
    text = rendered(figure)
    assert ("certified bound" in text) == certified
    assert ("risk of" in text) != certified
    assert "told, over the limit" in text
    assert "failed or unknown" in text
    assert "a: limit 4" in text


def test_breaks_before_the_same_ask_share_a_line():
    breaks = [bounds.Break(number=3, word="alarm: costs"), bounds.Break(number=3, word="epoch 1")]
    assert bounds.joined(breaks) == (bounds.Break(number=3, word="alarm: costs, epoch 1"),)


def test_bounds_of_nothing_say_so():
    assert "no ask yet" in rendered(bounds.draw(bounds.info([bounds.cost("c", "w", "u", [], certified=True)])))


# risk


def charge(number: int, paid: float) -> risk.Charge:
    return risk.Charge(number=number, charge=paid, risk=paid, cap=0.02)


def test_charges_add_up_against_the_certificates_share():
    shares = {"seed": 0.0, "certificate": 0.045, "noise": 0.005}
    view = risk.info(0.05, shares, [charge(0, 0.0), charge(1, 0.01), charge(2, 0.005)], charging=True)
    assert view.spent == pytest.approx((0.0, 0.01, 0.015))
    assert view.budget == 0.045
    assert [name for name, _ in view.shares] == ["certificate", "noise"]
    text = rendered(risk.draw(view))
    assert "certificate 0.045 (0.015 spent, filled)" in text
    assert "bounds on the noise 0.005" in text
    assert "1e-06" in text


def test_rules_that_charge_nothing_say_so():
    text = rendered(risk.draw(risk.info(0.1, {"certificate": 0.1}, [charge(0, 0.0)], charging=False)))
    assert risk.NO_CHARGES in text
    assert "Risk spent" not in text


def test_spending_before_the_first_ask_is_drawn():
    assert "nothing asked yet" in rendered(risk.draw(risk.info(0.1, {"certificate": 0.1}, [], charging=True)))


# certificate


def sheet(standing: certificate.Standing = "trusted", *, doubts=(), long: int = 1) -> certificate.CertificatePage:
    return certificate.info(
        of="trial-0003 of run r",
        kind="risk_ledger",
        target="(1, 2)",
        promise="a promise in words " * long,
        doubts=doubts,
        limits=[certificate.LimitLine(limit="at most 5", believed="3 ± 1 sd", certified="with risk 1 %", told="4")],
        delta=0.05,
        shares=[
            certificate.Share(name="seed", part=0.0, spent=None),
            certificate.Share(name="certificate", part=0.045, spent=0.01),
            certificate.Share(name="noise", part=0.005, spent=None),
        ],
        premises=[certificate.Premise(id="A1", text="costs are seen " * long, standing=standing)] * 9,
        facts=[("ledger head", "ab" * 32)] * 9,
    )


@pytest.mark.parametrize(("standing", "stands"), [("checked", True), ("trusted", True), ("broken", False)])
def test_a_certificate_stands_until_a_premise_breaks(standing, stands):
    view = sheet(standing)
    assert view.stands == stands
    text = rendered(certificate.draw(view))
    assert ("no longer stands: A1 does not hold" in text) != stands
    assert certificate.SIGNS[standing][2] in text


def test_a_doubt_is_enough_for_a_certificate_to_fall():
    view = sheet(doubts=["its target is revoked"])
    assert not view.stands
    assert view.verdict == "It no longer stands: its target is revoked."


@pytest.mark.parametrize("long", [1, 20])
def test_a_certificate_stays_on_one_sheet(long):
    figure = certificate.draw(sheet(long=long))
    assert tuple(figure.get_size_inches()) == (8.27, 11.69)
    (ax,) = figure.axes
    figure.draw_without_rendering()
    page = figure.bbox
    for text in ax.texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0, text.get_text()
        assert box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0, text.get_text()
        assert box.y1 <= page.y1, text.get_text()
    words = " ".join(text.get_text() for text in ax.texts)
    assert "certificate 0.045, 0.01 of it spent" in words
    assert "seed 0" not in words  # an empty share
    assert "ab" * 32 in words


# the house style


def test_lean_drawings_keep_what_is_referred_to_and_drop_empty_groups():
    text = palette.svg(bounds.draw(bounds.info([])), "n")
    assert "<g>" not in text
    assert text.count("<g") == text.count("</g>")
    ids = set(re.findall(r'id="([^"]*)"', text))
    assert ids == set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'href="#([^"]*)"', text))
    assert text.count("DejaVu") <= 1
    assert not re.search(r'd="[^"]*\d\.\d{3}', text)


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    rendered(data_plane.draw(data_plane.info(np.ones(3), np.ones(3))))
    assert dict(mpl.rcParams) == before


def test_a_picture_of_unknown_kind_is_refused(tmp_path):
    figure = bounds.draw(bounds.info([]))
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        palette.save(figure, tmp_path / "picture.exe")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_picture_is_the_same_file_when_made_again(tmp_path, kind):
    for name in ("a", "b"):
        palette.save(bounds.draw(bounds.info([])), tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


# benchmark


def standing(task: str, method: str, limit: float, reward: float, cost: float) -> benchmark.Standing:
    of = [mean_interval(np.array([value - 0.1, value, value + 0.1])) for value in (reward, cost)]
    return benchmark.Standing(task=task, method=method, limit=limit, reward=of[0], cost=of[1])


def test_a_benchmark_keeps_the_order_of_tasks_and_methods_and_sorts_limits():
    view = benchmark.info([standing(t, m, g, 0.5, 1.0) for t in ("b", "a") for m in ("z", "y") for g in (40.0, 20.0)])
    assert (view.tasks, view.methods, view.limits) == (("b", "a"), ("z", "y"), (20.0, 40.0))


@pytest.mark.parametrize("tasks", [0, 1, 2, 4])
def test_a_benchmark_draws_any_number_of_tasks(tasks):
    found = [standing(f"task {i}", f"method {m}", 20.0, 0.1 * m, 0.4 * m) for i in range(tasks) for m in range(8)]
    text = rendered(benchmark.draw(benchmark.info(found)))
    if tasks == 0:
        assert "nothing was run yet" in text
    else:
        assert all(f"task {i}" in text for i in range(tasks))
        assert "mean cost of an episode / limit" in text
        assert "method 7" in text


def test_a_benchmark_draws_runs_without_an_interval():
    unknown = mean_interval(np.array([1.0]))
    one = benchmark.Standing(task="t", method="m", limit=20.0, reward=unknown, cost=unknown)
    assert "cost limit" in rendered(benchmark.draw(benchmark.info([one])))
