//! Two benchmarks side by side.

use coronet::bench::{SCHEMA, SCHEMA_VERSION};
use coronet::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What is compared of a document.
#[derive(Debug, Deserialize)]
struct Document {
    config: BTreeMap<String, Value>,
    environment: BTreeMap<String, Value>,
    modes: Vec<Mode>,
    #[serde(default)]
    cold_start: Option<Quantity>,
    peak_resident_bytes: Option<u64>,
    #[serde(default)]
    device_memory_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Mode {
    mode: String,
    metrics: Vec<Metric>,
}

#[derive(Debug, Deserialize)]
struct Metric {
    name: String,
    #[serde(flatten)]
    quantity: Quantity,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Quantity {
    median: f64,
    p99: f64,
}

fn read(path: &Path) -> Result<Document> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let wrong = |problem: String| Error::Request(format!("{}: {problem}", path.display()));
    let stated: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("is not JSON ({error})")))?;
    let (schema, version) = (&stated["schema"], &stated["schema_version"]);
    if schema != SCHEMA || version != SCHEMA_VERSION {
        return Err(wrong(format!(
            "is no {SCHEMA} document of version {SCHEMA_VERSION}; `coronet bench --json` writes one"
        )));
    }
    serde_json::from_value(stated).map_err(|error| wrong(format!("is no complete {SCHEMA} document ({error})")))
}

/// Medians and 99th percentiles of what both have, with their ratio, after all that differs between the two.
pub fn compared(a: &Path, b: &Path) -> Result<String> {
    let (first, second) = (read(a)?, read(b)?);
    let mut text = format!("A: {}\nB: {}\n", a.display(), b.display());
    let mut differences = differing(&first.config, &second.config);
    differences.extend(differing(&first.environment, &second.environment));
    for (name, a, b) in differences {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} differs: A {a}, B {b}");
    }
    let heads = ["A median", "B median", "B / A", "A p99", "B p99", "B / A"];
    let [am, bm, rm, ap, bp, rp] = heads;
    let _ = writeln!(text, "\n{:<24}{am:>10} {bm:>10} {rm:>8} {ap:>10} {bp:>10} {rp:>8}", "ms");
    let mut rows = 0;
    let mut row = |name: &str, a: Quantity, b: Quantity| {
        let (median, p99) = (b.median / a.median, b.p99 / a.p99);
        let _ = writeln!(
            text,
            "{name:<24}{:>10.3} {:>10.3} {median:>8.3} {:>10.3} {:>10.3} {p99:>8.3}",
            a.median, b.median, a.p99, b.p99
        );
        rows += 1;
    };
    for mode in &first.modes {
        let Some(other) = second.modes.iter().find(|other| other.mode == mode.mode) else { continue };
        for metric in &mode.metrics {
            if let Some(same) = other.metrics.iter().find(|same| same.name == metric.name) {
                row(&format!("{} {}", mode.mode, metric.name), metric.quantity, same.quantity);
            }
        }
    }
    if let (Some(a), Some(b)) = (first.cold_start, second.cold_start) {
        row("cold start", a, b);
    }
    if rows == 0 {
        let problem = format!("{} and {} have no mode in common", a.display(), b.display());
        return Err(Error::Request(problem));
    }
    for (name, a, b) in [
        ("peak memory, MB", first.peak_resident_bytes, second.peak_resident_bytes),
        ("device memory, MB", first.device_memory_bytes, second.device_memory_bytes),
    ] {
        let Some((a, b)) = a.zip(b).map(|(a, b)| (a as f64 / 1e6, b as f64 / 1e6)) else { continue };
        let _ = writeln!(text, "{name:<24}{a:>10.1} {b:>10.1} {:>8.3}", b / a);
    }
    Ok(text.trim_end().to_owned())
}

/// What times depend on and is not the same. When something was measured, how busy the machine was and what clock one of its
/// cores had just then always differs.
fn differing(a: &BTreeMap<String, Value>, b: &BTreeMap<String, Value>) -> Vec<(String, Value, Value)> {
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let is_of_interest = |name: &&&String| !matches!(name.as_str(), "date" | "load_average" | "processor_mhz");
    let value = |of: &BTreeMap<String, Value>, name: &String| of.get(name).cloned().unwrap_or(Value::Null);
    let pair = |name: &String| (name.clone(), value(a, name), value(b, name));
    names.iter().filter(is_of_interest).map(|name| pair(name)).filter(|(_, a, b)| a != b).collect()
}
