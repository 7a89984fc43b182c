"""The report of the engine benchmark marks missed goals, and its statistics compare within pairs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.bench.engine.report import IDENTICAL, ROWS, Measured, Report, table
from tests.bench.spread import Spread, all_in_turn, balanced, in_turn, speedup


def report(**changes: Measured) -> Report:
    """Every figure exactly at its goal (1 where there is none; the one that must stay below is half of it)."""
    figures: dict[str, Measured] = {IDENTICAL: True}
    for row in ROWS:
        limit = 1.0 if row.goal is None else row.goal.limit / (2 if row.goal.sign == "<" else 1)
        figures[row.key] = Spread.of([limit])
    return Report(figures | changes)


def lines(one: Report) -> list[str]:
    shown = io.StringIO()
    Console(file=shown, width=140).print(table({"random": one}, "figures"))
    return shown.getvalue().splitlines()


def test_a_report_at_its_goals_misses_none() -> None:
    text = "\n".join(lines(report()))
    assert "missed" not in text
    assert text.count("yes") == sum(row.goal is not None for row in ROWS) + 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("steered_ratio", 0.979), ("vs_icl_ttft", 0.21), ("cold_ms", 101.0), ("warm_ms", 1.0), ("overhead", 0.06)],
)
def test_a_missed_goal_is_marked(key: str, value: float) -> None:
    found = report(**{key: Spread.of([value])})
    title = next(row.title for row in ROWS if row.key == key)
    assert [title in line for line in lines(found) if "missed" in line] == [True]
    assert found.as_json()[key] == value


def test_different_logits_miss_the_goal() -> None:
    found = report(**{IDENTICAL: False})
    assert ["differ" in line for line in lines(found) if "missed" in line] == [True]
    assert found.as_json()[IDENTICAL] is False


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 100.0]) == Spread(median=3.0, low=2.0, high=4.0, count=5)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_speed_is_compared_within_each_pair() -> None:
    assert speedup([(1.0, 2.0), (10.0, 20.0), (100.0, 200.0)]) == Spread(2.0, 2.0, 2.0, 3)


def test_pairs_alternate_their_order() -> None:
    order: list[str] = []
    pairs = in_turn(lambda: order.append("one"), lambda: order.append("other"), 3)
    assert order == ["one", "other", "other", "one", "one", "other"]
    assert len(pairs) == 3


def test_several_actions_take_turns_to_go_first() -> None:
    order: list[str] = []
    actions = [lambda: order.append("one"), lambda: sum(range(1_000_000)), lambda: order.append("third")]
    first, last = all_in_turn(actions, first=2), all_in_turn(actions, first=3)
    assert order == ["third", "one", "one", "third"]
    assert [times.index(max(times)) for times in (first, last)] == [1, 1]


def test_two_pairs_in_opposite_order_count_as_one() -> None:
    assert balanced([(1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0), (9.0, 9.0)]) == [(4.0, 6.0), (12.0, 14.0)]
