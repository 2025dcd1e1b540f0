#!/usr/bin/env python3
"""Coronet beside PyTorch, ONNX Runtime and OpenVINO: one frame of the same network, in fp32, on the same cores.

    tools/compare_cpu.py                                w = 64, stem half, N = 2, 448x448: the network of the article
    tools/compare_cpu.py --stem quarter --rounds 20 --json benches/records/FILE.json

Installs what it needs by itself: Python packages into .venv (or $CORONET_VENV), Coronet's release build.

Method. Seeded weights and one input are written as safetensors for Coronet and PyTorch and as ONNX for the others.
Contenders take turns as tools/contenders.py says. In each round every contender has one turn, in an
order that rotates from round to round; a turn is an untimed frame, to refill the caches, then a timed one. Only
the forward pass is timed, by the contender itself. Outputs are compared with PyTorch in float64; the exit status
is 1 if one disagrees.

A contender is a program that reads lines and answers in lines. Coronet's is tools/frame_server.rs:

    frame_server --weights W.safetensors --input I.safetensors --threads T

    (starts)        `ready`, after loading and warming up; I holds `input` [1, C, 2N+1, H, W]
    run             one frame; answers with its milliseconds, a plain decimal number
    output PATH     writes the last frame's `logits` and `probability` [1, 1, H, W] to a safetensors file; `written`
    quit            ends, as the end of the input does
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contenders import Contender, build_example, enter_venv, machine, print_machine, provenance

CONTENDERS = {"coronet": "Coronet", "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
WARM_UP_FRAMES = 3
SEED = 7
# Relative L2 distance from float64, for logits and probability: float32 arithmetic reaches about 1e-5.
AGREEMENT_BOUND = 1e-4
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "torch")


# ---- contenders ------------------------------------------------------------------------------------------------


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

    forward = {"torch": serve_torch, "onnxruntime": serve_onnxruntime, "openvino": serve_openvino}[name](
        files, load_file(files.input)["input"], threads
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


def serve_torch(files: Files, frames, threads: int) -> Callable:
    import torch
    from golden import network_of, read_file

    torch.set_num_threads(threads)
    network = network_of(read_file(files.weights)[0], torch.float32).eval()
    x = torch.from_numpy(frames)

    def forward() -> list:
        with torch.inference_mode():
            return [output.numpy() for output in network.outputs(x)]

    return forward


def serve_onnxruntime(files: Files, frames, threads: int) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(files.onnx), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["logits", "probability"], {"input": frames})


def serve_openvino(files: Files, frames, threads: int) -> Callable:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    request = openvino.Core().compile_model(str(files.onnx), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(frames))  # a copy, which lives as long as the request

    def forward() -> list:
        request.infer()
        return [request.get_tensor(name).data for name in ("logits", "probability")]

    return forward


def command_of(name: str, files: Files, threads: int) -> list[str]:
    if name == "coronet":
        frames = ["--weights", str(files.weights), "--input", str(files.input)]
        return [build_example("frame_server"), *frames, "--threads", str(threads)]
    return [sys.executable, str(Path(__file__).resolve()), "--serve", name, str(files.folder), "--threads", str(threads)]


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


def table(contenders: list[Contender], distances: list[dict[str, float]]) -> None:
    """One line for each contender; the ratio is of medians."""
    ours = next((c for c in contenders if c.title == CONTENDERS["coronet"]), None)
    print(f"{'':<14} {'median':>10} {'min':>10} {'max':>10}   {'Coronet takes':<16} {'logits':>9} {'probability':>12}")
    for contender, apart in zip(contenders, distances, strict=True):
        median = statistics.median(contender.samples)
        ratio = ""
        if ours and ours is not contender:
            ratio = f"{statistics.median(ours.samples) / median:.2f}x its time"
        times = " ".join(f"{ms:>7.1f} ms" for ms in (median, min(contender.samples), max(contender.samples)))
        good = max(apart.values()) <= AGREEMENT_BOUND  # false for a NaN too
        verdict = "" if good else "  DISAGREES"
        print(f"{contender.title:<14} {times}   {ratio:<16} {apart['logits']:>9.1e} {apart['probability']:>12.1e}{verdict}")


def compare(arguments: argparse.Namespace) -> int:
    from reference_network import Configuration

    here = machine()
    configuration = Configuration(arguments.width, arguments.stem, arguments.n, arguments.channels)
    contenders: list[Contender] = []
    with tempfile.TemporaryDirectory(prefix="coronet-compare-") as folder:
        files = Files(Path(folder))
        expected = prepare(configuration, arguments.size, files)
        try:
            for name in arguments.contenders:
                command = command_of(name, files, arguments.threads)
                contenders.append(Contender(CONTENDERS[name], command, arguments.threads, files.folder / f"{name}.log"))
            for turn in range(arguments.rounds):
                first = turn % len(contenders)
                for contender in contenders[first:] + contenders[:first]:
                    contender.turn()
            distances = []
            for name, contender in zip(arguments.contenders, contenders, strict=True):
                path = files.folder / f"{name}.safetensors"
                contender.write_output(path)
                distances.append(distance(path, expected))
        finally:
            for contender in contenders:
                contender.end()

    print_machine(here, arguments.threads)
    print(
        f"one frame of cenet3d w={arguments.width} {arguments.stem} N={arguments.n}, {arguments.size}x{arguments.size}, "
        f"fp32; {arguments.rounds} alternating rounds; outputs against float64, bound {AGREEMENT_BOUND:.0e}\n"
    )
    table(contenders, distances)
    if arguments.json:
        record = provenance(PACKAGES, here) | {
            "network": configuration.metadata() | {"size": arguments.size, "precision": "fp32", "seed": SEED},
            "threads": arguments.threads,
            "warm_up_frames": WARM_UP_FRAMES,
            "contenders": {
                name: {"samples_ms": contender.samples, "distance_from_float64": apart}
                for name, contender, apart in zip(arguments.contenders, contenders, distances, strict=True)
            },
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    agreed = all(value <= AGREEMENT_BOUND for apart in distances for value in apart.values())
    return 0 if agreed else 1


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
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a record with the raw samples")
    parser.add_argument("--serve", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.threads) < 1:
        parser.error("--rounds and --threads are at least 1")
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
