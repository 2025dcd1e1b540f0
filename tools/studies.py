"""What the studies share: steps that are not done again, and means with their intervals.

A study keeps everything in a folder: data sets, runs, scores. What is there is not done again, and a run that was stopped
goes on. Needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESAMPLES, CONFIDENCE = 2000, 0.95


class Study:
    """A folder, and the program that fills it: that which CORONET names, or the release build, which is made."""

    def __init__(self, folder: Path, settings: dict) -> None:
        """`settings` decides what lies in the folder; a folder of others is refused."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "settings.json"
        if kept.exists() and json.loads(kept.read_text()) != settings:
            sys.exit(f"{folder} holds runs with other settings, see settings.json; choose another folder")
        self.folder = folder
        if "CORONET" in os.environ:
            self.program = os.environ["CORONET"]
        else:
            subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
            # As cargo takes it, which runs in ROOT.
            self.program = str(ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "coronet")
        kept.write_text(json.dumps(settings, indent=2) + "\n")

    def coronet(self, *arguments: object) -> None:
        done = subprocess.run([self.program, *map(str, arguments)], check=False)
        if done.returncode:
            sys.exit(f"coronet {' '.join(map(str, arguments))} ended with status {done.returncode}")

    def data(self, name: str) -> Path:
        return self.folder / "data" / name

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def draw(self, name: str, *options: object) -> None:
        """Phantom clips."""
        done = self.data(name) / ".done"
        if not done.exists():
            self.coronet("phantom", self.data(name), *options, "--no-video", "--overwrite", "--quiet")
            done.touch()

    def train(self, name: str, data: str, *options: object) -> None:
        run = self.run(name)
        done = run / ".done"
        if not done.exists():
            run.parent.mkdir(parents=True, exist_ok=True)
            begun = (run / "config.json").exists()
            self.coronet("train", self.data(data), "--out", run, *(("--resume",) if begun else options))
            done.touch()

    def score(self, name: str, data: str, *options: object) -> dict:
        """What `coronet evaluate` says, see docs/evaluation.md."""
        out = self.folder / "scores" / name
        if not (out / "evaluation.json").exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            self.coronet("evaluate", self.data(data), "--out", out, "--quiet", *options)
        return json.loads((out / "evaluation.json").read_text())


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, and percentile bootstrap over the values: one of each patient."""
    draws = random.Random(0)
    means = sorted(statistics.fmean(draws.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = round((1 - CONFIDENCE) / 2 * (RESAMPLES - 1))
    return statistics.fmean(values), means[tail], means[-1 - tail]


def cell(value: tuple[float, float, float], sign: str = "") -> str:
    """What `interval` gives, for a table; with `sign` "+" for a difference."""
    mean, low, high = (f"{number:{sign}.4f}" for number in value)
    return f"{mean} ({low} to {high})"
