#!/usr/bin/env python3
"""What tools/gpu-check says of programs that fail, hang or are not there: the programs are scripts of a few lines."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

CHECK = pathlib.Path(__file__).resolve().parent / "gpu-check"

CASE = {
    "case": "Relu of maps 1x3x5x7 Normal 0.0", "operator": "Relu", "on": "device", "type": "float32",
    "inputs": [{"dims": [1, 3, 5, 7]}], "error": 1e-7, "bound": 1e-6, "seconds": 0.001, "passed": True, "problem": None,
}
LARGE = {**CASE, "case": "Relu of maps 1x64x99x99 Normal 0.0", "inputs": [{"dims": [1, 64, 99, 99]}]}
REFERENCE = {**CASE, "case": "gradient rule of Relu", "on": "reference"}
WRONG = {**CASE, "case": "Add of two", "operator": "Add", "error": None, "passed": False, "problem": "it is NaN"}

RIGHT_TESTS = "echo 'stage mean: 1.25e-05'; echo 'test result: ok. 2 passed; 0 failed; 0 ignored;'"
CLEAN = "echo '========= COMPUTE-SANITIZER'; shift 6; \"$@\"; echo '========= ERROR SUMMARY: 0 errors'"


def verify_of(*cases, code=0):
    """A coronet whose `verify` reports these cases."""
    return f"[ \"$1\" = verify ] || exit 2\ncat <<'END'\n{json.dumps({'cases': cases})}\nEND\nexit {code}"


class GpuCheck(unittest.TestCase):
    """Each test has a pack of scripts, and a PATH with nothing but the tools it puts there."""

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        self.pack, self.path = self.place / "pack", self.place / "bin"
        self.pack.mkdir()
        self.path.mkdir()
        for tool in ("bash", "cat", "sleep"):
            (self.path / tool).symlink_to(shutil.which(tool))
        manifest = {"schema": "coronet/gpu-check-pack", "schema_version": 1, "commit": "c0ffee", "programs": []}
        (self.pack / "pack.json").write_text(json.dumps(manifest), encoding="utf-8")
        self.program(self.pack / "coronet", verify_of(CASE, LARGE, REFERENCE))
        for test in ("golden", "gpu", "conformance", "frames"):
            self.program(self.pack / test, RIGHT_TESTS)

    def program(self, path, text):
        path.write_text(f"#!{shutil.which('bash')}\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    def command(self, *options):
        return [sys.executable, CHECK, self.pack, "--output", self.place / "record.json", *options]

    def environment(self):
        return {"PATH": str(self.path), "CUDA_HOME": str(self.place)}

    def check(self, *options):
        """Runs gpu-check; sets `code`, the lines of `said`, the `record` and its `stages` by name."""
        done = subprocess.run(
            self.command(*options), env=self.environment(), capture_output=True, text=True, timeout=60, check=False)
        self.code, self.said = done.returncode, done.stdout.splitlines()
        self.assertNotIn("Traceback", done.stderr)
        self.read()

    def read(self):
        self.record = json.loads((self.place / "record.json").read_text(encoding="utf-8"))
        self.stages = {stage["name"]: stage for stage in self.record["stages"]}

    def status(self, name):
        return self.stages[name]["status"], self.stages[name]["reason"]

    def test_what_is_right_passes_and_what_this_machine_lacks_is_skipped(self):
        self.check()
        self.assertEqual((self.code, self.said[0]), (0, "nothing failed"))
        self.assertEqual((self.record["passed"], self.record["complete"]), (True, True))
        self.assertEqual((self.record["schema"], self.record["schema_version"]), ("coronet/gpu-check", 1))
        self.assertEqual(self.record["commit"], "c0ffee")
        self.assertEqual(self.status("machine"), ("skipped", "there is no nvidia-smi"))
        self.assertEqual(self.status("bench"), ("skipped", "this coronet has no verb `bench`"))
        lacks = "compute-sanitizer is neither on PATH nor in CUDA's folder"
        self.assertEqual(self.status("racecheck"), ("skipped", lacks))
        for name in ("verify", "conformance", "golden", "kernels", "frames"):
            self.assertEqual(self.status(name), ("passed", None))
        relu = {"checks": 3, "seconds": 0.003, "worst_error_over_bound": 0.1}
        self.assertEqual(self.stages["verify"]["result"]["operators"], {"Relu": relu})
        self.assertEqual(self.stages["golden"]["result"]["measured"], [["stage mean", "1.25e-05"]])

    def test_a_check_that_fails_is_named_at_the_top(self):
        self.program(self.pack / "coronet", verify_of(CASE, WRONG, code=1))
        self.check()
        self.assertEqual(self.code, 1)
        self.assertEqual(self.said[0], "FAILED: verify: 1 of 2 checks: Add of two: it is NaN")
        self.assertEqual(self.status("golden"), ("passed", None))

    def test_a_verify_that_cannot_start_says_its_last_line(self):
        self.program(self.pack / "coronet", "echo 'coronet: no driver' >&2; exit 1")
        self.check()
        self.assertEqual((self.code, self.status("verify")), (1, ("failed", "exit code 1: coronet: no driver")))

    def test_a_report_of_no_checks_is_no_pass(self):
        self.program(self.pack / "coronet", verify_of())
        self.check("--stages", "verify")
        self.assertEqual((self.code, self.status("verify")), (1, ("not run", "no check ran")))

    def test_a_failing_test_is_named(self):
        text = "echo 'test a_claim ... FAILED'; echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored;'; exit 101"
        self.program(self.pack / "golden", text)
        self.check()
        self.assertEqual((self.code, self.status("golden")), (1, ("failed", "a_claim failed")))

    def test_tests_that_found_no_gpu_are_not_run(self):
        self.program(self.pack / "golden", f"echo 'skipped: there is no driver'; {RIGHT_TESTS}")
        self.check()
        self.assertEqual((self.code, self.status("golden")), (1, ("not run", "there is no driver")))
        self.assertEqual(self.said[0], "NOT RUN: golden: there is no driver")

    def test_what_a_gpu_lacks_is_no_failure_and_in_the_record(self):
        lacks = "this GPU cannot: sm_120 has no warpgroups"
        some = f"echo 'skipped: {lacks}'; echo 'test result: ok. 2 passed; 0 failed; 0 ignored;'"
        self.program(self.pack / "gpu", some)
        self.check()
        self.assertEqual((self.code, self.status("kernels")), (0, ("passed", None)))
        result = self.stages["kernels"]["result"]
        self.assertEqual((result["passed"], result["skipped"]), (1, [lacks]))
        all_of_them = f"echo 'skipped: {lacks}'; echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'"
        self.program(self.pack / "gpu", all_of_them)
        self.check()
        self.assertEqual((self.code, self.status("kernels")), (0, ("skipped", lacks)))

    def test_a_filter_that_finds_no_test_is_no_pass(self):
        self.program(self.pack / "gpu", "echo 'test result: ok. 0 passed; 0 failed; 0 ignored;'")
        self.check()
        self.assertEqual((self.code, self.status("kernels")), (1, ("not run", "no test has this name")))

    def test_a_program_that_the_pack_lacks_is_skipped(self):
        (self.pack / "conformance").unlink()
        self.check()
        self.assertEqual((self.code, self.status("conformance")), (0, ("skipped", "the pack has no tests/conformance")))

    def test_a_program_that_the_pack_has_lost_is_no_pass(self):
        manifest = json.loads((self.pack / "pack.json").read_text(encoding="utf-8"))
        manifest["programs"] = ["conformance"]
        (self.pack / "pack.json").write_text(json.dumps(manifest), encoding="utf-8")
        (self.pack / "conformance").unlink()
        self.check()
        self.assertEqual((self.code, self.status("conformance")), (1, ("not run", "the pack has lost conformance")))

    def test_where_everything_is_skipped_nothing_passes(self):
        (self.pack / "conformance").unlink()
        self.check("--stages", "machine,conformance")
        self.assertEqual((self.code, self.record["passed"]), (1, False))
        self.assertEqual(self.said[0], "NOTHING WAS CHECKED: every stage was skipped")
        self.check("--stages", "machine")
        self.assertEqual((self.code, self.said[0]), (0, "nothing failed"))

    def test_a_program_that_cannot_run_is_a_failure(self):
        (self.pack / "frames").chmod(0o644)
        self.check()
        self.assertEqual(self.code, 1)
        self.assertEqual(self.stages["frames"]["status"], "failed")
        self.assertIn("PermissionError", self.stages["frames"]["reason"])

    def test_a_program_that_hangs_is_ended_and_what_comes_later_is_not_run(self):
        # It ignores requests, and so does what it has started.
        self.program(self.pack / "conformance", "trap '' TERM; sleep 300 & sleep 300")
        begun = time.monotonic()
        self.check("--limit", "3")
        self.assertLess(time.monotonic() - begun, 15)
        self.assertEqual(self.code, 1)
        self.assertEqual(self.stages["conformance"]["status"], "failed")
        self.assertRegex(self.stages["conformance"]["reason"], r"^did not end within \d+ s$")
        self.assertEqual(self.status("golden"), ("not run", "no time was left"))
        self.assertEqual(self.status("verify"), ("passed", None))
        self.assertFalse(self.record["passed"])

    def test_ctrl_c_leaves_a_record(self):
        for how, name in ((signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")):
            started = self.place / "started"
            self.program(self.pack / "golden", f"echo > {started}; sleep 300")
            with subprocess.Popen(
                self.command(), env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as child:
                while not started.exists() and child.poll() is None:
                    time.sleep(0.02)
                child.send_signal(how)
                said, _ = child.communicate(timeout=30)
            started.unlink()
            self.read()
            self.assertEqual((child.returncode, self.record["complete"]), (1, False))
            self.assertEqual(said.splitlines()[0], f"FAILED: golden: stopped by {name}")
            self.assertEqual(self.status("frames"), ("not run", f"stopped by {name}"))
            self.assertEqual(self.status("verify"), ("passed", None))

    def test_the_gpu_and_its_clocks_are_recorded(self):
        row = "NVIDIA X, 580.1, 9.0, 81559 MiB, P0, 35, 70 W, 700 W, 1980 MHz, 2619 MHz, 1980 MHz, 2619 MHz"
        self.program(self.path / "nvidia-smi", f"[ $# = 0 ] && echo '| CUDA Version: 13.0 |' || echo '{row}'")
        self.check("--stages", "machine,clocks")
        found = self.stages["machine"]["result"]
        self.assertEqual((found["cuda_of_driver"], found["gpus"][0]["clocks.sm"]), ("13.0", "1980 MHz"))
        self.assertEqual(self.stages["clocks"]["result"]["gpus"], found["gpus"])

    def test_an_nvidia_smi_that_fails_is_a_reason(self):
        self.program(self.path / "nvidia-smi", "echo 'driver mismatch'; exit 18")
        self.check()
        self.assertEqual((self.code, self.status("machine")[1]), (0, "nvidia-smi: exit code 18: driver mismatch"))

    def test_sanitizers_watch_a_stated_subset(self):
        self.program(self.path / "compute-sanitizer", f'echo "$@" > {self.place}/watched; {CLEAN}')
        self.check("--stages", "verify,memcheck")
        self.assertEqual((self.code, self.status("memcheck")), (0, ("passed", None)))
        self.assertEqual(self.stages["memcheck"]["result"]["cases"], [CASE["case"]])
        watched = (self.place / "watched").read_text(encoding="utf-8")
        self.assertTrue(watched.startswith("--tool memcheck --error-exitcode 86 "), watched)
        self.assertIn(r"--op ^(?:Relu of maps 1x3x5x7 Normal 0\.0)$", watched)

    def test_a_sanitizer_that_watches_no_test_is_no_pass(self):
        self.program(self.path / "compute-sanitizer", CLEAN)
        self.program(self.pack / "golden", "echo 'test result: ok. 0 passed; 0 failed; 0 ignored;'")
        self.check("--stages", "verify,initcheck")
        self.assertEqual((self.code, self.status("initcheck")), (1, ("not run", "no test has this name")))

    def test_what_a_sanitizer_finds_is_a_failure(self):
        found = "echo '========= Invalid __global__ read'; echo '========= ERROR SUMMARY: 3 errors'; exit 86"
        self.program(self.path / "compute-sanitizer", found)
        self.check()
        self.assertEqual((self.code, self.status("initcheck")), (1, ("failed", "ERROR SUMMARY: 3 errors")))
        self.assertIn("========= Invalid __global__ read", self.stages["initcheck"]["result"]["lines"])

    def test_hazards_are_a_failure_even_with_exit_code_0(self):
        summary = "RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)"
        self.program(self.path / "compute-sanitizer", f"echo '========= {summary}'")
        self.check("--stages", "verify,racecheck")
        self.assertEqual((self.code, self.status("racecheck")), (1, ("failed", summary)))

    def test_a_sanitizer_without_a_summary_is_a_failure(self):
        self.program(self.path / "compute-sanitizer", "exit 0")
        self.check("--stages", "verify,memcheck")
        self.assertEqual((self.code, self.status("memcheck")), (1, ("failed", "it printed no summary")))

    def test_the_emulated_gpu_needs_no_sanitizer(self):
        self.program(self.pack / "emulated", RIGHT_TESTS)
        self.check("--device", "emulated")
        self.assertEqual(self.code, 0)
        self.assertEqual(self.status("emulator"), ("passed", None))
        self.assertEqual(self.status("conformance"), ("skipped", "it has nothing to say about the device emulated"))
        self.assertEqual(self.stages["memcheck"]["status"], "skipped")

    def test_benchmarks_are_recorded_where_there_are_some(self):
        bench = "[ \"$2\" = --help ] && echo '--device --json' || echo '{\"frame\": 1.5}'"
        self.program(self.pack / "coronet", bench)
        self.check("--stages", "bench")
        result = {"options": ["--device", "cuda", "--json"], "document": {"frame": 1.5}}
        self.assertEqual(self.stages["bench"]["result"], result)

    def test_a_benchmark_that_says_no_json_is_a_failure(self):
        self.program(self.pack / "coronet", "[ \"$2\" = --help ] && echo '--device --json' || echo 'a table'")
        self.check("--stages", "bench")
        self.assertEqual((self.code, self.status("bench")), (1, ("failed", "what it says is no JSON")))

    def test_wrong_usage_is_a_sentence(self):
        def refused(*options):
            done = subprocess.run(self.command(*options), capture_output=True, text=True, timeout=60, check=False)
            return done.returncode, done.stderr.splitlines()[-1]

        code, sentence = refused("--stages", "verify,nonsense")
        self.assertEqual(code, 2)
        self.assertIn("no stage is called nonsense; there are machine, verify, conformance, ", sentence)
        code, sentence = refused("--output", self.place / "no" / "record.json")
        self.assertEqual(code, 1)
        self.assertTrue(sentence.endswith("/no/record.json: No such file or directory"), sentence)
        os.remove(self.pack / "pack.json")
        code, sentence = refused()
        self.assertEqual(code, 1)
        self.assertTrue(sentence.endswith("holds no pack.json; fill it with `tools/gpu-check --pack`"), sentence)


if __name__ == "__main__":
    unittest.main()
