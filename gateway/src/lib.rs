//! What the edge asks: whether a caller may still write ([`limits`]), which keys tokens are verified with, the OpenAPI document and a page
//! to read it ([`pages`]). And what Envoy is told: its whole configuration ([`edge`]). Loses nothing that matters when it dies.

#![forbid(unsafe_code)]

pub mod edge;
pub mod limits;
pub mod metrics;
pub mod pages;

use async_trait::async_trait;
use limits::{Limiter, Rules};
use mercato_chassis::config::Source;
use mercato_chassis::error::Fault;
use mercato_chassis::role::{Context, Mounted, Prepared, Role};
use mercato_contracts::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer;
use std::net::SocketAddr;

/// The role `gateway`.
pub struct Gateway;

impl Role for Gateway {
    fn name(&self) -> &'static str {
        "gateway"
    }

    fn configure(&self, source: &mut Source) -> Box<dyn Prepared> {
        let http = source.address("MERCATO_GATEWAY_HTTP_ADDR", "127.0.0.1:8081", "where keys, OpenAPI document and its page are served");
        Box::new(Ready { http, rules: Rules::read(source) })
    }
}

struct Ready {
    http: SocketAddr,
    rules: Rules,
}

#[async_trait]
impl Prepared for Ready {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        let mut mounted = Mounted::default();
        mounted.add(RateLimitServiceServer::new(Limiter::new(self.rules, ctx.redis.clone())));
        mounted.http = Some((self.http, pages::router(ctx.peers.get("customer"))));
        Ok(mounted)
    }
}
