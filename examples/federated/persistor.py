"""The server's weights: read from the file that the federation starts from, written again after every round."""

from __future__ import annotations

import torch
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from safetensors import safe_open
from safetensors.torch import load_file

from scripts.common.tensors import write_tensors


class SafetensorsPersistor(ModelPersistor):
    """Keeps a bundle's `model.safetensors`, whose header stays as it is: what inference reads in it, all sites share.

    Args:
        start: weights of the network, with that header.
        kept: gets those of each round, in the place of the last's.
    """

    def __init__(self, start: str, kept: str) -> None:
        super().__init__()
        self.start, self.kept = start, kept

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """What the first round begins with, in single precision, in which differences are summed up."""
        weights = {name: tensor.float().numpy() for name, tensor in load_file(self.start).items()}
        return make_model_learnable(weights, {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        """Write the weights of a round.

        Raises:
            ValueError: not all are there, as where no site has sent any.
        """
        weights = model[ModelLearnableKey.WEIGHTS]
        with safe_open(self.start, framework="pt") as file:
            header, names = file.metadata(), set(file.keys())
        if weights.keys() != names:
            raise ValueError("no site has sent weights of this network: see the logs at the sites")
        write_tensors(self.kept, {name: torch.as_tensor(weights[name]) for name in names}, header)
