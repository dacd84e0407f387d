//! Copies of the event log in files: a damaged one, or somebody else's, is refused, and nothing of it is left anywhere.

use crate::house::{House, LONG};
use mercato_testkit::eventually;
use std::collections::BTreeSet;

/// A shop that has told what it was founded with, and a copy of that. On a busy machine an event may be sent twice, which is allowed; then
/// another shop is founded.
async fn with_a_copy() -> (House, Vec<String>) {
    for _ in 0..10 {
        let (house, lines) = one_with_a_copy().await;
        let ids: BTreeSet<String> = lines.iter().map(String::as_str).filter_map(event_id).collect();
        // four products and their stock, two logins, one with roles; a line before and one after
        if ids.len() + 2 == lines.len() {
            assert_eq!(lines.len(), 13, "{lines:?}");
            return (house, lines);
        }
    }
    panic!("ten shops have sent an event twice");
}

/// Which event is in a line of a copy; none in the first and the last line.
fn event_id(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let event = line.get("event")?;
    Some(format!("{} {} {}", event["topic"], event["aggregate"], event["sequence"]))
}

async fn one_with_a_copy() -> (House, Vec<String>) {
    let mut house = House::new().await;
    house.start("catalog,inventory,customer").await;
    for role in ["catalog", "inventory", "customer"] {
        house.sent(role).await;
    }
    // the one consumer among them says how far it is
    let heard = || async {
        house.succeeds(&["events", "place", "--out", "place.json"]);
        let place = std::fs::read_to_string(house.folder.join("place.json")).expect("a place");
        let place: Vec<(String, i32, i64)> = serde_json::from_str(&place).expect("a place");
        let inventory = place.iter().filter(|(topic, ..)| topic == "inventory").map(|(.., offset)| offset);
        (inventory.sum::<i64>() >= 4).then_some(())
    };
    eventually("catalog has taken the levels", LONG, heard).await;
    house.kill("catalog,inventory,customer");
    house.succeeds(&["events", "save", "--all", "--out", "copy.jsonl"]);
    let copy = std::fs::read_to_string(house.folder.join("copy.jsonl")).expect("a copy");
    let lines: Vec<String> = copy.lines().map(str::to_owned).collect();
    (house, lines)
}

/// Restores from these bytes, which must be refused with these words; the topics are empty and stay so.
fn refused(house: &House, copy: &str, why: &str) {
    std::fs::write(house.folder.join("bad.jsonl"), copy).expect("a file");
    let told = house.fails(&["events", "restore", "--from", "bad.jsonl", "--lost", "lost.jsonl"]);
    assert!(told.starts_with("error: ") && told.contains(why), "{why:?} is not in {told}");
    let left: Vec<_> = std::fs::read_dir(&house.folder).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("lost.jsonl")), "{left:?}");
    assert_eq!(saved(house), 0, "{why}");
}

/// How many events the log holds.
fn saved(house: &House) -> usize {
    let told = house.succeeds(&["events", "save", "--all", "--out", "now.jsonl"]);
    told.trim().strip_prefix("saved ").and_then(|rest| rest.strip_suffix(" events")).and_then(|n| n.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_damaged_copy_is_refused_and_a_whole_one_said_again_once() {
    let (house, lines) = with_a_copy().await;
    let whole = lines.join("\n") + "\n";
    let told = house.fails(&["events", "restore", "--from", "copy.jsonl", "--lost", "lost.jsonl"]);
    assert!(told.contains("is not empty"), "two histories must not be mixed: {told}");
    house.empty().await;
    assert_eq!(saved(&house), 0);

    refused(&house, "", "this is no copy of events");
    refused(&house, &whole[..whole.len() - 5], "the copy is cut off in line 13");
    refused(&house, &whole[..whole.len() / 2], "the copy is cut off in line");
    refused(&house, &(lines[..7].join("\n") + "\n"), "the copy is cut off after 6 events");
    refused(&house, &(lines[1..].join("\n") + "\n"), "this is no copy of events");
    refused(&house, &whole.replacen(&(lines[3].clone() + "\n"), "", 1), "line 12 of the copy: 10 of 11 events are there");
    refused(&house, &whole.replacen("\"payload\":\"", "\"payload\":\"*", 1), "of the copy: payload");
    refused(&house, &whole.replacen("\"topic\":\"catalog\"", "\"topic\":\"catalogue\"", 1), "of the copy: no topic catalogue");
    refused(&house, &whole.replacen("\"sequence\"", "\"number\"", 1), "of the copy: missing field");
    refused(&house, &(whole.clone() + &whole), "the copy goes on after its end");

    let told = house.succeeds(&["events", "restore", "--from", "copy.jsonl", "--lost", "lost.jsonl"]);
    assert!(told.contains("catalog: 4 said again, 0 lost") && told.contains("inventory: 4 said again, 0 lost"), "{told}");
    assert_eq!(saved(&house), 11);
    let now = std::fs::read_to_string(house.folder.join("now.jsonl")).expect("a copy");
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(without_time).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&now), sorted(&whole), "said again word for word");
    assert_eq!(std::fs::read_to_string(house.folder.join("lost.jsonl")).expect("a list"), "");
}

/// A line without the time at which the broker took the event.
fn without_time(line: &str) -> String {
    let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    if let Some(event) = line.get_mut("event") {
        event["time"] = 0.into();
    }
    line.to_string()
}

#[tokio::test]
async fn the_copy_and_the_place_of_another_shop_are_refused() {
    let (house, lines) = with_a_copy().await;
    let other = House::new().await;
    refused(&other, &(lines.join("\n") + "\n"), "the copy is of another shop: the database of");

    std::fs::copy(house.folder.join("place.json"), other.folder.join("place.json")).expect("a file");
    let told = other.fails(&["events", "save", "--since", "place.json", "--out", "end.jsonl"]);
    assert!(told.contains("the place is not in this log"), "{told}");
    assert!(!other.folder.join("end.jsonl").exists() && !other.folder.join("end.jsonl.unfinished").exists(), "half a copy is left");
    std::fs::write(other.folder.join("place.json"), "[").expect("a file");
    let told = other.fails(&["events", "save", "--since", "place.json", "--out", "end.jsonl"]);
    assert!(told.contains("place.json is no place in the log"), "{told}");
}
