import numpy as np
import pytest

from lib.sampling import projection


def test_clusters_stay_apart_and_the_seed_decides_the_picture():
    rng = np.random.default_rng(0)
    points = np.repeat(np.eye(2, 16) * 20, 40, axis=0) + rng.normal(size=(80, 16))
    picture = projection.tsne(points, seed=0)
    assert picture.shape == (80, 2)
    left, right = picture[:40].mean(axis=0), picture[40:].mean(axis=0)
    assert np.linalg.norm(left - right) > 2 * picture[:40].std()
    np.testing.assert_array_equal(picture, projection.tsne(points, seed=0))


def test_too_few_points_are_an_error():
    with pytest.raises(ValueError, match="at least 4"):
        projection.tsne(np.ones((3, 5)), seed=0)
