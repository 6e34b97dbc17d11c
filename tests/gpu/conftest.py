"""Tests of what a GPU computes: `make gpu` runs them. With `--device cpu` they check themselves, at small sizes."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import torch

import tiny
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import load_weights
from scripts.reports.encoder import ReportEncoder
from scripts.showcase.demo import EXAMPLES
from scripts.showcase.measure import tf32
from scripts.showcase.stages import DEMO_LDM, DEMO_T5, DEMO_VAE
from scripts.showcase.subjects import Size, demo_size
from scripts.vae.network import load_vae, maisi_vae

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes cuBLAS repeat itself; read when CUDA starts

SMALL = Size(latent=(4, 8, 8, 8), tokens=5, network=tiny.CCELLA, vae=tiny.VAE, steps=4, batch=2)


class Teller:
    """Prints what each test has found as a line of JSON, as soon as it is there."""

    def __init__(self, config) -> None:
        self.config = config

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self):
        """No dots, which would stand before the lines."""
        category, _, word = yield
        return category, "", word

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.passed:
            return
        told = {"title": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
        told |= dict(report.user_properties)
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            told["error"] = (crash.message if crash else str(report.longrepr))[:500]
        if report.skipped:
            told["reason"] = str(report.longrepr[-1])
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        terminal.ensure_newline()
        terminal.write_line(json.dumps(told))
        terminal.flush()


def pytest_configure(config):
    if config.getoption("--tell"):
        config.pluginmanager.register(Teller(config))


@pytest.fixture(scope="session")
def device(pytestconfig) -> torch.device:
    """Where the tests run."""
    chosen = torch.device(pytestconfig.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA card here; --device cpu checks the tests themselves")
    return chosen


@pytest.fixture(autouse=True)
def exact(device):
    """Float32 is float32."""
    with tf32(False):
        yield


@pytest.fixture
def small() -> Size:
    """Sizes of the smallest networks."""
    return SMALL


@pytest.fixture
def tiny_network(device) -> CCELLA:
    """The smallest denoiser, on the device; every weight is random, also those that start as zero."""
    torch.manual_seed(0)
    network = CCELLA(**tiny.CCELLA)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.to(device).eval()


@pytest.fixture(scope="session")
def demo(device) -> SimpleNamespace:
    """The shipped networks on the device, `cpu` the denoiser beside it; two reports embedded, the empty one last."""
    size = demo_size()

    def denoiser(where: torch.device | str) -> CCELLA:
        network = CCELLA(**size.network)
        load_weights(DEMO_LDM, network)
        return network.to(where).eval()

    reports = [example.report for example in EXAMPLES.values()][:2]
    return SimpleNamespace(
        size=size,
        network=denoiser(device),
        cpu=denoiser("cpu"),
        vae=load_vae(maisi_vae(**size.vae), DEMO_VAE, device),
        embeddings=[one.float() for one in ReportEncoder(DEMO_T5, device="cpu").encode([*reports, ""])],
    )
