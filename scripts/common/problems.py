"""Errors for users: every problem is collected first and told at once, with the case it concerns and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


class UserError(ValueError):
    """A mistake in the input or the options, told in words that a user can act on; never holds report text.

    `rows` are those of the table of problems, where it is one, so that another table can take them over.
    """

    def __init__(self, message: str, rows: Sequence[tuple[str, str, str]] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)


DAMAGED, FROM_DICOM = "copy or export it again", "convert it from DICOM again"  # what to do about an image


class ImageError(ValueError):
    """An image that cannot be used, with what is wrong and what to do about it; the caller knows the case."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(f"{what}; {todo}")
        self.what = what
        self.todo = todo


@dataclass
class Problems:
    """Collects what is wrong, case by case, so that one run tells everything.

    >>> problems = Problems("train.json")
    >>> problems.add("case_17", "axt2.nii.gz is missing", "copy it into the folder")
    >>> problems.raise_if_any()  # doctest: +SKIP
    """

    title: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, case: str, what: str, todo: str = "") -> None:
        """Note one problem: the case or file, what is wrong, and what the user can do about it."""
        self.rows.append((str(case), what, todo))

    def add_error(self, case: str, error: UserError) -> None:
        """Note what another check raised: all rows of its table, or its words as one problem of `case`."""
        self.rows += error.rows or [(case, str(error), "")]

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __str__(self) -> str:
        count = f"{len(self.rows)} problem" + ("s" if len(self.rows) != 1 else "")
        width = max((len(case) for case, _, _ in self.rows), default=0)
        lines = [f"  {case:<{width}}  {what}" + (f" -> {todo}" if todo else "") for case, what, todo in self.rows]
        return "\n".join([f"{self.title}: {count}", *lines])

    def raise_if_any(self) -> None:
        """Raise everything that was noted.

        Raises:
            UserError: at least one problem was noted.
        """
        if self.rows:
            raise UserError(str(self), self.rows)


@contextmanager
def collected(problems: Problems | None, title: str) -> Iterator[Problems]:
    """Notes into the caller's problems, or into new ones that are raised at the end.

    Raises:
        UserError: problems were noted, when `problems` is not given.
    """
    own = Problems(title) if problems is None else problems
    yield own
    if problems is None:
        own.raise_if_any()
