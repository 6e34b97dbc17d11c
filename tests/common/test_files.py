"""Files appear complete or not at all, and paths out of data files stay inside their root."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from scripts.common import files
from scripts.common.files import atomic, inside, remove_stale
from scripts.common.problems import UserError
from scripts.common.tensors import write_tensors


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_text("old")

    def write() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"weights.safetensors cannot be written: No space left on device.*make room"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_replaces_the_old_one_with_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with atomic(tmp_path / "new" / "volume.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
    made = tmp_path / "new" / "volume.nii.gz"
    assert made.read_text() == "new"
    write_tensors(tmp_path / "tensors", {"a": torch.zeros(1)}, {})
    assert made.stat().st_mode == (tmp_path / "tensors").stat().st_mode == plain.stat().st_mode


def test_tensors_come_back_whatever_their_layout(tmp_path):
    plain = torch.arange(96.0).view(2, 3, 2, 2, 4).requires_grad_()
    tensors = {"plain": plain, "last": plain.contiguous(memory_format=torch.channels_last_3d), "part": plain[:, 1]}
    write_tensors(tmp_path / "some.safetensors", tensors, {})
    read = load_file(tmp_path / "some.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


KILLED = """
import os, signal, sys, torch
from scripts.common import tensors as module

def die(tensors, path, metadata):
    path.with_name(".tmpAbCd").write_text("as safetensors leaves it when it is killed")
    os.kill(os.getpid(), signal.SIGKILL)

module.save_file = die
module.write_tensors(sys.argv[1], {"a": torch.zeros(2)}, {})
"""


def test_what_a_killed_process_was_writing_is_gone_when_another_has_written_there(tmp_path, repo_root):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "w.safetensors")]
    subprocess.run(command, cwd=repo_root, check=False, timeout=60)
    assert [path.name for part in tmp_path.iterdir() for path in part.iterdir()]
    write_tensors(tmp_path / "another.safetensors", {"a": torch.zeros(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["another.safetensors"]


def test_what_others_are_writing_stays(tmp_path, monkeypatch):
    """A process of this machine that lives; another machine's, unless it has not written for an hour."""
    here, there = files.MACHINE, "0" * 8
    mine = {f".part-{here}-{os.getppid()}-00000000", f".part-{there}-1-00000000"}
    stale = {f".part-{there}-1-00000001", f".part-{here}-{os.getpid()}-00000000", ".part-0123abcdold.nii.gz"}
    for name in mine | stale - {".part-0123abcdold.nii.gz"}:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    (tmp_path / ".part-0123abcdold.nii.gz").touch()
    for path in (tmp_path / f".part-{there}-1-00000001", tmp_path / f".part-{there}-1-00000001" / "half"):
        os.utime(path, (0, 0))
    with atomic(tmp_path / "a") as first, atomic(tmp_path / "b"):
        remove_stale(tmp_path)
        assert first.is_file()
    assert {path.name for path in tmp_path.iterdir()} == mine | {"a", "b"}


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "link/secret"])
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leaves the data root"):
        inside(root, path)


def test_paths_inside_the_root_are_resolved(tmp_path):
    assert inside(tmp_path, "./case/axt2.nii.gz") == tmp_path.resolve() / "case" / "axt2.nii.gz"


@pytest.mark.parametrize("knows_links", [True, False])
def test_a_file_gets_a_second_name_or_a_copy(tmp_path, monkeypatch, knows_links):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(b"an older one")

    def no_links(*_):
        raise OSError("links are not known here")

    if not knows_links:
        monkeypatch.setattr(files.os, "link", no_links)
    files.link(source, target)
    assert target.read_bytes() == b"new"
    assert target.samefile(source) == knows_links
    assert not list(tmp_path.glob(".part-*"))
