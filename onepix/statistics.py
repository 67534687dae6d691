"""Intervals."""

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from onepix.config import Statistics


def wilson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval for a proportion; NaN without trials.

    Notes
    -----
    Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if trials == 0:
        return np.nan, np.nan
    low, high = proportion_confint(successes, trials, alpha=1 - confidence, method="wilson")
    # At its ends the formula gives exactly 0 and 1, and floating point almost.
    return 0.0 if successes == 0 else float(low), 1.0 if successes == trials else float(high)


def bootstrap_mean(values: npt.ArrayLike, settings: Statistics) -> tuple[float, float, float]:
    """Return the mean of values, one an image, and its percentile interval by resampling images.

    Parameters
    ----------
    values : array_like
        Float, shape (images,).
    settings : Statistics
        Confidence, resamples and seed.

    Returns
    -------
    tuple of float
        Mean, lower and upper bound; the mean is NaN without images, the bounds with fewer than two.
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) == 0:
        return np.nan, np.nan, np.nan
    if len(sample) == 1:
        return float(sample[0]), np.nan, np.nan
    interval = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=settings.resamples,
        confidence_level=settings.confidence,
        method="percentile",
        rng=np.random.default_rng(settings.seed),
    ).confidence_interval
    return float(sample.mean()), float(interval.low), float(interval.high)
