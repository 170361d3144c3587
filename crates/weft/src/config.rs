//! Flags and environment of the daemon, to its configuration (spec/cli-api.md 3).

pub(crate) mod addresses;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use daemon::config::{
    Config, HostOptions, HttpOptions, MTU_WITHOUT_FASTDP_BYTES, MeshOptions, SleeveCipher,
};
use linux::bridge::{DEFAULT_BRIDGE, DEFAULT_MTU_BYTES};
use mesh::{Password, TrustedSubnet};
use zeroize::Zeroizing;

use crate::args::DaemonArgs;
use crate::args::daemon::{EncryptionFlags, HostFlags, MeshFlags};
use crate::args::parse::Given;
use crate::client::{run_dir, state_dir};
use crate::failure::Failure;
use crate::variables;

/// Smallest MTU of a bridge; IPv4 hosts must take packets this large (RFC 791).
const MTU_BYTES_MIN: u32 = 576;

/// A command line of `daemon` or `launch`, and what it means.
pub(crate) struct Options<'a> {
    args: &'a DaemonArgs,
    given: &'a Given,
}

impl<'a> Options<'a> {
    /// What these words mean.
    pub(crate) fn new(args: &'a DaemonArgs, given: &'a Given) -> Self {
        Self { args, given }
    }

    /// How much to log: flag, then environment.
    pub(crate) fn log_filter(&self) -> String {
        match (&self.args.host.log_level, variables::DEBUG.read()) {
            (Some(level), _) => level.clone(),
            (None, Some(_)) => "debug".to_owned(),
            (None, None) => "info".to_owned(),
        }
    }

    /// The passphrase by its first source: flag, file, environment.
    pub(crate) fn password(&self) -> Result<Option<Secret>, Failure> {
        let EncryptionFlags {
            password,
            password_file,
            ..
        } = &self.args.encryption;
        match (password, password_file) {
            (Some(text), _) if self.is_password_given() => Ok(Secret::new(text.clone())),
            (_, Some(path)) => read_password(path),
            (Some(text), None) => Ok(Secret::new(text.clone())),
            (None, None) => Ok(None),
        }
    }

    /// Whether the passphrase stands on the command line.
    pub(crate) fn is_password_given(&self) -> bool {
        self.given.has("password")
    }

    /// The complete configuration.
    pub(crate) fn config(&self, password: Option<&Secret>) -> Result<Config, Failure> {
        let args = self.args;
        if args.host.awsvpc {
            return Err(Failure::exit(1, "--awsvpc is not supported"));
        }
        Ok(Config {
            mesh: self.mesh(password)?,
            host: self.host()?,
            http: HttpOptions {
                control: unless_empty(&args.api.http_addr),
                status: unless_empty(&args.api.status_addr),
                metrics: unless_empty(&args.api.metrics_addr),
            },
            ipam: addresses::options(&args.addresses)?,
            shown_options: self.given.shown(),
        })
    }

    fn mesh(&self, password: Option<&Secret>) -> Result<MeshOptions, Failure> {
        let flags = &self.args.mesh;
        let min_protocol_version = flags.min_protocol_version;
        if !(1..=2).contains(&min_protocol_version) {
            return Err(Failure::exit(
                1,
                "--min-protocol-version must be in range [1,2]",
            ));
        }
        let port = flags.port;
        let port = u16::try_from(port)
            .ok()
            .filter(|port| (1..u16::MAX).contains(port))
            .ok_or_else(|| Failure::exit(1, format!("invalid port {port}: use 1 to 65534")))?;
        let listen = match flags.host.as_deref().filter(|host| !host.is_empty()) {
            None => None,
            Some(host) => Some(host.parse::<IpAddr>().map_err(|_| {
                Failure::exit(1, format!("invalid --host {host:?}: give an IP address"))
            })?),
        };
        let name = match flags.name.as_deref().filter(|name| !name.is_empty()) {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|error| Failure::exit(1, format!("{error}")))?,
            ),
        };
        if flags.resume && !self.args.peers.is_empty() {
            let message = "You must not specify an initial peer list in conjunction with --resume";
            return Err(Failure::exit(1, message));
        }
        Ok(MeshOptions {
            listen,
            port,
            min_protocol_version: u8::try_from(min_protocol_version).unwrap_or(1),
            max_protocol_version: max_protocol_version(min_protocol_version)?,
            name,
            nickname: nickname(flags),
            password: password.and_then(|secret| Password::new(secret.0.as_bytes())),
            sleeve_cipher: sleeve_cipher()?,
            trusted_subnets: trusted_subnets(&self.args.encryption.trusted_subnets)?,
            discovery: !flags.no_discovery,
            conn_limit: flags.conn_limit as usize,
            resume: flags.resume,
            peers: self.args.peers.clone(),
        })
    }

    fn host(&self) -> Result<HostOptions, Failure> {
        let flags = &self.args.host;
        let or =
            |text: &str, default: &str| unless_empty(text).unwrap_or_else(|| default.to_owned());
        Ok(HostOptions {
            bridge: or(&flags.weave_bridge, DEFAULT_BRIDGE),
            docker_bridge: flags.docker_bridge.clone(),
            mtu_bytes: mtu(flags)?,
            docker_address: unless_empty(&flags.docker_api),
            host_root: PathBuf::from(or(&flags.host_root, "/")),
            state_dir: state_dir(),
            run_dir: run_dir(),
        })
    }
}

fn mtu(flags: &HostFlags) -> Result<u32, Failure> {
    match flags.mtu.as_deref() {
        None | Some("" | "0") if flags.no_fastdp => Ok(MTU_WITHOUT_FASTDP_BYTES),
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

/// A passphrase on its way from the user to the daemon. Wiped when dropped, never printed.
pub(crate) struct Secret(pub(crate) Zeroizing<String>);

impl Secret {
    fn new(text: String) -> Option<Self> {
        let text = Zeroizing::new(text);
        (!text.is_empty()).then_some(Self(text))
    }
}

fn read_password(path: &str) -> Result<Option<Secret>, Failure> {
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
    Ok(Secret::new(text.to_owned()))
}

/// An empty address switches off what listens there or is asked there.
fn unless_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn nickname(flags: &MeshFlags) -> String {
    match &flags.nickname {
        Some(text) => text.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_default(),
    }
}

/// The highest protocol version to speak: the newest, unless the environment holds it down so that
/// what peers of old get can be tried.
fn max_protocol_version(lowest: u32) -> Result<u8, Failure> {
    match variables::MAX_PROTOCOL_VERSION.read().as_deref() {
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

/// How datagrams between Wefts are sealed.
fn sleeve_cipher() -> Result<SleeveCipher, Failure> {
    match variables::SLEEVE_CIPHER.read().as_deref() {
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
    use crate::args::Verb;
    use crate::args::parse::{Invocation, parse};
    use crate::program::Program;

    fn daemon(words: &[&str]) -> (Box<DaemonArgs>, Given) {
        let words = [&["daemon"], words].concat();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match parse(Program::Weave, &words, &|_| None) {
            Ok(Invocation {
                verb: Verb::Daemon(args),
                given,
                ..
            }) => (args, given),
            Ok(_) => panic!("another verb"),
            Err(wrong) => panic!("{:?}", wrong.mistake),
        }
    }

    fn config(words: &[&str]) -> Result<Config, Failure> {
        let (args, given) = daemon(words);
        Options::new(&args, &given).config(None)
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
        let (args, given) = daemon(&["--password=hunter22", "--port", "7000", "peer"]);
        assert_eq!(given.shown(), "map[password:<redacted> port:7000]");
        assert_eq!(
            given.without(&["password"], &args.peers),
            ["--port=7000", "--", "peer"]
        );
    }

    #[test]
    fn services_that_are_missing_are_named() {
        let warnings = |words: &[&str]| daemon(words).0.absent.warnings().to_vec();
        assert_eq!(warnings(&["--token=x"]).len(), 1);
        assert!(warnings(&["--proxy"])[0].contains("not enabled"));
        assert!(warnings(&["--proxy=false", "--ipalloc-range=10.2.0.0/16"]).is_empty());
    }
}
