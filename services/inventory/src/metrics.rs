//! What inventory tells about itself.

mercato_chassis::define_metrics! {
    /// Commands to holds: reserve, commit, release or expire; done, short (of stock), not_found, ended or conflict.
    Counter COMMANDS = "mercato_inventory_reservations_total" ["command", "outcome"];
    /// Holds that are neither committed nor ended; every process tells the same.
    Gauge HOLDS = "mercato_inventory_open_holds" [];
    /// How far the oldest open hold is behind the end of its time; 0 when none is.
    Gauge OVERDUE = "mercato_inventory_overdue_hold_seconds" [];
    /// Shelves whose stock is not what the ledger and the holds say, at the last comparison.
    Gauge DIFFERENCES = "mercato_inventory_ledger_differences" [];
}
