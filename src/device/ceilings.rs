//! The most that a device can do, to measure steps by.

use std::time::Duration;

/// What a device reaches in arithmetic alone and in copying alone.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Ceilings {
    /// Floating-point operations a second, a multiply-add counted as two.
    pub flops: f64,
    /// Bytes a second of a copy far larger than the caches, read and written ones counted alike.
    pub bytes: f64,
}

impl Ceilings {
    /// The share of the ceiling that work of this size has reached in `time`: 1 where either the arithmetic or the
    /// traffic by itself takes that long. Work that finds its data in a cache can exceed 1.
    pub fn share(&self, flops: f64, bytes: f64, time: Duration) -> f64 {
        (flops / self.flops).max(bytes / self.bytes) / time.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_arithmetic_and_traffic_is_the_ceiling() {
        let ceilings = Ceilings { flops: 100.0, bytes: 10.0 };
        assert_eq!(ceilings.share(50.0, 1.0, Duration::from_secs(1)), 0.5);
        assert_eq!(ceilings.share(50.0, 8.0, Duration::from_secs(2)), 0.4);
    }
}
