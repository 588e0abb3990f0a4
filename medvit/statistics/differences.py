"""Difference of two models on the same patients: interval, p-values, and the number of patients to detect 0.01."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

from medvit.statistics import Estimate, PairedTest, Z
from medvit.statistics.multiplicity import holm

POWER = 0.8
"""Probability of detecting a true difference for which the number of patients is computed."""
SMALL = 0.01
"""Difference for which the number of patients is computed."""
MIN_NEEDED = 10
"""Smallest number of patients that is stated: the normal distribution does not hold for fewer."""


@dataclass(frozen=True)
class Difference(Estimate):
    """Metric of a model minus that of another on the same patients, with its 95 % interval and a test.

    P-values are two-sided, for the hypothesis of equal metrics; NaN if undefined.
    """

    test: str = ""
    """Name of the test, one of `TESTS`; empty if there is none."""
    p: float = float("nan")
    p_corrected: float = float("nan")
    """P-value corrected for the number of metrics compared (Holm)."""
    num_patients_needed: int | None = None
    """Number of patients like these at which a true difference of `SMALL` would be detected with a probability of
    `POWER` by a test at 5 %; None if unknown, or for a metric that is not a
    fraction.
    """

    def __str__(self) -> str:
        return self.text if math.isnan(self.p) else f"{self.text}, p {self.p_text}, corrected {self.p_corrected_text}"

    @property
    def p_text(self) -> str:
        """P-value for readers."""
        return _p_text(self.p)

    @property
    def p_corrected_text(self) -> str:
        """Corrected p-value for readers."""
        return _p_text(self.p_corrected)


TESTS = {
    "bootstrap": "bootstrap: the difference over its standard deviation in resamples of patients, compared with "
    "Student's t",
    "McNemar": "McNemar: exact test of two proportions from the patients with only one right model",
    "McNemar, clustered": "McNemar, clustered: test of two proportions with several images of a patient (Obuchowski, "
    "Statistics in Medicine 1998)",
    "DeLong": "DeLong: paired test of two AUROC (DeLong, Biometrics 1988)",
    "Obuchowski": "Obuchowski: paired test of two AUROC with several images of a patient (Obuchowski, Biometrics 1997)",
}
"""Name of a test -> description for readers of a report."""


def tested(difference: Difference, test: PairedTest, num_patients: int) -> Difference:
    """Return a difference with the p-value and the number of patients of another test."""
    needed = None if difference.num_patients_needed is None else patients_needed(test.variance, num_patients)
    return replace(difference, test=test.name, p=test.p, num_patients_needed=needed)


def corrected(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Return the differences with p-values corrected for the number of tests (`tests_of`)."""
    known, repeated = tests_of(differences), _repeated(differences)
    p_values = dict(zip(known, holm([differences[key].p for key in known]), strict=True))
    return {
        key: replace(one, p_corrected=p_values.get(repeated.get(key, key), float("nan")))
        for key, one in differences.items()
    }


def tests_of(differences: Mapping[str, Difference]) -> list[str]:
    """Return the keys of the differences that have a p-value of their own.

    A metric of the only class, such as `dice.liver`, is the same test as the metric of all classes.
    """
    repeated = _repeated(differences)
    return [key for key, one in differences.items() if not math.isnan(one.p) and key not in repeated]


def _repeated(differences: Mapping[str, Difference]) -> dict[str, str]:
    """Return the metrics of an only class with the metric of all classes, if both have the same difference."""
    bases = {key: key.partition(".")[0] for key in differences if "." in key}
    counts = Counter(bases.values())
    return {
        key: base
        for key, base in bases.items()
        if counts[base] == 1 and base in differences and differences[base] == differences[key]
    }


def patients_needed(variance: float, num_patients: int) -> int | None:
    """Return the number of patients at which a true difference of `SMALL` is detected with a probability of `POWER`.

    `variance` is that of the difference over `num_patients` patients, and decreases with their number. The test is
    two-sided at 5 % (Chow et al., Sample Size Calculations in Clinical Research 2017). The result is `MIN_NEEDED` or
    more; None without a variance.
    """
    if not variance > 0.0:
        return None
    needed = math.ceil(variance * num_patients * ((Z + NormalDist().inv_cdf(POWER)) / SMALL) ** 2)
    return max(MIN_NEEDED, needed)


def _p_text(p: float) -> str:
    if math.isnan(p):
        return "not defined"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
