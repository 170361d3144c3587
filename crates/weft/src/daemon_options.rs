//! Flags and environment of the daemon, to its configuration (spec/cli-api.md 3).

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use daemon::config::{
    Config, DEFAULT_PORT, HostOptions, HttpOptions, MTU_WITHOUT_FASTDP_BYTES, MeshOptions,
    SleeveCipher,
};
use linux::bridge::{DEFAULT_BRIDGE, DEFAULT_MTU_BYTES};
use mesh::{Password, TrustedSubnet};
use zeroize::Zeroizing;

use crate::Failure;
use crate::address_options;
use crate::client::{environment, run_dir, state_dir};
use crate::flags::{self, Flag, FlagError, Parsed, switch, value};
use crate::verbs::control_address;

/// Exit status for a flag nobody knows.
const EXIT_BAD_FLAG: u8 = 125;
/// Smallest MTU of a bridge; IPv4 hosts must take packets this large (RFC 791).
const MTU_BYTES_MIN: u32 = 576;

/// Flags of the daemon. Those without help are accepted from scripts written for the original.
pub(crate) const FLAGS: &[Flag] = &[
    value("host", "ADDRESS", "listen on this address only"),
    value("port", "PORT", "mesh port, TCP and UDP (6783)"),
    value(
        "min-protocol-version",
        "1|2",
        "refuse peers that speak only older versions (1)",
    ),
    value(
        "name",
        "NAME",
        "name of this peer, written like a MAC address",
    ),
    value("nickname", "TEXT", "nickname of this peer (the host name)"),
    value(
        "password",
        "PASSPHRASE",
        "encrypt; all peers need the same passphrase",
    ),
    value(
        "password-file",
        "PATH",
        "read the passphrase from a file; - for input",
    ),
    value(
        "trusted-subnets",
        "CIDR,…",
        "do not encrypt between addresses in these subnets",
    ),
    switch("no-discovery", "connect only to the peers given"),
    value("conn-limit", "N", "most connections, 0 for no limit (200)"),
    switch(
        "resume",
        "connect to the peers remembered from the last run",
    ),
    value("weave-bridge", "NAME", "name of the bridge (weave)"),
    value("docker-bridge", "NAME", "name of Docker's bridge (docker0)"),
    value("mtu", "BYTES", "MTU of the network (1376)"),
    switch(
        "no-fastdp",
        "without the fast datapath; MTU 65535 unless given",
    ),
    value(
        "http-addr",
        "ADDRESS",
        "control API (127.0.0.1:6784); empty for off",
    ),
    value(
        "status-addr",
        "ADDRESS",
        "status and metrics (127.0.0.1:6782); empty for off",
    ),
    value("metrics-addr", "ADDRESS", "metrics only (off)"),
    value(
        "docker-api",
        "ADDRESS",
        "Docker engine (unix:///var/run/docker.sock); empty for none",
    ),
    value(
        "host-root",
        "PATH",
        "where the host's file system is mounted",
    ),
    value("log-level", "LEVEL", "debug, info, warning or error (info)"),
    switch("print-peer-name", ""),
    switch("version", ""),
    switch("no-bridged-fastdp", ""),
    value("datapath", "NAME", ""),
    value("bufsz", "MB", ""),
    value("proc-path", "PATH", ""),
    value("db-prefix", "PATH", ""),
    switch("pkt-debug", ""),
    value("profile", "DIR", ""),
    switch("no-dns", ""),
    switch("proxy", ""),
    switch("plugin", ""),
    switch("plugin-v2", ""),
    switch("expect-npc", ""),
    switch("no-masq-local", ""),
    switch("awsvpc", ""),
    switch("no-default-ipalloc", ""),
    value("dns-domain", "DOMAIN", ""),
    value("dns-listen-address", "ADDRESS", ""),
    value("dns-ttl", "SECONDS", ""),
    value("dns-fallback-timeout", "MS", ""),
    value("resolv-conf", "PATH", ""),
    value("H", "ADDRESS", ""),
    switch("tls", ""),
    switch("tlsverify", ""),
    value("tlscacert", "PATH", ""),
    value("tlscert", "PATH", ""),
    value("tlskey", "PATH", ""),
    switch("no-detect-tls", ""),
    switch("hostname-from-label", ""),
    value("hostname-match", "REGEXP", ""),
    value("hostname-replacement", "TEXT", ""),
    switch("rewrite-inspect", ""),
    switch("no-rewrite-hosts", ""),
    switch("without-dns", ""),
    switch("no-multicast-route", ""),
    switch("plugin-v2-multicast", ""),
    value("plugin-socket", "PATH", ""),
    value("plugin-mesh-socket", "PATH", ""),
    value("token", "TOKEN", ""),
    value("peer-discovery-url", "URL", ""),
    value("advertise-address", "ADDRESS", ""),
];

/// Flags of the original whose service is not part of this version: what is missing.
const NOT_ENABLED: &[(&str, &str)] = &[
    ("proxy", "the Docker API proxy"),
    ("plugin", "the Docker plugin"),
    ("plugin-v2", "the Docker plugin"),
    ("expect-npc", "network policy"),
    ("dns-domain", "the name service"),
    ("dns-listen-address", "the name service"),
    ("H", "the Docker API proxy"),
];

/// Flags for services that no longer exist.
const OBSOLETE: &[&str] = &["token", "peer-discovery-url", "advertise-address"];

/// A parsed command line of `daemon` or `launch`.
pub(crate) struct Options {
    /// Flags and words.
    pub(crate) parsed: Parsed,
}

impl Options {
    /// Takes a command line apart; `further` are flags of `launch` alone.
    pub(crate) fn parse(arguments: &[String], further: &[Flag]) -> Result<Self, Failure> {
        let flags = [FLAGS, address_options::FLAGS, further].concat();
        match flags::parse(arguments, &flags) {
            Ok(parsed) => Ok(Self { parsed }),
            Err(error @ (FlagError::Unknown(_) | FlagError::Missing(_))) => Err(Failure::exit(
                EXIT_BAD_FLAG,
                format!("{error}\nSee 'weave --help'."),
            )),
            Err(error @ FlagError::Boolean { .. }) => Err(Failure::exit(
                EXIT_BAD_FLAG,
                format!("{error}\nSee 'weave --help'."),
            )),
            Err(FlagError::Help) => Err(Failure::Usage(String::new())),
        }
    }

    /// Lines for the operator about flags without effect.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, value) in self.parsed.given() {
            if OBSOLETE.contains(&name) {
                warnings.push(format!(
                    "WARNING: --{name} has no effect: the service is gone"
                ));
            }
            let missing = NOT_ENABLED.iter().find(|(known, _)| *known == name);
            if let Some((_, what)) = missing
                && !value.is_empty()
                && value != "false"
            {
                warnings.push(format!(
                    "WARNING: --{name} has no effect: {what} is not enabled"
                ));
            }
        }
        warnings
    }

    /// How much to log: flag, then environment.
    pub(crate) fn log_filter(&self) -> String {
        if let Some(level) = self.parsed.last("log-level") {
            return level.to_owned();
        }
        if let Some(filter) = environment("WEFT_LOG") {
            return filter;
        }
        if environment("WEAVE_DEBUG").is_some() {
            "debug".to_owned()
        } else {
            "info".to_owned()
        }
    }

    /// The passphrase by its first source: flag, file, environment.
    pub(crate) fn password(&self) -> Result<Option<Secret>, Failure> {
        if let Some(given) = self.parsed.last("password") {
            return Ok(Secret::new(given.to_owned()));
        }
        if let Some(path) = self.parsed.last("password-file") {
            let text = if path == "-" {
                std::io::read_to_string(std::io::stdin()).context("reading the passphrase")?
            } else {
                std::fs::read_to_string(path)
                    .with_context(|| format!("reading the passphrase from {path}"))?
            };
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            if text.is_empty() {
                return Err(anyhow!("passphrase file {path} is empty").into());
            }
            return Ok(Secret::new(text.to_owned()));
        }
        // A passphrase that cannot be read must not count as none.
        match std::env::var("WEAVE_PASSWORD") {
            Ok(text) => Ok(Secret::new(text)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(anyhow!("WEAVE_PASSWORD is not valid UTF-8").into())
            }
        }
    }

    /// The complete configuration.
    pub(crate) fn config(&self, password: Option<&Secret>) -> Result<Config, Failure> {
        let parsed = &self.parsed;
        if parsed.is_on("awsvpc") {
            return Err(Failure::exit(1, "--awsvpc is not supported"));
        }
        Ok(Config {
            mesh: self.mesh(password)?,
            host: self.host()?,
            http: HttpOptions {
                control: address(parsed.last("http-addr"), Some(control_address())),
                status: address(parsed.last("status-addr"), Some(status_address())),
                metrics: address(parsed.last("metrics-addr"), None),
            },
            ipam: address_options::options(parsed)?,
            shown_options: self.shown(),
        })
    }

    fn mesh(&self, password: Option<&Secret>) -> Result<MeshOptions, Failure> {
        let parsed = &self.parsed;
        let min_protocol_version = number(parsed, "min-protocol-version")?.unwrap_or(1);
        if !(1..=2).contains(&min_protocol_version) {
            return Err(Failure::exit(
                1,
                "--min-protocol-version must be in range [1,2]",
            ));
        }
        let port = match number(parsed, "port")? {
            Some(port) => port,
            None => match environment("WEAVE_PORT") {
                Some(text) => text
                    .parse()
                    .map_err(|_| Failure::exit(1, format!("invalid WEAVE_PORT {text:?}")))?,
                None => u32::from(DEFAULT_PORT),
            },
        };
        let port = u16::try_from(port)
            .ok()
            .filter(|port| (1..u16::MAX).contains(port))
            .ok_or_else(|| Failure::exit(1, format!("invalid port {port}: use 1 to 65534")))?;
        let listen = match parsed.last("host").filter(|host| !host.is_empty()) {
            None => None,
            Some(host) => Some(host.parse::<IpAddr>().map_err(|_| {
                Failure::exit(1, format!("invalid --host {host:?}: give an IP address"))
            })?),
        };
        let name = match parsed.last("name").filter(|name| !name.is_empty()) {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|error| Failure::exit(1, format!("{error}")))?,
            ),
        };
        if parsed.is_on("resume") && !parsed.words.is_empty() {
            let message = "You must not specify an initial peer list in conjunction with --resume";
            return Err(Failure::exit(1, message));
        }
        Ok(MeshOptions {
            listen,
            port,
            min_protocol_version: u8::try_from(min_protocol_version).unwrap_or(1),
            max_protocol_version: max_protocol_version(min_protocol_version)?,
            name,
            nickname: nickname(parsed),
            password: password.and_then(|secret| Password::new(secret.0.as_bytes())),
            sleeve_cipher: sleeve_cipher()?,
            trusted_subnets: trusted_subnets(parsed.last("trusted-subnets").unwrap_or_default())?,
            discovery: !parsed.is_on("no-discovery"),
            conn_limit: number(parsed, "conn-limit")?.unwrap_or(200) as usize,
            resume: parsed.is_on("resume"),
            peers: parsed.words.clone(),
        })
    }

    fn host(&self) -> Result<HostOptions, Failure> {
        let parsed = &self.parsed;
        let text = |name: &str, default: &str| {
            parsed
                .last(name)
                .filter(|v| !v.is_empty())
                .unwrap_or(default)
                .to_owned()
        };
        let docker_address = match parsed.last("docker-api") {
            Some("") => None,
            Some(address) => Some(address.to_owned()),
            None => Some(
                environment("DOCKER_HOST")
                    .unwrap_or_else(|| daemon::docker::DEFAULT_ADDRESS.to_owned()),
            ),
        };
        Ok(HostOptions {
            bridge: text("weave-bridge", DEFAULT_BRIDGE),
            docker_bridge: match parsed.last("docker-bridge") {
                Some(name) => name.to_owned(),
                None => environment("DOCKER_BRIDGE").unwrap_or_else(|| "docker0".to_owned()),
            },
            mtu_bytes: self.mtu()?,
            docker_address,
            host_root: PathBuf::from(text("host-root", "/")),
            state_dir: state_dir(),
            run_dir: run_dir(),
        })
    }

    fn mtu(&self) -> Result<u32, Failure> {
        let given = self
            .parsed
            .last("mtu")
            .map(str::to_owned)
            .or_else(|| environment("WEAVE_MTU"));
        let without_fastdp =
            self.parsed.is_on("no-fastdp") || environment("WEAVE_NO_FASTDP").is_some();
        match given.as_deref() {
            None | Some("" | "0") if without_fastdp => Ok(MTU_WITHOUT_FASTDP_BYTES),
            None | Some("" | "0") => Ok(DEFAULT_MTU_BYTES),
            Some(text) => text
                .parse()
                .ok()
                .filter(|mtu| (MTU_BYTES_MIN..=MTU_WITHOUT_FASTDP_BYTES).contains(mtu))
                .ok_or_else(|| {
                    let range = format!("{MTU_BYTES_MIN} to {MTU_WITHOUT_FASTDP_BYTES}");
                    Failure::exit(1, format!("invalid MTU {text:?}: use {range}"))
                }),
        }
    }

    /// The flags as the original's first log line shows them, secrets blotted out.
    fn shown(&self) -> String {
        let shown: Vec<String> = self
            .parsed
            .given()
            .map(|(name, value)| match name {
                "password" | "token" => format!("{name}:<redacted>"),
                _ => format!("{name}:{value}"),
            })
            .collect();
        format!("map[{}]", shown.join(" "))
    }

    /// The command line again, without passphrase and without the flags named.
    pub(crate) fn without(&self, names: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = self
            .parsed
            .given()
            .filter(|(name, _)| !names.contains(name))
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
        arguments.push("--".to_owned());
        arguments.extend(self.parsed.words.iter().cloned());
        arguments
    }
}

/// A passphrase on its way from the user to the daemon. Wiped when dropped, never printed.
pub(crate) struct Secret(pub(crate) Zeroizing<String>);

impl Secret {
    fn new(text: String) -> Option<Self> {
        let text = Zeroizing::new(text);
        (!text.is_empty()).then_some(Self(text))
    }
}

fn number(parsed: &Parsed, name: &str) -> Result<Option<u32>, Failure> {
    let Some(text) = parsed.last(name) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => {
            let message = format!("invalid value {text:?} for flag --{name}: not a number");
            Err(Failure::exit(EXIT_BAD_FLAG, message))
        }
    }
}

/// An empty address switches a listener off.
fn address(given: Option<&str>, default: Option<String>) -> Option<String> {
    given
        .map(str::to_owned)
        .or(default)
        .filter(|address| !address.is_empty())
}

/// An empty `WEAVE_STATUS_ADDR` switches the listener off.
fn status_address() -> String {
    std::env::var("WEAVE_STATUS_ADDR").unwrap_or_else(|_| api::DEFAULT_STATUS_ADDR.to_owned())
}

fn nickname(parsed: &Parsed) -> String {
    match parsed.last("nickname") {
        Some(text) => text.to_owned(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_default(),
    }
}

/// The highest protocol version to speak: the newest, unless the environment holds it down so that
/// what peers of old get can be tried.
fn max_protocol_version(lowest: u32) -> Result<u8, Failure> {
    match environment("WEFT_MAX_PROTOCOL_VERSION").as_deref() {
        None | Some("2") => Ok(2),
        Some("1") if lowest == 1 => Ok(1),
        Some(text) => Err(Failure::exit(
            1,
            format!(
                "invalid WEFT_MAX_PROTOCOL_VERSION {text:?}: use 1 or 2, not below the minimum"
            ),
        )),
    }
}

/// `WEFT_SLEEVE_CIPHER`: to rehearse, between Wefts, what they do with originals. Nothing a user has
/// to choose.
fn sleeve_cipher() -> Result<SleeveCipher, Failure> {
    match environment("WEFT_SLEEVE_CIPHER").as_deref() {
        None | Some("auto") => Ok(SleeveCipher::Auto),
        Some("secretbox") => Ok(SleeveCipher::Secretbox),
        Some(text) => {
            let message = format!("invalid WEFT_SLEEVE_CIPHER {text:?}: use auto or secretbox");
            Err(Failure::exit(1, message))
        }
    }
}

fn trusted_subnets(text: &str) -> Result<Vec<TrustedSubnet>, Failure> {
    let parse = |part: &str| {
        let (address, bits) = part.split_once('/')?;
        TrustedSubnet::new(address.parse().ok()?, bits.parse().ok()?)
    };
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            parse(part).ok_or_else(|| {
                let message =
                    format!("Unable to parse trusted subnets: invalid CIDR address: {part}");
                Failure::exit(1, message)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Result<Options, Failure> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Options::parse(&words, &[])
    }

    fn config(words: &[&str]) -> Result<Config, Failure> {
        options(words)?.config(None)
    }

    fn refusal(words: &[&str]) -> (u8, String) {
        match config(words).err() {
            Some(Failure::Exit { message, code }) => (code, message),
            Some(other) => (0, other.to_string()),
            None => (0, "accepted".to_owned()),
        }
    }

    #[test]
    fn flags_reach_the_configuration() {
        let config = config(&[
            "--port=7000",
            "10.0.0.1",
            "--name",
            "::1",
            "--nickname=n",
            "--no-discovery",
            "--conn-limit=0",
            "--trusted-subnets=10.0.0.0/8,192.168.0.0/16",
            "--mtu=1500",
            "--http-addr=",
            "host2:6783",
        ])
        .expect("valid");
        assert_eq!(config.mesh.port, 7000);
        assert_eq!(config.mesh.peers, ["10.0.0.1", "host2:6783"]);
        assert_eq!(config.mesh.name.expect("given").to_u64(), 1);
        assert_eq!(config.mesh.nickname, "n");
        assert!(!config.mesh.discovery);
        assert_eq!(config.mesh.conn_limit, 0);
        assert_eq!(config.mesh.trusted_subnets.len(), 2);
        assert_eq!(config.host.mtu_bytes, 1500);
        assert_eq!(config.http.control, None);
    }

    #[test]
    fn mistakes_have_the_originals_words_and_codes() {
        let (code, text) = refusal(&["--nope"]);
        assert_eq!(code, 125);
        assert_eq!(
            text,
            "flag provided but not defined: --nope\nSee 'weave --help'."
        );
        let (code, text) = refusal(&["--min-protocol-version", "7"]);
        assert_eq!(
            (code, text.as_str()),
            (1, "--min-protocol-version must be in range [1,2]")
        );
        assert_eq!(
            refusal(&["--name=bogus"]),
            (1, "invalid peer name format: \"bogus\"".into())
        );
        assert!(
            refusal(&["--trusted-subnets=x"])
                .1
                .starts_with("Unable to parse trusted subnets")
        );
        assert!(
            refusal(&["--resume", "a"])
                .1
                .contains("in conjunction with --resume")
        );
        assert_eq!(refusal(&["--port=65535"]).0, 1);
        assert_eq!(refusal(&["--mtu=20"]).0, 1);
    }

    #[test]
    fn without_the_fast_datapath_the_mtu_is_the_originals() {
        let mtu = |words: &[&str]| config(words).expect("valid").host.mtu_bytes;
        assert_eq!(mtu(&[]), 1376);
        assert_eq!(mtu(&["--no-fastdp"]), 65_535);
        assert_eq!(mtu(&["--no-fastdp", "--mtu=1400"]), 1400);
    }

    #[test]
    fn secrets_are_neither_shown_nor_passed_on() {
        let options = options(&["--password=hunter22", "--port", "7000", "peer"]).expect("valid");
        assert_eq!(options.shown(), "map[password:<redacted> port:7000]");
        assert_eq!(
            options.without(&["password"]),
            ["--port=7000", "--", "peer"]
        );
    }

    #[test]
    fn services_that_are_missing_are_named() {
        let warnings = |words: &[&str]| options(words).expect("valid").warnings();
        assert_eq!(warnings(&["--token=x"]).len(), 1);
        assert!(warnings(&["--proxy"])[0].contains("not enabled"));
        assert!(warnings(&["--proxy=false", "--ipalloc-range=10.2.0.0/16"]).is_empty());
    }
}
