//! What customer tells about itself.

mercato_chassis::define_metrics! {
    /// Sign-ins: ok, refused (wrong name or password) or throttled.
    Counter LOGINS = "mercato_customer_logins_total" ["outcome"];
    /// Refreshes of sessions: ok, refused, or reused when an old token came back and the session was ended.
    Counter REFRESHES = "mercato_customer_refreshes_total" ["outcome"];
}
