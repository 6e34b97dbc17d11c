"""Embeddings for generation: read from files or made with the text encoder, as the network was trained to read them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scripts.common.problems import Problems, UserError
from scripts.reports.coverage import tell_coverage
from scripts.reports.embeddings import check_width, digest_of, read_embedding, read_encoder_fingerprint
from scripts.reports.encoder import MAX_TOKENS, PADDED, ReportEncoder
from scripts.reports.shelf import Shelf

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Embedding:
    """A report's embedding (T, D): what reads it, when its volume is made, and a digest of its numbers.

    Those of ten thousand cases do not fit into memory.
    """

    read: Callable[[], Tensor]
    digest: str


class ReportReader:
    """Reads embeddings, or makes them with the text encoder, which is loaded when the first report needs it.

    The reference's takes 9 GiB of a GPU that network and VAE go to next: close the reader when all reports are read.

    Args:
        width: of the embeddings that the network reads.
        trained: stamp of the encoder whose embeddings the network was trained on; None where it is not told.
        authors: whether the weights are the authors', who attend to all 512 positions of a report.
        text_encoder: folder or cached name; None where all reports are embedded.
        padded: keep the padded positions; None is as in training.
        max_tokens, truncation_side: how long reports are cut, as for `ReportEncoder`.
        folder: on the disk that embeddings lie on which are made here and do not fit into memory, see `Shelf`.
        problems: where what is wrong with a report is noted.
    """

    def __init__(
        self,
        width: int,
        trained: str | None,
        authors: bool,
        *,
        text_encoder: str | os.PathLike[str] | None,
        padded: bool | None,
        max_tokens: int | None,
        truncation_side: str = "left",
        folder: str | os.PathLike[str],
        problems: Problems,
    ) -> None:
        self.width, self.trained = width, trained
        self.text_encoder, self.max_tokens, self.truncation_side = text_encoder, max_tokens, truncation_side
        self.problems = problems
        as_trained = authors or (trained or "").endswith(PADDED)
        self.padded = as_trained if padded is None else padded
        self.all_positions = authors and self.padded
        if authors and not self.padded:
            logger.warning(
                "padded_reports is false, but the authors' weights attend to all %d positions of a report: where the "
                "padded ones are not there, their network answers otherwise than it was trained to",
                MAX_TOKENS,
            )
        self.encoder: ReportEncoder | None = None
        self.shelf = Shelf(folder)
        self.known: dict[str | Path, Embedding | None] = {}

    def read(self, name: str, text: str | None, path: Path | None) -> Embedding | None:
        """The embedding of a report, or None after noting a problem; equal reports share one.

        Args:
            name: what a problem is noted under.
            text: the report, where there is no `path`; None is an absent one.
            path: the file of its embedding.

        Raises:
            UserError: there is no encoder for a text, or it or its options are not those of the training run.
        """
        key = path or text or ""
        if key not in self.known:
            self.known[key] = None
            made = self._encode(text or "") if path is None else None
            try:
                embedding = read_embedding(path) if made is None else made
                check_width(embedding.shape[-1], self.width, path or self.text_encoder)
                self._check_length(name, embedding)
                again = partial(read_embedding, path) if made is None else self.shelf.put(made)
                self.known[key] = Embedding(again, digest_of(embedding))
            except UserError as error:
                self.problems.add(name, str(error))
            if path is not None:
                self._check_stamp(name, read_encoder_fingerprint(path))
        return self.known[key]

    def close(self) -> None:
        """Let the text encoder go, and give its GPU memory back; embeddings that were read stay readable.

        What was lost of the reports that it read is told.
        """
        if self.encoder is not None:
            tell_coverage(self.encoder, [text for text in self.known if text and isinstance(text, str)])
            self.encoder = None
            torch.cuda.empty_cache()

    def _check_length(self, name: str, embedding: Tensor) -> None:
        """The authors' files do not say how reports were embedded, but the number of positions is known."""
        if self.all_positions and len(embedding) != MAX_TOKENS:
            what = f"its report was embedded at {len(embedding)} positions, the authors' weights need all {MAX_TOKENS}"
            todo = f"encode it with --padded and max_tokens {MAX_TOKENS}, or give --padded_reports false"
            self.problems.add(name, what, todo)

    def _check_stamp(self, name: str, stamp: str | None) -> None:
        if stamp is None or self.trained in (None, stamp):
            return
        what = f"its report was embedded by text encoder {stamp}"
        todo = "encode it with the text encoder, max_tokens and truncation_side"
        if stamp.removesuffix(PADDED) == self.trained.removesuffix(PADDED):
            what, todo = f"its report was embedded {_with_padding(stamp)}", f"encode it {_with_padding(self.trained)}"
        self.problems.add(name, what, f"{todo}, as for training")

    def _encode(self, text: str) -> Tensor:
        if self.text_encoder is None:
            raise UserError(
                "a report must be embedded, but text_encoder is not set; give the folder of the text encoder that the "
                "network was trained with (google/flan-t5-xxl for the reference)"
            )
        if self.encoder is None:
            # Before the encoder is loaded, which may be large.
            if self.trained and self.trained.endswith(PADDED) != self.padded:
                raise UserError(
                    f"the network was trained on reports that were embedded {_with_padding(self.trained)}; give "
                    f"--padded_reports {'false' if self.padded else 'true'}"
                )
            self.encoder = self._load()
        return self.encoder.encode([text], padded=self.padded)[0]

    def _load(self) -> ReportEncoder:
        encoder = ReportEncoder(self.text_encoder, self.max_tokens, self.truncation_side)
        stamp = encoder.stamp(self.padded)
        if self.trained not in (None, stamp):
            raise UserError(
                f"text_encoder {self.text_encoder} with max_tokens {encoder.max_tokens}, cut on the "
                f"{self.truncation_side}, is not the one that the network was trained with: its fingerprint is "
                f"{stamp}, not {self.trained}; give the encoder, the --truncation_side and the --max_tokens that "
                "encode_reports was given"
            )
        check_width(encoder.width, self.width, self.text_encoder)
        return encoder


def _with_padding(stamp: str) -> str:
    """How the reports of an encoder's stamp were embedded, in the words of encode_reports."""
    return "with --padded" if stamp.endswith(PADDED) else "without --padded"
