//! The original's routes of address allocation (spec/ipam.md 11).
//!
//! A request that cannot be served is answered 503 with the reason after five seconds, and waits
//! for ever with `wait=true`; the original always does. A caller that hangs up takes its request
//! back: hyper then drops the handler, and with it the request to the node.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use ipam::address::{Cidr, Subnet};
use ipam::{
    Allocate, Ask, Claim, Delete, Free, Holding, Leave, List, Lookup, Patience, Prime, TakeOver,
};
use serde::Serialize;

use super::{App, BadForm, Shared, failure, form, not_found, text};
use crate::addresses::AddressError;
use crate::docker::DockerError;

/// Routes relative to the root.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/ipinfo/defaultsubnet", get(default_subnet))
        .route("/ipinfo/tracker", get(tracker))
        .route("/ring", get(prime))
        .route("/ip", get(list))
        .route("/ip/{id}", post(allocate).get(look_up).delete(delete_all))
        .route("/ip/{id}/{ip}", delete(free))
        .route(
            "/ip/{id}/{ip}/{len}",
            post(allocate_in).get(look_up_in).put(claim),
        )
        .route("/peer", delete(leave))
        .route("/peer/{name}", delete(take_over))
}

/// Options of a request, of the query or of a form.
#[derive(Debug, Clone, Copy)]
struct Options {
    check_alive: bool,
    no_error_on_unknown: bool,
    patience: Patience,
}

impl Options {
    fn parse(uri: &Uri, body: &[u8]) -> Result<Self, BadForm> {
        let form = form(uri, body)?;
        let is_set = |name: &str| {
            let values = form.get(name);
            values.is_some_and(|values| values.iter().any(|value| value == "true"))
        };
        Ok(Self {
            check_alive: is_set("check-alive"),
            no_error_on_unknown: is_set("noErrorOnUnknown"),
            patience: if is_set("wait") {
                Patience::Forever
            } else {
                Patience::Short
            },
        })
    }
}

impl App {
    /// Asks the allocator; what is no success is a response already.
    async fn ask<Q: Ask>(&self, request: Q) -> Result<Q::Answer, Response> {
        self.addresses
            .ask(request)
            .await
            .map_err(|error| refusal(&error, ""))
    }

    /// Refuses what was not understood: as unknown where no addresses are allocated.
    async fn misunderstood(&self, error: String) -> Response {
        match self.addresses.holdings().await {
            Ok(None) => not_found().await,
            Ok(Some(_)) | Err(_) => failure(400, &error),
        }
    }

    async fn subnet(&self, (ip, len): (&str, &str)) -> Result<Subnet, Response> {
        match format!("{ip}/{len}").parse() {
            Ok(subnet) => Ok(subnet),
            Err(error) => Err(self.misunderstood(error.to_string()).await),
        }
    }

    /// Whether Docker says that a container does not run.
    async fn has_ended(&self, container: &str) -> bool {
        let Some(docker) = &self.docker else {
            return false;
        };
        match docker.inspect(container).await {
            Ok(container) => container.pid.is_none(),
            Err(DockerError::NoSuchContainer(_)) => true,
            Err(error) => {
                tracing::debug!(container, %error, "container not looked at");
                false
            }
        }
    }
}

/// The answer to a request that was not served. `action` precedes the reason of a refusal.
fn refusal(error: &AddressError, action: &str) -> Response {
    match error {
        AddressError::Refused(refusal) if !refusal.is_passing() => {
            failure(400, &format!("{action}{error}"))
        }
        AddressError::Cancelled => cancelled(),
        AddressError::NotEnabled => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
        AddressError::Refused(_)
        | AddressError::GivenBack(_)
        | AddressError::Host(_)
        | AddressError::Stopped(_) => failure(503, error),
    }
}

fn cancelled() -> Response {
    text(StatusCode::OK, "cancelled".to_owned())
}

fn flatten(result: Result<Response, Response>) -> Response {
    result.unwrap_or_else(|refusal| refusal)
}

async fn default_subnet(State(app): Shared) -> Response {
    match app.driver.counts().await {
        Ok(counts) => match &counts.ipam {
            Some(ipam) => text(StatusCode::OK, ipam.default_subnet.to_string()),
            None => not_found().await,
        },
        Err(error) => failure(503, &error),
    }
}

/// Nothing tracks ranges yet.
async fn tracker(State(app): Shared) -> Response {
    match app.addresses.holdings().await {
        Ok(Some(_)) => text(StatusCode::OK, "\n".to_owned()),
        Ok(None) => not_found().await,
        Err(error) => refusal(&error, ""),
    }
}

async fn prime(State(app): Shared, uri: Uri) -> Response {
    let prime = async {
        let options = Options::parse(&uri, b"").map_err(|error| failure(400, &error))?;
        app.ask(Prime(options.patience)).await?;
        Ok(text(StatusCode::OK, String::new()))
    };
    flatten(prime.await)
}

async fn allocate(
    State(app): Shared,
    Path(ident): Path<String>,
    uri: Uri,
    body: Bytes,
) -> Response {
    flatten(allocate_for(&app, ident, None, (&uri, &body)).await)
}

async fn allocate_in(
    State(app): Shared,
    Path((ident, ip, len)): Path<(String, String, String)>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let allocate = async {
        let subnet = app.subnet((&ip, &len)).await?;
        allocate_for(&app, ident, Some(subnet), (&uri, &body)).await
    };
    flatten(allocate.await)
}

async fn allocate_for(
    app: &App,
    ident: String,
    subnet: Option<Subnet>,
    (uri, body): (&Uri, &[u8]),
) -> Result<Response, Response> {
    let options = Options::parse(uri, body).map_err(|error| failure(400, &error))?;
    if options.check_alive && app.has_ended(&ident).await {
        return Ok(cancelled());
    }
    let request = Allocate {
        ident,
        subnet,
        is_container: options.check_alive,
        patience: options.patience,
    };
    let cidr = app.ask(request).await?;
    Ok(text(StatusCode::OK, cidr.to_string()))
}

async fn claim(
    State(app): Shared,
    Path((ident, ip, len)): Path<(String, String, String)>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let claim = async {
        let cidr: Cidr = match format!("{ip}/{len}").parse() {
            Ok(cidr) => cidr,
            Err(error) => return Err(app.misunderstood(error.to_string()).await),
        };
        let options = Options::parse(&uri, &body).map_err(|error| failure(400, &error))?;
        if options.check_alive && app.has_ended(&ident).await {
            return Ok(cancelled());
        }
        let request = Claim {
            ident,
            cidr,
            is_container: options.check_alive,
            no_error_on_unknown: options.no_error_on_unknown,
            patience: options.patience,
        };
        match app.addresses.ask(request).await {
            Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
            Err(error) => Err(refusal(&error, "Unable to claim: ")),
        }
    };
    flatten(claim.await)
}

async fn look_up(State(app): Shared, Path(ident): Path<String>) -> Response {
    flatten(look_up_for(&app, ident, None).await)
}

async fn look_up_in(
    State(app): Shared,
    Path((ident, ip, len)): Path<(String, String, String)>,
) -> Response {
    let look_up = async {
        let subnet = app.subnet((&ip, &len)).await?;
        look_up_for(&app, ident, Some(subnet)).await
    };
    flatten(look_up.await)
}

async fn look_up_for(
    app: &App,
    ident: String,
    subnet: Option<Subnet>,
) -> Result<Response, Response> {
    let cidrs = app.ask(Lookup { ident, subnet }).await?;
    let texts: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
    Ok(text(StatusCode::OK, texts.join(" ")))
}

/// The original's list of who holds what.
#[derive(Serialize)]
struct Owned {
    owned: Option<Vec<Owner>>,
}

#[derive(Serialize)]
struct Owner {
    containerid: String,
    addrs: Vec<String>,
}

impl From<Holding> for Owner {
    fn from(holding: Holding) -> Self {
        Self {
            containerid: holding.ident,
            addrs: holding.cidrs.iter().map(ToString::to_string).collect(),
        }
    }
}

async fn list(State(app): Shared) -> Response {
    let list = async {
        let holdings = app.ask(List).await?;
        let owners: Vec<Owner> = holdings.into_iter().map(Owner::from).collect();
        let owned = Owned {
            owned: (!owners.is_empty()).then_some(owners),
        };
        let json = serde_json::to_string(&owned).expect("texts are always serializable");
        Ok(text(StatusCode::OK, json + "\n"))
    };
    flatten(list.await)
}

async fn free(State(app): Shared, Path((ident, ip)): Path<(String, String)>) -> Response {
    let free = async {
        let Ok(address) = ip.parse::<Ipv4Addr>() else {
            let error = format!("invalid IP Address: {ip}");
            return Err(app.misunderstood(error).await);
        };
        let request = Free { ident, address };
        match app.addresses.ask(request).await {
            Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
            Err(error) => Err(refusal(&error, "Unable to free: ")),
        }
    };
    flatten(free.await)
}

async fn delete_all(State(app): Shared, Path(ident): Path<String>) -> Response {
    let delete = async {
        app.ask(Delete { ident }).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    flatten(delete.await)
}

/// Hands everything over; never fails, so that a reset goes on.
async fn leave(State(app): Shared) -> Response {
    match app.addresses.ask(Leave).await {
        Ok(()) | Err(AddressError::NotEnabled) => {}
        Err(error) => tracing::warn!(%error, "addresses not handed over"),
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn take_over(State(app): Shared, Path(peer): Path<String>) -> Response {
    let name = peer.clone();
    match app.addresses.ask(TakeOver { peer }).await {
        Ok(count) => text(
            StatusCode::OK,
            format!("{count} IPs taken over from {name}\n"),
        ),
        Err(AddressError::NotEnabled) => text(StatusCode::OK, String::new()),
        Err(error) => refusal(&error, ""),
    }
}
