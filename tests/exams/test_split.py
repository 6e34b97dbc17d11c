"""The split: by patient, stratified, and the same whatever the order of the exams."""

import pytest

from scripts.data.datalists import is_positive
from scripts.exams.split import split


def cohort(n=200):
    """Cases of n patients, some with two exams; a third of the patients is positive."""
    return [
        {"folder": f"{i}-{exam}", "patient": f"p{i}", "pirads": [0, 1] if i % 3 == 0 and exam == 0 else [1, 0]}
        for i in range(n)
        for exam in range(1 + i % 2)
    ]


def test_the_split_is_by_patient_and_stratified():
    train, test = split(cohort(), 0.2, seed=0)
    patients = [{case["patient"] for case in cases} for cases in (train, test)]
    assert patients[0].isdisjoint(patients[1])
    assert len(patients[1]) == 40
    assert len({case["patient"] for case in test if is_positive(case)}) == round(67 * 0.2)
    assert len(train) + len(test) == len(cohort())


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    _, first = split(cohort(), 0.2, seed=0)
    _, turned = split(cohort()[::-1], 0.2, seed=0)
    _, other = split(cohort(), 0.2, seed=1)
    folders = [{case["folder"] for case in cases} for cases in (first, turned, other)]
    assert folders[0] == folders[1]
    assert folders[0] != folders[2]


@pytest.mark.parametrize(("n", "fraction", "expected"), [(1, 0.2, 0), (10, 0.0, 0), (6, 0.5, 3)])
def test_small_cohorts_split_too(n, fraction, expected):
    _, test = split(cohort(n), fraction, seed=0)
    assert len({case["patient"] for case in test}) == expected
