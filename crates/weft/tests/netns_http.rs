//! Kernel tests of the HTTP API: routes, refusals, who may ask, and what a signal does to it.

mod lab;

use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;

use api::client::{Endpoint, Response};
use lab::Lab;
use lab::host::Host;
use lab::namespace::signal;
use lab::patience::wait_until;
use rustix::process::Signal;

const CONTROL: &str = "127.0.0.1:6784";
const STATUS: &str = "127.0.0.1:6782";
const FORM: &str = "application/x-www-form-urlencoded";

fn launched(lab: &Lab) -> Rc<Host> {
    let host = lab.host("a");
    host.launch(&["--name", "::1"]);
    host
}

fn ask(host: &Host, address: &str, method: &str, path: &str, form: Option<&str>) -> Response {
    let endpoint = Endpoint::Tcp(address.to_owned());
    host.namespace.within(|| {
        endpoint
            .request(method, path, None, form.map(|form| (FORM, form)))
            .expect("the daemon answers")
    })
}

fn get(host: &Host, address: &str, path: &str) -> (u16, String) {
    let answer = ask(host, address, "GET", path, None);
    (answer.status, answer.body)
}

#[test]
fn unknown_paths_and_wrong_methods_answer_as_the_original() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    for path in [
        "/",
        "/nonsense",
        "/status/nonsense",
        "/ip/c/d/e/f",
        "/v1/nonsense",
    ] {
        let wanted = (404, "404 page not found\n".to_owned());
        assert_eq!(get(&host, CONTROL, path), wanted, "{path}");
    }
    for (method, path) in [
        ("POST", "/status"),
        ("GET", "/connect"),
        ("DELETE", "/report"),
    ] {
        let answer = ask(&host, CONTROL, method, path, None);
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (405, ""),
            "{method} {path}"
        );
    }
}

#[test]
fn the_status_address_cannot_change_anything() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    for path in ["/status", "/status/peers", "/metrics"] {
        assert_eq!(get(&host, STATUS, path).0, 200, "{path}");
    }
    for path in ["/connect", "/forget", "/expose/10.32.0.1/24", "/v1/attach"] {
        let answer = ask(&host, STATUS, "POST", path, Some("peer=10.0.0.1"));
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[test]
fn requests_for_other_hosts_are_refused() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let curl = |header: &str| {
        let code = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", header];
        let url = format!("http://{CONTROL}/status");
        host.namespace.run("curl", &[&code[..], &[&url]].concat())
    };
    if !lab::namespace::is_installed("curl") {
        return lab::skip("needs the program curl");
    }
    assert_eq!(curl("Host: localhost:6784"), "200");
    assert_eq!(curl("Host: evil.example"), "403");
    assert_eq!(curl("Origin: http://evil.example"), "403");
}

#[test]
fn peers_are_connected_and_forgotten_by_form() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let post = |path: &str, form: &str| ask(&host, CONTROL, "POST", path, Some(form));
    let answer = post(
        "/connect",
        "peer=10.9.9.9&peer=%3Ax&peer=no-such-host.invalid",
    );
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.body,
        "invalid peer name \":x\", should be host[:port]\n\
         lookup no-such-host.invalid: no such host\n"
    );
    assert_eq!(get(&host, CONTROL, "/status/targets").1, "10.9.9.9\n");
    let answer = post("/connect", "peer=10.9.9.8&replace=true");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(get(&host, CONTROL, "/status/targets").1, "10.9.9.8\n");
    assert_eq!(post("/forget", "peer=10.9.9.8").status, 200);
    assert_eq!(get(&host, CONTROL, "/status/targets").1, "");
}

#[test]
fn an_address_is_exposed_by_path_and_bad_ones_change_nothing() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let post = |path: &str| {
        let answer = ask(&host, CONTROL, "POST", path, None);
        (answer.status, answer.body)
    };
    let invalid = "unable to parse ip addr: invalid CIDR address: 10.32.0.1/33\n";
    assert_eq!(post("/expose/10.32.0.1/33"), (400, invalid.to_owned()));
    let (status, text) = post("/expose/10.32.0.1/24?skipNAT=maybe");
    assert_eq!(status, 400);
    assert!(
        text.starts_with("unable to parse skipNAT option: "),
        "{text}"
    );
    let shown = || {
        host.namespace
            .ip(&["-o", "-4", "addr", "show", "dev", "weave"])
    };
    assert!(!shown().contains("10.32.0.1"));
    assert_eq!(
        post("/expose/10.32.0.1/24?skipNAT=true"),
        (204, String::new())
    );
    assert!(shown().contains("10.32.0.1/24"));
}

#[test]
fn reports_are_json_or_a_template() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let name = "/report?format=%7B%7B.Router.Name%7D%7D";
    assert_eq!(
        get(&host, STATUS, name),
        (200, "00:00:00:00:00:01".to_owned())
    );
    let wanted = (400, "error: must supply one format parameter\n".to_owned());
    assert_eq!(get(&host, STATUS, "/report"), wanted);
    assert_eq!(get(&host, STATUS, "/report?format=a&format=b"), wanted);
    assert_eq!(
        get(&host, STATUS, "/report?format=%7B%7Bnonsense%7D%7D").0,
        400
    );
    let wanted = (500, "error during template execution\n".to_owned());
    assert_eq!(
        get(&host, STATUS, "/report?format=%7B%7B.Nonsense%7D%7D"),
        wanted
    );
    let json: serde_json::Value =
        serde_json::from_str(&host.weft(&["report"]).ok()).expect("the report is JSON");
    assert_eq!(json["Ready"], true);
    assert_eq!(json["Router"]["Name"], "00:00:00:00:00:01");
}

#[test]
fn the_socket_is_for_root_only() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let socket = host.path("run").join(api::SOCKET_NAME);
    let mode = std::fs::metadata(&socket)
        .expect("the socket exists")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_quit_signal_does_not_end_the_daemon() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let pid = host.daemon_pid().expect("a daemon runs");
    signal(pid, Signal::QUIT);
    wait_until("a list of threads in the log", || {
        let log = host.path("run").join("weft.log");
        std::fs::read_to_string(log).is_ok_and(|log| log.contains("thread name="))
    });
    assert_eq!(host.daemon_pid(), Some(pid));
}
