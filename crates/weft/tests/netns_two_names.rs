//! The command line with a daemon, by both of its names: the original's texts are exact, exit statuses
//! and data do not depend on the name.
//!
//! ```text
//!   host a: weft daemon ◄── weft …, weave …
//! ```

mod lab;

use std::path::PathBuf;
use std::process::Command;

use lab::Lab;
use lab::host::Host;

/// Exit code, standard output, standard error.
type Answer = (i32, String, String);

/// A command line called `weave`, on this host.
fn weave(host: &Host, words: &[&str]) -> Answer {
    let link: PathBuf = host.path("weave");
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_weft"), &link).expect("a link");
    }
    let mut command: Command = host.namespace.command(link);
    let output = command
        .args(words)
        .env("WEFT_STATE_DIR", host.path("state"))
        .env("WEFT_RUN_DIR", host.path("run"))
        .env_remove("WEAVE_HTTP_ADDR")
        .env_remove("WEAVE_PASSWORD")
        .output()
        .expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    (code, text(&output.stdout), text(&output.stderr))
}

fn weft(host: &Host, words: &[&str]) -> Answer {
    let answer = host.weft(words);
    (answer.code, answer.out, answer.err)
}

fn silent(code: i32, err: &str) -> Answer {
    (code, String::new(), err.to_owned())
}

#[test]
fn running_twice_and_not_running_have_the_originals_words() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&[]);
    let running = "weave is already running; you can stop it with 'weave stop'.\n";
    assert_eq!(weave(&host, &["launch"]), silent(3, running));
    let running = "weft is already running; you can stop it with 'weft stop'.\n";
    assert_eq!(weft(&host, &["launch"]), silent(3, running));
    assert_eq!(weave(&host, &["stop"]), silent(0, ""));
    let stopped = "Weave is not running (ignore on Kubernetes).\n";
    assert_eq!(weave(&host, &["stop"]), silent(0, stopped));
    assert_eq!(weft(&host, &["stop"]), silent(0, stopped));
    let absent = "weave container is not present. Have you launched it?\n";
    assert_eq!(weave(&host, &["status"]), silent(7, absent));
    for (code, out, err) in [weave(&host, &["reset"]), weft(&host, &["reset"])] {
        assert_eq!((code, out.as_str()), (1, ""));
        let start = "ERROR: weave is not running; unable to remove from cluster.\n";
        assert!(err.starts_with(start), "{err}");
        assert!(err.contains("--force"), "{err}");
    }
    assert_eq!(weave(&host, &["reset", "--force"]), silent(0, ""));
}

#[test]
fn exit_statuses_and_data_do_not_depend_on_the_name() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    assert_eq!(
        weave(&host, &["launch", "-nickname", "n", "--name=::7"]).0,
        0
    );
    host.weft(&["expose", "10.9.0.9/24"]).ok();
    assert_eq!(weft(&host, &["prime"]), silent(0, ""));
    assert_eq!(weave(&host, &["prime"]), silent(0, ""));
    host.weft(&["connect", "192.168.77.99"]).ok();
    for words in [
        &["status", "targets"][..],
        &["status", "peers"],
        &["status", "ipam"],
        &["status", "--json", "targets"],
        &["report", "-f", "{{.Router.Name}} {{.Router.NickName}}"],
        &["report", "-f", "{{"],
        &["ps"],
        &["ps", "--json", "weave:expose"],
        &["connect", "no-such-host.invalid", "192.168.77.99"],
        &["forget", "192.168.77.98"],
        &["expose", "10.9.0.9/24"],
        &["hide", "10.9.0.9/24", "--json"],
        &["status", "dns"],
    ] {
        let ours = weft(&host, words);
        assert_eq!(ours, weave(&host, words), "{words:?}");
        assert!(!ours.2.contains("Usage"), "{words:?}: {ours:?}");
    }
    let name = weave(
        &host,
        &["report", "-f", "{{.Router.Name}} {{.Router.NickName}}"],
    );
    assert_eq!(name, (0, "00:00:00:00:00:07 n".to_owned(), String::new()));
}

#[test]
fn what_is_not_there_is_4_for_the_originals_verbs_and_1_for_our_own() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&["--ipalloc-range="]);
    for words in [
        &["prime"][..],
        &["status", "ipam"],
        &["status", "ipam", "--json"],
    ] {
        assert_eq!(weft(&host, words), silent(4, ""), "{words:?}");
        assert_eq!(weave(&host, words), silent(4, ""), "{words:?}");
    }
    let claim = ["claim", "10.32.0.1/12", "--netns", host.namespace.name()];
    let (code, out, err) = weft(&host, &claim);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
}
