//! The server every process runs: limits that hold behind an edge, and connections from TCP and from the process itself.

use crate::config::Source;
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tonic::transport::server::{Connected, Server};

/// Limits every server keeps. Message sizes are enforced by the policy layer, so that no generated server can forget them.
pub mod limits {
    use std::time::Duration;

    /// Bytes of one request message, unless `MERCATO_MAX_REQUEST_BYTES` says otherwise.
    pub const REQUEST: usize = 256 * 1024;
    /// Concurrent streams of one connection; the edge multiplexes all its clients over few connections.
    pub const STREAMS_PER_CONNECTION: u32 = 1000;
    /// Cancelled streams not yet accepted, before a connection counts as hostile. The default of 20 lets an edge's burst of client
    /// cancels end the connection for everybody.
    pub const PENDING_RESETS: usize = 10_000;
    /// After this time a connection is asked to end, so that a silent one cannot stay for ever and load spreads anew.
    pub const CONNECTION_AGE: Duration = Duration::from_secs(300);
    /// How long such a connection may finish what it began.
    pub const CONNECTION_GRACE: Duration = Duration::from_secs(10);
    /// Silence after which a connection is tried, and how long its answer may take.
    pub const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));
}

/// The settings of the server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where gRPC is served.
    pub address: SocketAddr,
    /// Where metrics and probes are served.
    pub admin: SocketAddr,
    /// How many calls may run at once.
    pub calls: usize,
    /// How many streams may run at once.
    pub streams: usize,
    /// The largest request message in bytes.
    pub max_request: usize,
    /// How long shutdown may take.
    pub drain: Duration,
    /// Whether the contracts can be asked for.
    pub reflection: bool,
}

impl Settings {
    /// Reads the settings.
    pub fn read(source: &mut Source) -> Self {
        let address = source.address("MERCATO_GRPC_ADDR", "127.0.0.1:50051", "where grpc is served");
        Self {
            address,
            admin: source.address("MERCATO_ADMIN_ADDR", "127.0.0.1:9464", "where metrics and probes are served over http"),
            calls: source.number("MERCATO_MAX_CALLS", calls(), 1..=100_000, "calls that may run at once; more are refused"),
            streams: source.number("MERCATO_MAX_STREAMS", 2000, 1..=100_000, "server streams that may run at once; more are refused"),
            max_request: source.number("MERCATO_MAX_REQUEST_BYTES", limits::REQUEST, 1024..=4 << 20, "bytes of one request message"),
            drain: source.duration_ms("MERCATO_DRAIN_MS", 20_000, 0..=600_000, "milliseconds shutdown may take"),
            reflection: source.flag("MERCATO_REFLECTION", address.ip().is_loopback(), "grpc reflection; on by default on loopback only"),
        }
    }
}

/// Calls a core. More only wait for each other until their deadlines are over: at three times its capacity a shop that lets 512 calls in
/// on two cores finishes a quarter of what it could (docs/faults.md).
const CALLS: usize = 64;

fn calls() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) * CALLS
}

/// A server with the limits.
pub fn preset() -> Server {
    let (interval, patience) = limits::KEEPALIVE;
    Server::builder()
        .http2_max_pending_accept_reset_streams(Some(limits::PENDING_RESETS))
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(patience))
        .max_connection_age(limits::CONNECTION_AGE)
        .max_connection_age_grace(limits::CONNECTION_GRACE)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .tcp_nodelay(true)
}

/// A connection from outside or from a role of the same process.
pub enum Connection {
    /// From outside.
    Tcp(TcpStream),
    /// From inside.
    Memory(DuplexStream),
}

impl Connected for Connection {
    type ConnectInfo = Option<SocketAddr>;

    fn connect_info(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Memory(_) => None,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Connections from outside, from inside, or both, as one stream that never ends.
pub fn incoming(
    listener: Option<TcpListener>,
    inside: mpsc::Receiver<DuplexStream>,
) -> impl futures_util::Stream<Item = io::Result<Connection>> {
    futures_util::stream::unfold((listener, inside), |(listener, mut inside)| async move {
        let accepted = async {
            match &listener {
                Some(listener) => accept(listener).await,
                None => std::future::pending().await,
            }
        };
        let connection = tokio::select! {
            Some(stream) = inside.recv() => Ok(Connection::Memory(stream)),
            accepted = accepted => accepted.map(Connection::Tcp),
        };
        Some((connection, (listener, inside)))
    })
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        Err(error) => {
            // Out of file descriptors, for one: trying again at once would spin.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(error)
        }
    }
}
