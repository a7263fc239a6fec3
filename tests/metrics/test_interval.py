"""The interval of a recall: Wilson's where trials are apart, wider where they hang together."""

import numpy as np
import pytest

from vecpipe.metrics.interval import wilson


def test_shares_of_one_trial_give_wilsons_interval():
    shares = np.array([1.0] * 40 + [0.0] * 10)
    n, p, z = 49.0, 0.8, 1.959963984540054  # the variance of a sample is over one less
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = wilson(shares, 1)
    assert low == pytest.approx((centre - half) / (1 + z * z / n))
    assert high == pytest.approx((centre + half) / (1 + z * z / n))


def test_ten_trials_that_always_agree_count_as_one():
    shares = np.array([1.0] * 40 + [0.0] * 10)
    assert wilson(shares, 10) == wilson(shares, 1)


def test_shares_that_vary_little_give_a_narrow_interval():
    shares = np.tile([0.9, 0.8], 50)
    low, high = wilson(shares, 10)
    assert high - low < 0.05
    assert low < shares.mean() < high


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_that_are_all_the_same_leave_doubt(share):
    low, high = wilson(np.full(100, share), 10)
    assert (high == 1.0 and 0.95 < low < 0.97) if share else (low == 0.0 and 0.03 < high < 0.05)


def test_nothing_measured_is_nothing_known():
    assert wilson(np.zeros(0), 10) == (0.0, 1.0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        truths = rng.beta(18, 2, 100)
        low, high = wilson(rng.binomial(10, truths) / 10, 10)
        held += low <= 0.9 <= high
    assert 0.92 <= held / 400 <= 0.98
