"""Files appear complete or not at all, and paths out of data files stay inside their root."""

import pytest
import torch
from safetensors.torch import load_file

from scripts.common.files import atomic, inside, write_tensors
from scripts.common.problems import UserError


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


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "link/secret"])
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leaves the data root"):
        inside(root, path)


def test_paths_inside_the_root_are_resolved(tmp_path):
    assert inside(tmp_path, "./case/axt2.nii.gz") == tmp_path.resolve() / "case" / "axt2.nii.gz"
