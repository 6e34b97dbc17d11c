"""Structured findings of a prostate MRI into the text of a report, as widely worded as radiologists write."""
