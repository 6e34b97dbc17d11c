"""The example of docs/wording.md runs as it stands."""

from __future__ import annotations

import re


def test_the_example_writes_a_report(repo_root, capsys):
    (example,) = re.findall(
        r"```python\n(.*?)```", (repo_root / "docs/wording.md").read_text(encoding="utf-8"), re.DOTALL
    )
    exec(example, {})
    assert "Exam(lesions=(Lesion(place=Place(zone='PZ', side='left'" in capsys.readouterr().out
