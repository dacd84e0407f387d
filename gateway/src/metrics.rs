//! What the gateway tells about itself.

mercato_chassis::define_metrics! {
    /// Requests weighed against a limit, by class of the limit: ok, or over when they were turned away.
    Counter LIMITS = "mercato_gateway_rate_limit_total" ["class", "verdict"];
}
