"""Figures of discovery and of its certainty: what is drawn is what the tables say."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import same_color, to_rgb
from test_figures import boxes_of_texts, check_style, check_texts, errorbars

from ravl_core import figures
from ravl_core.figures.discovery import method_looks, share_with_interval, standing_out
from ravl_core.figures.style import BLUE, SPURIOUS
from ravl_core.metrics import bootstrap_interval, wilson_interval

METHODS = (
    "RaVL",
    "RaVL, ranked by pull",
    "Distilling Failures",
    "George",
    "Domino",
    "Spurious-Aware Detection",
    "Random",
)
STRENGTHS = (0.7, 0.8, 0.9, 0.95, 0.99)
DOMAINS = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "coco_objects": "COCO objects"}
INITIALS = ("rn-mini", "rn-mini-deep")
LABELS = ("red rectangle (p = 0.001)", "badly written four", "upper left corner")


def precision_table(domains=tuple(DOMAINS), initials=INITIALS, methods=METHODS):
    """Six settings a cell, in three clusters."""
    random = np.random.default_rng(0)
    rows = [
        {"domain": d, "initial": i, "strength": v, "cluster": f"{d} {c}", "method": m}
        for d in domains
        for i in initials
        for v in STRENGTHS
        for c in (0, 1, 2)
        for _ in range(2)
        for m in methods
    ]
    return pd.DataFrame(rows).assign(precision_at_10=random.integers(0, 11, len(rows)) / 10)


def method_table(kinds=("synthetic", "real-world")):
    rows = [
        {"method": m, "kind": kind, "mean": 0.8 - 0.1 * at, "low": 0.72 - 0.1 * at, "high": 0.83 - 0.1 * at}
        | {"n": 300 + 40 * (kind == "synthetic"), "behind": 0.1 * at}
        | {"behind_low": 0.1 * at - 0.05 * (at > 0), "behind_high": 0.1 * at + 0.04 * (at > 0)}
        for kind in kinds
        for at, m in enumerate(METHODS)
    ]
    return pd.DataFrame(rows)


def power_table():
    """Of ten settings, as many are found as hundreds of images, by the stronger series two more."""
    rows = [
        {"n_images": n, "domain": d, "series": s, "found": int(setting < min(n // 100 + more, 10))}
        for d in DOMAINS
        for n in (1000, 100, 500, 200)
        for s, more in (("V = 0.7", 0), ("V = 0.99", 2))
        for setting in range(10)
    ]
    return pd.DataFrame(rows)


def stability_table():
    """Of twenty settings, eight agree in the paper's recipe and eighteen in ours."""
    kinds = {"seed": ["another seed"], "start": ["k-means++", "random"], "proposals": ["quadrants", "shifted by 4"]}
    rows = [
        {"kind": kind, "variation": variation, "recipe": recipe, "agrees": at < n_agree, "overlap": 0.0025 * at**2}
        for recipe, n_agree in (("paper", 8), ("pull", 18), ("controlled", 18))
        for kind, variations in kinds.items()
        for variation in variations
        for at in range(20)
    ]
    return pd.DataFrame(rows)


def claims_table():
    counts = {
        "paper's recipe": [7, 10, 11, 20, 21, 38] * 10,
        "any cluster, gap p ≤ 0.05": [0] * 35 + [1] * 20 + [2, 3, 3, 5, 6],
        "controlled": [0] * 57 + [1] * 3,
    }
    return pd.DataFrame([{"recipe": name, "n_findings": n} for name, all_n in counts.items() for n in all_n])


def null_statistics(n=199):
    return np.sort(np.random.default_rng(0).gamma(9, 0.05, n))


def draw_all():
    whole = precision_table()
    missing = whole[(whole["domain"] != "mnist") | (whole["initial"] == "rn-mini")]
    clusters = np.r_[2.4, 1.2, 0.55, np.linspace(0.1, 0.8, 20)]
    without_one = stability_table().query("recipe != 'pull' or variation != 'random'")
    return {
        "precision": figures.precision_panels(missing, METHODS, names=DOMAINS),
        "precision, one panel": figures.precision_panels(whole[whole["domain"] == "mnist"], METHODS[:4], rows=None),
        "methods": figures.method_bars(method_table(["synthetic"])),
        "methods by kind": figures.method_bars(method_table(), "kind", difference="behind"),
        "null": figures.null_histogram(null_statistics(), clusters, LABELS),
        "null, marks on one side": figures.null_histogram(null_statistics(), [1.45, 1.42, 1.4], LABELS),
        "null, no names": figures.null_histogram(null_statistics(), [0.3]),
        "power": figures.power_curves(power_table(), names=DOMAINS),
        "power, one panel": figures.power_curves(power_table(), panels=None),
        "agreement": figures.agreement(without_one),
        "claims": figures.claims_per_model(claims_table()),
        "claims of one": figures.claims_per_model(claims_table().query("recipe == 'controlled'")),
    }


@pytest.fixture(scope="module")
def drawn():
    return draw_all()


def ends_of(bars, axis):
    """Ends of an errorbar's intervals on an axis (0: x, 1: y), (n, 2); NaN where none is drawn."""
    (intervals,) = (part for part in bars.lines[2] if isinstance(part, LineCollection))
    segments = [segment[:, axis] if len(segment) else (np.nan, np.nan) for segment in intervals.get_segments()]
    return np.array(segments)


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def tick_labels(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


# ---- all of them ----


def test_no_text_leaves_the_canvas_or_covers_another(drawn):
    check_texts(drawn)


def test_type_and_widths_are_those_of_the_style(drawn):
    assert plt.get_fignums() == []
    check_style(drawn)


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    def draw(folder):
        clusters = np.linspace(0.1, 2, 9)
        paths = [
            *figures.save(figures.null_histogram(null_statistics(), clusters, LABELS), tmp_path / folder, "null"),
            *figures.save(figures.power_curves(power_table(), panels=None), tmp_path / folder, "power"),
        ]
        return [path.read_bytes() for path in paths]

    assert draw("one") == draw("two")


@pytest.mark.parametrize(
    "draw, table",
    [
        (lambda table: figures.precision_panels(table, METHODS), precision_table(["mnist"])),
        (lambda table: figures.method_bars(table, "kind", difference="behind"), method_table()),
        (figures.power_curves, power_table()),
        (figures.agreement, stability_table()),
        (figures.claims_per_model, claims_table()),
    ],
)
def test_a_table_without_a_column_or_a_row_is_refused(draw, table):
    for column in table.columns:
        with pytest.raises(ValueError, match=rf"table: expected columns \['{column}'\]"):
            draw(table.drop(columns=column))
    with pytest.raises(ValueError, match="table: expected at least one row, got none"):
        draw(table[:0])


# ---- Precision@10 by strength ----


def test_precision_panels_draw_the_bootstrap_over_clusters():
    table = precision_table(["mnist", "photos"], methods=METHODS[:2])
    figure = figures.precision_panels(table, METHODS[:2])
    assert len(figure.axes) == 4 and len(errorbars(figure)) == 8
    cells = [(d, i, m) for i in INITIALS for d in ("mnist", "photos") for m in METHODS[:2]]
    for bars, (domain, initial, method) in zip(errorbars(figure), cells, strict=True):
        own = table[(table["domain"] == domain) & (table["initial"] == initial) & (table["method"] == method)]
        at_strength = [own[own["strength"] == v] for v in STRENGTHS]
        expected = [bootstrap_interval(s["precision_at_10"], groups=s["cluster"].to_numpy(str)) for s in at_strength]
        np.testing.assert_allclose(bars.lines[0].get_ydata(), [e.estimate for e in expected])
        np.testing.assert_allclose(ends_of(bars, 1), [(e.low, e.high) for e in expected])


def test_precision_panels_place_strengths_at_equal_distances_over_their_numbers_of_settings():
    table = precision_table(["mnist", "photos"], INITIALS[:1], METHODS[:3])
    table = table.drop(table[table["strength"] == 0.8].index[:3])  # a setting
    table = table.drop(table[(table["strength"] == 0.9) & (table["method"] == "RaVL")].index[:1])
    first, second = figures.precision_panels(table, METHODS[:3]).axes
    assert tick_labels(first) == ["0.7\n6", "0.8\n5", "0.9\n5–6", "0.95\n6", "0.99\n6"]
    assert tick_labels(second) == ["0.7\n6", "0.8\n6", "0.9\n6", "0.95\n6", "0.99\n6"]
    places = np.array([bars.lines[0].get_xdata() for bars in first.containers])
    np.testing.assert_allclose(np.diff(places, axis=1), 1)
    np.testing.assert_allclose(places.mean(axis=0), range(5), atol=1e-9)
    assert (np.diff(places, axis=0) > 0.05).all()  # beside each other
    assert "V\nn" in texts_of(first)


def test_precision_panels_name_domains_initial_models_and_methods():
    table = precision_table(["mnist", "photos"], methods=METHODS[:3])
    figure = figures.precision_panels(
        table, METHODS[2::-1], names={"mnist": "MNIST", "RaVL": "ours", "rn-mini-deep": "deep"}
    )
    assert [axes.get_title() for axes in figure.axes] == ["MNIST", "photos", "", ""]
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["rn-mini\nPrecision@10", "", "deep\nPrecision@10", ""]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [METHODS[2], METHODS[1], "ours"]
    low, high = figure.axes[0].get_ylim()
    assert -0.1 < low < 0 and 1 < high < 1.1


def test_precision_panels_say_where_there_are_no_settings():
    table = precision_table(["mnist", "photos"], methods=METHODS[:2])
    gone = (table["domain"] == "photos") & (table["initial"] == "rn-mini-deep")
    nan = (table["domain"] == "mnist") & (table["initial"] == "rn-mini") & (table["strength"] == 0.8)
    table.loc[nan, "precision_at_10"] = np.nan
    axes = figures.precision_panels(table[~gone], METHODS[:2]).axes
    assert ["no settings" in texts_of(panel) for panel in axes] == [False, False, False, True]
    assert tick_labels(axes[3])[0] == "0.7\n0" and tick_labels(axes[0])[1] == "0.8\n0"
    heights = axes[0].containers[0].lines[0].get_ydata()
    np.testing.assert_array_equal(np.isnan(heights), [False, True, False, False, False])  # the line breaks


def test_precision_panels_refuse_methods_that_are_not_there():
    with pytest.raises(ValueError, match=r"methods: expected some of \['RaVL'\], got \['Domino'\]"):
        figures.precision_panels(precision_table(["mnist"], methods=["RaVL"]), ["RaVL", "Domino"])


def test_what_stands_out_is_wide_and_the_rest_is_thin_and_told_apart():
    looks = method_looks(METHODS)
    assert list(looks) == list(METHODS)
    ahead, behind = [looks[name] for name in METHODS[:2]], [looks[name] for name in METHODS[2:]]
    assert min(look["linewidth"] for look in ahead) >= 2 * max(look["linewidth"] for look in behind)
    for part in ("color", "marker", "linestyle"):
        assert len({str(look[part]) for look in looks.values()}) == len(METHODS)
    colourfulness = [[np.ptp(to_rgb(look["color"])) for look in looks] for looks in (ahead, behind)]
    assert min(colourfulness[0]) > 2 * max(colourfulness[1])
    assert looks["RaVL"]["color"] == BLUE
    assert standing_out(METHODS, ["Domino"]) == ["Domino"] and method_looks(METHODS, ["Domino"])["Domino"] == ahead[0]
    with pytest.raises(
        ValueError, match="methods: at most 3 that stand out and 6 others can be told apart, got 0 and 7"
    ):
        method_looks(METHODS, [])


# ---- methods ----


def test_method_bars_draw_what_the_table_says():
    table = method_table(["synthetic"])
    figure = figures.method_bars(table)
    (axes,) = figure.axes
    dots = [(*bars.lines[0].get_xdata(), *bars.lines[0].get_ydata()) for bars in errorbars(figure)]
    np.testing.assert_allclose(dots, np.column_stack([table["mean"], range(7)]))
    np.testing.assert_allclose([ends_of(bars, 0)[0] for bars in errorbars(figure)], table[["low", "high"]])
    assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS)
    assert [label.get_fontweight() for label in axes.get_yticklabels()] == ["bold"] * 2 + ["normal"] * 5
    blue = [same_color(bars.lines[0].get_color(), BLUE) for bars in errorbars(figure)]
    assert blue == [True] * 2 + [False] * 5
    assert axes.get_title(loc="left") == "n = 340" and axes.yaxis_inverted()
    assert axes.get_xlim() == (-0.02, 1.02)


def test_method_bars_draw_groups_and_paired_differences():
    table = method_table()
    table.loc[10, ["mean", "low", "high", "behind"]] = np.nan  # George on real-world settings
    table.loc[11, "n"] = 290
    figure = figures.method_bars(table, "kind", ["RaVL"], "behind")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["synthetic, n = 340", "", "real-world, n = 290–300", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == 2 * ["Precision@10", "RaVL − method"]
    assert [len(axes.containers) for axes in figure.axes] == [7, 6, 6, 5]  # RaVL does not differ from itself
    assert ["no settings" in texts_of(axes) for axes in figure.axes] == [False, False, True, True]
    behind = figure.axes[1].containers
    np.testing.assert_allclose([bars.lines[0].get_xdata()[0] for bars in behind], table["behind"][1:7])
    np.testing.assert_allclose([bars.lines[0].get_ydata()[0] for bars in behind], range(1, 7))
    np.testing.assert_allclose([ends_of(bars, 0)[0] for bars in behind], table[["behind_low", "behind_high"]][1:7])


def test_method_bars_refuse_two_rows_of_one_method():
    with pytest.raises(ValueError, match="table: expected one row a method and group, got several"):
        figures.method_bars(method_table())


# ---- power ----


def test_power_curves_draw_shares_with_wilson_intervals():
    figure = figures.power_curves(power_table(), names=DOMAINS)
    assert [axes.get_title() for axes in figure.axes] == list(DOMAINS.values())
    for axes in figure.axes:
        assert tick_labels(axes) == ["100\n10", "200\n10", "500\n10", "1000\n10"]
        for bars, shares in zip(axes.containers, ([0.1, 0.2, 0.5, 1], [0.3, 0.4, 0.7, 1]), strict=True):
            np.testing.assert_allclose(bars.lines[0].get_ydata(), shares)
            low, high = wilson_interval(shares, [10] * 4)
            np.testing.assert_allclose(ends_of(bars, 1), np.column_stack([low, high]), atol=1e-12)


def test_power_curves_leave_out_what_is_not_known_and_say_so():
    table = power_table()
    table["found"] = table["found"].astype(float)
    table.loc[table["domain"] == "mnist", "found"] = np.nan
    table.loc[table[(table["domain"] == "fashion_mnist") & (table["n_images"] == 200)].index[:4], "found"] = np.nan
    axes = figures.power_curves(table).axes
    assert "no settings" in texts_of(axes[0]) and "no settings" not in texts_of(axes[1])
    assert tick_labels(axes[1])[1] == "200\n6–10"
    assert tick_labels(figures.power_curves(power_table(), panels=None).axes[0])[0] == "100\n30"


def test_a_share_of_nothing_is_not_a_number():
    assert share_with_interval([True, False, True, True]).estimate == 0.75
    assert np.isnan(share_with_interval([])).all()


# ---- certainty ----


def test_null_histogram_counts_every_permutation_and_marks_the_95_percent_line():
    null = null_statistics(999)
    axes = figures.null_histogram(null, [0.2, np.nan]).axes[0]
    assert sum(patch.get_height() for patch in axes.patches) == 999
    (line,) = axes.collections[0].get_segments()
    limit = line[0, 0]
    assert (null > limit).sum() == 49  # with the observed value itself, 50 of 1000
    assert f"95% line, {limit:.2f}" in texts_of(axes)
    assert axes.get_ylabel() == "of 999 permutations"


def test_null_histogram_names_the_first_clusters_and_fills_those_beyond_the_line():
    observed = [2.4, np.nan, 0.55, 0.3, 0.9]
    axes = figures.null_histogram(null_statistics(), observed, LABELS).axes[0]
    beyond, within = (part for part in axes.collections if isinstance(part, PathCollection))
    np.testing.assert_allclose(beyond.get_offsets()[:, 0], [2.4, 0.9])
    np.testing.assert_allclose(within.get_offsets()[:, 0], [0.55, 0.3])
    assert same_color(beyond.get_facecolor()[0], SPURIOUS) and same_color(within.get_facecolor()[0], "white")
    assert beyond.get_offsets()[0, 1] > max(patch.get_height() for patch in axes.patches)
    places = {text.get_text(): text.xy[0] for text in axes.texts}
    assert places[LABELS[0]] == 2.4 and places[LABELS[2]] == 0.55 and LABELS[1] not in places


@pytest.mark.parametrize("observed", [[1.45, 1.42, 1.4], [0.2, 0.25, 0.3], [2.4, 1.2, 0.55]])
def test_names_of_clusters_run_inwards_and_no_line_crosses_one(observed):
    figure = figures.null_histogram(null_statistics(), observed, LABELS)
    boxes = dict(boxes_of_texts(figure))
    axes = figure.axes[0]
    names = {text.get_text(): text for text in axes.texts if text.get_text() in LABELS}
    middle = np.mean(axes.get_xlim())
    for name, x in zip(LABELS, observed, strict=True):
        assert names[name].get_ha() == ("right" if x > middle else "left")
    lines = [part.get_segments()[0] for part in axes.collections if isinstance(part, LineCollection)][1:]
    assert len(lines) == 3
    for (x, low), (_, high) in (axes.transData.transform(line) for line in lines):
        assert not any(boxes[n].x0 < x < boxes[n].x1 and low < boxes[n].y1 and high > boxes[n].y0 for n in LABELS)


@pytest.mark.parametrize(
    "null, observed, message",
    [
        ([], [1.0] * 3, r"null: expected an array \(P,\), P ≥ 1, got shape \(0,\)"),
        (np.ones((2, 2)), [1.0] * 3, r"null: expected an array \(P,\), P ≥ 1, got shape \(2, 2\)"),
        ([0.5, 0.6], [1.0], "labels: expected at most 1, one a cluster, got 3"),
    ],
)
def test_null_histogram_refuses_what_does_not_fit(null, observed, message):
    with pytest.raises(ValueError, match=message):
        figures.null_histogram(null, observed, LABELS)


def test_agreement_groups_variations_and_draws_shares_and_overlaps():
    figure = figures.agreement(stability_table(), names={"paper": "the paper's", "start": "first medoids"})
    assert [axes.get_title() for axes in figure.axes] == ["the paper's, n = 20", "pull, n = 20", "controlled, n = 20"]
    labels = {label.get_text(): label.get_fontweight() for label in figure.axes[0].get_yticklabels()}
    headings = {"seed", "first medoids", "proposals"}
    assert list(labels)[:5] == ["seed", "another seed", "first medoids", "k-means++", "random"]
    assert {name for name, weight in labels.items() if weight == "bold"} == headings
    for axes, share in zip(figure.axes, (0.4, 0.9, 0.9), strict=True):
        assert len(axes.containers) == 5
        np.testing.assert_allclose([bars.lines[0].get_xdata()[0] for bars in axes.containers], share)
        np.testing.assert_allclose([round(bars.lines[0].get_ydata()[0]) for bars in axes.containers], [1, 3, 4, 6, 7])
        low, high = wilson_interval(share, 20)
        np.testing.assert_allclose(ends_of(axes.containers[0], 0), [(low, high)])
        overlaps = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
        np.testing.assert_allclose(overlaps, [0.0025 * np.mean(np.arange(20) ** 2)] * 5)


def test_agreement_says_where_there_are_no_settings_and_leaves_out_unknown_overlaps():
    table = stability_table()
    table.loc[table["variation"] == "quadrants", "overlap"] = np.nan
    table = table[(table["recipe"] != "pull") | (table["variation"] != "random")]
    paper, pull, _ = figures.agreement(table).axes
    assert texts_of(paper) == [] and texts_of(pull) == ["no settings"]
    assert len(pull.containers) == 4
    overlaps = [line.get_xdata()[0] for line in paper.lines if line.get_marker() == "D"]
    assert np.isnan(overlaps).sum() == 1


def test_claims_count_settings_by_their_number_of_findings():
    figure = figures.claims_per_model(claims_table(), names={"controlled": "ours"})
    left, right = figure.axes
    assert tick_labels(left) == ["0", "1", "2", "3–5", "6–10", "11–20", "over 20"]
    assert [label.get_text() for label in left.get_yticklabels()][2] == "ours"
    written = {(round(text.get_position()[1]), text.get_position()[0]): text.get_text() for text in left.texts}
    expected = {(0, 4): "20", (0, 5): "20", (0, 6): "20", (2, 0): "57", (2, 1): "3"}  # row and bin
    assert written == expected | {(1, 0): "35", (1, 1): "20", (1, 2): "1", (1, 3): "3", (1, 4): "1"}
    tops = {(row, at): bars[at].get_bbox().y1 for row, bars in enumerate(left.containers) for at in range(len(bars))}
    assert all(text.get_position()[1] < tops[row, at] for (row, at), text in zip(written, left.texts, strict=True))
    for bars, shares in zip(left.containers, ([0, 0, 0, 0, 20, 20, 20], [35, 20, 1, 3, 1], [57, 3]), strict=True):
        np.testing.assert_allclose([-patch.get_height() for patch in bars], 0.62 * np.array(shares) / 60)
    assert texts_of(right) == ["60 of 60", "25 of 60", "3 of 60"]
    for bars, n_claims in zip(right.containers, (60, 25, 3), strict=True):
        assert bars.lines[0].get_xdata()[0] == n_claims / 60
        low, high = wilson_interval(n_claims / 60, 60)
        np.testing.assert_allclose(ends_of(bars, 0), [(low, high)])
