"""What the evaluation says of good reconstructions and bad ones, on phantoms."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from scripts.common.problems import UserError
from scripts.evaluation.features import phantom
from scripts.phantom.__main__ import make
from scripts.phantom.dataset import read_findings
from scripts.vae.evaluate import ReconstructionReport
from scripts.vae.volumes import VolumeDataset, list_volumes


def batch_of(example: dict, made: torch.Tensor) -> SimpleNamespace:
    """An engine that has just reconstructed one volume."""
    batch = {name: torch.as_tensor(example[name])[None] for name in ("image", "affine")}
    batch |= {name: [example[name]] for name in ("folder", "sequence")}
    latent = torch.arange(4.0).view(1, 4, 1, 1, 1) * torch.tensor([-1.0, 3.0]).view(1, 1, 2, 1, 1).expand(1, 4, 2, 2, 2)
    output = {"pred": {"image": made[None], "mu": latent, "sigma": latent}}
    return SimpleNamespace(state=SimpleNamespace(batch=batch, output=output))


def test_a_lesion_that_the_reconstruction_loses_is_counted(tmp_path):
    make(str(tmp_path / "data"), cases=8, seed=3, test_fraction=0.75, workers=1)
    volumes = list_volumes(tmp_path / "data", ["test.json"], ["axt2"])
    truth = read_findings(tmp_path / "data")
    kept, lost = [volume for volume in volumes if truth[volume["folder"]]][:2]
    report = ReconstructionReport(tmp_path / "data", volumes, tmp_path / "out", {})
    for example in VolumeDataset([kept, lost], cache=False):
        image = example["image"]
        report(batch_of(example, image if example["folder"] == kept["folder"] else torch.zeros_like(image)))
    report.write(None)

    frame = pd.read_csv(tmp_path / "out" / "reconstruction.csv", dtype={"folder": str}).set_index("folder")
    for part in ("presence", "zone", "side", "level", "all"):
        assert frame.loc[[kept["folder"], lost["folder"]], f"original_{part}"].tolist() == [True, True]
        assert frame.loc[[kept["folder"], lost["folder"]], f"reconstruction_{part}"].tolist() == [True, False]
    lesions = json.loads((tmp_path / "out" / "reconstruction.json").read_text())["lesions"]
    assert lesions["originals"]["all"]["value"] == 1
    share = lesions["reconstructions"]["all"]
    assert (share["value"], share["n"]) == (0.5, 2)
    assert share["low"] == pytest.approx(0.0945, abs=1e-4)  # Wilson, 1 of 2


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """A data root of six phantoms, five of them to test."""
    folder = tmp_path_factory.mktemp("phantoms")
    make(str(folder), cases=6, seed=3, test_fraction=0.8, workers=1)
    return folder


def evaluated(root, output, change, extractors=None) -> tuple[dict, pd.DataFrame]:
    """The report on phantoms whose reconstructions are `change` of them."""
    volumes = list_volumes(root, ["test.json"], ["axt2"])
    report = ReconstructionReport(root, volumes, output, {"phantom": phantom()} if extractors is None else extractors)
    for example in VolumeDataset(volumes, cache=False):
        report(batch_of(example, change(example["image"])))
    report.write(None)
    table = pd.read_csv(output / "reconstruction.csv", dtype={"folder": str})
    return json.loads((output / "reconstruction.json").read_text()), table


def test_a_perfect_reconstruction_has_all_of_its_original(phantoms, tmp_path):
    told, _ = evaluated(phantoms, tmp_path, torch.clone)
    assert told["fidelity"]["axt2"]["mae"]["value"] == 0
    assert all(figure["value"] == pytest.approx(1) for figure in told["detail"]["axt2"].values())
    assert told["distances"]["phantom: axt2"]["frechet"]["value"] == pytest.approx(0, abs=1e-3)
    assert {figure["value"] for figure in told["error"]["axt2"].values()} == {0}
    assert set(told["error"]["axt2"]) == {"mae_gland", "mae_0_25", "mae_25_50", "mae_50_75", "mae_75_100"}


def test_smoothness_is_seen_by_detail_spectrum_and_distance_and_an_error_by_where_it_is(phantoms, tmp_path):
    def smooth(image):
        return torch.nn.functional.avg_pool3d(image, 3, 1, 1, count_include_pad=False)

    told, table = evaluated(phantoms, tmp_path, smooth)
    assert told["detail"]["axt2"]["detail"]["value"] < 0.5
    assert told["detail"]["axt2"]["power_2_4"]["value"] < 0.5 < told["detail"]["axt2"]["power_over_16"]["value"]
    assert told["distances"]["phantom: axt2"]["frechet"]["value"] > 100
    assert told["detail"]["axt2"]["detail"]["value"] == pytest.approx(table["detail"].mean())
    gland = nib.load(phantoms / table["folder"][0] / "gland.nii.gz").get_fdata() > 0

    def darker_in_the_gland(image):
        first = image.shape[1:] == gland.shape
        return (image - 0.2 * torch.from_numpy(gland) * first).clamp(0)

    told, table = evaluated(phantoms, tmp_path / "gland", darker_in_the_gland)
    assert table["mae_gland"][0] > 3 * table["mae"][0]


def test_every_channel_of_the_latent_has_its_row(phantoms, tmp_path):
    told, _ = evaluated(phantoms, tmp_path, torch.clone, extractors={})
    rows = [told["latents"][f"axt2, channel {n}"] for n in range(4)]
    for n, row in enumerate(rows):
        assert row["mean"]["value"] == pytest.approx(n)  # -n and 3n, four of each
        assert row["deviation"]["value"] == pytest.approx(2 * n * (8 / 7) ** 0.5)
    assert told["distances"] == {}


def test_a_gland_on_another_grid_is_told(phantoms, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(phantoms, root)
    for path in root.glob("*/gland.nii.gz"):
        mask = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[1:], mask.affine), path)
    with pytest.raises(UserError, match=r"gland\.nii\.gz is not on the grid of axt2"):
        evaluated(root, tmp_path, torch.clone)


def test_one_volume_alone_has_no_distance(phantoms, tmp_path, caplog):
    volumes = list_volumes(phantoms, ["test.json"], ["axt2"])[:1]
    report = ReconstructionReport(phantoms, volumes, tmp_path, {"phantom": phantom()})
    example = VolumeDataset(volumes, cache=False)[0]
    report(batch_of(example, example["image"]))
    report.write(None)
    assert json.loads((tmp_path / "reconstruction.json").read_text())["distances"] == {}
    assert "one volume has no distance" in caplog.text
