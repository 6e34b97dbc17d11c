"""What are synthetic volumes worth? The whole chain on the phantom: generators, volumes, classifier arms, one page.

    python -m scripts.showcase.study --output_dir out/study [--size long]

Every stage is a command that a user would type, with its own log; a stage that is done is not done again, and the
training stages go on from their last checkpoint. What is asked, of whom and why is written down in docs/study.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scripts.cli.run import run
from scripts.showcase.stages import choose_size, run_stages
from scripts.showcase.study.classifiers import classifier_stages, count_cases, planned_trainings
from scripts.showcase.study.generators import generator_stages
from scripts.showcase.study.page import write_page
from scripts.showcase.study.sizes import SIZES, epochs_of


def study(output_dir: str = "out/study", size: str = "short", seed: int = 0, amp: str = "auto") -> None:
    """Run what is not done yet and write `<output_dir>/<size>/index.html`.

    Args:
        output_dir: gets everything: data, weights, volumes, logs, the page.
        size: `short` (sized for an hour on two cores), `long` (for a night), `gpu` (for ten minutes on an H100), or
            `smoke` (tests the chain, means nothing).
        seed: of the phantom data and of every training.
        amp: precision of everything, as the bundles' option; `bf16` is faster on a processor with AMX.

    Raises:
        UserError: no such size, or a stage failed.
    """
    amount, folder = replace(choose_size(SIZES, size), amp=amp), Path(output_dir).resolve() / size
    chain = generator_stages(folder, amount, seed)
    run_stages(chain, folder, amount.together)
    planned, epochs = planned_trainings(amount), {}
    for training in planned:
        if cases := count_cases(folder, training, amount, seed):
            epochs[training] = epochs_of(training.steps, cases, amount.regime.batch)
    chain += classifier_stages(folder, amount, seed, epochs)
    seconds = run_stages(chain, folder, amount.together)
    write_page(folder, amount, [one for one in planned if one not in epochs], seconds)
    print(f"\nOne page with everything: {folder / 'index.html'}")


if __name__ == "__main__":
    run(study)
