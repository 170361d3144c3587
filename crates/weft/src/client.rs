//! Talking to the daemon.

use std::path::PathBuf;

use anyhow::Context;
use api::client::{Endpoint, RequestError, Response};
use daemon::config::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Failure;

/// Exit status when the daemon cannot be reached: the original's, which is curl's.
pub(crate) const EXIT_UNREACHABLE: u8 = 7;
/// Exit status for what the daemon does not have.
pub(crate) const EXIT_NOT_FOUND: u8 = 4;
/// Content type of forms.
const FORM: &str = "application/x-www-form-urlencoded";

/// The value of an environment variable, unless empty.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where durable state is.
pub(crate) fn state_dir() -> PathBuf {
    directory("WEFT_STATE_DIR", DEFAULT_STATE_DIR)
}

/// Where sockets and run files are.
pub(crate) fn run_dir() -> PathBuf {
    directory("WEFT_RUN_DIR", DEFAULT_RUN_DIR)
}

fn directory(variable: &str, default: &str) -> PathBuf {
    let path = PathBuf::from(environment(variable).unwrap_or_else(|| default.to_owned()));
    std::path::absolute(&path).unwrap_or(path)
}

/// A way to the daemon: an address the user names, else its socket, else its usual TCP address.
fn endpoint() -> Endpoint {
    if let Some(address) = environment("WEAVE_HTTP_ADDR") {
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

/// Sends a request and returns the body of a successful answer.
pub(crate) fn call(
    program: &str,
    method: &str,
    path: &str,
    accept: Option<&str>,
    body: Option<(&str, &str)>,
) -> Result<String, Failure> {
    match exchange(program, method, path, accept, body)? {
        Response {
            status: 200..=299,
            body,
        } => Ok(body),
        Response { status: 404, .. } => Err(Failure::exit(EXIT_NOT_FOUND, "")),
        Response { body, .. } => Err(Failure::exit(1, refusal(program, &body))),
    }
}

/// Sends a request and returns the answer, whatever it is.
pub(crate) fn exchange(
    program: &str,
    method: &str,
    path: &str,
    accept: Option<&str>,
    body: Option<(&str, &str)>,
) -> Result<Response, Failure> {
    endpoint()
        .request(method, path, accept, body)
        .map_err(|error| unreachable(program, &error))
}

fn unreachable(program: &str, error: &RequestError) -> Failure {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let message = match error {
        RequestError::Connect { source, .. }
            if matches!(source.kind(), ConnectionRefused | NotFound) =>
        {
            if program == "weave" {
                "weave container is not present. Have you launched it?".to_owned()
            } else {
                format!("{program} is not running. Have you launched it?")
            }
        }
        RequestError::Connect { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            format!("{program}: {error}\nhint: run it as root")
        }
        RequestError::Connect { .. } | RequestError::Io(_) | RequestError::Malformed(_) => {
            format!("{program}: {error}")
        }
    };
    Failure::exit(EXIT_UNREACHABLE, message)
}

/// A refusal as the user should read it: our JSON taken apart, other text as it is.
fn refusal(program: &str, body: &str) -> String {
    match serde_json::from_str::<api::v1::Failure>(body) {
        Ok(api::v1::Failure {
            error,
            hint: Some(hint),
        }) => {
            format!("{program}: {error}\nhint: {hint}")
        }
        Ok(api::v1::Failure { error, hint: None }) => format!("{program}: {error}"),
        Err(_) => body.to_owned(),
    }
}

/// `GET`s a text.
pub(crate) fn get(program: &str, path: &str) -> Result<String, Failure> {
    call(program, "GET", path, None, None)
}

/// `POST`s a form.
pub(crate) fn post_form(
    program: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<String, Failure> {
    let body = api::client::encode_form(fields.iter().copied());
    call(program, "POST", path, None, Some((FORM, &body)))
}

/// `GET`s a value of our JSON API.
pub(crate) fn get_json<A: DeserializeOwned>(program: &str, path: &str) -> Result<A, Failure> {
    decode(&get(program, path)?)
}

/// `POST`s a value of our JSON API and reads the answer.
pub(crate) fn post_json<Q: Serialize, A: DeserializeOwned>(
    program: &str,
    path: &str,
    request: &Q,
) -> Result<A, Failure> {
    let body = serde_json::to_string(request).context("writing the request")?;
    decode(&call(
        program,
        "POST",
        path,
        None,
        Some(("application/json", &body)),
    )?)
}

fn decode<A: DeserializeOwned>(body: &str) -> Result<A, Failure> {
    Ok(serde_json::from_str(body).context("answer of the daemon is not understood")?)
}
