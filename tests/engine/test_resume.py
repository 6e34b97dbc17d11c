"""What is refused when a training is to go on, and what a checkpoint's learning rate becomes."""

from __future__ import annotations

import contextlib
import gc
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scripts.common.identity import file_identity
from scripts.common.problems import UserError
from scripts.common.tensors import write_tensors
from scripts.engine.resume import Resume, data_digest
from scripts.engine.steps import polynomial_decay


def handler(folder, features: int = 2, steps: int = 4, **options) -> Resume:
    network = nn.Linear(features, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    parts = {"network": network, "optimizer": optimizer, "schedule": polynomial_decay(optimizer, steps)}
    return Resume(folder, parts, settings={"lr": 1.0, "seed": 0}, **options)


@pytest.fixture
def engine() -> SimpleNamespace:
    """A trainer after its second epoch, of three steps each."""
    state = SimpleNamespace(epoch=2, iteration=6, epoch_length=3, max_epochs=4, device=torch.device("cpu"))
    return SimpleNamespace(state=state, scaler=None)


def started_anew(engine) -> SimpleNamespace:
    engine.state.epoch = engine.state.iteration = 0
    return engine


def test_epoch_and_iteration_are_taken_up(tmp_path, engine):
    handler(tmp_path).finish(engine)
    handler(tmp_path).restore(started_anew(engine))
    assert (engine.state.epoch, engine.state.iteration) == (2, 6)


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (None, True), (True, None)])
def test_a_run_goes_on_where_gradients_are_scaled_and_where_they_are_not(tmp_path, engine, before, after):
    """A disabled scaler is what half precision has on a machine without a GPU; full precision has none."""

    def scaler(enabled: bool | None) -> torch.amp.GradScaler | None:
        return None if enabled is None else torch.amp.GradScaler("cpu", enabled=enabled)

    engine.scaler = scaler(before)
    handler(tmp_path).finish(engine)
    engine.scaler = scaler(after)
    handler(tmp_path).restore(started_anew(engine))
    assert engine.state.epoch == 2


def test_a_checkpoint_is_not_read_into_the_devices_memory(tmp_path, engine):
    """`meta` stands for a GPU: what is read onto it is lost."""
    first, second = handler(tmp_path), handler(tmp_path)
    first.finish(engine)
    engine.state.device = torch.device("meta")
    second.restore(started_anew(engine))
    assert torch.equal(first.parts["network"].weight, second.parts["network"].weight)


def test_a_checkpoint_is_mapped_while_it_is_read_and_kept_by_nothing(tmp_path, engine, monkeypatch):
    """Main memory need not hold it, and its place on the disk is free again when the next one replaces it."""

    def mapped() -> bool:
        return str(tmp_path / "checkpoint.pt") in Path("/proc/self/maps").read_text()

    def adam() -> Resume:
        made = handler(tmp_path)
        network = made.parts["network"]
        made.parts["optimizer"] = torch.optim.Adam(network.parameters())
        network(torch.ones(1, 2)).sum().backward()
        made.parts["optimizer"].step()
        return made

    first, second = adam(), adam()
    first.finish(engine)
    load, seen = nn.Linear.load_state_dict, []
    monkeypatch.setattr(nn.Linear, "load_state_dict", lambda *args: seen.append(mapped()) or load(*args))
    second.restore(started_anew(engine))
    gc.collect()
    assert seen == [True]
    assert not mapped()
    moments = second.parts["optimizer"].state_dict()["state"]
    assert torch.equal(moments[0]["exp_avg"], first.parts["optimizer"].state_dict()["state"][0]["exp_avg"])


def test_processes_that_see_different_checkpoints_are_refused(tmp_path, engine, monkeypatch):
    handler(tmp_path).finish(engine)
    monkeypatch.setattr("scripts.engine.resume.idist.all_gather", lambda mine: [mine, 0])
    with pytest.raises(UserError, match=r"do not see the same .*checkpoint\.pt \(epochs found: none, 2\).*nodes share"):
        handler(tmp_path).restore(started_anew(engine))


def test_exported_weights_that_are_gone_are_written_again(tmp_path, engine):
    class Exporting(Resume):
        def export(self, state):
            (self.folder / "model.safetensors").write_text(f"of epoch {state['epoch']}")

    first = handler(tmp_path)
    first.finish(engine)
    Exporting(tmp_path, first.parts, first.settings).restore(started_anew(engine))
    assert (tmp_path / "model.safetensors").read_text() == "of epoch 2"


# ---- while the training goes on --------------------------------------------------------------------------------------


def saved(folder: Path) -> dict | None:
    path = folder / "checkpoint.pt"
    return torch.load(path, weights_only=True) if path.is_file() else None


@pytest.mark.parametrize(("minutes", "written"), [(0, [1, 2, 3, 4, 5]), (2, [None, 2, 2, 4, 4])])
def test_a_checkpoint_is_written_when_its_minutes_have_passed_and_at_the_end(
    tmp_path, engine, monkeypatch, minutes, written
):
    """Epochs of one minute and a second."""
    clock = [0.0]
    monkeypatch.setattr("scripts.engine.resume.time.monotonic", lambda: clock[0])
    made = handler(tmp_path, minutes=minutes)
    made.start(started_anew(engine))
    found = []
    for epoch in range(1, 6):
        engine.state.epoch, engine.state.iteration = epoch, 3 * epoch
        clock[0] += 61
        made.save(engine)
        made.background.finish()
        found.append(saved(tmp_path) and saved(tmp_path)["epoch"])
    assert found == written
    made.finish(engine)
    assert saved(tmp_path)["epoch"] == 5


class Slow:
    """Writes only when it is told to."""

    def __init__(self, monkeypatch, error: Exception | None = None) -> None:
        self.begun, self.go_on, self.error = threading.Semaphore(0), threading.Event(), error
        self.kept = torch.save
        monkeypatch.setattr("torch.save", self)

    def __call__(self, state, path) -> None:
        self.begun.release()
        assert self.go_on.wait(60)
        if self.error is not None:
            raise self.error
        self.kept(state, path)


def test_training_goes_on_while_a_checkpoint_of_the_epochs_end_is_written(tmp_path, engine, monkeypatch):
    slow, made = Slow(monkeypatch), handler(tmp_path)
    network, optimizer = made.parts["network"], made.parts["optimizer"]
    expected = network.weight.detach().clone()
    made.save(engine)
    assert slow.begun.acquire(timeout=60)
    with torch.no_grad():
        network.weight += 1
    optimizer.param_groups[0]["lr"] = 7.0
    engine.state.epoch, engine.state.iteration = 3, 9
    slow.go_on.set()
    made.background.finish()
    state = saved(tmp_path)
    assert state["epoch"] == 2
    assert torch.equal(state["network"]["weight"], expected)
    assert state["optimizer"]["param_groups"][0]["lr"] == 1.0


def test_a_second_checkpoint_waits_until_the_first_is_written(tmp_path, engine, monkeypatch):
    slow, made, copies = Slow(monkeypatch), handler(tmp_path), []
    monkeypatch.setattr(made, "extra_state", lambda engine: copies.append(saved(tmp_path)) or {})
    made.save(engine)
    assert slow.begun.acquire(timeout=60)
    threading.Timer(0.1, slow.go_on.set).start()
    engine.state.epoch, engine.state.iteration = 3, 9
    made.finish(engine)
    assert [one and one["epoch"] for one in copies] == [None, 2]  # on the disk when the state was copied
    assert saved(tmp_path)["epoch"] == 3


@pytest.mark.parametrize("next_one", ["save", "finish", "tell"])
def test_a_disk_that_is_full_in_the_background_is_told_at_the_next_occasion(
    tmp_path, engine, monkeypatch, caplog, next_one
):
    handler(tmp_path).finish(engine)
    slow, made = Slow(monkeypatch, RuntimeError("[enforce fail at inline_container.cc:672]")), handler(tmp_path)
    made.restore(engine)
    slow.go_on.set()
    engine.state.epoch, engine.state.iteration = 3, 9
    made.save(engine)
    assert slow.begun.acquire(timeout=60)
    engine.state.epoch, engine.state.iteration = 4, 12
    words = r"cannot write to .* in epoch 3, .*checkpoint of epoch 2 is intact; make room"
    if next_one == "tell":
        with pytest.raises(ValueError, match="of the training"):
            made.tell(engine, ValueError("of the training"))
        assert re.search(words, caplog.text)
    else:
        with pytest.raises(UserError, match=words):
            getattr(made, next_one)(engine)
    assert saved(tmp_path)["epoch"] == 2


def test_what_is_being_written_is_completed_when_the_training_fails(tmp_path, engine, monkeypatch):
    slow, made = Slow(monkeypatch), handler(tmp_path)
    made.save(engine)
    threading.Timer(0.1, slow.go_on.set).start()
    with pytest.raises(KeyboardInterrupt):
        made.tell(engine, KeyboardInterrupt())
    assert saved(tmp_path)["epoch"] == 2


def test_one_process_writes_for_all(tmp_path, engine, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    made = handler(tmp_path)
    made.save(engine)
    made.finish(engine)
    assert not list(tmp_path.iterdir())
    assert made.saved_epoch == 2


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_finished_runs_rate_becomes_that_of_the_longer_schedule(tmp_path, engine):
    done = handler(tmp_path, steps=2)
    for _ in range(2):
        done.parts["optimizer"].step()
        done.parts["schedule"].step()
    assert done.parts["optimizer"].param_groups[0]["lr"] == 0
    done.finish(engine)
    longer = handler(tmp_path, steps=4)
    longer.restore(started_anew(engine))
    assert longer.parts["optimizer"].param_groups[0]["lr"] == pytest.approx((1 - 2 / 4) ** 2)


def test_a_run_that_has_all_its_epochs_says_so(tmp_path, engine, caplog):
    handler(tmp_path).finish(engine)
    again = handler(tmp_path)
    again.restore(started_anew(engine))
    again.start(engine)
    assert "nothing is trained" not in caplog.text
    again.start(started_anew(engine))  # as Ignite begins a run that is done
    assert (engine.state.epoch, engine.state.iteration) == (2, 6)
    assert "nothing is trained" in caplog.text


def test_the_digest_of_the_data_follows_contents_wherever_they_lie(tmp_path):
    def digest(root, content: str, label: int) -> str:
        root.mkdir(exist_ok=True)
        (root / "a.npy").write_text(content)
        (root / "b.npy").write_text("b")
        case = {
            "folder": "1",
            "label": label,
            "image": root / "a.npy",
            "more": (root / "b.npy", None),
            "text": "secret",
        }
        return data_digest([case], ["folder", "label"], ["image", "more"])

    first = digest(tmp_path / "here", "a", 1)
    assert digest(tmp_path / "there", "a", 1) == first
    assert len({first, digest(tmp_path / "here", "A", 1), digest(tmp_path / "here", "a", 0)}) == 3


def test_the_digest_of_the_data_is_of_what_the_files_hold(tmp_path):
    """Written again, safetensors holds its metadata in another order, and what it says of its origin may differ."""

    def digest(**metadata: str) -> str:
        write_tensors(tmp_path / "latent.safetensors", {"mu": torch.ones(2)}, metadata)
        return data_digest([{"latents": [tmp_path / "latent.safetensors"]}], [], ["latents"])

    assert digest(made_from="encode contents_1", note="first") == digest(note="again", made_from="encode contents_2")


def test_processes_share_out_the_reading_of_the_data(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.npy" for number in range(5)]
    for path in paths:
        path.write_text(path.name)
    cases = [{"file": path} for path in paths]
    alone = data_digest(cases, [], ["file"])
    parts, read = [], []
    monkeypatch.setattr("scripts.engine.resume.file_identity", lambda path: read.append(path) or file_identity(path))
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    for rank in (1, 0):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("ignite.distributed.all_gather", lambda own: parts.insert(0, own) or [own, own])
        with contextlib.suppress(ValueError):  # the other's part is missing yet
            data_digest(cases, [], ["file"])
    assert sorted(read) == sorted(map(str, paths))
    monkeypatch.setattr("ignite.distributed.all_gather", lambda own: parts)
    assert data_digest(cases, [], ["file"]) == alone


def test_damaged_data_is_told_on_every_process(tmp_path, monkeypatch):
    gathered = lambda own: [own, ([], ["2.npy cannot be read"])]  # noqa: E731
    monkeypatch.setattr("ignite.distributed.all_gather", gathered)
    with pytest.raises(UserError, match=r"1\.npy cannot be read.*\n2\.npy cannot be read"):
        data_digest([{"file": tmp_path / "1.npy"}], [], ["file"])


def test_a_checkpoint_whose_data_were_told_by_bytes_is_refused_with_what_to_do(tmp_path, engine):
    old, new = handler(tmp_path), handler(tmp_path)
    old.settings["cases_digest"] = "0123456789abcdef"
    new.settings["cases_digest"] = data_digest([], [], [])
    old.finish(engine)
    with pytest.raises(UserError, match=r"written by an earlier version.*Go on with that version.*--resume false"):
        new.restore(started_anew(engine))


def test_a_checkpoint_of_another_network_is_refused(tmp_path, engine):
    handler(tmp_path).finish(engine)
    with pytest.raises(UserError, match=r"checkpoint\.pt does not fit this training's network.*--resume false"):
        handler(tmp_path, features=3).restore(started_anew(engine))


def test_a_file_without_settings_is_refused(tmp_path, engine):
    torch.save({"network": {}, "epoch": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint\.pt cannot be read.*not of this training.*--resume false"):
        handler(tmp_path).restore(started_anew(engine))


def test_starting_anew_leaves_the_checkpoint_until_it_is_replaced(tmp_path, engine):
    handler(tmp_path).finish(engine)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    handler(tmp_path, resume=False).restore(started_anew(engine))
    assert engine.state.epoch == 0
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_an_epoch_that_was_broken_off_is_not_saved_as_done(tmp_path, engine):
    """A trainer that is told to terminate ends as one that is done."""
    handler(tmp_path).finish(engine)
    stopped = handler(tmp_path)
    stopped.restore(engine)
    engine.state.epoch, engine.state.iteration = 3, 8
    stopped.finish(engine)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 2
    assert stopped.saved_epoch == 2
