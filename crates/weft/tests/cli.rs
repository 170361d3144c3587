//! What the command line answers without a daemon: usage, mistakes, exit codes, the name `weave`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit code, standard output, standard error.
fn weft(words: &[&str]) -> (i32, String, String) {
    run(Path::new(env!("CARGO_BIN_EXE_weft")), words)
}

fn run(program: &Path, words: &[&str]) -> (i32, String, String) {
    let nowhere = std::env::temp_dir().join("weft-cli-test-without-a-daemon");
    let output = Command::new(program)
        .args(words)
        .env("WEFT_RUN_DIR", &nowhere)
        .env("WEFT_STATE_DIR", &nowhere)
        // Port 1 of the loopback interface is closed.
        .env("WEAVE_HTTP_ADDR", "127.0.0.1:1")
        .env_remove("WEAVE_PASSWORD")
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn no_words_and_unknown_verbs_give_usage() {
    let (code, out, err) = weft(&[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("Usage: weft <command>"), "{err}");
    let (code, out, err) = weft(&["bogus"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("Unknown weft command 'bogus'\n"), "{err}");
    assert!(err.contains("Usage: weft <command>"), "{err}");
}

#[test]
fn help_is_no_error() {
    for words in [
        &["help"][..],
        &["--help"],
        &["launch", "--help"],
        &["--local", "ps", "--help"],
    ] {
        let (code, out, err) = weft(words);
        assert_eq!((code, out.as_str()), (0, ""), "{words:?}");
        assert!(err.starts_with("Usage: weft"), "{words:?}: {err}");
    }
}

#[test]
fn unknown_flags_of_launch_are_refused_as_by_the_original() {
    let (code, _, err) = weft(&["launch", "--nonsense"]);
    assert_eq!(code, 125);
    assert_eq!(
        err,
        "flag provided but not defined: --nonsense\nSee 'weave --help'.\n"
    );
    let (code, _, err) = weft(&["daemon", "--port"]);
    assert_eq!(code, 125, "{err}");
}

/// F27, F45: of the cipher nothing can be chosen, and nothing of it switched off.
#[test]
fn there_is_no_option_for_the_cipher_or_against_replay_protection() {
    let (code, _, help) = weft(&["launch", "--help"]);
    assert_eq!(code, 0);
    assert!(help.contains("--password"), "{help}");
    let help = help.to_lowercase();
    for word in [
        "cipher",
        "suite",
        "certificate",
        "replay",
        "window",
        "insecure",
        "nonce",
    ] {
        assert!(!help.contains(word), "{word}: {help}");
    }
}

#[test]
fn wrong_words_give_the_usage_of_the_verb() {
    for words in [
        &["connect"][..],
        &["forget"],
        &["attach"],
        &["attach", "10.2.1.1/24"],
        &["stop", "now"],
        &["status", "connections", "peers"],
        &["report", "--nonsense"],
    ] {
        let (code, out, err) = weft(words);
        assert_eq!((code, out.as_str()), (1, ""), "{words:?}");
        assert!(
            err.contains(&format!("Usage: weft {}", words[0])),
            "{words:?}: {err}"
        );
    }
    let (code, _, err) = weft(&["status", "nonsense"]);
    assert_eq!(code, 1);
    assert!(
        err.starts_with("Invalid 'weft status' sub-command: nonsense\n"),
        "{err}"
    );
}

#[test]
fn a_daemon_that_is_away_is_exit_status_7() {
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["report"],
        &["connect", "10.0.0.1"],
        &["forget", "10.0.0.1"],
        &["attach", "10.2.1.1/24", "c"],
        &["detach", "c"],
        &["expose", "10.2.1.1/24"],
        &["hide"],
        &["ps"],
        &["prime"],
        &["rmpeer", "a", "b"],
        &["status", "ipam"],
        &["claim", "10.32.0.1/12", "web"],
    ] {
        let (code, out, err) = weft(words);
        assert_eq!((code, out.as_str()), (7, ""), "{words:?}");
        assert_eq!(
            err, "weft is not running. Have you launched it?\n",
            "{words:?}"
        );
    }
}

#[test]
fn what_is_missing_says_not_enabled() {
    for verb in ["dns-add", "dns-lookup", "env", "setup"] {
        let (code, out, err) = weft(&[verb]);
        assert_eq!((code, out.as_str()), (1, ""), "{verb}");
        assert!(err.contains("not enabled"), "{verb}: {err}");
    }
    assert_eq!(weft(&["status", "dns"]).0, 4);
    let (code, _, err) = weft(&["launch-router"]);
    assert_eq!((code, err.lines().count()), (1, 2));
}

#[test]
fn version_needs_no_daemon() {
    let (code, out, _) = weft(&["version"]);
    assert_eq!(
        (code, out),
        (0, format!("weft {}\n", env!("CARGO_PKG_VERSION")))
    );
    let (code, out, _) = weft(&["launch", "--version"]);
    assert_eq!(
        (code, out),
        (0, format!("weft {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn weave_is_a_name_of_the_binary() {
    let directory = std::env::temp_dir().join(format!("weft-cli-test-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let weave: PathBuf = directory.join("weave");
    let _ = std::fs::remove_file(&weave);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_weft"), &weave).expect("a link");
    let (code, _, err) = run(&weave, &["--local", "status"]);
    assert_eq!(code, 7);
    assert_eq!(
        err,
        "weave container is not present. Have you launched it?\n"
    );
    let (_, _, err) = run(&weave, &["bogus"]);
    assert!(err.starts_with("Unknown weave command 'bogus'\n"), "{err}");
    std::fs::remove_dir_all(&directory).expect("ours");
}
