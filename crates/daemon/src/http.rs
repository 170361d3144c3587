//! The HTTP API: the original's routes (spec/cli-api.md 4) and Weft's own under `/v1/`.
//!
//! The control listener serves everything, the status listener what cannot change anything. Over TCP
//! only requests that name a loopback host are served, and none that a web page of another origin
//! made; over the Unix socket the file's permissions decide.

mod ipam;
pub mod listen;
mod reading;
mod v1;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::report::Report;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::LengthLimitError;
use linux::addr::Cidr;
use node::{Connect, Forget};
use plane::Plane;
use report::template::Template;
use report::{metrics, status};

use crate::addresses::Addresses;
use crate::containers::Containers;
use crate::docker::Docker;
use crate::driver::Handle;
use crate::host::HostHandle;
use crate::resolve;
use crate::task::{Task, Tasks};
use reading::Reading;

/// Largest request body, bytes: thousands of peers fit.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a request body may take.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// What request handlers reach.
pub struct App {
    /// The node.
    pub driver: Handle,
    /// Bridge, attachments, firewall.
    pub host: HostHandle,
    /// Addresses of containers and of the bridge.
    pub addresses: Addresses,
    /// The engine, unless Docker is not used.
    pub docker: Option<Docker>,
    reading: Arc<Reading>,
}

type Shared = State<Arc<App>>;

impl App {
    /// Not ready yet.
    pub fn new(
        driver: Handle,
        host: HostHandle,
        plane: Arc<Plane>,
        docker: Option<Docker>,
        port: u16,
        tasks: &Tasks,
    ) -> Self {
        Self {
            reading: Reading::new(driver.clone(), plane, port),
            addresses: Addresses::new(driver.clone(), host.clone(), tasks.clone()),
            driver,
            host,
            docker,
        }
    }

    /// Start-up is complete.
    pub fn set_ready(&self) {
        self.reading.ready.store(true, Ordering::Release);
    }

    /// What is made of the report as of now.
    async fn read<T: Send + 'static>(
        &self,
        make: impl FnOnce(Report) -> T + Send + 'static,
    ) -> Result<T, Response> {
        let made = self.reading.report(make).await;
        made.map_err(|error| failure(503, &error))
    }

    /// Follows the containers of this host for as long as the tasks live.
    pub async fn watch_containers(&self, tasks: &Tasks) -> Vec<Task> {
        let containers = Containers {
            driver: self.driver.clone(),
            host: self.host.clone(),
            addresses: self.addresses.clone(),
            docker: self.docker.clone(),
            tasks: tasks.clone(),
        };
        containers.start().await
    }
}

/// Everything.
pub fn control(app: Arc<App>) -> Router {
    let routes = status_routes()
        .route("/connect", post(connect))
        .route("/forget", post(forget))
        .route("/expose/{ip}/{len}", post(expose))
        .merge(ipam::routes())
        .nest("/v1", v1::routes());
    finish(routes, app)
}

/// What a stranger on this host may read.
pub fn status_only(app: Arc<App>) -> Router {
    finish(status_routes(), app)
}

/// Metrics.
pub fn metrics_only(app: Arc<App>) -> Router {
    finish(Router::new().route("/metrics", get(show_metrics)), app)
}

fn status_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/status", get(show_summary))
        .route("/status/targets", get(show_targets))
        .route("/status/connections", get(show_connections))
        .route("/status/peers", get(show_peers))
        .route("/status/ipam", get(show_ipam))
        .route("/report", get(show_report))
        .route("/metrics", get(show_metrics))
}

fn finish(routes: Router<Arc<App>>, app: Arc<App>) -> Router {
    routes
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn(await_body))
        .with_state(app)
}

/// Reads the whole body before anything is done, so that no handler waits for a slow client.
async fn await_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let reading = axum::body::to_bytes(body, BODY_BYTES_MAX);
    match tokio::time::timeout(BODY_TIME_MAX, reading).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, bytes.into())).await,
        Ok(Err(error)) if is_too_large(&error) => failure(413, &"request body is too large"),
        Ok(Err(error)) => failure(400, &error),
        Err(_) => failure(408, &"request body did not arrive"),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<LengthLimitError>())
}

/// Adds the checks of TCP listeners to a router. `loopback` listeners serve loopback names only;
/// others, which the user asked for, any address: a web page cannot forge those without a name.
pub fn guarded(router: Router, loopback: bool) -> Router {
    router.layer(axum::middleware::from_fn(
        move |request: Request, next: Next| async move {
            if is_allowed(request.headers(), loopback) {
                next.run(request).await
            } else {
                text(
                    StatusCode::FORBIDDEN,
                    "403 request of another host or origin\n".to_owned(),
                )
            }
        },
    ))
}

fn is_allowed(headers: &HeaderMap, loopback: bool) -> bool {
    let allowed = |authority: &str| {
        let host = authority
            .rsplit_once(':')
            .map_or(authority, |(host, port)| {
                if port.bytes().all(|b| b.is_ascii_digit()) {
                    host
                } else {
                    authority
                }
            });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(ip) => !loopback || ip.to_canonical().is_loopback(),
            Err(_) => bare.eq_ignore_ascii_case("localhost"),
        }
    };
    let host_allowed = headers
        .get_all(header::HOST)
        .iter()
        .all(|value| value.to_str().is_ok_and(allowed));
    let origin_allowed = headers.get_all(header::ORIGIN).iter().all(|value| {
        let authority = value
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"));
        authority.is_some_and(|(_, authority)| allowed(authority))
    });
    host_allowed && origin_allowed
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

async fn show_summary(State(app): Shared) -> Response {
    let made = app.read(|report| (report.ready, status::summary(&report)));
    match made.await {
        Ok((true, summary)) => text(StatusCode::OK, summary),
        Ok((false, summary)) => text(StatusCode::SERVICE_UNAVAILABLE, summary),
        Err(refusal) => refusal,
    }
}

async fn show_targets(State(app): Shared) -> Response {
    show(&app, status::targets).await
}

async fn show_connections(State(app): Shared) -> Response {
    show(&app, status::connections).await
}

async fn show_peers(State(app): Shared) -> Response {
    show(&app, status::peers).await
}

async fn show_ipam(State(app): Shared) -> Response {
    let made = app.read(|report| report.ipam.is_some().then(|| status::ipam(&report)));
    match made.await {
        Ok(Some(ipam)) => text(StatusCode::OK, ipam),
        Ok(None) => not_found().await,
        Err(refusal) => refusal,
    }
}

async fn show(app: &Arc<App>, render: fn(&Report) -> String) -> Response {
    match app.read(move |report| render(&report)).await {
        Ok(made) => text(StatusCode::OK, made),
        Err(refusal) => refusal,
    }
}

async fn show_report(
    State(app): Shared,
    headers: HeaderMap,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    if headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept == "application/json")
    {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        return match app.read(|report| report.to_json()).await {
            Ok(json) => (StatusCode::OK, kind, json).into_response(),
            Err(refusal) => refusal,
        };
    }
    let formats: Vec<&String> = query
        .iter()
        .filter(|(name, _)| name == "format")
        .map(|(_, value)| value)
        .collect();
    let [format] = formats.as_slice() else {
        return failure(400, &"error: must supply one format parameter");
    };
    let template = match Template::parse(format) {
        Ok(template) => template,
        Err(error) => return failure(400, &error),
    };
    let made = app.read(move |report| template.render(&report.to_value()));
    match made.await {
        Ok(Ok(rendered)) => text(StatusCode::OK, rendered),
        Ok(Err(error)) => {
            tracing::warn!(%error, "template not executed");
            failure(500, &"error during template execution")
        }
        Err(refusal) => refusal,
    }
}

async fn show_metrics(State(app): Shared) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    match app.reading.counts(metrics::render).await {
        Ok(made) => (StatusCode::OK, [(header::CONTENT_TYPE, kind)], made).into_response(),
        Err(error) => failure(503, &error),
    }
}

async fn connect(State(app): Shared, uri: Uri, body: Bytes) -> Response {
    let form = match form(&uri, &body) {
        Ok(form) => form,
        Err(error) => return failure(400, &error),
    };
    let replace = form
        .get("replace")
        .is_some_and(|values| values.iter().any(|v| v == "true"));
    let texts = form.get("peer").cloned().unwrap_or_default();
    let (peers, errors) = resolve::resolve_all(&texts).await;
    if let Err(error) = app.driver.ask(Connect { peers, replace }).await {
        return failure(503, &error);
    }
    if errors.is_empty() {
        return text(StatusCode::OK, String::new());
    }
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    failure(400, &lines.join("\n"))
}

async fn forget(State(app): Shared, uri: Uri, body: Bytes) -> Response {
    let peers = match form(&uri, &body) {
        Ok(mut form) => form.remove("peer").unwrap_or_default(),
        Err(error) => return failure(400, &error),
    };
    match app.driver.ask(Forget { peers }).await {
        Ok(()) => text(StatusCode::OK, String::new()),
        Err(error) => failure(503, &error),
    }
}

/// The form cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("form is not understood")]
struct BadForm;

/// Fields of the query and of a form body, by name.
fn form(uri: &Uri, body: &[u8]) -> Result<BTreeMap<String, Vec<String>>, BadForm> {
    let body = std::str::from_utf8(body).map_err(|_| BadForm)?;
    // A form body has the syntax of a query.
    let body_uri: Uri = format!("/?{body}").parse().map_err(|_| BadForm)?;
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for uri in [uri, &body_uri] {
        let Query(pairs) =
            Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| BadForm)?;
        for (name, value) in pairs {
            fields.entry(name).or_default().push(value);
        }
    }
    Ok(fields)
}

async fn expose(
    State(app): Shared,
    Path((ip, len)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let text_form = format!("{ip}/{len}");
    let Ok(cidr) = text_form.parse::<Cidr>() else {
        let error = format!("unable to parse ip addr: invalid CIDR address: {text_form}");
        return failure(400, &error);
    };
    let mut skip_nat = false;
    if let Some((_, value)) = query.iter().find(|(name, _)| name == "skipNAT") {
        skip_nat = match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => {
                let error = format!(
                    "unable to parse skipNAT option: strconv.ParseBool: parsing {value:?}: invalid syntax"
                );
                return failure(400, &error);
            }
        };
    }
    match app
        .host
        .call(move |host| host.expose(cidr, !skip_nat))
        .await
    {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => failure(500, &format!("unable to expose: {error}")),
    }
}

fn text(status: StatusCode, body: String) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        body,
    )
        .into_response()
}

/// A refusal in the original's form: one line of text.
fn failure(status: u16, error: &dyn std::fmt::Display) -> Response {
    let status = StatusCode::from_u16(status).expect("status codes here are constants");
    text(status, format!("{error}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().expect("ascii")))
            .collect()
    }

    #[test]
    fn loopback_listeners_serve_loopback_hosts_only() {
        for host in [
            "127.0.0.1:6784",
            "localhost",
            "LocalHost:6784",
            "[::1]:6784",
            "127.1.2.3",
        ] {
            assert!(
                is_allowed(&headers(&[(header::HOST, host)]), true),
                "{host}"
            );
        }
        for host in [
            "evil.example:6784",
            "192.168.1.1:6784",
            "localhost.evil.example",
            "",
            "0.0.0.0",
        ] {
            assert!(
                !is_allowed(&headers(&[(header::HOST, host)]), true),
                "{host}"
            );
        }
        assert!(is_allowed(
            &headers(&[(header::HOST, "192.168.1.1:6784")]),
            false
        ));
        assert!(!is_allowed(
            &headers(&[(header::HOST, "evil.example")]),
            false
        ));
    }

    #[test]
    fn web_pages_of_other_origins_are_refused() {
        let local = (header::HOST, "127.0.0.1:6784");
        let with = |origin| is_allowed(&headers(&[local.clone(), (header::ORIGIN, origin)]), true);
        assert!(with("http://127.0.0.1:6784"));
        assert!(!with("http://evil.example"));
        assert!(!with("null"));
    }

    #[test]
    fn forms_come_from_query_and_body() {
        let uri: Uri = "/connect?replace=true".parse().expect("a path");
        let fields = form(&uri, b"peer=a%3A1&peer=b").expect("a form");
        assert_eq!(fields["replace"], ["true"]);
        assert_eq!(fields["peer"], ["a:1", "b"]);
        assert!(form(&uri, b"\xff").is_err());
    }
}
