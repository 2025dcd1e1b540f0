use super::*;
use crate::dataset::fixture::write_clip;
use crate::device::cpu::CpuDevice;
use crate::model::{Config, Objective, Optimizer, Stem};
use safetensors::SafeTensors;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tempfile::TempDir;

fn small_recipe() -> Recipe {
    Recipe { epochs: 3, batch: 2, side: 96, ..Preset::Better.recipe() }
}

struct Fixture {
    folder: TempDir,
    dataset: Dataset,
    split: Split,
    settings: Settings,
    start: Weights,
    device: CpuDevice,
}

impl Fixture {
    /// Clips of so many frames each, and a small network.
    fn new(clips: &[usize], recipe: Recipe, choice: SplitChoice) -> Fixture {
        let folder = TempDir::new().unwrap();
        for (i, &frames) in clips.iter().enumerate() {
            write_clip(&folder.path().join("data"), &format!("clip{i}"), frames);
        }
        let dataset = Dataset::open(&folder.path().join("data")).unwrap();
        let settings = Settings { recipe, split: choice, seed: 1 };
        let split = Split::new(&dataset, choice, 1).unwrap();
        let start = Weights::seeded(Config::new(4, Stem::Half, 1, 1).unwrap(), 1).unwrap();
        Fixture { folder, dataset, split, settings, start, device: CpuDevice::new(Some(1)).unwrap() }
    }

    fn training(&self) -> Training<'_> {
        Training {
            dataset: &self.dataset,
            split: &self.split,
            settings: &self.settings,
            start: &self.start,
            device: &self.device,
            workers: 2,
            between_checkpoints: Duration::MAX,
        }
    }

    fn folder(&self, name: &str) -> RunFolder {
        RunFolder::create(&self.folder.path().join(name)).unwrap()
    }
}

fn bytes(run: &RunFolder, name: &str) -> Vec<u8> {
    std::fs::read(run.file(name)).unwrap()
}

/// As much of a configuration as says that a run has begun.
fn write_configuration(run: &RunFolder) {
    run.write_json(file::CONFIGURATION, &serde_json::json!({ "schema": configuration::SCHEMA })).unwrap();
}

/// Stops a run after so many steps of this process.
struct StopAfter(AtomicUsize);

impl TrainingObserver for StopAfter {
    fn step_done(&self, _: &StepReport) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Stops a run in the middle of its test: the first time that it asks without a step before.
#[derive(Default)]
struct StopInTest(AtomicBool);

impl TrainingObserver for StopInTest {
    fn step_done(&self, _: &StepReport) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn interrupted(&self) -> bool {
        !self.0.swap(false, Ordering::Relaxed)
    }
}

/// Ten steps on each golden case's batch, an epoch each.
#[test]
fn the_golden_losses_come_out_of_the_run_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.join("tests/golden"), root.join("../shared/golden")];
    let files = folders.iter().filter(|f| f.is_dir()).flat_map(|f| std::fs::read_dir(f).unwrap());
    let mut tested = 0;
    for path in files.map(|entry| entry.unwrap().path()) {
        let Some(name) = path.to_string_lossy().strip_suffix(".weights.safetensors").map(str::to_owned) else {
            continue;
        };
        let case = std::fs::read(format!("{name}.case.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&case).unwrap();
        let numbers = |name: &str| -> Vec<f32> {
            let bytes = file.tensor(name).unwrap().data().to_vec();
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let dims = file.tensor("input").unwrap().shape().to_vec();
        if dims[3] != dims[4] {
            continue; // runs see squares
        }
        let recipe = Recipe {
            epochs: 10,
            batch: dims[0],
            side: dims[3],
            optimizer: Optimizer::Sgd { momentum: 0.9 },
            objective: Objective { rho: 1e-4, background: 0.0, cross_entropy: 0.0 },
            rate: 0.1,
            schedule: Schedule::Constant,
            augmentation: None,
        };
        let mut fixture = Fixture::new(&[1], recipe.clone(), SplitChoice::All);
        fixture.start = Weights::load(&path).unwrap();
        fixture.settings.recipe = recipe;
        let (training, mut run) = (fixture.training(), fixture.folder("run"));
        let mut trainer = Trainer::new(&training, &mut run).unwrap();
        let batch = Batch { window: numbers("input"), mask: numbers("mask"), names: vec![String::new(); dims[0]] };
        trainer.all_epochs(1, &mut || Ok(batch.clone()), &()).unwrap();
        let losses: Vec<f64> = trainer.progress.epochs.iter().map(|epoch| epoch.loss).collect();
        assert_eq!(losses.len(), 10);
        for (got, expected) in losses.iter().zip(numbers("sgd.total_loss")) {
            assert!((got - f64::from(expected)).abs() < 5e-5, "{name}: {losses:?}");
        }
        tested += 1;
    }
    assert!(tested > 0, "no golden case is square");
}

#[test]
fn a_run_that_is_stopped_thrice_ends_with_the_bits_of_one_that_is_not() {
    let fixture = Fixture::new(&[3, 4], small_recipe(), SplitChoice::Folds { folds: 2, fold: 0 });
    let mut undisturbed = fixture.folder("undisturbed");
    let outcome = train(&fixture.training(), &mut undisturbed, &()).unwrap();
    assert_eq!(outcome.epochs.len(), 3);
    assert!(outcome.epochs.iter().all(|epoch| epoch.test.is_some()));

    let path = fixture.folder.path().join("stopped");
    let mut run = RunFolder::create(&path).unwrap();
    write_configuration(&run);
    let stops: [&dyn TrainingObserver; 3] = [&StopAfter(1.into()), &StopInTest::default(), &StopAfter(2.into())];
    for stop in stops {
        let error = train(&fixture.training(), &mut run, stop).unwrap_err().to_string();
        assert!(error.contains("and saved; go on with --resume"), "{error}");
        drop(run);
        run = RunFolder::resume(&path).unwrap();
    }
    let again = train(&fixture.training(), &mut run, &()).unwrap();
    for name in [file::LAST, file::BEST] {
        let (a, b) = (Weights::load(&undisturbed.file(name)).unwrap(), Weights::load(&run.file(name)).unwrap());
        assert_eq!(a, b, "{name}");
    }
    let merits = |outcome: &Outcome| outcome.epochs.iter().map(|e| (e.loss, e.train_iou, e.test)).collect::<Vec<_>>();
    assert_eq!(merits(&again), merits(&outcome));
    let table = String::from_utf8(bytes(&run, file::METRICS)).unwrap();
    assert_eq!(table.lines().count(), 1 + 3);
    assert!(bytes(&run, file::EVENTS).len() > 1000);
    for curve in [file::LOSS_CURVE, file::IOU_CURVE] {
        assert!(String::from_utf8(bytes(&run, curve)).unwrap().contains("<svg"));
    }
    let log = String::from_utf8(bytes(&run, file::LOG)).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains(" goes on at step ")).count(), 3, "{log}");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_leaves_a_good_checkpoint() {
    let recipe = Recipe { rate: 1e30, schedule: Schedule::Constant, ..small_recipe() };
    let fixture = Fixture::new(&[6], recipe, SplitChoice::All);
    let mut run = fixture.folder("run");
    let error = train(&fixture.training(), &mut run, &()).unwrap_err().to_string();
    assert!(error.contains(" in step ") && error.contains("a lower --rate may help"), "{error}");
    assert!(error.contains("clip0/frames/000") || !error.contains(", on "), "{error}");
    let saved = std::fs::read(run.file(file::CHECKPOINT)).unwrap();
    for (name, tensor) in SafeTensors::deserialize(&saved).unwrap().tensors() {
        let finite = tensor.data().chunks_exact(4).all(|b| f32::from_le_bytes(b.try_into().unwrap()).is_finite());
        assert!(finite, "{name}");
    }
}

#[test]
fn weights_that_give_no_numbers_for_the_test_part_take_no_checkpoints_place() {
    // One step an epoch: its loss is a number, and what it leaves is too large for anything to come of it.
    let recipe = Recipe { rate: 1e30, schedule: Schedule::Constant, batch: 8, ..small_recipe() };
    let fixture = Fixture::new(&[6], recipe, SplitChoice::PerClip);
    let mut run = fixture.folder("run");
    let error = train(&fixture.training(), &mut run, &()).unwrap_err().to_string();
    assert!(error.contains(" in step 1; ") && error.contains(" is of step 0 and good"), "{error}");
    assert!(error.contains("the test part") || error.contains("parameter"), "{error}");
}

#[test]
fn a_split_is_its_labels_too() {
    let fixture = Fixture::new(&[6], small_recipe(), SplitChoice::All);
    let list = SplitList::of(&fixture.dataset, &fixture.split);
    let labelled = |labelled| {
        let mut other = list.clone();
        other.train[0].labelled = labelled;
        other
    };
    let Labelled::Frames(frames) = list.train[0].labelled.clone() else { unreachable!("lists are made of names") };
    assert!(list.agrees_with(&labelled(Labelled::Count(frames.len()))) && frames.len() > 1);
    assert!(!list.agrees_with(&labelled(Labelled::Count(1))));
    assert!(!list.agrees_with(&labelled(Labelled::Frames(frames[1..].to_vec()))));
    let others = frames.iter().map(|name| format!("{name}.other")).collect();
    assert!(!list.agrees_with(&labelled(Labelled::Frames(others))));
}

#[test]
fn a_damaged_label_stops_the_run_after_saving_what_came_before() {
    let fixture = Fixture::new(&[6], small_recipe(), SplitChoice::All);
    let label = fixture.dataset.clips()[0].frames[2].label.clone().unwrap();
    std::fs::write(&label, "no image").unwrap();
    let mut run = fixture.folder("run");
    let error = train(&fixture.training(), &mut run, &()).unwrap_err().to_string();
    assert!(error.ends_with("clip0/labels/0002.png: is not an image"), "{error}");
    // Once it is whole again the run goes on.
    std::fs::copy(fixture.dataset.clips()[0].frames[3].label.clone().unwrap(), &label).unwrap();
    assert_eq!(train(&fixture.training(), &mut run, &()).unwrap().epochs.len(), 3);
}

#[test]
fn a_folder_has_one_run_and_nobody_elses_files() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("run");
    let said = |made: Result<RunFolder>| made.unwrap_err().to_string();
    assert!(said(RunFolder::resume(folder.path())).ends_with("holds no run to go on with: it has no config.json"));
    let run = RunFolder::create(&path).unwrap();
    assert!(said(RunFolder::create(&path)).starts_with("another run is at work in "));
    write_configuration(&run);
    assert!(said(RunFolder::resume(&path)).starts_with("another run is at work in "));
    drop(run);
    assert!(said(RunFolder::create(&path)).ends_with("holds a run; go on with --resume, or choose another folder"));
    RunFolder::resume(&path).unwrap();
    let others = folder.path().join("photos");
    std::fs::create_dir(&others).unwrap();
    std::fs::write(others.join("a.png"), "x").unwrap();
    assert!(said(RunFolder::create(&others)).ends_with("is not empty (it holds a.png); choose another folder"));
    assert_eq!(std::fs::read_dir(&others).unwrap().count(), 1);
    std::fs::write(folder.path().join("file"), "x").unwrap();
    assert!(said(RunFolder::create(&folder.path().join("file"))).starts_with("cannot create "));
}

#[test]
fn a_folder_with_another_programs_configuration_is_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    let said = |made: Result<RunFolder>| made.unwrap_err().to_string();
    for content in [r#"{"architectures": ["Bert"], "schema": "other"}"#, "[1]", "no JSON"] {
        std::fs::write(folder.path().join(file::CONFIGURATION), content).unwrap();
        std::fs::write(folder.path().join(".coronet-other"), "x").unwrap();
        let empty = "is not empty (it holds config.json); choose another folder";
        assert!(said(RunFolder::create(folder.path())).ends_with(empty), "{content}");
        let resumed = "holds no run to go on with: its config.json is not one of a run";
        assert!(said(RunFolder::resume(folder.path())).ends_with(resumed), "{content}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "{content}");
    }
}

#[test]
fn a_run_that_was_killed_before_its_configuration_was_there_can_begin_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("run");
    let mut run = RunFolder::create(&path).unwrap();
    run.log("begins").unwrap();
    run.write_json(file::SPLIT, &()).unwrap();
    drop(run);
    RunFolder::create(&path).unwrap();
    let others = folder.path().join("others");
    std::fs::create_dir(&others).unwrap();
    std::fs::write(others.join(file::SPLIT), "x").unwrap();
    let said = RunFolder::create(&others).unwrap_err().to_string();
    assert!(said.ends_with("is not empty (it holds split.json); choose another folder"), "{said}");
}

#[test]
fn a_checkpoint_of_something_else_is_refused() {
    let fixture = Fixture::new(&[6], small_recipe(), SplitChoice::All);
    let mut run = fixture.folder("run");
    let said = |run: &mut RunFolder, content: &[u8]| {
        std::fs::write(run.file(file::CHECKPOINT), content).unwrap();
        train(&fixture.training(), run, &()).unwrap_err().to_string()
    };
    assert!(said(&mut run, b"short").contains("is no checkpoint, or a damaged one"));
    fixture.start.save(&run.file(file::LAST)).unwrap();
    let weights = bytes(&run, file::LAST);
    assert!(said(&mut run, &weights).ends_with("is no checkpoint: it does not say how far its run was"));
}

/// Two frames of a small phantom are learned by heart.
#[test]
fn a_tiny_set_is_learned_by_heart() {
    use crate::phantom::{ClipOptions, Phantom, Preset as Phantoms, write_clip};
    let folder = TempDir::new().unwrap();
    let base = Phantoms::Reference.settings(1, 0);
    let size = crate::media::Size { width: 96, height: 96 };
    let phantom = Phantom::new(crate::phantom::Settings { size, frames: 2, start_seconds: 1.5, ..base }).unwrap();
    let options = ClipOptions { overwrite: false, video: false };
    write_clip(&phantom, &folder.path().join("data/clip"), options, &|| true).unwrap();
    let dataset = Dataset::open(&folder.path().join("data")).unwrap();
    let recipe = Recipe { epochs: 400, batch: 1, side: 96, rate: 1e-2, augmentation: None, ..Preset::Better.recipe() };
    let settings = Settings { recipe, split: SplitChoice::All, seed: 1 };
    let split = Split::new(&dataset, settings.split, settings.seed).unwrap();
    let start = Weights::seeded(Config::new(8, Stem::Half, 1, 1).unwrap(), 1).unwrap();
    let device = CpuDevice::new(None).unwrap();
    let training = Training {
        dataset: &dataset,
        split: &split,
        settings: &settings,
        start: &start,
        device: &device,
        workers: 1,
        between_checkpoints: Duration::MAX,
    };
    let mut run = RunFolder::create(&folder.path().join("run")).unwrap();
    let outcome = train(&training, &mut run, &()).unwrap();
    let iou = outcome.epochs.iter().map(|epoch| epoch.train_iou).fold(0.0, f64::max);
    let dice = 2.0 * iou / (1.0 + iou);
    assert!(dice > 0.98, "Dice {dice}");
}
