import numpy as np
import pandas as pd
import pytest

from lib.sampling import projection
from lib.sampling.draws import Sample, cluster


def test_clusters_stay_apart_and_the_seed_decides_the_picture():
    rng = np.random.default_rng(0)
    points = np.repeat(np.eye(2, 16) * 20, 40, axis=0) + rng.normal(size=(80, 16))
    picture = projection.tsne(points, seed=0)
    assert picture.shape == (80, 2)
    left, right = picture[:40].mean(axis=0), picture[40:].mean(axis=0)
    assert np.linalg.norm(left - right) > 2 * picture[:40].std()
    np.testing.assert_array_equal(picture, projection.tsne(points, seed=0))


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_corpus_of_a_few_distinct_outputs_is_drawn_as_a_row_of_them(outputs):
    drawn = pd.DataFrame({"position": range(60), "subset": "dolly", "cluster": np.arange(60) % outputs, "chosen": True})
    embeddings = np.eye(outputs, 8, dtype=np.float32)[drawn["cluster"]]
    sample = Sample(drawn, {}, drawn, embeddings, cluster(embeddings, 10, 0))
    points = projection.points(sample, 1_000)
    assert sorted(points["x"]) == list(range(outputs)) and set(points["y"]) == {0}
    assert points["rows"].sum() == 60


def test_too_few_points_are_an_error():
    with pytest.raises(ValueError, match="at least 4"):
        projection.tsne(np.ones((3, 5)), seed=0)
