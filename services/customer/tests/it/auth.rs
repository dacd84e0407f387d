//! Signing in, refreshing, leaving.

use std::time::Duration;

use mercato_chassis::ids;
use mercato_contracts::mercato::customer::v1::{LoginRequest, LogoutRequest, RefreshTokenRequest, TokenResponse};
use mercato_testkit::{busy, patiently};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::world::{PASSWORD, World, in_time, played};
use crate::{assert_refused, refusal};

/// Asks for new tokens, once: to ask again with the same token means something.
async fn refresh(world: &World, token: &str) -> Result<Result<TokenResponse, Status>, Status> {
    let answer = world.auth().refresh_token(RefreshTokenRequest { refresh_token: token.to_owned() }).await;
    in_time(answer.map(Response::into_inner))
}

/// Signs in, once: a failure counts.
async fn login(world: &World, name: &str, password: &str) -> Result<Result<TokenResponse, Status>, Status> {
    in_time(world.login_once(name, password).await)
}

/// Lets `seconds` pass for everything the database knows of refresh tokens and failures.
async fn age(world: &World, seconds: f64) {
    for statement in [
        "update refresh_token set used_at = used_at - make_interval(secs => $1), expires_at = expires_at - make_interval(secs => $1)",
        "update login_attempt set last_at = last_at - make_interval(secs => $1), blocked_until = blocked_until - make_interval(secs => $1)",
    ] {
        sqlx::query(statement).bind(seconds).execute(&world.pool).await.expect("time passes");
    }
}

/// As if what the database knows of used refresh tokens and failures had been just now.
async fn stop_clock(world: &World) {
    for statement in [
        "update refresh_token set used_at = now() where used_at is not null",
        "update login_attempt set blocked_until = now() + (blocked_until - last_at), last_at = now() where blocked_until is not null",
    ] {
        sqlx::query(statement).execute(&world.pool).await.expect("time stands still");
    }
}

async fn end_reason(world: &World) -> Option<String> {
    sqlx::query_scalar("select end_reason from session order by id desc limit 1").fetch_one(&world.pool).await.expect("a session")
}

#[tokio::test]
async fn both_names_sign_in_in_any_case_and_tokens_are_those_of_oauth() {
    let world = World::start().await;
    world.register("sample").await;
    for (email, username) in
        [("sample@example.com", ""), ("SAMPLE@Example.com", ""), ("", "sample"), ("", "SamPle"), ("", "sample@example.com")]
    {
        let request = LoginRequest { email: email.into(), username: username.into(), password: PASSWORD.into() };
        let (auth, request) = (&world.auth(), &request);
        let tokens = patiently("a login", || async { auth.clone().login(request.clone()).await }).await.unwrap().into_inner();
        assert_eq!((tokens.token_type.as_str(), tokens.expires_in), ("Bearer", 600));
        assert_eq!((tokens.access_token.split('.').count(), tokens.refresh_token.len()), (3, 43));
    }
    let nobody = LoginRequest { password: PASSWORD.into(), ..LoginRequest::default() };
    assert_refused(world.auth().login(nobody).await, Code::InvalidArgument, "REQUEST_INVALID");
    let text: String = sqlx::query_scalar("select string_agg(t::text, ' ') from refresh_token t").fetch_one(&world.pool).await.unwrap();
    let tokens = world.login("sample", PASSWORD).await.unwrap();
    assert!(!text.contains(&tokens.refresh_token));
    world.end().await;
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_answer_alike() {
    let world = World::start().await;
    world.register("sample").await;
    // Once each, but for answers that came too late; five of those would be throttled.
    let wrong = world.login("sample", "wrong password").await.unwrap_err();
    let unknown = world.login("nobody", "wrong password").await.unwrap_err();
    assert_eq!(refusal(&wrong), (Code::Unauthenticated, "CREDENTIALS_INVALID".into()));
    assert_eq!((wrong.code(), wrong.message(), wrong.details()), (unknown.code(), unknown.message(), unknown.details()));
    world.end().await;
}

/// Twenty guesses at once, of which five are looked at and the others told how long to wait.
async fn guess(world: &World, name: &'static str) {
    let began = Instant::now();
    let guesses = (0..20).map(|_| {
        let mut auth = world.auth();
        let request = LoginRequest { username: name.into(), password: "wrong password".into(), ..LoginRequest::default() };
        tokio::spawn(async move { auth.login(request).await })
    });
    let (mut looked_at, mut late) = (0, 0);
    for guess in guesses.collect::<Vec<_>>() {
        let status = guess.await.expect("a call").expect_err("a wrong password");
        if busy(&status) {
            late += 1; // it may have been looked at
        } else if status.code() == Code::Unauthenticated {
            looked_at += 1;
        } else {
            assert_eq!(refusal(&status), (Code::ResourceExhausted, "LOGIN_THROTTLED".into()));
            let wait = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("how long");
            // Half a minute from the fifth failure on, seen from any moment since they began; whole seconds are told.
            let (most, passed) = (Duration::from_secs(30), began.elapsed());
            assert!(wait <= most + passed && wait + passed + Duration::from_secs(1) >= most, "{wait:?} after {passed:?}");
        }
    }
    assert!(looked_at <= 5 && looked_at + late >= 5, "{name}: {looked_at} were looked at, {late} got no answer in time");
}

#[tokio::test]
async fn five_guesses_are_looked_at_however_many_come_at_once_and_known_and_unknown_names_wait_alike() {
    played(async |world| {
        world.register("sample").await;
        guess(world, "nobody").await;
        guess(world, "sample").await;
        stop_clock(world).await;
        assert_refused(login(world, "sample", PASSWORD).await?, Code::ResourceExhausted, "LOGIN_THROTTLED");
        age(world, 31.0).await;
        assert_refused(login(world, "sample", "wrong password").await?, Code::Unauthenticated, "CREDENTIALS_INVALID");
        stop_clock(world).await;
        age(world, 31.0).await;
        assert_refused(login(world, "sample", PASSWORD).await?, Code::ResourceExhausted, "LOGIN_THROTTLED");
        age(world, 31.0).await;
        assert!(login(world, "sample", PASSWORD).await?.is_ok(), "the second wait is a minute");
        for _ in 0..4 {
            assert_refused(login(world, "sample", "wrong password").await?, Code::Unauthenticated, "CREDENTIALS_INVALID");
        }
        assert!(login(world, "sample", PASSWORD).await?.is_ok(), "a success takes the failures back");
        let stored: Vec<String> = sqlx::query_scalar("select a::text from login_attempt a").fetch_all(&world.pool).await.unwrap();
        assert!(stored.iter().all(|row| !row.contains("sample") && !row.contains("nobody")));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_address_that_tries_many_names_has_to_wait() {
    played(async |world| {
        world.register("sample").await;
        let from = async |username: &str, address: &str| {
            let message = LoginRequest { username: username.into(), password: PASSWORD.into(), ..LoginRequest::default() };
            let mut request = Request::new(message);
            request.metadata_mut().insert("x-envoy-external-address", address.parse().unwrap());
            in_time(world.auth().login(request).await)
        };
        for at in 0..50 {
            assert_refused(from(&format!("name{at}"), "192.0.2.1").await?, Code::Unauthenticated, "CREDENTIALS_INVALID");
        }
        stop_clock(world).await;
        assert_refused(from("sample", "192.0.2.1").await?, Code::ResourceExhausted, "LOGIN_THROTTLED");
        assert!(from("sample", "192.0.2.2").await?.is_ok());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_session() {
    played(async |world| {
        let (_, first) = world.signed_in("sample").await;
        let elsewhere = world.login("sample", PASSWORD).await.unwrap();
        let second = refresh(world, &first.refresh_token).await?.unwrap();
        let third = refresh(world, &second.refresh_token).await?.unwrap();
        assert_refused(refresh(world, &first.refresh_token).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
        assert_refused(refresh(world, &third.refresh_token).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
        let ended: Vec<String> =
            sqlx::query_scalar("select end_reason from session where ended_at is not null").fetch_all(&world.pool).await.unwrap();
        assert_eq!(ended, ["reuse"]);
        assert!(refresh(world, &elsewhere.refresh_token).await?.is_ok(), "another session of the same customer lives on");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_is_forgiven_once_within_ten_seconds() {
    played(async |world| {
        world.register("sample").await;
        let login = async || world.login("sample", PASSWORD).await.unwrap().refresh_token;

        let first = login().await;
        let lost = refresh(world, &first).await?.unwrap().refresh_token;
        stop_clock(world).await;
        let repeated = refresh(world, &first).await?.unwrap().refresh_token;
        assert_refused(refresh(world, &lost).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
        assert_eq!(end_reason(world).await.as_deref(), Some("reuse"), "the lost token turned up: somebody else has it");
        assert_refused(refresh(world, &repeated).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");

        let second = login().await;
        refresh(world, &second).await?.unwrap();
        stop_clock(world).await;
        let repeated = refresh(world, &second).await?.unwrap().refresh_token;
        assert!(refresh(world, &repeated).await?.is_ok());
        assert_eq!(end_reason(world).await, None);

        let third = login().await;
        refresh(world, &third).await?.unwrap();
        stop_clock(world).await;
        refresh(world, &third).await?.unwrap();
        assert_refused(refresh(world, &third).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
        assert_eq!(end_reason(world).await.as_deref(), Some("reuse"));

        let fourth = login().await;
        refresh(world, &fourth).await?.unwrap();
        age(world, 11.0).await;
        assert_refused(refresh(world, &fourth).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
        assert_eq!(end_reason(world).await.as_deref(), Some("reuse"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn of_many_who_present_one_token_at_once_at_most_one_way_goes_on() {
    played(async |world| {
        let (_, tokens) = world.signed_in("sample").await;
        let attempts = (0..6).map(|_| {
            let (mut auth, refresh_token) = (world.auth(), tokens.refresh_token.clone());
            tokio::spawn(async move { auth.refresh_token(RefreshTokenRequest { refresh_token }).await })
        });
        let mut answered = 0;
        for attempt in attempts.collect::<Vec<_>>() {
            answered += usize::from(in_time(attempt.await.unwrap())?.is_ok());
        }
        assert_eq!(answered, 2, "the first, and the one repetition");
        assert_eq!(end_reason(world).await.as_deref(), Some("reuse"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn expired_and_unknown_tokens_are_refused_and_end_nothing() {
    played(async |world| {
        let (_, tokens) = world.signed_in("sample").await;
        assert_refused(refresh(world, &ids::new().to_string()).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
        age(world, 30.0 * 86_400.0 + 1.0).await;
        assert_refused(refresh(world, &tokens.refresh_token).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
        assert_eq!(end_reason(world).await, None);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn leaving_ends_the_session_and_may_be_repeated() {
    played(async |world| {
        let (_, tokens) = world.signed_in("sample").await;
        for token in [tokens.refresh_token.clone(), tokens.refresh_token.clone(), "unknown".to_owned()] {
            let (auth, request) = (&world.auth(), &LogoutRequest { refresh_token: token });
            patiently("a logout", || async { auth.clone().logout(request.clone()).await }).await.unwrap();
        }
        assert_eq!(end_reason(world).await.as_deref(), Some("logout"));
        assert_refused(refresh(world, &tokens.refresh_token).await?, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
        Ok(())
    })
    .await;
}
