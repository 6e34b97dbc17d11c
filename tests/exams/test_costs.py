"""The formulas for memory are held to the counting of docs/memory.md, at its grid and at others."""

import pytest
import torch

from scripts.data.grid import GRIDS, Grid
from scripts.exams import costs
from scripts.showcase import memory
from scripts.showcase.counting import peak_bytes


@pytest.mark.parametrize("size", [(256, 256, 128), (192, 192, 96)])
def test_what_the_autoencoder_takes_is_as_it_is_counted(monkeypatch, size):
    monkeypatch.setattr(memory, "IMAGE", size)
    monkeypatch.setattr(memory, "LATENT", (4, *(n // 4 for n in size)))
    told = costs.memory(Grid(size, (0.5, 0.5, 0.5)), 8)
    for name, step in (("encode an image, whole", "encode, whole"), ("decode an image, whole", "decode, whole")):
        assert told[name] == pytest.approx(peak_bytes(memory.STEPS[step], torch.bfloat16) / 2**30, abs=0.12)


def test_what_training_takes_is_as_the_table_in_the_docs_counts_it(repo_root):
    rows = [line.split("|")[1:3] for line in (repo_root / "docs" / "memory.md").read_text().splitlines() if "|" in line]
    counted = {name.strip(): float(gib) for name, gib in rows if gib.strip().replace(".", "").isdigit()}
    grid = GRIDS["reference"]
    told = costs.memory(grid, 8)
    assert told["train the VAE, a patch of 128×128×64"] == pytest.approx(counted["VAE training, a patch of 128×128×64"])
    assert told[costs.TEXT_ENCODER] == counted["text encoder (T5-XXL), 8 reports of 512 tokens"]
    assert told["sample a volume with guidance"] == counted["U-Net, two answers: a guided volume"]
    for cases in (1, 2, 8):
        name = "LDM training, a pass of 1 case" if cases == 1 else f"LDM training, a pass of {cases}"
        assert costs.ldm_memory(grid, cases) == pytest.approx(counted[name], rel=0.02)
        name = f"LDM training, checkpointing, a pass of {cases}"
        assert costs.ldm_memory(grid, cases, checkpointing=True) == pytest.approx(counted[name], rel=0.02)
    for cases in (1, 2):
        name = f"LDM training, checkpointing, passes of {cases} (accumulate)"
        assert costs.ldm_memory(grid, cases, True, accumulate=True) == pytest.approx(counted[name], rel=0.02)


def test_a_smaller_card_trains_with_more_options_as_the_docs_say():
    options = [costs.ldm_options(GRIDS["reference"], 8, card) for card in (80, 24, 16, 8)]
    checkpointing = "--activation_checkpointing true"
    assert options == ["as it is", checkpointing, f"{checkpointing} --accumulate 8", ""]


def test_sizes_on_disk_are_those_of_what_is_written():
    grid = Grid((64, 64, 32), (1, 1, 1))
    assert costs.latent_bytes(grid, 3) == 3 * 2 * 4 * 16 * 16 * 8 * 4  # mean and deviation, 4 channels, float32
    assert costs.embedding_bytes(2) == 2 * 512 * 4096 * 2
