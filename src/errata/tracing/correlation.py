"""Correlations of two series, in float64."""

import math

from jaxtyping import Float64
from torch import Tensor


def pearson(one: Float64[Tensor, " n"], other: Float64[Tensor, " n"]) -> float:
    """Σ(a − ā)(b − b̄)/(‖a − ā‖‖b − b̄‖); NaN where one of them does not vary."""
    a, b = one - one.mean(), other - other.mean()
    size = float(a.norm() * b.norm())
    # Below rounding a difference from the mean says nothing.
    flat = any(float(x.norm()) <= 1e-12 * float(whole.norm()) for x, whole in ((a, one), (b, other)))
    return math.nan if flat or not size else float((a * b).sum()) / size


def spearman(one: Float64[Tensor, " n"], other: Float64[Tensor, " n"]) -> float:
    """Pearson's correlation of the ranks, equal values sharing their mean rank."""
    return pearson(ranks(one), ranks(other))


def ranks(values: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Ranks from 0 up; equal values get the mean of theirs."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double() - 1
    return (last - (counts.double() - 1) / 2)[inverse]
