//! What payment tells about itself.

mercato_chassis::define_metrics! {
    /// Calls of the payment provider, by step and by what was learnt: approved, declined, soft_declined, refused, transient, not_sent,
    /// unknown or mismatch; of a look-up: found, not_found or failed.
    Counter PROVIDER_CALLS = "mercato_payment_provider_calls_total" ["step", "outcome"];
    /// How long calls of the payment provider took.
    Histogram PROVIDER_DURATION = "mercato_payment_provider_duration_seconds" ["step"];
    /// Webhooks of the provider: taken, repeated, idle (about nothing that waits) or refused (a wrong signature).
    Counter WEBHOOKS = "mercato_payment_webhooks_total" ["outcome"];
    /// Open steps that had lost their work item and were given a new one.
    Counter REVIVED = "mercato_payment_revived_steps_total" [];
    /// Answers of the provider that do not fit what was asked.
    Counter MISMATCHES = "mercato_payment_mismatches_total" [];
    /// Differences between our ledger and the provider's, at the last comparison.
    Gauge DIFFERENCES = "mercato_payment_reconcile_differences" [];
    /// Cases that wait for a person.
    Gauge CASES = "mercato_payment_open_cases" [];
    /// Attempts of which nobody knows yet what the provider did.
    Gauge UNKNOWN = "mercato_payment_unknown_attempts" [];
    /// How long ago the oldest of these was sent; 0 without one.
    Gauge UNKNOWN_OLDEST = "mercato_payment_oldest_unknown_seconds" [];
    /// Steps that should have run a minute ago.
    Gauge OVERDUE = "mercato_payment_overdue_steps" [];
}
