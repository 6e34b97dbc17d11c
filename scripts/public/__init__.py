"""Public prostate MRI as their downloads lie on disk, into structured findings, reports of them, and tables."""
