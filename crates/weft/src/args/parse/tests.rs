//! Command lines, and what they become.

use super::*;
use crate::args::DaemonArgs;

fn line(words: &[&str]) -> Result<Invocation, Mistake> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    parse(Program::Weft, &words, &|_| None).map_err(|wrong| wrong.mistake)
}

fn connect(words: &[&str]) -> (Vec<String>, bool) {
    match line(&[&["connect"], words].concat()).map(|line| line.verb) {
        Ok(Verb::Connect(args)) => (args.peers, args.replace),
        Ok(_) => panic!("another verb"),
        Err(mistake) => panic!("{mistake:?}"),
    }
}

#[test]
fn flags_may_stand_anywhere() {
    for words in [
        &["launch", "--port", "1", "--resume", "a", "b"][..],
        &["launch", "a", "--port=1", "b", "--resume"],
        &["launch", "a", "b", "--resume=true", "-port", "1"],
        &[
            "launch",
            "--resume=0",
            "--port",
            "9",
            "a",
            "--port",
            "1",
            "-resume",
            "b",
        ],
    ] {
        let Ok(Invocation {
            verb: Verb::Launch(args),
            given,
            ..
        }) = line(words)
        else {
            panic!("{words:?}");
        };
        assert_eq!(args.daemon.peers, ["a", "b"], "{words:?}");
        assert_eq!(args.daemon.mesh.port, 1, "{words:?}");
        assert!(args.daemon.mesh.resume, "{words:?}");
        assert_eq!(given.shown(), "map[port:1 resume:true]", "{words:?}");
    }
    assert!(!connect(&["--replace", "a", "--replace=false"]).1);
}

#[test]
fn two_dashes_end_flags() {
    let (peers, replace) = connect(&["--", "--replace", "-f"]);
    assert_eq!(
        (peers, replace),
        (vec!["--replace".into(), "-f".into()], false)
    );
    assert_eq!(connect(&["-"]).0, ["-"]);
}

#[test]
fn a_value_may_look_like_a_flag() {
    let Ok(Invocation {
        verb: Verb::Launch(args),
        ..
    }) = line(&[
        "launch",
        "-password",
        "--port",
        "--nickname",
        "--",
        "--name",
        "",
    ])
    else {
        panic!("not understood");
    };
    let password = args.daemon.encryption.password;
    assert_eq!(password.as_deref(), Some("--port"));
    assert_eq!(args.daemon.mesh.nickname.as_deref(), Some("--"));
    assert_eq!(args.daemon.mesh.name.as_deref(), Some(""));
}

/// What `daemon` is told by variables and flags.
fn told(variables: &[(&str, &[u8])], flags: &[&str]) -> Result<(DaemonArgs, Given), Mistake> {
    use std::os::unix::ffi::OsStrExt;
    let words = [&["daemon"], flags].concat();
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let environment = |name: &OsStr| {
        let (_, value) = variables.iter().find(|(known, _)| name == *known)?;
        Some(OsStr::from_bytes(value).to_owned())
    };
    match parse(Program::Weft, &words, &environment) {
        Ok(Invocation {
            verb: Verb::Daemon(args),
            given,
            ..
        }) => Ok((*args, given)),
        Ok(_) => panic!("another verb"),
        Err(wrong) => Err(wrong.mistake),
    }
}

#[test]
fn a_flag_comes_before_its_variable_and_the_variable_before_the_default() {
    let (args, given) = told(
        &[
            ("WEAVE_PORT", b"7000"),
            ("WEAVE_MTU", b"1400"),
            ("WEAVE_HTTP_ADDR", b"/run/x"),
            ("WEAVE_PASSWORD", b"hunter22"),
            ("DOCKER_HOST", b"tcp://e:1"),
            ("WEFT_RECLAIM_AFTER", b"7d"),
        ],
        &["--mtu=1300", "--docker-api="],
    )
    .expect("valid");
    assert_eq!(args.mesh.port, 7000);
    assert_eq!(args.host.mtu.as_deref(), Some("1300"));
    assert_eq!(args.api.http_addr, "/run/x");
    assert_eq!(args.api.status_addr, api::DEFAULT_STATUS_ADDR);
    assert_eq!(args.encryption.password.as_deref(), Some("hunter22"));
    assert_eq!(args.host.docker_api, "");
    assert_eq!(args.addresses.reclaim_after.as_deref(), Some("7d"));
    // What is typed is shown and passed on, what is in the environment is not.
    assert_eq!(given.shown(), "map[docker-api: mtu:1300]");
}

#[test]
fn an_empty_variable_is_absent_but_for_the_one_that_means_off() {
    let empty = [
        "WEAVE_PORT",
        "WEAVE_MTU",
        "WEAVE_HTTP_ADDR",
        "WEAVE_PASSWORD",
        "WEAVE_STATUS_ADDR",
        "WEAVE_NO_FASTDP",
        "DOCKER_HOST",
        "DOCKER_BRIDGE",
        "WEFT_LOG",
    ];
    let empty: Vec<(&str, &[u8])> = empty.map(|name| (name, &b""[..])).to_vec();
    let (args, _) = told(&empty, &[]).expect("valid");
    assert_eq!(args.mesh.port, 6783);
    assert_eq!(args.host.mtu, None);
    assert_eq!(args.api.http_addr, api::DEFAULT_HTTP_ADDR);
    assert_eq!(args.api.status_addr, "");
    assert_eq!(args.encryption.password, None);
    assert!(!args.host.no_fastdp);
    assert_eq!(args.host.docker_api, daemon::docker::DEFAULT_ADDRESS);
    assert_eq!(args.host.docker_bridge, "docker0");
    assert_eq!(args.host.log_level, None);
}

#[test]
fn a_variable_switches_on_by_being_there_and_a_flag_switches_off_again() {
    let is_without = |value: &[u8], flags: &[&str]| {
        let told = told(&[("WEAVE_NO_FASTDP", value)], flags);
        told.expect("valid").0.host.no_fastdp
    };
    assert!(is_without(b"1", &[]));
    assert!(is_without(b"0", &[]));
    assert!(!is_without(b"1", &["--no-fastdp=false"]));
}

#[test]
fn a_variable_that_cannot_be_read_is_named_and_a_secret_not_repeated() {
    let mistake = |name: &str, value: &[u8]| told(&[(name, value)], &[]).err().expect("refused");
    assert_eq!(
        mistake("WEAVE_PASSWORD", b"s\xffcret"),
        Mistake::VariableNotText("WEAVE_PASSWORD".into())
    );
    assert_eq!(
        mistake("WEAVE_PORT", b"x"),
        Mistake::Variable {
            name: "WEAVE_PORT".into(),
            value: "x".into()
        }
    );
}

#[test]
fn every_flag_of_the_declaration_may_have_one_dash_or_two() {
    for verb in declaration(Program::Weft).get_subcommands() {
        for arg in verb.get_arguments().filter(|arg| name(arg).is_some()) {
            let name = name(arg).expect("a flag");
            for dashes in ["-", "--"] {
                let flag = format!("{dashes}{name}");
                let line = line(&[verb.get_name(), &flag]);
                assert!(
                    !matches!(line, Err(Mistake::Flag { .. } | Mistake::Other(_))),
                    "{} {flag}",
                    verb.get_name()
                );
            }
        }
    }
}

#[test]
fn a_command_line_given_again_means_the_same() {
    let words = [
        "launch",
        "-H",
        "x",
        "--no-fastdp",
        "--iprange=10.2.0.0/16",
        "-conn-limit=7",
        "p",
    ];
    let Ok(Invocation {
        verb: Verb::Launch(args),
        given,
        ..
    }) = line(&words)
    else {
        panic!("not understood");
    };
    let again = given.without(&["conn-limit"], &args.daemon.peers);
    let expected = [
        "--H=x",
        "--ipalloc-range=10.2.0.0/16",
        "--no-fastdp=true",
        "--",
        "p",
    ];
    assert_eq!(again, expected);
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    let Ok(Invocation { given: twice, .. }) = line(&[&["daemon"], &again[..]].concat()) else {
        panic!("not understood again");
    };
    assert_eq!(twice.without(&[], &args.daemon.peers), expected);
}

#[test]
fn mistakes_are_named() {
    let mistake = |words: &[&str]| line(words).err().expect("refused");
    let flag = |flag: &str| Mistake::Flag {
        flag: flag.to_owned(),
        suggestion: None,
    };
    assert_eq!(mistake(&["stop", "--nope=1"]), flag("--nope"));
    assert_eq!(mistake(&["stop", "-nope"]), flag("-nope"));
    assert_eq!(mistake(&["report", "-f"]), Mistake::NoValue("-f".into()));
    assert_eq!(
        mistake(&["connect", "--replace=maybe"]),
        Mistake::Boolean {
            flag: "--replace".into(),
            value: "maybe".into()
        }
    );
    assert_eq!(mistake(&["forget"]), Mistake::Missing("peer".into()));
    assert_eq!(mistake(&["stop", "now"]), Mistake::Word("now".into()));
    assert_eq!(
        mistake(&["prime", "--hepl"]),
        Mistake::Flag {
            flag: "--hepl".into(),
            suggestion: Some("--help".into())
        }
    );
}

#[test]
fn the_letter_h_asks_for_help_where_it_is_free() {
    let Ok(Invocation {
        verb: Verb::Help(args),
        ..
    }) = line(&["attach", "-h"])
    else {
        panic!("no help");
    };
    assert_eq!(args.command.as_deref(), Some("attach"));
    let Ok(Invocation {
        verb: Verb::Expose(args),
        ..
    }) = line(&["expose", "-h", "name"])
    else {
        panic!("no name");
    };
    assert_eq!(args.hostname.as_deref(), Some("name"));
    assert!(matches!(
        line(&["expose", "--help"]),
        Ok(Invocation {
            verb: Verb::Help(_),
            ..
        })
    ));
}
