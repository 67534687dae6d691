"""Intervals and tests."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

from onepix.config.statistics import Intervals

CHUNK = 2**22  # Images resampled at once; limits the memory.


def wilson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval for a proportion; NaN without trials.

    Notes
    -----
    Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if trials == 0:
        return np.nan, np.nan
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_mean(values: npt.ArrayLike, settings: Intervals) -> tuple[float, float, float]:
    """Return the mean of values, one per image, and its percentile interval by resampling images.

    Parameters
    ----------
    values : array_like
        Float, shape (images,).
    settings : Intervals
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


def bootstrap_means(
    values: npt.NDArray[np.floating], settings: Intervals, stream: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean of each column over images, and its percentile interval by resampling images.

    Parameters
    ----------
    values : ndarray
        Float, shape (images, columns); NaN where an image has no value and does not count in that column.
    settings : Intervals
        Confidence, resamples and seed.
    stream : int
        Seed and stream together set the resamples; all columns have the same ones.

    Returns
    -------
    tuple of ndarray
        Means, lower and upper bounds, shape (columns,) each; a mean is NaN without values, bounds with fewer than two.
    """
    resamples = resampled_means(values, settings, stream)
    known = ~np.isnan(values)
    count = known.sum(0)
    means = np.divide(np.where(known, values, 0).sum(0), count, out=np.full(len(count), np.nan), where=count > 0)
    low, high = percentile_interval(resamples, settings)
    enough = count > 1
    return means, np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def resampled_means(values: npt.NDArray[np.floating], settings: Intervals, stream: int = 0) -> npt.NDArray[np.float64]:
    """Return the mean of each column in each resample of images, (resamples, columns); see `bootstrap_means`."""
    images, columns = values.shape
    if images == 0:
        return np.full((settings.resamples, columns), np.nan)
    known = ~np.isnan(values)
    present, filled = known.astype(np.float64), np.where(known, values, 0).astype(np.float64)
    parts = []
    for weights in resampled(images, settings, stream):
        count = weights @ present
        parts.append(np.divide(weights @ filled, count, out=np.full(count.shape, np.nan), where=count > 0))
    return np.concatenate(parts)


def percentile_interval(
    resamples: npt.NDArray[np.float64], settings: Intervals
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the percentile interval of each column of resamples; NaN does not count."""
    levels = [(1 - settings.confidence) / 2, (1 + settings.confidence) / 2]
    bounds = np.full((2, resamples.shape[1]), np.nan)
    known = ~np.isnan(resamples).all(0)
    bounds[:, known] = np.nanquantile(resamples[:, known], levels, axis=0)
    return bounds[0], bounds[1]


def resampled(images: int, settings: Intervals, stream: int = 0) -> Iterator[npt.NDArray[np.float64]]:
    """Yield how often each image is in each resample, (resamples, images), in chunks of resamples."""
    # Stream 0 is that of the seed alone, so that further streams change no result of it.
    words = np.random.SeedSequence(settings.seed, spawn_key=(stream,) if stream else ())
    generator = np.random.default_rng(words)
    most = max(1, CHUNK // images)
    for first in range(0, settings.resamples, most):
        rows = min(most, settings.resamples - first)
        yield generator.multinomial(images, np.full(images, 1 / images), size=rows).astype(np.float64)


def proportion(hits: npt.ArrayLike, settings: Intervals) -> tuple[float, float, float]:
    """Return the proportion of hits with Wilson's interval; NaN without trials."""
    trials = np.asarray(hits, dtype=bool)
    interval = wilson(int(trials.sum()), len(trials), settings.confidence)
    return float(trials.mean()) if len(trials) else np.nan, *interval


def named(name: str, estimate: tuple[float, float, float]) -> dict[str, float]:
    """Return an estimate and its interval as three columns: NAME, NAME_low, NAME_high."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))


def q_values(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the false discovery rate at which each test would be called significant; NaN where there is no test.

    Parameters
    ----------
    p_values : array_like
        Float, shape (N,), NaN where there is no test.

    Notes
    -----
    Benjamini and Hochberg, "Controlling the false discovery rate" (1995).
    """
    p = np.asarray(p_values, dtype=np.float64)
    q = np.full_like(p, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested], method="bh")
    return q
