//! `stop` and `reset`.

use std::time::Duration;

use daemon::store::Lock;
use daemon::supervise::{SUPERVISOR_LOCK, end_process};

use crate::args::ResetArgs;
use crate::client::{Client, run_dir, state_dir};
use crate::failure::{Failure, Outcome};
use crate::hints;
use crate::privilege::need_root;

/// How long a daemon that hands its addresses over goes on running (spec/ipam.md 7).
const FAREWELL: Duration = Duration::from_millis(500);

pub(crate) fn stop() -> Outcome {
    need_root()?;
    if !end_daemon()? {
        eprintln!("Weave is not running (ignore on Kubernetes).");
    }
    Ok(())
}

pub(crate) fn reset(client: &Client, args: &ResetArgs) -> Outcome {
    need_root()?;
    let running = Lock::holder(&state_dir()).is_some();
    if !running && daemon::reset::has_state(&state_dir()) && !args.force {
        return Err(Failure::exit(1, hints::RESET_NEEDS_FORCE));
    }
    if running {
        hand_over(client);
    }
    end_daemon()?;
    let failures = daemon::reset::reset(&state_dir(), &run_dir());
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::exit(1, failures.join("\n")))
}

/// Gives our addresses to another peer, and the word of it the time to leave this host. A reset goes
/// on without: whoever is left can take them with `rmpeer`.
fn hand_over(client: &Client) {
    match client.call("DELETE", "/peer", None, None) {
        Ok(_) => std::thread::sleep(FAREWELL),
        Err(failure) => eprintln!("WARNING: addresses not handed over: {failure}"),
    }
}

/// Ends supervisor and daemon and waits until they are gone; whether there was one.
fn end_daemon() -> Result<bool, Failure> {
    let mut found = false;
    // The supervisor first: it ends its daemon, and would start another one.
    if let Some(pid) = Lock::holder_named(&run_dir(), SUPERVISOR_LOCK) {
        found = true;
        end_process(pid).map_err(anyhow::Error::from)?;
    }
    if let Some(pid) = Lock::holder(&state_dir()) {
        found = true;
        end_process(pid).map_err(anyhow::Error::from)?;
    }
    daemon::start::forget_launch(&run_dir());
    Ok(found)
}
