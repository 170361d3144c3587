//! Weft's own JSON API (types and table of requests: `api::v1`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::v1::{
    Addresses, AttachRequest, Attachment, DetachRequest, ExposeRequest, Failure, HideRequest,
    Status, Target,
};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use linux::addr::Cidr;

use super::{App, Shared};
use crate::docker::{DEFAULT_ADDRESS, DockerError};
use crate::host::{Found, HostError, Place};

/// Name under which the bridge itself is listed.
const EXPOSE_ID: &str = "weave:expose";
/// Characters of a container id that are shown.
const SHORT_ID_CHARS: usize = 12;
/// Most addresses in one request.
const ADDRESSES_MAX: usize = 256;

/// A refusal: status and body.
struct Refusal(StatusCode, Failure);

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self(
            status,
            Failure {
                error: error.into(),
                hint: None,
            },
        )
    }

    fn hint(mut self, hint: &str) -> Self {
        self.1.hint = Some(hint.to_owned());
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        let status = if error.is_refusal() {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        Self::new(status, error.to_string())
    }
}

impl From<JsonRejection> for Refusal {
    fn from(error: JsonRejection) -> Self {
        Self::new(error.status(), error.body_text())
    }
}

impl From<DockerError> for Refusal {
    fn from(error: DockerError) -> Self {
        let refusal = |status| Self::new(status, error.to_string());
        match error {
            DockerError::NoSuchContainer(_) => refusal(StatusCode::BAD_REQUEST),
            DockerError::Unreachable { .. } => refusal(StatusCode::BAD_GATEWAY)
                .hint("is Docker running? use --netns or --pid for what is not a Docker container"),
            DockerError::Address(_) | DockerError::Refused(_) | DockerError::TooOld(_) => {
                refusal(StatusCode::BAD_GATEWAY)
            }
        }
    }
}

type Body<T> = Result<Json<T>, JsonRejection>;
type Answer<T> = Result<Json<T>, Refusal>;

/// Routes relative to `/v1`.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/status", get(status))
        .route("/ps", get(ps))
        .route("/attach", post(attach))
        .route("/detach", post(detach))
        .route("/expose", post(expose))
        .route("/hide", post(hide))
}

async fn status(State(app): Shared) -> Response {
    let report = match app.report().await {
        Ok(report) => report,
        Err(refusal) => return refusal,
    };
    let router = report.router;
    Json(Status {
        ready: app.ready.load(Ordering::Acquire),
        version: report.version,
        pid: std::process::id(),
        name: router.name,
        nickname: router.nick_name,
        encryption: router.encryption,
        discovery: router.peer_discovery,
        targets: router.targets,
        connections: router.connections,
        peers: router.peers,
        trusted_subnets: router.trusted_subnets,
    })
    .into_response()
}

async fn attach(State(app): Shared, body: Body<AttachRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let cidrs = claimed(&request.addresses)?;
    let place = place(&app, &request.target).await?;
    let wanted = cidrs.clone();
    let warnings = app
        .host
        .call(move |host| host.attach(&place, &wanted, request.multicast))
        .await?;
    Ok(Json(Addresses {
        addresses: texts(&cidrs),
        warnings,
    }))
}

async fn detach(State(app): Shared, body: Body<DetachRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let cidrs = given(&request.addresses)?;
    let place = place(&app, &request.target).await?;
    let removed = app
        .host
        .call(move |host| host.detach(&place, &cidrs))
        .await?;
    Ok(Json(Addresses {
        addresses: texts(&removed),
        warnings: Vec::new(),
    }))
}

async fn expose(State(app): Shared, body: Body<ExposeRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let cidrs = claimed(&request.addresses)?;
    let wanted = cidrs.clone();
    app.host
        .call(move |host| {
            wanted
                .iter()
                .try_for_each(|cidr| host.expose(*cidr, request.masquerade))
        })
        .await?;
    Ok(Json(Addresses {
        addresses: texts(&cidrs),
        warnings: Vec::new(),
    }))
}

async fn hide(State(app): Shared, body: Body<HideRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let cidrs = given(&request.addresses)?;
    let hidden = app
        .host
        .call(move |host| {
            let chosen = if cidrs.is_empty() {
                host.exposed()
            } else {
                cidrs
            };
            chosen.iter().try_for_each(|cidr| host.hide(*cidr))?;
            Ok(chosen)
        })
        .await?;
    Ok(Json(Addresses {
        addresses: texts(&hidden),
        warnings: Vec::new(),
    }))
}

/// All attachments, or those asked for: `container`, `netns` and `pid` may be repeated; one that is
/// not attached gives an entry without hardware address.
async fn ps(
    State(app): Shared,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<Vec<Attachment>> {
    let mut wanted = Vec::new();
    let mut list_expose = query.is_empty();
    for (kind, value) in &query {
        if value == EXPOSE_ID {
            list_expose = true;
            continue;
        }
        let target = match kind.as_str() {
            "container" => Target::Container(value.clone()),
            "netns" => Target::Netns(value.clone()),
            "pid" => Target::Pid(value.parse().map_err(|_| {
                Refusal::new(
                    StatusCode::BAD_REQUEST,
                    format!("invalid process id {value:?}"),
                )
            })?),
            _ => {
                let error = format!("unknown parameter {kind:?}");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, error));
            }
        };
        wanted.push((value.clone(), place(&app, &target).await.ok()));
    }
    let list_all = query.is_empty();
    let listed = app
        .host
        .call(move |host| {
            let mut listed = Vec::new();
            if list_expose {
                listed.push(Attachment {
                    id: EXPOSE_ID.to_owned(),
                    name: None,
                    mac: host.bridge_mac()?.unwrap_or_default(),
                    addresses: texts(&host.exposed()),
                });
            }
            let found = host.attachments()?;
            if list_all {
                listed.extend(found.iter().map(|f| entry(f, &f.label.id)));
            }
            for (text, place) in wanted {
                let identity = place.as_ref().and_then(|place| host.identity(place));
                listed.push(match found.iter().find(|f| Some(f.netns) == identity) {
                    Some(found) => entry(found, &text),
                    None => Attachment {
                        id: text,
                        name: None,
                        mac: String::new(),
                        addresses: Vec::new(),
                    },
                });
            }
            Ok(listed)
        })
        .await?;
    Ok(Json(listed))
}

fn entry(found: &Found, id: &str) -> Attachment {
    Attachment {
        id: if found.label.name.is_some() {
            id.chars().take(SHORT_ID_CHARS).collect()
        } else {
            id.to_owned()
        },
        name: found.label.name.clone(),
        mac: found.mac.clone(),
        addresses: texts(&found.addresses),
    }
}

/// Finds the namespace of a target; asks Docker for containers.
async fn place(app: &App, target: &Target) -> Result<Place, Refusal> {
    let text = match target {
        Target::Netns(text) => return Ok(Place::Netns(text.clone())),
        Target::Pid(pid) => {
            return Ok(Place::Process {
                pid: *pid,
                container: None,
            });
        }
        Target::Container(text) => text,
    };
    let Some(docker) = &app.docker else {
        let error = format!("container {text}: Docker is not used by this daemon");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error).hint(&format!(
            "launch with --docker-api={DEFAULT_ADDRESS}, or use --netns or --pid"
        )));
    };
    let container = docker.inspect(text).await?;
    let Some(pid) = container.pid else {
        let error = format!("container {text} not running");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error));
    };
    Ok(Place::Process {
        pid,
        container: Some((container.id, container.name)),
    })
}

/// Addresses of which at least one is needed.
fn claimed(texts: &[String]) -> Result<Vec<Cidr>, Refusal> {
    if texts.is_empty() {
        return Err(no_allocation());
    }
    given(texts)
}

fn given(texts: &[String]) -> Result<Vec<Cidr>, Refusal> {
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error);
    if texts.len() > ADDRESSES_MAX {
        return Err(bad(format!("more than {ADDRESSES_MAX} addresses")));
    }
    let mut cidrs = Vec::with_capacity(texts.len());
    for text in texts {
        if text.starts_with("net:") {
            return Err(no_allocation());
        }
        let bare = text.strip_prefix("ip:").unwrap_or(text);
        let cidr: Cidr = bare
            .parse()
            .map_err(|_| bad(format!("invalid CIDR address: {text}")))?;
        if !cidr.addr().is_ipv4() {
            return Err(bad(format!("address {text} is not an IPv4 address")));
        }
        cidrs.push(cidr);
    }
    Ok(cidrs)
}

fn no_allocation() -> Refusal {
    let error = "address allocation is not enabled: give an address such as 10.32.1.5/12";
    Refusal::new(StatusCode::BAD_REQUEST, error)
}

fn texts(cidrs: &[Cidr]) -> Vec<String> {
    cidrs.iter().map(ToString::to_string).collect()
}
