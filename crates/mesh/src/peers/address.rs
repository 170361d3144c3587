//! The address text of a connection, kept small: a large mesh has tens of thousands of them.

use std::net::{SocketAddr, SocketAddrV4};

/// What a peer says about the address at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RemoteAddress {
    /// An address that is written exactly like this.
    V4(SocketAddrV4),
    /// Any other text.
    Text(Box<str>),
}

impl RemoteAddress {
    /// From text, which is kept as it is.
    pub(crate) fn new(text: &str) -> Self {
        match text.parse::<SocketAddrV4>() {
            Ok(address) if is_canonical_port(text) => Self::V4(address),
            _ => Self::Text(text.into()),
        }
    }

    /// The text, to be passed on unchanged.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::V4(address) => address.to_string(),
            Self::Text(text) => text.to_string(),
        }
    }

    /// The address, if it is one.
    pub(crate) fn parsed(&self) -> Option<SocketAddr> {
        match self {
            Self::V4(address) => Some((*address).into()),
            Self::Text(text) => text.parse().ok().map(canonical),
        }
    }
}

/// An address with IPv4-mapped IPv6 undone.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

/// Whether the port of a valid address is written without zeros in front. Only there the standard
/// library takes more than one text for an address of IPv4.
fn is_canonical_port(text: &str) -> bool {
    let port = text.rsplit(':').next().unwrap_or_default();
    port == "0" || !port.starts_with('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_survives_and_addresses_are_found_in_it() {
        let cases = [
            ("10.0.0.1:6783", Some("10.0.0.1:6783")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("[fd00::1]:6783", Some("[fd00::1]:6783")),
            ("010.0.0.1:80", None),
            ("10.0.0.1:080", Some("10.0.0.1:80")),
            ("10.0.0.1:0", Some("10.0.0.1:0")),
            ("10.0.0.1:00", Some("10.0.0.1:0")),
            ("somewhere", None),
            ("", None),
        ];
        for (text, address) in cases {
            let remote = RemoteAddress::new(text);
            assert_eq!(remote.text(), text);
            assert_eq!(
                remote.parsed(),
                address.map(|a| a.parse().unwrap()),
                "{text}"
            );
        }
        assert!(size_of::<RemoteAddress>() <= 16);
    }
}
