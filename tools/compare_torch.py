#!/usr/bin/env python3
"""Coronet beside PyTorch at its best: the same network, weights and input on one GPU (or CPU), in one run.

    tools/compare_torch.py                              one frame: w = 64, stem half, N = 2, 448x448, on the first GPU
    tools/compare_torch.py --stem quarter --json benches/records/FILE.json
    tools/compare_torch.py --training                   a training step, batch 4
    tools/compare_torch.py --device cpu --width 16      the same on the CPU

Installs what it needs by itself, as the other comparisons do; with --here it takes the Python that runs it, which must
have torch, numpy and safetensors. FRAME_SERVER and STEP_SERVER name prebuilt programs (tools/frame_server.rs and
step_server.rs), for machines without Rust.

Method. Each contender is a process of its own and takes turns as tools/contenders.py says; a turn is some untimed runs, then
--samples timed ones. PyTorch enters in every form that people use to make it quick: eager, captured as a CUDA graph, and
compiled with max-autotune (which captures by itself); in float32, tf32 and float16 (on a CPU bfloat16); with its usual
memory format and with channels last. `device` is the time of the computation alone, its input where it computes, between
events on a GPU; `host` is from an array in the host's memory to one there. The ratio is of the medians of `device`, to
PyTorch's quickest form, whatever its precision.

A frame's logits are compared with PyTorch's in float64, relative L2: at most 1e-4 in float32, 5e-3 in tf32 and float16,
2e-2 in bfloat16. Training steps are those of the preset `better`; their first losses are compared, relative: at most 1e-4
in float32, 2e-2 in lower precision. A form of PyTorch that rounds more than that is named, and counts all the same: people
use it.
The exit status is 1 if one of Coronet's disagrees, or PyTorch's float32 does, or one of Coronet's does not start.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from contenders import Contender, build_example, check_folder_of, enter_venv, machine, print_machine, provenance

PACKAGES = ("numpy", "torch")
SEED = 7
UNTIMED = 3
COMPARED_STEPS = 4
RATE, BETAS, EPSILON, WEIGHT_DECAY = 1e-3, (0.9, 0.999), 1e-8, 0.01


@dataclass(frozen=True)
class Variant:
    """A contender: whose, how it runs, what it multiplies, in which memory format."""

    who: str
    how: str
    precision: str
    channels_last: bool = False

    @property
    def name(self) -> str:
        parts = [self.who, self.how, self.precision, "channels-last" if self.channels_last else ""]
        return "-".join(part for part in parts if part)

    @staticmethod
    def named(name: str) -> Variant:
        return next(variant for variant in every_variant() if variant.name == name)


def coronets(device: str) -> list[Variant]:
    precisions = ("float32",) if device == "cpu" else ("float32", "tf32", "float16", "bfloat16")
    return [Variant("coronet", "", precision) for precision in precisions]


def torches(device: str, training: bool) -> list[Variant]:
    low = ("bfloat16",) if device == "cpu" else ("tf32", "float16", "bfloat16") if training else ("tf32", "float16")
    forms = ("eager", "compiled") if device == "cpu" or training else ("eager", "graph", "compiled")
    formats = (False, True)
    return [Variant("torch", how, p, last) for how in forms for p in ("float32", *low) for last in formats]


def every_variant() -> list[Variant]:
    found = [v for device in ("cpu", "cuda") for v in coronets(device)]
    return found + [v for device in ("cpu", "cuda") for training in (False, True) for v in torches(device, training)]


def bound(precision: str, training: bool) -> float:
    if precision == "float32":
        return 1e-4
    return 2e-2 if training or precision == "bfloat16" else 5e-3


# ---- PyTorch's contenders --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def batch(self) -> Path:
        return self.folder / "batch.safetensors"


def network_for(variant: Variant, files: Files, device: str):
    """The network on its device; tf32 is a setting of the whole process."""
    import torch
    from golden import network_of, read_file

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = variant.precision == "tf32"
    torch.backends.cudnn.benchmark = True
    network = network_of(read_file(files.weights)[0], torch.float32).to(device)
    if variant.channels_last:
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                module.to(memory_format=torch.channels_last)
    return network


def half_type(variant: Variant):
    import torch

    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(variant.precision)


class Stopwatch:
    """Times what runs on a device: between events on a GPU, by the clock on a CPU."""

    def __init__(self, device: str) -> None:
        self.is_gpu = device != "cpu"

    def time(self, work) -> float:
        import torch

        if not self.is_gpu:
            begun = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - begun)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)


class Inference:
    """One frame after the other."""

    def __init__(self, variant: Variant, files: Files, device: str) -> None:
        import torch
        from safetensors.numpy import load_file

        self.torch, self.device = torch, device
        self.frames = torch.from_numpy(load_file(files.batch)["input"])
        network = network_for(variant, files, device).eval()
        kind = half_type(variant)
        if kind is not None:
            network = network.to(kind)
        self.window = self.frames.to(device, kind or torch.float32)
        self.forward = network.outputs
        if variant.how == "compiled":
            self.forward = torch.compile(network.outputs, mode="max-autotune")
        with torch.inference_mode():
            for _ in range(UNTIMED):
                self.results = self.forward(self.window)
        self.graph = None
        if variant.how == "graph":
            self.graph = torch.cuda.CUDAGraph()
            with torch.inference_mode(), torch.cuda.graph(self.graph):
                self.results = self.forward(self.window)
        self.stopwatch = Stopwatch(device)

    def compute(self) -> None:
        if self.graph is not None:
            self.graph.replay()
        else:
            self.results = self.forward(self.window)

    def run(self) -> str:
        """Milliseconds of the device, then from host to host."""
        with self.torch.inference_mode():
            alone = self.stopwatch.time(self.compute)
            begun = time.perf_counter()
            self.window.copy_(self.frames)
            self.compute()
            self.results[1].float().cpu().numpy()
            return f"{alone} {1e3 * (time.perf_counter() - begun)}"

    def output(self, path: str) -> None:
        from safetensors.numpy import save_file

        logits, probability = (result.float().cpu().contiguous().numpy() for result in self.results)
        save_file({"logits": logits, "probability": probability}, path)


class Training:
    """One step after the other, on one batch."""

    def __init__(self, variant: Variant, files: Files, device: str) -> None:
        import torch
        from safetensors.torch import load_file

        self.torch, self.device, self.kind = torch, device, half_type(variant)
        self.network = network_for(variant, files, device).train()
        batch = load_file(files.batch)
        self.host = [batch[name] for name in ("input", "mask")]
        self.frames, self.mask = (tensor.to(device) for tensor in self.host)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY
        )
        self.scaler = torch.amp.GradScaler(device.split(":")[0], enabled=self.kind == torch.float16)
        self.losses: list[float] = []
        self.loss_of = self.plain_loss
        if variant.how == "compiled":
            self.loss_of = torch.compile(self.plain_loss, mode="max-autotune")
        self.stopwatch = Stopwatch(device)

    def plain_loss(self, frames, mask):
        import torch.nn.functional as F
        from reference_network import dice_loss

        with self.torch.autocast(self.device.split(":")[0], dtype=self.kind, enabled=self.kind is not None):
            logits = self.network.outputs(frames)[0].float()
        return dice_loss(self.torch.sigmoid(logits), mask) + F.binary_cross_entropy_with_logits(logits, mask)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = self.loss_of(self.frames, self.mask)
        self.scaler.scale(self.loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def run(self) -> str:
        begun = time.perf_counter()
        for to, tensor in zip((self.frames, self.mask), self.host, strict=True):
            to.copy_(tensor)
        alone = self.stopwatch.time(self.step)
        self.losses.append(self.loss.item())
        return f"{alone} {1e3 * (time.perf_counter() - begun)}"

    def memory(self) -> str:
        """Bytes of the device at most; nothing on a CPU, where the process's memory is what counts."""
        return str(self.torch.cuda.max_memory_allocated()) if self.device != "cpu" else "0"


def serve(name: str, files: Files, device: str, threads: int, training: bool) -> None:
    import torch

    torch.set_num_threads(threads)
    if ":" in device:
        torch.cuda.set_device(device)  # events, graphs and memory are those of the current one
    contender = (Training if training else Inference)(Variant.named(name), files, device)
    print("ready", flush=True)
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        if verb == "run":
            print(contender.run(), flush=True)
        elif verb == "output":
            contender.output(rest)
            print("written", flush=True)
        elif verb == "losses":
            print(*contender.losses, flush=True)
        elif verb == "memory":
            print(contender.memory(), flush=True)
        else:
            break


# ---- the comparison --------------------------------------------------------------------------------------------


def command_of(variant: Variant, files: Files, arguments: argparse.Namespace, servers: dict[str, str]) -> list[str]:
    if variant.who == "coronet":
        where = ["--device", arguments.device, "--precision", variant.precision, "--threads", str(arguments.threads)]
        if arguments.training:
            batch = ["--batch", str(files.batch), "--rate", str(RATE)]
            return [servers["step_server"], "--weights", str(files.weights), *batch, *where]
        return [servers["frame_server"], "--weights", str(files.weights), "--input", str(files.batch), *where]
    here = [sys.executable, str(Path(__file__).resolve()), "--serve", variant.name, str(files.folder)]
    what = ["--training"] if arguments.training else []
    return [*here, "--device", arguments.device, "--threads", str(arguments.threads), *what]


def prepare(configuration, arguments: argparse.Namespace, files: Files) -> dict:
    """Writes weights and batch; returns what float64 makes of them: logits, or the first losses."""
    import numpy as np
    import torch
    from golden import Recipe, network_of, random_batch, random_weights, read_file
    from safetensors.numpy import save_file

    save_file(random_weights(configuration, SEED), files.weights, metadata=configuration.metadata())
    batch = arguments.batch if arguments.training else 1
    frames, mask = random_batch(Recipe(configuration, batch, arguments.size, arguments.size, SEED))
    save_file({"input": frames, "mask": mask}, files.batch)
    if not arguments.training:
        with torch.inference_mode():
            network = network_of(read_file(files.weights)[0], torch.float64)
            return {"logits": network.outputs(torch.from_numpy(frames.astype(np.float64)))[0].numpy()}
    from compare_training import Training as Exact

    exact = Exact(files.weights, files.batch, True, False)
    for _ in range(COMPARED_STEPS):
        exact.step()
    return {"losses": exact.losses}


def distance(contender: Contender, variant: Variant, exact: dict, files: Files) -> float:
    """How far a contender is from float64."""
    if "losses" in exact:
        contender.ask("losses")
        got = [float(loss) for loss in contender.answer().split()][: len(exact["losses"])]
        apart = [abs(loss / expected - 1) for loss, expected in zip(got, exact["losses"], strict=False)]
        return max(apart) if len(apart) == len(exact["losses"]) and all(map(math.isfinite, apart)) else math.inf
    import numpy as np
    from safetensors.numpy import load_file

    path = files.folder / f"{variant.name}.safetensors"
    contender.ask(f"output {path}")
    contender.expect("written")
    got = load_file(path)["logits"]
    if got.shape != exact["logits"].shape or not np.isfinite(got).all():
        return math.inf
    return float(np.linalg.norm(got - exact["logits"]) / np.linalg.norm(exact["logits"]))


class Timed(Contender):
    """A contender with two times a run."""

    def __init__(self, variant: Variant, command: list[str], arguments: argparse.Namespace, log: Path) -> None:
        self.variant, self.device_ms, self.host_ms = variant, [], []
        super().__init__(variant.name, command, arguments.threads, log)

    def take_turn(self, untimed: int, samples: int) -> None:
        self.go_on()
        for number in range(untimed + samples):
            self.ask("run")
            alone, host = map(float, self.answer().split())
            if number >= untimed:
                self.device_ms.append(alone)
                self.host_ms.append(host)
        self.stop()


def gpu() -> list[str] | None:
    """What nvidia-smi says of the GPUs: name, driver, clocks."""
    fields = "name,driver_version,clocks.sm,clocks.mem,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None


def started(variants: list[Variant], files: Files, arguments: argparse.Namespace, servers: dict[str, str]):
    """Those that start, one after the other, and why the others do not."""
    running, absent = [], {}
    for variant in variants:
        print(f"starting {variant.name} ...", file=sys.stderr)
        command = command_of(variant, files, arguments, servers)
        try:
            running.append(Timed(variant, command, arguments, files.folder / f"{variant.name}.log"))
        except SystemExit as problem:
            lines = str(problem).strip().splitlines()
            absent[variant.name] = lines[-1] if lines else "no reason given"
    return running, absent


def compare(arguments: argparse.Namespace) -> int:
    from reference_network import Configuration

    begun = provenance(PACKAGES, machine())
    here = begun["machine"]
    configuration = Configuration(arguments.width, arguments.stem, arguments.n, 1)
    name = "step_server" if arguments.training else "frame_server"
    servers = {name: os.environ.get(name.upper()) or build_example(name)}
    device = arguments.device.split(":")[0]
    variants = coronets(device) + torches(device, arguments.training)
    chosen = [variant for variant in variants if not arguments.only or variant.name in arguments.only]
    unknown = set(arguments.only or []) - {variant.name for variant in variants}
    if unknown:
        sys.exit(f"no contender is called {', '.join(sorted(unknown))}; there are {', '.join(v.name for v in variants)}")
    with tempfile.TemporaryDirectory(prefix="coronet-compare-") as folder:
        files = Files(Path(folder))
        exact = prepare(configuration, arguments, files)
        running, absent = started(chosen, files, arguments, servers)
        try:
            for turn in range(arguments.rounds):
                first = turn % max(len(running), 1)
                for contender in running[first:] + running[:first]:
                    contender.take_turn(UNTIMED, arguments.samples)
            rows = {}
            for contender in running:
                contender.go_on()
                apart = distance(contender, contender.variant, exact, files)
                memory = contender.peak_megabytes()
                if arguments.training and device != "cpu":
                    contender.ask("memory")
                    memory = float(contender.answer()) / 1e6
                rows[contender.variant.name] = {
                    "device_ms": contender.device_ms,
                    "host_ms": contender.host_ms,
                    "distance_from_float64": apart,
                    "bound": bound(contender.variant.precision, arguments.training),
                    "peak_megabytes": memory,
                }
                contender.stop()
        finally:
            for contender in running:
                contender.end()
    report(rows, absent, arguments, here)
    if arguments.json:
        record = begun | {
            "schema": "coronet/compare-torch",
            "schema_version": 1,
            "gpu": gpu(),
            "network": configuration.metadata() | {"size": arguments.size, "seed": SEED},
            "training": arguments.training,
            "batch": arguments.batch if arguments.training else 1,
            "threads": arguments.threads,
            "contenders": rows,
            "absent": absent,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    missing = [name for name in absent if name.startswith("coronet")]
    must_agree = [row for name, row in rows.items() if name.startswith("coronet") or "float32" in name]
    return 0 if must_agree and all(map(agrees, must_agree)) and not missing else 1


def agrees(row: dict) -> bool:
    return row["distance_from_float64"] <= row["bound"]  # false for a NaN too


def report(rows: dict, absent: dict, arguments: argparse.Namespace, here: dict) -> None:
    what = f"one training step, batch {arguments.batch}" if arguments.training else "one frame"
    print_machine(here, arguments.threads)
    for line in gpu() or []:
        print(line)
    print(
        f"{what} of cenet3d w={arguments.width} {arguments.stem} N={arguments.n}, {arguments.size}x{arguments.size}, on "
        f"{arguments.device}; {arguments.rounds} rounds of {arguments.samples}; medians\n"
    )
    peers = [row for name, row in rows.items() if name.startswith("torch")]
    best = min((statistics.median(row["device_ms"]) for row in peers), default=None)
    print(f"{'':<40} {'device':>11} {'host':>11} {'memory':>9}   {'of PyTorch best':<16} {'from float64':>12}")
    for name, row in rows.items():
        device, host = statistics.median(row["device_ms"]), statistics.median(row["host_ms"])
        ratio = f"{device / best:.2f}" if best and name.startswith("coronet") else ""
        verdict = "" if agrees(row) else "  DISAGREES" if name.startswith("coronet") else "  rounds more than its bound"
        memory = f"{row['peak_megabytes']:.0f} MB"
        print(
            f"{name:<40} {device:>8.3f} ms {host:>8.3f} ms {memory:>9}   {ratio:<16} "
            f"{row['distance_from_float64']:>12.1e}{verdict}"
        )
    for name, why in absent.items():
        print(f"{name:<40} did not start: {why}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu or, for Coronet alone, emulated")
    parser.add_argument("--training", action="store_true", help="a training step instead of a frame")
    parser.add_argument("--width", type=int, default=64, help="base width w of the network (default 64)")
    parser.add_argument("--stem", choices=("half", "quarter"), default="half")
    parser.add_argument("--n", type=int, default=2, help="neighbouring frames on each side (default 2)")
    parser.add_argument("--size", type=int, default=448, help="side of the square input (default 448)")
    parser.add_argument("--batch", type=int, default=4, help="windows of a training step (default 4)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each contender (default 10)")
    parser.add_argument("--samples", type=int, default=20, help="timed runs of a turn (default 20)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: every core")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these contenders")
    parser.add_argument("--here", action="store_true", help="take the Python that runs this, and install nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a record with the raw samples")
    parser.add_argument("--serve", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    check_folder_of(arguments.json, parser)
    if min(arguments.rounds, arguments.samples, arguments.threads, arguments.batch) < 1:
        parser.error("--rounds, --samples, --threads and --batch are at least 1")
    if arguments.serve:
        serve(arguments.serve[0], Files(Path(arguments.serve[1])), arguments.device, arguments.threads, arguments.training)
        return 0
    if not arguments.here:
        enter_venv()
    try:
        return compare(arguments)
    except ValueError as problem:  # a network that does not exist, or a size it cannot work on
        parser.error(str(problem))


if __name__ == "__main__":
    sys.exit(main())
