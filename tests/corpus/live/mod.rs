//! Stage `live`: the cases on a node of their own with a real API server, a real containerd and our agent, several side by side.
#![expect(clippy::disallowed_methods, reason = "real time, and threads that wait for it, are what this stage is about")]

mod bed;
mod ears;
mod http;
mod record;
mod registry;
mod run;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::case::Case;
use super::compare::{Difference, keep_common};
use super::{Judge, cases};
use bed::{Bed, Means};
use ears::lock;

/// How many cases run side by side.
const SIDE_BY_SIDE: usize = 8;
/// How often a case runs at most.
const ROUNDS: u32 = 3;
/// What every part of this stage is called in front.
const PREFIX: &str = "corpus_";

/// The cases that `KEELSON_LIVE` asks for by a beginning of `corpus_NNN-name`, and whether these are all there are. Nobody who does
/// not ask waits for minutes.
fn wanted() -> (Vec<Case>, bool) {
    let word = std::env::var("KEELSON_LIVE").unwrap_or_default();
    if word.is_empty() {
        return (Vec::new(), false);
    }
    let whole = PREFIX.starts_with(&word) && super::chosen().is_empty();
    (cases().into_iter().filter(|case| format!("{PREFIX}{}", case.id).starts_with(&word)).collect(), whole)
}

#[test]
fn cases_come_out_on_a_machine_as_under_the_kubelet() {
    let (cases, whole) = wanted();
    if cases.is_empty() {
        println!("skipped: stage live: no case is asked for: KEELSON_LIVE={PREFIX} asks for all");
        return;
    }
    let means = match Means::find() {
        Ok(means) => means,
        Err(missing) => {
            println!("skipped: stage live: {missing}");
            return;
        }
    };
    // A thread of its own, since it moves into another network and can never come back.
    let ran = std::thread::spawn(move || -> anyhow::Result<Judge> {
        let judge = Judge::new(means.stage, whole);
        let bed = Bed::up(means)?;
        let judge = on(&bed, cases, judge);
        bed.down(judge.is_surprised())?;
        Ok(judge)
    });
    let judge = ran.join().expect("the stage itself does not panic").unwrap_or_else(|error| panic!("the test bed: {error:#}"));
    judge.close();
}

/// Runs cases on a bed. One that comes out otherwise than the tables say runs again, and what differs every time counts: when a busy
/// machine looks at a container that lives for a moment is chance, for the kubelet as for us.
fn on(bed: &Bed, cases: Vec<Case>, mut judge: Judge) -> Judge {
    let began = Instant::now();
    let mut left: Vec<(Case, Option<Vec<Difference>>)> = Vec::new();
    for case in cases {
        if judge.takes(&case) {
            left.push((case, None));
        }
    }
    let judge = Mutex::new(judge);
    for round in 1..=ROUNDS {
        let again = Mutex::new(Vec::new());
        println!("round {round}: {} cases, after {:?}", left.len(), began.elapsed());
        side_by_side(left, |(case, before)| {
            let start = Instant::now();
            let (seen, problems) = run::run(bed, &case.in_round(round));
            let mut judge = lock(&judge);
            let mut found = judge.differences(&case, &seen, &problems);
            if let Some(mut before) = before {
                keep_common(&mut before, &found);
                found = before;
            }
            if round < ROUNDS && !judge.knows(&case, &found) {
                lock(&again).push((case, Some(found)));
                return;
            }
            let word = if judge.judge(&case, found) { "ok" } else { "FAILED" };
            println!("{word} {PREFIX}{} ({:?})", case.id, start.elapsed());
        });
        left = again.into_inner().unwrap_or_else(PoisonError::into_inner);
        if left.is_empty() {
            break;
        }
    }
    println!("all in {:?}", began.elapsed());
    judge.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with all of them, several at once.
fn side_by_side<T: Send>(all: Vec<T>, act: impl Fn(T) + Sync) {
    let all = Mutex::new(all.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let next = lock(&all).next();
                    let Some(one) = next else { return };
                    act(one);
                }
            });
        }
    });
}
