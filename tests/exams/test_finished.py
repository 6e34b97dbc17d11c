"""A run of prepare that is stopped, done in several processes, or given again does no exam twice and none half."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time

import nibabel as nib
import pytest

from scripts.common.problems import UserError
from scripts.data.root import read_splits
from scripts.exams import finished
from small_exams import call, save


def written(root):
    """All that a run leaves, but for the times in its records."""
    files = sorted(path for path in (root / "out").rglob("*") if path.is_file() and path.name != "prepared.json")
    files = [path for path in files if path.suffix != ".xlsx"]  # which holds the time
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def times(root):
    return {path: path.stat().st_mtime_ns for path in sorted((root / "out").glob("*/*.nii.gz"))}


def test_two_processes_write_what_one_does(exams):
    call(exams)
    first = written(exams)
    shutil.rmtree(exams / "out")
    call(exams, workers=2)
    assert written(exams) == first
    assert not list((exams / "out").rglob(".part-*"))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_is_stopped_goes_on_with_what_is_not_finished(exams, monkeypatch, caplog, stop):
    call(exams)
    whole = written(exams)
    shutil.rmtree(exams / "out")
    real, calls = finished.save_int16, []

    def stopping(path, *args):
        calls.append(path)
        if len(calls) == 8:  # within the third exam
            raise stop
        real(path, *args)

    monkeypatch.setattr(finished, "save_int16", stopping)
    with pytest.raises(UserError if stop is KeyboardInterrupt else stop):
        call(exams)
    assert not (exams / "out" / "train.json").exists()
    assert len(list((exams / "out").glob("*/prepared.json"))) == 2
    before = times(exams)
    monkeypatch.setattr(finished, "save_int16", real)
    with caplog.at_level(logging.INFO):
        call(exams)
    assert "2 of 6 exams are finished already" in caplog.text
    assert written(exams) == whole
    after = times(exams)
    assert [path.parent.name for path in before if before[path] == after[path]] == ["001"] * 3 + ["002"] * 3


def test_a_killed_run_leaves_nothing_half_written_and_no_process(exams):
    code = (
        "import sys, time; from scripts.exams import finished\n"
        "real = finished.save_int16\n"
        "def slow(path, *args):\n    real(path, *args); print(path, flush=True); time.sleep(0.3)\n"
        "finished.save_int16 = slow\n"
        "from scripts.cli.run import run; from scripts.prepare import prepare; run(prepare, sys.argv[1:])"
    )
    options = (
        f"--table {exams}/table.csv --images_dir {exams}/exams --output_dir {exams}/out --t2w t2.nii.gz --workers 2 "
    )
    options += "--adc adc.nii.gz --size 24,24,16 --spacing 1.5,1.5,2.0 --pirads_column pirads --test_fraction 0.4"
    program = subprocess.Popen([sys.executable, "-c", code, *options.split()], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        program.stdout.readline()
    program.kill()
    program.wait()
    deadline = time.monotonic() + 30
    while (rest := program.stdout.readline()) and time.monotonic() < deadline:  # ends with the last process
        pass
    assert not rest
    for path in (exams / "out").glob("*/*.nii.gz"):
        nib.load(path).get_fdata()
    assert not (exams / "out" / "train.json").exists()
    call(exams, dwi=None, patient_column=None)
    assert len(read_splits(exams / "out")[0]) + len(read_splits(exams / "out")[1]) == 6


def touch(root):
    path = root / "exams" / "002" / "t2.nii.gz"
    image = nib.load(path)
    save(path, image.get_fdata() + 1, image.affine)


def cut_output(root):
    path = root / "out" / "002" / "adc.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])


def spoil_record(root):
    (root / "out" / "002" / "prepared.json").write_text('{"made_from": 1')


@pytest.mark.parametrize("change", [touch, cut_output, spoil_record])
def test_a_finished_exam_is_done_again_where_its_source_or_result_has_changed(exams, change):
    call(exams)
    before = times(exams)
    change(exams)
    changed = times(exams)
    call(exams)
    after = times(exams)
    assert {path.parent.name for path in before if after[path] not in (before[path], changed[path])} == {"002"}
    nib.load(exams / "out" / "002" / "adc.nii.gz").get_fdata()


@pytest.mark.parametrize("options", [{"spacing": (1.5, 1.5, 2.5)}, {"adc_unit": 1e-6}, {"any_plane": True}])
def test_another_setting_does_every_exam_again(exams, options):
    call(exams)
    before = times(exams)
    call(exams, **options)
    assert not [path for path, time_ in times(exams).items() if before[path] == time_]
