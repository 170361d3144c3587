//! Weft's own JSON API (types and table of requests: `api::v1`).

use std::sync::Arc;

use api::v1::{
    Addresses, AttachRequest, Attachment, ClaimRequest, DetachRequest, ExposeRequest, Failure,
    HideRequest, Status, Target,
};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipam::Patience;

use super::{App, Shared};
use crate::addresses::{AddressError, Done, Wanted};
use crate::docker::{DEFAULT_ADDRESS, DockerError};
use crate::host::{EXPOSE_IDENT, Found, HostError, Place};

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

impl From<AddressError> for Refusal {
    fn from(error: AddressError) -> Self {
        let text = error.to_string();
        match error {
            AddressError::Host(error) => error.into(),
            AddressError::Refused(refusal) if !refusal.is_passing() => {
                Self::new(StatusCode::BAD_REQUEST, text)
            }
            AddressError::NotEnabled => Self::new(StatusCode::BAD_REQUEST, text)
                .hint("launch with --ipalloc-range, or give an address such as 10.32.1.5/12"),
            AddressError::Refused(_) | AddressError::GivenBack(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
                    .hint("use --wait to wait until it can be done")
            }
            AddressError::Cancelled | AddressError::Stopped(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
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
        .route("/claim", post(claim))
        .route("/expose", post(expose))
        .route("/hide", post(hide))
}

async fn status(State(app): Shared) -> Response {
    let made = app.read(|report| {
        let router = report.router;
        Status {
            ipam: report.ipam,
            ready: report.ready,
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
        }
    });
    match made.await {
        Ok(status) => Json(status).into_response(),
        Err(refusal) => refusal,
    }
}

async fn attach(State(app): Shared, body: Body<AttachRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let wanted = some_wanted(&request.addresses)?;
    let place = place(&app, &request.target).await?;
    let patience = patience(request.wait);
    let attached = app
        .addresses
        .attach(place, wanted, request.multicast, patience)
        .await?;
    Ok(answer(&attached))
}

async fn detach(State(app): Shared, body: Body<DetachRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let wanted = wanted(&request.addresses)?;
    let place = place(&app, &request.target).await?;
    Ok(answer(&app.addresses.detach(place, wanted).await?))
}

async fn claim(State(app): Shared, body: Body<ClaimRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let wanted = wanted(&request.addresses)?;
    let is_exact = |wanted: &Wanted| matches!(wanted, Wanted::Exactly(_));
    if wanted.is_empty() || !wanted.iter().all(is_exact) {
        let error = "only addresses such as 10.32.1.5/12 can be claimed";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error));
    }
    if app.addresses.holdings().await?.is_none() {
        return Err(AddressError::NotEnabled.into());
    }
    let place = place(&app, &request.target).await?;
    let patience = patience(request.wait);
    Ok(answer(&app.addresses.claim(place, wanted, patience).await?))
}

async fn expose(State(app): Shared, body: Body<ExposeRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let wanted = some_wanted(&request.addresses)?;
    let patience = patience(request.wait);
    let exposed = app
        .addresses
        .expose(wanted, request.masquerade, patience)
        .await?;
    Ok(answer(&exposed))
}

async fn hide(State(app): Shared, body: Body<HideRequest>) -> Answer<Addresses> {
    let Json(request) = body?;
    let wanted = wanted(&request.addresses)?;
    Ok(answer(&app.addresses.hide(wanted).await?))
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
        if value == EXPOSE_IDENT {
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
                    id: EXPOSE_IDENT.to_owned(),
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

/// What is asked for; any address when nothing is said.
fn some_wanted(texts: &[String]) -> Result<Vec<Wanted>, Refusal> {
    let mut wanted = wanted(texts)?;
    if wanted.is_empty() {
        wanted.push(Wanted::In(None));
    }
    Ok(wanted)
}

fn wanted(texts: &[String]) -> Result<Vec<Wanted>, Refusal> {
    if texts.len() > ADDRESSES_MAX {
        let error = format!("more than {ADDRESSES_MAX} addresses");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error));
    }
    let parse = |text: &String| {
        Wanted::parse(text)
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
    };
    texts.iter().map(parse).collect()
}

fn patience(wait: bool) -> Patience {
    if wait {
        Patience::Forever
    } else {
        Patience::Short
    }
}

fn answer(done: &Done) -> Json<Addresses> {
    Json(Addresses {
        addresses: done.cidrs.iter().map(ToString::to_string).collect(),
        warnings: done.warnings.clone(),
    })
}

fn texts(cidrs: &[linux::addr::Cidr]) -> Vec<String> {
    cidrs.iter().map(ToString::to_string).collect()
}
