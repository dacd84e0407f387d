//! What ordering tells about itself, the business figures among it.

mercato_chassis::define_metrics! {
    /// Answers to orders that were placed; `replayed` says whether the key was known already.
    Counter PLACED = "mercato_ordering_placed_total" ["replayed"];
    /// What happened to orders, by the name of the event: order.created, order.confirmed, order.payment_processed, order.cancelled and so on.
    Counter EVENTS = "mercato_ordering_order_events_total" ["event"];
    /// Money captured, in minor units of the currency (cents).
    Counter REVENUE = "mercato_ordering_revenue_minor_units_total" ["currency"];
    /// Money given back after it was captured, in minor units of the currency (cents).
    Counter REFUNDED = "mercato_ordering_refunded_minor_units_total" ["currency"];
    /// Orders with something left to do, by status and by the step they wait for: authorize (which may be tried again for 14 minutes),
    /// commit, capture or compensate; every process tells the same.
    Gauge OPEN = "mercato_ordering_open_orders" ["status", "step"];
    /// How long the one of them that has stood still the longest has not got on; 0 without one.
    Gauge OLDEST = "mercato_ordering_oldest_open_seconds" ["status", "step"];
    /// Orders whose timer ran out and that were looked at.
    Counter TIMERS = "mercato_ordering_timers_total" [];
    /// Orders that somebody watches through this process.
    Gauge WATCHED = "mercato_ordering_watched_orders" [];
}
