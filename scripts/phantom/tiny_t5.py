"""A tiny T5 encoder with its tokenizer, made from phantom reports: what the demo uses in the place of Flan-T5-XXL.

    python -m scripts.phantom.tiny_t5 --output_dir bundles/ccella_ldm/models/demo_t5

A large language model understands a radiology report before it sees one of ours; a tiny one must be taught. It is
trained, from fresh phantom reports, to fill in masked words and to tell the findings (a lesion's diameter in each of
the twelve sectors, which zones, sides and levels have one, the PI-RADS category, the gland volume) from every single
token. It begins with the shortest reports: from all lengths at once it learns nothing for a thousand steps. The seeds
of those phantom patients lie far from those that the datasets use.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.common.problems import Problems
from scripts.phantom.anatomy import LEVELS, SIDES, ZONES, Findings, sample_anatomy
from scripts.phantom.wording import exam_of
from scripts.wording.documents import write_report
from scripts.wording.findings import Exam
from scripts.wording.writer import Style

logger = logging.getLogger(__name__)

FIRST_SEED = 1_000_000_000  # of the phantom patients whose reports are the training text
SECTORS = [(zone, side, level) for zone in ZONES for side in SIDES for level in LEVELS]
PLACES = (*ZONES, *SIDES, *LEVELS)
CATEGORY = slice(len(SECTORS) + len(PLACES), -1)  # of the findings' vector
SHORTEST = 0.1  # share of the reports, by length, that is read first
ALL_FROM = 0.4  # share of the steps by which all are
FARTHEST = 8.0  # by which a head begins to overlook what lies far away; e^-8 is next to nothing
MAX_TOKENS = 512
HEAD = 16  # width of an attention head
SPECIAL = ("<pad>", "</s>", "<unk>", "<mask>")
WIDTH, LAYERS, RATE, TOKENS = 128, 3, 1e-3, 2048
CHARACTERS = ("▁", *(chr(code) for code in range(33, 127) if not chr(code).isupper()))


def make(
    output_dir: str,
    seed: int = 0,
    reports: int = 80_000,
    steps: int = 7_000,
    width: int = WIDTH,
    layers: int = LAYERS,
    lr: float = RATE,
    tokens: int = TOKENS,
    vocabulary: int = 2_000,
) -> None:
    """Build tokenizer and encoder and save them in the Hugging Face format, `config.json` last.

    Args:
        output_dir: where `AutoTokenizer.from_pretrained` and `T5EncoderModel.from_pretrained` shall find them.
        seed: of the reports, the initial weights and the order of training.
        reports: how many phantom reports are written for training.
        steps: optimizer steps.
        width: hidden size of the encoder, a multiple of 16, the width of an attention head.
        layers: of the encoder.
        lr: highest learning rate.
        tokens: of a step, at most.
        vocabulary: size of the tokenizer's vocabulary, upper bound.

    Raises:
        UserError: a number is out of range.
    """
    counts = {"reports": reports, "steps": steps, "layers": layers, "lr": lr, "tokens": tokens}
    _check(seed, counts, width, vocabulary)
    texts, targets = training_reports(reports, seed)
    tokenizer = make_tokenizer(texts, vocabulary)
    encoder = train_encoder(
        tokenizer, texts, targets, steps=steps, seed=seed, width=width, layers=layers, lr=lr, tokens=tokens
    )
    size = save(tokenizer, encoder, Path(output_dir))
    logger.info("%s: vocabulary %d, width %d, %.2f MB", output_dir, len(tokenizer), width, size / 1e6)


def _check(seed: int, counts: Mapping[str, float], width: int, vocabulary: int) -> None:
    problems = Problems("tiny_t5")
    if seed < 0:
        problems.add("--seed", f"is {seed}", "give 0 or more")
    for name, value in counts.items():
        if value <= 0:
            problems.add(f"--{name}", f"is {value}", "give more than 0")
    if width < HEAD or width % HEAD:
        problems.add("--width", f"is {width}", f"give a multiple of {HEAD}, the width of an attention head")
    if vocabulary <= len(SPECIAL) + len(CHARACTERS):
        problems.add("--vocabulary", f"is {vocabulary}", f"give more than {len(SPECIAL) + len(CHARACTERS)}")
    problems.raise_if_any()


def save(tokenizer: PreTrainedTokenizerFast, encoder: T5EncoderModel, folder: Path) -> int:
    """Write both, file by file complete or not at all; a folder without `config.json` holds no encoder. Give the bytes.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        encoder.save_pretrained(temporary)
        files = sorted(Path(temporary).iterdir(), key=lambda file: file.name == "config.json")
        (folder / "config.json").unlink(missing_ok=True)
        for file in files:
            with atomic(folder / file.name) as part:
                shutil.copyfile(file, part)
        return sum(file.stat().st_size for file in files)


def training_reports(count: int, seed: int) -> tuple[list[str], Tensor]:
    """Reports and what they say.

    Returns:
        `count` texts, none missing, and their targets (count, 25) as of `findings_vector`; NaN for what a report
        leaves unsaid.
    """
    texts, targets = [], []
    patient = FIRST_SEED + seed * 10_000_000
    while len(texts) < count:
        anatomy, rng = sample_anatomy(patient), np.random.default_rng([patient, 1])
        if not anatomy.findings.report_is_missing:
            report = write_report(exam_of(anatomy), Style(), rng)
            texts.append(report.text)
            targets.append(_said(findings_vector(anatomy.findings), report.says))
        patient += 1
    return texts, torch.tensor(targets, dtype=torch.float32)


def _said(target: list[float], says: Exam) -> list[float]:
    """The target without what the report does not say: diameters, category, volume."""
    target = target.copy()
    for lesion in says.lesions:
        if not lesion.size_mm:
            target[SECTORS.index((lesion.place.zone, lesion.place.side, *lesion.place.levels))] = math.nan
    category = 1 + target[CATEGORY].index(1.0)
    if category not in (says.pirads, *(lesion.pirads for lesion in says.lesions)):
        target[CATEGORY] = [math.nan] * 5
    if says.gland_ml is None:
        target[-1] = math.nan
    return target


def findings_vector(findings: Findings) -> list[float]:
    """What an encoder is asked of a report's patient.

    Diameter in cm by sector (12, zero where there is no lesion), whether each zone, side and level has a lesion (7),
    PI-RADS one-hot (5), log of the volume (1). Of a sector alone a place is learnt late: each is one case in twelve.
    """
    diameters, places = dict.fromkeys(SECTORS, 0.0), dict.fromkeys(PLACES, 0.0)
    for lesion in findings.lesions:
        place = (lesion.zone, lesion.side, lesion.level)
        diameters[place] = lesion.diameter_mm / 10
        places |= dict.fromkeys(place, 1.0)
    scores = [float(findings.pirads == score) for score in range(1, 6)]
    return [*diameters.values(), *places.values(), *scores, math.log(findings.gland_ml / 42)]


def make_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A unigram tokenizer with T5's special tokens: the commonest words and numbers whole, all else by characters."""
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(),
            pre_tokenizers.Metaspace(),
        ]
    )
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    # The unigram trainer would cut common short words such as "left" into letters, which saves vocabulary but hides
    # words from a small encoder. Ties are broken by the word, so that the order of the texts does not matter.
    words = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: vocabulary - len(SPECIAL) - len(CHARACTERS)]
    total = sum(counts.values())
    pieces = [(piece, 0.0) for piece in SPECIAL]
    pieces += [(word, math.log(count / total)) for word, count in words]
    pieces += [(character, -20.0) for character in CHARACTERS]

    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=SPECIAL.index("<unk>")))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", SPECIAL.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_TOKENS,
        truncation_side="left",
    )


def train_encoder(
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    targets: Tensor,
    *,
    steps: int,
    seed: int,
    width: int = WIDTH,
    layers: int = LAYERS,
    lr: float = RATE,
    tokens: int = TOKENS,
) -> T5EncoderModel:
    """Train a small T5 encoder of Flan's kind (gated GELU) on masked words and findings, on a GPU if there is one.

    Args:
        texts, targets: of `training_reports`.
        steps, seed, width, layers, lr, tokens: of `make`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=HEAD,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=width // HEAD,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    encoder = T5EncoderModel(config)
    look_nearby(encoder)
    words, findings = nn.Linear(width, len(tokenizer)), nn.Linear(width, targets.shape[1])
    heads = nn.ModuleList([encoder, words, findings]).to(device)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.1)
    batches = _batches(tokenizer, texts, rng, tokens, steps)
    started = time.monotonic()
    for step in range(1, steps + 1):
        index, ids, mask = next(batches)
        hidden_words = (torch.from_numpy(rng.random(ids.shape)) < 0.2) & mask
        wanted = targets[index, None].to(device)
        ids, mask, hidden_words = (tensor.to(device) for tensor in (ids, mask, hidden_words))
        features = encoder(
            input_ids=ids.masked_fill(hidden_words, tokenizer.mask_token_id), attention_mask=mask
        ).last_hidden_state
        masked = F.cross_entropy(words(features[hidden_words]), ids[hidden_words])
        # Every token tells the findings, so that an adapter may look anywhere; each report counts alike.
        error = ((findings(features) - wanted.nan_to_num()).square() * ~wanted.isnan()).sum(-1)
        told = ((error * mask).sum(1) / mask.sum(1)).mean()
        loss = 0.2 * masked + told
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            speed = step / (time.monotonic() - started)
            logger.info(
                "step %d: masked words %.3f, findings %.3f, %.1f steps/s",
                step,
                float(masked.detach()),
                float(told.detach()),
                speed,
            )
    return encoder.cpu().eval()


@torch.no_grad()
def look_nearby(encoder: T5EncoderModel) -> None:
    """Let the heads begin with neighbours: every second looks ahead or behind alone, each further than the one before.

    Untrained heads look everywhere alike, and that words next to each other belong together is what is learnt last. The
    biases by distance are those of ALiBi (Press et al., arXiv 2108.12409), as T5's own, which go on learning.
    """
    attention = encoder.encoder.block[0].layer[0].SelfAttention
    config = encoder.config
    distance = torch.arange(-config.relative_attention_max_distance, config.relative_attention_max_distance + 1)
    buckets = attention._relative_position_bucket(
        distance, True, config.relative_attention_num_buckets, config.relative_attention_max_distance
    )
    for head in range(config.num_heads):
        cost = distance.abs() * 4.0 ** (1 - head // 2)
        if head < config.num_heads // 2:  # the others see both ways
            cost = torch.where(distance * (-1) ** head < 0, FARTHEST, cost)
        attention.relative_attention_bias.weight[buckets, head] = -cost.clamp(max=FARTHEST).float()


def _batches(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], rng: np.random.Generator, budget: int, steps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of reports of like length, `budget` tokens at most: indices (B,), ids (B, T), mask (B, T).

    The first are of the shortest reports; the part that is drawn from grows with the steps.
    """
    encoded = [_shorten(torch.tensor(ids), rng) for ids in tokenizer(texts, verbose=False).input_ids]
    lengths = np.array([len(ids) for ids in encoded])
    by_length = np.argsort(lengths, kind="stable")
    step = 0
    while step < steps:
        share = SHORTEST + (1 - SHORTEST) * min(step / (ALL_FROM * steps), 1)
        read = by_length[: math.ceil(share * len(texts))]
        # Sorted by length with some noise: little padding, other neighbours in every round.
        order = read[np.argsort(lengths[read] * rng.uniform(0.9, 1.1, len(read)))]
        chunks, start = [], 0
        for stop in range(1, len(order) + 1):
            if stop == len(order) or lengths[order[start : stop + 1]].max() * (stop + 1 - start) > budget:
                chunks.append(order[start:stop])
                start = stop
        for chunk in rng.permutation(len(chunks))[: max(1, steps // 50)]:  # then the part has grown
            index = torch.from_numpy(chunks[chunk])
            ids = nn.utils.rnn.pad_sequence([encoded[i] for i in index], True, tokenizer.pad_token_id)
            yield index, ids, ids != tokenizer.pad_token_id
            step += 1


def _shorten(ids: Tensor, rng: np.random.Generator, start: int = 64, end: int = 128) -> Tensor:
    """A long report's end, where the findings stand, behind a random passage of the rest: half the cost to train on."""
    if len(ids) <= start + end:
        return ids
    first = int(rng.integers(len(ids) - end - start))
    return torch.cat([ids[first : first + start], ids[-end:]])


if __name__ == "__main__":
    run(make)
