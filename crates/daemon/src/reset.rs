//! Removing everything a daemon made on this host; the daemon must not run.

use std::path::Path;

use crate::store::{Lock, Store};

/// Name of the record with the name of the bridge, so that `reset` finds one of another name.
pub const BRIDGE: &str = "bridge";
/// Prefixes of the names of files we make in the state and run directories.
const OWN_FILES: [&str; 4] = ["weft.", "supervisor.lock", "notify.sock", "launched"];

/// Whether a daemon has ever run on this state.
pub fn has_state(state_dir: &Path) -> bool {
    state_dir.join(crate::store::FILE_NAME).exists()
}

/// Removes bridge, interfaces, firewall rules, state and run files. Returns what could not be
/// removed; nothing stops it half-way.
pub fn reset(state_dir: &Path, run_dir: &Path) -> Vec<String> {
    let mut failures = Vec::new();
    let bridge = remembered_bridge(state_dir);
    let own_links = [plane::TAP_NAME];
    for error in linux::reset::reset(&bridge, &own_links) {
        failures.push(error.to_string());
    }
    for directory in [state_dir, run_dir] {
        remove_files(directory, &mut failures);
    }
    failures
}

fn remembered_bridge(state_dir: &Path) -> String {
    let read = || -> Option<String> {
        if !has_state(state_dir) {
            return None;
        }
        let _lock = Lock::take(state_dir).ok()?;
        Store::open(state_dir).ok()?.get(BRIDGE).ok()?
    };
    read().unwrap_or_else(|| linux::bridge::DEFAULT_BRIDGE.to_owned())
}

/// Removes our files, and the directory if nothing else is in it.
fn remove_files(directory: &Path, failures: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name
            .to_str()
            .is_some_and(|n| OWN_FILES.iter().any(|own| n.starts_with(own)));
        if ours && let Err(error) = std::fs::remove_file(entry.path()) {
            failures.push(format!("{}: {error}", entry.path().display()));
        }
    }
    // Something of the user's may be in it.
    let _ = std::fs::remove_dir(directory);
}
