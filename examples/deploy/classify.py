"""MONAI Deploy: the classifier on the T2w series of a DICOM study.

python examples/deploy/classify.py -i DICOM_FOLDER -m PACKAGES/classifier -o OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from monai.deploy.operators import DICOMDataLoaderOperator, DICOMSeriesSelectorOperator, DICOMSeriesToVolumeOperator

from operators import ClassifierOperator

# Of the series whose description names it the one of most images.
RULES = """{"selections": [{"name": "T2w", "conditions": {"Modality": "(?i)MR", "SeriesDescription": "(?i)t2"}}]}"""


class ClassifyApp(Application):
    """DICOM folder -> series -> volume -> probability.json."""

    def compose(self) -> None:
        """Join the operators."""
        context = Application.init_app_context(sys.argv)
        files = DICOMDataLoaderOperator(
            self, CountCondition(self, 1), input_folder=Path(context.input_path), name="files"
        )
        series = DICOMSeriesSelectorOperator(self, rules=RULES, sort_by_sop_instance_count=True, name="series")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        package, out = Path(context.model_path), Path(context.output_path)
        classifier = ClassifierOperator(self, package=package, output_dir=out, name="classifier")
        self.add_flow(files, series, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(series, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, classifier, {("image", "image")})


if __name__ == "__main__":
    ClassifyApp().run()
