//! Windows and masks in batches, read ahead by threads, the same whatever their number.

use super::{Augmentation, Recipe, Settings};
use crate::dataset::{Dataset, FrameId, Section, Split};
use crate::error::{Error, Result};
use crate::media::{BilinearResize, Colour, FramePreparer, Size};
use crate::model::Config;
use crate::random::Random;
use std::collections::HashMap;
use std::sync::mpsc::sync_channel;

/// What a step learns from.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Frames `[batch, channels, 2N+1, height, width]`, values as a network takes them.
    pub window: Vec<f32>,
    /// Vessel `[batch, 1, height, width]`, 0 or 1.
    pub mask: Vec<f32>,
    /// The files of the middle frames.
    pub names: Vec<String>,
}

/// Shows `each` what [`train`](super::train) does with these settings: for every step, from the first to the last, the
/// learning rate and the batch. `workers` threads read ahead.
///
/// # Errors
/// [`Error::Media`] and [`Error::Io`] when a file cannot be read; those of `each`.
pub fn for_each_batch(
    dataset: &Dataset,
    split: &Split,
    config: Config,
    settings: &Settings,
    workers: usize,
    mut each: impl FnMut(f32, &Batch) -> Result<()>,
) -> Result<()> {
    settings.recipe.check()?;
    let batches = Batches::new(dataset, &split.train, config, &settings.recipe, settings.seed);
    let steps = batches.steps();
    batches.read_ahead(0, workers, |next| {
        (0..steps).try_for_each(|step| each(settings.recipe.rate_at(step, steps), &next()?))
    })
}

/// The samples of a training set and the order in which they come.
pub(super) struct Batches<'a> {
    dataset: &'a Dataset,
    sections: &'a [Section],
    /// Positions of a section and of a labelled frame in its clip.
    samples: Vec<(usize, usize)>,
    config: Config,
    recipe: &'a Recipe,
    seed: u64,
}

/// What is drawn from a seed: the order of an epoch, the change of a sample.
const ORDER: u64 = 1;
const CHANGE: u64 = 2;

impl<'a> Batches<'a> {
    pub fn new(
        dataset: &'a Dataset,
        sections: &'a [Section],
        config: Config,
        recipe: &'a Recipe,
        seed: u64,
    ) -> Batches<'a> {
        let labelled =
            |(position, section): (usize, &'a Section)| section.labelled(dataset).map(move |id| (position, id.frame));
        let samples = sections.iter().enumerate().flat_map(labelled).collect();
        Batches { dataset, sections, samples, config, recipe, seed }
    }

    /// Windows in an epoch.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Steps in an epoch.
    pub fn steps_an_epoch(&self) -> u64 {
        self.samples.len().div_ceil(self.recipe.batch) as u64
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.steps_an_epoch() * self.recipe.epochs as u64
    }

    /// The samples of step `step`, counted from 0, by their positions. Each epoch has an order of its own; its last batch
    /// is filled up from its beginning.
    fn of_step(&self, step: u64) -> Vec<usize> {
        let (epoch, within) = (step / self.steps_an_epoch(), (step % self.steps_an_epoch()) as usize);
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        let mut random = Random::of(&[self.seed, ORDER, epoch]);
        for i in (1..order.len()).rev() {
            order.swap(i, (random.bits() % (i as u64 + 1)) as usize);
        }
        let first = within * self.recipe.batch;
        (first..first + self.recipe.batch).map(|place| order[place % order.len()]).collect()
    }

    /// Runs `body` with a function that gives the batches of steps `from..steps()`, one after the other, while `workers`
    /// threads read ahead of it.
    pub fn read_ahead<R>(
        &self,
        from: u64,
        workers: usize,
        body: impl FnOnce(&mut dyn FnMut() -> Result<Batch>) -> R,
    ) -> R {
        let workers = workers.max(1);
        std::thread::scope(|threads| {
            // Each thread has every so-manieth step and a channel of its own: the order needs no further care.
            let channels: Vec<_> = (0..workers as u64)
                .map(|worker| {
                    let (sender, receiver) = sync_channel(1);
                    threads.spawn(move || {
                        let mut reader = SampleReader::new(self.dataset, self.config, self.recipe.size());
                        for step in (from + worker..self.steps()).step_by(workers) {
                            let batch = self.read(step, &mut reader);
                            let is_last = batch.is_err();
                            if sender.send(batch).is_err() || is_last {
                                return;
                            }
                        }
                    });
                    receiver
                })
                .collect();
            let mut next = 0;
            body(&mut || {
                let received = channels[next % workers].recv();
                next += 1;
                received.unwrap_or_else(|_| Err(Error::Internal("a thread that reads samples has ended".into())))
            })
        })
    }

    fn read(&self, step: u64, reader: &mut SampleReader<'_>) -> Result<Batch> {
        let mut batch = Batch { window: Vec::new(), mask: Vec::new(), names: Vec::new() };
        for (place, sample) in self.of_step(step).into_iter().enumerate() {
            let (section, frame) = self.samples[sample];
            let section = &self.sections[section];
            let mut random = Random::of(&[self.seed, CHANGE, step, place as u64]);
            reader.append(section, frame, self.recipe.augmentation.as_ref().map(|a| (a, &mut random)), &mut batch)?;
        }
        Ok(batch)
    }
}

/// Reads windows with their labels as a network takes them.
struct SampleReader<'a> {
    dataset: &'a Dataset,
    config: Config,
    size: Size,
    preparers: HashMap<Size, (FramePreparer, BilinearResize)>,
}

impl SampleReader<'_> {
    fn new(dataset: &Dataset, config: Config, size: Size) -> SampleReader<'_> {
        SampleReader { dataset, config, size, preparers: HashMap::new() }
    }

    fn append(
        &mut self,
        section: &Section,
        middle: usize,
        augmentation: Option<(&Augmentation, &mut Random)>,
        batch: &mut Batch,
    ) -> Result<()> {
        let change = augmentation.map(|(augmentation, random)| augmentation.draw(random));
        let (id, side, area) = (FrameId { clip: section.clip, frame: middle }, self.size.width, self.size.area());
        let source = self.dataset.clip(id).size;
        let colour = if self.config.in_channels() == 3 { Colour::Rgb } else { Colour::Grey };
        if !self.preparers.contains_key(&source) {
            let tools = (FramePreparer::new(source, colour, self.size)?, BilinearResize::new(source, self.size)?);
            self.preparers.insert(source, tools);
        }
        let Some((preparer, resize)) = self.preparers.get_mut(&source) else {
            return Err(Error::Internal("a tool that was put away is gone".into()));
        };
        // At the ends of a section a frame comes more than once in a row.
        let mut frames: Vec<(FrameId, Vec<f32>)> = Vec::new();
        for id in section.window(middle, self.config.neighbours()) {
            let planes = match frames.last() {
                Some((last, planes)) if *last == id => planes.clone(),
                _ => {
                    let mut planes = vec![0.0; preparer.values()];
                    preparer.prepare(&self.dataset.read_frame(id)?, &mut planes)?;
                    if let Some(change) = &change {
                        for plane in planes.chunks_exact_mut(area) {
                            let mut moved = change.moved(plane, side);
                            change.toned(&mut moved);
                            change.covered(&mut moved, side);
                            plane.copy_from_slice(&moved);
                        }
                    }
                    planes
                }
            };
            frames.push((id, planes));
        }
        for channel in 0..self.config.in_channels() {
            frames.iter().for_each(|(_, planes)| batch.window.extend(&planes[channel * area..][..area]));
        }
        let mut mask = self.dataset.read_label(id)?.shares(resize)?;
        if let Some(change) = &change {
            mask = change.moved(&mask, side);
            change.uncovered(&mut mask, side);
        }
        batch.mask.extend(mask.into_iter().map(|share| if share >= 0.5 { 1.0 } else { 0.0 }));
        batch.names.push(self.dataset.frame(id).path.display().to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::fixture::write_clip;
    use crate::dataset::{Split, SplitChoice};
    use crate::model::Stem;
    use crate::train::Preset;
    use tempfile::TempDir;

    fn recipe(batch: usize, epochs: usize) -> Recipe {
        Recipe { batch, epochs, side: 96, augmentation: None, ..Preset::Better.recipe() }
    }

    struct Fixture {
        _folder: TempDir,
        dataset: Dataset,
        split: Split,
    }

    fn clips(clips: &[usize]) -> Fixture {
        let folder = TempDir::new().unwrap();
        for (i, &frames) in clips.iter().enumerate() {
            write_clip(folder.path(), &format!("clip{i}"), frames);
        }
        let dataset = Dataset::open(folder.path()).unwrap();
        let split = Split::new(&dataset, SplitChoice::All, 1).unwrap();
        Fixture { _folder: folder, dataset, split }
    }

    impl Fixture {
        fn batches<'a>(&'a self, recipe: &'a Recipe) -> Batches<'a> {
            let config = Config::new(4, Stem::Half, 1, 1).unwrap();
            Batches::new(&self.dataset, &self.split.train, config, recipe, 5)
        }
    }

    fn all(batches: &Batches<'_>, from: u64, workers: usize) -> Vec<Batch> {
        batches.read_ahead(from, workers, |next| (from..batches.steps()).map(|_| next().unwrap()).collect())
    }

    #[test]
    fn an_epoch_holds_every_sample_and_fills_its_last_batch_from_its_beginning() {
        let (fixture, recipe) = (clips(&[3, 4]), recipe(4, 2));
        let batches = fixture.batches(&recipe);
        assert_eq!((batches.samples(), batches.steps_an_epoch(), batches.steps()), (7, 2, 4));
        let epochs: Vec<Vec<usize>> = [0, 2].map(|s| [batches.of_step(s), batches.of_step(s + 1)].concat()).into();
        for epoch in &epochs {
            let mut once = epoch[..7].to_vec();
            once.sort_unstable();
            assert_eq!(once, [0, 1, 2, 3, 4, 5, 6]);
            assert_eq!(epoch[7], epoch[0]);
        }
        assert_ne!(epochs[0], epochs[1]);
        let tiny = clips(&[1]);
        assert_eq!(tiny.batches(&recipe).of_step(0), [0; 4]);
    }

    #[test]
    fn batches_are_the_same_for_any_number_of_threads_and_any_beginning() {
        let fixture = clips(&[3, 4]);
        let recipe = Recipe { augmentation: Some(Augmentation::default()), ..recipe(2, 2) };
        let batches = fixture.batches(&recipe);
        let one = all(&batches, 0, 1);
        assert_eq!(one.len(), 8);
        assert_eq!(all(&batches, 0, 3), one);
        assert_eq!(all(&batches, 3, 2), one[3..]);
        // The same sample is changed otherwise in another epoch.
        let first = |name: &str, from: usize| {
            let found = one[from..].iter().flat_map(|b| b.names.iter().zip(b.window.chunks(3 * 96 * 96)));
            found.filter(|(n, _)| n.ends_with(name)).map(|(_, window)| window.to_vec()).next().unwrap()
        };
        assert_ne!(first("clip1/frames/0002.png", 0), first("clip1/frames/0002.png", 4));
    }

    #[test]
    fn what_a_run_learns_from_can_be_seen_with_its_rates() {
        let fixture = clips(&[3, 4]);
        let settings = Settings { recipe: recipe(4, 3), split: SplitChoice::All, seed: 5 };
        let config = Config::new(4, Stem::Half, 1, 1).unwrap();
        let (mut rates, mut seen) = (Vec::new(), Vec::new());
        for_each_batch(&fixture.dataset, &fixture.split, config, &settings, 2, |rate, batch| {
            rates.push(rate);
            seen.push(batch.clone());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, all(&fixture.batches(&settings.recipe), 0, 1));
        assert_eq!(rates, (0..6).map(|step| settings.recipe.rate_at(step, 6)).collect::<Vec<_>>());
        let mut steps = 0;
        let stopped = for_each_batch(&fixture.dataset, &fixture.split, config, &settings, 2, |_, _| {
            steps += 1;
            Err(Error::Interrupted)
        });
        assert!(matches!(stopped, Err(Error::Interrupted)) && steps == 1);
    }

    /// Frame i of the fixture is all 10 i, and its label has i pixels of vessel.
    #[test]
    fn a_window_holds_the_neighbours_and_the_label_of_its_middle() {
        let (fixture, recipe) = (clips(&[3]), recipe(3, 1));
        let batch = &all(&fixture.batches(&recipe), 0, 1)[0];
        for (i, name) in batch.names.iter().enumerate() {
            let middle = name.chars().rev().nth(4).unwrap().to_digit(10).unwrap() as i32;
            let area = 96 * 96;
            for (frame, plane) in batch.window[3 * i * area..][..3 * area].chunks(area).enumerate() {
                let expected = 10 * (middle + frame as i32 - 1).clamp(0, 2);
                assert!(plane.iter().all(|&v| (v - (expected as f32 / 255.0 * 3.2 - 1.6)).abs() < 1e-5), "{name}");
            }
            let share = batch.mask[i * area..][..area].iter().sum::<f32>() / area as f32;
            assert!((share - middle as f32 / 20.0).abs() < 0.03, "{name}: {share}");
        }
    }

    #[test]
    fn a_damaged_file_is_named_when_its_batch_is_due() {
        let (fixture, recipe) = (clips(&[4]), recipe(1, 1));
        let batches = fixture.batches(&recipe);
        let spoiled = fixture.dataset.frame(FrameId { clip: 0, frame: 3 }).label.clone().unwrap();
        std::fs::write(&spoiled, "no image").unwrap();
        let results = batches.read_ahead(0, 2, |next| (0..4).map(|_| next()).collect::<Vec<_>>());
        let errors: Vec<String> = results.iter().filter_map(|r| r.as_ref().err().map(Error::to_string)).collect();
        assert!(errors[0].ends_with("clip0/labels/0003.png: is not an image"), "{errors:?}");
        assert!(results.iter().any(Result::is_ok));
    }
}
