"""The figure of choices: a row a choice, a panel a recipe, dots where the table has them."""

import numpy as np
import pandas as pd
import pytest

from ravl_core import figures

TABLE = pd.DataFrame(
    [
        {"choice": choice, "recipe": recipe, "mean": mean, "low": mean - 0.1, "high": mean + 0.2}
        for recipe, means in (("a", (0.5, 0.6, 0.7)), ("b", (0.1, np.nan, 0.3)))
        for choice, mean in zip(("x", "y", "z"), means, strict=True)
    ]
)


def drawn(axes):
    """What each dot of a panel is: row → (mean, low, high, filled)."""
    found = {}
    for bar in axes.containers:
        line, _, (ends,) = bar
        (low, row), (high, _) = ends.get_segments()[0]
        filled = line.get_markerfacecolor() != "white"
        found[float(row)] = (float(line.get_xdata()[0]), float(low), float(high), filled)
    return found


def test_every_choice_has_its_row_and_its_interval_in_each_panel():
    figure = figures.choices(TABLE, "choice", "recipe", names={"a": "A", "x": "X"}, chosen=("y",))
    first, second = figure.axes
    assert [one.get_title() for one in figure.axes] == ["A", "b"]
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["X", "y", "z"]
    assert [tick.get_fontweight() for tick in first.get_yticklabels()] == ["normal", "bold", "normal"]
    assert drawn(first) == {
        0.0: (0.5, 0.4, pytest.approx(0.7), False),
        1.0: (0.6, 0.5, pytest.approx(0.8), True),
        2.0: (0.7, pytest.approx(0.6), pytest.approx(0.9), False),
    }
    assert set(drawn(second)) == {0.0, 2.0}  # NaN stays empty


def test_a_choice_that_a_panel_lacks_stays_empty():
    figure = figures.choices(TABLE[(TABLE.choice != "z") | (TABLE.recipe == "a")], "choice", "recipe")
    assert set(drawn(figure.axes[0])) == {0.0, 1.0, 2.0} and set(drawn(figure.axes[1])) == {0.0}


def test_a_marked_value_has_a_line_in_each_panel():
    plain, marked = (figures.choices(TABLE, "choice", "recipe", marked=value) for value in (None, 0.25))
    for without, one in zip(plain.axes, marked.axes, strict=True):
        more = [line for line in one.lines if list(line.get_xdata()) == [0.25, 0.25]]
        assert len(more) == 1 and len(one.lines) == len(without.lines) + 1


def test_panels_share_an_axis_and_one_panel_is_a_column_wide():
    one = figures.choices(TABLE[TABLE.recipe == "a"], "choice", "recipe")
    both = figures.choices(TABLE, "choice", "recipe", x_label="what")
    assert one.get_figwidth() == pytest.approx(3.3) and both.get_figwidth() == pytest.approx(6.9)
    assert both.axes[0].get_xlim() == both.axes[1].get_xlim()
    assert both.get_supxlabel() == "what"


def test_an_empty_table_or_a_missing_column_is_refused():
    with pytest.raises(ValueError, match="expected at least one row"):
        figures.choices(TABLE[:0], "choice", "recipe")
    with pytest.raises(ValueError, match="expected columns \\['low'\\]"):
        figures.choices(TABLE.drop(columns="low"), "choice", "recipe")
