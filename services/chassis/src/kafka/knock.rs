//! Whether the brokers let us in, asked once before a process serves.
//!
//! A broker that is away comes back, and the outbox waits for it. One that refuses us will refuse us tomorrow: a wrong password, a wrong
//! authority or TLS on one side alone is for the one who deploys, who is looking now.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::KafkaSettings;

/// How long brokers that say nothing are listened to.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a round trip of a few bytes may take.
const ROUND: Duration = Duration::from_secs(1);
/// One look.
const LOOK: Duration = Duration::from_millis(20);

/// What the client says of a broker that cannot be reached.
const AWAY: [&str; 3] = ["Connect to ", "Failed to resolve", "timed out"];
/// What it says of a connection that was taken and closed.
const HUNG_UP: [&str; 2] = ["Disconnected", "Receive failed"];
const HINT: &str = ", so it expects another KAFKA_SECURITY_PROTOCOL, or a certificate";

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A broker told us about its cluster.
    Welcome,
    /// A broker was there and did not want us, for this reason.
    Refused(String),
    /// Nobody was there.
    Silence(String),
}

/// Asks the brokers once, for [`SILENCE`] at most. A start in plain text, which is the common one, must not cost a client of its own: there
/// a question is put by hand.
pub(crate) async fn knock(settings: &KafkaSettings) -> Answer {
    if settings.security.protocol() == "PLAINTEXT" {
        return plain(&settings.brokers).await;
    }
    let settings = settings.clone();
    match tokio::task::spawn_blocking(move || ask(&settings)).await {
        Ok((answer, client)) => {
            // closing blocks for a moment, which nobody has to wait for
            tokio::task::spawn_blocking(move || drop(client));
            answer
        }
        Err(error) => Answer::Silence(format!("the question broke: {error}")),
    }
}

fn ask(settings: &KafkaSettings) -> (Answer, Option<BaseConsumer<Heard>>) {
    let mut config = settings.consumer("start");
    // the same words again and again would only hide the first ones
    config.set("group.id", "unused").set("reconnect.backoff.ms", "2000").set("reconnect.backoff.max.ms", "2000");
    // a connection that is closed on us is no error to the client, only a line at this level
    config.set_log_level(RDKafkaLogLevel::Info);
    let client: BaseConsumer<Heard> = match config.create_with_context(Heard::default()) {
        Ok(client) => client,
        Err(error) => return (Answer::Refused(error.to_string()), None),
    };
    let began = Instant::now();
    loop {
        if client.client().fetch_cluster_id(LOOK).is_some() {
            return (Answer::Welcome, Some(client));
        }
        // nothing is subscribed to: this only has the errors told
        drop(client.poll(Duration::ZERO));
        let heard = client.context().judge();
        if let Some(answer) = heard.or_else(|| (began.elapsed() > SILENCE).then(|| Answer::Silence("no broker answers".into()))) {
            return (answer, Some(client));
        }
    }
}

async fn plain(brokers: &str) -> Answer {
    let mut asked: FuturesUnordered<_> = brokers.split(',').map(ask_plainly).collect();
    let (mut refused, mut silent) = (None, Vec::new());
    while let Some(answer) = asked.next().await {
        match answer {
            Answer::Welcome => return Answer::Welcome,
            Answer::Refused(reason) => refused = Some(reason),
            Answer::Silence(reason) => silent.push(reason),
        }
    }
    refused.map_or_else(|| Answer::Silence(silent.join("; ")), Answer::Refused)
}

async fn ask_plainly(broker: &str) -> Answer {
    let address = broker.rsplit("://").next().unwrap_or(broker).trim();
    let mut stream = match timeout(ROUND, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Answer::Silence(format!("{broker}: {error}")),
        Err(_) => return Answer::Silence(format!("{broker}: it does not answer")),
    };
    match timeout(ROUND, versions(&mut stream)).await {
        Ok(Ok(())) => Answer::Welcome,
        Ok(Err(error)) => Answer::Refused(format!("{broker} does not speak with us: {error}{HINT}")),
        Err(_) => Answer::Silence(format!("{broker}: it took the connection and is silent")),
    }
}

/// Asks twice for the versions of the broker's requests (`ApiVersions` in version 0). One that wants TLS understands neither; one that wants
/// a login answers the first and closes at the second.
async fn versions(stream: &mut TcpStream) -> io::Result<()> {
    for number in 1..=2 {
        stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, number, 255, 255]).await?;
        let mut head = [0; 8];
        stream.read_exact(&mut head).await?;
        let [a, b, c, d, answered @ ..] = head;
        let rest = u32::from_be_bytes([a, b, c, d]).checked_sub(4).filter(|rest| *rest < 1_000_000 && answered == [0, 0, 0, number]);
        let rest = rest.ok_or_else(|| io::Error::other("it answers something else"))?;
        tokio::io::copy(&mut stream.take(rest.into()), &mut tokio::io::sink()).await?;
    }
    Ok(())
}

/// The errors the client has told.
#[derive(Default)]
struct Heard(Mutex<Vec<(Option<RDKafkaErrorCode>, String)>>);

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Vec<(Option<RDKafkaErrorCode>, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last word of the brokers, if it has been spoken.
    fn judge(&self) -> Option<Answer> {
        let heard = self.lock();
        if let Some((_, reason)) = heard.iter().find(|(code, reason)| refused(*code, reason)) {
            let hint = if hung_up(reason) { HINT } else { "" };
            return Some(Answer::Refused(format!("{reason}{hint}")));
        }
        let down = |code: &Option<RDKafkaErrorCode>| *code == Some(RDKafkaErrorCode::AllBrokersDown);
        heard.iter().any(|(code, _)| down(code)).then(|| {
            let reasons: BTreeSet<_> =
                heard.iter().filter(|(code, _)| code.is_some() && !down(code)).map(|(_, reason)| reason.as_str()).collect();
            Answer::Silence(reasons.into_iter().collect::<Vec<_>>().join("; "))
        })
    }
}

/// Whoever could be reached and then did not want us. What the client calls its errors says little: one and the same certificate is a matter
/// of TLS today and of transport tomorrow.
fn refused(code: Option<RDKafkaErrorCode>, reason: &str) -> bool {
    code != Some(RDKafkaErrorCode::AllBrokersDown) && !AWAY.iter().any(|word| reason.contains(word))
}

fn hung_up(reason: &str) -> bool {
    HUNG_UP.iter().any(|word| reason.contains(word))
}

impl ClientContext for Heard {
    /// What is worth a line is told by whoever knocked.
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            self.lock().push((None, message.to_owned()));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.lock().push((error.rdkafka_error_code(), reason.to_owned()));
    }
}

impl ConsumerContext for Heard {}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Reads a question, says `answers` one after the other, and hangs up.
    async fn broker(answers: &'static [&'static [u8]]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                stream.read_exact(&mut [0; 14]).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        address
    }

    const FIRST: &[u8] = &[0, 0, 0, 6, 0, 0, 0, 1, 0, 0];
    const SECOND: &[u8] = &[0, 0, 0, 6, 0, 0, 0, 2, 0, 0];
    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 80];

    #[tokio::test]
    async fn a_broker_in_plain_text_answers_twice() {
        assert_eq!(plain(&broker(&[FIRST, SECOND]).await).await, Answer::Welcome);
        for other in [&[FIRST][..], &[ALERT], &[SECOND], &[&[255; 8]]] {
            assert!(matches!(plain(&broker(other).await).await, Answer::Refused(_)), "{other:?}");
        }
    }

    #[tokio::test]
    async fn one_that_lets_us_in_is_enough_and_one_that_is_away_is_no_refusal() {
        let (good, bad) = (broker(&[FIRST, SECOND]).await, broker(&[ALERT]).await);
        assert_eq!(plain(&format!("127.0.0.1:1,PLAINTEXT://{good}")).await, Answer::Welcome);
        assert!(matches!(plain(&format!("127.0.0.1:1,{bad}")).await, Answer::Refused(_)));
        assert!(matches!(plain("127.0.0.1:1").await, Answer::Silence(_)));
    }
}
