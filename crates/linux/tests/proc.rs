//! Processes: a secret that leaves the process list, a session of its own.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::process::{Command, Stdio};

use linux::proc::{scrub_argument, spawn_session};

/// Run again as the child of the test below, with the secret on its command line.
#[test]
fn a_secret_leaves_the_process_list() {
    const SECRET: &str = "correct-horse";
    if std::env::args().any(|a| a == SECRET) {
        let before = std::fs::read("/proc/self/cmdline").unwrap();
        assert!(before.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()));
        assert!(scrub_argument(SECRET).unwrap());
        let after = std::fs::read("/proc/self/cmdline").unwrap();
        assert!(!after.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()));
        return;
    }
    let own = std::env::current_exe().unwrap();
    let status = Command::new(own)
        .args([
            "--exact",
            "a_secret_leaves_the_process_list",
            "--skip",
            SECRET,
        ])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_spawned_session_is_led_by_its_process() {
    let mut child = spawn_session(Command::new("sleep").arg("60")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let session = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(3)
        .unwrap()
        .to_owned();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(session, child.id().to_string());
}
