//! Accounts, profiles, roles.

use mercato_chassis::ids;
use mercato_contracts::mercato::customer::v1::{
    CustomerPatch, GetCustomerRequest, NotificationPreferences, RegisterCustomerRequest, SetCustomerRolesRequest, UpdateCustomerRequest,
};
use mercato_testkit::patiently;
use prost::Message;
use prost_types::FieldMask;
use tonic::{Code, Request};

use crate::world::{PASSWORD, World, bearer, keyed, registration, with_key};
use crate::{assert_refused, refusal};

fn get(id: &str, token: &str) -> Request<GetCustomerRequest> {
    bearer(Request::new(GetCustomerRequest { customer_id: id.to_owned() }), token)
}

fn update(customer: CustomerPatch, paths: &[&str], token: &str) -> Request<UpdateCustomerRequest> {
    let update_mask = (!paths.is_empty()).then(|| FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    bearer(keyed(UpdateCustomerRequest { customer_id: "me".into(), customer: Some(customer), update_mask }), token)
}

fn roles(id: &str, roles: &[&str], token: &str) -> Request<SetCustomerRolesRequest> {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    bearer(keyed(SetCustomerRolesRequest { customer_id: id.to_owned(), roles }), token)
}

#[tokio::test]
async fn registering_returns_the_profile_and_nothing_of_the_password() {
    let world = World::start().await;
    let request = RegisterCustomerRequest { email: "Sample@Example.COM".into(), ..registration("sample") };
    let customer = world.customers().register_customer(keyed(request.clone())).await.unwrap().into_inner();
    assert_eq!((customer.username.as_str(), customer.email.as_str()), ("sample", "sample@example.com"));
    assert_eq!((&customer.address, &customer.phone), (&request.address, &request.phone));
    assert_eq!(customer.notification_preferences, Some(NotificationPreferences { email: true, sms: false }));
    assert_eq!((customer.etag.as_str(), customer.roles.len()), ("1", 0));
    assert!(customer.created_at.is_some() && customer.updated_at == customer.created_at);
    let bytes = customer.encode_to_vec();
    assert!(!bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes()) && !format!("{customer:?}").contains("argon2"));

    let stored: String = sqlx::query_scalar("select password_hash from credential").fetch_one(&world.pool).await.unwrap();
    assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
    let clear: i64 = sqlx::query_scalar(
        "select count(*) from idempotency i where i::text like '%' || $1 || '%' or response::text like '%' || $2 || '%'",
    )
    .bind(PASSWORD)
    .bind(PASSWORD.bytes().map(|byte| format!("{byte:02x}")).collect::<String>())
    .fetch_one(&world.pool)
    .await
    .unwrap();
    assert_eq!(clear, 0, "the password is in the idempotency record");
    let fingerprint: Vec<u8> = sqlx::query_scalar("select fingerprint from idempotency").fetch_one(&world.pool).await.unwrap();
    let guess: [u8; 32] =
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), request.encode_to_vec())).into();
    assert_ne!(fingerprint, guess, "the password can be guessed from the fingerprint");
    world.end().await;
}

#[tokio::test]
async fn names_are_taken_without_regard_to_case_and_a_replay_is_the_first_answer() {
    let world = World::start().await;
    let key = ids::new().to_string();
    let first = world.customers().register_customer(with_key(registration("sample"), &key)).await.unwrap();
    let again = world.customers().register_customer(with_key(registration("sample"), &key)).await.unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(first.into_inner().encode_to_vec(), again.into_inner().encode_to_vec());
    let other_password = RegisterCustomerRequest { password: "another password".into(), ..registration("sample") };
    let reused = world.customers().register_customer(with_key(other_password, &key)).await;
    assert_refused(reused, Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED");

    let same_email = RegisterCustomerRequest { email: "SAMPLE@example.com".into(), ..registration("other") };
    let taken = world.customers().register_customer(with_key(same_email.clone(), "taken")).await.unwrap_err();
    assert_eq!(refusal(&taken), (Code::AlreadyExists, "EMAIL_TAKEN".into()));
    let taken_again = world.customers().register_customer(with_key(same_email, "taken")).await.unwrap_err();
    assert_eq!((taken.code(), taken.message(), taken.details()), (taken_again.code(), taken_again.message(), taken_again.details()));
    let same_name = RegisterCustomerRequest { username: "SaMple".into(), ..registration("other") };
    assert_refused(world.customers().register_customer(keyed(same_name)).await, Code::AlreadyExists, "USERNAME_TAKEN");
    assert_refused(world.customers().register_customer(registration("third")).await, Code::InvalidArgument, "IDEMPOTENCY_KEY_MISSING");
    world.end().await;
}

#[tokio::test]
async fn of_many_who_want_one_name_exactly_one_gets_it() {
    let world = World::start().await;
    let attempts = (0..8).map(|at| {
        let request = RegisterCustomerRequest { email: format!("sample{at}@example.com"), ..registration("sample") };
        let mut client = world.customers();
        tokio::spawn(async move { client.register_customer(keyed(request)).await })
    });
    let mut won = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(status) => assert_eq!(refusal(&status), (Code::AlreadyExists, "USERNAME_TAKEN".into())),
        }
    }
    assert_eq!(won, 1);
    world.end().await;
}

#[tokio::test]
async fn a_foreign_profile_equals_an_absent_one_and_staff_see_all() {
    let world = World::start().await;
    let (me, tokens) = world.signed_in("me").await;
    let other = world.register("other").await;
    let mut customers = world.customers();
    let mine = customers.get_customer(get("me", &tokens.access_token)).await.unwrap().into_inner();
    assert_eq!(mine, customers.get_customer(get(&me.id, &tokens.access_token)).await.unwrap().into_inner());

    let absent = ids::new().to_string();
    let foreign = customers.get_customer(get(&other.id, &tokens.access_token)).await.unwrap_err();
    let missing = customers.get_customer(get(&absent, &tokens.access_token)).await.unwrap_err();
    assert_eq!(refusal(&foreign), (Code::NotFound, "CUSTOMER_NOT_FOUND".into()));
    assert_eq!(refusal(&foreign), refusal(&missing));
    assert_eq!(foreign.message().replace(&other.id, "ID"), missing.message().replace(&absent, "ID"));
    let patch = CustomerPatch { phone: "1".into(), ..CustomerPatch::default() };
    for id in [&other.id, &absent] {
        let change = UpdateCustomerRequest { customer_id: id.clone(), customer: Some(patch.clone()), update_mask: None };
        let refused = customers.update_customer(bearer(keyed(change), &tokens.access_token)).await;
        assert_refused(refused, Code::NotFound, "CUSTOMER_NOT_FOUND");
    }
    assert_refused(customers.get_customer(GetCustomerRequest { customer_id: "me".into() }).await, Code::Unauthenticated, "TOKEN_MISSING");

    let admin = world.admin().await;
    assert_eq!(customers.get_customer(get(&other.id, &admin)).await.unwrap().into_inner(), other);
    assert_refused(customers.get_customer(get(&absent, &admin)).await, Code::NotFound, "CUSTOMER_NOT_FOUND");
    world.end().await;
}

#[tokio::test]
async fn an_update_changes_what_the_mask_names_and_respects_the_etag() {
    let world = World::start().await;
    let (before, tokens) = world.signed_in("sample").await;
    let token = tokens.access_token.as_str();
    let mut customers = world.customers();
    let new = CustomerPatch {
        username: "Renamed".into(),
        phone: "2".into(),
        notification_preferences: Some(NotificationPreferences { email: false, sms: true }),
        etag: before.etag.clone(),
        ..CustomerPatch::default()
    };
    let mask = ["phone", "notificationPreferences.sms"];
    let after = customers.update_customer(update(new.clone(), &mask, token)).await.unwrap().into_inner();
    assert_eq!((after.username.as_str(), after.phone.as_str(), after.etag.as_str()), ("sample", "2", "2"));
    assert_eq!(after.notification_preferences, Some(NotificationPreferences { email: true, sms: true }));
    assert_eq!(after.address, before.address);

    let late = customers.update_customer(update(new.clone(), &mask, token)).await.unwrap_err();
    assert_eq!(refusal(&late), (Code::Aborted, "ETAG_MISMATCH".into()));
    assert_eq!(late.metadata().get("x-http-code").unwrap(), "412");
    let whole = customers.update_customer(update(CustomerPatch { etag: String::new(), ..new }, &[], token)).await.unwrap().into_inner();
    assert_eq!((whole.username.as_str(), whole.address), ("Renamed", before.address));
    let cleared = customers.update_customer(update(CustomerPatch::default(), &["address", "phone"], token)).await.unwrap().into_inner();
    assert_eq!((cleared.address, cleared.phone.as_str(), cleared.etag.as_str()), (None, "", "4"));

    for path in ["roles", "email", "id", "password"] {
        let refused = customers.update_customer(update(CustomerPatch::default(), &[path], token)).await;
        assert_refused(refused, Code::InvalidArgument, "UPDATE_MASK_INVALID");
    }
    let nameless = customers.update_customer(update(CustomerPatch::default(), &["username"], token)).await;
    assert_refused(nameless, Code::InvalidArgument, "REQUEST_INVALID");
    world.register("taken").await;
    let taken = CustomerPatch { username: "TAKEN".into(), ..CustomerPatch::default() };
    assert_refused(customers.update_customer(update(taken, &[], token)).await, Code::AlreadyExists, "USERNAME_TAKEN");
    world.end().await;
}

#[tokio::test]
async fn updates_at_once_all_count_and_every_version_has_its_event() {
    let world = World::start().await;
    let (customer, tokens) = world.signed_in("sample").await;
    let updates = (0..10).map(|at| {
        let (mut customers, token) = (world.customers(), tokens.access_token.clone());
        let patch = CustomerPatch { phone: at.to_string(), ..CustomerPatch::default() };
        tokio::spawn(async move { customers.update_customer(update(patch, &[], &token)).await.unwrap().into_inner().etag })
    });
    let mut etags = Vec::new();
    for update in updates.collect::<Vec<_>>() {
        etags.push(update.await.unwrap().parse::<i64>().unwrap());
    }
    etags.sort_unstable();
    assert_eq!(etags, (2..=11).collect::<Vec<_>>());
    let last = world.customers().get_customer(get(&customer.id, &tokens.access_token)).await.unwrap().into_inner();
    assert_eq!(last.etag, "11");
    world.end().await;
}

#[tokio::test]
async fn roles_come_from_an_admin_only_and_end_the_sessions() {
    let world = World::start().await;
    let (customer, tokens) = world.signed_in("sample").await;
    let mut customers = world.customers();
    let myself = customers.set_customer_roles(roles(&customer.id, &["admin"], &tokens.access_token)).await;
    assert_refused(myself, Code::PermissionDenied, "CALLER_NOT_ALLOWED");

    // A registration that smuggles roles in: the field of the answer, under every number that is free in the request.
    let mut bytes = registration("smuggler").encode_to_vec();
    for field in 6u32..20 {
        prost::encoding::string::encode(field, &"admin".to_owned(), &mut bytes);
    }
    let smuggled = RegisterCustomerRequest::decode(bytes.as_slice()).unwrap();
    assert_eq!(customers.register_customer(keyed(smuggled)).await.unwrap().into_inner().roles.len(), 0);

    let admin = world.admin().await;
    let request = roles(&customer.id, &["support", "staff"], &admin);
    let set = customers.set_customer_roles(request).await.unwrap().into_inner();
    assert_eq!((set.roles, set.etag.as_str()), (vec!["support".to_owned(), "staff".to_owned()], "2"));
    let request = mercato_contracts::mercato::customer::v1::RefreshTokenRequest { refresh_token: tokens.refresh_token };
    // of a token whose session has ended, so that it may be sent as often as it takes
    let (auth, request) = (&world.auth(), &request);
    let refreshed = patiently("a refusal", || async { auth.clone().refresh_token(request.clone()).await }).await;
    assert_refused(refreshed, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
    let support = world.login("sample", PASSWORD).await.unwrap().access_token;
    let other = world.register("other").await;
    assert_eq!(customers.get_customer(get(&other.id, &support)).await.unwrap().into_inner().id, other.id);
    let no_admin = customers.set_customer_roles(roles(&other.id, &["staff"], &support)).await;
    assert_refused(no_admin, Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    let absent = customers.set_customer_roles(roles(&ids::new().to_string(), &[], &admin)).await;
    assert_refused(absent, Code::NotFound, "CUSTOMER_NOT_FOUND");
    let unknown = customers.set_customer_roles(roles(&other.id, &["root"], &admin)).await;
    assert_refused(unknown, Code::InvalidArgument, "REQUEST_INVALID");
    world.end().await;
}

#[tokio::test]
async fn seeding_twice_makes_one_account_and_follows_the_password() {
    let world = World::start().await;
    let db = world.db().await;
    let first = mercato_customer::seed(&db, "Admin@example.com", "first password", &["admin"]).await.unwrap();
    let same = mercato_customer::seed(&db, "admin@example.com", "first password", &["admin"]).await.unwrap();
    assert_eq!(first, same);
    assert!(world.login("admin", "first password").await.is_ok());
    let changed = mercato_customer::seed(&db, "admin@example.com", "second password", &[]).await.unwrap();
    assert_eq!(first, changed);
    assert_refused(world.login("admin", "first password").await, Code::Unauthenticated, "CREDENTIALS_INVALID");
    let tokens = world.login("admin", "second password").await.unwrap();
    let admin = world.customers().get_customer(get("me", &tokens.access_token)).await.unwrap().into_inner();
    assert_eq!((admin.roles, admin.etag.as_str()), (vec!["admin".to_owned()], "2"));
    let namesake = mercato_customer::seed(&db, "admin@example.org", "third password", &[]).await.unwrap();
    assert_ne!(first, namesake);
    db.close().await;
    world.end().await;
}
