"""Public data sets, as their downloads lie on disk, into what `python -m scripts.prepare` takes (docs/public_data.md).

python -m scripts.public picai --images_dir picai/images --labels_dir picai_labels --output_dir data/picai
"""

from __future__ import annotations

from scripts.cli.run import run
from scripts.public.picai import picai
from scripts.public.prostatex import prostatex
from scripts.public.ucla import ucla

if __name__ == "__main__":
    run({"picai": picai, "prostatex": prostatex, "ucla": ucla})
