//! A TCP proxy that can be told to misbehave: slow, cut one way, silent for old connections, or resetting them.

use anyhow::{Context, Result};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A connection that was made silent is taken down after this time, as a firewall would in the end.
const SILENCE: Duration = Duration::from_secs(60);

/// How the link behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As a good network.
    Good,
    /// Every piece of data is late by this much, and up to as much again.
    Slow(Duration),
    /// What the server says does not arrive until the link is good again.
    OneWay,
    /// One piece of data in so many resets its connection instead of arriving: a request, an answer, a COMMIT.
    Flaky(u32),
}

/// What all connections watch. Connections are numbered by the age they were made in.
#[derive(Debug, Clone, Copy)]
struct State {
    link: Link,
    age: u64,
    /// Connections made before this age are silent for good.
    silent_before: u64,
    /// Connections made before this age are reset.
    reset_before: u64,
}

/// A proxy in front of one server.
pub struct Proxy {
    port: u16,
    state: Arc<watch::Sender<State>>,
}

impl Proxy {
    /// Listens on a free loopback port and forwards to `upstream` on loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(upstream: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a port for the proxy")?;
        let port = listener.local_addr()?.port();
        let (state, _) = watch::channel(State { link: Link::Good, age: 1, silent_before: 0, reset_before: 0 });
        let state = Arc::new(state);
        tokio::spawn(accept(listener, upstream, state.clone()));
        Ok(Self { port, state })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets how the link behaves, for old connections and new.
    pub fn set(&self, link: Link) {
        self.state.send_modify(|state| state.link = link);
    }

    /// Makes all present connections silent for good: open on both ends, and nothing arrives.
    pub fn silence_old(&self) {
        self.state.send_modify(|state| {
            state.age += 1;
            state.silent_before = state.age;
        });
    }

    /// Resets all present connections.
    pub fn reset_old(&self) {
        self.state.send_modify(|state| {
            state.age += 1;
            state.reset_before = state.age;
        });
    }
}

async fn accept(listener: TcpListener, upstream: u16, state: Arc<watch::Sender<State>>) {
    loop {
        // Too many open files is all that can go wrong here; it passes.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        tokio::spawn(connection(client, upstream, state.subscribe()));
    }
}

async fn connection(client: TcpStream, upstream: u16, state: watch::Receiver<State>) {
    let born = state.borrow().age;
    // Nobody behind the proxy: the client sees its connection closed at once.
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    for stream in [&client, &server] {
        // A socket that is gone already shows on the first read.
        let _ = stream.set_nodelay(true);
    }
    let gate = |down| Gate { state: state.clone(), born, down };
    let mut watcher = state.clone();
    // Neither PostgreSQL nor HTTP clients half-close: the end of one direction is the end of both.
    let broken = tokio::select! {
        broken = pump(&client, &server, gate(false)) => broken,
        broken = pump(&server, &client, gate(true)) => broken,
        _ = watcher.wait_for(|state| state.reset_before > born) => true,
        () = silent_too_long(state.clone(), born) => true,
    };
    if broken {
        reset(&client, &server);
    }
}

async fn silent_too_long(mut state: watch::Receiver<State>, born: u64) {
    // The sender lives as long as the proxy; without it there is nothing to wait for.
    if state.wait_for(|state| state.silent_before > born).await.is_err() {
        return;
    }
    tokio::time::sleep(SILENCE).await;
}

/// Makes the close that follows a reset.
fn reset(client: &TcpStream, server: &TcpStream) {
    for stream in [client, server] {
        // Without it the close is an orderly one, which is a fault as well.
        let _ = stream.set_zero_linger();
    }
}

/// Forwards in one direction until it ends; true when the link broke it.
async fn pump(from: &TcpStream, to: &TcpStream, mut gate: Gate) -> bool {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = loop {
            if from.readable().await.is_err() {
                break 0;
            }
            match from.try_read(&mut buffer) {
                Ok(read) => break read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break 0,
            }
        };
        if !gate.pass().await {
            return true;
        }
        if read == 0 || !write(to, &buffer[..read]).await {
            return false;
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        if to.writable().await.is_err() {
            return false;
        }
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    true
}

/// Holds data back as long as the link wants.
struct Gate {
    state: watch::Receiver<State>,
    born: u64,
    down: bool,
}

impl Gate {
    /// Waits until data may go on; false when the connection shall break instead.
    async fn pass(&mut self) -> bool {
        loop {
            let now = *self.state.borrow_and_update();
            if now.silent_before > self.born {
                std::future::pending::<()>().await;
            }
            match now.link {
                Link::OneWay if self.down => {}
                Link::Slow(delay) => {
                    let late = delay.mul_f64(rand::random_range(1.0..2.0));
                    tokio::time::sleep(late).await;
                    return true;
                }
                Link::Flaky(one_in) => return rand::random_range(0..one_in.max(1)) != 0,
                _ => return true,
            }
            if self.state.changed().await.is_err() {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that sends back what it gets, and a proxy in front.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        Proxy::start(port).await.unwrap()
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
    }

    async fn says(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(b"hello").await?;
        stream.read_exact(&mut [0; 5]).await.map(drop)
    }

    async fn silent(stream: &mut TcpStream) -> bool {
        tokio::time::timeout(Duration::from_millis(200), says(stream)).await.is_err()
    }

    #[tokio::test]
    async fn a_good_link_passes_and_a_slow_one_passes_late() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        says(&mut stream).await.unwrap();
        proxy.set(Link::Slow(Duration::from_millis(50)));
        let began = Instant::now();
        says(&mut stream).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(100), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn old_connections_fall_silent_and_new_ones_work() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        says(&mut old).await.unwrap();
        proxy.silence_old();
        assert!(silent(&mut old).await);
        says(&mut connect(&proxy).await).await.unwrap();
    }

    #[tokio::test]
    async fn a_link_cut_one_way_delivers_when_it_heals() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        says(&mut stream).await.unwrap();
        proxy.set(Link::OneWay);
        assert!(silent(&mut stream).await);
        proxy.set(Link::Good);
        stream.read_exact(&mut [0; 5]).await.unwrap();
    }

    #[tokio::test]
    async fn a_flaky_link_breaks_connections_in_the_middle() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        says(&mut stream).await.unwrap();
        proxy.set(Link::Flaky(1));
        assert!(says(&mut stream).await.is_err());
    }

    #[tokio::test]
    async fn old_connections_are_reset() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        says(&mut old).await.unwrap();
        proxy.reset_old();
        let error = old.read_exact(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
