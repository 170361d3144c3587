//! Which name this host takes in the mesh.
//!
//! `spec/cli-api.md` section 8, reproduced exactly so that an upgraded host keeps its name: the name
//! given by the user; the address of a bridge that exists; a persisted name of the old style; a hash
//! of the machine's identity; a random one.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use wire::ethernet::MacAddr;

/// Everything a peer name can come from, in the order of preference.
#[derive(Clone, Debug)]
pub struct PeerNameSources {
    /// Named by the user.
    pub given: Option<MacAddr>,
    /// Hardware address of the existing bridge.
    pub bridge: Option<MacAddr>,
    /// The name remembered from an earlier run.
    pub persisted: Option<MacAddr>,
    /// What identifies the machine.
    pub identity: MachineIdentity,
    /// Six random bytes, for a machine without identity.
    pub random: [u8; 6],
}

/// The identity files of a machine, byte for byte; absent files are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineIdentity {
    /// Identity of the installation.
    pub machine_id: Option<Vec<u8>>,
    /// Identity of the hardware or virtual machine.
    pub uuid: Option<Vec<u8>>,
}

/// Why there is no peer name.
#[derive(Debug, thiserror::Error)]
pub enum PeerNameError {
    /// The identity files exist and say nothing: every copy of this machine would get one name.
    #[error("All system IDs are blank")]
    AllBlank,
    /// An identity file exists and cannot be read; another name than usual would be worse.
    #[error("{path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl PeerNameSources {
    /// The name, by the first source that has one.
    ///
    /// A persisted name counts only if it is the old-style one of this very machine; any other may
    /// have come here with a copied disk.
    pub fn choose(&self) -> Result<MacAddr, PeerNameError> {
        let old_style = self.identity.old_style_name();
        let persisted = self.persisted.filter(|name| old_style == Some(*name));
        match self.given.or(self.bridge).or(persisted) {
            Some(name) => Ok(name),
            None if self.identity.is_absent() => Ok(MacAddr::local_unicast(self.random)),
            None => self.identity.name().ok_or(PeerNameError::AllBlank),
        }
    }
}

impl MachineIdentity {
    /// Reads the identity of this machine; `host_root` is where the host's file system is seen.
    pub fn read(host_root: &Path) -> Result<Self, PeerNameError> {
        Self::read_from(host_root, Path::new("/sys"))
    }

    /// As [`MachineIdentity::read`], with `/sys` mounted elsewhere.
    pub fn read_from(host_root: &Path, sys: &Path) -> Result<Self, PeerNameError> {
        let first = |paths: [PathBuf; 2]| -> Result<Option<Vec<u8>>, PeerNameError> {
            for path in paths {
                match std::fs::read(&path) {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(error) if is_absence(&error) => {}
                    Err(source) => return Err(PeerNameError::Unreadable { path, source }),
                }
            }
            Ok(None)
        };
        Ok(Self {
            machine_id: first([
                host_root.join("etc/machine-id"),
                host_root.join("var/lib/dbus/machine-id"),
            ])?,
            uuid: first([
                sys.join("class/dmi/id/product_uuid"),
                sys.join("hypervisor/uuid"),
            ])?,
        })
    }

    fn is_absent(&self) -> bool {
        self.machine_id.is_none() && self.uuid.is_none()
    }

    fn name(&self) -> Option<MacAddr> {
        let parts = [&self.machine_id, &self.uuid].map(|p| p.as_deref().unwrap_or_default());
        hash(&parts.concat())
    }

    fn old_style_name(&self) -> Option<MacAddr> {
        hash(self.uuid.as_deref()?)
    }
}

fn is_absence(error: &io::Error) -> bool {
    [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind())
}

/// `None` for blank input.
fn hash(identity: &[u8]) -> Option<MacAddr> {
    if identity.trim_ascii().is_empty() {
        return None;
    }
    let digest = Sha256::new()
        .chain_update(SALT)
        .chain_update(identity)
        .finalize();
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&digest[..6]);
    Some(MacAddr::local_unicast(bytes))
}

/// Fixed by the original, so that names do not reveal the machine's identity.
const SALT: &[u8] = b"9oBJ0Jmip-";

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> PeerNameSources {
        PeerNameSources {
            given: None,
            bridge: None,
            persisted: None,
            identity: MachineIdentity {
                machine_id: Some(b"0123456789abcdef0123456789abcdef\n".to_vec()),
                uuid: Some(b"12345678-1234-1234-1234-123456789ABC\n".to_vec()),
            },
            random: [0xff; 6],
        }
    }

    fn mac(text: &str) -> MacAddr {
        text.parse().unwrap()
    }

    /// Expected values by `printf '9oBJ0Jmip-…' | sha256sum`.
    #[test]
    fn the_name_is_the_hash_of_both_identities() {
        assert_eq!(sources().choose().unwrap(), mac("b6:5b:9e:5b:73:2f"));
    }

    #[test]
    fn the_first_source_with_a_name_wins() {
        let mut sources = sources();
        let old_style = mac("06:59:95:16:d6:72");
        sources.persisted = Some(old_style);
        assert_eq!(sources.choose().unwrap(), old_style);
        sources.bridge = Some(mac("02:00:00:00:00:02"));
        assert_eq!(sources.choose().unwrap(), mac("02:00:00:00:00:02"));
        sources.given = Some(mac("02:00:00:00:00:01"));
        assert_eq!(sources.choose().unwrap(), mac("02:00:00:00:00:01"));
    }

    #[test]
    fn a_persisted_name_of_another_machine_does_not_count() {
        let expected = sources().choose().unwrap();
        let sources = PeerNameSources {
            persisted: Some(mac("02:00:00:00:00:07")),
            ..sources()
        };
        assert_eq!(sources.choose().unwrap(), expected);
    }

    #[test]
    fn a_machine_without_identity_gets_a_random_local_name() {
        let sources = PeerNameSources {
            identity: MachineIdentity::default(),
            ..sources()
        };
        assert_eq!(sources.choose().unwrap(), mac("fe:ff:ff:ff:ff:ff"));
    }

    #[test]
    fn blank_identities_are_refused() {
        let identity = MachineIdentity {
            machine_id: Some(b"\n".to_vec()),
            uuid: Some(vec![]),
        };
        let error = PeerNameSources {
            identity,
            ..sources()
        }
        .choose()
        .unwrap_err();
        assert_eq!(error.to_string(), "All system IDs are blank");
    }

    #[test]
    fn files_are_found_in_the_order_of_preference() {
        let root = std::env::temp_dir().join(format!("weft-peer-name-{}", std::process::id()));
        let (host, sys) = (root.join("host"), root.join("sys"));
        let write = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let read = || MachineIdentity::read_from(&host, &sys).unwrap();
        assert_eq!(read(), MachineIdentity::default());
        write(host.join("var/lib/dbus/machine-id"), "second\n");
        write(sys.join("hypervisor/uuid"), "fourth\n");
        assert_eq!(read().machine_id.unwrap(), b"second\n");
        assert_eq!(read().uuid.unwrap(), b"fourth\n");
        write(host.join("etc/machine-id"), "first\n");
        write(sys.join("class/dmi/id/product_uuid"), "third\n");
        assert_eq!(read().machine_id.unwrap(), b"first\n");
        assert_eq!(read().uuid.unwrap(), b"third\n");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
