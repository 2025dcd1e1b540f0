#!/usr/bin/env python3
"""Golden cases: what the network must compute, to the last digit that float32 can hold.

A case is a pair of safetensors files: NAME.weights.safetensors (the parameters) and NAME.case.safetensors with

    input            [B, C, 2N+1, H, W]   8-bit frames scaled as x/255*3.2-1.6
    mask             [B, 1, H, W]         0 and 1
    stage.*                               each named intermediate result, `logits` and `probability`
    loss             [1]                  the Dice term
    grad.*                                its gradient with respect to every parameter
    sgd.total_loss   [10]                 ten losses (Dice + 1e-4 ||params||^2), each before its step, of SGD with
                                          learning rate 0.1 and momentum 0.9 on this one batch

Everything is computed in float64 from the float32 weights and input that are stored, then rounded to float32.

    tools/golden.py --write tests/golden     makes the checked-in files (this very command made them)
    tools/golden.py --verify tests/golden    makes them again in memory and compares; run by `tools/test --full`
    tools/golden.py --check FOLDER           recomputes every case found in FOLDER from its weights and input

Needs torch, numpy and safetensors; `tools/setup python` prepares a virtual environment with them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from reference_network import CeNet3d, Configuration, dice_loss, sum_of_squares
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

SGD_STEPS, SGD_LEARNING_RATE, SGD_MOMENTUM, SGD_DECAY = 10, 0.1, 0.9, 1e-4

# Bounds of `--check` and `--verify`: float64 arithmetic, float32 storage.
RELATIVE_BOUND = 1e-6
# The instance norm behind these biases cancels them: their gradients are zero up to rounding.
ZERO_GRADIENTS = {f"decoder{k}.{layer}.bias" for k in (1, 2, 3, 4) for layer in ("conv1", "deconv2", "conv3")}
ZERO_GRADIENTS |= {"rmp.conv.bias"}
ZERO_BOUND = 1e-6
# A case is only worth keeping if float32 arithmetic of any kind can reproduce it: a ReLU or a maximum that sits on a
# tie lets rounding decide a gradient. So plain float32, and float64 after shaking weights and input by a few units
# in float32's last place, must keep a fifth of what Coronet's golden test allows (1e-3, and 5e-5 for an SGD loss).
SHAKES, SHAKE = 12, 3e-7
STEADY_GRADIENT, STEADY_SGD_LOSS = 2e-4, 1e-5

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """All that a checked-in case is made from."""

    configuration: Configuration
    batch: int
    height: int
    width: int
    seed: int
    header: bool = True  # whether the weights file states its configuration

    @property
    def name(self) -> str:
        c = self.configuration
        colour = "_rgb" if c.in_channels == 3 else ""
        return f"cenet3d_{c.stem}_n{c.neighbours}_w{c.width}{colour}"


# Together: both stems, N = 0, 2 and 3, one and three channels, a batch, sides that differ both ways, and a weights
# file without a header. The smallest width keeps the files small.
RECIPES = (
    Recipe(Configuration(4, "half", 0, 1), batch=2, height=96, width=112, seed=52, header=False),
    Recipe(Configuration(4, "half", 3, 3), batch=1, height=112, width=96, seed=126),
    Recipe(Configuration(4, "quarter", 2, 1), batch=1, height=192, width=192, seed=33),
)


# ---- making a case ---------------------------------------------------------------------------------------------


def random_weights(configuration: Configuration, seed: int) -> Arrays:
    """Weights with every term awake: biases are not zero and norms are not the identity.

    RandomState's stream is frozen by NumPy's promise and uniform draws need no library function, so that every
    machine makes the same bits.
    """
    random = np.random.RandomState(seed)

    def uniform(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        return (low + (high - low) * random.random_sample(shape)).astype(np.float32)

    weights = {}
    for name, parameter in CeNet3d(configuration).state_dict().items():
        shape = tuple(parameter.shape)
        if len(shape) > 1:
            bound = float(np.sqrt(3.0 / np.prod(shape[1:])))
            # Of a layer with a single input channel the norm behind it leaves only what its eps lets through: a
            # smaller weight makes eps count, and the gradient large enough to compare.
            bound *= 0.1 if shape[1:] == (1, 1, 1) else 1.0
            weights[name] = uniform(shape, -bound, bound)
        elif name.endswith(".weight"):  # a norm's scale
            weights[name] = uniform(shape, 0.5, 1.5)
        else:
            weights[name] = uniform(shape, -0.3, 0.3)
    return weights


def random_batch(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """8-bit noise with a dark tube that moves from frame to frame, scaled for the network; and the tube's mask."""
    random = np.random.RandomState(recipe.seed + 1000)
    c, middle = recipe.configuration, recipe.configuration.neighbours
    y, x = np.mgrid[: recipe.height, : recipe.width]
    pixels = random.randint(90, 256, (recipe.batch, c.in_channels, c.frames, recipe.height, recipe.width))
    mask = np.zeros((recipe.batch, 1, recipe.height, recipe.width), np.float32)
    for b in range(recipe.batch):
        centre, slope = random.randint(recipe.width // 3, recipe.width // 2), random.randint(-40, 41)
        for t in range(c.frames):
            axis = centre + slope * y // 100 + 3 * (t - middle)
            tube = np.abs(x - axis) < 4 + 4 * y // recipe.height
            pixels[b, :, t] -= 80 * tube
            if t == middle:
                mask[b, 0] = tube
    return (pixels / 255.0 * 3.2 - 1.6).astype(np.float32), mask


def network_of(weights: Arrays, dtype: torch.dtype) -> CeNet3d:
    """The network these weights belong to, whatever the header says."""
    network = CeNet3d(Configuration.of_weights({name: array.shape for name, array in weights.items()}))
    network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    return network.to(dtype)


def compute(weights: Arrays, frames: np.ndarray, labels: np.ndarray, dtype: torch.dtype = torch.float64) -> Arrays:
    """Everything a case holds beside its input and mask."""
    x, mask = torch.from_numpy(frames.copy()).to(dtype), torch.from_numpy(labels.copy()).to(dtype)
    network = network_of(weights, dtype)
    stages = network.stages(x)
    loss = dice_loss(stages["probability"], mask)
    loss.backward()
    results: dict[str, Tensor] = {f"stage.{name}": value for name, value in stages.items()}
    results["loss"] = loss.reshape(1)
    results |= {f"grad.{name}": parameter.grad.clone() for name, parameter in network.named_parameters()}
    results["sgd.total_loss"] = sgd_losses(network_of(weights, dtype), x, mask)
    return {name: value.detach().numpy().astype(np.float64) for name, value in results.items()}


def sgd_losses(network: CeNet3d, x: Tensor, mask: Tensor) -> Tensor:
    """The total loss before each of the steps: v = momentum v + g, w = w - rate v."""
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    losses = []
    for _ in range(SGD_STEPS):
        network.zero_grad()
        total = dice_loss(torch.sigmoid(network(x)), mask) + SGD_DECAY * sum_of_squares(network)
        total.backward()
        losses.append(total.detach())
        with torch.no_grad():
            for name, p in network.named_parameters():
                velocity[name].mul_(SGD_MOMENTUM).add_(p.grad)
                p.sub_(SGD_LEARNING_RATE * velocity[name])
    return torch.stack(losses)


LEAST_GRADIENT = 2e-6


@dataclass(frozen=True)
class Case:
    """One case in memory, as it is stored."""

    name: str
    metadata: dict[str, str] | None
    weights: Arrays
    tensors: Arrays


def make(recipe: Recipe) -> Case:
    weights = random_weights(recipe.configuration, recipe.seed)
    frames, mask = random_batch(recipe)
    results = compute(weights, frames, mask)
    refuse_ties(recipe, weights, frames, mask, results)
    tensors = {"input": frames, "mask": mask} | {name: array.astype(np.float32) for name, array in results.items()}
    return Case(recipe.name, recipe.configuration.metadata() if recipe.header else None, weights, tensors)


def refuse_ties(recipe: Recipe, weights: Arrays, frames: np.ndarray, mask: np.ndarray, exact: Arrays) -> None:
    """Stops if rounding could decide what this case expects; see `SHAKES`."""
    random = np.random.RandomState(recipe.seed + 2000)

    def shaken(array: np.ndarray) -> np.ndarray:
        return array * (1 + SHAKE * (2 * random.random_sample(array.shape) - 1))

    attempts = [compute(weights, frames, mask, torch.float32)]
    for _ in range(SHAKES):
        attempts.append(compute({name: shaken(w) for name, w in weights.items()}, shaken(frames), mask))
    for attempt in attempts:
        for tensor, error, _ in compare(attempt, exact, STEADY_GRADIENT):
            if tensor == "sgd.total_loss":
                error, bound = float(np.abs(attempt[tensor] - exact[tensor]).max()), STEADY_SGD_LOSS
            elif tensor.removeprefix("grad.") in ZERO_GRADIENTS:
                bound = ZERO_BOUND / 5
            else:
                bound = STEADY_GRADIENT
            if error > bound:
                raise SystemExit(f"{recipe.name}: rounding moves {tensor} by {error:.1e}: take another seed")
    for tensor, array in exact.items():
        # A norm behind a single channel cancels its scale but for beta: what is left drowns in float32's rounding.
        parameter = tensor.removeprefix("grad.")
        norm = float(np.linalg.norm(array))
        if parameter != tensor and parameter not in ZERO_GRADIENTS and norm < LEAST_GRADIENT:
            raise SystemExit(f"{recipe.name}: {tensor} is only {norm:.1e}: take another seed")


# ---- files -----------------------------------------------------------------------------------------------------


def write(case: Case, folder: Path) -> int:
    """Writes the pair of files; returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save(case.weights, metadata=case.metadata)
    tensors = save(case.tensors)
    (folder / f"{case.name}.weights.safetensors").write_bytes(weights)
    (folder / f"{case.name}.case.safetensors").write_bytes(tensors)
    return len(weights) + len(tensors)


def read_file(path: Path) -> tuple[Arrays, dict[str, str] | None]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def read(folder: Path, name: str) -> Case:
    weights, metadata = read_file(folder / f"{name}.weights.safetensors")
    tensors, _ = read_file(folder / f"{name}.case.safetensors")
    return Case(name, metadata, weights, tensors)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".case.safetensors") for path in folder.glob("*.case.safetensors"))


# ---- comparing -------------------------------------------------------------------------------------------------


def compare(got: Arrays, expected: Arrays, relative_bound: float) -> list[tuple[str, float, float]]:
    """For each expected tensor its name, its error and the bound that the error must keep.

    The error is the relative L2 norm of the difference, or the absolute norm where the exact value is zero.
    """
    rows = []
    for name, want in expected.items():
        have = got.get(name)
        if have is None or have.shape != want.shape:
            rows.append((name, float("inf"), relative_bound))
        elif name.removeprefix("grad.") in ZERO_GRADIENTS:
            rows.append((name, float(np.linalg.norm(have.astype(np.float64))), ZERO_BOUND))
        else:
            difference = np.linalg.norm((have.astype(np.float64) - want.astype(np.float64)).ravel())
            scale = np.linalg.norm(want.astype(np.float64).ravel())
            rows.append((name, float(difference / max(scale, 1e-30)), relative_bound))
    rows += [(f"{name} (not expected)", float("inf"), 0.0) for name in got.keys() - expected.keys()]
    return rows


def report(name: str, rows: list[tuple[str, float, float]]) -> bool:
    """Prints one line for each kind of tensor; true if every error keeps its bound (a NaN does not)."""
    print(name)
    kinds = {"input and mask": [], "stages": [], "loss": [], "gradients": [], "zero gradients": [], "SGD losses": []}
    for row in rows:
        tensor = row[0]
        if tensor.removeprefix("grad.") in ZERO_GRADIENTS:
            kinds["zero gradients"].append(row)
        else:
            prefix = {"stage": "stages", "loss": "loss", "grad": "gradients", "sgd": "SGD losses"}
            kinds[prefix.get(tensor.split(".")[0], "input and mask")].append(row)
    good = True
    for kind, members in kinds.items():
        if not members:
            continue
        worst = max(members, key=lambda row: row[1] if row[1] == row[1] else float("inf"))
        fine = all(error <= bound for _, error, bound in members)
        good &= fine
        verdict = "ok" if fine else "FAILED"
        print(f"  {kind:<15} {len(members):>4}  worst {worst[1]:.1e} of {worst[2]:.0e}  {verdict:<6}  {worst[0]}")
    return good


def check(folder: Path) -> bool:
    """Recomputes each case in `folder` from the weights and the input stored there."""
    good = True
    for name in names_in(folder):
        stored = read(folder, name)
        expected = {key: array for key, array in stored.tensors.items() if key not in ("input", "mask")}
        results = compute(stored.weights, stored.tensors["input"], stored.tensors["mask"])
        good &= report(name, compare(results, expected, RELATIVE_BOUND))
    return good


def verify(folder: Path) -> bool:
    """Makes every checked-in case anew and compares it with the files; weights, input and mask to the bit."""
    good = set(names_in(folder)) == {recipe.name for recipe in RECIPES}
    if not good:
        print(f"{folder} holds {names_in(folder)}, not {[recipe.name for recipe in RECIPES]}")
    for recipe in RECIPES:
        if recipe.name not in names_in(folder):
            continue
        stored, made = read(folder, recipe.name), make(recipe)
        good &= report(recipe.name, compare(made.tensors, stored.tensors, RELATIVE_BOUND))
        same = made.metadata == stored.metadata and made.weights.keys() == stored.weights.keys()
        same = same and all(np.array_equal(made.weights[key], stored.weights[key]) for key in made.weights)
        same = same and all(np.array_equal(made.tensors[key], stored.tensors[key]) for key in ("input", "mask"))
        print(f"  weights, input, mask and header to the bit: {'ok' if same else 'FAILED'}")
        good &= same
    return good


def write_all(folder: Path) -> bool:
    total = 0
    print(f"{'case':<28} {'input':<20} {'parameters':>10} {'loss':>10} {'SGD losses':>18} {'bytes':>10}")
    for recipe in RECIPES:
        case = make(recipe)
        size = write(case, folder)
        total += size
        losses = case.tensors["sgd.total_loss"]
        shape = "x".join(str(n) for n in case.tensors["input"].shape)
        parameters = sum(array.size for array in case.weights.values())
        change = f"{losses[0]:.4f}..{losses[-1]:.4f}"
        print(f"{case.name:<28} {shape:<20} {parameters:>10} {case.tensors['loss'][0]:>10.6f} {change:>18} {size:>10}")
    print(f"{total} bytes in {folder}")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", metavar="FOLDER", type=Path, help="make this repository's cases")
    mode.add_argument("--verify", metavar="FOLDER", type=Path, help="make them again and compare")
    mode.add_argument("--check", metavar="FOLDER", type=Path, help="recompute every case found there")
    arguments = parser.parse_args()
    folder = arguments.write or arguments.verify or arguments.check
    if not arguments.write and not names_in(folder):
        print(f"no *.case.safetensors in {folder}", file=sys.stderr)
        return 1
    action = write_all if arguments.write else verify if arguments.verify else check
    return 0 if action(folder) else 1


if __name__ == "__main__":
    sys.exit(main())
