"""Figures of cost: what is drawn is what the table says, with slopes and floors."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from test_figures import check_style, check_texts

from ravl_core.figures.speed import cost_by_size, rates, slope

SIZES = (1000, 4000, 16000)


def costs():
    rows = [{"method": "plain", "regions": n, "seconds": 3e-7 * n**2, "bytes": 30.0 * n**2} for n in SIZES[:2]]
    rows += [{"method": "linear", "regions": n, "seconds": 2e-5 * n, "bytes": np.nan} for n in SIZES]
    return pd.DataFrame(
        rows + [{"method": "one product", "regions": n, "seconds": 1e-8 * n**2, "bytes": 4.0 * n**2} for n in SIZES]
    )


def test_the_slope_is_the_exponent_of_the_growth():
    assert slope(SIZES, [7 * n**1.5 for n in SIZES]) == pytest.approx(1.5)
    assert np.isnan(slope([5, 5], [1, 2]))


def test_costs_are_drawn_over_sizes_with_names_slopes_and_floors():
    figure = cost_by_size(
        costs(), {"seconds": "seconds", "bytes": "peak memory"}, floors=["one product"], limits={"seconds": 60}
    )
    check_style({"figure": figure})
    time, memory = figure.axes[:2]
    assert time.get_xscale() == time.get_yscale() == "log" and time.get_ylabel() == "seconds"
    drawn = {len(line.get_xdata()): line for line in time.get_lines() if line.get_marker() in ("o", "s")}
    np.testing.assert_allclose(drawn[2].get_ydata(), [0.3, 4.8])
    np.testing.assert_allclose(drawn[3].get_xdata(), SIZES)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    for name in ("plain, slope 2.0", "linear, slope 1.0", "one product, slope 2.0", "aim"):
        assert name in words
    assert words.count("plain, slope 2.0") == 2 and words.count("linear, slope 1.0") == 1  # not measured: not drawn
    floor = [line for line in time.get_lines() if line.get_marker() in ("", "None") and len(line.get_xdata()) == 3]
    np.testing.assert_allclose(floor[0].get_ydata(), [1e-8 * n**2 for n in SIZES])


def test_rates_show_their_share_of_the_floor():
    table = pd.DataFrame({"images a second": [200.0, 150.0, 20.0]}, index=["one pass", "late", "crop"])
    figure = rates(table, "images a second", floor="one pass")
    check_style({"figure": figure})
    check_texts({"figure": figure})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(table.index)
    assert [text.get_text() for text in axes.texts] == ["200", "150 (75%)", "20 (10%)"]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [float(np.ravel(dot.get_xdata())[0]) for dot in dots] == [200, 150, 20]
    with pytest.raises(ValueError, match="floor: expected one of .*'crop'.*got 'two passes'"):
        rates(table, "images a second", floor="two passes")
    with pytest.raises(ValueError, match="expected at least one row"):
        rates(table[:0], "images a second")
