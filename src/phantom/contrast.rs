//! The contrast agent: how much of the blood it is, at each time and place.

use super::motion::Rhythm;
use super::tree::Point;

/// How long the injection takes, in s.
const INJECTION: f64 = 2.6;
/// How fast the agent fills and leaves the ostium, in s.
const FILLING: f64 = 0.22;
const WASHOUT: f64 = 0.55;
/// Between two values of the flow's integral, in s.
const TICK: f64 = 0.005;

/// A bolus of contrast agent in one patient's coronary flow.
#[derive(Debug, Clone)]
pub struct Bolus {
    /// The integral of the flow (mean 1) from the start of the injection on, every [`TICK`] seconds.
    flowed: Vec<f64>,
    /// How uneven the agent is mixed, 0 to 1.
    streaming: f64,
    phase: f64,
}

impl Bolus {
    /// A bolus for as long as `rhythm` covers, to `end` seconds; `left` is the left system, which is filled in diastole.
    pub fn new(rhythm: &Rhythm, end: f64, left: bool, streaming: f64, phase: f64) -> Bolus {
        let depth = if left { 0.55 } else { 0.25 };
        let mut flowed = vec![0.0];
        for tick in 0..(end.max(0.0) / TICK).ceil() as usize + 1 {
            // Contraction's mean over a beat is about 0.35.
            let flow = 1.0 - depth * (rhythm.at(tick as f64 * TICK).contraction - 0.35);
            flowed.push(flowed[tick] + TICK * flow);
        }
        Bolus { flowed, streaming, phase }
    }

    /// The integral of the flow at `seconds`, in seconds of mean flow.
    fn flowed(&self, seconds: f64) -> f64 {
        let at = (seconds / TICK).max(0.0);
        let whole = (at as usize).min(self.flowed.len() - 1);
        let next = (whole + 1).min(self.flowed.len() - 1);
        self.flowed[whole] + (at - whole as f64).min(1.0) * (self.flowed[next] - self.flowed[whole])
    }

    /// Concentration at the catheter's tip, as a share of the undiluted agent.
    pub fn at_ostium(&self, seconds: f64) -> f64 {
        if seconds < 0.0 { 0.0 } else { self.after(self.flowed(seconds), 0.0) }
    }

    /// Mean concentration across the lumen at a point, as a share of the undiluted agent.
    pub fn at(&self, point: &Point, seconds: f64) -> f64 {
        if seconds < 0.0 { 0.0 } else { self.after(self.flowed(seconds) - point.transit, point.transit) }
    }

    /// `since` the agent set out, having travelled for `transit`, which spreads its front.
    fn after(&self, since: f64, transit: f64) -> f64 {
        let rise = FILLING + 0.35 * transit;
        let fill = (since / rise).clamp(0.0, 1.0);
        let fill = fill * fill * (3.0 - 2.0 * fill);
        let gone = (since - INJECTION).max(0.0) / (WASHOUT + 0.4 * transit);
        fill * (-gone).exp()
    }

    /// How the agent is spread across the lumen: by which share it is denser at the wall on the right of the way.
    ///
    /// Streams lie to one side, change it on the way, move with the flow, and mix while the vessel is full.
    pub fn streaming(&self, point: &Point, seconds: f64, concentration: f64) -> f64 {
        let way = self.flowed(seconds) - point.transit;
        let side =
            0.6 * (9.0 * way + 0.11 * point.path + self.phase).sin() + 0.4 * (23.0 * way + 2.0 * self.phase).sin();
        self.streaming * (0.25 + 0.75 * (1.0 - concentration)) * side
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use glam::DVec3;

    fn point(transit: f64) -> Point {
        Point { position: DVec3::ZERO, radius: 1.0, path: 100.0 * transit, transit }
    }

    fn bolus() -> Bolus {
        let rhythm = Rhythm::new(&mut Random::new(2), -1.0, 8.0, 75.0, 4.0);
        Bolus::new(&rhythm, 8.0, true, 0.5, 1.0)
    }

    #[test]
    fn the_agent_comes_fills_and_leaves_later_downstream() {
        let bolus = bolus();
        assert_eq!(bolus.at(&point(0.0), -0.1), 0.0);
        assert_eq!(bolus.at(&point(1.0), 0.5), 0.0);
        assert!(bolus.at(&point(0.0), 1.0) > 0.99);
        assert!(bolus.at(&point(1.0), 2.5) > 0.99);
        assert!(bolus.at(&point(0.0), 4.5) < 0.1);
        assert!(bolus.at(&point(1.0), 4.0) > bolus.at(&point(0.0), 4.0));
    }

    #[test]
    fn streams_lie_to_one_side_and_weaken_as_the_vessel_fills() {
        let bolus = bolus();
        let share = |concentration| bolus.streaming(&point(0.3), 0.5, concentration).abs();
        assert!(share(0.4) > share(1.0) && share(1.0) > 0.0 && share(0.0) <= 0.5);
    }
}
