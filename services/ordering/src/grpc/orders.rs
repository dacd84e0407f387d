//! `OrderService`.

use super::{Orders, stream};
use crate::app::advance::{Advanced, advance};
use crate::app::place;
use crate::convert::{order_to_proto, status_name, timestamp, uuid, version};
use crate::domain::Command;
use crate::error::Error;
use crate::events;
use crate::store::{self, After, StoredEvent};
use mercato_chassis::call::{Call, Caller, Scope};
use mercato_chassis::error::{Fault, status};
use mercato_chassis::idempotency;
use mercato_chassis::plant;
use mercato_contracts::mercato::ordering::v1::{self as proto, order_service_server::OrderService};
use mercato_contracts::mercato::r#type::v1::Attribute;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

const PAGE: i64 = 20;
const PAGE_MOST: i64 = 100;

#[tonic::async_trait]
impl OrderService for Orders {
    async fn place_order(&self, request: Request<proto::PlaceOrderRequest>) -> Result<Response<proto::Order>, Status> {
        let call = Call::of(&request)?;
        let order = request.into_inner();
        let key = call.idempotency(&order).map_err(status)?;
        let customer = call.subject().map_err(status)?.id;
        Ok(place::place(&self.app, key, customer, order).await.map_err(status)?.into_response())
    }

    async fn get_order(&self, request: Request<proto::GetOrderRequest>) -> Result<Response<proto::Order>, Status> {
        let scope = Call::of(&request)?.scope().map_err(status)?;
        let scope = if plant::bug("bug-14") { Scope::All } else { scope };
        let id = uuid(&request.into_inner().order_id).map_err(status)?;
        Ok(Response::new(self.read(id, scope).await.map_err(status)?))
    }

    async fn list_orders(&self, request: Request<proto::ListOrdersRequest>) -> Result<Response<proto::ListOrdersResponse>, Status> {
        let call = Call::of(&request)?;
        Ok(Response::new(self.list(&call, &request.into_inner()).await.map_err(status)?))
    }

    async fn cancel_order(&self, request: Request<proto::CancelOrderRequest>) -> Result<Response<proto::Order>, Status> {
        let call = Call::of(&request)?;
        Ok(self.cancel(&call, request.into_inner()).await.map_err(status)?.into_response())
    }

    async fn get_order_timeline(&self, request: Request<proto::GetOrderTimelineRequest>) -> Result<Response<proto::OrderTimeline>, Status> {
        let scope = Call::of(&request)?.scope().map_err(status)?;
        let order_id = request.into_inner().order_id;
        let id = uuid(&order_id).map_err(status)?;
        let history = store::history(self.app.db.read(), id, scope).await.map_err(status)?.ok_or_else(|| status(Error::NotFound(id)))?;
        let entries = history.iter().map(timeline_entry).collect::<Result<_, _>>().map_err(status)?;
        Ok(Response::new(proto::OrderTimeline { order_id, entries }))
    }

    type WatchOrderStream = stream::Watch;

    async fn watch_order(&self, request: Request<proto::WatchOrderRequest>) -> Result<Response<Self::WatchOrderStream>, Status> {
        let call = Call::of(&request)?;
        let scope = call.scope().map_err(status)?;
        let request = request.into_inner();
        let id = uuid(&request.order_id).map_err(status)?;
        let current = self.read(id, scope).await.map_err(status)?;
        Ok(Response::new(stream::watch(self, id, current, request.after_version, call.deadline)))
    }
}

impl Orders {
    async fn read(&self, id: Uuid, scope: Scope) -> Result<proto::Order, Error> {
        store::read(self.app.db.read(), id, scope).await?.ok_or(Error::NotFound(id))
    }

    async fn list(&self, call: &Call, request: &proto::ListOrdersRequest) -> Result<proto::ListOrdersResponse, Error> {
        let scope = list_scope(call, &request.user_id)?;
        let owner = scope.owner().map(|id| id.to_string()).unwrap_or_default();
        let bind = ["orders", owner.as_str(), &request.status.to_string()];
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                Some(self.page_tokens.decode(&bind, token).ok().and_then(|cursor| cursor_from_bytes(&cursor)).ok_or(Error::PageToken)?)
            }
        };
        let size = page_size(request.page_size);
        let wanted = (request.status != 0).then(|| i16::try_from(request.status)).transpose().map_err(|_| Error::PageToken)?;
        let mut orders = store::list(self.app.db.read(), scope, wanted, after, size + 1).await?;
        let mut next_page_token = String::new();
        if orders.len() > usize::try_from(size).unwrap_or(usize::MAX) {
            orders.pop();
            if let Some(last) = orders.last() {
                next_page_token = self.page_tokens.encode(&bind, &cursor_to_bytes(last)?);
            }
        }
        Ok(proto::ListOrdersResponse { orders, next_page_token })
    }

    async fn cancel(&self, call: &Call, request: proto::CancelOrderRequest) -> Result<idempotency::Answer<proto::Order>, Error> {
        let key = call.idempotency(&request)?;
        let (id, scope) = (uuid(&request.order_id)?, call.scope()?);
        let reason = match scope {
            Scope::Owner(_) => "CANCELLED_BY_CUSTOMER",
            Scope::All => "CANCELLED_BY_SUPPORT",
        };
        let answer = idempotency::once(&self.app.db, &key, move |tx| {
            Box::pin(async move {
                match advance(tx, id, scope, Command::Cancel { reason: reason.to_owned() }).await? {
                    Advanced::Missing => Err(Error::NotFound(id)),
                    Advanced::Refused(order) => Err(Error::NotCancellable { id, status: status_name(order.status) }),
                    Advanced::Now(order) => Ok(order_to_proto(&order)),
                }
            })
        })
        .await?;
        self.app.wake.now();
        self.app.hub.touched(&[id]);
        Ok(answer)
    }
}

/// Customers see their own; support sees whose it names, or its own.
fn list_scope(call: &Call, wanted: &str) -> Result<Scope, Error> {
    let own = match &call.caller {
        Caller::Subject(subject) => subject.id,
        _ => return Ok(call.scope()?),
    };
    if wanted.is_empty() {
        return Ok(Scope::Owner(own));
    }
    let wanted = uuid(wanted)?;
    match call.scope()? {
        Scope::All => Ok(Scope::Owner(wanted)),
        Scope::Owner(own) if own == wanted => Ok(Scope::Owner(own)),
        Scope::Owner(_) => Err(Error::NotYours),
    }
}

fn page_size(asked: i32) -> i64 {
    if asked == 0 { PAGE } else { i64::from(asked).clamp(1, PAGE_MOST) }
}

fn cursor_to_bytes(last: &proto::Order) -> Result<Vec<u8>, Fault> {
    let at = last.created_at.as_ref().ok_or_else(|| Fault::Internal("a stored time is missing".into()))?;
    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    let mut bytes = nanos.to_be_bytes().to_vec();
    bytes.extend_from_slice(uuid(&last.id)?.as_bytes());
    Ok(bytes)
}

fn cursor_from_bytes(bytes: &[u8]) -> Option<After> {
    let (at, id) = bytes.split_at_checked(16)?;
    let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from_be_bytes(at.try_into().ok()?)).ok()?;
    Some(After { created_at, id: Uuid::from_slice(id).ok()? })
}

fn timeline_entry(stored: &StoredEvent) -> Result<proto::TimelineEntry, Fault> {
    let (description, details) = events::describe(&events::decode(&stored.kind, &stored.payload)?);
    Ok(proto::TimelineEntry {
        version: version(stored.version),
        r#type: stored.kind.clone(),
        description: description.to_owned(),
        at: Some(timestamp(stored.at)),
        attributes: details
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| Attribute { name: name.to_owned(), value })
            .collect(),
    })
}
