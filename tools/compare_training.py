#!/usr/bin/env python3
"""Coronet beside PyTorch: one training step of the same network on the same batch, in fp32, on the same cores.

    tools/compare_training.py                                  w = 16, stem half, N = 1, 448x448, batch 4
    tools/compare_training.py --width 64 --rounds 8 --json benches/records/FILE.json

Installs what it needs by itself: Python packages into .venv (or $CORONET_VENV), Coronet's release build.

Method. Both start from the same seeded weights and take steps of the preset `better` on one batch: Dice and binary cross
entropy, AdamW (0.9, 0.999, 1e-8, weight decay 0.01) at a fixed rate. PyTorch enters twice, with its usual memory format
and with channels last. Contenders take turns as tools/contenders.py says, two steps a turn, of which the second is timed:
batch in, loss and probability out. A turn is taken in every round, in an order that rotates. The losses that each step
began with are compared with PyTorch's in float64; the exit status is 1 if one disagrees. Memory is the most that each
process has ever had.

PyTorch's contender answers as tools/step_server.rs does: `run` with milliseconds, `losses` with the loss of every step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from contenders import Contender, build_example, check_folder_of, enter_venv, machine, print_machine, provenance

CONTENDERS = {"coronet": "Coronet", "torch": "PyTorch", "torch-channels-last": "PyTorch, channels last"}
PACKAGES = ("numpy", "torch")
SEED = 7
RATE, BETAS, EPSILON, WEIGHT_DECAY = 1e-3, (0.9, 0.999), 1e-8, 0.01
# How far the losses of the first steps may lie from float64's, relative. Later ones drift apart, as rounding grows with
# every step, in float32 of any kind.
COMPARED_STEPS, AGREEMENT_BOUND = 4, 1e-4


class Training:
    """The network with loss and optimiser, in PyTorch."""

    def __init__(self, weights: Path, batch: Path, double: bool, channels_last: bool) -> None:
        import torch
        from golden import network_of, read_file
        from safetensors.torch import load_file

        dtype = torch.float64 if double else torch.float32
        self.network = network_of(read_file(weights)[0], dtype).train()
        if channels_last:
            for module in self.network.modules():
                if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                    module.to(memory_format=torch.channels_last)
        tensors = load_file(batch)
        self.frames, self.mask = tensors["input"].to(dtype), tensors["mask"].to(dtype)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY
        )
        self.losses: list[float] = []

    def step(self) -> None:
        import torch.nn.functional as F
        from reference_network import dice_loss

        self.optimizer.zero_grad(set_to_none=True)
        logits, probability = self.network.outputs(self.frames)
        loss = dice_loss(probability, self.mask) + F.binary_cross_entropy_with_logits(logits, self.mask)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


def serve(name: str, folder: Path, threads: int) -> None:
    """The part of PyTorch's contenders."""
    import torch

    torch.set_num_threads(threads)
    training = Training(weights_of(folder), batch_of(folder), False, name == "torch-channels-last")
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "run":
            start = time.perf_counter()
            training.step()
            print(1e3 * (time.perf_counter() - start), flush=True)
        elif line.strip() == "losses":
            print(*training.losses, flush=True)
        else:
            break


def weights_of(folder: Path) -> Path:
    return folder / "weights.safetensors"


def batch_of(folder: Path) -> Path:
    return folder / "batch.safetensors"


def command_of(name: str, folder: Path, threads: int) -> list[str]:
    if name == "coronet":
        files = ["--weights", str(weights_of(folder)), "--batch", str(batch_of(folder))]
        return [build_example("step_server"), *files, "--threads", str(threads), "--rate", str(RATE)]
    return [sys.executable, str(Path(__file__).resolve()), "--serve", name, str(folder), "--threads", str(threads)]


def prepare(configuration, arguments: argparse.Namespace, folder: Path) -> list[float]:
    """Writes weights and batch; returns the first losses in float64."""
    from golden import Recipe, random_batch, random_weights
    from safetensors.numpy import save_file

    save_file(random_weights(configuration, SEED), weights_of(folder), metadata=configuration.metadata())
    frames, mask = random_batch(Recipe(configuration, arguments.batch, arguments.size, arguments.size, SEED))
    save_file({"input": frames, "mask": mask}, batch_of(folder))
    exact = Training(weights_of(folder), batch_of(folder), True, False)
    for _ in range(COMPARED_STEPS):
        exact.step()
    return exact.losses


def distance(losses: list[float], exact: list[float]) -> float:
    """The greatest relative distance of the first losses; infinite for one that is not a number."""
    apart = [abs(got / expected - 1) for got, expected in zip(losses, exact, strict=False)]
    return max(apart) if len(apart) == len(exact) and all(map(math.isfinite, apart)) else math.inf


def compare(arguments: argparse.Namespace) -> int:
    from reference_network import Configuration

    begun = provenance(PACKAGES, machine())
    here = begun["machine"]
    configuration = Configuration(arguments.width, arguments.stem, arguments.n, 1)
    contenders: list[Contender] = []
    with tempfile.TemporaryDirectory(prefix="coronet-compare-") as name:
        folder = Path(name)
        exact = prepare(configuration, arguments, folder)
        try:
            for name, title in CONTENDERS.items():
                command = command_of(name, folder, arguments.threads)
                contenders.append(Contender(title, command, arguments.threads, folder / f"{name}.log"))
            for turn in range(arguments.rounds + 1):  # the first round warms up
                first = turn % len(contenders)
                for contender in contenders[first:] + contenders[:first]:
                    contender.turn()
            rows = {}
            for name, contender in zip(CONTENDERS, contenders, strict=True):
                contender.go_on()
                contender.ask("losses")
                losses = [float(loss) for loss in contender.answer().split()]
                rows[name] = {
                    "samples_ms": contender.samples[1:],
                    "peak_megabytes": contender.peak_megabytes(),
                    "distance_from_float64": distance(losses, exact),
                    "losses": losses,
                }
                contender.stop()
        finally:
            for contender in contenders:
                contender.end()

    print_machine(here, arguments.threads)
    print(
        f"one training step of cenet3d w={arguments.width} {arguments.stem} N={arguments.n}, batch {arguments.batch} of "
        f"{arguments.size}x{arguments.size}, fp32; {arguments.rounds} alternating rounds; the first {COMPARED_STEPS} "
        f"losses against float64, bound {AGREEMENT_BOUND:.0e}\n"
    )
    ours = statistics.median(rows["coronet"]["samples_ms"])
    print(f"{'':<24} {'median':>10} {'min':>10} {'max':>10} {'peak memory':>12}   {'Coronet takes':<16} {'losses':>9}")
    for name, row in rows.items():
        samples, apart = row["samples_ms"], row["distance_from_float64"]
        median = statistics.median(samples)
        ratio = "" if name == "coronet" else f"{ours / median:.2f}x its time"
        times = " ".join(f"{ms:>7.1f} ms" for ms in (median, min(samples), max(samples)))
        verdict = "" if apart <= AGREEMENT_BOUND else "  DISAGREES"
        print(f"{CONTENDERS[name]:<24} {times} {row['peak_megabytes']:>9.0f} MB   {ratio:<16} {apart:>9.1e}{verdict}")
    if arguments.json:
        record = begun | {
            "network": configuration.metadata() | {"size": arguments.size, "batch": arguments.batch, "seed": SEED},
            "threads": arguments.threads,
            "losses_in_float64": exact,
            "contenders": rows,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(row["distance_from_float64"] <= AGREEMENT_BOUND for row in rows.values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16, help="base width w of the network (default 16)")
    parser.add_argument("--stem", choices=("half", "quarter"), default="half")
    parser.add_argument("--n", type=int, default=1, help="neighbouring frames on each side (default 1)")
    parser.add_argument("--size", type=int, default=448, help="side of the square input (default 448)")
    parser.add_argument("--batch", type=int, default=4, help="windows a step (default 4)")
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each contender (default 10)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: every core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a record with the raw samples")
    parser.add_argument("--serve", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    check_folder_of(arguments.json, parser)
    if min(arguments.rounds, arguments.threads, arguments.batch) < 1:
        parser.error("--rounds, --threads and --batch are at least 1")
    enter_venv()
    if arguments.serve:
        serve(arguments.serve[0], Path(arguments.serve[1]), arguments.threads)
        return 0
    try:
        return compare(arguments)
    except ValueError as problem:  # a network that does not exist, or a size it cannot work on
        parser.error(str(problem))


if __name__ == "__main__":
    sys.exit(main())
