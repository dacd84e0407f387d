//! Compares stock with the ledger and with the holds.

use chassis::error::Fault;
use mercato_chassis as chassis;
use sqlx::PgPool;
use uuid::Uuid;

/// A shelf whose numbers contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The product.
    pub product: Uuid,
    /// The warehouse.
    pub warehouse: String,
    /// Units in `stock`, reserved ones included; nothing when the row is missing.
    pub on_hand: Option<i64>,
    /// Units in `stock` that can be reserved.
    pub available: Option<i64>,
    /// Units by the ledger.
    pub ledger_level: i64,
    /// Units that can be reserved, by the ledger.
    pub ledger_available: i64,
    /// Units in holds that are active or committed.
    pub held: i64,
}

/// The shelves where the level is not the ledger's, or what is available is not the ledger's, or not the level less what is held. One
/// statement, so one moment.
pub async fn differences(pool: &PgPool) -> Result<Vec<Difference>, Fault> {
    let differences = sqlx::query_as!(
        Difference,
        r#"WITH ledger AS (
               SELECT product_id, warehouse_id, sum(level_delta)::bigint AS level, sum(available_delta)::bigint AS available
               FROM stock_ledger GROUP BY product_id, warehouse_id
           ), held AS (
               SELECT l.product_id, l.warehouse_id, sum(l.quantity)::bigint AS units
               FROM reservation_line AS l JOIN reservation AS r USING (order_id)
               WHERE r.status IN ('ACTIVE', 'COMMITTED') GROUP BY l.product_id, l.warehouse_id
           )
           SELECT product_id AS "product!", warehouse_id AS "warehouse!", s.on_hand AS "on_hand?", s.available AS "available?",
                  coalesce(l.level, 0) AS "ledger_level!", coalesce(l.available, 0) AS "ledger_available!",
                  coalesce(h.units, 0) AS "held!"
           FROM stock AS s
           FULL JOIN ledger AS l USING (product_id, warehouse_id)
           FULL JOIN held AS h USING (product_id, warehouse_id)
           WHERE s.product_id IS NULL OR s.available < 0 OR s.on_hand <> coalesce(l.level, 0) OR s.available <> coalesce(l.available, 0)
              OR s.available <> s.on_hand - coalesce(h.units, 0)
           ORDER BY product_id, warehouse_id"#
    )
    .fetch_all(pool)
    .await?;
    Ok(differences)
}
