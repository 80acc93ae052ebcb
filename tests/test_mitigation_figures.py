"""Figures of repairs: what is drawn is what the tables say, and every name can be read."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color, to_rgb
from matplotlib.patches import Rectangle
from test_figures import check_style, check_texts, errorbars
from test_mitigation_summaries import METHODS, WORST, made_up

from ravl_core import figures
from ravl_core.figures.mitigation import LOOKS, METRICS
from ravl_core.mitigation_summaries import HEADLINE, SECTIONS, by_condition, changes_of_methods

DIFFERENCE = ["difference", "difference_low", "difference_high"]
GAINS = {name: 1.5 * at for at, name in enumerate(METHODS)}
MANY = (*METHODS, "swaps + RaVL", "swaps + RaVL, significant clusters", "RaVL, late regions", "RaVL, twice")


@pytest.fixture(scope="module")
def repaired():
    return made_up(GAINS)


@pytest.fixture(scope="module")
def changes(repaired):
    return changes_of_methods(repaired)


@pytest.fixture(scope="module")
def conditions(repaired):
    methods = ("RaVL", "swaps", "VL-GDRO", "upsampled")
    return pd.concat([by_condition(repaired, method, "standard", "strength") for method in methods])


@pytest.fixture(scope="module")
def drawn(repaired, changes, conditions):
    alike = changes_of_methods(made_up(dict.fromkeys(MANY, 3.0), methods=MANY, noise=0.5))  # all crosses at one place
    # All but one at an end, so that their names have to make room
    top, bottom = (dict.fromkeys(MANY, gain) | {"swaps": 0.0, "standard": 0.0} for gain in (30.0, -30.0))
    top, bottom = (changes_of_methods(made_up(gains, methods=MANY)) for gains in (top, bottom))
    thirds = pd.concat([by_condition(repaired, method, "standard", "margin") for method in ("RaVL", "swaps", "VL-ERM")])
    return {
        "forest": figures.forest(changes),
        "forest of the paper's methods": figures.forest(changes[changes.section == SECTIONS[0]]),
        "forest of one figure": figures.forest(changes, {WORST: "worst group"}),
        "cost": figures.gain_against_cost(changes),
        "cost, all alike": figures.gain_against_cost(alike),
        "cost, most at the top": figures.gain_against_cost(top),
        "cost, most at the bottom": figures.gain_against_cost(bottom),
        "cost of one": figures.gain_against_cost(changes[changes.method == "RaVL"]),
        "conditions": figures.gain_by_condition(conditions),
        "conditions, thirds": figures.gain_by_condition(thirds, x_label="learned margin in points"),
        "conditions of one": figures.gain_by_condition(conditions[conditions.method == "RaVL"]),
    }


def segments(bars, direction):
    """The two ends on the horizontal (0) or the vertical (1) axis of an interval through a point."""
    parts = [part.get_segments()[0] for part in bars.lines[2] if isinstance(part, LineCollection)]
    (segment,) = [part[:, direction] for part in parts if np.ptp(part[:, 1 - direction]) == 0]
    return segment.tolist()


def of(table, method, metric):
    return table[(table.method == method) & (table.metric == metric)][DIFFERENCE].to_numpy()[0]


# ---- all of them ----


def test_no_text_leaves_the_canvas_or_covers_another(drawn):
    check_texts(drawn)


def test_type_and_widths_are_those_of_the_style(drawn):
    assert plt.get_fignums() == []
    check_style(drawn)


def test_the_same_numbers_give_the_same_bytes(changes, tmp_path):
    def draw(folder):
        paths = figures.save(figures.gain_against_cost(changes), tmp_path / folder, "cost")
        return [path.read_bytes() for path in paths]

    assert draw("one") == draw("two")


@pytest.mark.parametrize("draw", [figures.forest, figures.gain_against_cost])
def test_a_table_without_a_column_a_row_or_a_known_section_is_refused(draw, changes):
    for column in ("method", "section", "metric", "n", *DIFFERENCE):
        with pytest.raises(ValueError, match=rf"table: expected columns \['{column}'\]"):
            draw(changes.drop(columns=column))
    with pytest.raises(ValueError, match="table: expected at least one row, got none"):
        draw(changes[:0])
    with pytest.raises(ValueError, match="section: expected one of .*'ours and variants', .* got 'ours'"):
        draw(changes.assign(section="ours"))


def test_a_table_without_conditions_or_the_metric_is_refused(conditions):
    for column in ("method", "condition", "metric", "n", *DIFFERENCE):
        with pytest.raises(ValueError, match=rf"table: expected columns \['{column}'\]"):
            figures.gain_by_condition(conditions.drop(columns=column))
    with pytest.raises(ValueError, match="table: expected at least one row, got none"):
        figures.gain_by_condition(conditions, "no_metric")


def test_sections_are_told_apart_without_colour():
    looks = [LOOKS[name] for name in SECTIONS]
    assert len({look["marker"] for look in looks}) == len(looks)
    assert len({(look["color"], look["filled"]) for look in looks}) == len(looks)
    weights = np.array([0.299, 0.587, 0.114])  # luma
    for look in looks:
        assert np.array(to_rgb(look["color"])) @ weights < 0.6  # dark enough on white


# ---- the forest ----


def test_every_row_is_its_methods_difference_with_its_interval(drawn, changes):
    figure = drawn["forest"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(figure.axes) == len(METRICS)
    for axes, metric in zip(figure.axes, METRICS, strict=True):
        assert len(axes.containers) == len(METHODS) - 1  # but the reference
        for bars in axes.containers:
            (place,), (row,) = bars.lines[0].get_xdata(), bars.lines[0].get_ydata()
            mean, low, high = of(changes, names[int(row)], metric)
            assert place == pytest.approx(mean) and segments(bars, 0) == pytest.approx([low, high])


def test_rows_stand_in_sections_with_headings(drawn):
    labels = drawn["forest"].axes[0].get_yticklabels()
    names = [label.get_text() for label in labels]
    assert names[:8] == [SECTIONS[0], *HEADLINE[1:], SECTIONS[1]]
    assert names[8:] == ["swaps", "RaVL, balanced", SECTIONS[2], *[n for n in METHODS if n.endswith("true regions")]]
    bold = [label.get_text() for label in labels if label.get_fontweight() == "bold"]
    assert bold == [SECTIONS[0], "RaVL", SECTIONS[1], SECTIONS[2]]


def test_only_the_rows_with_the_true_regions_are_shaded_and_open(drawn):
    axes = drawn["forest"].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    (shade,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    low, high = shade.get_y(), shade.get_y() + shade.get_height()
    assert [name for row, name in enumerate(names) if low < row < high] == names[names.index(SECTIONS[2]) :]
    for bars in axes.containers:
        line = bars.lines[0]
        is_open = same_color(line.get_markerfacecolor(), "white")
        assert is_open == names[int(line.get_ydata()[0])].endswith("true regions")
    assert not drawn["forest of the paper's methods"].axes[0].patches


def test_sections_keep_their_order_and_look_whatever_the_tables_order(changes):
    axes = figures.forest(changes[::-1]).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert [name for name in names if name in SECTIONS] == list(SECTIONS)
    markers = {names[int(bars.lines[0].get_ydata()[0])]: bars.lines[0].get_marker() for bars in axes.containers}
    assert (markers["RaVL"], markers["swaps"], markers["RaVL, true regions"]) == ("o", "s", "D")


def test_a_panel_has_a_line_at_zero_and_says_how_many_settings(repaired):
    few = repaired[(repaired.method != "VL-ERM") | (repaired.seed % 2 == 0)]
    figure = figures.forest(changes_of_methods(few))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"{label}\nn = 30–60" for label in METRICS.values()]
    for axes in figure.axes:
        assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)


def test_a_method_without_settings_says_so(changes):
    table = changes.copy()
    table.loc[(table.method == "RaVL") & (table.metric == WORST), DIFFERENCE] = np.nan
    table = table[(table.method != "swaps") | (table.metric != "image_overall")]
    first, second, third, _ = figures.forest(table).axes
    assert [[text.get_text() for text in axes.texts] for axes in (first, second, third)] == [
        ["no settings"], ["no settings"], [],
    ]  # fmt: skip


# ---- gain against cost ----


def test_a_cross_is_the_two_differences_with_their_intervals(drawn, changes):
    (axes,) = drawn["cost"].axes
    names = [text.get_text() for text in axes.texts]
    assert sorted(names) == sorted(set(METHODS) - {"standard"})
    for name, bars in zip(names, axes.containers, strict=True):
        cost, gain = of(changes, name, "aligned_accuracy"), of(changes, name, WORST)
        (x,), (y,) = bars.lines[0].get_data()
        assert (x, y) == pytest.approx((cost[0], gain[0]))
        assert segments(bars, 0) == pytest.approx(cost[1:]) and segments(bars, 1) == pytest.approx(gain[1:])


@pytest.mark.parametrize(
    "name",
    [
        "cost",
        "cost, all alike",
        "cost, most at the top",
        "cost, most at the bottom",
        "cost of one",
    ],
)
def test_each_name_has_a_line_to_its_cross_and_stands_in_the_order_of_height(drawn, name):
    (axes,) = drawn[name].axes
    leaders = [line for line in axes.lines if line.get_linewidth() == 0.6]
    heights = {}
    for bars, leader, text in zip(axes.containers, leaders, axes.texts, strict=True):
        (x,), (y,) = bars.lines[0].get_data()
        assert leader.get_xydata()[0] == pytest.approx([x, y]) and leader.get_xydata()[1] == pytest.approx(text.xy)
        assert text.xy[0] > axes.get_xlim()[1] and same_color(text.get_color(), bars.lines[0].get_color())
        heights[y] = text.xy[1]
    in_order = [heights[y] for y in sorted(heights)]
    assert in_order == sorted(in_order)
    low, high = axes.get_ylim()
    assert low < in_order[0] and in_order[-1] < high


def test_a_method_that_lacks_one_of_the_two_is_left_out(changes):
    table = changes[(changes.method != "RaVL") | (changes.metric != "aligned_accuracy")].copy()
    table.loc[(table.method == "swaps") & (table.metric == WORST), DIFFERENCE] = np.nan
    names = {text.get_text() for text in figures.gain_against_cost(table).axes[0].texts}
    assert names == set(METHODS) - {"standard", "RaVL", "swaps"}
    with pytest.raises(ValueError, match="expected at least one row"):
        figures.gain_against_cost(changes[changes.metric == WORST])


def test_other_metrics_may_be_set_against_each_other(changes):
    figure = figures.gain_against_cost(changes, "region_worst_group", "image_overall", ("cost", "gain"))
    bars = errorbars(figure)[0]
    name = figure.axes[0].texts[0].get_text()
    expected = of(changes, name, "image_overall")[0], of(changes, name, "region_worst_group")[0]
    assert [value[0] for value in bars.lines[0].get_data()] == pytest.approx(expected)
    assert figure.axes[0].get_xlabel() == "cost, change in points; n = 60"
    assert figure.axes[0].get_ylabel() == "gain, change in points"


# ---- gain by condition ----


def test_panels_are_methods_and_places_are_conditions(drawn, conditions):
    figure = drawn["conditions"]
    assert [axes.get_title() for axes in figure.axes] == ["RaVL", "swaps", "VL-GDRO", "upsampled"]
    rows = conditions[conditions.metric == WORST]
    for axes in figure.axes:
        own = rows[rows.method == axes.get_title()]
        (bars,) = axes.containers
        assert bars.lines[0].get_xdata().tolist() == [0, 1, 2]
        np.testing.assert_allclose(bars.lines[0].get_ydata(), own.difference)
        (intervals,) = bars.lines[2]
        np.testing.assert_allclose([part[:, 1] for part in intervals.get_segments()], own[DIFFERENCE[1:]])
        labels = [label.get_text() for label in axes.get_xticklabels()]
        n = own.n.tolist()
        assert labels == [f"0.7\nn = {n[0]}", f"0.9\n{n[1]}", f"0.99\n{n[2]}"] and sum(n) == 60
        assert any(list(line.get_ydata()) == [0, 0] for line in axes.lines)
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


def test_another_metric_may_be_asked_for(conditions):
    axes = figures.gain_by_condition(conditions, "region_overall").axes[0]
    expected = conditions[(conditions.method == "RaVL") & (conditions.metric == "region_overall")].difference
    np.testing.assert_allclose(axes.containers[0].lines[0].get_ydata(), expected)


def test_names_of_thirds_break_before_their_ends(drawn):
    labels = [label.get_text() for label in drawn["conditions, thirds"].axes[0].get_xticklabels()]
    assert [label.split("\n")[0] for label in labels] == ["lower third", "middle third", "upper third"]
    assert [label.split("\n")[2] for label in labels] == ["n = 20", "20", "20"]


def test_seven_methods_find_room(repaired):
    table = pd.concat([by_condition(repaired, method, "standard", "strength") for method in METHODS[1:8]])
    figure = figures.gain_by_condition(table)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 7 + [False] * 2
