"""The operators: the classifier on an image of a DICOM series, the generator on report files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import ExecutionContext, Fragment, Image, InputContext, Operator, OperatorSpec, OutputContext

from serving import affine_of, classify, generate


class ClassifierOperator(Operator):
    """Writes `probability.json` about the image that it receives.

    Args:
        package: folder of the classifier's package.
        output_dir: gets the file.
    """

    def __init__(self, fragment: Fragment, *args: Any, package: Path, output_dir: Path, **kwargs: Any) -> None:
        self.package, self.output_dir = Path(package), Path(output_dir)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input, an image."""
        spec.input("image")

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """The SDK's images are (Z, Y, X) with their way to RAS beside them."""
        image: Image = op_input.receive("image")
        about = image.metadata()
        probability = classify(self.package, np.transpose(image.asnumpy(), (2, 1, 0)), affine_of(about))
        meta = json.loads((self.package / "configs" / "metadata.json").read_text(encoding="utf-8"))
        told = {
            "probability": probability,
            "model": f"{meta['name']} {meta['version']}",
            "series": about["SeriesInstanceUID"],
            "intended_use": meta["intended_use"],
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "probability.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


class GeneratorOperator(Operator):
    """Makes a volume of every `*.txt` in a folder, once.

    Args:
        package: folder of the generator's package.
        input_dir: holds the reports.
        output_dir: gets a folder for each.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, package: Path, input_dir: Path, output_dir: Path, **kwargs: Any
    ) -> None:
        self.package, self.input_dir, self.output_dir = Path(package), Path(input_dir), Path(output_dir)
        super().__init__(fragment, CountCondition(fragment, 1), *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """No inputs: reports are files."""

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """One report after the other."""
        reports = sorted(self.input_dir.glob("*.txt"))
        if not reports:
            raise ValueError(f"{self.input_dir} holds no report (*.txt)")
        for report in reports:
            generate(self.package, report, self.output_dir)
