#!/usr/bin/env python3
"""The article's question on synthetic clips: do neighbouring frames help?

    tools/article_question.py FOLDER                              N = 0, 1, 2, 3, seeds 1, 2, 3
    tools/article_question.py FOLDER --seeds 1 2 3 4 5 --epochs 20

Draws clips of the phantom's preset `reference` at a low dose: patients to learn from and others to test on. Networks of one
width with N = 0, 1, 2, 3 neighbours on each side learn from the same frames by the same recipe, once for each seed, which
draws their first weights, the order and the augmentation. What each scores on the test patients goes into one table.

A row averages over seeds and frames. Its interval is a bootstrap over test patients, of each the mean over seeds and frames,
and says how sure the row is of other patients; `seeds` is the standard deviation between the seeds' means. "Dice beyond
N = 0" is the mean difference on the same patients, with the interval of that difference.

FOLDER takes data, runs and scores; what is there is not done again, and a run that was stopped goes on. In the end it holds
table.md and table.json. CORONET names the program to use; by default it is built. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from studies import Study, cell, interval

METRICS = ("iou", "dice", "sensitivity", "specificity", "accuracy")
NEIGHBOURS = (0, 1, 2, 3)
PATIENTS_TO_LEARN_FROM, PATIENTS_TO_TEST_ON = 301, 401  # the phantom's seeds


def rows_of(scores: dict[int, dict[int, dict[str, dict[str, float]]]]) -> list[dict]:
    """A row for each N from scores[N][seed][patient][metric]."""
    rows = []
    patients = sorted(next(iter(scores[0].values())))

    def over_seeds(n: int, value: Callable[[dict[str, float]], float]) -> list[float]:
        return [statistics.fmean(value(by_patient[patient]) for by_patient in scores[n].values()) for patient in patients]

    for n in scores:
        row: dict = {"neighbours": n}
        for metric in METRICS:
            row[metric] = interval(over_seeds(n, lambda patient, metric=metric: patient[metric]))
        seeds = [statistics.fmean(patient["dice"] for patient in by_patient.values()) for by_patient in scores[n].values()]
        row["dice_between_seeds"] = statistics.stdev(seeds) if len(seeds) > 1 else None
        dice = [over_seeds(k, lambda patient: patient["dice"]) for k in (n, 0)]
        row["dice_beyond_0"] = interval([ours - alone for ours, alone in zip(*dice, strict=True)])
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    lines = ["| N | IoU | Dice | sensitivity | specificity | accuracy | Dice between seeds | Dice beyond N = 0 |"]
    lines.append("|---" * 8 + "|")
    for row in rows:
        cells = [str(row["neighbours"]), *(cell(row[metric]) for metric in METRICS)]
        between = row["dice_between_seeds"]
        cells.append("" if between is None else f"{between:.4f}")
        cells.append("" if row["neighbours"] == 0 else cell(row["dice_beyond_0"], "+"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--width", type=int, default=8, help="base width of the networks (default 8)")
    parser.add_argument("--size", type=int, default=256, help="side of the square they see (default 256)")
    parser.add_argument("--dose", type=float, default=40, help="nGy a frame (default 40; the preset's own is 240)")
    parser.add_argument("--clips", type=int, default=48, help="patients to learn from (default 48)")
    parser.add_argument("--test-clips", type=int, default=16, help="patients to test on (default 16)")
    parser.add_argument("--frames", type=int, default=10, help="frames of each (default 10)")
    parser.add_argument("--epochs", type=int, default=12, help="how often each frame is seen (default 12)")
    parser.add_argument("--rate", type=float, default=4e-3, help="the highest learning rate (default 0.004)")
    arguments = parser.parse_args()
    if len(set(arguments.seeds)) != len(arguments.seeds):
        parser.error("a seed stands there twice")
    settings = {key: value for key, value in vars(arguments).items() if key != "folder"}
    # More seeds may come later; everything else decides what lies there.
    study = Study(arguments.folder, {key: value for key, value in settings.items() if key != "seeds"})
    clips = ["--preset", "reference", "--frames", arguments.frames, "--fps", 15, "--start", 0.9, "--dose", arguments.dose]
    study.draw("learned", *clips, "--clips", arguments.clips, "--seed", PATIENTS_TO_LEARN_FROM)
    study.draw("tested", *clips, "--clips", arguments.test_clips, "--seed", PATIENTS_TO_TEST_ON)
    recipe = ["--all", "--preset", "better", "--width", arguments.width, "--stem", "half", "--size", arguments.size]
    recipe += ["--epochs", arguments.epochs, "--rate", arguments.rate]
    scores: dict = {n: {} for n in NEIGHBOURS}
    commits = set()
    # Seed by seed, so that what there is after a while compares all N.
    for seed in arguments.seeds:
        for n in NEIGHBOURS:
            name = f"n{n}-seed{seed}"
            study.train(name, "learned", *recipe, "--n", n, "--seed", seed)
            weights = study.run(name) / "last.safetensors"
            evaluation = study.score(name, "tested", "--weights", weights, "--size", arguments.size)
            commits.add(evaluation["commit"] or "unknown")
            scores[n][seed] = {clip["clip"]: clip["post_processed"] for clip in evaluation["clips"]}
    rows = rows_of(scores)
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    record = {"command": command, "coronet_commits": sorted(commits), "settings": settings, "rows": rows}
    (study.folder / "table.md").write_text(table(rows))
    (study.folder / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    print(table(rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
