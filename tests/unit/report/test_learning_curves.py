import numpy as np

from safehold.report.figures.learning_curves import LearningCurves, curve, draw
from safehold.report.figures.palette import svg


def run(offset: float, points: int) -> list[dict[str, float]]:
    return [{"step": 10.0 * (i + 1), "reward": offset + i, "cost": 2 * offset, "peak": offset} for i in range(points)]


def test_a_curve_is_the_mean_over_seeds_as_far_as_the_shortest_run_goes():
    found = curve("one", [run(0.0, 4), run(2.0, 3)])
    assert found.seeds == 2
    np.testing.assert_array_equal(found.steps, [10, 20, 30])
    np.testing.assert_array_equal(found.mean["reward"], [1, 2, 3])
    np.testing.assert_array_equal(found.least["cost"], [0, 0, 0])
    np.testing.assert_array_equal(found.most["cost"], [4, 4, 4])


def test_the_picture_names_methods_seeds_units_and_limits():
    view = LearningCurves(
        curves=(curve("one", [run(0.0, 4), run(2.0, 4)]), curve("other", [run(1.0, 4)])),
        limits={"cost": 3.0},
        cost_unit="steps inside",
    )
    text = svg(draw(view), "curves")
    for words in ("one (2 seeds)", "other (1 seed)", "cost return (steps inside)", "environment steps"):
        assert words in text
    assert "mathdefault" not in text  # ticks in plain numbers
