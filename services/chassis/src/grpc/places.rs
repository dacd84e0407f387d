//! Where the processes of a role are, and a connection to one of them. Connections go to one after the other, so that load spreads, and the
//! first to any, so that not all begin with the same; who does not take it is passed over, so that one that is gone or starting is not missed.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::{TcpStream, lookup_host};

/// An address that has not answered yet is not waited for longer than this before the next is tried as well.
const STAGGER: Duration = Duration::from_millis(150);

/// Where one role is: one URL or several with commas, each a name with one address or several. Clones take turns.
#[derive(Debug, Clone)]
pub(super) struct Places {
    hosts: Vec<String>,
    turn: Arc<AtomicUsize>,
}

impl Places {
    /// Reads `http://host:port` with commas.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let host = |url: &str| {
            let uri: http::Uri = url.trim().parse().map_err(|e| format!("{e}"))?;
            match (uri.scheme_str(), uri.host(), uri.path()) {
                (Some("http"), Some(host), "" | "/") => Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80))),
                _ => Err(format!("{} is not http://host:port", url.trim())),
            }
        };
        let hosts = text.split(',').map(host).collect::<Result<_, String>>()?;
        Ok(Self { hosts, turn: Arc::new(AtomicUsize::new(rand::random_range(0..1 << 16))) })
    }

    /// The first, for the authority of requests.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.hosts.first().map_or("", String::as_str))
    }

    /// Connects to one of them; names are looked up anew each time.
    ///
    /// # Errors
    /// What the last one said, when none takes the connection.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let (mut addresses, mut why) = (Vec::new(), io::Error::new(io::ErrorKind::NotFound, "no address"));
        for host in &self.hosts {
            match lookup_host(host).await {
                Ok(found) => addresses.extend(found),
                Err(error) => why = io::Error::new(error.kind(), format!("{host}: {error}")),
            }
        }
        addresses.sort_unstable();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(addresses.len()).unwrap_or(0);
        addresses.rotate_left(turn);
        let stream = first(addresses, why).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// The first connection that is taken: the next is begun when one is refused, or is not answered soon.
async fn first(addresses: Vec<SocketAddr>, mut why: io::Error) -> io::Result<TcpStream> {
    let (mut left, mut tries) = (addresses.into_iter(), FuturesUnordered::new());
    loop {
        tries.extend(left.next().map(TcpStream::connect));
        let more = left.len() > 0;
        let later = async { if more { tokio::time::sleep(STAGGER).await } else { std::future::pending().await } };
        tokio::select! {
            tried = tries.next() => match tried {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => why = error,
                None => return Err(why),
            },
            () = later => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tokio::net::TcpListener;

    #[test]
    fn what_is_no_list_of_addresses_is_refused() {
        assert_eq!(Places::parse("http://a:1, http://b.c").unwrap().hosts, ["a:1", "b.c:80"]);
        for wrong in ["", "a:1", "https://a:1", "http://a:1/x", "http://a:1,,http://b:1"] {
            assert!(Places::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn connections_go_to_all_that_are_there_and_past_those_that_are_not() {
        let (one, other) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.2:0").await.unwrap());
        let gone = TcpListener::bind("127.0.0.3:0").await.unwrap().local_addr().unwrap();
        let here = [one.local_addr().unwrap(), other.local_addr().unwrap()];
        let places = Places::parse(&format!("http://{gone},http://{},http://{}", here[0], here[1])).unwrap();
        for _ in 0..20 {
            let mut reached = BTreeSet::new();
            for _ in 0..3 {
                reached.insert(places.connect().await.unwrap().peer_addr().unwrap());
            }
            assert_eq!(reached, here.into_iter().collect(), "each of them once in a round");
        }
        let nobody = Places::parse(&format!("http://{gone}")).unwrap().connect().await.unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::ConnectionRefused);
    }
}
