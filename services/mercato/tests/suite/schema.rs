//! A tester written by others reads our OpenAPI document and sends what it allows and what it forbids: Schemathesis.

use super::{
    children::program,
    door,
    inputs::{World, still_served},
    rest,
    shop::shop,
    shopper::with,
    signer::unix,
};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

one_at_a_time!(finds_no_fault_as_a_customer, finds_no_fault_as_staff);

/// Cases are the same each time.
const SEED: &str = "20260131";
/// Cases of each phase for an operation.
const EXAMPLES: &str = "12";
/// What is checked of each answer. Not `positive_data_acceptance`: a document cannot say that a product must exist to be ordered. Not
/// `unsupported_method`: it holds 400 for wrong where the verb is one that HTTP does not know; `garbage_json` has a test of its own.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,negative_data_rejection,missing_required_header,ignored_auth";

/// Fails with what it tells. One worker: in Python 3.11 two threads that parse Python at the same time disturb each other (SystemError: AST
/// constructor recursion depth mismatch), and Schemathesis does so.
async fn finds_no_fault(claims: &Value, what: &str) {
    let shop = shop();
    let token = shop.signer.sign(claims);
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/python");
    let report = shop.logs.join(format!("schemathesis-{what}.log"));
    let output = Command::new(program("SCHEMATHESIS", None).expect("make test installs it"))
        .args(["run", &format!("{}/openapi.json", shop.edge), "--url", &shop.edge])
        .args(["--header", &format!("Authorization: Bearer {token}"), "--checks", CHECKS])
        .args(["--seed", SEED, "--max-examples", EXAMPLES, "--workers", "1", "--phases", "examples,coverage,fuzzing"])
        .args(["--exclude-path-regex", ":watch$", "--request-timeout", "120", "--suppress-health-check", "all", "--no-color"])
        .args(["--generation-database", "none", "--warnings", "off"])
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("PYTHONPATH", &hooks)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&shop.logs)
        .output()
        .expect("schemathesis runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    std::fs::write(&report, &told).expect("a report");
    println!("{}", told.lines().rev().take(25).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
    assert!(output.status.success(), "schemathesis found something; all of it is in {}:\n{told}", report.display());
    // with a token that has run out everything would be refused, and nothing found
    let mine = reqwest::Client::new().get(format!("{}/api/orders", shop.edge)).bearer_auth(token);
    assert_eq!(rest::reply(mine).await.expect("an answer").status, 200, "the token was good to the end");
}

/// Claims of the world's customer that are good for about an hour, the longest that the edge takes, and a run takes a minute: what is done to "me" must not be done to the suite's
/// own staff.
fn claims(world: &World, roles: &[&str]) -> Value {
    with(shop().signer.claims(roles), json!({ "sub": world.owner.id, "exp": unix() + 3500 }))
}

async fn finds_no_fault_as_a_customer() {
    let world = World::new(&door::rest()).await;
    finds_no_fault(&claims(&world, &[]), "customer").await;
    still_served(&world).await;
}

/// A customer who holds every role.
async fn finds_no_fault_as_staff() {
    let world = World::new(&door::rest()).await;
    finds_no_fault(&claims(&world, &["staff", "support", "admin"]), "staff").await;
    still_served(&world).await;
}
