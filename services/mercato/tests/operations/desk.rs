//! What an operator asks a shop whose pods hold nothing but the program: `mercato sql`, `mercato get`, and `ops/shell` with them.

use crate::house::{House, LONG};
use mercato_testkit::eventually;
use std::{path::Path, process::Command};

fn told(house: &House, arguments: &[&str]) -> String {
    let output = house.mercato(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn an_operator_asks_a_role_and_its_database() {
    let mut house = House::new().await;
    let admin = house.launch("catalog,inventory,customer");
    let ready = || async { house.mercato(&["get", &format!("127.0.0.1:{admin}/readyz")]).status.success().then_some(()) };
    eventually("it is ready", LONG, ready).await;
    assert!(told(&house, &["get", &format!("127.0.0.1:{admin}/metrics")]).contains("mercato_build_info"));
    assert!(house.fails(&["get", &format!("127.0.0.1:{admin}/nothing")]).contains("404"));

    assert_eq!(told(&house, &["sql", "catalog", "select 7 as n, null as nothing"]), " n | nothing\n---+---------\n 7 |\n(1 row)\n");
    let refused = house.fails(&["sql", "catalog", "update product set version = version + 1000; select * from nowhere"]);
    assert!(refused.contains(r#"postgresql says: relation "nowhere" does not exist"#), "{refused}");
    assert_eq!(house.count("catalog", "select count(*) from product where version > 1000").await, 0, "a refused one changes nothing");
    assert!(house.fails(&["sql", "gateway", "select 1"]).contains("gateway has no database"));
    assert!(house.fails(&["sql", "warehouse", "select 1"]).contains("is not one of"));
}

#[tokio::test]
async fn what_was_parked_is_tried_again_or_given_up() {
    let house = House::new().await;
    let (aggregate, other) = ("00000000-0000-7000-8000-00000000000a", "00000000-0000-7000-8000-00000000000b");
    for (aggregate, sequence) in [(aggregate, 1), (aggregate, 2), (other, 1)] {
        let row = "gen_random_uuid(), 'ordering', 'payments', 'payment.authorized', now(), '\\x', 0, 0, 'DEAD', 'why', 12, now()";
        let columns = "event_id, consumer, topic, kind, at, payload, source_partition, source_offset, state, error, attempts, next_at, aggregate, sequence";
        house.sql("ordering", &format!("insert into parked ({columns}) values ({row}, '{aggregate}', {sequence})")).await;
    }
    let run = |arguments: &[&str]| {
        let statements =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/parked")).args(arguments).output().expect("it runs");
        assert!(statements.status.success(), "{}", String::from_utf8_lossy(&statements.stderr));
        told(&house, &["sql", "ordering", &String::from_utf8(statements.stdout).expect("text")])
    };
    let list = run(&[]);
    assert!(list.contains(aggregate) && list.contains(other) && list.contains("(2 rows)"), "the first of each: {list}");
    assert!(run(&["retry", aggregate]).contains("WAITING"));
    assert_eq!(house.count("ordering", "select count(*) from parked where state = 'WAITING' and attempts = 0").await, 1);
    assert!(run(&["skip", aggregate]).contains("payment.authorized"), "it is shown before it is gone");
    assert_eq!(house.count("ordering", "select sum(sequence)::bigint from parked").await, 3, "the second waits, and so does the other");
    assert_eq!(house.count("ordering", "select last_seq from inbox_sequence").await, 1);
}
