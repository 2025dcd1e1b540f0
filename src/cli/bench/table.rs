//! A benchmark as a table for people.

use coronet::bench::{Cell, Configuration, Environment, Metric, Report};
use std::fmt::Write;

/// All that the report says but the single samples; every step only where asked for.
pub fn table(report: &Report, with_steps: bool) -> String {
    let mut text = header(report);
    for mode in &report.modes {
        let [min, mean, median, p90, p95, p99, max] = ["min", "mean", "median", "p90", "p95", "p99", "max"];
        line(
            &mut text,
            format_args!("\n{:<12}{min:>9} {mean:>9} {median:>9} {p90:>9} {p95:>9} {p99:>9} {max:>9}  ms", mode.mode),
        );
        mode.metrics.iter().for_each(|metric| line(&mut text, format_args!("{}", metric_row(metric))));
    }
    let rows =
        report.kernels.iter().map(|row| (row.kernel.as_str(), Some(row.steps), Some(row.share_of_time), &row.cell));
    cells(&mut text, "kernel", rows.collect());
    if with_steps {
        let names: Vec<String> = report.steps.iter().map(|row| format!("{}  {}", row.step, row.kernel)).collect();
        let rows = names.iter().zip(&report.steps).map(|(name, row)| (name.as_str(), None, None, &row.cell));
        cells(&mut text, "step", rows.collect());
    }
    text + &footer(report)
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

fn header(report: &Report) -> String {
    let Configuration { width, stem, n, in_channels, size, frame, precision, weights, graph, .. } = &report.config;
    let Environment { date, coronet, commit, build, device, processor, cores, load_average, .. } = &report.environment;
    let graph = if *graph { "one graph" } else { "no graph" };
    let mut text = String::new();
    line(
        &mut text,
        format_args!(
            "3D-2D CE-Net, width {width}, stem {stem}, N = {n}, {in_channels} channel(s), {size}x{size}; weights: {weights}"
        ),
    );
    line(&mut text, format_args!("frames of {frame}, batch 1, {precision}, {graph}, on {device}"));
    for (name, value) in &report.environment.device_facts {
        line(&mut text, format_args!("  {name}: {value}"));
    }
    let processor = processor.as_deref().unwrap_or("unknown processor");
    let commit = commit.as_deref().unwrap_or("unknown");
    let load = load_average.map_or(String::new(), |load| format!(", load average {load:.2}"));
    line(
        &mut text,
        format_args!("{processor}, {cores} cores{load}; coronet {coronet}, commit {commit}, {build} build; {date}"),
    );
    let method = &report.method;
    line(
        &mut text,
        format_args!("{} frames to warm up, then {}; {}", method.warm_up, method.frames, method.end_to_end),
    );
    text
}

fn metric_row(metric: &Metric) -> String {
    let latency = metric.latency;
    let name = match metric.name {
        "end_to_end" => "end to end".to_owned(),
        name => format!("  {name}"),
    };
    let [min, mean, median, p90, p95, p99, max] =
        [latency.min, latency.mean, latency.median, latency.p90, latency.p95, latency.p99, latency.max].map(digits);
    format!("{name:<12}{min:>9} {mean:>9} {median:>9} {p90:>9} {p95:>9} {p99:>9} {max:>9}")
}

/// Four significant digits as far as three decimals give them.
fn digits(number: f64) -> String {
    match number {
        _ if number >= 1000.0 => format!("{number:.0}"),
        _ if number >= 100.0 => format!("{number:.1}"),
        _ if number >= 10.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

type Row<'a> = (&'a str, Option<usize>, Option<f64>, &'a Cell);

fn cells(text: &mut String, title: &str, rows: Vec<Row<'_>>) {
    let names = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max(title.len());
    let heads = ["steps", "launches", "ms", "of time", "GFLOP/s", "GB/s", "of ceiling"];
    let [steps, launches, ms, time, gflops, gbytes, ceiling] = heads;
    line(
        text,
        format_args!(
            "\n{title:<names$} {steps:>6} {launches:>9} {ms:>9} {time:>8} {gflops:>9} {gbytes:>8} {ceiling:>11}"
        ),
    );
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    for (name, steps, share, cell) in rows {
        let steps = steps.map_or(String::new(), |steps| steps.to_string());
        let launches = if cell.launches == 0 { "-".to_owned() } else { cell.launches.to_string() };
        let (ms, gflops, gbytes) = (digits(cell.ms), digits(cell.gflops), digits(cell.gbytes));
        let (time, ceiling) = (percent(share), percent(cell.share_of_ceiling));
        line(
            text,
            format_args!(
                "{name:<names$} {steps:>6} {launches:>9} {ms:>9} {time:>8} {gflops:>9} {gbytes:>8} {ceiling:>11}"
            ),
        );
    }
}

fn footer(report: &Report) -> String {
    let mut text = String::from("\n");
    match &report.ceilings {
        Some(ceilings) => {
            let (gflops, gbytes) = (digits(ceilings.flops / 1e9), digits(ceilings.bytes / 1e9));
            line(
                &mut text,
                format_args!(
                    "ceilings measured here: {gflops} GFLOP/s in registers, {gbytes} GB/s of copy, read and written"
                ),
            );
        }
        None => line(&mut text, format_args!("no ceilings are measured on this device")),
    }
    if let Some(cold) = &report.cold_start {
        let (median, min, max) = (digits(cold.latency.median), digits(cold.latency.min), digits(cold.latency.max));
        let count = cold.samples_ms.len();
        line(
            &mut text,
            format_args!("cold start, process to first mask: median {median} ms of {count} ({min} to {max})"),
        );
    }
    let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
    let peak = report.peak_resident_bytes.map_or("unknown".to_owned(), megabytes);
    let of_device =
        report.device_memory_bytes.map_or(String::new(), |bytes| format!(", of the device's {}", megabytes(bytes)));
    let arena = megabytes(report.arena_bytes);
    let _ = write!(text, "peak memory of a process: {peak}{of_device}; the network's arena: {arena}");
    text
}
