//! Accounts and sessions: nothing secret comes back, and names are taken once.

use super::{
    door::Door,
    shopper::{Shopper, account, text, with},
    until,
};
use serde_json::{Value, json};
use std::sync::Arc;

at_both_doors!(never_see_a_password_again, have_names_of_their_own, change_their_profile_one_at_a_time, sign_in_and_out);

async fn never_see_a_password_again(door: Arc<dyn Door>) {
    let mut anna = Shopper::guest(&door);
    let account = account();
    let password = text(&account["password"]);
    let registered = anna.ask("RegisterCustomer", account.clone()).await.expect("an account");
    if let Some(status) = registered.http {
        assert_eq!(status, 201);
    }
    let login = anna.ask("Login", json!({ "email": account["email"], "password": password })).await.expect("a login");
    anna.token = Some(text(&login.body["access_token"]));
    let read = anna.ask("GetCustomer", json!({ "customerId": "me" })).await.expect("a profile");
    assert_eq!(read.body["email"], account["email"]);
    assert_eq!(read.body["address"]["zipCode"], account["address"]["zipCode"]);
    let update = json!({ "customerId": "me", "customer": { "phone": "+49 30 1" } });
    let updated = anna.ask("UpdateCustomer", update).await.expect("a new number");
    assert_eq!(updated.body["phone"], "+49 30 1");
    for answer in [registered, login, read, updated] {
        let text = String::from_utf8_lossy(&answer.bytes).to_lowercase();
        for secret in [password.as_str(), "argon2", "passwordhash", "password_hash"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    let short = with(account, json!({ "password": "short" }));
    let refused = anna.ask("RegisterCustomer", short).await.expect_err("too short");
    refused.is(400, "REQUEST_INVALID");
    assert_eq!(refused.fields, ["password"]);
}

async fn have_names_of_their_own(door: Arc<dyn Door>) {
    let guest = Shopper::guest(&door);
    let (first, other) = (account(), account());
    guest.ask("RegisterCustomer", first.clone()).await.expect("an account");
    let email = with(other.clone(), json!({ "email": text(&first["email"]).to_uppercase() }));
    guest.ask("RegisterCustomer", email).await.expect_err("taken").is(409, "EMAIL_TAKEN");
    let name = with(other, json!({ "username": first["username"] }));
    guest.ask("RegisterCustomer", name).await.expect_err("taken").is(409, "USERNAME_TAKEN");
}

async fn change_their_profile_one_at_a_time(door: Arc<dyn Door>) {
    let anna = Shopper::customer(&door).await;
    let etag = anna.ask("GetCustomer", json!({ "customerId": "me" })).await.expect("a profile").body["etag"].clone();
    let change = |phone: &str| anna.ask("UpdateCustomer", json!({ "customerId": "me", "customer": { "phone": phone, "etag": etag } }));
    let results = futures_util::future::join_all([change("1"), change("2")]).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    for refused in lost.into_iter().filter_map(Result::err) {
        refused.is(412, "ETAG_MISMATCH");
    }
}

async fn sign_in_and_out(door: Arc<dyn Door>) {
    let guest = Shopper::guest(&door);
    let account = account();
    guest.ask("RegisterCustomer", account.clone()).await.expect("an account");
    let login = |password: &Value| guest.ask("Login", json!({ "email": account["email"], "password": password }));
    login(&json!("something else")).await.expect_err("a wrong password").is(401, "CREDENTIALS_INVALID");
    let mut first = login(&account["password"]).await.expect("a login").body;
    let refresh = |token: &Value| guest.ask("RefreshToken", json!({ "refresh_token": token }));
    let second = until("new tokens", async || match refresh(&first["refresh_token"]).await {
        // the first try was too late to be heard, and a token that comes twice ends its session
        Err(refused) if refused.asked > 1 && refused.reason == "REFRESH_TOKEN_INVALID" => {
            first = login(&account["password"]).await.expect("a login").body;
            None
        }
        told => Some(told.expect("new tokens").body),
    })
    .await;
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    guest.ask("Logout", json!({ "refresh_token": second["refresh_token"] })).await.expect("signed out");
    refresh(&second["refresh_token"]).await.expect_err("signed out").is(401, "REFRESH_TOKEN_INVALID");
}
