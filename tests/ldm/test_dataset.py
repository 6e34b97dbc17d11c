from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors import safe_open

from scripts.common.problems import UserError
from scripts.data.latents import latent_path, read_latent, write_latent
from scripts.engine.loading import data_loader
from scripts.engine.resume import data_digest
from scripts.ldm.cases import read_training_cases, split_cases
from scripts.ldm.dataset import Dropout, Focus, LatentDataset, Slot, TimestepGrid, collate
from scripts.ldm.objective import NoisyBatch
from scripts.networks.weights import LatentScale
from scripts.reports.embeddings import read_embedding, write_embedding

WIDTH = 6


def read(root: Path, **options):
    return read_training_cases(root, root / "latents", **({"embedding_width": WIDTH, "factor": 2} | options))


def make(root: Path, **options) -> LatentDataset:
    return LatentDataset(read(root), root, **({"seed": 1} | options))


def slot(epoch: int, index: int) -> Slot:
    return Slot(epoch, index, 1.0, 1.0)


def edit(root: Path, index: int, **changes) -> None:
    entries = json.loads((root / "train_merged.json").read_text())
    entries[index].update(changes)
    (root / "train_merged.json").write_text(json.dumps(entries))


def reencode(root: Path, folder: str, shape=(4, 4, 4, 4), fingerprint="vae") -> None:
    path = latent_path(root / "latents", folder, "axt2")
    affine = read_latent(path).affine
    write_latent(path, torch.randn(shape), torch.ones(shape), fingerprint=fingerprint, affine=affine, shape=(16,) * 3)


# ---- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
def test_an_example_is_latent_embedding_and_conditions(data_root, cache):
    dataset = make(data_root, cache=cache)
    example = dataset[slot(1, 3)]
    latent = read_latent(latent_path(data_root / "latents", "case3", "axt2"))
    assert example["folder"] == "case3"
    assert ((example["latent"] - latent.mu).abs() <= 6 * latent.sigma).all()
    assert torch.equal(example["embedding"], read_embedding(data_root / "embeddings" / "3.safetensors"))
    assert example["pirads"].tolist() == [0, 1]
    assert example["spacing"].tolist() == [0.5, 0.5, 0.5]
    assert not example["text_isnull"]
    assert example["class_keep"]


def test_draws_depend_on_seed_epoch_and_case_and_on_nothing_else(data_root):
    dataset, reversed_cases = make(data_root), make(data_root)
    reversed_cases.cases.reverse()
    one = dataset[slot(2, 1)]
    dataset[slot(2, 0)], torch.rand(7)
    same = reversed_cases[slot(2, len(dataset) - 2)]
    for key in ("latent", "noise", "uniform"):
        assert torch.equal(one[key], dataset[slot(2, 1)][key])
        assert torch.equal(one[key], same[key])
        assert not torch.equal(one[key], dataset[slot(3, 1)][key])
        assert not torch.equal(one[key], make(data_root, seed=2)[slot(2, 1)][key])


def test_latents_are_drawn_with_their_mean_and_spread(data_root):
    mu, sigma = (torch.full((4, 16, 16, 16), value) for value in (3.0, 0.5))
    for path in (data_root / "latents").rglob("*.safetensors"):
        write_latent(path, mu, sigma, fingerprint="vae", affine=read_latent(path).affine, shape=(64,) * 3)
    latent = make(data_root).latent(1, 0)
    assert latent.mean().item() == pytest.approx(3.0, abs=0.02)
    assert latent.std().item() == pytest.approx(0.5, abs=0.02)


def test_the_authors_latents_are_taken_as_they_were_drawn(data_root):
    for path in (data_root / "latents").rglob("*.safetensors"):
        latent = read_latent(path)
        image = nib.Nifti1Image(np.moveaxis(latent.mu.numpy(), 0, -1), latent.affine)
        nib.save(image, path.with_name("axt2_emb.nii.gz"))
        path.unlink()
    dataset = make(data_root)
    stored = read_latent(data_root / "latents" / "case0" / "axt2_emb.nii.gz").mu
    assert torch.equal(dataset.latent(1, 0), stored)
    assert torch.equal(dataset.latent(2, 0), stored)


def test_stored_noise_is_one_draw_for_all_epochs(data_root):
    dataset = make(data_root, fresh_noise=False)
    assert torch.equal(dataset[slot(1, 0)]["latent"], dataset[slot(9, 0)]["latent"])
    assert not torch.equal(dataset[slot(1, 0)]["noise"], dataset[slot(9, 0)]["noise"])


def test_an_absent_or_dropped_report_is_the_empty_report(data_root):
    empty = read_embedding(data_root / "embeddings" / "empty.safetensors")
    absent = make(data_root)[slot(1, 6)]
    dropped = make(data_root, dropout=Dropout(both=1.0))[slot(1, 0)]
    for example in (absent, dropped):
        assert torch.equal(example["embedding"], empty)
        assert example["text_isnull"]
    assert absent["class_keep"]
    assert not dropped["class_keep"]


def test_dropout_happens_as_often_as_asked(data_root):
    dataset = make(data_root, dropout=Dropout(class_=0.2, both=0.3))
    seen = [dataset.dropped(epoch, 0) for epoch in range(3000)]
    shares = [seen.count(kind) / len(seen) for kind in [(True, False), (False, True), (True, True), (False, False)]]
    assert shares == pytest.approx([0, 0.2, 0.3, 0.5], abs=0.03)


@pytest.mark.parametrize("shares", [(-0.1, 0), (0, -0.1), (0.5, 0.6)])
def test_dropout_probabilities_are_checked(shares):
    with pytest.raises(UserError, match="at most 1"):
        Dropout(*shares)


def test_embeddings_of_a_batch_are_padded_and_masked_when_they_are_prepared(data_root):
    """As they are stored, in half precision, and without padding on their way; latents and noise are float32."""
    dataset = make(data_root)
    examples = [dataset[slot(1, index)] for index in (0, 3)]
    batch = collate(examples)
    assert batch["embedding"].shape == (2 + 5, WIDTH)
    *_, conditions = NoisyBatch("ddpm", LatentScale((1.0,)))(batch)
    text, mask = conditions["text_encoding"], conditions["text_mask"]
    assert text.shape == (2, 5, WIDTH)
    assert text.dtype == torch.float16
    assert torch.equal(text[mask], torch.cat([e["embedding"] for e in examples]))
    assert batch["latent"].dtype == batch["noise"].dtype == torch.float32
    assert mask.sum(dim=1).tolist() == [2, 5]
    assert batch["latent"].shape == (2, 4, 4, 4, 4)
    assert batch["folder"] == ["case0", "case3"]


def test_networks_without_adapter_read_no_embedding(data_root):
    for path in (data_root / "embeddings").iterdir():
        path.unlink()
    dataset = LatentDataset(read(data_root, variant="MAISI"), data_root, seed=0)
    batch = collate([dataset[slot(1, 0)]])
    *_, conditions = NoisyBatch("ddpm", LatentScale((1.0,)))(batch)
    assert batch["embedding"] is conditions["text_encoding"] is conditions["text_mask"] is None


def test_channels_are_stacked_in_their_order(data_root):
    for number in range(7):
        source = read_latent(latent_path(data_root / "latents", f"case{number}", "axt2"))
        path = latent_path(data_root / "latents", f"case{number}", "adc")
        write_latent(path, source.mu + 9, source.sigma, fingerprint="vae", affine=source.affine, shape=source.shape)
    dataset = LatentDataset(read(data_root, channels=["axt2", "adc"]), data_root, seed=0)
    first, second = dataset[slot(1, 0)]["latent"].split(4)
    assert dataset.shape == (8, 4, 4, 4)
    assert second.mean() - first.mean() == pytest.approx(9, abs=0.5)


def as_the_authors_store_it(root: Path) -> None:
    """Each report's embedding as .npy in float32, the empty one at each case that lacks a report, none shared."""
    entries = json.loads((root / "train_merged.json").read_text())
    for entry in entries:
        path = root / entry["folder"] / "text_emb.npy"
        path.parent.mkdir()
        np.save(path, read_embedding(root / entry["text"])[None].float().numpy())
        entry["text"] = f"./{entry['folder']}/text_emb.npy"
    (root / "train_merged.json").write_text(json.dumps(entries))


def test_the_authors_embeddings_and_lists_are_read(data_root):
    ours = make(data_root, dropout=Dropout(both=0.5))
    as_the_authors_store_it(data_root)
    shutil.rmtree(data_root / "embeddings")
    theirs = make(data_root, dropout=Dropout(both=0.5))
    for index in range(len(ours)):
        assert torch.equal(ours[slot(1, index)]["embedding"].float(), theirs[slot(1, index)]["embedding"])


def test_without_any_empty_report_it_is_asked_for(data_root):
    as_the_authors_store_it(data_root)
    shutil.rmtree(data_root / "embeddings")
    edit(data_root, 6, text_isnull=0)
    with pytest.raises(UserError, match=r"empty report .*empty\.safetensors.*missing"):
        read(data_root)
    cases = read(data_root, needs_empty=False)  # nobody needs it
    example = LatentDataset(cases, data_root, seed=0)[slot(1, 0)]
    assert torch.equal(example["embedding"], read_embedding(cases[0].embedding))


def test_before_the_first_step_no_numbers_are_read(data_root, monkeypatch):
    """Ten thousand cases of full size are 84 GB in latents and embeddings: headers tell all that is asked before."""
    for number in range(7):
        mask = nib.Nifti1Image(np.ones((16, 16, 16), np.uint8), np.eye(4))
        (data_root / f"case{number}").mkdir()
        nib.save(mask, data_root / f"case{number}" / "lesions.nii.gz")
    numbers, whole = [], []

    class Watched:
        """A safetensors file that tells whose numbers are read."""

        def __init__(self, path, framework):
            self.file, self.path = safe_open(path, framework), path

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def __getattr__(self, name):
            return getattr(self.file, name)

        def get_tensor(self, name):
            tensor = self.file.get_tensor(name)
            numbers.append((Path(self.path).name, tensor.nbytes))
            return tensor

    for module in ("scripts.data.latents", "scripts.reports.embeddings", "scripts.common.identity"):
        monkeypatch.setattr(f"{module}.safe_open", Watched)
    monkeypatch.setattr("scripts.common.identity.load_file", whole.append)
    cases = read(data_root)
    dataset = LatentDataset(cases, data_root, seed=1, focus=Focus("lesions.nii.gz", 5.0), cache=False)
    data_digest(cases, ["folder"], ["embedding", "latents"])
    assert dataset.shape == (4, 4, 4, 4)
    assert whole == []
    assert [name for name, _ in numbers] == ["empty.safetensors"]
    dataset[slot(1, 0)]
    assert sum(size for _, size in numbers[1:]) == 2 * 4**4 * 4 + 2 * WIDTH * 2  # mu, sigma and two tokens


def test_what_is_kept_is_there_once_for_all_loading_processes(data_root):
    """They are forked from the process that has read it, and read nothing themselves."""
    dataset = make(data_root)
    expected = [dataset[index]["latent"] for index in range(7)]
    shutil.rmtree(data_root / "latents")
    shutil.rmtree(data_root / "embeddings")
    loader = data_loader(dataset, batch_size=7, num_workers=2, collate_fn=collate)
    assert torch.equal(next(iter(loader))["latent"], torch.stack(expected))


# ---- validation ------------------------------------------------------------------------------------------------------


def test_validation_sees_every_case_in_every_part_of_the_draws(data_root):
    grid = TimestepGrid(make(data_root), 4)
    examples = [grid[index] for index in range(len(grid))]
    seen = {(example["folder"], int(example["uniform"] * 4)) for example in examples}
    assert len(seen) == len(grid) == 28
    assert torch.equal(grid[5]["uniform"], grid[5]["uniform"])


def test_the_last_draw_stays_below_one(data_root, monkeypatch):
    """Rounding would make it 1, the timestep after the last."""
    grid = TimestepGrid(make(data_root), 4)
    last = grid.examples[0] | {"uniform": torch.tensor(1 - 2**-24)}
    monkeypatch.setattr(LatentDataset, "__getitem__", lambda self, index: last)
    assert grid[3]["uniform"] < 1


def test_held_out_cases_are_whole_patients(data_root):
    for number in range(7):
        edit(data_root, number, patient=f"patient{number // 2}")
    train, held = split_cases(read(data_root), 0.5, seed=0)
    assert len(train) + len(held) == 7
    assert not {case.patient for case in train} & {case.patient for case in held}
    assert split_cases(read(data_root), 0, seed=0)[1] == []


@pytest.mark.parametrize("fraction", [0.01, 0.99, 1.0, -0.1])
def test_a_split_without_cases_is_refused(data_root, fraction):
    with pytest.raises(UserError, match="val_fraction"):
        split_cases(read(data_root), fraction, seed=0)


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once_with_their_cases(data_root):
    latent_path(data_root / "latents", "case0", "axt2").unlink()
    latent_path(data_root / "latents", "case1", "axt2").write_bytes(b"broken")
    reencode(data_root, "case2", fingerprint="another")
    write_embedding(data_root / "embeddings" / "3.safetensors", torch.ones(2, WIDTH + 1), "encoder")
    (data_root / "embeddings" / "4.safetensors").unlink()
    edit(data_root, 5, pirads=[1, 1], spacing=[0.5, 0, 0.5])
    with pytest.raises(UserError) as caught:
        read(data_root)
    lines = str(caught.value).splitlines()
    for number, what in enumerate(["no latent", "cannot be read", "another", "width 7", "missing", "one-hot"]):
        assert any(f"case{number}" in line and what in line for line in lines), (number, what)
    assert any("case5" in line and "spacing" in line for line in lines)


def test_sizes_must_divide_and_agree(data_root):
    reencode(data_root, "case1", shape=(4, 4, 4, 6))
    with pytest.raises(UserError, match=r"(?s)case0.*divide by 8.*differ in size"):
        read(data_root, factor=8)


def test_latents_of_another_spacing_are_refused(data_root):
    edit(data_root, 2, spacing=[0.5, 0.5, 0.6])
    with pytest.raises(UserError, match=r"case2 .*0\.6"):
        read(data_root)


def test_embeddings_of_two_encoders_are_refused(data_root):
    write_embedding(data_root / "embeddings" / "2.safetensors", torch.ones(2, WIDTH), "other")
    with pytest.raises(UserError, match=r"case2 .*text encoder other"):
        read(data_root)


@pytest.mark.parametrize("text", ["Large lesion, left base.", "../secret.safetensors", "/etc/secret.npy"])
def test_report_text_is_never_quoted_and_paths_stay_inside(data_root, text):
    edit(data_root, 1, text=text)
    with pytest.raises(UserError, match="case1") as caught:
        read(data_root)
    assert "lesion" not in str(caught.value)


def test_a_patient_to_test_on_is_not_trained_on(data_root):
    entries = json.loads((data_root / "train_merged.json").read_text())
    for name, case in (("train", entries[0]), ("test", entries[1])):
        (data_root / f"{name}.json").write_text(json.dumps([case | {"patient": "P1"}]))
    with pytest.raises(UserError, match=r"patient P1 .*both train and test"):
        read(data_root)


def test_a_link_that_leads_out_of_the_latents_is_refused(data_root, tmp_path_factory):
    folder = data_root / "latents" / "case1"
    elsewhere = folder.rename(tmp_path_factory.mktemp("elsewhere") / "case1")
    folder.symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"case1 .*leaves the data root"):
        read(data_root)


def test_a_missing_datalist_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="encode_reports"):
        read(tmp_path)
