"""What the comparisons share: contenders that take turns on one machine, and what a record says about it.

Every contender loads and warms up in a process of its own; all but the one whose turn it is are stopped with SIGSTOP, so
that nobody's idle threads take time from another. It is a program that reads lines and answers in lines: `ready` when it
has started; to `run` with the milliseconds of one piece of work, a plain decimal number; to what else it knows with a
line. It ends with its input.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERESTING_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")


def enter_venv() -> None:
    """Continues in the virtual environment, which `tools/setup` makes if need be."""
    venv = Path(os.environ.get("CORONET_VENV", ".venv"))
    venv = venv if venv.is_absolute() else ROOT / venv
    if Path(sys.prefix).resolve() == venv.resolve():
        return
    if subprocess.run([ROOT / "tools" / "setup", "python"], check=False).returncode:
        sys.exit(1)
    python = str(venv / "bin" / "python")
    os.execv(python, [python, *sys.argv])


class Contender:
    """A running contender; stopped except during its own turn."""

    def __init__(self, title: str, command: list[str], threads: int, log: Path) -> None:
        self.title, self.log, self.samples = title, log, []
        count = {variable: str(threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=os.environ | count,
        )
        try:
            self.expect("ready")
        except SystemExit:
            self.end()
            raise
        self.stop()

    def answer(self) -> str:
        line = self.process.stdout.readline().strip()
        if not line:
            self.process.wait()
            sys.exit(f"{self.title} ended with status {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
        return line

    def expect(self, word: str) -> None:
        line = self.answer()
        if line != word:
            sys.exit(f"{self.title} said `{line}` where `{word}` was due")

    def ask(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def turn(self) -> None:
        self.go_on()
        for _ in range(2):  # the first refills the caches
            self.ask("run")
            milliseconds = float(self.answer())
        self.samples.append(milliseconds)
        self.stop()

    def write_output(self, path: Path) -> None:
        self.go_on()
        self.ask(f"output {path}")
        self.expect("written")
        self.stop()

    def peak_megabytes(self) -> float:
        """Most memory it has ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kibibytes = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
        return kibibytes * 1024 / 1e6

    def end(self) -> None:
        self.go_on()
        try:
            self.process.stdin.close()
        except OSError:
            pass  # it has died with a question unread
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def build_example(name: str) -> str:
    """Builds a contender of Coronet's and returns its path."""
    print(f"building tools/{name}.rs ...", file=sys.stderr)
    build = ["cargo", "build", "--release", "--locked", "--example", name]
    done = subprocess.run(
        [*build, "--message-format=json-render-diagnostics"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    for message in messages:
        if message.get("target", {}).get("name") == name and message.get("executable"):
            return message["executable"]
    sys.exit(f"tools/{name}.rs could not be built; cargo says why above")


def check_folder_of(record: Path | None, parser: argparse.ArgumentParser) -> None:
    """Ends the program where a record could not be written: better before hours of measurements than after."""
    if record and not record.resolve().parent.is_dir():
        parser.error(f"there is no folder {record.resolve().parent} for {record.name}")


def said(*command: str) -> str:
    """What a command prints; nothing where it cannot, or is not there."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def machine() -> dict:
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", facts.get("Features", "")).split()
    return {
        "cpu": facts.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in INTERESTING_FLAGS if flag in flags],
        "kernel": platform.release(),
        "load_average_before": os.getloadavg()[0],
    }


def print_machine(here: dict, threads: int) -> None:
    """The machine as a line, and a warning where its times mean little."""
    load = here["load_average_before"]
    print(f"{here['cpu']}, {threads} of {here['cores']} cores, load {load:.1f} before the start")
    if load > 0.5:
        print("the machine was not idle: the times mean little, least of all PyTorch's, whose threads spin")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python packages, Coronet, Python and the compiler."""
    found = {name: metadata.version(name) for name in packages}
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    own = {"coronet": cargo["package"]["version"], "python": platform.python_version()}
    return found | own | {"rustc": said("rustc", "--version")}


def provenance(packages: Iterable[str], here: dict) -> dict:
    """How a record begins: what ran, when and where. `here` is what `machine()` said before the start.

    CORONET_COMMIT names the commit of programs that were carried to where there is no repository.
    """
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": os.environ.get("CORONET_COMMIT") or said("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(said("git", "status", "--porcelain")),
        "machine": here,
        "versions": versions(packages),
    }
