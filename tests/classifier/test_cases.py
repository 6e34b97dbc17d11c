import itertools
import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from records import write_record
from scripts.classifier.arms import ARMS
from scripts.classifier.cases import OneClassError, first_patients, read_test, read_training
from scripts.common.problems import UserError
from scripts.data.datalists import patient_of
from scripts.reports.embeddings import digest_of, write_embedding

OPTIONS = {"validation_fraction": 0.3, "seed": 0}


def flags(arm):
    return {"real": int(arm.real), "synthetic": int(arm.synthetic), "synthetic_labels": int(arm.synthetic_labels)}


def patients(root):
    cases = json.loads((root / "train.json").read_text()) + json.loads((root / "test.json").read_text())
    return {case["folder"]: patient_of(case) for case in cases}


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_no_patient_is_on_two_sides_in_any_arm(arm, real_root, synthetic_root):
    cases = read_training(real_root, synthetic_root, **flags(arm), **OPTIONS)
    patient = patients(real_root)
    train, validation, test = (
        {patient[case["folder"]] for case in part} for part in (cases.train, cases.validation, read_test(real_root))
    )
    assert min(len(train), len(validation), len(test)) > 0
    assert not train & validation
    assert not test & (train | validation)


def test_validation_is_real_and_the_same_in_every_arm_of_a_seed(real_root, synthetic_root):
    chosen = [read_training(real_root, synthetic_root, **flags(arm), **OPTIONS).validation for arm in ARMS]
    assert all(cases == chosen[0] for cases in chosen)
    assert all(str(real_root) in case["axt2"] for case in chosen[0])
    seeds = [{"validation_fraction": 0.3, "seed": seed} for seed in range(5)]
    assert len({str(read_training(real_root, "", **flags(ARMS[0]), **seed).validation) for seed in seeds}) > 1


def test_an_arm_trains_on_what_its_name_says(real_root, synthetic_root):
    by_arm = {arm: read_training(real_root, synthetic_root, **flags(arm), **OPTIONS).train for arm in ARMS}
    real, synthetic = len(by_arm[ARMS[0]]), len(by_arm[ARMS[1]])
    assert real == synthetic
    assert len(by_arm[ARMS[3]]) == real + synthetic
    assert {str(synthetic_root) in case["axt2"] for case in by_arm[ARMS[1]]} == {True}


def test_labels_are_pirads_else_isup_for_real_and_the_chosen_column_for_synthetic(real_root, synthetic_root):
    sheet = pd.read_excel(synthetic_root / "synthsheet_all.xlsx", dtype={"folder": str}).set_index("folder")
    real, with_real, with_synthetic = (
        read_training(real_root, synthetic_root, **flags(a), **OPTIONS).train for a in ARMS[:3]
    )
    assert all(case["label"][0] == (int(case["folder"]) // 2) % 2 for case in real)
    assert all(case["label"][0] == sheet["PIRADS_real"][case["folder"]] for case in with_real)
    assert all(case["label"][0] == sheet["PIRADS_synth"][case["folder"]] for case in with_synthetic)
    assert [c["label"][0] for c in with_real] != [c["label"][0] for c in with_synthetic]


@pytest.fixture
def synthetic_copy(synthetic_root, tmp_path):
    return shutil.copytree(synthetic_root, tmp_path / "synthetic")


def write_sheet(root, change):
    sheet = pd.read_excel(root / "synthsheet_all.xlsx", dtype={"folder": str})
    change(sheet).to_excel(root / "synthsheet_all.xlsx", index=False)


def test_a_volume_made_from_another_cases_report_follows_its_source(real_root, synthetic_copy):
    """A replicate named otherwise is left out where its source is a test or validation case."""
    test_folder = read_test(real_root)[0]["folder"]
    validation = read_training(real_root, synthetic_copy, **flags(ARMS[1]), **OPTIONS).validation[0]["folder"]
    for source, name in ((test_folder, "copy_of_test"), (validation, "copy_of_validation"), ("000", "copy_of_000")):
        shutil.copytree(synthetic_copy / source, synthetic_copy / name)
        record = {
            "folder": name, "source": source, "split": "train", "replicate": 1, "seed": 1, "pirads_real": 0,
            "pirads_synth": 0, "probability": 0.1, "label": None, "sequences": ["axt2"],
        }  # fmt: skip
        (synthetic_copy / name / "generated.json").write_text(json.dumps(record))
        write_sheet(
            synthetic_copy,
            lambda sheet, name=name: pd.concat([sheet, sheet.iloc[:1].assign(folder=name)]),
        )
    cases = read_training(real_root, synthetic_copy, **flags(ARMS[1]), **OPTIONS)
    folders = {case["folder"] for case in cases.train}
    assert not {"copy_of_test", "copy_of_validation"} & folders
    assert ("copy_of_000" in folders) == ("000" in folders)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.assign(PIRADS_synth=None), "PIRADS_synth is None"),
        (lambda s: s.drop(columns="PIRADS_synth"), "no column PIRADS_synth"),
        (lambda s: pd.concat([s, s]), "has 2 rows"),
        (lambda s: s.assign(folder=[*s["folder"][:-1], "elsewhere"]), "elsewhere.*no report of dataset_dir"),
        (lambda s: s.assign(folder=["../x", *s["folder"][1:]]), "not a folder's name"),
        (lambda s: s.iloc[14:], "no volume was made from a training report"),
        (lambda s: s.assign(PIRADS_synth=1), "both classes"),
    ],
)
def test_a_broken_sheet_is_told(change, message, real_root, synthetic_copy):
    write_sheet(synthetic_copy, change)
    with pytest.raises(UserError, match=f"(?s){message}") as error:
        read_training(real_root, synthetic_copy, **flags(ARMS[2]), **OPTIONS)
    assert "secret report" not in str(error.value)


def test_missing_folders_and_volumes_are_told(real_root, synthetic_copy, tmp_path):
    with pytest.raises(UserError, match="dataset_dir"):
        read_training(tmp_path / "no", "", **flags(ARMS[0]), **OPTIONS)
    with pytest.raises(UserError, match="synthetic_dir"):
        read_training(real_root, "", **flags(ARMS[1]), **OPTIONS)
    missing = [case["folder"] for case in read_training(real_root, "", **flags(ARMS[0]), **OPTIONS).train][:2]
    for folder in missing:
        (synthetic_copy / folder / "axt2.nii.gz").unlink()
    with pytest.raises(UserError) as error:
        read_training(real_root, synthetic_copy, **flags(ARMS[1]), **OPTIONS)
    assert all(f"{folder}  axt2.nii.gz is missing" in str(error.value) for folder in missing)


@pytest.mark.parametrize("fraction", [0, 1, 0.01, 0.99])
def test_a_validation_part_without_both_classes_is_refused(fraction, real_root):
    with pytest.raises(UserError, match="validation_fraction"):
        read_training(real_root, "", **flags(ARMS[0]), validation_fraction=fraction, seed=0)


# ---- labels, grids, and what validation looks at ---------------------------------------------------------------------


@pytest.fixture
def real_copy(real_root, tmp_path):
    return shutil.copytree(real_root, tmp_path / "real")


def without_labels(root, folders):
    sheet = pd.read_excel(root / "clinical.xlsx", dtype={"folder": str})
    sheet.loc[sheet["folder"].isin(folders), ["PosPIRADS", "PosISUP"]] = None
    sheet.to_excel(root / "clinical.xlsx", index=False)


def test_cases_without_a_label_are_listed_and_left_out_on_request_alone(real_copy, synthetic_root, caplog):
    without_labels(real_copy, ["003", "016"])
    with pytest.raises(UserError, match=r"(?s)003 +has no label.*016 +has no label.*--skip_unlabelled true"):
        read_test(real_copy)
    caplog.set_level("WARNING")
    cases = read_training(real_copy, synthetic_root, **flags(ARMS[3]), **OPTIONS, skip_unlabelled=True)
    assert "003" not in {case["folder"] for part in cases for case in part}  # nor what was made from its report
    assert "left out, without a label (2): 003, 016" in caplog.text
    assert "016" not in {case["folder"] for case in read_test(real_copy, skip_unlabelled=True)}


def test_synthetic_volumes_on_another_grid_are_told(real_root, synthetic_copy):
    other = next(case["folder"] for case in read_training(real_root, "", **flags(ARMS[0]), **OPTIONS).train)
    path = synthetic_copy / other / "axt2.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:8], image.affine), path)
    with pytest.raises(UserError, match=rf"{other} +has 8×16×8 voxels of 5×5×10 mm, the real cases 16×16×8 of 5×5×10"):
        read_training(real_root, synthetic_copy, **flags(ARMS[1]), **OPTIONS)


def test_sequences_that_were_not_generated_are_told(real_copy, synthetic_copy):
    for split in ("train", "test"):
        cases = json.loads((real_copy / f"{split}.json").read_text())
        for case in cases:
            shutil.copy(real_copy / case["folder"] / "axt2.nii.gz", real_copy / case["folder"] / "adc.nii.gz")
            case["adc"] = f"./{case['folder']}/adc.nii.gz"
        (real_copy / f"{split}.json").write_text(json.dumps(cases))
    both = {**OPTIONS, "channels": ["adc", "axt2"]}
    train = read_training(real_copy, "", **flags(ARMS[0]), **both).train
    assert list(train[0]) == ["folder", "patient", "adc", "axt2", "label"]
    with pytest.raises(UserError, match=r"adc\.nii\.gz is missing.*other channels"):
        read_training(real_copy, synthetic_copy, **flags(ARMS[1]), **both)


def test_real_cases_without_a_sequence_are_told(real_root):
    with pytest.raises(UserError, match=r"000 .*b1600"):
        read_test(real_root, channels=["axt2", "b1600"])


def test_as_the_authors_did_nothing_is_held_out_and_the_test_cases_validate(real_root, synthetic_root):
    cases = read_training(real_root, synthetic_root, **flags(ARMS[3]), **OPTIONS, validate_on="test")
    tested = [case["folder"] for case in read_test(real_root)]
    assert [case["folder"] for case in cases.validation] == tested
    assert len(cases.train) == 28
    assert not set(tested) & {case["folder"] for case in cases.train}
    with pytest.raises(UserError, match="training, test"):
        read_training(real_root, "", **flags(ARMS[0]), **OPTIONS, validate_on="both")


@pytest.mark.parametrize("part", ["training", "validation"])
def test_cases_of_one_class_are_refused(real_copy, part):
    sheet = pd.read_excel(real_copy / "clinical.xlsx", dtype={"folder": str})
    for split in ("train", "test"):
        if part == "training" or split == "test":
            cases = json.loads((real_copy / f"{split}.json").read_text())
            own = sheet["folder"].isin([case["folder"] for case in cases])
            sheet.loc[own, ["PosPIRADS", "PosISUP"]] = [1, None]
            (real_copy / f"{split}.json").write_text(json.dumps([case | {"pirads": [0, 1]} for case in cases]))
    sheet.to_excel(real_copy / "clinical.xlsx", index=False)
    with pytest.raises(OneClassError, match=f"{part} cases.*both classes"):
        read_training(real_copy, "", **flags(ARMS[0]), **OPTIONS, validate_on="test")


# ---- several volumes a report, reports without images, fractions -----------------------------------------------------

SYNTHETIC, BOTH = flags(ARMS[1]), flags(ARMS[3])


def add_volume(root, folder, like, source, split="train", **record):
    """A further volume in a generator's output, a copy of that of case `like`, and its row in the sheet."""
    shutil.copytree(root / like, root / folder)
    write_record(root, folder, source, split, **record)
    row = {"folder": folder, "PIRADS_real": int(like) // 2 % 2, "PIRADS_synth": 0}
    write_sheet(root, lambda sheet: pd.concat([sheet, pd.DataFrame([row])]))


def kept_folders(root, **options):
    return [case["folder"] for case in read_training(root, "", **flags(ARMS[0]), **OPTIONS, **options).train]


def test_so_many_volumes_of_each_report_are_trained_on_as_are_asked_for(real_root, synthetic_copy):
    kept = kept_folders(real_root)
    for folder in kept:
        for replicate in (1, 2):
            add_volume(synthetic_copy, f"{folder}_{replicate}", folder, folder, replicate=replicate)

    def trained(replicates):
        options = {**SYNTHETIC, **OPTIONS, "replicates": replicates}
        return sorted(case["folder"] for case in read_training(real_root, synthetic_copy, **options).train)

    assert trained(1) == kept
    assert trained(2) == sorted([*kept, *(f"{folder}_1" for folder in kept)])
    assert trained(None) == trained(3)
    with pytest.raises(UserError, match=rf"fewer than 4 volumes of {len(kept)} reports.*--replicates 4"):
        trained(4)


def with_reports(root, **changes):
    """A report without images in a data root, of a positive patient of its own."""
    case = {"folder": "R1", "dataset": "tiny", "patient": "PR1", "pirads": [0, 1], "spacing": [5.0, 5.0, 10.0]}
    case |= {"text": "another secret report", "text_isnull": 0}
    (root / "reports.json").write_text(json.dumps([case | changes]))


def test_reports_without_images_train_the_arm_that_asks_for_them_alone(real_copy, synthetic_copy):
    with_reports(real_copy)
    add_volume(synthetic_copy, "R1", "003", "R1", "reports")
    without, further = (
        read_training(real_copy, synthetic_copy, **SYNTHETIC, **OPTIONS, reports=reports) for reports in (0, 1)
    )
    assert further.validation == without.validation
    *same, new = further.train
    assert [case["folder"] for case in same] == [case["folder"] for case in without.train]
    assert (new["folder"], new["patient"], int(new["label"][0])) == ("R1", "PR1", 1)


def test_an_arm_of_reports_needs_some(real_root, synthetic_root):
    with pytest.raises(UserError, match=r"no reports\.json"):
        read_training(real_root, synthetic_root, **SYNTHETIC, **OPTIONS, reports=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient": "P8"}, r"R1 +is in reports\.json, and its patient has images"),  # tests
        ({"patient": "p3"}, r"R1 +is in reports\.json, and its patient has images"),  # trains or validates
        ({"text": "secret\n  report"}, r"R1 +has the very report of test case"),
        ({"text": "", "text_isnull": 1}, r"R1 +is in reports\.json without a report"),
    ],
)
def test_a_planted_report_is_refused(changes, message, real_copy, synthetic_copy):
    with_reports(real_copy, **changes)
    add_volume(synthetic_copy, "R1", "003", "R1", "reports")
    with pytest.raises(UserError, match=message) as error:
        read_training(real_copy, synthetic_copy, **SYNTHETIC, **OPTIONS, reports=1)
    assert "secret" not in str(error.value)


# ---- planted volumes -------------------------------------------------------------------------------------------------


def held_out_and_kept(root):
    cases = read_training(root, "", **flags(ARMS[0]), **OPTIONS)
    held_out = {"test": read_test(root)[0]["folder"], "validation": cases.validation[0]["folder"]}
    return held_out, cases.train[0]["folder"]


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_held_out_volume_copied_under_a_training_name_is_refused(part, real_root, synthetic_copy):
    held_out, kept = held_out_and_kept(real_root)
    shutil.rmtree(synthetic_copy / kept)
    shutil.copytree(synthetic_copy / held_out[part], synthetic_copy / kept)
    with pytest.raises(UserError, match=rf"{kept} +is a copy of volume {held_out[part]}"):
        read_training(real_root, synthetic_copy, **BOTH, **OPTIONS)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_record_that_names_another_source_than_the_volumes_name_is_refused(part, real_root, synthetic_copy):
    held_out, kept = held_out_and_kept(real_root)
    write_record(synthetic_copy, kept, held_out[part])
    with pytest.raises(UserError, match=rf"{kept} +is named after one case .* report of {held_out[part]}"):
        read_training(real_root, synthetic_copy, **BOTH, **OPTIONS)


def other_texts(root):
    """Every case of a data root has a report of its own."""
    for split in ("train", "test"):
        cases = json.loads((root / f"{split}.json").read_text())
        told = [case | {"text": f"secret report {case['folder']}"} for case in cases]
        (root / f"{split}.json").write_text(json.dumps(told))


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_volume_whose_report_is_a_held_out_ones_by_its_digest_is_refused(part, real_copy, synthetic_copy):
    """Whatever its name and its record say; where the training case has the same report it is its own, too."""
    held_out, kept = held_out_and_kept(real_copy)
    digest = {"settings": {"report": "0123456789abcdef"}}
    write_record(synthetic_copy, held_out[part], held_out[part], **digest)
    write_record(synthetic_copy, kept, kept, **digest)
    read_training(real_copy, synthetic_copy, **BOTH, **OPTIONS)  # all have one report
    other_texts(real_copy)
    with pytest.raises(UserError, match=rf"{kept} +was made from the report of {held_out[part]}, a test") as error:
        read_training(real_copy, synthetic_copy, **BOTH, **OPTIONS)
    assert "secret" not in str(error.value)


def test_the_digest_is_also_that_of_the_embedded_test_reports(real_copy, synthetic_copy):
    """Where the folder holds no volume of the test case that would tell it."""
    held_out, kept = held_out_and_kept(real_copy)
    tested, embedding = held_out["test"], torch.rand(3, 4)
    write_embedding(real_copy / "embeddings" / "one.safetensors", embedding, "stamp")
    other_texts(real_copy)
    cases = json.loads((real_copy / "test.json").read_text())
    merged = [case | {"text": "embeddings/one.safetensors"} for case in cases if case["folder"] == tested]
    (real_copy / "test_merged.json").write_text(json.dumps(merged))
    shutil.rmtree(synthetic_copy / tested)
    write_sheet(synthetic_copy, lambda sheet: sheet[sheet["folder"] != tested])
    write_record(synthetic_copy, kept, kept, settings={"report": digest_of(embedding)})
    with pytest.raises(UserError, match=rf"{kept} +was made from the report of {tested}"):
        read_training(real_copy, synthetic_copy, **BOTH, **OPTIONS)


def test_a_volume_without_a_record_must_be_named_after_a_training_case(real_root, synthetic_copy):
    held_out, kept = held_out_and_kept(real_root)
    for folder in (kept, held_out["validation"], held_out["test"]):
        (synthetic_copy / folder / "generated.json").unlink()
    with pytest.raises(UserError, match=rf"1 problem\n +{held_out['test']} +has the name of no training case"):
        read_training(real_root, synthetic_copy, **BOTH, **OPTIONS)
    write_sheet(synthetic_copy, lambda sheet: sheet[sheet["folder"] != held_out["test"]])
    folders = [case["folder"] for case in read_training(real_root, synthetic_copy, **SYNTHETIC, **OPTIONS).train]
    assert kept in folders
    assert held_out["validation"] not in folders


def test_what_is_passed_over_is_counted(real_root, synthetic_root, caplog):
    caplog.set_level("INFO")
    cases = read_training(real_root, synthetic_root, **SYNTHETIC, **OPTIONS)
    assert f"passed over {20 - len(cases.train)} synthetic volumes" in caplog.text


# ---- fractions of the real volumes -----------------------------------------------------------------------------------


def drawn(fraction, seed=0, patients=40, reverse=False):
    cases = [{"patient": f"P{n:02d}", "label": [int(n % 4 == 0)]} for n in range(patients)]
    return first_patients(cases[::-1] if reverse else cases, fraction, seed)


def test_fractions_are_nested_stratified_and_depend_on_patients_and_seed_alone():
    shares = [drawn(fraction) for fraction in (0.1, 0.25, 0.5, 1.0)]
    assert [len(share) for share in shares] == [4, 10, 20, 40]
    assert all(small < large for small, large in itertools.pairwise(shares))
    assert [sum(int(patient[1:]) % 4 == 0 for patient in share) for share in shares] == [1, 2, 5, 10]
    assert drawn(0.5, reverse=True) == drawn(0.5)
    assert drawn(0.5, seed=1) != drawn(0.5)


def test_a_fraction_that_leaves_a_class_without_a_patient_is_refused():
    with pytest.raises(UserError, match=r"real_fraction 0\.01 of 10 positive training patients leaves none; give 0\.1"):
        drawn(0.01)
    for fraction in (0, 1.1, float("nan")):
        with pytest.raises(UserError, match="above 0 and at most 1"):
            drawn(fraction)


def test_a_fraction_takes_real_volumes_away_and_no_synthetic_ones(real_root, synthetic_root):
    whole, half = (
        read_training(real_root, synthetic_root, **BOTH, **OPTIONS, real_fraction=share) for share in (1, 0.5)
    )
    assert half.validation == whole.validation
    of_real, of_half = (
        {case["patient"] for case in cases.train if str(real_root) in case["axt2"]} for cases in (whole, half)
    )
    assert of_half < of_real
    synthetic = [[case for case in cases.train if str(synthetic_root) in case["axt2"]] for cases in (whole, half)]
    assert [case["folder"] for case in synthetic[0]] == [case["folder"] for case in synthetic[1]]
