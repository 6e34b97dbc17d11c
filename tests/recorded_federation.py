"""A federation of the tiny classifier in NVFlare's simulator, whose server keeps a copy of all that it receives.

python tests/recorded_federation.py OUT START SITES
"""

from __future__ import annotations

import os
import pickle
import sys
import uuid
from pathlib import Path

from nvflare.apis.filter import Filter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable


class Recorder(Filter):
    """Writes every result as it comes to the server."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Let it through."""
        path = Path(self.folder) / f"{uuid.uuid4().hex}.pickle"
        path.write_bytes(pickle.dumps(dict(shareable)))
        return shareable


if __name__ == "__main__":
    from nvflare.recipe.sim_env import SimEnv

    import recorded_federation
    from client import SITES
    from job import federation

    out, start, sites = map(Path, sys.argv[1:])
    os.environ[SITES] = str(sites)
    names = sorted(file.stem for file in sites.glob("*.yaml"))
    (out / "received").mkdir(parents=True)
    recipe = federation("federation", start, out / "model.safetensors", ["demo", "federated"], len(names), 2, 1, "none")
    recipe.add_server_input_filter(recorded_federation.Recorder(str(out / "received")), tasks=["train"])
    recipe.execute(SimEnv(clients=names, num_threads=len(names), workspace_root=str(out / "nvflare")))
