//! Secrets change while the shop is open, in the steps of docs/operations.md, and a step that is left out is refused and says why.

use crate::house::{House, LONG, Visitor, patiently};
use mercato_chassis::token::{PEER_HEADER, PeerCredentials};
use mercato_contracts::mercato::{
    customer::v1::{GetJsonWebKeySetRequest, key_service_client::KeyServiceClient},
    ordering::v1::{ListOrdersRequest, ListOrdersResponse, order_service_client::OrderServiceClient},
};
use mercato_testkit::eventually;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// Orders are placed here; each needs catalog and inventory, and tokens are verified with customer's keys.
const FRONT: &str = "ordering";
const BACK: &str = "catalog,inventory,customer";
const OLD: &str = "the-old-secret-of-all-peers";
const NEW: &str = "the-new-secret-of-all-peers";
/// The secret and the other one, before the change and after each of its steps.
const STEPS: [(&str, &str); 4] = [(OLD, ""), (OLD, NEW), (NEW, OLD), (NEW, "")];

async fn with(house: &mut House, roles: &str, (secret, other): (&str, &str)) {
    house.set("MERCATO_PEER_SECRET", secret);
    house.set("MERCATO_PEER_SECRET_OTHER", other);
    house.start(roles).await;
}

async fn restarted(house: &mut House, roles: &str, secrets: (&str, &str)) {
    house.kill(roles);
    with(house, roles, secrets).await;
}

async fn list(house: &House, visitor: &Visitor, page: &str) -> Result<ListOrdersResponse, Status> {
    let request = ListOrdersRequest { page_size: 1, page_token: page.to_owned(), ..Default::default() };
    let mut orders = OrderServiceClient::new(house.channel(FRONT));
    let listed = patiently("a page", async || orders.list_orders(visitor.request(request.clone(), None)).await).await;
    listed.map(tonic::Response::into_inner)
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// A call between peers that has nothing else around it.
async fn ask_as_peer(house: &House, secret: &str) -> Result<(), Status> {
    let header = PeerCredentials::new(secret.to_owned().into()).header("ordering");
    let mut keys = KeyServiceClient::new(house.channel("customer"));
    let asked = patiently("the keys", async || {
        let mut request = Request::new(GetJsonWebKeySetRequest {});
        request.metadata_mut().insert(PEER_HEADER, header.to_str().expect("ascii").parse().expect("ascii"));
        keys.get_json_web_key_set(request).await
    });
    asked.await.map(drop)
}

#[tokio::test]
async fn the_secret_of_the_peers_changes_in_three_steps() {
    let mut house = House::new().await;
    with(&mut house, BACK, STEPS[0]).await;
    with(&mut house, FRONT, STEPS[0]).await;
    let (visitor, product) = (house.sign_in("CUSTOMER").await, house.product().await);
    for _ in 0..2 {
        let key = house.key();
        house.place(&visitor, &product, &key, "").await;
    }
    let page = list(&house, &visitor, "").await.expect("a page").next_page_token;
    assert!(!page.is_empty(), "there is another page");
    let mut now = (STEPS[0], STEPS[0]);
    for (nth, pair) in STEPS.windows(2).enumerate() {
        let [last, next] = [pair[0], pair[1]];
        // whoever is restarted first, the other still has what it had
        for (front, back) in [(last, next), (next, next), (next, last), (next, next)] {
            if now.0 != front {
                restarted(&mut house, FRONT, front).await;
            }
            if now.1 != back {
                restarted(&mut house, BACK, back).await;
            }
            now = (front, back);
            let key = house.key();
            house.place(&visitor, &product, &key, "").await;
            let listed = list(&house, &visitor, &page).await;
            match (front, listed) {
                ((_, ""), Err(status)) if nth == 2 && front == next => assert_eq!(status.code(), Code::InvalidArgument, "{status:?}"),
                (_, listed) => assert_eq!(listed.unwrap_or_else(|status| panic!("{front:?}: {status:?}")).orders.len(), 1),
            }
        }
    }
    let status = list(&house, &visitor, &page).await.expect_err("a page token of the old secret");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "PAGE_TOKEN_INVALID"), "{status:?}");

    for roles in [FRONT, BACK] {
        assert!(!house.log(roles).contains("not genuine"), "{}", house.log(roles));
    }

    ask_as_peer(&house, NEW).await.expect("a credential of the new secret");
    let status = ask_as_peer(&house, OLD).await.expect_err("a credential of the old secret");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "TOKEN_INVALID"), "{status:?}");
    assert!(status.message().contains("peer credential: not genuine"), "{status:?}");
}

#[tokio::test]
async fn a_role_that_skips_a_step_is_refused_and_the_log_says_why() {
    let mut house = House::new().await;
    with(&mut house, BACK, STEPS[0]).await;
    with(&mut house, FRONT, STEPS[0]).await;
    let (visitor, product) = (house.sign_in("CUSTOMER").await, house.product().await);
    let key = house.key();
    house.place(&visitor, &product, &key, "").await;
    restarted(&mut house, BACK, STEPS[3]).await;
    let key = house.key();
    // a connection that was cut is refused as well, for a moment
    let told = || async {
        let status = house.try_to_place(&visitor, &product, &key, "").await.expect_err("the two do not know each other");
        if matches!(status.code(), Code::DeadlineExceeded | Code::ResourceExhausted) {
            return None;
        }
        assert_eq!(status.code(), Code::Unavailable, "the client may try again: {status:?}");
        let why = |line: &&str| line.contains("catalog") && line.contains("Unauthenticated: ") && line.contains("not genuine");
        house.log(FRONT).lines().any(|line| why(&line)).then_some(())
    };
    eventually("the reason is in the log", LONG, told).await;
    let log = house.log(FRONT);
    for secret in [OLD, NEW] {
        assert!(!log.contains(secret) && !house.log(BACK).contains(secret), "a secret is in the log");
    }
    // mended by doing the steps after all, and the same key makes the order
    restarted(&mut house, BACK, STEPS[2]).await;
    house.place(&visitor, &product, &key, "").await;
}

/// Who signed in before goes on, and who signs in now is believed by everybody.
async fn tokens_are_good(house: &House, early: &Visitor) {
    list(house, early, "").await.expect("a token from before the change");
    let late = house.sign_in("CUSTOMER").await;
    list(house, &late, "").await.expect("a token of now");
}

#[tokio::test]
async fn the_secret_of_the_keys_changes_in_three_steps_and_nobody_is_signed_out() {
    let [old, new] = ["ab", "cd"].map(|byte| byte.repeat(32));
    let mut house = House::new().await;
    house.set("MERCATO_KEY_SECRET", &old);
    house.start("customer").await;
    house.start(FRONT).await;
    let early = house.sign_in("CUSTOMER").await;
    tokens_are_good(&house, &early).await;

    // the new one at once: it opens nothing, and does not start
    house.kill("customer");
    house.set("MERCATO_KEY_SECRET", &new);
    house.launch("customer");
    assert!(!house.ends("customer").await, "it must not start");
    let log = house.log("customer");
    let told = log
        .lines()
        .any(|line| line.starts_with("error: role customer: ") && line.contains("MERCATO_KEY_SECRET is not the one it was sealed with"));
    assert!(told, "{log}");

    for (secret, other) in [(&old, new.as_str()), (&new, old.as_str()), (&new, "")] {
        house.set("MERCATO_KEY_SECRET", secret);
        house.set("MERCATO_KEY_SECRET_OTHER", other);
        house.start("customer").await;
        tokens_are_good(&house, &early).await;
        if !other.is_empty() {
            house.kill("customer");
        }
    }
    let log = house.log("customer");
    assert_eq!(log.matches("a signing key was sealed with the new secret").count(), 1, "{log}");
    assert!(![&old, &new].iter().any(|secret| log.contains(*secret)), "a secret is in the log");
    assert_eq!(house.count("customer", "select count(*) from signing_key").await, 1, "the key itself is still the first one");

    house.kill("customer");
    house.set("MERCATO_KEY_SECRET", &old);
    house.launch("customer");
    assert!(!house.ends("customer").await, "the old one opens nothing any more");
    house.set("MERCATO_KEY_SECRET", "");
    house.launch("customer");
    assert!(!house.ends("customer").await, "without it nothing starts");
    assert!(house.log("customer").contains("error: MERCATO_KEY_SECRET: must be set"), "{}", house.log("customer"));
}
