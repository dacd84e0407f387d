//! A million inputs nobody should send, on everything that reads what strangers and topics bring: no panic, no input over a second, no
//! growing memory, and nothing forged that passes. `make fuzz SEED=n INPUTS=n` plays more of them, `make fuzz INPUT=target:hex` one again.

#[path = "fuzz/corpus.rs"]
mod corpus;
#[path = "fuzz/engine.rs"]
mod engine;
#[path = "fuzz/messages.rs"]
mod messages;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/texts.rs"]
mod texts;

use engine::{Target, once, play, unhex};
use prost_reflect::DescriptorPool;

/// How many inputs `make test` plays.
const INPUTS: usize = 1_000_000;
/// Of which seed.
const SEED: u64 = 20_260_131;

fn pool() -> DescriptorPool {
    DescriptorPool::decode(mercato_contracts::FILE_DESCRIPTOR_SET).expect("our own descriptors")
}

fn targets(pool: &DescriptorPool) -> Vec<Target> {
    let mut targets = messages::all(pool);
    targets.extend(texts::all());
    targets
}

/// The number in a variable, if there is one.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn no_input_breaks_a_decoder() {
    let targets = targets(&pool());
    if let Some(again) = std::env::var("MERCATO_FUZZ_INPUT").ok().filter(|text| !text.is_empty()) {
        let (name, hex) = again.rsplit_once(':').expect("MERCATO_FUZZ_INPUT is target:hex");
        let target = targets.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"));
        once(target, &unhex(hex).expect("hexadecimal")).unwrap_or_else(|what| panic!("{name}: {what}"));
        println!("{name}: nothing happens");
        return;
    }
    let seed = number("MERCATO_FUZZ_SEED").unwrap_or(SEED);
    let inputs = number("MERCATO_FUZZ_INPUTS").map_or(INPUTS, |inputs| usize::try_from(inputs).expect("a sensible number"));
    let began = std::time::Instant::now();
    println!("seed {seed}");
    // the panics of a failing input are told once, at the end
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some("fuzz") {
            hook(info);
        }
    }));
    let played = play(&targets, seed, inputs).unwrap_or_else(|failure| panic!("{failure}"));
    println!("{played} inputs on {} targets in {:.1} s", targets.len(), began.elapsed().as_secs_f64());
    assert!(played >= inputs);
}

#[test]
fn no_message_is_forgotten() {
    let pool = pool();
    let forgotten = messages::forgotten(&pool, &targets(&pool));
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

/// The planted faults: without them, an engine that finds nothing would pass for decoders that break at nothing.
#[test]
fn planted_faults_are_found_and_made_small() {
    let planted = |name: &str, run: fn(&[u8])| {
        let corpus = vec![b"a good input of some length, with a ! in it".to_vec()];
        [Target { name: name.into(), corpus, mutate: |_, corpus| corpus[0].clone(), run: Box::new(run), share: 1 }]
    };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some("fuzz") {
            hook(info);
        }
    }));
    let panics = planted("panics", |bytes| assert!(!bytes.contains(&b'!')));
    let found = play(&panics, 1, 10).expect_err("the panic is found");
    assert_eq!(found.input, b"!", "{found}");
    let again = found.to_string();
    assert!(again.ends_with("'panics:21'"), "{again}");
    let slow = planted("spins", |bytes| {
        if bytes.len() > 40 {
            let began = std::time::Instant::now();
            while began.elapsed() < std::time::Duration::from_millis(1100) {
                std::hint::spin_loop();
            }
        }
    });
    let found = play(&slow, 1, 1).expect_err("the slow input is found");
    assert!(found.what.contains("took"), "{found}");
}
