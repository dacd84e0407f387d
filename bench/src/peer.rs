//! Calls straight at a role's own gRPC port, with the credential one role shows another.

use anyhow::Context;
use mercato_chassis::token::{PEER_HEADER, PeerCredentials};
use std::path::Path;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};

/// Who the bench says it is: the role that calls both catalog and inventory for an order.
const ROLE: &str = "ordering";

/// A connection with credentials. Clones share both.
#[derive(Clone)]
pub struct Peer {
    /// The connection.
    pub channel: Channel,
    credentials: PeerCredentials,
}

impl Peer {
    /// Connects to `host:port`, with the secret that all roles share.
    pub async fn connect(address: &str, secret: &Path) -> anyhow::Result<Self> {
        let secret = std::fs::read_to_string(secret).with_context(|| format!("the peer secret {} cannot be read", secret.display()))?;
        let credentials = PeerCredentials::new(secret.trim().to_owned().into());
        Ok(Self { channel: connect(address).await?, credentials })
    }

    /// The message as a role sends it.
    pub fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        let value = AsciiMetadataValue::try_from(self.credentials.header(ROLE).as_bytes()).context("a credential is ascii")?;
        request.metadata_mut().insert(PEER_HEADER, value);
        Ok(request)
    }
}

/// A connection of its own to `host:port` or a URL.
pub async fn connect(address: &str) -> anyhow::Result<Channel> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    Endpoint::from_shared(url)?.connect().await.with_context(|| format!("cannot reach {address}"))
}
