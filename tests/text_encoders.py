"""Tiny text encoders of every kind, of random weights, saved as transformers saves them, with their tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    ByT5Tokenizer,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    MT5Config,
    MT5EncoderModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)

WIDTH = 16
CORPUS = [
    "left base PZ lesion , 12 mm , PI-RADS 4 . No restricted diffusion in the right apex . Prostate volume 40 ml ."
]
LAYERS = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
T5_LAYERS = {"d_model": WIDTH, "d_kv": 8, "num_heads": 2, "num_layers": 2, "d_ff": 24}


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def wordpiece(**settings) -> PreTrainedTokenizerFast:
    """BERT's: [CLS] in front, [SEP] behind."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=marks))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), marks, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings)


def unigram(**settings) -> PreTrainedTokenizerFast:
    """XLM-R's: <s> in front, </s> behind, <pad> is number 1."""
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=marks, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), marks, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings)


def t5_unigram(**settings) -> PreTrainedTokenizerFast:
    """T5's: </s> behind, <pad> is number 0."""
    marks = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=marks, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = dict(zip(("pad_token", "eos_token", "unk_token"), marks, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings)


def byte_level(**settings) -> PreTrainedTokenizerFast:
    """GPT-2's: no marks around a text, no padding token, and what is "unknown" is the end of a text."""
    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, special_tokens=[end], initial_alphabet=alphabet)
    )
    names = {"bos_token": end, "eos_token": end, "unk_token": end}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names | settings)


def byte_fallback(**settings) -> PreTrainedTokenizerFast:
    """Llama's: <s> in front, no padding token; what no piece spells is spelt by its bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [sign for sign in sorted(set("".join(CORPUS))) if sign != " "]
    tokenizer = Tokenizer(
        models.BPE({piece: at for at, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings)


# ---- models ----------------------------------------------------------------------------------------------------------


def bert(tokens: int) -> PreTrainedModel:
    """As RadBERT comes: made to fill in words, without a pooler."""
    return BertForMaskedLM(BertConfig(vocab_size=tokens, max_position_embeddings=64, **LAYERS))


def roberta(tokens: int) -> PreTrainedModel:
    return RobertaForMaskedLM(RobertaConfig(vocab_size=tokens, max_position_embeddings=66, pad_token_id=1, **LAYERS))


def e5(tokens: int) -> PreTrainedModel:
    return XLMRobertaModel(XLMRobertaConfig(vocab_size=tokens, max_position_embeddings=66, pad_token_id=1, **LAYERS))


def modernbert(tokens: int) -> PreTrainedModel:
    """With windows so small that padding lies out of reach of every word."""
    marks = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    windows = {"local_attention": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return ModernBertForMaskedLM(
        ModernBertConfig(vocab_size=tokens, max_position_embeddings=64, **marks, **windows, **LAYERS)
    )


def deberta(tokens: int) -> PreTrainedModel:
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    return DebertaV2Model(DebertaV2Config(vocab_size=tokens, max_position_embeddings=64, **relative, **LAYERS))


def distilbert(tokens: int) -> PreTrainedModel:
    """Its config has other names for everything."""
    return DistilBertModel(
        DistilBertConfig(vocab_size=tokens, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=64)
    )


def gpt2(tokens: int) -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=tokens, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64))


def llama(tokens: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(vocab_size=tokens, max_position_embeddings=64, **LAYERS))


def qwen(tokens: int) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=tokens, max_position_embeddings=64, num_key_value_heads=1, **LAYERS))


def t5(tokens: int) -> PreTrainedModel:
    """With its decoder, as Flan-T5 comes."""
    return T5ForConditionalGeneration(T5Config(vocab_size=tokens, feed_forward_proj="gated-gelu", **T5_LAYERS))


def mt5(tokens: int) -> PreTrainedModel:
    return MT5EncoderModel(MT5Config(vocab_size=tokens, **T5_LAYERS))


def t5gemma(tokens: int) -> PreTrainedModel:
    half = {"vocab_size": tokens, "head_dim": 8, "num_key_value_heads": 1, "max_position_embeddings": 64, **LAYERS}
    return T5GemmaForConditionalGeneration(T5GemmaConfig(encoder=half, decoder=half, vocab_size=tokens))


def bart(tokens: int) -> PreTrainedModel:
    sizes = {f"{half}_{name}": 2 for half in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "d_model": WIDTH}
    return BartModel(BartConfig(vocab_size=tokens, max_position_embeddings=64, pad_token_id=1, **sizes))


KINDS: dict[str, tuple[Callable[..., PreTrainedTokenizerBase], Callable[[int], PreTrainedModel]]] = {
    "bert": (wordpiece, bert),
    "roberta": (unigram, roberta),
    "e5": (unigram, e5),
    "modernbert": (wordpiece, modernbert),
    "deberta": (wordpiece, deberta),
    "distilbert": (wordpiece, distilbert),
    "gpt2": (byte_level, gpt2),
    "llama": (byte_fallback, llama),
    "qwen": (byte_level, qwen),
    "t5": (t5_unigram, t5),
    "mt5": (t5_unigram, mt5),
    "byt5": (ByT5Tokenizer, t5),  # it has no fast tokenizer
    "t5gemma": (unigram, t5gemma),
    "bart": (unigram, bart),
}


def make_text_encoder(folder: Path, kind: str, seed: int = 0, **settings) -> Path:
    """Save a model of one of KINDS; `settings` are its tokenizer's."""
    tokenizer, model = KINDS[kind]
    tokenizer = tokenizer(**settings)
    torch.manual_seed(seed)
    model(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
