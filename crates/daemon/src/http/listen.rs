//! Sockets of the HTTP API.

use std::io;
use std::net::ToSocketAddrs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::{TcpListener, UnixListener};

use crate::task::{self, Task};

/// A bound socket that does not serve yet.
#[derive(Debug)]
pub enum Listener {
    /// Loopback or another address.
    Tcp(TcpListener),
    /// A socket file, removed when the listener goes.
    Unix(UnixListener, SocketFile),
}

/// A socket file of ours.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds an address: `host:port`, or an absolute path for a Unix socket that only root may use.
pub async fn bind(address: &str) -> io::Result<Listener> {
    if address.starts_with('/') {
        return bind_unix(Path::new(address));
    }
    let address = address.strip_prefix("tcp://").unwrap_or(address);
    let candidates: Vec<_> = address.to_socket_addrs()?.collect();
    Ok(Listener::Tcp(
        TcpListener::bind(candidates.as_slice()).await?,
    ))
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another daemon listens there",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(Listener::Unix(listener, file))
}

/// Serves until the task is dropped.
pub fn serve(listener: Listener, router: Router) -> Task {
    task::spawn("http", async move {
        let result = match listener {
            Listener::Tcp(listener) => {
                let loopback = listener
                    .local_addr()
                    .is_ok_and(|address| address.ip().is_loopback());
                axum::serve(listener, super::guarded(router, loopback)).await
            }
            Listener::Unix(listener, _file) => axum::serve(listener, router).await,
        };
        if let Err(error) = result {
            tracing::error!(%error, "HTTP server ended");
        }
    })
}
