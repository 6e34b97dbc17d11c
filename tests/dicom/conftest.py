"""Without the extra [readers] there is no DICOM to test."""

from monai.utils import optional_import

collect_ignore_glob = [] if optional_import("pydicom")[1] and optional_import("dcm2niix")[1] else ["test_*.py"]
