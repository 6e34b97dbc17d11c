"""One round at a site: a bundle is trained from the server's weights on, and what it has become goes back.

NVFlare runs this at every site, anew in every round. Where a site's data lie, the server is not told: the site's own
file says it, `<FEDERATED_SITES>/<name of the site>.yaml`, with values of the bundle's train.yaml (docs/federated.md).
What training and errors have to tell stands beside it, in `<name>.log`; NVFlare's own logs can be sent to the server.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigWorkflow, create_workflow
from torch import Tensor

from scripts.common.problems import UserError

SITES = "FEDERATED_SITES"  # of the environment: the folder of this site's file


def workflow_of(overlays: Sequence[str], values: Mapping[str, Any]) -> ConfigWorkflow:
    """The bundle's training at this site.

    Args:
        overlays: names of configs that are listed after train.yaml, such as `demo`.
        values: of the config, `bundle_root` among them.
    """
    configs = Path(values["bundle_root"]) / "configs"
    files = [str(configs / f"{name}.yaml") for name in ("train", *overlays)]
    return create_workflow(config_file=files, workflow_type="train", logging_file=False, **values)


def train_round(workflow: ConfigWorkflow, weights: Mapping[str, Tensor], epochs: int) -> tuple[dict[str, Tensor], int]:
    """Train from these weights on; give what has become of them, and the number of examples that were learnt from.

    What comes back is what the bundle validates: the moving average where it keeps one. Loading begins that anew, so
    it holds this round alone. Optimizer, learning rate and the count of epochs go on with the site's own checkpoint.

    Raises:
        UserError: the weights are of another network, or are no numbers any more.
    """
    trainer, network = workflow.trainer, workflow.evaluator.network
    own = trainer.network.state_dict()
    if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
        raise UserError("the server's weights are of another network: take its overlays and its version of the code")
    trainer.network.load_state_dict(weights)
    trainer.state.max_epochs = trainer.state.epoch + epochs
    trainer.run()
    trained = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    if not all(torch.isfinite(tensor).all() for tensor in trained.values()):
        raise UserError("training has ended with weights that are no numbers; none are sent")
    return trained, epochs * len(trainer.data_loader.dataset)


def write_to(log: Path) -> None:
    """Let all that this process prints from here on be in that file, and nowhere else."""
    with log.open("a", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer one request of the server.

    After an error the process ends with status 1, and the server learns that it has: a text may hold names of folders.

    Raises:
        SystemExit: this site has no file of its own.
    """
    from nvflare import client as flare
    from nvflare.apis.dxo import MetaKey

    parser = argparse.ArgumentParser()
    parser.add_argument("--overlays", required=True, help="names of the bundle's configs, with commas between them")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True, help="of a round")
    options = parser.parse_args(arguments)
    flare.init()
    received = flare.receive()
    file = Path(os.environ.get(SITES, "")) / f"{flare.get_site_name()}.yaml"
    if not file.is_file():
        raise SystemExit(f"this site's own file is missing: {SITES} must name the folder of <name of the site>.yaml")
    write_to(file.with_suffix(".log"))
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) | {"epochs": options.rounds * options.epochs}
        values["resume"] = received.current_round > 0  # what lies there in the first round is of another federation
        workflow = workflow_of(options.overlays.split(","), values)
        trained, examples = train_round(workflow, received.params, options.epochs)
    except Exception:
        sys.excepthook(*sys.exc_info())  # a bundle's own tells a UserError in words
        logging.shutdown()
        sys.stderr.flush()
        os._exit(1)  # NVFlare's threads would keep the process, and the round, for half a minute
    flare.send(flare.FLModel(params=trained, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: examples}))


if __name__ == "__main__":
    main()
