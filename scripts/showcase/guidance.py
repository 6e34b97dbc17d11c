"""Which guidance? Volumes of held-out phantom reports under several settings: do they obey, and at what price?

    python -m scripts.showcase.guidance --dataset_dir out/held_out --output_dir out/guidance [--settings mine.json]

A setting is options of inference; one volume is made from each report of the test list, with the shipped weights unless
the setting names others. What is done is not done again. It ends with a table, printed and in `guidance.md`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.common.problems import UserError
from scripts.evaluation.class_metrics import markdown
from scripts.showcase.bench import reconstruct_stage
from scripts.showcase.comparison import cells, read_judged, reference_rows, table
from scripts.showcase.stages import DEMO_LDM, DEMO_VAE, REPOSITORY, Stage, bundle, run_stages

Setting = dict[str, Any]

SETTINGS: list[Setting] = [
    *({"guidance_report": weight} for weight in (1, 1.5, 2, 3, 4)),
    *({"guidance_report": 4, "guidance_interval": interval} for interval in ("[0,900]", "[800,1000]")),
    {"guidance_report": 4, "guidance_rescale": 1.0},
    *({"guidance_report": 4, "guidance_norm": norm} for norm in (0.05, 0.1)),
    {"guidance_report": 4, "guidance_norm": 0.1, "guidance_parallel": 0.0, "guidance_momentum": -0.5},
]


def guidance(dataset_dir: str, output_dir: str = "out/guidance", settings: str = "") -> None:
    """Make and judge volumes under each setting; print the table and write `<output_dir>/guidance.md`.

    Args:
        dataset_dir: a phantom data root whose reports are embedded; its test list is used.
        output_dir: gets volumes, logs, figures, the table.
        settings: a JSON file, a list of objects that hold options of inference, such as
            `[{"guidance_report": 2, "guidance_model": "out/earlier/model.safetensors"}]`; without it those of SETTINGS.

    Raises:
        UserError: the file of settings is none, the data root holds no phantoms, or a stage failed.
    """
    chosen = read_settings(settings) if settings else SETTINGS
    data, folder = Path(dataset_dir).resolve(), Path(output_dir).resolve()
    if not (data / "lesions.csv").is_file():
        raise UserError(f"dataset_dir {data} holds no lesions.csv: give phantoms, whose truth is known")
    run_stages(stages(data, folder, chosen), folder)
    judged = {title(one): read_judged(folder / "judged" / key(one)) for one in chosen}
    rows = reference_rows(next(iter(judged.values()))) | {name: cells(found) for name, found in judged.items()}
    text = markdown(table(rows))
    with atomic(folder / "guidance.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text)


def read_settings(path: str) -> list[Setting]:
    """Read a list of settings.

    Raises:
        UserError: there is no such file, or it holds anything else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"settings {path} cannot be read as JSON: {error}") from None
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise UserError(f'settings {path} holds no list of options; write [{{"guidance_report": 2}}, ...]')
    return found


def title(setting: Setting) -> str:
    """Name a setting as a row does."""
    return ", ".join(f"{name.removeprefix('guidance_')} {value}" for name, value in setting.items())


def key(setting: Setting) -> str:
    """Name a setting's folder: volumes of other settings never come together."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:12]


def stages(data: Path, folder: Path, settings: list[Setting]) -> list[Stage]:
    """Give the commands: reconstructions of the test volumes once, then each setting's volumes and their figures."""
    chain = [reconstruct_stage(data, folder / "reconstructions")]
    for setting in settings:
        name = key(setting)
        volumes, judged = folder / "volumes" / name, folder / "judged" / name
        generate = bundle(
            "ccella_ldm", "inference", ("demo",),
            dataset_dir=data, output_dir=volumes, splits="['test']", batch_size=8, **setting,
        )  # fmt: skip
        evaluate = bundle(
            "ccella_ldm", "evaluate",
            dataset_dir=data, generated_dir=volumes, output_dir=judged,
            reconstructed_dir=folder / "reconstructions",
        )  # fmt: skip
        chain += [
            Stage(f"generate_{name}", generate, (), volumes, (DEMO_LDM, DEMO_VAE, *_named(setting))),
            Stage(f"judge_{name}", evaluate, (f"generate_{name}", "reconstruct")),
        ]
    return chain


def _named(setting: Setting) -> list[Path]:
    """Give the weights that a setting names: its volumes are made anew when these changed."""
    return [REPOSITORY / str(setting[name]) for name in ("model_file", "guidance_model") if setting.get(name)]


if __name__ == "__main__":
    run(guidance)
