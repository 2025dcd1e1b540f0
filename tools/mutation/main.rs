//! Mutation testing of `kernels/`: breaks one thing at a time and asks whether the verification cases notice.
//! `cargo run --example mutation --no-default-features --features emulator -- [--sample N] [--file NAME] [--line TEXT] [--since COMMIT]`.
//!
//! A mutant is killed when, on the emulated GPU, a check of an operator that uses the kernel fails (of the kernels around
//! the network: a comparison of `tests/frames`), or the emulator reports a problem, or bits differ between schedules, or
//! (asked last, because it is slow) the build that looks for races and undefined behaviour reports one. Those that survive are explained in `survivors.json`, or the run fails.

mod changes;
mod compiler;
#[path = "../../tests/frames/checks.rs"]
mod frames;
mod kernels;
mod mutants;
mod report;
mod runs;
mod survivors;

use changes::Changes;
use clap::Parser;
use compiler::{Build, Compiler, Library, Problem, Result};
use kernels::{Kernels, included};
use mutants::Mutant;
use report::{Fate, Report, WHEN_CHECKED};
use runs::{Answer, Order, Run, Task};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// Break the kernels, one thing at a time, and count how often the cases notice
#[derive(Parser)]
struct Arguments {
    /// Only so many mutants, drawn from all
    #[arg(long)]
    sample: Option<usize>,
    /// What the sample is drawn from [default: a number that changes with the kernels]
    #[arg(long)]
    seed: Option<u64>,
    /// Only the mutants of this file, such as conv.cu; may be given several times
    #[arg(long)]
    file: Vec<String>,
    /// Only the mutants of lines that contain this text
    #[arg(long)]
    line: Option<String>,
    /// Only the mutants of lines that are new since this commit
    #[arg(long, value_name = "COMMIT")]
    since: Option<String>,
    /// List the mutants and run nothing
    #[arg(long)]
    list: bool,
    /// Where to write each mutant and its fate
    #[arg(long)]
    json: Option<PathBuf>,
    /// Do what standard input says, as a process that may crash
    #[arg(long, hide = true)]
    worker: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.worker { work().map(|()| true) } else { test(&arguments) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutation: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<()> {
    let order: Order = serde_json::from_reader(std::io::stdin())?;
    serde_json::to_writer(std::io::stdout(), &order.carry_out()?)?;
    Ok(())
}

/// Whether all is as it should be.
fn test(arguments: &Arguments) -> Result<bool> {
    let texts = texts()?;
    let mut chosen: Vec<Mutant> = texts.iter().flat_map(|(file, text)| mutants::mutants(file, text)).collect();
    if let Some(file) = arguments.file.iter().find(|file| !texts.contains_key(*file)) {
        return Err(format!("kernels/ has no {file}").into());
    }
    let changes = arguments.since.as_deref().map(Changes::since).transpose()?;
    chosen.retain(|mutant| {
        let is_in = arguments.file.is_empty() || arguments.file.contains(&mutant.file);
        let is_new =
            changes.as_ref().is_none_or(|changes| changes.touch(&mutant.file, mutant.lines(&texts[&mutant.file])));
        is_in && is_new && arguments.line.as_ref().is_none_or(|text| mutant.line.contains(text))
    });
    let explained = survivors::Explained::all()?;
    if let Some(count) = arguments.sample {
        // Those cost the most, and are of interest only when they all are tried.
        chosen.retain(|mutant| !explained.iter().any(|entry| entry.explains(mutant)));
        let seed = arguments.seed.unwrap_or_else(|| hash_of(&texts));
        println!("{count} of {} mutants, drawn with --seed {seed}", chosen.len());
        chosen.sort_by_key(|mutant| hash_of(&(seed, &mutant.file, mutant.span.start, &mutant.mutated)));
        chosen.truncate(count);
        if chosen.len() < count {
            return Err(format!("there are only {} mutants to draw from", chosen.len()).into());
        }
    }
    if arguments.list {
        chosen.iter().for_each(|m| println!("{}:{}: {}\n    {}", m.file, m.line_number, m.line, m.mutated));
        println!("{} mutants", chosen.len());
        return Ok(true);
    }
    let mut kernels = Kernels::default();
    texts.keys().filter(|name| name.ends_with(".cu")).for_each(|name| kernels.extend(Kernels::of(name, &texts)));
    let bench = Bench::new(&texts, &kernels)?;
    let done = AtomicUsize::new(0);
    let fates = in_parallel(&chosen, |mutant| {
        let fate = bench.fate(mutant, &texts[&mutant.file]);
        let number = done.fetch_add(1, Ordering::Relaxed) + 1;
        println!("{number}/{} {}:{}: {fate}: {}", chosen.len(), mutant.file, mutant.line_number, mutant.mutated);
        fate
    });
    let report = Report::new(chosen, fates, explained, kernels);
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json()?)?;
    }
    let is_full =
        arguments.sample.is_none() && arguments.file.is_empty() && arguments.line.is_none() && changes.is_none();
    println!("{}", report.table(is_full));
    Ok(report.is_good(is_full))
}

/// Files whose kernels no case runs: those of tests/conformance.rs, each around a primitive that others use, and those that
/// the speed of others is measured by.
const PROBES: [&str; 5] = ["conformance", "conformance_sm80", "conformance_sm90a", "ceilings", "ceilings_sm80"];

/// The kernel files and their headers by name.
fn texts() -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for entry in std::fs::read_dir("kernels").map_err(|_| "there is no folder kernels/ here")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_of_the_engine = !PROBES.contains(&name.split('.').next().unwrap_or_default());
        if is_of_the_engine && path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            texts.insert(name, std::fs::read_to_string(&path)?);
        }
    }
    Ok(texts)
}

/// The same on every machine, as long as Rust keeps its hash.
fn hash_of(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// What `each` gives for the items, in their order, on all cores.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], each: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut made = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return made };
            made.push((index, each(item)));
        }
    };
    let mut made: Vec<(usize, R)> = std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        let made = |worker: std::thread::ScopedJoinHandle<'_, Vec<(usize, R)>>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().flat_map(made).collect()
    });
    made.sort_by_key(|(index, _)| *index);
    made.into_iter().map(|(_, result)| result).collect()
}

/// A folder in `target` for this run; OUT_DIR is `target/PROFILE/build/PACKAGE/out`.
fn folder() -> Result<TempDir> {
    let out = Path::new(env!("OUT_DIR"));
    let target = out.ancestors().nth(4).unwrap_or(out);
    Ok(tempfile::Builder::new().prefix("mutation-").tempdir_in(target)?)
}

/// The kernels as they are, compiled, with the emulator they run on.
struct Rig {
    compiler: Compiler,
    emulator: PathBuf,
    originals: Library,
}

impl Rig {
    fn new(build: Build, folder: &Path, stems: &[String]) -> Result<Rig> {
        let compiler = Compiler::new(build, folder)?;
        let (emulator, originals) = (compiler.emulator()?, compiler.originals(stems)?);
        Ok(Rig { compiler, emulator, originals })
    }
}

/// The checked build is an order of magnitude slower: it does the quickest runs, as many as take the plain one this long.
const SECONDS_CHECKED: f64 = 1.0;

/// All that mutants are judged by.
struct Bench<'a> {
    kernels: &'a Kernels,
    folder: TempDir,
    stems: Vec<String>,
    /// For each kernel file the files that it includes, and those that these include.
    includes: BTreeMap<String, Vec<String>>,
    plain: Rig,
    checked: OnceLock<Result<Rig, String>>,
    /// For each kernel file the runs that use it, quickest first.
    runs: BTreeMap<String, Vec<Run>>,
}

impl Bench<'_> {
    fn new<'a>(texts: &BTreeMap<String, String>, kernels: &'a Kernels) -> Result<Bench<'a>> {
        println!("compiling the kernels as they are");
        let stems: Vec<String> = texts.keys().filter_map(|name| Some(name.strip_suffix(".cu")?.to_owned())).collect();
        let folder = folder()?;
        let plain = Rig::new(Build::Plain, folder.path(), &stems)?;
        let libraries = vec![plain.originals.clone()];
        println!("running the cases on them");
        let of = std::thread::available_parallelism().map_or(1, usize::from);
        let shares: Vec<usize> = (0..of).collect();
        let measured = in_parallel(&shares, |&share| {
            let (emulator, libraries) = (plain.emulator.clone(), libraries.clone());
            let order = Order { emulator, libraries, task: Task::Measure { share, of } };
            match order.given_to_a_process().map_err(|problem| problem.to_string())? {
                Answer::Measured(runs) => Ok(runs),
                _ => Err("nothing was measured".to_owned()),
            }
        });
        let mut all = measured.into_iter().collect::<Result<Vec<_>, String>>()?.concat();
        all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let uses = |stem: &String| {
            let text = &texts[&format!("{stem}.cu")];
            let launches =
                |kernel: &String| text.contains(&format!("{kernel}(")) || text.contains(&format!("({kernel},"));
            let runs = all.iter().filter(|run| run.kernels.iter().any(launches)).cloned();
            (stem.clone(), runs.collect())
        };
        let runs = stems.iter().map(uses).collect();
        let includes = stems.iter().map(|stem| (stem.clone(), included(&format!("{stem}.cu"), texts))).collect();
        Ok(Bench { kernels, folder, stems, includes, plain, checked: OnceLock::new(), runs })
    }

    /// What becomes of a mutant: tried on each kernel file that its text is part of, quickly first.
    fn fate(&self, mutant: &Mutant, text: &str) -> Fate {
        let text = mutant.apply(text);
        let users = self.stems.iter().filter(|stem| self.includes[*stem].contains(&mutant.file));
        let mut survived = Vec::new();
        for stem in users {
            match self.try_on(Build::Plain, stem, mutant, &text) {
                Fate::SameCode => {}
                Fate::Survived => survived.push(stem),
                decided => return decided,
            }
        }
        if survived.is_empty() {
            return Fate::SameCode;
        }
        let checked = survived.into_iter().map(|stem| match self.try_on(Build::Checked, stem, mutant, &text) {
            Fate::Killed(why) => Fate::Killed(format!("{WHEN_CHECKED}{why}")),
            fate => fate,
        });
        checked.into_iter().find(|fate| *fate != Fate::Survived).unwrap_or(Fate::Survived)
    }

    fn try_on(&self, build: Build, stem: &str, mutant: &Mutant, text: &str) -> Fate {
        let rig = match build {
            Build::Plain => &self.plain,
            Build::Checked => {
                let made = || Rig::new(build, self.folder.path(), &self.stems).map_err(|e| e.to_string());
                match self.checked.get_or_init(made) {
                    Ok(rig) => rig,
                    Err(problem) => return Fate::Failed(problem.clone()),
                }
            }
        };
        let name = format!("{stem}-{:016x}", hash_of(&(&mutant.file, mutant.span.start, &mutant.mutated)));
        let fate = match rig.compiler.mutant(stem, &mutant.file, text, &name) {
            // What the plain build has taken, the checked one must take, too.
            Err(Problem::Refused(problem)) if build == Build::Plain => Fate::DoesNotCompile(problem),
            Err(Problem::Refused(problem) | Problem::Other(problem)) => Fate::Failed(problem),
            Ok(None) => Fate::SameCode,
            Ok(Some(library)) => self.judge(rig, stem, mutant, library).unwrap_or_else(|e| Fate::Failed(e.to_string())),
        };
        rig.compiler.remove(&name);
        fate
    }

    fn judge(&self, rig: &Rig, stem: &str, mutant: &Mutant, library: Library) -> Result<Fate> {
        let (schedules, seconds_for_one) = match rig.compiler.build {
            Build::Plain => (vec![0, 1, 2], 10.0),
            Build::Checked => (vec![0], 60.0),
        };
        // Those that launch a kernel which has the mutant in it: the others would run what they ran before.
        let kernels = self.kernels.at(&mutant.file, mutant.span.start);
        let launches = |run: &&Run| run.kernels.iter().any(|kernel| kernels.contains(&kernel.as_str()));
        let mut runs: Vec<Run> = self.runs[stem].iter().filter(launches).cloned().collect();
        if rig.compiler.build == Build::Checked {
            let mut seconds = 0.0;
            runs.retain(|run| {
                seconds += run.seconds;
                seconds < SECONDS_CHECKED
            });
        }
        let libraries = vec![rig.originals.clone(), library];
        let task = Task::Judge { runs, schedules, seconds_for_one };
        Ok(match (Order { emulator: rig.emulator.clone(), libraries, task }).given_to_a_process()? {
            Answer::Killed(why) => Fate::Killed(why),
            Answer::Survived => Fate::Survived,
            Answer::Measured(_) => return Err("a judge has measured".into()),
        })
    }
}
