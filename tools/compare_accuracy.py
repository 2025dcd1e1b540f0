#!/usr/bin/env python3
"""Coronet beside PyTorch: what the same network has learned from the same samples, on frames that it has not seen.

    tools/compare_accuracy.py FOLDER                       stills (five folds) and phantom clips
    tools/compare_accuracy.py FOLDER --only phantom --seeds 1 2 3
    tools/compare_accuracy.py FOLDER --pretrained W        and Coronet once more on the stills, from weights W; a folder is
                                                           one where all calls have the same --pretrained

Installs what it needs by itself: Python packages into .venv (or $CORONET_VENV), Coronet's release build.

Method. Coronet trains with the preset `better`. PyTorch starts from the same weights and takes the same steps: its batches,
augmented, and its rates come from tools/batch_server.rs, which reads Coronet's run; loss and optimiser are PyTorch's own
(AdamW). Both sides' last weights are scored by `coronet evaluate` on the frames left out: Dice with the usual
post-processing, mean over frames and over the seeds of the trainings, with the interval of a bootstrap over clips; the
difference is taken clip by clip, and said for each seed, too. Folds consist of whole clips. The exit status is 1 where Coronet's mean lies more than 0.01 below PyTorch's, and
where PyTorch's is below 0.5: networks that have learned nothing agree, too.

`stills` are 40 real angiograms (--stills, by default ../shared/data/coronary_stills), clips of one frame each; `phantom`
are clips of the preset `reference`, a fifth of them left out. W must not have learned from the stills. FOLDER takes data, runs and scores; what is there is not done
again, and a run of Coronet's that was stopped goes on. CORONET and BATCH_SERVER name prebuilt programs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contenders import build_example, check_folder_of, enter_venv, machine, provenance
from studies import ROOT, Study, cell, interval

PACKAGES = ("numpy", "torch")
FOLDS = 5
ALLOWED_DEFICIT = 0.01
LEARNED = 0.5  # Dice from which on a comparison says something
PHANTOM_SEED = 501
TITLES = {"coronet": "Coronet", "torch": "PyTorch", "pretrained": "Coronet, from other weights"}


@dataclass(frozen=True)
class Question:
    """A data set, the folds that are tested and how long to learn."""

    data: str
    folds: range
    size: int
    epochs: int


def learn(folder: Path) -> None:
    """PyTorch's part: the run in `folder`/config.json, to `folder`/last.safetensors."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from golden import network_of, read_file
    from reference_network import dice_loss
    from safetensors.torch import save_file

    server = os.environ["BATCH_SERVER"]
    first = folder / "first.safetensors"
    stream = subprocess.Popen([server, "--run", folder, "--weights", first], stdout=subprocess.PIPE)
    line = stream.stdout.readline()
    if not line:
        sys.exit(f"{server} ended with status {stream.wait()}")
    header = json.loads(line)
    recipe, shapes = header["recipe"], (header["window"], header["mask"])
    if recipe["objective"] != {"rho": 0.0, "background": 0.0, "cross_entropy": 1.0}:
        sys.exit(f"PyTorch's side knows the loss of the preset `better` only, not {recipe['objective']}")
    tensors, metadata = read_file(first)
    network = network_of(tensors, torch.float32).train()
    if network.configuration.width >= 16:  # with w = 8 PyTorch 2.15 damages its heap in this format, the quicker of the two
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                module.to(memory_format=torch.channels_last)
    adam = recipe["optimizer"]
    optimizer = torch.optim.AdamW(
        network.parameters(),
        betas=(adam["beta1"], adam["beta2"]),
        eps=adam["epsilon"],
        weight_decay=adam["weight_decay"],
    )
    length = 4 * (1 + sum(map(int, map(np.prod, shapes))))
    steps, begun = 0, time.perf_counter()
    while len(data := stream.stdout.read(length)) == length:
        numbers = np.frombuffer(data, "<f4")
        window, mask = np.split(numbers[1:], [np.prod(shapes[0])])
        # Copies, for tensors that begin where PyTorch's kernels like them to.
        window, mask = (torch.from_numpy(part.reshape(s).copy()) for part, s in zip((window, mask), shapes, strict=True))
        for group in optimizer.param_groups:
            group["lr"] = float(numbers[0])
        optimizer.zero_grad(set_to_none=True)
        logits, probability = network.outputs(window)
        loss = dice_loss(probability, mask) + F.binary_cross_entropy_with_logits(logits, mask)
        loss.backward()
        optimizer.step()
        steps += 1
        if steps % 50 == 0:
            print(f"  step {steps}: loss {loss.item():.4f}, {time.perf_counter() - begun:.0f} s", flush=True)
    if stream.wait():
        sys.exit(f"{server} ended with status {stream.returncode}")
    trained = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    save_file(trained, folder / "last.safetensors", metadata=metadata)


def learn_elsewhere(ours: Path, theirs: Path, threads: int) -> None:
    """The same run in PyTorch, in a process of its own; the folder is there when it is complete."""
    if theirs.exists():
        return
    unfinished = theirs.with_name(theirs.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in ("config.json", "split.json"):
        shutil.copy(ours / name, unfinished / name)
    print(f"PyTorch: {theirs.name}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--learn", unfinished, unfinished]
    if subprocess.run(command, env=environment, check=False).returncode:
        sys.exit(1)
    unfinished.rename(theirs)


def answer(study: Study, name: str, question: Question, seed: int, arguments: argparse.Namespace) -> dict[str, dict]:
    """What each contender's evaluation says of its networks trained with `seed`."""

    def run(contender: str, fold: int) -> str:
        return f"{name}-{contender}-{fold}-seed{seed}"

    contenders = ["coronet", "torch"]
    network = ["--width", arguments.width, "--stem", "half", "--n", arguments.n]
    starts = {"coronet": network}
    if arguments.pretrained and name == "stills":
        contenders.append("pretrained")
        starts["pretrained"] = ["--init", arguments.pretrained.resolve()]
    for fold in question.folds:
        recipe = ["--preset", "better", "--size", question.size, "--epochs", question.epochs, "--seed", seed]
        recipe += ["--folds", FOLDS, "--fold", fold]
        for contender, start in starts.items():
            study.train(run(contender, fold), question.data, *start, *recipe)
        learn_elsewhere(*(study.run(run(contender, fold)) for contender in ("coronet", "torch")), arguments.threads)
    evaluations = {}
    for contender in contenders:
        runs = [word for fold in question.folds for word in ("--run", study.run(run(contender, fold)))]
        evaluations[contender] = study.score(f"{name}-{contender}-seed{seed}", question.data, *runs)
    return evaluations


def report(name: str, evaluations: dict[int, dict[str, dict]]) -> tuple[dict, bool]:
    """Prints a table of evaluations[seed][contender]; returns its numbers and whether they show that Coronet holds up."""

    def dice(contender: str, seeds: Iterable[int] = evaluations) -> list[float]:
        """Of each clip, the mean over `seeds`."""
        of_seeds = [sorted(evaluations[seed][contender]["clips"], key=lambda clip: clip["clip"]) for seed in seeds]
        of_clips = zip(*([clip["post_processed"]["dice"] for clip in clips] for clips in of_seeds), strict=True)
        return [statistics.fmean(values) for values in of_clips]

    def beyond(contender: str, seeds: Iterable[int] = evaluations) -> list[float]:
        return [ours - their for ours, their in zip(dice(contender, seeds), dice("torch", seeds), strict=True)]

    theirs = dice("torch")
    rows = {}
    trainings = "one training" if len(evaluations) == 1 else f"{len(evaluations)} trainings each"
    print(f"\n{name}: Dice of {len(theirs)} clips left out, {trainings}, mean and 95 % interval over clips\n")
    print(f"{'':<28} {'Dice':<28} beyond PyTorch, clip by clip")
    for contender in next(iter(evaluations.values())):
        values, difference = dice(contender), interval(beyond(contender))
        of_seeds = {seed: [statistics.fmean(of(contender, [seed])) for of in (dice, beyond)] for seed in evaluations}
        rows[contender] = {"dice": interval(values), "beyond_torch": difference, "clips": values, "seeds": of_seeds}
        print(f"{TITLES[contender]:<28} {cell(interval(values)):<28} {'' if contender == 'torch' else cell(difference, '+')}")
        for seed, (mean, ahead) in of_seeds.items() if len(of_seeds) > 1 else ():
            print(f"{f'  seed {seed}':<28} {mean:<28.4f} {'' if contender == 'torch' else f'{ahead:+.4f}'}")
    holds = statistics.fmean(dice("coronet")) >= statistics.fmean(theirs) - ALLOWED_DEFICIT
    if not holds:
        print(f"Coronet is more than {ALLOWED_DEFICIT} BELOW PyTorch")
    learned = statistics.fmean(theirs) >= LEARNED
    if not learned:
        print(f"PyTorch's mean is below {LEARNED}: too little was learned for a comparison")
    return rows, holds and learned


def stills(study: Study, folder: Path) -> None:
    """The stills as clips of one frame."""
    images = sorted(folder.glob("[0-9][0-9].png"))
    if not images:
        sys.exit(f"{folder} holds no stills (NN.png and NN_mask.png); --stills names another folder, --only phantom needs none")
    for image in images:
        name = f"still-{image.stem}"
        if not (study.data("stills") / name).exists():
            labels = image.with_name(f"{image.stem}_mask.png")
            out = ["--out", study.data("stills"), "--quiet"]
            study.coronet("dataset", "extract", image, "--labels", labels, "--name", name, *out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("stills", "phantom"), help="one of the two questions")
    parser.add_argument("--pretrained", type=Path, metavar="W", help="weights from which Coronet learns the stills once more")
    parser.add_argument("--stills", type=Path, default=ROOT / "../shared/data/coronary_stills", metavar="DIR")
    parser.add_argument("--width", type=int, default=16, help="base width w of the network (default 16)")
    parser.add_argument("--n", type=int, default=1, help="neighbouring frames on each side (default 1)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one training each (default 1)")
    parser.add_argument("--still-epochs", type=int, default=60, help="epochs on the stills (default 60)")
    parser.add_argument("--still-size", type=int, default=304, help="side of the square the network sees (default 304)")
    parser.add_argument("--clips", type=int, default=40, help="phantom clips (default 40)")
    parser.add_argument("--frames", type=int, default=8, help="frames of each (default 8)")
    parser.add_argument("--phantom-epochs", type=int, default=20, help="epochs on the phantom (default 20)")
    parser.add_argument("--phantom-size", type=int, default=304, help="(default 304)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="PyTorch's; default: every core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write a record")
    parser.add_argument("--learn", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    check_folder_of(arguments.json, parser)
    if min(arguments.still_epochs, arguments.phantom_epochs, arguments.threads) < 1 or arguments.clips < FOLDS:
        parser.error(f"epochs and threads are at least 1, clips at least {FOLDS}")
    if len(set(arguments.seeds)) != len(arguments.seeds):
        parser.error("a seed stands there twice")
    enter_venv()
    if arguments.learn:
        learn(arguments.learn)
        return 0
    begun = provenance(PACKAGES, machine())
    kept = ("width", "n", "seeds", "still_epochs", "still_size", "clips", "frames", "phantom_epochs", "phantom_size")
    settings = {name: getattr(arguments, name) for name in kept}
    pretrained = arguments.pretrained and str(arguments.pretrained.resolve())
    # More seeds may come later; everything else decides what lies there.
    study = Study(arguments.folder, {k: v for k, v in settings.items() if k != "seeds"} | {"pretrained": pretrained})
    if "BATCH_SERVER" not in os.environ:
        os.environ["BATCH_SERVER"] = build_example("batch_server")
    questions = {}
    if arguments.only != "phantom":
        stills(study, arguments.stills)
        questions["stills"] = Question("stills", range(FOLDS), arguments.still_size, arguments.still_epochs)
    if arguments.only != "stills":
        clips = ["--preset", "reference", "--clips", arguments.clips, "--frames", arguments.frames]
        study.draw("phantom", *clips, "--fps", 7.5, "--start", 0.9, "--seed", PHANTOM_SEED)
        questions["phantom"] = Question("phantom", range(1), arguments.phantom_size, arguments.phantom_epochs)
    # Seed by seed, so that what there is after a while compares both.
    evaluations = {name: {} for name in questions}
    for seed in arguments.seeds:
        for name, question in questions.items():
            evaluations[name][seed] = answer(study, name, question, seed, arguments)
    rows, all_hold = {}, True
    for name in questions:
        rows[name], holds = report(name, evaluations[name])
        all_hold &= holds
    if arguments.json:
        # What was trained before may be of another program than the repository's.
        of_seeds = [of for by_seed in evaluations.values() for of in by_seed.values()]
        commits = sorted({evaluation["commit"] or "unknown" for of in of_seeds for evaluation in of.values()})
        record = begun | {"coronet_commits": commits, "settings": settings, "questions": rows}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
