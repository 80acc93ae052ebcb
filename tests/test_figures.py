from itertools import combinations

import matplotlib
import numpy as np
import pandas
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from ravl_core import figures
from ravl_core.domains import load_domain
from ravl_core.figures.overview import _example
from ravl_core.figures.style import SERIES, spread
from ravl_core.kmedoids import Clustering
from ravl_core.metrics import group_accuracies, wilson_interval

CLASSES = ("zero", "one", "two", "three")
STRENGTHS = (0.0, 0.8, 0.95, 0.99)


@pytest.fixture(scope="module")
def dataset():
    labels = np.repeat(np.arange(10), 4)
    return load_domain("digits").compose("val", labels, np.arange(40) % 2 == 1, seed=0)


def finding_table():
    return pandas.DataFrame(
        {
            "n_in": [40, 20, 30, 0],
            "n_out": [10, 30, 20, 50],
            "accuracy_in": [0.2, 0.99, 0.5, np.nan],
            "accuracy_out": [0.9, 0.1, 1.0, 0.7],
        }
    )


def study_table(n_seeds=5):
    random = np.random.default_rng(0)
    rows = [
        {"strength": v, "method": method, "precision_at_10": p * v + random.uniform(0, 0.1), "seed": seed}
        for v in STRENGTHS
        for method, p in (("RaVL", 0.9), ("Random", 0.1))
        for seed in range(n_seeds)
    ]
    return pandas.DataFrame(rows).assign(margin=lambda table: 50 * table["precision_at_10"])


def groups(seed, share):
    labels, present = np.arange(400) % 4, np.arange(400) // 4 % 2 == 1
    return group_accuracies(np.random.default_rng(seed).random(400) < share, labels, present, 4)


def clustering(silhouettes, n_clusters, n_emptied=0):
    return Clustering(np.zeros(4, int), np.arange(n_clusters), np.eye(4)[:n_clusters], silhouettes, n_emptied)


def draw_all(dataset):
    planted = np.flatnonzero(dataset.shows_feature)
    shown = planted[[0, 5, 9, 19]]
    names = [dataset.class_names[dataset.labels[dataset.image_index[region]]] for region in shown]
    return {
        "overview": figures.overview(),
        "overview of digits": figures.overview(dataset.images[dataset.image_index[shown]], names),
        "top regions": figures.top_regions(dataset, planted, title="first finding", predictions=dataset.labels[::-1]),
        "class accuracy": figures.class_accuracy(finding_table(), CLASSES, 1),
        "composites": figures.composites(dataset, feature="red rectangle"),
        "strength": figures.strength_curve(study_table(), hue="method", levels={"chance": 0.2}),
        "validity": figures.validity_counts(study_table(), hue="method"),
        "before and after": figures.before_after(groups(0, 0.6), groups(1, 0.9), CLASSES, 1),
        "silhouettes": figures.silhouettes(clustering({2: 0.2, 3: 0.4, 4: 0.3}, 3)),
    }


@pytest.fixture(scope="module")
def drawn(dataset):
    return draw_all(dataset)


def boxes_of_texts(figure):
    """What each visible, non-empty text says, and where it stands in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = {id(text) for axes in figure.axes for text in hidden_texts(axes)}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in texts]


def check_texts(drawn):
    """No text of the figures leaves its canvas or covers another."""
    for name, figure in drawn.items():
        canvas, boxes = figure.bbox, boxes_of_texts(figure)
        assert boxes, name
        for text, box in boxes:
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= canvas.x1 and box.y1 <= canvas.y1
            assert inside, f"{name}: {text!r} leaves the canvas"
        for (text, box), (other, other_box) in combinations(boxes, 2):
            assert not box.overlaps(other_box), f"{name}: {text!r} covers {other!r}"


def check_style(drawn):
    """Type has seven to nine points, and a figure is as wide as a column or as the text."""
    for name, figure in drawn.items():
        sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()}
        assert min(sizes) >= 7 and max(sizes) <= 9, name
        assert figure.get_figwidth() in (3.3, 6.9), name


def hidden_texts(axes):
    """Those of an invisible axes, and the labels of ticks beyond the ends of an axis, which are never drawn."""
    if not axes.get_visible():
        return axes.findobj(Text)
    beyond = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
        beyond += [label for place, label in ticks if not low <= place <= high]
    return beyond


def errorbars(figure):
    return [bars for axes in figure.axes for bars in axes.containers if isinstance(bars, ErrorbarContainer)]


def test_every_function_returns_a_figure_that_pyplot_has_let_go(drawn):
    assert all(isinstance(figure, Figure) for figure in drawn.values())
    assert plt.get_fignums() == []


def test_drawing_leaves_the_readers_own_style_alone():
    before = dict(plt.rcParams)
    figures.silhouettes(clustering({2: 0.2, 3: 0.4}, 3))
    assert dict(plt.rcParams) == before


def test_no_text_leaves_the_canvas_or_covers_another(drawn):
    check_texts(drawn)


def test_type_is_seven_to_nine_points_and_widths_are_a_columns_or_the_texts(drawn):
    check_style(drawn)


def test_save_writes_the_same_bytes_twice(dataset, tmp_path):
    kept = []
    for folder in ("one", "two"):
        for draw in (figures.overview, lambda: figures.strength_curve(study_table(), hue="method")):
            paths = figures.save(draw(), tmp_path / folder, "figure")
            assert [path.name for path in paths] == ["figure.png", "figure.pdf"]
            kept.append([path.read_bytes() for path in paths])
    assert kept[:2] == kept[2:]
    assert kept[0][0].startswith(b"\x89PNG") and kept[0][1].startswith(b"%PDF")
    assert b"CreationDate" not in kept[0][1] and b"Software" not in kept[0][0]


def test_saved_pictures_have_200_pixels_an_inch(tmp_path):
    path, _ = figures.save(figures.overview(), tmp_path, "overview")
    assert plt.imread(path).shape[1] == 1380


def test_overview_refuses_what_is_no_list_of_images():
    with pytest.raises(ValueError, match=r"examples: expected images \(n, H, W, 3\)"):
        figures.overview(np.zeros((56, 56, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="names: expected one for each of 2 examples, got 1"):
        figures.overview(np.zeros((2, 56, 56, 3), dtype=np.uint8), ["seven"])


def test_overview_draws_one_example_as_well_as_many(dataset):
    for n in (1, 7):
        assert isinstance(figures.overview(dataset.images[-n:]), Figure)


def test_overview_tells_object_and_feature_apart(dataset):
    for image in np.flatnonzero(dataset.feature_present):
        example, own = _example(dataset.images[image], "digit"), dataset.image_index == image
        assert example.core == dataset.shows_core[own].argmax()
        assert example.spurious == dataset.shows_feature[own].argmax()


@pytest.mark.parametrize("n_regions, n, expected", [(13, 10, 10), (3, 10, 3), (12, 7, 7), (0, 10, 0)])
def test_top_regions_shows_the_first_n_in_order(dataset, n_regions, n, expected):
    regions = np.flatnonzero(dataset.shows_feature)[:n_regions][::-1]
    figure = figures.top_regions(dataset, regions, n=n)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == expected
    for rank, (axes, region) in enumerate(zip(shown, regions, strict=False), start=1):
        np.testing.assert_array_equal(axes.images[0].get_array(), dataset.images[dataset.image_index[region]])
        inner, outer = (patch for patch in axes.patches if isinstance(patch, Rectangle))
        assert inner.get_bbox().bounds == outer.get_bbox().bounds
        np.testing.assert_allclose(inner.get_bbox().extents, dataset.boxes[region] - 0.5)
        assert inner.get_edgecolor() != outer.get_edgecolor()
        assert axes.get_title(loc="left").startswith(f"{rank}. ")


def test_captions_say_what_an_image_was_taken_for(dataset):
    regions = np.flatnonzero(dataset.shows_feature)[:2]
    predictions = dataset.labels.copy()
    predictions[dataset.image_index[regions[0]]] = 9
    figure = figures.top_regions(dataset, regions, predictions=predictions)
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["taken for nine", "right"]


def test_composites_sort_by_class_and_feature(dataset):
    without, with_feature = (np.asarray(axes.images[0].get_array()) for axes in figures.composites(dataset, n=1).axes)
    assert not (without == (255, 0, 0)).all(axis=-1).any()
    cells = np.split(with_feature, 10, axis=1)
    assert all((cell == (255, 0, 0)).all(axis=-1).sum() == 28 * 28 for cell in cells)


def test_wilson_interval():
    low, high = wilson_interval([0.0, 0.5, 1.0, np.nan], [10, 10, 10, 0])
    np.testing.assert_allclose(low[:3], [0, 0.2366, 0.7225], atol=5e-4)  # 0, 5 and 10 of 10
    np.testing.assert_allclose(high[:3], [0.2775, 0.7634, 1], atol=5e-4)
    assert np.isnan([low[3], high[3]]).all()


def test_class_accuracy_orders_by_difference_and_marks_the_attribute():
    figure = figures.class_accuracy(finding_table(), CLASSES, 1)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["one", "two", "zero", "three"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal", "normal", "normal"]
    with_cluster, without = (bars.lines[0].get_xdata() for bars in errorbars(figure))
    np.testing.assert_allclose(with_cluster, [99, 50, 20, np.nan])
    np.testing.assert_allclose(without, [10, 100, 90, 70])


def test_strength_curve_draws_the_means_and_their_intervals():
    table = study_table()
    bars = errorbars(figures.strength_curve(table, hue="method"))
    assert len(bars) == 2
    means = table[table["method"] == "RaVL"].groupby("strength")["precision_at_10"].mean()
    np.testing.assert_allclose(bars[0].lines[0].get_ydata(), means)
    for bar in bars:
        (intervals,) = (part for part in bar.lines[2] if isinstance(part, LineCollection))
        ends = np.array([segment[:, 1] for segment in intervals.get_segments()])
        middle = bar.lines[0].get_ydata()
        assert ((ends[:, 0] < middle) & (middle < ends[:, 1])).all()


def test_strength_curve_can_resample_groups_and_leaves_out_nan():
    table = study_table()
    table.loc[table["strength"] == 0.8, "precision_at_10"] = np.nan
    (bars,) = errorbars(figures.strength_curve(table, groups="seed"))
    assert len(bars.lines[0].get_ydata()) == len(STRENGTHS) - 1


def test_series_differ_in_more_than_colour():
    for part in ("color", "marker", "line", "hatch"):
        assert len({getattr(series, part) for series in SERIES}) == len(SERIES)
    many = study_table().assign(method=lambda table: np.arange(len(table)) % 7)
    with pytest.raises(ValueError, match="hue: at most 6 series can be told apart, got 7"):
        figures.strength_curve(many, hue="method")


def test_validity_counts_settings_at_each_threshold():
    table = pandas.DataFrame({"margin": [5, 10, 25, 40, np.nan]})
    axes = figures.validity_counts(table).axes[0]
    assert [patch.get_width() for patch in axes.patches] == [3, 2, 1, 1]
    assert "3 of 5 (60%)" in [text.get_text() for text in axes.texts]


def test_before_and_after_name_the_worst_group():
    before, after = groups(0, 0.6), groups(1, 0.9)
    figure = figures.before_after(before, after, CLASSES, 1, feature="hat")
    assert [axes.get_title() for axes in figure.axes] == ["without hat", "with hat"]
    assert len(errorbars(figure)) == 4
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [f"before: worst group {before.worst_group:.0%}", f"after: worst group {after.worst_group:.0%}"]
    for column, axes in enumerate(figure.axes):
        np.testing.assert_allclose(axes.containers[1].lines[0].get_xdata(), 100 * after.accuracy[:, column])


def test_silhouettes_mark_the_chosen_number_of_clusters():
    axes = figures.silhouettes(clustering({2: 0.2, 3: 0.4, 4: 0.3}, 2, n_emptied=1)).axes[0]
    assert axes.lines[1].get_xdata()[0] == 3  # clusters that lost their members were still asked for
    assert [text.get_text() for text in axes.texts] == ["k = 3, 0.40"]


@pytest.mark.parametrize("tried", [{}, {2: -0.1, 3: -0.2}])
def test_silhouettes_of_no_clustering_mark_nothing(tried):
    assert len(figures.silhouettes(clustering(tried, 0)).axes[0].lines) == bool(tried)


def test_spread_moves_labels_apart_and_keeps_their_order():
    np.testing.assert_allclose(spread([0.5, 0.0, 0.52], 0.1), [0.46, 0.0, 0.56])
    np.testing.assert_allclose(spread([3.0, 1.0], 0.5), [3.0, 1.0])


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda table: figures.strength_curve(table, y="accuracy"), r"table: expected columns \['accuracy'\]"),
        (lambda table: figures.validity_counts(table[:0]), "table: expected at least one row"),
        (lambda table: figures.class_accuracy(finding_table(), CLASSES[:2], 0), "class_names: expected 4 names"),
    ],
)
def test_tables_that_do_not_fit_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(study_table())
