from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config import Config
from lib.sampling import draws

SUBSETS = np.array(["puisi"] * 50 + ["wiki"] * 300 + ["dolly"] * 5)


def blobs(seed=0, rows=400, centres=4):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(centres, 8))[rng.integers(centres, size=rows)] * 5 + rng.normal(size=(rows, 8))
    return points.astype(np.float32)


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_a_draw_of_n_rows_in_all_has_n_different_sorted_rows(method):
    rows = draws.draw(SUBSETS, method, 71, seed=0).rows
    assert len(rows) == 71
    assert (np.diff(rows) > 0).all()


def test_a_draw_per_subset_takes_n_of_each_and_reports_shortages():
    drawn = draws.draw(SUBSETS, "per_subset", 20, seed=0)
    assert dict(zip(*np.unique(SUBSETS[drawn.rows], return_counts=True), strict=True)) == {
        "puisi": 20, "wiki": 20, "dolly": 5,
    }  # fmt: skip
    assert drawn.shortages == {"dolly": (20, 5)}


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_more_rows_than_there_are_take_all_and_report_it(method):
    drawn = draws.draw(SUBSETS, method, 1000, seed=0)
    np.testing.assert_array_equal(drawn.rows, np.arange(355))
    assert drawn.shortages == {"all": (1000, 355)}


@pytest.mark.parametrize("method", draws.METHODS)
def test_the_seed_alone_decides_a_draw(method):
    first, again, other = (draws.draw(SUBSETS, method, 30, seed).rows for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_stratified_draw_follows_the_subset_sizes():
    drawn = draws.draw(SUBSETS, "stratified", 71, seed=0)
    assert not drawn.shortages
    assert dict(zip(*np.unique(SUBSETS[drawn.rows], return_counts=True), strict=True)) == {
        "puisi": 10, "wiki": 60, "dolly": 1,
    }  # fmt: skip


def test_shares_go_by_largest_remainder():
    # Exact shares are 4.7, 3.2 and 2.1: the one row left over goes to the first.
    np.testing.assert_array_equal(draws.proportional_shares(np.array([47, 32, 21]), 10), [5, 3, 2])
    np.testing.assert_array_equal(draws.proportional_shares(np.array([1, 1, 1]), 2), [1, 1, 0])


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=8), st.floats(0, 1))
def test_shares_add_up_and_never_exceed_what_is_there(sizes, part):
    total = int(sum(sizes) * part)
    shares = draws.proportional_shares(np.array(sizes), total)
    assert shares.sum() == total
    assert (shares <= sizes).all()


def test_an_unknown_method_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match="'stratified'"):
        draws.draw(SUBSETS, "stratifed", 3, seed=0)


def test_clusters_are_as_tight_as_plain_k_means():
    from sklearn.cluster import KMeans

    points = blobs()
    found = draws.cluster(points, 4, seed=0)
    assert found.inertia <= KMeans(4, random_state=0).fit(points).inertia_ * 1.01
    assert found.inertia == pytest.approx(((points - found.centres[found.labels]) ** 2).sum(), rel=1e-4)


def test_the_same_seed_gives_the_same_clusters():
    first, again = (draws.cluster(blobs(), 7, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.centres, again.centres)


def test_copies_of_a_row_count_as_often_as_they_occur():
    points = np.array([[0, 0], [1, 0], [9, 9]], np.float32)[[0, 1, 1, 1, 2, 2]]
    found = draws.cluster(points, 2, seed=0)
    assert found.labels[0] == found.labels[1] != found.labels[4]
    np.testing.assert_allclose(found.centres[found.labels[0]], [0.75, 0], atol=1e-6)
    assert found.inertia == pytest.approx(0.75)


@pytest.mark.parametrize("k", [3, 10])
def test_with_few_distinct_rows_each_is_a_cluster(k):
    points = np.eye(3, dtype=np.float32)[[2, 0, 2, 1]]
    found = draws.cluster(points, k, seed=0)
    np.testing.assert_array_equal(found.centres[found.labels], points)
    assert found.inertia == 0


def test_nothing_to_cluster_is_an_error():
    with pytest.raises(ValueError, match="0 rows"):
        draws.cluster(np.empty((0, 384), np.float32), 10, seed=0)


def test_an_equal_number_comes_from_every_cluster():
    labels = np.repeat([0, 1, 2], [50, 80, 30])
    rows = draws.take_equally(labels, 20, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[rows]), [20, 20, 20])


def test_what_short_clusters_lack_comes_evenly_from_the_others():
    labels = np.repeat([0, 1, 2, 3], [5, 100, 100, 22])
    rows = draws.take_equally(labels, 20, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[rows])[[0, 3]], [5, 22])
    assert sorted(np.bincount(labels[rows])[1:3]) == [26, 27]


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=80), st.integers(0, 15), st.integers(0, 9))
def test_equal_shares_hold_for_any_clusters(labels, per_cluster, seed):
    labels = np.array(labels, dtype=np.int32)
    rows = draws.take_equally(labels, per_cluster, seed)
    np.testing.assert_array_equal(rows, draws.take_equally(labels, per_cluster, seed))
    assert len(rows) == min(len(np.unique(labels)) * per_cluster, len(labels))
    assert len(np.unique(rows)) == len(rows)
    if len(labels):
        sizes, shares = np.bincount(labels), np.bincount(labels[rows], minlength=labels.max() + 1)
        # Whoever still has rows to give gives as many as anyone, give or take one.
        assert (shares[shares < sizes] >= shares.max() - 1).all()
        assert (shares >= np.minimum(sizes, per_cluster)).all()


def test_the_nearest_rows_are_the_cluster_s_own_and_come_first_to_last():
    points = np.array([[0], [1], [2], [10], [11]], np.float32)
    clusters = draws.Clusters(np.array([0, 0, 0, 1, 1]), np.array([[0.9], [11]], np.float32), 0.0)
    np.testing.assert_array_equal(draws.nearest_to_centres(points, clusters, 3), [[1, 0, 2], [4, 3, -1]])


@pytest.fixture
def prepared(monkeypatch):
    """A run's rows and split: of the training side of each subset every fourth row is left over."""
    config = Config(run="kecil")
    rows = pd.DataFrame({"subset_name": ["puisi", "wiki", "dolly"] * 100, "output": [f"{n}" for n in range(300)]})
    config.paths.rows.parent.mkdir(parents=True)
    rows.to_parquet(config.paths.rows)
    side = np.select([np.arange(300) >= 280, np.arange(300) >= 240], ["validation", "test"], "train")
    split = pd.DataFrame({"subset": rows["subset_name"], "pair": range(300), "split": side})
    split["left_over"] = (side == "train") & (np.arange(300) // 3 % 4 == 0)
    monkeypatch.setattr(draws, "embed", lambda texts, cache: blobs(rows=len(texts)))
    return config, split


@pytest.mark.parametrize("clusters", [0, 4])
@pytest.mark.parametrize("method", draws.METHODS)
def test_no_sampling_draws_a_row_that_is_left_over_or_of_another_side(prepared, method, clusters):
    config, split = prepared
    # More than there are.
    asked = replace(config.sampling, method=method, rows=300, clusters=clusters, rows_per_cluster=300)
    found = draws.sample(replace(config, sampling=asked), split)
    trained = found.table.loc[found.table["part"] == "train", "position"]
    assert sorted(trained) == split.index[(split["split"] == "train") & ~split["left_over"]].tolist()
    assert sorted(found.drawn["position"]) == sorted(trained)
    validated = found.table.loc[found.table["part"] == "validation", "position"]
    assert set(split.loc[validated, "split"]) == {"validation"}
    pd.testing.assert_frame_equal(pd.read_parquet(config.paths.sample("5")), found.table)


@pytest.mark.parametrize("redraw", [False, True])
def test_a_seed_draws_other_training_rows_where_it_is_to_and_never_other_validation_rows(prepared, redraw):
    config, split = prepared
    asked = replace(config.sampling, rows=20, clusters=4, rows_per_cluster=5, validation_rows=10, redraw=redraw)
    tables = [draws.sample(replace(config, sampling=asked, seed=seed), split).table for seed in (0, 1)]
    trained, validated = (
        [table.loc[table["part"] == part, "position"].tolist() for table in tables] for part in ("train", "validation")
    )
    assert (trained[0] != trained[1]) == redraw
    assert validated[0] == validated[1]
