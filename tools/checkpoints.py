#!/usr/bin/env python3
"""Checkpoints as PyTorch really writes them, small, for the test of Coronet's reader.

`index.json` beside them says what each file holds, every number of every tensor, or which words its refusal has.

    tools/checkpoints.py --write tests/import/pytorch     makes the checked-in files (this very command made them)
    tools/checkpoints.py --verify tests/import/pytorch    makes the index again, and loads the files in PyTorch to see
                                                          that they hold what it says; run by `tools/test --full`

Files of hostile and foreign content are written here and loaded nowhere.
Needs torch, numpy and safetensors; `tools/setup python` prepares a virtual environment with them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]
LEGACY = {"_use_new_zipfile_serialization": False}
INDEX = "index.json"


def numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers that every floating-point type used here holds exactly: eighths between -8 and 8."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-64, 65, shape, generator=generator) / 8).to(dtype)


class Network(nn.Module):
    """A convolution and a batch norm: parameters, statistics, and a counter that is no float."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            for seed, parameter in enumerate(self.parameters()):
                parameter.copy_(numbers(*parameter.shape, seed=seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Command:
    """What a hostile file holds: Python would run the command while it loads."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def types() -> Tensors:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    floats = {str(kind).removeprefix("torch."): numbers(2, 3, seed=i, dtype=kind) for i, kind in enumerate(kinds)}
    return floats | {"one": torch.tensor(0.125), "none": torch.zeros(0, 3), "integers": torch.arange(4)}


def views() -> Tensors:
    """Tensors that share one storage, none of them simply the whole of it."""
    base = numbers(4, 6, seed=5)
    return {
        "whole": base,
        "transposed": base.t(),
        "every_second": base[1:, ::2],
        "behind": base.reshape(-1)[5:],
        "channels_last": numbers(2, 3, 2, 2, seed=6).contiguous(memory_format=torch.channels_last),
    }


def training() -> tuple[dict[str, Any], Tensors]:
    """A checkpoint in the middle of training, and the network's part of it."""
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2, 4])
    # Statistics stay as they are outside training; a step of size 0 makes the moments and leaves the numbers exact.
    network.eval()(torch.ones(1, 2, 5, 5)).sum().backward()
    optimiser.param_groups[0]["lr"] = 0.0
    optimiser.step()
    state = network.state_dict()
    return {
        "epoch": 3,
        "args": {"lr": 1e-3, "name": "run", "seed": 2**70, "sizes": (1, 2), "flags": [True, None], "tags": {"a"}},
        "best": np.float64(0.75),
        "history": np.arange(3),
        "random": torch.get_rng_state(),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "state_dict": state,
        "optimizer": optimiser.state_dict(),
        "scheduler": schedule.state_dict(),
    }, state


def good_files() -> dict[str, tuple[Callable[[Path], None], Tensors]]:
    """File name to how it is written and what is to be read from it."""

    def saved(content: Any, **options: Any) -> Callable[[Path], None]:
        return lambda path: torch.save(content, path, **options)

    network = Network()
    state = network.state_dict()
    plain = {name: tensor.clone() for name, tensor in state.items()}
    checkpoint, trained = training()
    first = {"a": numbers(2, seed=8)}
    files = {
        "state_dict.zip.pth": (saved(state), plain),
        # The archive's folder is called like the file; see `Archive::open` in the reader for what this one does.
        "twenty_one_characters.pth": (saved(state), plain),
        "state_dict.legacy.pth": (saved(state, **LEGACY), plain),
        "data_parallel.zip.pth": (saved(nn.DataParallel(network).state_dict()), plain),
        "parameters.zip.pth": (saved(dict(network.named_parameters())), dict(network.named_parameters())),
        "parameters.legacy.pth": (saved(dict(network.named_parameters()), **LEGACY), dict(network.named_parameters())),
        "training.zip.pth": (saved(checkpoint), trained),
        "training.legacy.pth": (saved(checkpoint, **LEGACY), trained),
        "types.zip.pth": (saved(types()), types()),
        "types.legacy.pth": (saved(types(), **LEGACY), types()),
        "types.safetensors": (lambda path: safetensors.torch.save_file(types(), path), types()),
        "views.zip.pth": (saved(views()), views()),
        "views.legacy.pth": (saved(views(), **LEGACY), views()),
        "unsigned.zip.pth": (saved(first | {"b": torch.ones(2, dtype=torch.uint16)}), first),
    }
    for protocol in (1, 3, 4, 5):
        for kind, options in (("zip", {}), ("legacy", LEGACY)):
            write = saved(OrderedDict(state), pickle_protocol=protocol, **options)
            files[f"protocol_{protocol}.{kind}.pth"] = (write, plain)
    return files


def refused_files() -> dict[str, tuple[Callable[[Path], None], str]]:
    """File name to how it is written and words of the refusal."""
    system = {"weight": numbers(2, seed=1), "extra": Command(os.system, "touch coronet-was-here")}
    evaluate = {"weight": numbers(2, seed=1), "extra": Command(eval, "1 + 1")}
    script = torch.jit.script(nn.Conv2d(1, 1, 1))
    module = os.system.__module__  # `posix` or `nt`, which `os` is another name of

    def saved(content: Any, **options: Any) -> Callable[[Path], None]:
        return lambda path: torch.save(content, path, **options)

    return {
        "os_system.zip.pth": (saved(system), f"asks Python to call {module}.system;"),
        "os_system.legacy.pth": (saved(system, **LEGACY), f"asks Python to call {module}.system;"),
        "os_system.protocol_4.pth": (saved(system, pickle_protocol=4), f"asks Python to call {module}.system;"),
        "eval.zip.pth": (saved(evaluate), "asks Python to call __builtin__.eval;"),
        "whole_network.zip.pth": (saved(nn.Conv2d(1, 1, 1)), "asks Python to call torch.nn.modules.conv.Conv2d;"),
        "torchscript.pt": (lambda path: torch.jit.save(script, str(path)), "is a TorchScript program"),
    }


def described(tensors: Tensors) -> dict[str, Any]:
    """Type, shape and every number of each tensor, in the order of the names."""
    return {
        name: {
            "type": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "numbers": tensor.detach().double().reshape(-1).tolist(),
        }
        for name, tensor in sorted(tensors.items())
    }


def index() -> dict[str, Any]:
    """What `index.json` says."""
    good = {name: {"tensors": described(tensors)} for name, (_, tensors) in good_files().items()}
    return good | {name: {"refused": words} for name, (_, words) in refused_files().items()}


def index_text() -> str:
    """One line a file, so that a change shows in a diff."""
    lines = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(index().items()))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_all(folder: Path) -> bool:
    """Writes every file and the index."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (write, _) in (good_files() | refused_files()).items():
        write(folder / name)
    (folder / INDEX).write_text(index_text())
    print(f"{len(index())} files in {folder}")
    return True


def loaded(path: Path) -> Tensors:
    """The network's tensors as PyTorch itself reads them, without the prefix of `DataParallel`."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    # NumPy's numbers are in the training checkpoints; these files were written here.
    content = torch.load(path, weights_only=False)
    content = content.get("state_dict", content)
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def verify(folder: Path) -> bool:
    """Compares the index with one made anew, and each file that is not to be refused with what PyTorch finds in it."""
    good = (folder / INDEX).read_text() == index_text()
    if not good:
        print(f"{folder / INDEX} differs from the one made anew")
    names = {path.name for path in folder.iterdir()} - {INDEX}
    if names != set(index()):
        print(f"missing or left over: {sorted(names ^ set(index()))}")
        good = False
    for name, (_, tensors) in good_files().items():
        found = {key: value for key, value in loaded(folder / name).items() if key in tensors}
        if described(found) != described(tensors):
            print(f"{name} holds something else")
            good = False
    print(f"{len(index())} files: {'as the index says' if good else 'DIFFERENT'}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", metavar="FOLDER", type=Path, help="make the files and the index")
    mode.add_argument("--verify", metavar="FOLDER", type=Path, help="compare them with what is made anew")
    arguments = parser.parse_args()
    # The formats that PyTorch would rather not write any more are the point here.
    warnings.filterwarnings("ignore")
    good = write_all(arguments.write) if arguments.write else verify(arguments.verify)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
