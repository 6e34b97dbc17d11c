"""Every sentence about the past: what an earlier exam saw, what was done, how a lesion has changed since.

Each option of a pool says the same facts, so that what is known can be cut to what will be told (`choice.py`).
"""

from __future__ import annotations

EARLIER = {
    "negative biopsy": (
        "previous biopsy[ of the {place}][ in {year}] negative",
        "previous biopsy[ ({place:inner})][ {year}] was benign",
        "prior negative biopsy[ of the {place}][ ({year})]",
        "biopsy[ {year}][ of the {place}]: no malignancy",
        "status post negative biopsy[ {year}][, {place}]",
        "biopsy cores[ of the {place}][ in {year}] came back clear",
    ),
    "cancer": (
        "known[ Gleason {gleason}] cancer[ in the {place}][ ({year})]",
        "biopsy-proven[ Gleason {gleason}] carcinoma[, {place}][, {year}]",
        "history of[ Gleason {gleason}] prostate cancer[, {place}][, diagnosed {year}]",
        "previous biopsy[ {year}]: [Gleason {gleason} ]cancer[ in the {place}]",
        "known Ca prostate[, Gleason {gleason}][, {place}][ ({year})]",
    ),
    "cancer.now": (", now no suspicious lesion", ", currently no correlate", ", no suspicious lesion today", ""),
    "lesion.gone": (
        "prior[ {size}] lesion[ at the {place}][ ({score})][ of {year}] no longer seen",
        "the previously described[ {size}] lesion[ in the {place}][ ({year})][, {score},] is no longer visible",
        "lesion of the previous MRI[ {year}][ ({place:inner})][, {size}][, {score}] has resolved",
        "previous[ {size}] focus[ in the {place}][ ({score})][, {year},] not seen any more",
        "the[ {size}] spot[ in the {place}] that the previous MRI called[ {score}][ in {year}] is gone",
        "prior target[, {place}][, {size}][, {score}][, {year}]: disappeared",
    ),
    "lesion.before": (
        "previous MRI[ of {year}]: [{size} ]lesion[ in the {place}][, {score}]",
        "earlier MRI[ ({year})] described a(n)[ {size}] lesion[ in the {place}][ ({score})]",
        "prior outside MRI reported a(n)[ {size}] focus[, {place}][, {score}][, {year}]",
    ),
    "exam": (
        "comparison: MRI[ of {year}]",
        "compared with the previous MRI[ of {year}]",
        "prior MRI[ {year}] available for comparison",
    ),
    "rectal finding": (
        "palpable nodule[ in the {place}] on DRE",
        "DRE: induration[, {place}]",
        "?tumour[ in the {place}] on DRE",
        "DRE suspicious[ ({place:inner})]",
        "hard area felt[ in the {place}] on rectal examination",
    ),
}
TREATMENT = {
    "focal therapy": (
        "status post HIFU[ of the {place}][ {year}]",
        "s/p cryotherapy[ of the {place}][ in {year}]",
        "treated by focal laser ablation[, {place}][, {year}]",
        "previously treated area[ in the {place}][ (HIFU {year})]",
        "cancer[ of the {place}] treated with cryoablation[ in {year}]",
    ),
    "therapy.now": (
        ", scar without recurrence",
        ", no recurrence there",
        ", treated area scarred and not enhancing",
        "",
    ),
    "radiotherapy": (
        "status post radiotherapy[ {year}]",
        "external beam radiation[ in {year}]",
        "previous brachytherapy[ ({year})]",
        "the gland was irradiated[ in {year}]",
    ),
    "resection": (
        "status post TURP[ {year}]",
        "TURP[ in {year}]",
        "st. p. transurethral resection[ ({year})]",
        "previous HoLEP[ {year}]",
    ),
    "medication": (
        "on finasteride[ since {year}]",
        "takes dutasteride[ since {year}]",
        "medication: finasteride[ (since {year})]",
        "on androgen deprivation therapy[ since {year}]",
        "on tamsulosin[ since {year}]",
    ),
}
# Against an earlier exam, behind a lesion and as what it does.
COURSE = {
    "course.new": ("new", "newly appeared", "new since the last exam", "not present on the last MRI"),
    "course.new.verb": ("is new", "has newly appeared", "was not there before", "is new since the last MRI"),
    "course.grown": (
        "grown[ from {was} to {size}][ since {year}][, previously {scored}]",
        "larger than before[ (previously {was})][, {scored} then][, compared with {year}]",
        "increased in size[ since {year}][, was {was}][, was {scored}]",
        "progressive[ since {year}][ ({was} before)][, previously {scored}]",
        "now larger[, previously {was}, now {size}][, compared with {year}][ ({scored} before)]",
    ),
    "course.grown.verb": (
        "has grown[ from {was} to {size}][ since {year}][, previously {scored}]",
        "has increased in size[ since {year}][, was {was}][ ({scored} then)]",
        "is larger than before[ ({was} before)][, compared with {year}][, previously {scored}]",
        "has increased[ from {was}][ since {year}][, was {scored}]",
    ),
    "course.unchanged": (
        "unchanged[ since {year}][, {was} before][, previously {scored}]",
        "stable[ since {year}][ (previously {was})][, {scored} then]",
        "same size as before[ ({was} before)][, compared with {year}][, {scored} before]",
        "constant in size[ since {year}][, was {was}][, was {scored}]",
    ),
    "course.unchanged.verb": (
        "is unchanged[ since {year}][, {was} before][, previously {scored}]",
        "has not changed[ since {year}][ (previously {was})][, {scored} then]",
        "is the same as before[ ({was} before)][, compared with {year}][, {scored} before]",
        "remains stable[ since {year}][, was {was}][, was {scored}]",
    ),
    "course.smaller": (
        "smaller than before[ (previously {was})][, {scored} then][, compared with {year}]",
        "decreased[ from {was} to {size}][ since {year}][, previously {scored}]",
        "regressive[ since {year}][ ({was} before)][, was {scored}]",
    ),
    "course.smaller.verb": (
        "has decreased[ from {was} to {size}][ since {year}][, previously {scored}]",
        "is smaller than before[ ({was} before)][, compared with {year}][, {scored} then]",
        "has become smaller[ since {year}][, was {was}][, was {scored}]",
    ),
}

PAST = {**EARLIER, **TREATMENT, **COURSE}
