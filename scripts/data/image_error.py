"""What makes an image useless, told in words by whoever reads it; the caller knows the case."""

from __future__ import annotations

DAMAGED = "copy or export it again"


class ImageError(ValueError):
    """An image that cannot be used, with what is wrong and what to do about it."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(f"{what}; {todo}")
        self.what = what
        self.todo = todo
