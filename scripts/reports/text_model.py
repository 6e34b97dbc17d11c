"""A language model and its tokenizer from disk, of any kind that turns tokens into states.

Read from a folder, or from the cache that `hf download` fills: nothing is fetched, and no code that a folder brings
along is run. Weights are safetensors, or PyTorch's files read with `weights_only`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping

import torch
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from scripts.common.problems import UserError

LOCAL = {"local_files_only": True, "trust_remote_code": False}
# Pools the states into one, which nothing here reads; files of language models that fill in words do not have it.
POOLER = "pooler"
UNLIMITED = 10**6  # tokenizers that state no limit state 1e30
HELP = (
    "Give a folder that holds config.json, *.safetensors and the tokenizer's files (tokenizer.json). The reference is "
    "google/flan-t5-xxl (Apache-2.0, about 45 GB): on a machine with internet run `hf download google/flan-t5-xxl "
    "--include '*.json' '*.safetensors' '*.model' --local-dir models/flan-t5-xxl`, then give that folder. For the "
    "phantom, bundles/ccella_ldm/models/demo_t5 is enough."
)


def load_text_model(
    path_or_name: str | os.PathLike[str], dtype: torch.dtype, truncation_side: str
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The tokenizer and the model, on the CPU in `dtype`; of an encoder with a decoder, the encoder alone.

    Heads (of classes, of words) are left out. The tokenizer cuts on `truncation_side`, whatever its own settings say:
    most say "right" because nobody chose.

    Raises:
        UserError: there is no such folder, it holds something else, or a part of it is missing or broken.
    """
    name = str(path_or_name)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it lists the heads that are left out; what matters is raised here
    try:
        config = AutoConfig.from_pretrained(name, **LOCAL)
        kind = _kind(config)
        tokenizer = AutoTokenizer.from_pretrained(name, truncation_side=truncation_side, padding_side="right", **LOCAL)
        safely = {"local_files_only": True, "weights_only": True}
        told = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # both are checked here, in words
        model, found = kind.from_pretrained(name, config=config, dtype=dtype, **safely, **told)
        _check_complete(found, kind)
        if config.is_encoder_decoder:
            model = model.get_encoder()
        _check_vocabulary(tokenizer, model)
    except UserError as error:
        raise UserError(f"{name!r} holds no text encoder: {error}. {HELP}") from None
    except Exception as error:  # transformers and tokenizers raise what they meet, down to a bare Exception
        reason = str(error).strip().split("\n")[0].rstrip(".:")
        if "trust_remote_code" in str(error):
            reason = "it needs code that it brings along, which is not run"
        what = f"no text encoder could be loaded from {name!r} ({type(error).__name__}: {reason}). {HELP}"
        raise UserError(what) from None
    return tokenizer, model.eval()


def _kind(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that gives the states of all tokens: its encoder's alone where transformers has such a class (T5).

    Raises:
        UserError: a model of this config does not read tokens.
    """
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        config.is_encoder_decoder = False
        kind = MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)]
    elif type(config) in MODEL_MAPPING:
        kind = MODEL_MAPPING[type(config)]
    else:
        raise UserError(f"transformers has no model without a head for its kind, {config.model_type}")
    kind = kind[0] if isinstance(kind, (tuple, list)) else kind
    if kind.main_input_name != "input_ids":
        raise UserError(f"{kind.__name__} reads {kind.main_input_name}, not the tokens of a text")
    text = config.get_text_config()
    if getattr(text, "use_cache", False):
        text.use_cache = False  # keys and values of a text that nobody goes on writing
    return kind


def _check_complete(found: Mapping[str, Collection], kind: type[PreTrainedModel]) -> None:
    """What a file lacks or has in another size, transformers draws at random.

    Raises:
        UserError: that is more than the pooler.
    """
    missing = [key for key in found["missing_keys"] if POOLER not in key.split(".")]
    if missing:
        raise UserError(f"its files lack {len(missing)} weights of a {kind.__name__}, such as {min(missing)}")
    other = [key for key, *_ in found["mismatched_keys"] if POOLER not in key.split(".")]
    if other:
        raise UserError(f"{len(other)} of its weights have other sizes than config.json says, such as {min(other)}")


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Without its files a tokenizer may come empty, and another model's gives tokens that the table does not have.

    Raises:
        UserError: the tokenizer is empty or does not belong to the model.
    """
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary.keys() - set(tokenizer.all_special_tokens)) < 2:  # T5's has one then, for the space
        raise UserError("its tokenizer knows no word; the tokenizer's files are missing")
    try:
        rows = model.get_input_embeddings().weight.shape[0]
    except NotImplementedError:
        raise UserError(f"{type(model).__name__} has no table of tokens, or several") from None
    last = max(vocabulary.values())
    if last >= rows:
        raise UserError(
            f"its tokenizer has tokens up to number {last}, but the model knows {rows}; they do not belong together"
        )


def position_limit(model: PreTrainedModel) -> int | None:
    """The most tokens that the model has positions for; None where positions are relative and have no end (T5)."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or limit < 1:  # XLNet says -1
        return None
    for name, module in model.named_modules():
        # RoBERTa and its kin count from behind the place of the padding: of 514 positions 512 are left.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return limit - module.padding_idx - 1
    return limit


def stated_limit(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int | None:
    """The number of tokens that tokenizer and config say the model is for; None where neither says any."""
    limits = [limit for limit in (position_limit(model), tokenizer.model_max_length) if limit is not None]
    return min((int(limit) for limit in limits if limit < UNLIMITED), default=None)


def fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int, truncation_side: str
) -> str:
    """Hash over names, shapes and the beginning of every weight, the vocabulary, the length limit and what is cut."""
    side = "" if truncation_side == "left" else truncation_side
    digest = hashlib.sha256(f"{max_tokens}{side}{sorted(tokenizer.get_vocab().items())}".encode())
    for name, weight in sorted(model.state_dict().items()):
        if POOLER in name.split("."):  # where the file has none, it is drawn at random
            continue
        # Rounded to bfloat16, so that an encoder run in either precision is the same one.
        start = weight.flatten()[:4096].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + start.numpy().tobytes())
    return digest.hexdigest()[:16]
