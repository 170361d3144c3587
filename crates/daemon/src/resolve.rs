//! Peers as the user types them, `host[:port]`, to addresses (spec/mesh.md 10.1).

use std::net::IpAddr;

use mesh::DirectPeer;

/// Why a peer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not of the form.
    #[error("invalid peer name {0:?}, should be host[:port]")]
    Form(String),
    /// The port is neither a number nor a name we know.
    #[error("lookup tcp/{0}: unknown port")]
    Port(String),
    /// The resolver does not know the name.
    #[error("lookup {0}: no such host")]
    Unknown(String),
}

/// Splits and resolves one peer.
pub async fn resolve(text: &str) -> Result<DirectPeer, PeerError> {
    let (host, port) = split(text)?;
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) => look_up(&host).await?,
    };
    Ok(DirectPeer {
        text: text.to_owned(),
        ip: ip.to_canonical(),
        port,
    })
}

/// Resolves all; the errors of those that fail do not stop the others.
pub async fn resolve_all(texts: &[String]) -> (Vec<DirectPeer>, Vec<PeerError>) {
    let mut peers = Vec::new();
    let mut errors = Vec::new();
    for text in texts {
        match resolve(text).await {
            Ok(peer) => peers.push(peer),
            Err(error) => errors.push(error),
        }
    }
    (peers, errors)
}

/// IPv4 addresses are preferred: the original speaks no other.
async fn look_up(host: &str) -> Result<IpAddr, PeerError> {
    let unknown = || PeerError::Unknown(host.to_owned());
    let found: Vec<IpAddr> = tokio::net::lookup_host((host, 0))
        .await
        .map_err(|_| unknown())?
        .map(|address| address.ip())
        .collect();
    let first = found
        .iter()
        .find(|ip| ip.is_ipv4())
        .or_else(|| found.first());
    first.copied().ok_or_else(unknown)
}

/// The host and the port of a peer as typed; resolves nothing.
pub fn split(text: &str) -> Result<(String, Option<u16>), PeerError> {
    let form = || PeerError::Form(text.to_owned());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(form)?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(form()),
        }
    } else {
        match text.matches(':').count() {
            0 => (text, None),
            1 => text
                .split_once(':')
                .map(|(h, p)| (h, Some(p)))
                .ok_or_else(form)?,
            _ if text.parse::<IpAddr>().is_ok() => (text, None),
            _ => return Err(form()),
        }
    };
    if host.is_empty() || host.chars().any(char::is_whitespace) {
        return Err(form());
    }
    let port = match port {
        None => None,
        Some(port) if port.is_empty() || !port.chars().all(|c| c.is_ascii_alphanumeric()) => {
            return Err(form());
        }
        Some(port) => Some(port.parse().map_err(|_| PeerError::Port(port.to_owned()))?),
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_host_with_an_optional_port() {
        let cases = [
            ("host1", ("host1", None)),
            ("10.0.0.1:6783", ("10.0.0.1", Some(6783))),
            ("::1", ("::1", None)),
            ("[fe80::1]:7000", ("fe80::1", Some(7000))),
            ("[fe80::1]", ("fe80::1", None)),
        ];
        for (text, (host, port)) in cases {
            assert_eq!(split(text), Ok((host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn malformed_peers_are_named_in_the_error() {
        for text in ["", ":6783", "a:", "a:b:c", "a:1-2", "[::1", "[::1]x", "a b"] {
            let error = split(text).expect_err(text).to_string();
            assert_eq!(
                error,
                format!("invalid peer name {text:?}, should be host[:port]")
            );
        }
        assert_eq!(split("a:99999"), Err(PeerError::Port("99999".to_owned())));
    }
}
