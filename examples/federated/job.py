"""The federation as NVFlare runs it: FedAvg over the sites that answer, with or without a filter on what they send."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.filters.svt_privacy import SVTPrivacy
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import TransferType

from persistor import SafetensorsPersistor

FOLDER = Path(__file__).resolve().parent
FILTERS = {
    "none": None,
    # Of each site's differences the tenth that is least stays at home, and no weight moves by more than gamma a step.
    "percentile": lambda: PercentilePrivacy(percentile=10, gamma=0.01),
    # Differential privacy of the differences by the sparse vector technique: a tenth of them, with noise.
    "svt": lambda: SVTPrivacy(fraction=0.1, epsilon=0.1, noise_var=0.1),
}


class Federation(FedAvgRecipe):
    """FedAvg that goes on without a site whose round has failed; it takes part again in the next."""

    def _get_controller_kwargs(self) -> dict[str, Any]:
        return {"ignore_result_error": True}


def federation(
    name: str, start: Path, kept: Path, overlays: tuple[str, ...], sites: int, rounds: int, epochs: int, privacy: str
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
