"""Problems are told together, and one table takes over the rows of another."""

from __future__ import annotations

import pickle

import pytest

from scripts.common.problems import Problems, UserError


def test_the_rows_of_one_table_go_into_another_also_from_another_process():
    inner = Problems("images")
    inner.add("case_17", "axt2 is missing", "copy it")
    with pytest.raises(UserError) as caught:
        inner.raise_if_any()
    outer = Problems("all")
    outer.add_error("ignored", pickle.loads(pickle.dumps(caught.value)))
    outer.add_error("case_2", UserError("is of another VAE"))
    assert str(outer).splitlines() == [
        "all: 2 problems", "  case_17  axt2 is missing -> copy it", "  case_2   is of another VAE",
    ]  # fmt: skip


def test_nothing_noted_is_no_error():
    problems = Problems("all")
    assert not problems
    problems.raise_if_any()
