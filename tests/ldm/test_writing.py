"""What is written: volumes where they belong, complete or not at all, beside the sampling of others."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import openpyxl
import pytest
import torch
from joblib import Parallel, delayed
from joblib.externals.loky import ProcessPoolExecutor
from torch.overrides import TorchFunctionMode

from generating import OBLIQUE, SECRET, SIZE, SPACING, infer, listed, prepared, root_cause, rows, voxels
from scripts.common.problems import UserError
from scripts.data.case_files import begin, write_case
from scripts.data.outputs import Record
from scripts.ldm.sampling import Sample, sample
from scripts.ldm.writing import title
from scripts.vae.decode import decode


def test_every_case_gets_volume_picture_and_row(place, generated):
    assert not list(generated.rglob(".part-*"))
    for folder in ("001", "002", "003", "004", "005"):
        image = nib.load(generated / folder / "axt2.nii.gz")
        values = voxels(generated / folder / "axt2.nii.gz")
        assert image.shape == SIZE
        assert image.get_data_dtype() == np.int16
        assert image.header.get_xyzt_units()[0] == "mm"
        assert 0 <= values.min() < values.max() <= 962
        assert (generated / f"{folder}.png").is_file()
    head, *rows = openpyxl.load_workbook(generated / "synthsheet_all.xlsx").active.values
    assert head == ("folder", "PIRADS_real", "PIRADS_synth", "Label")
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("001", 1, "train"), ("002", 0, "train"), ("003", 0, "train"), ("004", 1, "test"), ("005", 1, "test"),
    ]  # fmt: skip
    assert {row[2] for row in rows} <= {0, 1}
    assert sorted(path.name for path in generated.glob("synthsheet_0_*")) == [
        "synthsheet_0_test.xlsx",
        "synthsheet_0_train.xlsx",
    ]


def test_a_volume_lies_where_the_real_image_lies(generated):
    """The same voxels have the same world coordinates as in the exam the report belongs to."""
    for folder, affine in (("001", OBLIQUE), ("002", np.diag([*SPACING, 1.0]))):
        assert np.allclose(nib.load(generated / folder / "axt2.nii.gz").affine, affine, atol=1e-4)


@pytest.mark.parametrize(
    ("broken", "amp", "cure"),
    [
        ("latents", "fp16", "give --amp fp32 or bf16"),
        ("class_logits", "fp32", "give another model_file"),
        ("volume", "fp32", "give another vae_file"),
    ],
)
def test_what_is_not_finite_is_no_volume(place, tmp_path, monkeypatch, broken, amp, cure):
    """Of a batch of two only the case whose numbers are finite is written."""
    decoded = []

    def broken_sample(*args, **kwargs):
        sampled = sample(*args, **kwargs)
        values = getattr(sampled, broken).clone()
        values[0, 0] = torch.inf
        return sampled._replace(**{broken: values})

    def broken_decode(*args):
        decoded.append(args)
        return decode(*args) * (torch.nan if len(decoded) == 1 else 1)

    if broken == "volume":
        monkeypatch.setattr("scripts.ldm.writing.decode", broken_decode)
    else:
        monkeypatch.setattr("scripts.ldm.generate.sample", broken_sample)
    with pytest.raises((RuntimeError, UserError)) as error:
        infer(place, tmp_path, splits=["test"], batch_size=2, steps=1, amp=amp)
    message = str(root_cause(error.value))
    assert "1 problem\n  004  " in message
    assert cure in message
    assert not (tmp_path / "004").exists()
    assert (tmp_path / "005" / "generated.json").is_file()


@pytest.mark.usefixtures("processes_write")
def test_what_the_writing_process_cannot_write_is_told(place, tmp_path):
    (tmp_path / "004.png").mkdir()
    with pytest.raises((RuntimeError, UserError)) as error:
        infer(place, tmp_path, splits=["test"], steps=1)
    told = error.value
    while not isinstance(told, UserError):
        told = told.__cause__
    assert "004.png cannot be written: Is a directory" in str(told)
    assert not (tmp_path / "004" / "generated.json").exists()
    assert (tmp_path / "005" / "generated.json").is_file()


@pytest.mark.usefixtures("processes_write")
def test_a_writing_process_that_is_killed_is_told_with_the_case_and_what_was_complete_stays(
    place, tmp_path, monkeypatch
):
    """The process that writes the second of three volumes dies; the command given again makes what is missing."""

    def die_at_the_second(folder, *args):
        if folder.name == "004_1":
            os.kill(os.getpid(), signal.SIGKILL)
        return write_case(folder, *args)

    with monkeypatch.context() as patch:
        patch.setattr("scripts.ldm.writing.write_case", die_at_the_second)
        with pytest.raises((RuntimeError, UserError)) as error:
            infer(place, tmp_path, splits=["test"], steps=1, replicates=2)
    assert "004_1 is not complete: the process that wrote it was killed" in str(root_cause(error.value))
    assert (tmp_path / "004" / "generated.json").is_file()
    assert not (tmp_path / "004_1" / "generated.json").exists()
    infer(place, tmp_path, splits=["test"], steps=1, replicates=2)
    assert listed(tmp_path, "test") == ["004", "004_1", "005", "005_1"]


@pytest.mark.usefixtures("processes_write")
def test_other_pools_of_the_program_work_beside_the_writing(place, tmp_path):
    """Such as those of scikit-learn, which shares one among all that ask joblib for it."""
    infer(place, tmp_path, splits=["test"], steps=1)
    assert Parallel(n_jobs=2)(delayed(abs)(number) for number in (-1, -2)) == [1, 2]


def test_writing_processes_know_no_options_of_the_program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--report", SECRET])
    with ProcessPoolExecutor(1, initializer=begin) as processes:
        assert SECRET not in processes.submit(eval, "str(__import__('sys').argv)").result()


def test_a_full_disk_is_told_with_the_file_and_leaves_what_was_complete(place, tmp_path, monkeypatch, generated):
    def full(image, path):
        Path(path).write_bytes(b"half of it")
        if "005" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path)

    save = nib.save
    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", full)
        with pytest.raises((RuntimeError, UserError)) as error:
            infer(place, tmp_path, splits=["test"], batch_size=2)
    told = error.value
    while not isinstance(told, UserError):
        told = told.__cause__
    assert re.search(r"005/axt2.nii.gz cannot be written: No space left on device.*same command again", str(told))
    assert not list((tmp_path / "005").iterdir())
    workflow = infer(place, tmp_path, splits=["test"], batch_size=2)
    assert [job.folder for job in workflow.parser.get_parsed_content("jobs").todo] == ["005"]
    assert np.abs(voxels(tmp_path / "005" / "axt2.nii.gz") - voxels(generated / "005" / "axt2.nii.gz")).max() <= 1


def test_writing_goes_on_while_others_are_made_and_changes_neither_files_nor_order(place, tmp_path, monkeypatch):
    """The first volume of four is written when the other three are."""
    save, written, others_written = nib.save, [], threading.Event()

    def first_comes_last(image, path):
        folder = Path(path).parents[1].name  # of the folder in which it is written
        if folder == "004":
            others_written.wait(60)
        save(image, path)
        written.append(folder)
        if len(written) == 3:
            others_written.set()

    monkeypatch.setattr(nib, "save", first_comes_last)
    infer(place, tmp_path, splits=["test"], steps=1, replicates=2)
    assert written[-1] == "004"
    assert list(rows(tmp_path)) == listed(tmp_path, "test") == ["004", "004_1", "005", "005_1"]


class Copied(TorchFunctionMode):
    """Lets what has no numbers go to the host asynchronously; whatever waits for numbers still raises."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to and args[1:] == ("cpu",) and (kwargs or {}) == {"non_blocking": True}:
            return torch.zeros_like(args[0], device="cpu")
        return function(*args, **(kwargs or {}))


def test_handing_volumes_over_does_not_wait_for_the_accelerator(place, tmp_path, monkeypatch):
    workflow = prepared(place, tmp_path, splits=["test"])
    writer, jobs = (workflow.parser.get_parsed_content(name) for name in ("writer", "jobs"))
    writer.vae.to("meta")
    monkeypatch.setattr("scripts.vae.windows.itemsize_of", lambda x: 4)  # autocast knows no such device
    handed_over = []
    monkeypatch.setattr(writer.background, "start", lambda write, job, made: handed_over.append((job.folder, made)))
    latents, logits = torch.zeros(2, 4, *(n // 4 for n in SIZE), device="meta"), torch.zeros(2, 2, device="meta")
    output = {"label": jobs.todo, "pred": Sample(latents, logits)}
    engine = SimpleNamespace(state=SimpleNamespace(output=output))
    writer._start()
    with Copied():
        writer(engine)
    assert [folder for folder, _ in handed_over] == ["004", "005"]
    assert all(made.volumes["axt2"].shape == SIZE for _, made in handed_over)
    assert all(made.volumes["axt2"].dtype == torch.int16 for _, made in handed_over)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "guidance 4 / 2"),
        ({"rescale": 0.5, "norm": 0.25}, "guidance 4 / 2, rescale 0.5, norm 0.25"),
        ({"model": "contents_0"}, "guidance 4 / 2 by a worse model"),
    ],
)
def test_a_picture_is_titled_with_what_guided_it(more, told):
    guidance = {"report": 4.0, "class": 2.0, "interval": [0, 1000], **more}
    settings = {"guidance": guidance, "seed": 7, "scheduler": "ddim", "steps": 3}
    record = Record("001", "001", "test", 0, 7, None, None, None, None, ["axt2"], settings=settings)
    assert title(record, "axt2").split("  ·  ")[-1] == told
