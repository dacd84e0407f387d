//! Any order of events, answers, losses and crashes keeps the money right, and everything ends once the faults end.

use super::*;
use proptest::prelude::*;
use std::{collections::HashMap, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    LostBefore,
    LostAfter,
    /// It arrives half a minute later, within the settle time.
    Delayed,
    Transient,
    Declined,
    SoftDeclined,
    WrongAmount,
    /// The call arrives and the worker dies before it stores the answer.
    Crash,
}

/// The provider's books.
#[derive(Debug, Default)]
struct Psp {
    held: HashMap<String, i64>,
    voided: Vec<String>,
    refusals: HashMap<String, FoundState>,
    captures: HashMap<String, i64>,
    refunds: Vec<(String, String, i64)>,
    answers: HashMap<String, Reply>,
}

impl Psp {
    fn call(&mut self, step: Step, reference: &str, key: &str, amount: i64, fate: Fate) -> Reply {
        match fate {
            Fate::Transient => return Reply::Transient("503".into()),
            Fate::LostBefore | Fate::Delayed => return Reply::Unknown("lost".into()),
            _ => {}
        }
        let known = self.answers.get(key).cloned();
        let reply = known.unwrap_or_else(|| {
            let reply = self.decide(step, reference, key, amount, fate);
            self.answers.insert(key.to_owned(), reply.clone());
            reply
        });
        if fate == Fate::LostAfter { Reply::Unknown("lost".into()) } else { reply }
    }

    fn decide(&mut self, step: Step, reference: &str, key: &str, amount: i64, fate: Fate) -> Reply {
        let reference = reference.to_owned();
        let captured = self.captures.get(&reference).copied().unwrap_or(0);
        match step {
            Step::Authorize if self.voided.contains(&reference) => Reply::Refused("closed".into()),
            Step::Authorize if fate == Fate::Declined => {
                self.refusals.insert(reference, FoundState::Declined);
                Reply::Declined
            }
            Step::Authorize if fate == Fate::SoftDeclined => {
                self.refusals.insert(reference, FoundState::SoftDeclined);
                Reply::SoftDeclined
            }
            Step::Authorize if fate == Fate::WrongAmount => {
                self.held.insert(reference, amount + 1);
                Reply::Mismatch("wrong".into())
            }
            Step::Authorize => {
                assert!(self.held.insert(reference, amount).is_none(), "held twice");
                Reply::Approved { amount }
            }
            Step::Capture if self.voided.contains(&reference) || !self.held.contains_key(&reference) => Reply::Refused("not held".into()),
            Step::Capture => {
                assert!(self.captures.insert(reference, amount).is_none(), "captured twice");
                Reply::Approved { amount }
            }
            Step::Void if captured > 0 => Reply::Refused("captured".into()),
            Step::Void => {
                self.voided.push(reference.clone());
                Reply::Approved { amount: self.held.get(&reference).copied().unwrap_or(0) }
            }
            Step::Refund => {
                let refunded: i64 = self.refunds.iter().map(|(_, _, amount)| amount).sum();
                assert!(refunded + amount <= captured, "refunded more than captured");
                self.refunds.push((reference, key.to_owned(), amount));
                Reply::Approved { amount }
            }
        }
    }

    fn look_up(&self, reference: &str) -> Sight {
        let authorized = self.held.get(reference).copied().unwrap_or(0);
        let captured = self.captures.get(reference).copied().unwrap_or(0);
        let refunds = self.refunds.iter().filter(|(r, _, _)| r == reference).map(|(_, key, amount)| (key.clone(), *amount)).collect();
        let state = match () {
            () if self.voided.iter().any(|r| r == reference) => FoundState::Voided,
            () if captured > 0 => FoundState::Captured,
            () if authorized > 0 => FoundState::Authorized,
            () => match self.refusals.get(reference) {
                Some(state) => *state,
                None => return Sight::NotFound,
            },
        };
        Sight::Found(Found { state, currency: "EUR".into(), authorized, captured, refunds })
    }

    fn still_held(&self) -> i64 {
        self.held.iter().filter(|(r, _)| !self.voided.contains(r) && !self.captures.contains_key(*r)).map(|(_, amount)| amount).sum()
    }
}

/// A payment with its work items, ledger and events; what the store keeps in reality.
struct World {
    payment: Payment,
    psp: Psp,
    policy: Policy,
    now: OffsetDateTime,
    work: Vec<(OffsetDateTime, Option<Step>, Uuid, u32)>,
    /// Calls still on their way.
    under_way: Vec<(OffsetDateTime, Step, String, Attempt)>,
    balances: HashMap<&'static str, i64>,
    cases: Vec<Step>,
    events: Vec<EventKind>,
}

impl World {
    fn new(amount: i64, tries: i32) -> World {
        let now = OffsetDateTime::UNIX_EPOCH;
        let new = NewPayment {
            order_id: Uuid::from_u128(7),
            customer_id: Uuid::from_u128(8),
            amount,
            currency: "EUR".into(),
            method: "card".into(),
            token: Token("tok".into()),
        };
        let (payment, effects) = Payment::begin_for_order(new, Uuid::from_u128(9), now);
        let policy = Policy { deadline: Duration::from_secs(840), settle: Duration::from_secs(60), tries, scale: TimeScale(100) };
        let (work, balances, cases) = (vec![], HashMap::new(), vec![]);
        let mut world = World { payment, psp: Psp::default(), policy, now, work, under_way: vec![], balances, cases, events: vec![] };
        world.take(effects);
        world
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Emit(kind, version, _) => {
                    self.events.push(kind);
                    assert_eq!(version, self.events.len() as i64, "the sequence has a gap");
                }
                Effect::Post(posting) => {
                    assert!(posting.amount > 0);
                    for entry in posting.entries() {
                        assert_ne!(entry.debit, entry.credit, "a posting goes nowhere");
                        *self.balances.entry(entry.debit).or_default() += posting.amount;
                        *self.balances.entry(entry.credit).or_default() -= posting.amount;
                    }
                }
                Effect::Do(step, id, after) => self.enqueue(Some(step), id, after),
                Effect::LookUp(id, after) => self.enqueue(None, id, after),
                Effect::OpenCase(step, _) => {
                    if !self.cases.contains(&step) {
                        self.cases.push(step);
                    }
                }
                Effect::CloseCase(step) => self.cases.retain(|s| *s != step),
                Effect::Alarm(_) => {}
            }
        }
        let view = &self.payment.view;
        assert!(view.captured <= view.amount && view.refunded + self.payment.refunding() <= view.captured);
        assert!(self.psp.captures.values().sum::<i64>() <= view.amount);
    }

    fn enqueue(&mut self, step: Option<Step>, id: Uuid, after: Duration) {
        let due = self.now + after;
        match self.work.iter_mut().find(|(_, s, i, _)| (*s, *i) == (step, id)) {
            Some(item) => item.0 = item.0.min(due),
            None => self.work.push((due, step, id, 0)),
        }
    }

    /// Runs the next due item; false when there is none.
    fn run(&mut self, fate: Fate) -> bool {
        let Some(next) = (0..self.work.len()).min_by_key(|i| self.work[*i].0) else { return false };
        let (due, step, id, runs) = self.work.swap_remove(next);
        self.now = self.now.max(due) + Duration::from_millis(5);
        let run = runs + 1;
        self.arrive();
        let outcome = match step {
            None if fate == Fate::Answered => {
                self.payment.looked_up(id, self.psp.look_up(&self.payment.reference()), &self.policy, self.now)
            }
            None => self.payment.looked_up(id, Sight::Failed("lost".into()), &self.policy, self.now),
            Some(step) => match self.payment.begin(id, run == 1, &self.policy, self.now) {
                Begin::Skip => Outcome::default(),
                Begin::Changed(outcome) => outcome,
                Begin::Send => {
                    let attempt = self.payment.attempt(id).expect("attempt").clone();
                    if fate == Fate::Delayed {
                        self.under_way.push((self.now + Duration::from_secs(30), step, self.payment.reference(), attempt.clone()));
                    }
                    let reply = self.psp.call(step, &self.payment.reference(), &attempt.key, attempt.amount, fate);
                    if fate == Fate::Crash {
                        self.work.push((self.now + Duration::from_secs(30), Some(step), id, run));
                        return true;
                    }
                    self.payment.reply(id, reply, &self.policy, self.now)
                }
            },
        };
        if let Some(after) = outcome.again {
            self.work.push((self.now + after, step, id, run));
        }
        self.take(outcome.effects);
        true
    }

    fn arrive(&mut self) {
        let now = self.now;
        for (_, step, reference, attempt) in self.under_way.extract_if(.., |(at, ..)| *at <= now) {
            self.psp.call(step, &reference, &attempt.key, attempt.amount, Fate::Answered);
        }
    }

    fn check_at_rest(&mut self) {
        self.now += Duration::from_secs(3600);
        self.arrive();
        let view = &self.payment.view;
        let captured: i64 = self.psp.captures.values().sum();
        let refunded: i64 = self.psp.refunds.iter().map(|(_, _, amount)| amount).sum();
        let stuck = view.status == Status::NeedsOperator;
        assert!(!matches!(view.status, Status::Pending | Status::Unknown), "unknown at rest");
        assert_eq!(stuck, !self.cases.is_empty(), "a stuck payment has an open case");
        assert!(self.events.iter().filter(|e| **e == EventKind::Unknown).count() <= 1);
        if stuck {
            return;
        }
        assert_eq!((view.captured, view.refunded), (captured, refunded), "the books differ");
        assert_eq!(self.balances.get("provider.hold").copied().unwrap_or(0), self.psp.still_held(), "the holds differ");
        assert_eq!(self.balances.get("provider.balance").copied().unwrap_or(0), captured - refunded);
        if self.payment.cancelled || view.status == Status::Failed {
            assert_eq!((captured - refunded, self.psp.still_held()), (0, 0), "money is left");
        }
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Answered), 2 => Just(Fate::LostBefore), 2 => Just(Fate::LostAfter), 2 => Just(Fate::Delayed), 2 => Just(Fate::Transient),
        1 => Just(Fate::Declined), 1 => Just(Fate::SoftDeclined), 1 => Just(Fate::WrongAmount), 2 => Just(Fate::Crash),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Run(Fate),
    Confirm,
    Cancel,
    Refund(Option<i64>),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => fate().prop_map(Act::Run),
        2 => Just(Act::Confirm),
        1 => Just(Act::Cancel),
        1 => prop::option::of(-1_i64..120).prop_map(Act::Refund),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn money_is_never_wrong_and_everything_ends(acts in prop::collection::vec(act(), 0..60), tries in 2..8_i32, amount in 0_i64..100) {
        let mut world = World::new(amount, tries);
        for act in acts {
            match act {
                Act::Run(fate) => { world.run(fate); }
                // An order is confirmed only after it was told that the amount is held.
                Act::Confirm if world.payment.view.status != Status::Authorized => {}
                Act::Confirm => { let effects = world.payment.order_confirmed(world.now); world.take(effects); }
                Act::Cancel => { let effects = world.payment.order_cancelled(world.now); world.take(effects); }
                Act::Refund(amount) => if let Ok(effects) = world.payment.request_refund(amount, world.now) { world.take(effects); },
            }
        }
        let mut runs = 0;
        while world.run(Fate::Answered) {
            runs += 1;
            prop_assert!(runs < 500, "it does not end: {:?}", world.payment);
        }
        world.check_at_rest();
    }
}

#[test]
fn a_soft_decline_is_tried_again_with_another_key_until_time_runs_out() {
    let mut world = World::new(100, 20);
    while world.run(Fate::SoftDeclined) {}
    let keys: Vec<_> = world.payment.attempts.iter().map(|a| a.key.clone()).collect();
    assert!(keys.len() > 5 && keys.windows(2).all(|pair| pair[0] != pair[1]), "{keys:?}");
    assert_eq!((world.payment.view.status, world.payment.view.failure_reason.as_str()), (Status::Failed, "PAYMENT_EXPIRED"));
    assert!(world.now - OffsetDateTime::UNIX_EPOCH <= Duration::from_secs(840));
}

#[test]
fn a_wrong_amount_is_never_accepted_and_given_back() {
    let mut world = World::new(100, 20);
    world.run(Fate::WrongAmount);
    assert_eq!(world.payment.view.status, Status::Unknown);
    while world.run(Fate::Answered) {}
    assert_eq!(world.payment.view.status, Status::Failed);
    world.check_at_rest();
}

#[test]
fn references_are_read_back() {
    let order = Uuid::from_u128(77);
    assert_eq!(reference_of_key(&attempt::reference(order, 1)), Some(order));
    assert_eq!(reference_of_key(&attempt::reference(order, 3)), Some(order));
    assert_eq!(reference_of_key(&format!("{order}:capture:1")), Some(order));
    assert_eq!(reference_of_key("somebody-elses"), None);
}
