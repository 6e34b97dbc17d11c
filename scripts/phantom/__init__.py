"""Phantom patients: seeded pelvic exams with reports and ground truth, and an analyser that judges volumes."""
