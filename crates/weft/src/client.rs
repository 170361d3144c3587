//! Talking to the daemon.

use std::path::PathBuf;

use anyhow::Context;
use api::client::{Endpoint, RequestError, Response};
use daemon::config::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::hints;
use crate::program::{Codes, Program};
use crate::variables::{self, HTTP_ADDR, RUN_DIR, STATE_DIR, Variable};

/// Content type of forms.
const FORM: &str = "application/x-www-form-urlencoded";

/// Where durable state is.
pub(crate) fn state_dir() -> PathBuf {
    directory(&STATE_DIR, DEFAULT_STATE_DIR)
}

/// Where sockets and run files are.
pub(crate) fn run_dir() -> PathBuf {
    directory(&RUN_DIR, DEFAULT_RUN_DIR)
}

fn directory(variable: &Variable, default: &str) -> PathBuf {
    let path = PathBuf::from(variable.read().unwrap_or_else(|| default.to_owned()));
    std::path::absolute(&path).unwrap_or(path)
}

/// A way to the daemon: an address the user names, else its socket, else its usual TCP address.
fn endpoint() -> Endpoint {
    if let Some(address) = variables::read(HTTP_ADDR) {
        return if address.starts_with('/') {
            Endpoint::Unix(PathBuf::from(address))
        } else {
            Endpoint::Tcp(address)
        };
    }
    let socket = run_dir().join(api::SOCKET_NAME);
    if socket.exists() {
        Endpoint::Unix(socket)
    } else {
        Endpoint::Tcp(api::DEFAULT_HTTP_ADDR.to_owned())
    }
}

/// Who asks the daemon: under which name, with which exit statuses.
pub(crate) struct Client {
    /// The name we go by.
    pub(crate) program: Program,
    /// The exit statuses of the verb.
    pub(crate) codes: Codes,
}

impl Client {
    /// Sends a request and returns the body of a successful answer.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        accept: Option<&str>,
        body: Option<(&str, &str)>,
    ) -> Result<String, Failure> {
        match self.exchange(method, path, accept, body)? {
            Response {
                status: 200..=299,
                body,
            } => Ok(body),
            Response { status: 404, .. } => Err(self.not_found()),
            Response { body, .. } => Err(Failure::exit(1, self.refusal(&body))),
        }
    }

    /// Sends a request and returns the answer, whatever it is.
    pub(crate) fn exchange(
        &self,
        method: &str,
        path: &str,
        accept: Option<&str>,
        body: Option<(&str, &str)>,
    ) -> Result<Response, Failure> {
        endpoint()
            .request(method, path, accept, body)
            .map_err(|error| self.unreachable(&error))
    }

    /// What the daemon does not have; the original says nothing.
    pub(crate) fn not_found(&self) -> Failure {
        Failure::exit(self.codes.not_found, "")
    }

    fn unreachable(&self, error: &RequestError) -> Failure {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let program = self.program;
        let message = match error {
            RequestError::Connect { source, .. }
                if matches!(source.kind(), ConnectionRefused | NotFound) =>
            {
                hints::not_running(program).to_owned()
            }
            RequestError::Connect { source, .. } if source.kind() == PermissionDenied => {
                format!("{program}: {error}\n{}", hints::line(hints::RUN_AS_ROOT))
            }
            RequestError::Connect { .. } | RequestError::Io(_) | RequestError::Malformed(_) => {
                format!("{program}: {error}")
            }
        };
        Failure::exit(self.codes.unreachable, message)
    }

    /// A refusal as the user should read it: our JSON taken apart, other text as it is.
    fn refusal(&self, body: &str) -> String {
        let program = self.program;
        match serde_json::from_str::<api::v1::Failure>(body) {
            Ok(api::v1::Failure {
                error,
                hint: Some(hint),
            }) => {
                format!("{program}: {error}\n{}", hints::line(&hint))
            }
            Ok(api::v1::Failure { error, hint: None }) => format!("{program}: {error}"),
            Err(_) => body.to_owned(),
        }
    }

    /// `GET`s a text.
    pub(crate) fn get(&self, path: &str) -> Result<String, Failure> {
        self.call("GET", path, None, None)
    }

    /// `POST`s a form.
    pub(crate) fn post_form(&self, path: &str, fields: &[(&str, &str)]) -> Result<String, Failure> {
        let body = api::client::encode_form(fields.iter().copied());
        self.call("POST", path, None, Some((FORM, &body)))
    }

    /// `GET`s a value of our JSON API.
    pub(crate) fn get_json<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        decode(&self.get(path)?)
    }

    /// `POST`s a value of our JSON API and reads the answer.
    pub(crate) fn post_json<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, Failure> {
        let body = serde_json::to_string(request).context("writing the request")?;
        decode(&self.call("POST", path, None, Some(("application/json", &body)))?)
    }
}

fn decode<A: DeserializeOwned>(body: &str) -> Result<A, Failure> {
    Ok(serde_json::from_str(body).context("answer of the daemon is not understood")?)
}
