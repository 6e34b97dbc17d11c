"""What stands around the lesions: patient, gland, staging, technique, advice, headings (read it as `terms.py` says)."""

from __future__ import annotations

PATIENT = {
    "patient": (
        "{age}-year-old man[ with {indication}]",
        "{age} year old[, {indication}]",
        "{age}-year-old patient, PSA {psa} ng/mL",
        "{age} y/o M[, {indication}][, PSA {psa}]",
        "age {age}",
        "PSA {psa}",
        "PSA {psa} ng/mL",
        "PSA of {psa} ng/mL[, PSA density {density} ng/mL/cc]",
        "serum PSA {psa} ng/ml[ (density {density})]",
        "PSA: {psa}[; PSAD: {density}]",
        "PSA density {density}",
        "PSAD {density} ng/mL²",
        "{indication}",
        "{indication}[, PSA {psa}]",
        "reason: {indication}",
        "referred for {indication}",
    ),
    "elevated PSA": ("elevated PSA", "raised PSA", "high PSA", "PSA elevation"),
    "rising PSA": ("rising PSA", "increasing PSA", "PSA progression"),
    "palpable": ("suspicious DRE", "abnormal digital rectal examination", "palpable abnormality"),
    "negative biopsy.why": ("rising suspicion after previous negative biopsy", "prior negative biopsy"),
    "surveillance": ("active surveillance", "surveillance of known low-risk cancer"),
    "staging": ("local staging of known cancer", "staging of biopsy-proven cancer"),
    "screening": ("screening", "early detection"),
    "symptoms": ("lower urinary tract symptoms", "LUTS"),
}
GLAND = {
    "gland": (
        "prostate volume {volume}",
        "prostate {volume}",
        "the gland has a volume of {volume}",
        "gland volume: {volume}",
        "estimated volume {volume}",
        "the prostate measures {dimensions}[, volume {volume}]",
        "prostate {dimensions}[ = {volume}]",
        "gland size {dimensions}[ ({volume})]",
        "prostate dimensions: {dimensions}",
    ),
    "volume.unit": ("mL", "ml", "cc", "cm3", "cm³"),
    "dimensions.form": ("{x} x {y} x {z} cm", "{x}x{y}x{z} cm", "{x} × {y} × {z} cm", "{mx} x {my} x {mz} mm"),
}
STAGING = {
    "extension": ("extraprostatic extension", "EPE", "extracapsular extension", "ECE"),
    "vesicles": ("seminal vesicle invasion", "SVI", "invasion of the seminal vesicles"),
    "nodes": ("suspicious lymph nodes", "pelvic lymphadenopathy", "enlarged pelvic lymph nodes", "adenopathy"),
    "bones": ("suspicious bone lesion", "bone metastases", "osseous metastasis"),
    "absent": ("no {these}", "no {these}", "no evidence of {these}", "no signs of {these}", "{these}: none"),
    "present": ("{this} present", "{this}: yes", "{this}"),
}
TECHNIQUE = {
    "field strength": ("MRI at {field} T", "{field} T MRI", "{field} tesla", "scanner: {field} T"),
    "contrast.yes": ("multiparametric MRI with T2, DWI and DCE", "mpMRI (T2w, DWI/ADC, dynamic contrast)"),
    "contrast.no": (
        "biparametric MRI with T2 and DWI",
        "bpMRI (T2w, DWI/ADC), no contrast",
        "T2 and DWI without contrast",
    ),
    "technique": (
        "T2-weighted and diffusion-weighted images with ADC map were reviewed",
        "T2-weighted imaging and diffusion-weighted imaging with an ADC map form the basis of this assessment",
    ),
    "technique.more": (
        "high b-value images and ADC map are read side by side",
        "diffusion is the dominant sequence for one zone and T2 for the other, as PI-RADS v2.1 prescribes",
        "rectal gas, hip implants and motion can impair diffusion-weighted images, and T2 is then given more weight",
        "categories apply to the untreated gland and express the likelihood of clinically significant cancer",
        "location is given after the PI-RADS sector map, and side means the patient's side",
        "sizes refer to the image on which a finding is shown best",
        "the gland volume, where given, follows the ellipsoid formula",
        "sides and levels are those of the patient and not of the screen",
    ),
}
ORGANS = {
    "bladder": ("the urinary bladder is unremarkable", "bladder: normal", "the bladder wall is not thickened"),
    "rectum": ("the rectum is unremarkable", "no rectal wall thickening", "rectum and mesorectal fat are normal"),
    "bowel": ("included bowel loops are unremarkable", "bowel: normal"),
    "muscles": ("pelvic floor and obturator muscles are symmetric", "muscles unremarkable"),
    "hips": ("the hip joints are unremarkable", "no effusion of the hip joints"),
    "fluid": ("no free pelvic fluid", "no free fluid"),
    "urethra": ("urethra and sphincter are unremarkable", "the external sphincter is intact"),
}
ADVICE = {
    "advice.high": (
        "targeted biopsy is recommended",
        "recommend targeted biopsy",
        "correlation with targeted biopsy advised",
    ),
    "advice.middle": (
        "consider targeted biopsy",
        "clinical correlation, biopsy to be discussed",
        "discuss in conference",
    ),
    "advice.low": ("no target for biopsy", "PSA follow-up", "clinical follow-up"),
    "remark": (
        "incidental findings outside the prostate are mentioned only where they matter for management",
        "lesions, where there are any, are described one by one",
    ),
    "closing": (
        "a negative MRI does not exclude cancer, and the decision about biopsy remains a clinical one",
        "please contact the department with any question about this report",
        "key images are stored in the archive for planning",
    ),
    "legend": (
        "PI-RADS assessment categories: 1 - very low; 2 - low; 3 - intermediate; 4 - high; 5 - very high (clinically "
        "significant cancer is highly likely to be present)",
        "Legend: PI-RADS 1 = very low, PI-RADS 2 = low, PI-RADS 3 = intermediate, PI-RADS 4 = high, PI-RADS 5 = very "
        "high likelihood of clinically significant cancer",
    ),
}
DOCUMENT = {
    "form": (
        "line",
        "line",
        "telegram",
        "telegram",
        "prose",
        "prose",
        "sections",
        "sections",
        "sections",
        "dictated",
        "page",
    ),
    "block": (
        "sentences",
        "sentences",
        "sentences",
        "phrases",
        "phrases",
        "fields",
        "table",
        "codes",
        "halves",
        "zones",
    ),
    "form.nothing": ("words", "line", "line"),
    "dictated.joint": ("\n", " ", " full stop "),
    "heading.history": ("clinical information", "history", "indication", "clinical details", "clinical history"),
    "heading.technique": ("technique", "protocol", "sequences"),
    "heading.comparison": ("comparison", "prior studies"),
    "heading.findings": ("findings", "report", "description"),
    "heading.impression": ("impression", "conclusion", "summary", "opinion"),
    "sections.order": ("htcfi", "htcfi", "chtfi", "ihtcf", "fi", "if", "hfi", "hi", "i", "htif"),
    "sections.case": ("capitals", "title", "title"),
    "sections.joint": ("\n", " ", "\n- "),
    "findings.order": ("glbcs", "gblcs", "lgbcs", "gcbls", "sgbcl", "gclbs"),
    "telegram.joint": (". ", "; ", "\n"),
    "title": ("MRI prostate", "mpMRI prostate", "prostate MRI", "MRI of the prostate"),
}

SURROUNDINGS = {**PATIENT, **GLAND, **STAGING, **TECHNIQUE, **ORGANS, **ADVICE, **DOCUMENT}
