"""Statistics of results: intervals and tests, over patients rather than images.

`bootstrap` computes an interval of any statistic. Some metrics have an interval, and a test of two models, in closed
form: they are computed from a `MetricSample`, which is a `medvit.statistics.auroc.Ranking` or a
`medvit.statistics.proportion.Proportion`. `medvit.statistics.mean` has intervals of means of few patients.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

Z = 1.959963984540054
"""Quantile of the standard normal distribution for two-sided intervals of 95 %."""


@dataclass(frozen=True)
class Estimate:
    """Metric with its 95 % interval; NaN if undefined."""

    value: float
    low: float
    high: float
    method: str = ""
    """Name of the method that computed the interval, or reason why there is none, one of `METHODS`; empty if the value
    is undefined.
    """

    def named(self, name: str) -> dict[str, float]:
        """Return the defined numbers for MLflow: the value as `name`, and its ends `name.lower` and `name.upper`."""
        found = {name: self.value, f"{name}.lower": self.low, f"{name}.upper": self.high}
        return {key: float(value) for key, value in found.items() if np.isfinite(value)}

    @property
    def text(self) -> str:
        """Value and interval, for readers."""
        if np.isnan(self.value):
            return "not defined"
        interval = "no interval" if np.isnan(self.low) else f"{self.low:.3f}, {self.high:.3f}"
        return f"{self.value:.3f} [{interval}]"

    @property
    def plain(self) -> dict[str, Any]:
        """All fields, for JSON; numbers that are undefined or infinite are None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    @property
    def plain_interval(self) -> dict[str, float | None]:
        """Value and interval, for JSON, in the same form."""
        plain = self.plain
        return {name: plain[name] for name in ("value", "low", "high")}

    def __str__(self) -> str:
        return self.text


UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class PairedTest:
    """Test of the hypothesis that two models have the same metric, on the same patients.

    `p` is two-sided. `variance` is the sampling variance of the difference between the metrics.
    """

    name: str
    p: float
    variance: float


class MetricSample(Protocol):
    """Truth, predictions and patients from which a metric is computed whose interval and test have a closed form."""

    def estimate(self) -> Estimate:
        """Return the metric with its interval over patients."""
        ...

    def compared(self, other: Any) -> PairedTest | None:
        """Return the test of this model against another, whose sample is of the same images in the same order.

        None if the test is not valid for these samples.
        """
        ...


FEW_PATIENTS = 30
"""Number of patients below which percentiles of a bootstrap are too narrow (Hesterberg, American Statistician 2015)."""

METHODS = {
    "bootstrap": "percentiles of a bootstrap over patients, each drawn with all of its images; a resample in which the "
    "metric is undefined, for example because a class has no case in it, does not count",
    "DeLong": "variance by DeLong (Biometrics 1988) on the logit scale",
    "Obuchowski": "variance by DeLong for several images of a patient (Obuchowski, Biometrics 1997) on the logit scale",
    "bootstrap, expanded": "percentiles of a bootstrap over patients, further out than 2.5 % and 97.5 % because there "
    f"are fewer than {FEW_PATIENTS} patients (Hesterberg, The American Statistician 2015)",
    "bootstrap, bias-corrected": "percentiles of a bootstrap over patients, moved by twice the difference between the "
    "mean of the resamples and the value (Efron and Tibshirani, An Introduction to the Bootstrap 1993, chapter 10), "
    "because chance changes the metric in one direction",
    "bootstrap-t": "bootstrap-t over patients (Efron and Tibshirani, An Introduction to the Bootstrap 1993, section "
    f"12.5), because there are fewer than {FEW_PATIENTS} patients",
    "Clopper-Pearson": "exact interval, because all images have the best or the worst possible value (Clopper and "
    "Pearson, Biometrika 1934)",
    "mean of classes": "mean of the limits of the classes, because all resamples of the bootstrap agree; rather too "
    "wide than too narrow",
    "agreement": "none, because all resamples of the bootstrap agree; other patients may give other values",
    "few patients": "none, because there are too few patients",
    "Wilson": "score interval of Wilson (Journal of the American Statistical Association 1927)",
    "Wilson, effective number": "score interval of Wilson, from the number of independent images with the same "
    "variance, because patients have several images (Korn and Graubard, Survey Methodology 1998)",
    "Newcombe": "score interval of Newcombe (Statistics in Medicine 2006, method 5) from the numbers of patients, "
    "because the variance by DeLong is zero or undefined",
}
"""Name of a method of intervals -> description for readers of a report."""
