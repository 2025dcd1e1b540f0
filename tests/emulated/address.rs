//! What only the build with AddressSanitizer finds; `CORONET_EMULATOR=address` makes it. Its report ends the process, so
//! that each wrong launch is a child's.

use super::emulator::{Numbers, ONE, launch, place, threads};
use super::*;
use coronet::device::cuda::{Driver, Launch};
use std::process::Command;

/// The first lines of the report on a child process that runs an ignored test of this module.
fn report_on(test: &str) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", &format!("address::{test}"), "--ignored", "--nocapture"]).output().unwrap();
    assert!(!output.status.success());
    let report = String::from_utf8(output.stderr).unwrap();
    let start = report.find("ERROR: AddressSanitizer").unwrap_or_else(|| panic!("{report}"));
    report[start..].lines().take(3).collect::<Vec<_>>().join("\n")
}

fn assert_report(test: &str, access: &str, place: &str) {
    let report = report_on(test);
    let frame = report.lines().last().unwrap();
    assert!(report.contains(access) && frame.contains(" #0 ") && frame.contains(place), "{report}");
}

#[test]
fn a_read_one_number_past_an_allocation_is_found_at_its_line() {
    assert_report("past_an_allocation", "READ of size 4", &place("probe_stride", "y[threadIdx.x] = x["));
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn past_an_allocation() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let (x, y) = (Numbers::new(&driver, &[1.0; 31]), Numbers::new(&driver, &[0.0; 32]));
    let probe = Launch::new("probe_stride", ONE, threads(32)).with(x.start).with(y.start).with_int(1);
    launch(&driver, probe).unwrap();
}

#[test]
fn a_write_into_a_closed_number_is_found_at_its_line() {
    assert_report("into_a_closed_number", "WRITE of size 4", &place("probe_stride", "y[threadIdx.x] = x["));
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn into_a_closed_number() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    let (x, y) = (Numbers::new(&driver, &[1.0; 32]), Numbers::new(&driver, &[0.0; 32]));
    // SAFETY: a number of `y`, which nobody copies.
    unsafe { driver.close(y.start.after(17), 1) };
    let probe = |count| Launch::new("probe_stride", ONE, threads(count)).with(x.start).with(y.start).with_int(1);
    launch(&driver, probe(17)).unwrap();
    launch(&driver, probe(18)).unwrap();
}

#[test]
fn a_write_past_shared_memory_is_found_at_its_line() {
    assert_report("past_shared_memory", "WRITE of size 4", &place("probe_overrun", "= 1.0f"));
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn past_shared_memory() {
    let driver = EmulatedDriver::new(Schedule::ALL[0]);
    launch(&driver, Launch::new("probe_overrun", ONE, threads(8)).with_shared(8 * 4).with_int(1)).unwrap();
}
