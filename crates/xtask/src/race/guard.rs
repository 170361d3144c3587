//! Removes namespaces and control groups however the command ends, interrupts included.
//!
//! A second process of this tool waits for the end of a pipe whose other end the first one holds. The kernel
//! closes it when the first one is gone, for whatever reason. A lock keeps two commands off one stage.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use super::meter::Meter;
use crate::stage::{Outcome, Stage, wait_for};

/// An earlier guard needs this long at most to clean up.
const LIMIT: Duration = Duration::from_secs(20);

const READY: &str = "ready";

/// The guard of this process. Dropping it lets it clean up and waits for it.
pub(super) struct Guard(Child);

/// Posts a guard.
pub(super) fn post() -> Outcome<Guard> {
    let own = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut command = Command::new(own);
    command.args(["race", "--guard"]);
    // An interrupt from the terminal goes to a whole process group; the guard must outlive it.
    command.process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| format!("the guard: {error}"))?;
    let said = child.stdout.take().expect("its output is a pipe");
    let mut line = String::new();
    let read = BufReader::new(said).read_line(&mut line);
    let guard = Guard(child);
    match read {
        Ok(_) if line.trim() == READY => Ok(guard),
        _ => Err(line.trim().to_owned()),
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing depends on how it ended.
        let _ = self.0.wait();
    }
}

/// What the guard does: waits for the end of its input, then removes everything of that name.
pub(super) fn watch(name: &str) -> ExitCode {
    let path = std::env::temp_dir().join(format!("{name}.lock"));
    let lock = wait_for("the lock", LIMIT, || {
        let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        file.try_lock()
            .map_err(|_| "another race runs on this machine".to_owned())?;
        Ok(file)
    });
    let _lock = match lock {
        Ok(lock) => lock,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{READY}");
    let mut rest = Vec::new();
    // However the pipe ends, the other process is gone or done.
    let _ = std::io::stdin().read_to_end(&mut rest);
    // A new stage removes what stands there, and goes with everything when dropped.
    let stage = Stage::new(name);
    drop(stage);
    Meter::new(name, 1).remove();
    ExitCode::SUCCESS
}
