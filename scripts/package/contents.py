"""What a package holds beside code and configs: weights that were checked against each other, and what they say.

Nothing is trusted to fit because its file lies in the right place: each network is built as the package's configs do
and takes its weights strictly, and a generator's weights say which VAE and which text encoder they were trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from safetensors.torch import load_file
from torch import Tensor, nn

from scripts.common.files import link
from scripts.common.problems import UserError
from scripts.common.public_weights import ENCODER_FILES
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import load_weights
from scripts.reports.encoder import PADDED, ReportEncoder
from scripts.vae.network import is_vae, load_vae, save_vae, vae_fingerprint

MODEL, MODEL_PT, VAE, TEXT_ENCODER = (
    f"models/{name}" for name in ("model.safetensors", "model.pt", "vae.safetensors", "text_encoder")
)


@dataclass
class Contents:
    """What is to be written, by its place in the package.

    Attributes:
        write: what writes a file to a path.
        changes: of metadata's inputs and outputs: what these weights take and give, by `inputs#image#num_channels`.
        absent: inputs that these weights do not take.
    """

    write: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    def add_file(self, place: str, path: Path) -> None:
        """A file as it is; of large ones no second copy is made where the disk is the same."""
        self.write[place] = lambda target: link(path, target)

    def add_state(self, place: str, state: Mapping[str, Tensor]) -> None:
        """Tensors as `torch.load(weights_only=True)` reads them."""
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        self.write[place] = lambda target: torch.save(plain, target)


class Kind(NamedTuple):
    """What packages of a bundle have in common.

    Attributes:
        weights: the value of its configs that names its weights.
        values: what its configs' values are in the package.
        collect: checks the weights, given a parser of the package's inference config.
        generates: whether it makes volumes, which may be copies.
        commands: how it is used, for its card.
    """

    weights: str
    values: Mapping[str, str]
    collect: Callable[[ConfigParser], Contents]
    generates: bool
    commands: Sequence[tuple[str, str]]


# ---- the three bundles -----------------------------------------------------------------------------------------------


def collect_vae(parser: ConfigParser) -> Contents:
    """The autoencoder, from ours (.safetensors) or the published (.pt)."""
    network = load_vae(parser.get_parsed_content("network_def"), parser.get_parsed_content("weights"))
    contents = Contents()
    contents.write[MODEL] = lambda target: save_vae(network, target)
    contents.add_state(MODEL_PT, network.state_dict())
    shape = [f"{2 ** (len(network.config['num_channels']) - 1)}*n"] * 3
    contents.changes = {f"{side}#spatial_shape": shape for side in ("inputs#image", "outputs#pred")}
    return contents


def collect_generator(parser: ConfigParser) -> Contents:
    """The diffusion network with the VAE and the text encoder that it was trained with.

    Raises:
        UserError: weights that are none of ours, or were trained with another VAE or text encoder.
    """
    path = Path(parser.get_parsed_content("model_file"))
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is no safetensors file: the authors' checkpoints say neither VAE nor text encoder. Train from it "
            "(initial_weights in train.yaml) and give the model.safetensors that this writes"
        )
    network: CCELLA = parser.get_parsed_content("network_def")
    header = load_weights(path, network)
    contents = Contents()
    contents.add_file(MODEL, path)
    contents.add_state(MODEL_PT, load_file(path))
    _add_vae(contents, parser, header.meta.get("vae_fingerprint"), path)
    if network.variant.adapter:
        _add_encoder(contents, parser, header.meta.get("encoder_fingerprint"), path)
    contents.changes, contents.absent = _generator_format(network, header.prediction or "noise")
    return contents


def _add_vae(contents: Contents, parser: ConfigParser, trained: str | None, weights: Path) -> None:
    file = parser.get_parsed_content("vae_file")
    vae = load_vae(parser.get_parsed_content("vae_def"), file)
    if not is_vae(vae, trained):
        raise UserError(
            f"{weights} was trained on latents of VAE {trained}, and {file} is VAE {vae_fingerprint(vae)}: what it "
            "makes would decode to nothing. Give the VAE that encoded the training images (--vae_file)"
        )
    contents.write[VAE] = lambda target: save_vae(vae, target)


def _add_encoder(contents: Contents, parser: ConfigParser, trained: str | None, weights: Path) -> None:
    named = parser.get_parsed_content("text_encoder")
    if named is None or not Path(named).is_dir():
        raise UserError(
            f"text_encoder is {named}: give the folder of the one that {weights} was trained with (--text_encoder); "
            "what is large of it is only named in large_files.yml, with its hash"
        )
    given = {name: parser.get_parsed_content(name) for name in ("max_tokens", "truncation_side")}
    own = ReportEncoder(named, **given, device="cpu").fingerprint
    if trained is not None and trained.removesuffix(PADDED) != own:
        raise UserError(
            f"{weights} was trained with text encoder {trained}, and {named} is {own}: give that one (--text_encoder), "
            "and its max_tokens and truncation_side in an overlay"
        )
    for path in sorted({path for pattern in ENCODER_FILES for path in Path(named).glob(pattern)}):
        contents.add_file(f"{TEXT_ENCODER}/{path.name}", path)


def _generator_format(network: CCELLA, prediction: str) -> tuple[dict[str, Any], list[str]]:
    config, variant = network.config, network.variant
    shape = [f"{2 ** (len(config['num_channels']) - 1)}*n"] * 3
    changes = {"inputs#text_encoding#num_channels": config["input_dim"]}
    for side, word in (("inputs#image", "latent"), ("outputs#pred", prediction)):
        channels = {str(number): f"{word} {number}" for number in range(config["in_channels"])}
        told = {"num_channels": config["in_channels"], "spatial_shape": shape, "channel_def": channels}
        changes |= {f"{side}#{name}": value for name, value in told.items()}
    absent = [] if variant.adapter else ["text_encoding", "text_mask"]
    absent += [] if variant.class_vector == "own" else ["pirads"]
    return changes, absent + ([] if variant.class_vector else ["class_keep"])


def collect_classifier(parser: ConfigParser) -> Contents:
    """The classifier, whose weights say which sequences they look at, and on which grid."""
    path = Path(parser.get_parsed_content("model_file"))
    network: nn.Module = parser.get_parsed_content("network")  # with its checks of what the weights say
    contents = Contents()
    contents.add_file(MODEL, path)
    contents.add_state(MODEL_PT, network.state_dict())
    channels = parser.get_parsed_content("channels")
    told = {
        "num_channels": len(channels),
        "spatial_shape": list(parser.get_parsed_content("spatial_size")),
        "channel_def": {str(number): name for number, name in enumerate(channels)},
    }
    contents.changes = {f"inputs#image#{name}": value for name, value in told.items()}
    return contents


def _in_package(path: str) -> str:
    return f"$@bundle_root + '/{path}'"


RUN = "python -m monai.bundle run --config_file configs/inference.yaml"
KINDS = {
    "vae": Kind(
        "weights", {"weights": _in_package(MODEL)}, collect_vae, generates=False,
        commands=(
            ("images to latents", f"{RUN} --dataset_dir DATA --mode encode"),
            ("there and back", f"{RUN} --dataset_dir DATA --mode reconstruct --output_dir OUT"),
        ),
    ),
    "ccella_ldm": Kind(
        "model_file",
        {"model_file": _in_package(MODEL), "vae_file": _in_package(VAE), "text_encoder": _in_package(TEXT_ENCODER)},
        collect_generator, generates=True,
        commands=(("a volume from a report", f'{RUN} --report "Impression: ..." --output_dir OUT'),),
    ),
    "classifier": Kind(
        "model_file", {"model_file": _in_package(MODEL)}, collect_classifier, generates=False,
        commands=(("probabilities of all volumes in a folder", f"{RUN} --input VOLUMES --output_dir OUT"),),
    ),
}  # fmt: skip


def write_contents(contents: Contents, folder: Path) -> None:
    """Write all files into the package's folder, which gets its name when it is complete."""
    for place, write in contents.write.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write(folder / place)
