"""What the benchmarks of clustering and of scale measure is what they say, on a few regions."""

import math

import numpy as np
import pytest

from ravl_core.benchmarks import clustering, processes, scale
from ravl_core.kmedoids import cluster_regions


def made_up(n_regions=300, size=32):
    return np.concatenate(list(clustering.made_up_embeddings(clustering.made_up_kinds(n_regions), size)))


def test_made_up_regions_are_like_clips():
    embeddings = made_up()
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert embeddings.dtype == np.float32
    assert np.mean(embeddings @ embeddings.T < 0) < 0.05
    assert (made_up() == embeddings).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_plain_way_and_the_exact_one_give_the_same(seed):
    plain, exact = (how(made_up(), range(4, 12), seed) for how in (clustering.plain_clustering, cluster_regions))
    np.testing.assert_array_equal(plain.labels, exact.labels)
    np.testing.assert_array_equal(plain.medoids, exact.medoids)
    assert list(plain.silhouettes.values()) == pytest.approx(list(exact.silhouettes.values()), abs=1e-6)


def test_costs_have_a_row_for_each_method_and_number():
    table = clustering.clustering_costs({"exact": (60, 80), "one product": (60,)}, size=16, candidates=(3, 4))
    assert table[["method", "regions"]].values.tolist() == [["exact", 60], ["exact", 80], ["one product", 60]]
    assert (table.seconds > 0).all()
    assert table.matrix_mb.tolist() == pytest.approx([0.0144, 0.0256, 0.0144])


def test_agreement_is_whole_where_all_regions_begin():
    table = clustering.agreement(400, seeds=(0, 1), candidates=(5, 6, 7), size=32)
    assert table.way.tolist() == 2 * ["linear", "linear, from a quarter", "exact, another seed"]
    begun = table[table.way == "linear"]
    assert begun["adjusted Rand index"].tolist() == [1, 1]
    assert (begun.k == begun["k exact"]).all()
    assert table["adjusted Rand index"].between(-0.5, 1).all()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((0, [1, 2, 3]), (0, [1, 2, 3]), True),
        ((0, [1, 2, 3]), (1, [1, 2, 3]), False),
        ((0, [1, 2, 3]), (0, [1, 2, 3, 4, 5, 6, 7]), True),
        ((0, [1, 2, 3]), (0, [1, 2, 9, 4, 5, 6, 7]), False),
        (None, (0, [1]), False),
        ((0, [1]), None, False),
    ],
)
def test_findings_are_the_same_where_one_holds_the_other(one, other, same):
    assert clustering._same_finding(one, other) == same


def test_the_made_up_problem_has_a_finding_for_the_class_of_its_cue():
    regions, *known = clustering.made_up_problem(2000, 64, seed=0)
    found = clustering._first_finding(cluster_regions(regions, range(20, 30)), known)
    cue = np.flatnonzero(clustering.made_up_kinds(2000) == 1)
    assert found[0] == 0 and np.isin(found[1], cue).mean() > 0.8


def test_scale_measures_each_part_from_a_file():
    table = scale.scale_costs((400, 800), size=16, candidates=(4, 5))
    assert table.what.tolist() == 2 * list(scale.PARTS)
    assert table.regions.tolist() == [400] * 3 + [800] * 3
    assert (table.seconds > 0).all()


def test_the_file_holds_what_was_made_up(tmp_path):
    path = scale.write_made_up(tmp_path / "regions.npy", 100, 8, seed=3)
    kinds = clustering.made_up_kinds(100, seed=3)
    known = np.concatenate(list(clustering.made_up_embeddings(kinds, 8, seed=3)))
    np.testing.assert_array_equal(np.load(path), known.astype(np.float16))


def test_made_up_answers_are_probabilities():
    index, labels, of_images, of_regions = scale.made_up_answers(41)
    assert len(index) == 41 and index[-1] == len(labels) - 1 == 10
    np.testing.assert_allclose(of_images.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(of_regions.sum(axis=1), 1, atol=1e-5)


# ---- processes ----


def test_memory_that_is_given_back_still_counts():
    _, few = processes.timed(lambda: np.ones(2**17).sum())  # 1 MB
    _, many = processes.timed(lambda: np.ones(2**24).sum())  # 134 MB
    assert math.isnan(many) or many > few + 100


def test_a_fresh_process_gives_back_what_it_found():
    found = processes.in_a_fresh_process("ravl_core.benchmarks.clustering.cost_of", "exact", 50, 8, [3, 4], 0)
    assert len(found) == 2 and found[0] > 0


def test_a_fresh_process_that_fails_is_an_error(capfd):
    with pytest.raises(processes.subprocess.CalledProcessError):
        processes.in_a_fresh_process("ravl_core.benchmarks.clustering.cost_of", "no method", 50, 8, [3], 0)
    assert "no method" in capfd.readouterr().err
