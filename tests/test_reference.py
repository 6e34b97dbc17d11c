"""Parity with the authors' implementation, on small networks whose weights, inputs and outputs are on file."""

import pytest
import torch

from reference_cases import FILES, MISSING, TOLERANCE, answers


@pytest.mark.skipif(not FILES, reason=MISSING)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_the_authors(path):
    for name, (ours, expected) in answers(path, torch.device("cpu")).items():
        torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
