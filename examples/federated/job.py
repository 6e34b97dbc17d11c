"""The federation as NVFlare runs it: FedAvg over the sites that answer, with or without a filter on what they send.

    python examples/federated/job.py --output_dir OUT --start model.safetensors --sites_dir SITES \
        --overlays demo,federated --rounds 4 --epochs 1
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from joblib import cpu_count
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.filters.svt_privacy import SVTPrivacy
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import TransferType
from nvflare.recipe.sim_env import SimEnv

from client import SITES
from persistor import SafetensorsPersistor
from scripts.cli.run import run
from scripts.common.problems import UserError

FOLDER = Path(__file__).resolve().parent
FILTERS = {
    "none": None,
    # Of each site's differences the tenth that is least stays at home, and none counts for more than gamma an example.
    "percentile": lambda: PercentilePrivacy(percentile=10, gamma=0.01),
    # Differential privacy of the differences by the sparse vector technique: a tenth of them, with noise.
    "svt": lambda: SVTPrivacy(fraction=0.1, epsilon=0.1, noise_var=0.1),
}


class Federation(FedAvgRecipe):
    """FedAvg that goes on without a site whose round has failed; it takes part again in the next."""

    def _get_controller_kwargs(self) -> dict[str, Any]:
        return {"ignore_result_error": True}


def federation(
    name: str, start: Path, kept: Path, overlays: Sequence[str], sites: int, rounds: int, epochs: int, privacy: str
) -> Federation:
    """The job.

    Args:
        start, kept: the server's weights, see `SafetensorsPersistor`.
        overlays: of the bundle, see `client.py`.
        sites: as many must be there at the beginning, and take part in every round while they are.
        epochs: of a round.
        privacy: one of FILTERS.
    """
    recipe = Federation(
        name=name,
        model_persistor=SafetensorsPersistor(str(start), str(kept)),
        min_clients=sites,
        num_rounds=rounds,
        train_script=str(FOLDER / "client.py"),
        train_args=f"--overlays {','.join(overlays)} --rounds {rounds} --epochs {epochs}",
        params_transfer_type=TransferType.DIFF,
        # A process for each round: one that is killed costs its site that round and no other, and what a bundle prints
        # does not reach NVFlare's logs.
        launch_external_process=True,
        launch_once=False,
        command=f"{sys.executable} -u",
    )
    if (make := FILTERS[privacy]) is not None:
        recipe.add_client_output_filter(make(), tasks=["train"])
    return recipe


def simulate(
    output_dir: str, start: str, overlays: list[str], sites_dir: str, rounds: int, epochs: int, privacy: str = "none"
) -> None:
    """Run the federation in NVFlare's simulator, each site in processes of its own.

    Args:
        output_dir: gets `model.safetensors`, and `nvflare/` with what server and sites have written.
        start: weights that the federation starts from.
        overlays: names of the bundle's configs, listed after train.yaml.
        sites_dir: a file `<site>.yaml` for each site, see `client.py`.
        rounds, epochs: how often weights are exchanged, and how long each site trains in between.
        privacy: none, percentile or svt.

    Raises:
        UserError: no site, no such filter, or a round without an answer.
    """
    folder, here = Path(output_dir).resolve(), Path(sites_dir).resolve()
    names = sorted(file.stem for file in here.glob("*.yaml"))
    if not names or privacy not in FILTERS:
        raise UserError(f"{here} holds {len(names)} files of sites (*.yaml), privacy is {privacy!r}; give one of each")
    os.environ[SITES] = str(here)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // len(names))))  # they share a machine
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "model.safetensors"
    job = federation("federation", Path(start).resolve(), kept, overlays, len(names), rounds, epochs, privacy)
    try:
        job.execute(SimEnv(clients=names, num_threads=len(names), workspace_root=str(folder / "nvflare")))
    except RuntimeError:
        raise UserError(
            f"the federation has ended before its last round: there was one in which no site sent weights, and "
            f"{here}/<site>.log says why, or else NVFlare's logs in {folder / 'nvflare'}"
        ) from None


if __name__ == "__main__":
    run(simulate)
