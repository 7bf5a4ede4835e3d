//! Randomness that replays: jitter drawn from the seed that the agent was given.
//! Upstream: k8s.io/apimachinery/pkg/util/wait (Jitter).
//! Differs: seeded; the algorithm (PCG) is fixed, so that a seed means the same on every build.

use std::time::Duration;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng as _;

/// No wait is longer: what a server asks for may be more than can be multiplied.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The core's only source of randomness.
#[derive(Clone, Debug)]
pub struct Rng(Pcg64Mcg);

impl Rng {
    /// A generator that replays for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::new(u128::from(seed) << 64 | 0xcafe_f00d_d15e_a5e5))
    }

    /// Uniform in `[0, 1)`.
    pub fn fraction(&mut self) -> f64 {
        // 53 bits: what an f64 holds without rounding up to 1.
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[0, bound)`; zero for a bound of zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.next_u64() % bound }
    }

    /// `base` lengthened by a random part of up to `factor` of it: upstream's `wait.Jitter`.
    pub fn jitter(&mut self, base: Duration, factor: f64) -> Duration {
        base.min(LONGEST).mul_f64(1.0 + self.fraction() * factor)
    }

    /// Eight random bytes, for names that must not collide.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A server's Retry-After of 18446744073709551615.
    #[test]
    fn longest_wait_can_be_lengthened_all_the_same() {
        let mut rng = Rng::new(1);
        assert!(rng.jitter(Duration::MAX, 0.5) >= LONGEST);
        assert!(rng.jitter(Duration::from_secs(1), 0.5) < Duration::from_millis(1500));
    }
}
