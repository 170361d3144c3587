//! Sockets of the HTTP API, and what a client may take of them: connections, time, bytes.

use std::convert::Infallible;
use std::io;
use std::net::ToSocketAddrs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use crate::task::{Task, Tasks, pass_panic_on};

/// Most connections of one listener. Requests for addresses may wait for long, and whoever comes to
/// help them has to be let in.
const CONNECTIONS_MAX: usize = 1024;
/// How long the head of the next request may take, idle time included.
const HEADER_MAX: Duration = Duration::from_secs(10);
/// Largest head of a request, bytes; a template in the path fits.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// How long a TCP client may leave an answer unread, milliseconds.
const STALL_MAX_MS: u32 = 30_000;

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

/// Serves until the task is dropped, which ends all connections.
pub fn serve(tasks: &Tasks, name: &'static str, listener: Listener, router: Router) -> Task {
    tasks.keep(name, async move {
        match listener {
            Listener::Tcp(listener) => {
                let loopback = listener
                    .local_addr()
                    .is_ok_and(|address| address.ip().is_loopback());
                let listener = listener.tap_io(|stream| {
                    // Without it a client that never reads is merely kept longer.
                    let _ = set_tcp_user_timeout(stream, STALL_MAX_MS);
                });
                run(listener, super::guarded(router, loopback)).await
            }
            Listener::Unix(listener, _file) => run(listener, router).await,
        }
    })
}

/// Accepts while there are few enough connections; the others wait in the kernel.
async fn run(mut listener: impl axum::serve::Listener, router: Router) -> Result<(), Infallible> {
    let service = TowerToHyperService::new(router);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, _) = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                connections.spawn(answer(stream, service.clone()));
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                pass_panic_on(ended);
            }
        }
    }
}

/// Answers the requests of one connection.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: TowerToHyperService<Router>,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::*;

    async fn broken() {
        panic!("no such list");
    }

    #[tokio::test]
    async fn panic_behind_a_request_is_an_end_with_the_name_of_its_server() {
        let tasks = Tasks::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().route("/", get(broken));
        let _server = serve(&tasks, "HTTP status", Listener::Tcp(listener), router);
        let mut client = TcpStream::connect(address).await.expect("connect");
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("write");
        let end = tasks.first_end().await;
        assert_eq!(end.to_string(), "HTTP status panicked: no such list");
    }
}
