//! Where every role gets the keys that tokens are verified with: from customer, as a peer.

use async_trait::async_trait;
use mercato_chassis::error::Fault;
use mercato_chassis::grpc::client::{Peer, Peers, peer_fault};
use mercato_chassis::token::KeySource;
use mercato_contracts::mercato::customer::v1::{GetJsonWebKeySetRequest, key_service_client::KeyServiceClient};
use std::sync::Arc;

struct Customer(Peer);

/// The keys as customer publishes them.
pub fn from_customer(peers: &Peers) -> Arc<dyn KeySource> {
    Arc::new(Customer(peers.get("customer")))
}

#[async_trait]
impl KeySource for Customer {
    async fn json_web_keys(&self) -> Result<String, Fault> {
        let answer = KeyServiceClient::new(self.0.clone()).get_json_web_key_set(GetJsonWebKeySetRequest {}).await;
        Ok(answer.map_err(|status| peer_fault(status, "customer"))?.into_inner().json)
    }
}
