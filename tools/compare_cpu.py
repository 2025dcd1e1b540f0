#!/usr/bin/env python3
"""Coronet beside PyTorch, ONNX Runtime and OpenVINO: one frame of the same network, in fp32 and bf16, on the same cores.

    tools/compare_cpu.py                                w = 64, stem half, N = 2, 448x448: the network of the article
    tools/compare_cpu.py --precisions fp32 bf16         every contender in both precisions, in one run
    tools/compare_cpu.py --stem quarter --rounds 20 --json benches/records/FILE.json

Installs what it needs by itself: Python packages into .venv (or $CORONET_VENV), Coronet's release build.

Method. Seeded weights and one input are written as safetensors for Coronet and PyTorch and as ONNX for the others.
Each contender in each precision is a process of its own; all take turns as tools/contenders.py says. In each round every one
has one turn, in an order that rotates from round to round; a turn is an untimed frame, to refill the caches, then a timed
one. Only the forward pass is timed, by the contender itself: from a plain array of float32 to plain arrays of float32, in
bf16 too, conversions included.

fp32    PyTorch with its usual memory format; OpenVINO with INFERENCE_PRECISION_HINT f32, for its own choice is bf16 where the
        processor has it.
bf16    PyTorch with the whole model and the input converted: autocast takes as long or a little longer. It enters with its
        usual memory format, which is quicker at w = 64 without AMX, and with channels last, which is quicker in narrower
        networks. OpenVINO with INFERENCE_PRECISION_HINT bf16. ONNX Runtime is absent: the CPU provider of 1.32 has neither a
        convolution nor a transposed one in bfloat16 ("Could not find an implementation for Conv(22)"; ONNX itself has none
        below opset 22). On a processor without instructions for bfloat16 a contender may be slower than in fp32, or not
        start: the output says which instructions there are.

Outputs are compared with PyTorch in float64, logits and probability, relative L2. In fp32 1e-4 is allowed. In bf16 2e-2 is
allowed to Coronet and 1e-1, which only tells bfloat16 from nonsense, to the others. The exit status is 1 if one disagrees, or
if one of Coronet's or one in fp32 does not start; others in bf16 that do not are named. `Coronet takes` and the last lines
are ratios of medians of one precision.

Memory is the largest resident set that a contender's process has had by the end of its last turn: weights, what the engine
makes of them while it loads, maps, and libraries: with Python's contenders the interpreter and numpy, with PyTorch's torch.
What writes the files, exports to ONNX and computes in float64 is another process.

A contender is a program that reads lines and answers in lines. Coronet's is tools/frame_server.rs:

    frame_server --weights W.safetensors --input I.safetensors --threads T --precision float32|bfloat16

    (starts)        `ready`, after loading and warming up; I holds `input` [1, C, 2N+1, H, W]
    run             one frame; answers with its milliseconds, a plain decimal number
    output PATH     writes the last frame's `logits` and `probability` [1, 1, H, W] to a safetensors file; `written`
    quit            ends, as the end of the input does

A record (--json) of schema_version 2 has `precision`, `peak_megabytes` and `bound` for each contender, and who is `absent`;
contenders in fp32 have the names they had in records without a version.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from contenders import Contender, build_example, check_folder_of, enter_venv, machine, print_machine, provenance

CONTENDERS = {"coronet": "Coronet", "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}  # and what Coronet and PyTorch call them
WARM_UP_FRAMES = 3
SEED = 7
# Relative L2 distance from float64, for logits and probability, that Coronet and that others may have: float32 arithmetic
# reaches about 1e-5; PyTorch and OpenVINO in bfloat16 4e-2 to 9e-2 in logits, 1e-2 in probability.
BOUNDS = {"fp32": (1e-4, 1e-4), "bf16": (2e-2, 1e-1)}
# What an engine cannot do on any processor.
IMPOSSIBLE = {("onnxruntime", "bf16"): "its CPU provider has no convolution in bfloat16"}
# Flags of /proc/cpuinfo.
BF16_INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "torch")


# ---- contenders ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A contender: whose, in which precision, in which memory format."""

    who: str
    precision: str
    channels_last: bool = False

    @property
    def name(self) -> str:
        parts = [self.who, "" if self.precision == "fp32" else self.precision, "channels-last" if self.channels_last else ""]
        return "-".join(part for part in parts if part)

    @property
    def title(self) -> str:
        return f"{self.precision} {self.engine}"

    @property
    def engine(self) -> str:
        return CONTENDERS[self.who] + (", channels last" if self.channels_last else "")

    @property
    def bound(self) -> float:
        ours, others = BOUNDS[self.precision]
        return ours if self.who == "coronet" else others

    @staticmethod
    def named(name: str) -> Variant:
        return next(variant for variant in variants(CONTENDERS, PRECISIONS) if variant.name == name)


def variants(names: Iterable[str], precisions: Iterable[str]) -> list[Variant]:
    """Every contender of these names in these precisions."""
    found = []
    for precision in precisions:
        for name in names:
            found.append(Variant(name, precision))
            if (name, precision) == ("torch", "bf16"):
                found.append(Variant(name, precision, channels_last=True))
    return found


@dataclass(frozen=True)
class Files:
    """Where the network and its input lie."""

    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def input(self) -> Path:
        return self.folder / "input.safetensors"

    @property
    def onnx(self) -> Path:
        return self.folder / "network.onnx"


def serve(name: str, files: Files, threads: int) -> None:
    """The part of a contender: answers lines on stdin as the text at the top of this file says."""
    from safetensors.numpy import load_file, save_file

    variant = Variant.named(name)
    forward = {"torch": serve_torch, "onnxruntime": serve_onnxruntime, "openvino": serve_openvino}[variant.who](
        variant, files, load_file(files.input)["input"], threads
    )
    outputs = [forward() for _ in range(WARM_UP_FRAMES)][-1]
    print("ready", flush=True)
    for line in sys.stdin:
        verb, _, path = line.strip().partition(" ")
        if verb == "run":
            start = time.perf_counter()
            outputs = forward()
            print(1e3 * (time.perf_counter() - start), flush=True)
        elif verb == "output":
            save_file({"logits": outputs[0], "probability": outputs[1]}, path)
            print("written", flush=True)
        else:
            break


def serve_torch(variant: Variant, files: Files, frames, threads: int) -> Callable:
    import torch
    from golden import network_of, read_file

    torch.set_num_threads(threads)
    dtype = getattr(torch, PRECISIONS[variant.precision])
    network = network_of(read_file(files.weights)[0], dtype).eval()
    if variant.channels_last:
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                module.to(memory_format=torch.channels_last)
    x = torch.from_numpy(frames)

    def forward() -> list:
        with torch.inference_mode():  # in float32 `to` and `float` do nothing
            return [output.float().contiguous().numpy() for output in network.outputs(x.to(dtype))]

    return forward


def serve_onnxruntime(variant: Variant, files: Files, frames, threads: int) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(files.onnx), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["logits", "probability"], {"input": frames})


def serve_openvino(variant: Variant, files: Files, frames, threads: int) -> Callable:
    import openvino

    hint = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16}[variant.precision]
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    network = openvino.Core().compile_model(str(files.onnx), "CPU", settings)
    taken = network.get_property("INFERENCE_PRECISION_HINT")
    if taken != hint:
        sys.exit(f"it computes in {taken.to_string()} where {hint.to_string()} was asked for")
    request = network.create_infer_request()
    request.set_input_tensor(openvino.Tensor(frames))  # a copy, which lives as long as the request

    def forward() -> list:
        request.infer()
        return [request.get_tensor(name).data for name in ("logits", "probability")]

    return forward


def command_of(variant: Variant, files: Files, threads: int, server: str) -> list[str]:
    if variant.who == "coronet":
        frames = ["--weights", str(files.weights), "--input", str(files.input)]
        return [server, *frames, "--threads", str(threads), "--precision", PRECISIONS[variant.precision]]
    here = [sys.executable, str(Path(__file__).resolve())]
    return [*here, "--serve", variant.name, str(files.folder), "--threads", str(threads)]


def start(chosen: list[Variant], files: Files, threads: int, running: dict[Variant, Contender]) -> dict[Variant, str]:
    """Adds those that start to `running`, one after the other; returns why the others do not."""
    server = build_example("frame_server") if any(variant.who == "coronet" for variant in chosen) else ""
    absent = {}
    for variant in chosen:
        if (variant.who, variant.precision) in IMPOSSIBLE:
            absent[variant] = IMPOSSIBLE[variant.who, variant.precision]
            continue
        command = command_of(variant, files, threads, server)
        try:
            running[variant] = Contender(variant.title, command, threads, files.folder / f"{variant.name}.log")
        except SystemExit as problem:
            print(problem, file=sys.stderr)
            absent[variant] = str(problem).strip().splitlines()[-1]
    return absent


# ---- the network and what it must give -------------------------------------------------------------------------


def prepare(configuration, size: int, files: Files) -> dict:
    """Writes weights, input and ONNX; returns the outputs in float64."""
    import numpy as np
    import torch
    from golden import Recipe, network_of, random_batch, random_weights
    from safetensors.numpy import save_file

    weights = random_weights(configuration, SEED)
    frames, _ = random_batch(Recipe(configuration, 1, size, size, SEED))
    save_file(weights, files.weights, metadata=configuration.metadata())
    save_file({"input": frames}, files.input)
    export_onnx(network_of(weights, torch.float32).eval(), torch.from_numpy(frames), files.onnx)
    with torch.inference_mode():
        stages = network_of(weights, torch.float64).stages(torch.from_numpy(frames.astype(np.float64)))
    return {name: stages[name].numpy() for name in ("logits", "probability")}


def export_onnx(network, frames, path: Path) -> None:
    import warnings

    import torch

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network.outputs(x)

    names = {"input_names": ["input"], "output_names": ["logits", "probability"]}
    with warnings.catch_warnings():
        # The exporter by tracing is on its way out, needs nothing beside PyTorch, and gives the plainer graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(Outputs(), (frames,), str(path), dynamo=False, opset_version=17, **names)


def distance(path: Path, expected: dict) -> dict[str, float]:
    """Relative L2 distance from float64 of each output in a file."""
    import numpy as np
    from safetensors.numpy import load_file

    got = load_file(path)
    distances = {}
    for name, exact in expected.items():
        if got[name].shape != exact.shape:
            sys.exit(f"{path.stem}: `{name}` has shape {got[name].shape}, not {exact.shape}")
        distances[name] = float(np.linalg.norm(got[name] - exact) / np.linalg.norm(exact))
    return distances


# ---- the record ------------------------------------------------------------------------------------------------


def agrees(variant: Variant, row: dict) -> bool:
    return all(value <= variant.bound for value in row["distance_from_float64"].values())  # false for a NaN too


def bf16_instructions(flags: list[str]) -> str:
    """What a processor multiplies bfloat16 with, so that a reader knows what the times in bf16 mean."""
    found = [name for flag, name in BF16_INSTRUCTIONS.items() if flag in flags]
    missing = [name for flag, name in BF16_INSTRUCTIONS.items() if flag not in flags]
    line = f"instructions: {' '.join(flags) or 'none that matter here'}; for bfloat16: {', '.join(found) or 'none'}"
    if missing:
        line += f"\nthis processor has no {' and no '.join(missing)}: on one that has, times in bf16 are others"
    return line


def table(rows: dict[Variant, dict], absent: dict[Variant, str]) -> None:
    """One line for each contender, then how the fastest peer compares; the ratios are of medians."""
    medians = {variant: statistics.median(row["samples_ms"]) for variant, row in rows.items()}
    print(
        f"{'':<28} {'median':>10} {'min':>10} {'max':>10} {'peak memory':>12}   {'Coronet takes':<15} {'logits':>8} "
        f"{'probability':>11}"
    )
    for variant, row in rows.items():
        samples, apart = row["samples_ms"], row["distance_from_float64"]
        ours = medians.get(Variant("coronet", variant.precision))
        ratio = f"{ours / medians[variant]:.2f}x its time" if ours and variant.who != "coronet" else ""
        times = " ".join(f"{ms:>7.1f} ms" for ms in (medians[variant], min(samples), max(samples)))
        verdict = "" if agrees(variant, row) else "  DISAGREES"
        print(
            f"{variant.title:<28} {times} {row['peak_megabytes']:>9.0f} MB   {ratio:<15} {apart['logits']:>8.1e} "
            f"{apart['probability']:>11.1e}{verdict}"
        )
    for variant, why in absent.items():
        print(f"{variant.title:<28} absent: {why}")
    print()
    for precision in PRECISIONS:
        peers = [variant for variant in rows if variant.precision == precision and variant.who != "coronet"]
        ours = medians.get(Variant("coronet", precision))
        if ours and peers:
            best = min(peers, key=medians.get)
            print(f"{precision}: {best.engine}, the fastest peer, takes {medians[best] / ours:.2f} times Coronet's time")


def compare(arguments: argparse.Namespace) -> int:
    from reference_network import Configuration

    begun = provenance(PACKAGES, machine())
    here = begun["machine"]
    configuration = Configuration(arguments.width, arguments.stem, arguments.n, arguments.channels)
    chosen = variants(arguments.contenders, arguments.precisions)
    running: dict[Variant, Contender] = {}
    rows: dict[Variant, dict] = {}
    with tempfile.TemporaryDirectory(prefix="coronet-compare-") as folder:
        files = Files(Path(folder))
        expected = prepare(configuration, arguments.size, files)
        try:
            absent = start(chosen, files, arguments.threads, running)
            order = list(running.values())
            for turn in range(arguments.rounds):
                first = turn % max(len(order), 1)
                for contender in order[first:] + order[:first]:
                    contender.turn()
            for variant, contender in running.items():
                memory = contender.peak_megabytes()  # before the output is copied
                path = files.folder / f"{variant.name}.safetensors"
                contender.write_output(path)
                rows[variant] = {
                    "precision": variant.precision,
                    "samples_ms": contender.samples,
                    "peak_megabytes": memory,
                    "distance_from_float64": distance(path, expected),
                    "bound": variant.bound,
                }
        finally:
            for contender in running.values():
                contender.end()

    print_machine(here, arguments.threads)
    if "bf16" in arguments.precisions:
        print(bf16_instructions(here["flags"]))
    print(
        f"one frame of cenet3d w={arguments.width} {arguments.stem} N={arguments.n}, {arguments.size}x{arguments.size}; "
        f"{arguments.rounds} alternating rounds"
    )
    for precision in arguments.precisions:
        ours, others = BOUNDS[precision]
        both = f"{ours:.0e}" if ours == others else f"{ours:.0e} for Coronet, {others:.0e} for others"
        print(f"{precision}: outputs against float64, bound {both}")
    print()
    table(rows, absent)
    if arguments.json:
        precision = " ".join(arguments.precisions)
        record = begun | {
            "schema": "coronet/compare-cpu",
            "schema_version": 2,
            "network": configuration.metadata() | {"size": arguments.size, "precision": precision, "seed": SEED},
            "threads": arguments.threads,
            "warm_up_frames": WARM_UP_FRAMES,
            "contenders": {variant.name: row for variant, row in rows.items()},
            "absent": {variant.name: why for variant, why in absent.items()},
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    missing = [variant for variant in absent if variant.who == "coronet" or variant.precision == "fp32"]
    return 0 if rows and not missing and all(agrees(variant, row) for variant, row in rows.items()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="base width w of the network (default 64)")
    parser.add_argument("--stem", choices=("half", "quarter"), default="half")
    parser.add_argument("--n", type=int, default=2, help="neighbouring frames on each side (default 2)")
    parser.add_argument("--channels", type=int, default=1, help="channels of a frame, 1 or 3 (default 1)")
    parser.add_argument("--size", type=int, default=448, help="side of the square input (default 448)")
    parser.add_argument("--rounds", type=int, default=10, help="timed frames of each contender (default 10)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: every core")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32"], help="default: fp32 alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a record with the raw samples")
    parser.add_argument("--serve", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    check_folder_of(arguments.json, parser)
    if min(arguments.rounds, arguments.threads) < 1:
        parser.error("--rounds and --threads are at least 1")
    for option in ("contenders", "precisions"):  # once each, however often they are named
        setattr(arguments, option, list(dict.fromkeys(getattr(arguments, option))))
    enter_venv()
    if arguments.serve:
        serve(arguments.serve[0], Files(Path(arguments.serve[1])), arguments.threads)
        return 0
    try:
        return compare(arguments)
    except ValueError as problem:  # a network that does not exist, or a size it cannot work on
        parser.error(str(problem))


if __name__ == "__main__":
    sys.exit(main())
