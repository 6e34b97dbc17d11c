"""Synthetic 3D prostate MRI from radiology reports: the package that the bundles' configs point into."""

__version__ = "0.1.0"
