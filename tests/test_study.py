"""The study's page: every figure that the stages left stands there with its interval."""

from __future__ import annotations

import json

import pandas as pd

from scripts.study import SIZES, write_page


def write(path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_every_estimate_is_shown_with_its_interval_and_what_is_undefined_says_so(tmp_path):
    whole = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}
    single = {"value": 2.0, "low": None, "high": None, "n": 1}
    undefined = {"value": None, "low": None, "high": None, "n": 0}
    figures = {"fidelity": {"axt2": {"mae": whole}}, "lesions": {"originals": {"zone": undefined}}}
    write(tmp_path / "vae_evaluation" / "reconstruction.json", figures)
    write(
        tmp_path / "ldm_evaluation" / "metrics.json", {"distances": {"phantom": {"frechet": single}}, "adherence": {}}
    )
    write(tmp_path / "data" / "test.json", [])
    (tmp_path / "volumes").mkdir()
    (tmp_path / "arms").mkdir()
    pd.DataFrame({"arm": ["real"], "accuracy": ["0.9 (0.8 to 1.0)"]}).to_csv(tmp_path / "arms" / "arms.csv")

    write_page(tmp_path, SIZES["smoke"], {"phantom": 60.0})

    html = (tmp_path / "index.html").read_text()
    rows = [
        "<tr><td>axt2</td><td>0.5 (0.25 to 0.75)</td></tr>",
        "<tr><td>originals</td><td>undefined (n = 0)</td></tr>",
    ]
    rows += ["<tr><td>phantom</td><td>2</td></tr>", "0.9 (0.8 to 1.0)"]
    for row in rows:
        assert row in html
