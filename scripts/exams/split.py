"""Training and test list, by patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from scripts.data.datalists import Case, is_positive, patient_of


def split(cases: Sequence[Case], test_fraction: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Split by patient: of the patients with a positive exam, and of the others, the same share goes to the test list.

    The split depends on the patients' names, labels and the seed, not on the order of the cases. scikit-learn's grouped
    splitters take no share or refuse classes of one patient, which small data sets have.

    Returns:
        The training and the test cases, each in the order of `cases`.
    """
    positive: dict[str, bool] = defaultdict(bool)
    for case in cases:
        positive[patient_of(case)] |= is_positive(case)
    generator = np.random.default_rng(seed)
    test_patients: set[str] = set()
    for label in (False, True):
        patients = sorted(patient for patient, found in positive.items() if found == label)
        count = int(len(patients) * test_fraction + 0.5)
        test_patients.update(patients[i] for i in generator.permutation(len(patients))[:count])
    in_test = [patient_of(case) in test_patients for case in cases]
    return (
        [case for case, is_test in zip(cases, in_test, strict=True) if not is_test],
        [case for case, is_test in zip(cases, in_test, strict=True) if is_test],
    )
