"""Radiology reports of phantom patients: what is in the findings, in the many ways radiologists write it.

A report that names lesions names every one of them by zone, side and level and no other side or level, so that a
generator can learn where a lesion belongs from a few thousand reports; the impression always stands last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scripts.phantom.anatomy import Findings, Lesion

ZONES = {"PZ": ("peripheral zone", "PZ"), "TZ": ("transition zone", "TZ", "transitional zone")}
LEVELS = {"base": ("base",), "mid": ("mid-gland", "midgland", "mid gland"), "apex": ("apex",)}
LEVEL_ADJECTIVES = {"base": ("base", "basal"), "mid": ("mid", "mid-gland"), "apex": ("apex", "apical")}
LOCATIONS = (
    "{side} {zone} at the {level}",
    "{side} {adjective} {zone}",
    "{zone} of the {side} {level}",
    "{side} {level} in the {zone}",
    "{side} {level} ({zone})",
    "{zone}, {side} {level}",
    "{adjective} {zone} on the {side}",
)
SCORES = ("PI-RADS {}", "PI-RADS {}", "PI-RADS category {}", "PIRADS {}", "PI-RADS v2.1 score {}", "PI-RADS: {}")

ONE_LINERS = (
    "{size} {lesion} in the {location}, {score}.",
    "{score}: {size} {lesion}, {location}.",
    "{location}: {size} {lesion}, {score}.",
    "{lesion} in the {location} measuring {size}. {score}.",
    "There is a {lesion} of {size} in the {location} ({score}).",
)
LESIONS = ("lesion", "suspicious lesion", "focal lesion", "nodule", "focus", "suspicious focus")
SIGNAL = (
    "hypointense on T2-weighted images with marked restricted diffusion, low on the ADC map and bright at high b-value",
    "of low T2 signal, dark on ADC and bright on the high b-value images",
    "with low T2 signal and restricted diffusion",
    "dark on T2 and on ADC, with high signal on high b-value DWI",
    "showing moderately low T2 signal, focal ADC hypointensity and increased signal on DWI",
)
LESION_FINDINGS = (
    "There is a {lesion} of {size} in the {location}, {signal}. {score}.",
    "{location}: {size} {lesion}, {signal}. {score}.",
    "A {lesion} is seen in the {location}, {signal}. It measures {size}. {score}.",
    "In the {location} there is a {lesion} measuring {size}, {signal}, {score}.",
    "{lesion} of {size}, {location}, {signal}. Overall assessment {score}.",
)
LESION_IMPRESSIONS = (
    "{size} {lesion} in the {location}, {score}.",
    "{score} {lesion} in the {location}, {size}.",
    "{lesion}, {location}, {size}: {score}.",
    "{location}: {score} {lesion}, {size}.",
)
MORE_LESIONS = ("Second lesion: ", "Additional finding: ", "In addition: ", "Also: ")

NEGATIVE = {
    1: (
        "No suspicious lesion. {score}.",
        "No evidence of clinically significant cancer. {score}.",
        "{score}: no focal lesion suspicious for malignancy.",
        "Normal prostate MRI, no lesion. {score}.",
        "No suspicious focal lesion is seen in the prostate, {score}.",
        "Unremarkable prostate without suspicious lesion, {score}.",
    ),
    2: (
        "No lesion suspicious for significant cancer. {score}.",
        "Benign changes only, no suspicious lesion. {score}.",
        "{score}: clinically significant cancer is unlikely, no suspicious lesion.",
        "No focal lesion of concern; benign hyperplasia. {score}.",
        "Mild diffuse changes without a suspicious lesion, {score}.",
    ),
}
NEGATIVE_FINDINGS = {
    1: (
        "The peripheral zone is homogeneously bright. The transition zone shows no suspicious nodule.",
        "No focal T2 or ADC abnormality. No restricted diffusion.",
        "Normal signal throughout the gland, no focus of restricted diffusion.",
    ),
    2: (
        "Mild diffuse T2 hypointensity without focal restricted diffusion. Encapsulated nodules of benign hyperplasia.",
        "Linear and wedge-shaped low signal without a focal mass, likely inflammatory.",
        "Heterogeneous well-defined nodules of benign hyperplasia, no focus of restricted diffusion.",
    ),
}

INDICATIONS = (
    "Elevated PSA of {psa} ng/mL.",
    "{age} year old man with PSA {psa} ng/mL.",
    "PSA {psa}, clinical suspicion of prostate cancer.",
    "Age {age}. Rising PSA, currently {psa} ng/mL. PSA density {density} ng/mL/cc.",
    "Screening, PSA {psa} ng/mL, age {age}.",
)
GLAND = (
    "Prostate volume {volume}.",
    "The prostate measures {lr} x {ap} x {cc} cm, volume {volume}.",
    "Gland size {lr} x {ap} x {cc} cm, estimated volume {volume}. PSA density {density}.",
    "The gland has a volume of {volume}.",
    "Prostate: {volume}.",
)
TECHNIQUE = (
    "Multiparametric MRI of the prostate at 3 T without endorectal coil.",
    "Biparametric prostate MRI: T2-weighted and diffusion-weighted imaging with ADC map.",
    "3 T MRI with axial T2, DWI up to b 1600 and ADC.",
)
EXTRAPROSTATIC = (
    "No extraprostatic extension.",
    "Seminal vesicles are normal.",
    "No enlarged pelvic lymph nodes.",
    "No suspicious bone lesion.",
    "The bladder is unremarkable.",
    "The neurovascular bundles are preserved.",
    "No pelvic adenopathy.",
)

# Long reports: what a department's template adds before the findings. No side and no level is named in it.
HISTORY_LONG = (
    "The patient was referred by the urology clinic for further evaluation before a decision about biopsy is made.",
    "The digital rectal examination was reported as unremarkable by the referring physician.",
    "There is no personal history of malignancy and no previous pelvic surgery or pelvic radiotherapy is reported.",
    "The family history is negative for prostate cancer in first degree relatives as far as is known to the patient.",
    "Current medication includes an alpha blocker for lower urinary tract symptoms; no androgen deprivation therapy.",
    "The patient reports nocturia two times per night and a weak urinary stream, slowly progressive over some years.",
    "A urinary tract infection was treated with antibiotics some months ago, urine culture has been negative since.",
    "Kidney function is normal, there are no known allergies and there is no contraindication to MRI.",
    "No prior biopsy of the prostate has been performed according to the information that is available to us.",
)
TECHNIQUE_LONG = (
    "The examination was performed at 3 T with a multichannel phased array body coil, without an endorectal coil.",
    "High resolution T2-weighted turbo spin echo images were acquired in the axial, sagittal and coronal planes.",
    "Axial diffusion-weighted echo planar images were acquired with several b-values, and a high b-value series was "
    "calculated by extrapolation.",
    "Apparent diffusion coefficient maps were computed on the console with a monoexponential fit and archived.",
    "A large field of view T1-weighted series of the pelvis was acquired to assess lymph nodes and bone marrow.",
    "The patient had been asked to empty the rectum beforehand, and an antiperistaltic agent was given intravenously.",
    "Image quality was graded as adequate for all sequences, with minor motion that does not limit the interpretation.",
    "Intravenous contrast material was not given, in accordance with the biparametric protocol of the department.",
    "The gland volume was determined with the ellipsoid formula from three orthogonal diameters on T2-weighted images.",
)
ANATOMY_LONG = (
    "The urinary bladder is moderately filled and has a regular wall without a focal mass or trabeculation.",
    "The ureteric orifices are not obstructed and the distal ureters are not dilated as far as they are included.",
    "The seminal vesicles are symmetric with normal fluid signal and no sign of infiltration is found in them.",
    "The neurovascular bundles are symmetric and surrounded by fat, and the rectoprostatic angles are preserved.",
    "The rectum contains some gas and stool, its wall is not thickened and the mesorectal fat is clear.",
    "There are no enlarged lymph nodes along the iliac and obturator vessels or in the presacral space.",
    "The bone marrow of the included pelvis and of the proximal femora shows normal signal, without a focal lesion.",
    "The femoral heads are round and without signs of avascular necrosis, and there is no joint effusion.",
    "The muscles of the pelvic floor and the obturator internus are symmetric and of normal signal intensity.",
    "There is no free fluid in the pelvis, and the included bowel loops appear unremarkable on these sequences.",
    "The urethral sphincter and the penile bulb are unremarkable, and the periprostatic veins are not distended.",
    "The anterior fibromuscular stroma is thin and symmetric and shows the expected low signal intensity.",
    "No hemorrhage is present within the gland that could interfere with the interpretation of the T2 signal.",
    "The prostatic capsule is continuous and smooth, without bulging, irregularity or retraction of its contour.",
)
GENERAL_LONG = (
    "All lesions are scored with the Prostate Imaging Reporting and Data System, and the dominant sequence is "
    "diffusion for one zone and the T2-weighted sequence for the other zone, as the current version prescribes.",
    "The report was prepared with a structured template that the uroradiology section has agreed on with the "
    "department of urology, and the key images were saved to the archive for planning of a possible targeted biopsy.",
    "Comparison with earlier outside examinations was not possible because no earlier images of the pelvis are "
    "available in the archive at the time of reporting.",
    "Incidental findings outside the prostate are described only where they may be relevant for the further "
    "management of the patient, and small simple cysts are not listed individually.",
)
RECOMMEND = {
    True: ("Targeted biopsy is recommended.", "Correlation with targeted biopsy advised.", "Discuss in conference."),
    False: ("Follow-up of PSA.", "Clinical follow-up.", "No targeted biopsy needed."),
}


def write_report(findings: Findings, rng: np.random.Generator) -> str:
    """Write the report of one phantom patient.

    Args:
        findings: what the patient has.
        rng: decides wording, order and length; the same state gives the same report.

    Returns:
        One line (about a sixth of the reports), a short text, a text with headed sections, or (about a tenth) more than
        700 words with the impression last; "" where `findings.report_is_missing`.
    """
    if findings.report_is_missing:
        return ""
    kind = rng.choice(["line", "short", "sections", "long"], p=[0.15, 0.3, 0.45, 0.1])
    if kind == "line":
        text = _statement(findings, rng, ONE_LINERS)
    elif kind == "short":
        text = _short(findings, rng)
    else:
        text = _sections(findings, rng, long=kind == "long")
    return text.lower() if rng.random() < 0.06 else text


def _short(findings: Findings, rng: np.random.Generator) -> str:
    """Two to five sentences without headings."""
    start = [_fill(pool, findings, rng) for pool in (INDICATIONS, GLAND) if rng.random() < 0.6]
    return " ".join([*_shuffled(start, rng), _statement(findings, rng, LESION_FINDINGS)])


def _sections(findings: Findings, rng: np.random.Generator, long: bool) -> str:
    """Headed sections: history, technique, findings, impression; a long one carries a department's whole template."""
    history, technique = [_fill(INDICATIONS, findings, rng)], [_pick(TECHNIQUE, rng)]
    around = _shuffled(EXTRAPROSTATIC, rng)[: rng.integers(1, 4)]
    if long:
        history += _shuffled(HISTORY_LONG, rng)
        technique = [*_shuffled(TECHNIQUE_LONG, rng), *_shuffled(GENERAL_LONG, rng)]
        around = _shuffled(ANATOMY_LONG, rng)
    gland = [_fill(GLAND, findings, rng)]
    lesions = [_details(findings, rng)]
    # In a long report the lesions follow the boilerplate, so that truncation on the left spares them.
    parts = [*gland, *around, *lesions] if long or rng.random() < 0.5 else [*gland, *lesions, *around]
    impression = [_statement(findings, rng, LESION_IMPRESSIONS)]
    if rng.random() < 0.3:
        impression.append(_pick(RECOMMEND[bool(findings.lesions)], rng))

    sections = [
        (("Clinical information", "History", "Indication"), history),
        (("Technique", "Protocol"), technique),
        (("Findings", "Report"), parts),
        (("Impression", "Conclusion", "Summary"), impression),
    ]
    if not long:
        # Headings before the findings may be missing, in a department's own order.
        first = [section for section in sections[:2] if rng.random() < 0.6]
        sections = _shuffled(first, rng) + sections[2:]
    heading = str.upper if rng.random() < 0.5 else str
    joint, gap = ("\n", "\n\n") if rng.random() < 0.5 else (" ", " ")
    return gap.join(f"{heading(_pick(names, rng))}:{joint}{' '.join(texts)}" for names, texts in sections)


def _details(findings: Findings, rng: np.random.Generator) -> str:
    """The findings inside the gland."""
    if findings.lesions:
        return _statement(findings, rng, LESION_FINDINGS)
    return _pick(NEGATIVE_FINDINGS[findings.pirads], rng)


def _statement(findings: Findings, rng: np.random.Generator, patterns: Sequence[str]) -> str:
    """Every lesion with its place and score, the index lesion first, or that there is none."""
    if not findings.lesions:
        score = _pick(SCORES, rng).format(findings.pirads)
        return _sentence(_pick(NEGATIVE[findings.pirads], rng).format(score=score))
    texts = [_lesion(lesion, rng, patterns) for lesion in findings.lesions]
    if len(texts) > 1 and rng.random() < 0.4:
        return " ".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))
    return " ".join([texts[0], *(_pick(MORE_LESIONS, rng) + text for text in texts[1:])])


def _lesion(lesion: Lesion, rng: np.random.Generator, patterns: Sequence[str]) -> str:
    """One lesion, filled into one of the patterns."""
    location = _pick(LOCATIONS, rng).format(
        side=lesion.side,
        zone=_pick(ZONES[lesion.zone], rng),
        level=_pick(LEVELS[lesion.level], rng),
        adjective=_pick(LEVEL_ADJECTIVES[lesion.level], rng),
    )
    millimetres = round(lesion.diameter_mm)
    size = f"{millimetres} mm" if rng.random() < 0.65 else f"{millimetres / 10:.1f} cm"
    return _sentence(
        _pick(patterns, rng).format(
            location=location,
            size=size,
            lesion=_pick(LESIONS, rng),
            signal=_pick(SIGNAL, rng),
            score=_pick(SCORES, rng).format(lesion.pirads),
        )
    )


def _fill(patterns: Sequence[str], findings: Findings, rng: np.random.Generator) -> str:
    """A sentence about the patient or the gland."""
    volume = f"{findings.gland_ml:.0f} {_pick(('mL', 'ml', 'cc'), rng)}"
    lr, ap, cc = (f"{side / 10:.1f}" for side in findings.gland_mm)
    return _pick(patterns, rng).format(
        volume=volume,
        lr=lr,
        ap=ap,
        cc=cc,
        psa=f"{findings.psa:.1f}",
        density=f"{findings.psa_density:.2f}",
        age=findings.age,
    )


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _shuffled(items: Sequence, rng: np.random.Generator) -> list:
    return [items[index] for index in rng.permutation(len(items))]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
