//! `OrderOperatorService`.

use super::Orders;
use crate::app::check::waiting_step;
use crate::convert::{order_from_proto, order_to_proto, timestamp, uuid};
use crate::domain::Order;
use crate::error::Error;
use crate::store::{self, Stuck};
use mercato_chassis::call::{Call, Scope};
use mercato_chassis::error::{Fault, status};
use mercato_chassis::work;
use mercato_contracts::mercato::ordering::v1::{self as proto, order_operator_service_server::OrderOperatorService};
use std::time::Duration;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl OrderOperatorService for Orders {
    async fn list_stuck_orders(
        &self,
        request: Request<proto::ListStuckOrdersRequest>,
    ) -> Result<Response<proto::ListStuckOrdersResponse>, Status> {
        let asked = request.into_inner().page_size;
        let limit = if asked == 0 { 50 } else { i64::from(asked).clamp(1, 200) };
        let stuck = store::stuck(self.app.db.read(), limit).await.map_err(status)?;
        let orders = stuck.into_iter().map(explain).collect::<Result<_, _>>().map_err(status)?;
        Ok(Response::new(proto::ListStuckOrdersResponse { orders }))
    }

    async fn retry_order(&self, request: Request<proto::RetryOrderRequest>) -> Result<Response<proto::Order>, Status> {
        let call = Call::of(&request)?;
        let id = uuid(&request.into_inner().order_id).map_err(status)?;
        let order = self
            .app
            .db
            .uow(move |tx| {
                Box::pin(async move {
                    let order = store::load_for_update(tx, id, Scope::All).await?.ok_or(Error::NotFound(id))?;
                    work::enqueue(tx, "check", id, Duration::ZERO).await?;
                    if let Some(step) = waiting_step(&order) {
                        work::enqueue(tx, step, id, Duration::ZERO).await?;
                    }
                    Ok::<_, Error>(order)
                })
            })
            .await
            .map_err(status)?;
        tracing::info!(order_id = %id, by = ?call.subject().map(|s| s.id).ok(), "an operator retried an order");
        self.app.wake.now();
        Ok(Response::new(order_to_proto(&order)))
    }
}

fn explain(stuck: Stuck) -> Result<proto::StuckOrder, Fault> {
    let order = order_from_proto(&stuck.order, stuck.stock_held, String::new())?;
    Ok(proto::StuckOrder {
        waiting_for: waiting_for(&order).to_owned(),
        order: Some(stuck.order),
        attempts: stuck.checks,
        due_at: Some(timestamp(stuck.check_at)),
        last_error: stuck.last_error,
    })
}

fn waiting_for(order: &Order) -> &'static str {
    match waiting_step(order) {
        Some(step) => step,
        None if order.open() => "payment",
        None => "operator",
    }
}
