"""Whether a goal is met, and how sure that is."""

import pytest
from goals import goal, ratio, spread, verdict


@pytest.mark.parametrize(
    ("values", "bound", "word"),
    [
        ([0.91, 0.95, 0.93], {"at_least": 0.90}, "met"),
        ([0.90], {"at_least": 0.90}, "met"),
        ([0.88, 0.95, 0.93], {"at_least": 0.90}, "met, within noise"),
        ([0.88, 0.95, 0.87], {"at_least": 0.90}, "missed, within noise"),
        ([0.88, 0.80, 0.87], {"at_least": 0.90}, "missed"),
        ([2.4, 2.5, 2.3], {"at_most": 2.5}, "met"),
        ([2.4, 2.6, 2.3], {"at_most": 2.5}, "met, within noise"),
        ([2.4, 2.6, 2.7], {"at_most": 2.5}, "missed, within noise"),
        ([2.6], {"at_most": 2.5}, "missed"),
        ([], {"at_most": 2.5}, "unknown"),
    ],
)
def test_verdicts(values, bound, word):
    assert verdict(values, **bound) == word


def test_the_median_is_shown_with_the_least_and_the_most():
    assert spread([3, 1, 2], "{:.1f}") == "2.0 (1.0 – 3.0)"


def test_a_unit_is_written_once():
    assert spread([3, 1, 2], "{:.0f} ms") == "2 ms (1 – 3)"


def test_a_single_run_says_so():
    assert spread([0.7432], "{:.2f}") == "0.74 (one run)"


def test_goals_in_words():
    least = goal("ours / theirs", [0.8, 1.0, 0.95], at_least=0.9)
    assert (least.goal, least.measured) == (">= 0.9", "0.95 (0.80 – 1.00)")
    most = goal("memory", [2.41], at_most=2.5, form="{:.2f} KiB")
    assert (most.goal, most.measured) == ("<= 2.5 KiB", "2.41 KiB (one run)")


def test_a_goal_that_could_not_be_measured():
    absent = goal("ours / theirs", [], at_least=6)
    assert (absent.measured, absent.verdict) == ("not measured", "unknown")


def test_ratios_are_those_of_each_round():
    # The second round was slow for both.
    ours, theirs = [{"n": 10}, {"n": 4}, {"n": 12}], [{"n": 5}, {"n": 2}, {"n": 4}]
    assert ratio(ours, theirs, lambda run: run["n"]) == [2, 2, 3]


def test_a_round_that_is_missing_is_no_ratio():
    with pytest.raises(ValueError, match="shorter"):
        ratio([1, 2], [1], float)
