//! The few calls Weft makes to a Docker engine: version negotiation, what runs, what happens to it.
//!
//! One connection per call, over the engine's Unix socket or plain TCP. Format: the Docker Engine
//! API, versions 1.24 to current (design D8).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ipam::ContainerEvent;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::task::{Task, Tasks};

/// Address used when `DOCKER_HOST` is not set.
pub const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";
/// Newest API version we were written for.
const VERSION_MAX: (u32, u32) = (1, 51);
/// Oldest API version we speak.
const VERSION_MIN: (u32, u32) = (1, 24);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer accepted, bytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Longest event accepted, bytes: labels of a container are part of it.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// Where the engine is.
#[derive(Debug, Clone)]
pub struct Docker {
    address: String,
    place: Place,
    tasks: Tasks,
}

#[derive(Debug, Clone)]
enum Place {
    Unix(PathBuf),
    Tcp(String),
}

/// A container as far as attaching needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Full id.
    pub id: String,
    /// Name without the slash.
    pub name: String,
    /// Its first process; `None` unless it runs.
    pub pid: Option<u32>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// Not `unix://` or `tcp://`.
    #[error("docker address {0:?} is not understood: use unix:///path or tcp://host:port")]
    Address(String),
    /// Nobody answers.
    #[error("docker is not reachable at {address}: {cause}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        cause: String,
    },
    /// The engine does not know the container.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// The engine refuses.
    #[error("docker refused: {0}")]
    Refused(String),
    /// Too old.
    #[error("docker speaks API version {0}, at least 1.24 is needed")]
    TooOld(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    #[serde(default)]
    api_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(default)]
    name: String,
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

/// What happened to a container, as the engine says it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Happened {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    action: String,
    actor: Actor,
}

#[derive(Deserialize)]
struct Actor {
    #[serde(rename = "ID", default)]
    id: String,
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
}

impl Docker {
    /// An engine at `unix:///path`, `/path` or `tcp://host:port`.
    pub fn new(address: &str, tasks: Tasks) -> Result<Self, DockerError> {
        let bad = || DockerError::Address(address.to_owned());
        let place = if let Some(path) = address.strip_prefix("unix://") {
            Place::Unix(PathBuf::from(path))
        } else if address.starts_with('/') {
            Place::Unix(PathBuf::from(address))
        } else if let Some(host) = address.strip_prefix("tcp://") {
            let host = host.trim_end_matches('/');
            if host.is_empty() {
                return Err(bad());
            }
            let with_port = if host.contains(':') {
                host.to_owned()
            } else {
                format!("{host}:2375")
            };
            Place::Tcp(with_port)
        } else {
            return Err(bad());
        };
        Ok(Self {
            address: address.to_owned(),
            place,
            tasks,
        })
    }

    /// Looks a container up by id, part of an id, or name.
    pub async fn inspect(&self, container: &str) -> Result<Container, DockerError> {
        if !is_reference(container) {
            return Err(DockerError::NoSuchContainer(container.to_owned()));
        }
        let version = self.negotiate().await?;
        let path = format!("/v{}.{}/containers/{container}/json", version.0, version.1);
        let (status, body) = self.get(&path).await?;
        match status {
            200 => {
                let inspected: Inspected = serde_json::from_slice(&body)
                    .map_err(|error| DockerError::Refused(error.to_string()))?;
                let running = inspected.state.running && inspected.state.pid != 0;
                Ok(Container {
                    id: inspected.id,
                    name: inspected.name.trim_start_matches('/').to_owned(),
                    pid: running.then_some(inspected.state.pid),
                })
            }
            404 => Err(DockerError::NoSuchContainer(container.to_owned())),
            _ => Err(DockerError::Refused(complaint(&body))),
        }
    }

    /// Ids of the containers that run.
    pub async fn running(&self) -> Result<BTreeSet<String>, DockerError> {
        let version = self.negotiate().await?;
        let path = format!("/v{}.{}/containers/json", version.0, version.1);
        let (status, body) = self.get(&path).await?;
        if status != 200 {
            return Err(DockerError::Refused(complaint(&body)));
        }
        let listed: Vec<Listed> = serde_json::from_slice(&body)
            .map_err(|error| DockerError::Refused(error.to_string()))?;
        Ok(listed.into_iter().map(|container| container.id).collect())
    }

    /// What happens to containers from now on.
    pub async fn events(&self) -> Result<Events, DockerError> {
        let version = self.negotiate().await?;
        let filters = r#"{"type":["container"],"event":["start","die","destroy"]}"#;
        let query = api::client::encode_form([("filters", filters)]);
        let path = format!("/v{}.{}/events?{query}", version.0, version.1);
        let (response, connection) = self.in_time(self.open(&path)).await?;
        if response.status() != 200 {
            let status = response.status();
            return Err(DockerError::Refused(format!("events: {status}")));
        }
        Ok(Events {
            address: self.address.clone(),
            body: response.into_body(),
            buffer: Vec::new(),
            _connection: connection,
        })
    }

    /// The newest version both sides speak.
    async fn negotiate(&self) -> Result<(u32, u32), DockerError> {
        let (status, body) = self.get("/version").await?;
        if status != 200 {
            return Err(DockerError::Refused(complaint(&body)));
        }
        let text = serde_json::from_slice::<Version>(&body)
            .map_err(|error| DockerError::Refused(error.to_string()))?
            .api_version;
        let theirs = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .unwrap_or(VERSION_MIN);
        if theirs < VERSION_MIN {
            Err(DockerError::TooOld(text))
        } else {
            Ok(theirs.min(VERSION_MAX))
        }
    }

    async fn get(&self, path: &str) -> Result<(u16, Bytes), DockerError> {
        let call = async {
            let (response, _connection) = self.open(path).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| self.unreachable(error.to_string()))?
                .to_bytes();
            Ok((status, body))
        };
        self.in_time(call).await
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, DockerError>>,
    ) -> Result<T, DockerError> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("no answer in time".to_owned())),
        }
    }

    fn unreachable(&self, cause: String) -> DockerError {
        DockerError::Unreachable {
            address: self.address.clone(),
            cause,
        }
    }

    /// Asks, and returns the head of the answer with the connection its body comes by.
    async fn open(&self, path: &str) -> Result<(Response<Incoming>, Task), DockerError> {
        let failed = |error: std::io::Error| self.unreachable(crate::links::words(&error));
        let answer = match &self.place {
            Place::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(failed)?;
                self.exchange(stream, path).await
            }
            Place::Tcp(host) => {
                let stream = TcpStream::connect(host).await.map_err(failed)?;
                self.exchange(stream, path).await
            }
        };
        answer.map_err(|error| self.unreachable(error.to_string()))
    }

    async fn exchange<S>(
        &self,
        stream: S,
        path: &str,
    ) -> Result<(Response<Incoming>, Task), hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = self.tasks.spawn("docker call", async move {
            // Its error reaches us through the request.
            let _ = connection.await;
        });
        let request = Request::get(path)
            .header("Host", "docker")
            .header("User-Agent", "weft")
            .body(Empty::<Bytes>::new())
            .expect("paths are made of plain characters");
        Ok((sender.send_request(request).await?, connection))
    }
}

/// A stream of what happens to containers.
#[derive(Debug)]
pub struct Events {
    address: String,
    body: Incoming,
    /// What came of the next line.
    buffer: Vec<u8>,
    _connection: Task,
}

impl Events {
    /// Waits for the next event: of which container, and what. `None` when the engine ends the stream.
    pub async fn next(&mut self) -> Result<Option<(String, ContainerEvent)>, DockerError> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Some(event) = event_of(&line) {
                    return Ok(Some(event));
                }
            }
            let unreachable = |cause: String| DockerError::Unreachable {
                address: self.address.clone(),
                cause,
            };
            let frame = match self.body.frame().await {
                Some(frame) => frame.map_err(|error| unreachable(error.to_string()))?,
                None => return Ok(None),
            };
            if let Ok(bytes) = frame.into_data() {
                self.buffer.extend_from_slice(&bytes);
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(unreachable("an event is too long".to_owned()));
            }
        }
    }
}

/// The event of one line; `None` for what we do not follow.
fn event_of(line: &[u8]) -> Option<(String, ContainerEvent)> {
    let happened: Happened = serde_json::from_slice(line).ok()?;
    let event = match happened.action.as_str() {
        "start" => ContainerEvent::Started,
        "die" => ContainerEvent::Died,
        "destroy" => ContainerEvent::Destroyed,
        _ => return None,
    };
    (happened.r#type == "container").then_some((happened.actor.id, event))
}

/// Whether a text can be a container's id or name; keeps paths and queries out of the request line.
fn is_reference(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn complaint(body: &[u8]) -> String {
    match serde_json::from_slice::<Complaint>(body) {
        Ok(complaint) => complaint.message,
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_are_unix_paths_or_tcp() {
        for address in [
            "unix:///var/run/docker.sock",
            "/run/docker.sock",
            "tcp://10.0.0.1:2375",
        ] {
            assert!(Docker::new(address, Tasks::default()).is_ok(), "{address}");
        }
        for address in ["", "tcp://", "ssh://host", "npipe:////./pipe/docker"] {
            assert!(Docker::new(address, Tasks::default()).is_err(), "{address}");
        }
    }

    #[tokio::test]
    async fn containers_are_found_by_the_newest_common_version() {
        let docker = engine(
            "1.41",
            "/v1.41/containers/web/json",
            r#"{"Id":"abc","Name":"/web","State":{"Running":true,"Pid":42,"New":1}}"#,
        )
        .await;
        let container = docker.inspect("web").await.expect("found");
        let expected = Container {
            id: "abc".into(),
            name: "web".into(),
            pid: Some(42),
        };
        assert_eq!(container, expected);
    }

    #[tokio::test]
    async fn an_engine_that_is_away_is_named() {
        let docker =
            Docker::new("unix:///nonexistent/docker.sock", Tasks::default()).expect("an address");
        let error = docker.inspect("web").await.expect_err("away").to_string();
        assert_eq!(
            error,
            "docker is not reachable at unix:///nonexistent/docker.sock: no such file or directory"
        );
    }

    #[tokio::test]
    async fn names_cannot_smuggle_paths() {
        let docker =
            Docker::new("unix:///nonexistent/docker.sock", Tasks::default()).expect("an address");
        for name in ["../../images", "a/b", "a?b", "a b", ""] {
            let error = docker.inspect(name).await.expect_err(name);
            assert!(matches!(error, DockerError::NoSuchContainer(_)), "{name}");
        }
    }

    #[tokio::test]
    async fn events_are_told_one_by_one() {
        let lines = concat!(
            r#"{"Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{}},"id":"abc"}"#,
            "\n",
            r#"{"Type":"network","Action":"destroy","Actor":{"ID":"n"}}"#,
            "\nnonsense\n",
            r#"{"Type":"container","Action":"die","Actor":{"ID":"abc"}}"#,
            "\n",
        );
        let docker = engine("1.51", "/v1.51/events?filters=", lines).await;
        let mut events = docker.events().await.expect("a stream");
        let mut next = async || events.next().await.expect("no error");
        let told = |event| Some(("abc".to_owned(), event));
        assert_eq!(next().await, told(ContainerEvent::Started));
        assert_eq!(next().await, told(ContainerEvent::Died));
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn running_containers_are_listed_by_id() {
        let list = r#"[{"Id":"abc","Names":["/web"]},{"Id":"def"}]"#;
        let docker = engine("1.44", "/v1.44/containers/json", list).await;
        let running = docker.running().await.expect("a list");
        assert_eq!(
            running,
            BTreeSet::from(["abc".to_owned(), "def".to_owned()])
        );
    }

    /// An engine that answers the version and one path.
    async fn engine(version: &str, path: &str, answer: &str) -> Docker {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = format!("tcp://{}", listener.local_addr().expect("bound"));
        let version = format!("{{\"ApiVersion\":\"{version}\"}}");
        let path = format!("GET {path}");
        let answer = answer.to_owned();
        let engine = async move {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.expect("accept");
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.expect("read");
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let (status, body) = if request.starts_with("GET /version ") {
                    ("200 OK", &version)
                } else if request.starts_with(&path) {
                    ("200 OK", &answer)
                } else {
                    ("404 Not Found", &request)
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                stream
                    .write_all((head + body).as_bytes())
                    .await
                    .expect("write");
            }
        };
        Tasks::default().detach("test engine", engine);
        Docker::new(&address, Tasks::default()).expect("an address")
    }
}
