//! Draws a synthetic angiogram as a folder of PGM frames: `demo_clip FOLDER [FRAMES]`.
//!
//! A tree of dark vessels fills with contrast agent, beats over a bright, noisy background and fades again. It has
//! the grey levels of an angiogram and nothing else in common with a patient. Needs only the standard library, so
//! that `tools/demo` can compile it with `rustc` alone.

use std::{env, fs, io, path::Path, process::ExitCode};

const SIDE: usize = 512;

/// A tapering piece of vessel; positions and radii in pixels, `reached` = when contrast arrives, in 0 to 1.
struct Segment {
    from: (f32, f32),
    to: (f32, f32),
    radii: (f32, f32),
    reached: f32,
}

/// A small linear congruential generator: the same clip on every machine.
struct Noise(u32);

impl Noise {
    /// Uniform in -1 to 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Appends a branch of curved segments and, towards its end, the two branches that it divides into.
fn grow(
    tree: &mut Vec<Segment>,
    noise: &mut Noise,
    start: (f32, f32),
    mut heading: f32,
    radius: f32,
    mut reached: f32,
) {
    const PIECES: usize = 9;
    let length = 9.0 * radius.sqrt();
    let bend = 0.13 * noise.next();
    let mut from = start;
    for piece in 0..PIECES {
        heading += bend + 0.1 * noise.next();
        let to = (from.0 + length * heading.cos(), from.1 + length * heading.sin());
        let taper = |at: usize| radius * (1.0 - 0.3 * at as f32 / PIECES as f32);
        tree.push(Segment { from, to, radii: (taper(piece), taper(piece + 1)), reached });
        reached += 0.012;
        from = to;
        if piece == PIECES / 2 && radius > 2.0 {
            let side = heading + 0.8 + 0.2 * noise.next();
            grow(tree, noise, from, side, 0.6 * radius, reached);
        }
    }
    if radius > 1.6 {
        grow(tree, noise, from, heading + 0.2, 0.66 * radius, reached);
    }
}

/// Where the beating heart carries a point at `phase` of its cycle (0 to 1).
fn beat(point: (f32, f32), phase: f32) -> (f32, f32) {
    let squeeze = 0.06 * (std::f32::consts::TAU * phase).sin().max(0.0);
    let centre = SIDE as f32 / 2.0;
    (point.0 + (centre - point.0) * squeeze, point.1 + (centre - point.1) * squeeze * 0.7 + 60.0 * squeeze)
}

/// Adds the thickness of contrast agent that the rays through `segment` meet, in pixels.
fn add_thickness(thickness: &mut [f32], segment: &Segment, phase: f32, concentration: f32) {
    let (a, b) = (beat(segment.from, phase), beat(segment.to, phase));
    let reach = segment.radii.0 + 1.0;
    let range = |p: f32, q: f32| {
        let low = (p.min(q) - reach).max(0.0) as usize;
        low..((p.max(q) + reach).max(0.0) as usize + 1).min(SIDE)
    };
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let squared_length = (dx * dx + dy * dy).max(1e-6);
    for y in range(a.1, b.1) {
        for x in range(a.0, b.0) {
            let (px, py) = (x as f32 - a.0, y as f32 - a.1);
            let along = ((px * dx + py * dy) / squared_length).clamp(0.0, 1.0);
            let radius = segment.radii.0 + along * (segment.radii.1 - segment.radii.0);
            let (ex, ey) = (px - along * dx, py - along * dy);
            let chord = (radius * radius - ex * ex - ey * ey).max(0.0).sqrt();
            let here = &mut thickness[y * SIDE + x];
            *here = here.max(2.0 * chord * concentration);
        }
    }
}

/// One frame: what is left of the X-rays behind background and vessels, with quantum noise.
fn draw(tree: &[Segment], noise: &mut Noise, frame: usize, frames: usize) -> Vec<u8> {
    let time = frame as f32 / frames as f32;
    let phase = (frame as f32 / 15.0).fract();
    let mut thickness = vec![0.0_f32; SIDE * SIDE];
    for segment in tree {
        let arriving = ((time - 0.1 - segment.reached) / 0.08).clamp(0.0, 1.0);
        let leaving = ((1.0 + segment.reached - time) / 0.3).clamp(0.0, 1.0);
        add_thickness(&mut thickness, segment, phase, arriving * leaving);
    }
    let ribs = |x: f32, y: f32| 9.0 * ((y + 0.35 * x) / 38.0).sin().max(0.0).powi(3);
    let diaphragm = |x: f32, y: f32| if y > 430.0 + 0.0006 * (x - 300.0).powi(2) + 8.0 * time { 45.0 } else { 0.0 };
    let pixel = |(i, thick): (usize, &f32)| {
        let (x, y) = ((i % SIDE) as f32, (i / SIDE) as f32);
        let background = 185.0 - 0.0003 * ((x - 256.0).powi(2) + (y - 230.0).powi(2)) - ribs(x, y) - diaphragm(x, y);
        let behind = background * (-0.045 * thick).exp();
        (behind + 7.0 * (noise.next() + noise.next())).clamp(0.0, 255.0) as u8
    };
    thickness.iter().enumerate().map(pixel).collect()
}

fn write_clip(folder: &Path, frames: usize) -> io::Result<()> {
    let mut noise = Noise(2020);
    let mut tree = Vec::new();
    grow(&mut tree, &mut noise, (120.0, 60.0), 1.05, 8.0, 0.0);
    fs::create_dir_all(folder)?;
    for frame in 0..frames {
        let mut file = format!("P5\n{SIDE} {SIDE}\n255\n").into_bytes();
        file.extend(draw(&tree, &mut noise, frame, frames));
        fs::write(folder.join(format!("{frame:04}.pgm")), file)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let folder = arguments.next();
    let frames = arguments.next().map_or(Some(48), |text| text.parse().ok());
    let (Some(folder), Some(frames)) = (folder, frames) else {
        eprintln!("usage: demo_clip FOLDER [FRAMES]");
        return ExitCode::from(2);
    };
    match write_clip(Path::new(&folder), frames) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo_clip: cannot write the clip to {folder}: {error}");
            ExitCode::FAILURE
        }
    }
}
