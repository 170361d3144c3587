//! What the operator's tools and files say to the daemon: addresses, templates, bodies, records.

use std::net::IpAddr;
use std::sync::LazyLock;

use api::report::Report;
use api::v1;
use daemon::host::Label;
use daemon::resolve::split;
use linux::addr::Cidr;
use linux::netlink::check_name;
use report::template::Template;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wire::ethernet::MacAddr;

/// A report with something in every section, to render templates over.
static REPORT: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../report/testdata/report-encrypted.json");
    serde_json::from_str(text).expect("the report of the tests is JSON")
});

/// No text is too odd: it is understood, and then survives being written and read again, or it is
/// refused.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    read_addresses(&text);
    read_json(bytes);
    render(&text);
}

fn read_addresses(text: &str) {
    if let Ok(cidr) = text.parse::<Cidr>() {
        assert_eq!(cidr.to_string().parse(), Ok(cidr));
        assert!(cidr.contains(cidr.addr()) && cidr.network().contains(cidr.addr()));
        assert!(cidr.overlaps(&cidr.network()) && cidr.network().overlaps(&cidr));
    }
    if let Ok(mac) = text.parse::<MacAddr>() {
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }
    if let Ok((host, port)) = split(text) {
        assert!(!host.is_empty() && !host.contains(char::is_whitespace));
        let again = match port {
            Some(port) => format!("[{host}]:{port}"),
            None => format!("[{host}]"),
        };
        if host.parse::<IpAddr>().is_ok() {
            assert_eq!(split(&again), Ok((host, port)));
        }
    }
    if check_name(text).is_ok() {
        assert!(text.is_ascii() && (1..=15).contains(&text.len()));
    }
    let _ = daemon::log::check(text);
}

fn read_json(bytes: &[u8]) {
    read_as::<v1::AttachRequest>(bytes);
    read_as::<v1::DetachRequest>(bytes);
    read_as::<v1::ExposeRequest>(bytes);
    read_as::<v1::HideRequest>(bytes);
    read_as::<v1::Status>(bytes);
    read_as::<Vec<v1::Attachment>>(bytes);
    read_as::<Label>(bytes);
    read_as::<Report>(bytes);
}

fn read_as<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let again = serde_json::to_vec(&value).expect("what was JSON becomes JSON");
    let back: T = serde_json::from_slice(&again).expect("we read what we write");
    assert_eq!(back, value);
}

fn render(text: &str) {
    let Ok(template) = Template::parse(text) else {
        return;
    };
    let first = template.render(&REPORT);
    assert_eq!(
        first,
        template.render(&REPORT),
        "rendering twice gives the same"
    );
    if let Err(error) = first {
        assert!(!error.to_string().is_empty());
    }
}
