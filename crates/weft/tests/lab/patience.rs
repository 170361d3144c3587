//! Waiting for facts. The only place of the kernel tests that reads the clock.

use std::time::{Duration, Instant};

/// Longer than anything a daemon promises (it gives a silent peer 60 s), so that a busy machine fails
/// no test.
pub(crate) const LONG: Duration = Duration::from_secs(100);

/// Pause between two looks.
const STEP: Duration = Duration::from_millis(100);

/// Time since its making.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "kernel tests wait for real daemons"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Looks until `fact` gives a value. `Err` holds what it saw last, for the message.
pub(crate) fn wait_for<T>(what: &str, mut fact: impl FnMut() -> Result<T, String>) -> T {
    let watch = Stopwatch::start();
    loop {
        match fact() {
            Ok(value) => return value,
            Err(seen) if watch.elapsed() > LONG => panic!("waited in vain for {what}:\n{seen}"),
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// Looks until `fact` holds.
pub(crate) fn wait_until(what: &str, mut fact: impl FnMut() -> bool) {
    wait_for(what, || if fact() { Ok(()) } else { Err(String::new()) });
}

/// Looks for `time` that `fact` goes on holding.
pub(crate) fn holds_for(time: Duration, what: &str, mut fact: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while watch.elapsed() < time {
        assert!(fact(), "{what} stopped being true");
        std::thread::sleep(STEP);
    }
}
