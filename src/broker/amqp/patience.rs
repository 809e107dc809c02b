//! How patiently a lost broker is tried again.

use super::AmqpError;
use std::time::Duration;

/// First pause; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A broker that refuses so many times in a row means it: while it starts it may do so.
const MAX_REFUSALS: u32 = 10;
/// What worked for so long was good; what failed sooner counts as another failure of the same kind.
const STEADY: Duration = Duration::from_secs(5);

/// Pauses and refusals since the last time that all was well.
pub(super) struct Patience {
    pause: Duration,
    refusals: u32,
}

impl Patience {
    pub fn new() -> Self {
        Patience { pause: FIRST_PAUSE, refusals: 0 }
    }

    /// What is tried again had worked for so long.
    pub fn lived(&mut self, time: Duration) {
        if time >= STEADY {
            *self = Patience::new();
        }
    }

    /// Takes note of a failure.
    ///
    /// # Errors
    /// The same, if there is no use in trying again.
    pub fn bear(&mut self, error: AmqpError) -> Result<(), AmqpError> {
        tracing::debug!(%error, "the broker cannot be used yet");
        self.refusals += u32::from(!error.is_transient());
        if self.refusals >= MAX_REFUSALS { Err(error) } else { Ok(()) }
    }

    /// How long to wait before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> AmqpError {
        AmqpError::Refused { broker: String::new(), why: String::new() }
    }

    #[test]
    fn short_lives_do_not_shorten_the_pause_and_refusals_add_up() {
        let mut patience = Patience::new();
        for _ in 1..MAX_REFUSALS {
            patience.lived(Duration::from_millis(10));
            patience.bear(refused()).unwrap();
            patience.pause();
        }
        assert_eq!(patience.pause(), LONGEST_PAUSE);
        assert!(patience.bear(refused()).is_err());
        patience.lived(STEADY);
        assert_eq!(patience.pause(), FIRST_PAUSE);
        patience.bear(refused()).unwrap();
    }
}
