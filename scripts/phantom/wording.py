"""Phantom patients as exams of the grammar, and their reports."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cache

import numpy as np

from scripts.phantom.anatomy import LEVELS, SIDES, ZONES, Anatomy, Findings, Lesion, sample_anatomy
from scripts.phantom.gland import Gland
from scripts.phantom.institutions import protocol
from scripts.wording.documents import write_report
from scripts.wording.findings import ORGANS, Benign, Beside, Earlier, Exam, Place, Sector
from scripts.wording.findings import Lesion as Finding
from scripts.wording.writer import Style, institution

STREAM = 5  # of a patient's random numbers, for what happened before
BESIDE_STREAM = 7  # likewise, for what the images show nothing of: treatments, courses, what lies beside the prostate
REASONS = ("elevated PSA", "rising PSA", "screening", "symptoms", "family history")  # the first two of a high PSA
SIDED = ("inguinal hernia", "hip prosthesis", "hip arthrosis", "bladder diverticulum", "hydrocele", "iliac aneurysm")
SIDELESS = ("bladder wall", "diverticulosis")
TOUCHES_MM, CLEAR_MM = 0.0, 4.0  # of tissue between a lesion and the capsule, below and above which that is told
HYPERPLASIA_ML = 30  # from which size on a gland is said to have it
ASTRIDE = 0.03  # of the transition zone's depth: a lesion whose centre is nearer to its middle is in both sectors
ASIDE = (25, 35)  # degrees from straight back: posteromedial below, posterolateral above; 30 is five o'clock


def report_text(findings: Findings, rng: np.random.Generator) -> str:
    """The report of a phantom patient in the style of the patient's institute, "" where it is missing."""
    if findings.report_is_missing:
        return ""
    anatomy = sample_anatomy(findings.seed, findings.difficulty, findings.institute)
    return write_report(exam_of(anatomy), _style(findings.institute), rng).text


@cache
def _style(institute: str) -> Style:
    return institution(zlib.crc32(institute.encode()))


def exam_of(anatomy: Anatomy) -> Exam:
    """Everything that a report could say about a phantom patient, with a past and neighbours that no image shows.

    Blood after a biopsy is seen, and the biopsy then belongs to the past. The scanner is that of the institute.
    """
    f, rng = anatomy.findings, np.random.default_rng([anatomy.findings.seed, BESIDE_STREAM])
    beside = _beside(rng)
    organs = {"bladder", "rectum", "muscles", "hips", "fluid"} - {ORGANS.get(finding.kind) for finding in beside}
    benign = [Benign("hyperplasia", Place("TZ"))] if f.gland_ml >= HYPERPLASIA_ML else []
    benign += [Benign("glandular", Place("TZ"))] if f.gland_ml >= HYPERPLASIA_ML and rng.random() < 0.25 else []
    benign += [Benign(c.kind, Place(c.zone, c.side, (c.level,)), c.size_mm) for c in f.changes]
    return Exam(
        lesions=tuple(_followed(_finding(anatomy.gland, lesion), rng) for lesion in f.lesions),
        pirads=f.pirads,
        benign=tuple(benign),
        earlier=(*_past(f, np.random.default_rng([f.seed, STREAM])), *_treatments(f, rng)),
        extension=False,
        vesicles=False,
        nodes=False,
        bones=False,
        gland_ml=f.gland_ml,
        gland_mm=f.gland_mm,
        psa=f.psa,
        psa_density=f.psa_density,
        age=f.age,
        indication=str(rng.choice(REASONS if f.psa > 4 else REASONS[2:])),
        field_t=protocol(f.institute, f.difficulty).field_t if f.difficulty else None,
        contrast=False,
        organs=tuple(sorted(organs)),
        beside=beside,
    )


def _finding(gland: Gland, lesion: Lesion) -> Finding:
    """A lesion: drawn dark on T2w and on ADC alike, so both sequences have its category."""
    place = Place(lesion.zone, lesion.side, (lesion.level,), sector(gland, lesion))
    depth = -float(gland.distance(*gland.coordinates(*lesion.centre_mm))) - lesion.diameter_mm / 2
    contact = True if depth < TOUCHES_MM else False if depth > CLEAR_MM else None
    return Finding(place, (lesion.diameter_mm,), lesion.pirads, t2=lesion.pirads, dwi=lesion.pirads, contact=contact)


def sector(gland: Gland, lesion: Lesion) -> Sector | None:
    """The sector by a lesion's centre; None near a border.

    Anterior is what lies before the middle of the gland, or of the transition zone where the lesion lies in that.
    """
    u, v, _ = gland.coordinates(*lesion.centre_mm)
    if lesion.zone == "TZ":
        depth = gland.transition[1]
        ahead = (v - gland.ANTERIOR + depth) / depth
        return None if abs(ahead) < ASTRIDE else "TZa" if ahead > 0 else "TZp"
    if v > 0:
        return "PZa"
    aside, (low, high) = np.rad2deg(np.arctan2(abs(u), -v)), ASIDE
    return "PZpm" if aside < low else "PZpl" if aside > high else None


def _past(findings: Findings, rng: np.random.Generator) -> tuple[Earlier, ...]:
    """Now and then a biopsy, a known cancer or a lesion that is gone; no trace of them is in the images."""
    chance, year = rng.random(), 2024 - int(rng.integers(8))
    place = Place(str(rng.choice(ZONES)), str(rng.choice(SIDES)), (str(rng.choice(LEVELS)),))
    if chance < 0.15:
        return (Earlier("negative biopsy", Place(side=place.side, levels=place.levels), year),)
    if chance < 0.22:
        index = next(iter(findings.lesions), None)
        where = Place(index.zone, index.side, (index.level,)) if index else place
        return (Earlier("cancer", where, year, gleason=str(rng.choice(["3+3", "3+4"]))),)
    elsewhere = all((place.side, place.levels[0]) != (lesion.side, lesion.level) for lesion in findings.lesions)
    if chance < 0.3 and elsewhere:
        return (Earlier("lesion", place, year, size_mm=float(rng.integers(6, 12)), pirads=3, gone=True),)
    return ()


def _treatments(findings: Findings, rng: np.random.Generator) -> tuple[Earlier, ...]:
    """What was done before or felt; focal therapy lies elsewhere than the lesions, which are no recurrence."""
    chance, year = rng.random(), 2024 - int(rng.integers(8))
    place = Place(str(rng.choice(ZONES)), str(rng.choice(SIDES)), (str(rng.choice(LEVELS)),))
    free = all((place.side, place.levels[0]) != (lesion.side, lesion.level) for lesion in findings.lesions)
    if chance < 0.08:
        return (Earlier("focal therapy", place, year),) if free else ()
    if chance < 0.16:
        return (Earlier("rectal finding", Place(side=place.side, levels=place.levels)),)
    if chance < 0.24:
        return (Earlier(str(rng.choice(["radiotherapy", "resection", "medication"])), year=year),)
    return ()


def _followed(lesion: Finding, rng: np.random.Generator) -> Finding:
    """Now and then a lesion is new, or has been seen before and has grown, shrunk or stayed as it was."""
    course, by, chance = (
        str(rng.choice(["new", "grown", "unchanged", "smaller"])),
        float(rng.uniform(2, 5)),
        rng.random(),
    )
    year, pirads = 2024 - int(rng.integers(1, 6)), int(rng.integers(3, lesion.pirads + 1))
    if chance > 0.25:
        return lesion
    if course == "new":
        return replace(lesion, course="new")
    size = lesion.size_mm[0] + {"grown": -by, "unchanged": 0, "smaller": by}[course]
    return replace(lesion, course=course, before=Earlier("lesion", year=year, size_mm=size, pirads=pirads))


def _beside(rng: np.random.Generator) -> tuple[Beside, ...]:
    """Now and then a finding outside the prostate, mostly with a side."""
    kind, side, chance = str(rng.choice([*SIDED, *SIDELESS])), str(rng.choice(SIDES)), rng.random()
    return (Beside(kind, side if kind in SIDED else None),) if chance < 0.35 else ()
