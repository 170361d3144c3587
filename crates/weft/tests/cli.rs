//! What the command line answers without a daemon: usage, mistakes, exit codes, the name `weave`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit code, standard output, standard error.
fn weft(words: &[&str]) -> (i32, String, String) {
    run(Path::new(env!("CARGO_BIN_EXE_weft")), words)
}

/// The same under the original's name.
fn weave(words: &[&str]) -> (i32, String, String) {
    answer(
        command(Path::new(env!("CARGO_BIN_EXE_weft")))
            .arg0("weave")
            .args(words),
    )
}

fn run(program: &Path, words: &[&str]) -> (i32, String, String) {
    answer(command(program).args(words))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let nowhere = std::env::temp_dir().join("weft-cli-test-without-a-daemon");
    command
        .env("WEFT_RUN_DIR", &nowhere)
        .env("WEFT_STATE_DIR", &nowhere)
        // Port 1 of the loopback interface is closed.
        .env("WEAVE_HTTP_ADDR", "127.0.0.1:1")
        .env_remove("WEAVE_PASSWORD");
    command
}

fn answer(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("the binary runs");
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
    assert!(err.contains("Usage: weft <COMMAND>"), "{err}");
    let (code, out, err) = weft(&["bogus"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.starts_with("weft: unknown command \"bogus\"\n"),
        "{err}"
    );
    assert!(err.contains("Usage: weft <COMMAND>"), "{err}");
    for (words, word) in [(&[][..], ""), (&["bogus"], "bogus")] {
        let (code, out, err) = weave(words);
        assert_eq!((code, out.as_str()), (1, ""));
        let start = format!("Unknown weave command '{word}'\nUsage: weave <COMMAND>");
        assert!(err.starts_with(&start), "{err}");
    }
}

#[test]
fn help_is_no_error() {
    for words in [
        &["help"][..],
        &["--help"],
        &["launch", "--help"],
        &["--local", "ps", "--help"],
        &["status", "-h"],
        &["help", "status"],
    ] {
        let (code, out, err) = weft(words);
        assert_eq!((code, err.as_str()), (0, ""), "{words:?}");
        assert!(out.contains("\nUsage: weft"), "{words:?}: {out}");
        let (code, out, err) = weave(words);
        assert_eq!((code, out.as_str()), (0, ""), "{words:?}");
        assert!(err.starts_with("Usage: weave"), "{words:?}: {err}");
    }
}

#[test]
fn unknown_flags_of_launch_are_refused_as_by_the_original() {
    let (code, out, err) = weave(&["launch", "--nonsense"]);
    assert_eq!((code, out.as_str()), (125, ""));
    assert_eq!(
        err,
        "flag provided but not defined: --nonsense\nSee 'weave --help'.\n"
    );
    let (code, out, err) = weft(&["launch", "--nonsense"]);
    assert_eq!((code, out.as_str()), (125, ""));
    assert!(err.starts_with("weft: unknown flag --nonsense\n"), "{err}");
    let (code, _, err) = weft(&["daemon", "--port"]);
    assert_eq!(code, 125, "{err}");
}

#[test]
fn a_word_that_looks_like_another_is_hinted_at() {
    for (words, hint) in [
        (&["statu"][..], "hint: did you mean status?\n"),
        (
            &["launch", "--pasword=x"],
            "hint: did you mean --password?\n",
        ),
        (&["status", "peer"], "hint: did you mean peers?\n"),
        (
            &["status", "xyz"],
            "hint: use one of connections, ipam, peers, targets\n",
        ),
    ] {
        let (_, _, err) = weft(words);
        assert!(err.contains(hint), "{words:?}: {err}");
        let (_, _, err) = weave(words);
        assert!(!err.contains("hint:"), "{words:?}: {err}");
    }
}

#[test]
fn a_word_that_is_no_text_is_refused_and_not_repeated() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = command(Path::new(env!("CARGO_BIN_EXE_weft")));
    let secret = std::ffi::OsStr::from_bytes(b"--password=s\xffcret");
    let (code, out, err) = answer(command.arg("launch").arg(secret));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.starts_with("weft: word 2 is not valid UTF-8\n"),
        "{err}"
    );
    assert!(!err.contains("cret"), "{err}");
}

#[test]
fn what_is_in_the_environment_is_never_shown() {
    for words in [
        &["launch", "--help"][..],
        &["daemon", "-h"],
        &["help"],
        &["launch", "--nonsense"],
        &["man"],
        &["man", "launch"],
        &["completion", "bash"],
        &["completion", "zsh"],
        &["completion", "fish"],
    ] {
        let mut command = command(Path::new(env!("CARGO_BIN_EXE_weft")));
        for name in [
            "WEAVE_PASSWORD",
            "WEAVE_MTU",
            "WEAVE_NO_FASTDP",
            "WEAVE_STATUS_ADDR",
            "DOCKER_HOST",
            "DOCKER_BRIDGE",
            "WEFT_LOG",
            "WEFT_RECLAIM_AFTER",
        ] {
            command.env(name, "hunter22");
        }
        let (_, out, err) = answer(command.args(words));
        assert!(
            !out.contains("hunter22") && !err.contains("hunter22"),
            "{words:?}"
        );
    }
}

/// F27, F45: of the cipher nothing can be chosen, and nothing of it switched off.
#[test]
fn there_is_no_option_for_the_cipher_or_against_replay_protection() {
    let (code, help, _) = weft(&["launch", "--help"]);
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
    let (code, _, err) = weave(&["status", "nonsense"]);
    assert_eq!(code, 1);
    assert!(
        err.starts_with("Invalid 'weave status' sub-command: nonsense\nUsage: weave status"),
        "{err}"
    );
    let (code, _, err) = weft(&["status", "nonsense"]);
    assert_eq!(code, 1);
    assert!(
        err.starts_with("weft: invalid section \"nonsense\"\n"),
        "{err}"
    );
}

#[test]
fn verbs_of_our_own_have_exit_statuses_of_their_own() {
    for words in [
        &["claim", "web"][..],
        &["claim", "10.32.0.1/12", "web", "--nonsense"],
        &["completion"],
        &["completion", "tcsh"],
        &["man", "nonsense"],
    ] {
        let (code, out, err) = weft(words);
        assert_eq!((code, out.as_str()), (2, ""), "{words:?}");
        assert!(err.contains(&format!("Usage: weft {}", words[0])), "{err}");
    }
    let (code, out, err) = weft(&["claim", "10.32.0.1/12", "web"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert_eq!(err, "weft is not running. Have you launched it?\n");
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
