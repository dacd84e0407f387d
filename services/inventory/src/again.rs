//! What inventory says again when the broker has lost it: the level of each product. Nobody waits for the other events.

use crate::events::{self, TOPIC};
use chassis::{
    error::Fault,
    outbox::Event,
    role::{Again, Retold},
};
use futures_util::future::BoxFuture;
use mercato_chassis as chassis;
use sqlx::PgConnection;
use uuid::Uuid;

/// The products of topic `inventory`.
pub const LEVELS: Again = Again {
    topic: TOPIC,
    aggregates: "select product_id, version from product_version where product_id > $1 order by product_id limit $2",
    events: Retold::Now(levels),
};

fn levels<'t>(tx: &'t mut PgConnection, products: &'t [(Uuid, i64)]) -> BoxFuture<'t, Result<Vec<Event>, Fault>> {
    Box::pin(async move {
        let ids: Vec<Uuid> = products.iter().map(|(product, _)| *product).collect();
        let select = "select v.product_id, coalesce(sum(s.available), 0)::bigint, v.version
                      from product_version v left join stock s using (product_id) where v.product_id = any($1) group by 1, 3";
        let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(select).bind(ids).fetch_all(tx).await?;
        Ok(rows.into_iter().map(|(product, available, version)| events::updated(product, available, version)).collect())
    })
}
