"""MONAI Deploy: the generator on reports in text files.

python examples/deploy/generate.py -i REPORTS_FOLDER -m PACKAGES/ccella_ldm -o OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from monai.deploy.core import Application

from operators import GeneratorOperator


class GenerateApp(Application):
    """Reports -> volumes."""

    def compose(self) -> None:
        """One operator."""
        context = Application.init_app_context(sys.argv)
        folders = {"input_dir": Path(context.input_path), "output_dir": Path(context.output_path)}
        self.add_operator(GeneratorOperator(self, package=Path(context.model_path), name="generator", **folders))


if __name__ == "__main__":
    GenerateApp().run()
