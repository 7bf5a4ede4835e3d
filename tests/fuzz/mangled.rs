//! Inputs that nobody meant: what a parser is fed with is mangled, from seeds that it knows, and it must neither panic nor take for ever.
//!
//! Each crate has this file as a test module of its own (its parsers are nobody else's business). Every target first gets its seeds as they
//! are, in which the inputs that once broke it stay, and then `KEELSON_FUZZ_CASES` mangled ones (the default is a second's worth or so),
//! drawn from `KEELSON_FUZZ_SEED`. What breaks is printed as a Rust literal, to be added to the seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many mangled inputs a target gets unless it is said otherwise.
const CASES: u64 = 1500;
/// The longest input.
const LONGEST: usize = 64 << 10;

/// What parsers of all sorts may stumble over.
const TOKENS: [&str; 56] = [
    "0",
    "-1",
    "1e400",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551616",
    "4294967296",
    "2147483648",
    "1e-400",
    "NaN",
    "0x",
    "999999999999999999999999999999999999999999",
    ".",
    "..",
    "/",
    "//",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\134",
    "\0",
    "\u{feff}",
    "\u{fffd}",
    "\u{10ffff}",
    "\u{301}",
    "\r\n",
    "\n",
    "\t",
    " ",
    "%",
    "%00",
    "%2f",
    "%zz",
    ":",
    "::1",
    "[",
    "]",
    "{",
    "}",
    "[[[[[[[[",
    "{\"a\":",
    "\"",
    "'",
    ",",
    "@",
    "#",
    "?",
    "&",
    "=",
    "null",
    "true",
    "9999-12-31T23:59:59Z",
    "-0001-01-01T00:00:00Z",
    "1Ei",
    "1h1m1s1ms",
    "é",
];

/// Draws numbers; the same from the same seed (SplitMix64, Steele and others, 2014).
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below that; 0 if there is none.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % (most as u64).max(1)).unwrap_or(0)
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One change, somewhere.
fn change(input: &mut Vec<u8>, seeds: &[&[u8]], draw: &mut Draw) {
    let at = draw.below(input.len() + 1);
    let end = (at + 1 + draw.below(8)).min(input.len());
    let long = (at + draw.below(input.len() + 1)).min(input.len());
    match draw.below(11) {
        0 | 1 => drop(input.splice(at..at, TOKENS[draw.below(TOKENS.len())].bytes())),
        2 => drop(input.splice(at..end.max(at), TOKENS[draw.below(TOKENS.len())].bytes())),
        3 => drop(input.drain(at..end.max(at))),
        4 => drop(input.drain(at..long)),
        5 if at < input.len() => input[at] ^= 1 << draw.below(8),
        6 if at < input.len() => input[at] = u8::try_from(draw.below(256)).unwrap_or(0),
        7 => {
            let again = input[at..long].to_vec();
            drop(input.splice(at..at, again));
        }
        8 => {
            let other = seeds[draw.below(seeds.len())];
            let from = draw.below(other.len() + 1);
            let to = (from + draw.below(other.len() + 1)).min(other.len());
            drop(input.splice(at..at, other[from..to].iter().copied()));
        }
        9 => {
            let token = TOKENS[draw.below(TOKENS.len())].repeat(1 + draw.below(300));
            drop(input.splice(at..at, token.bytes()));
        }
        // A number in it becomes another one.
        _ => {
            let is_digit = |byte: &u8| byte.is_ascii_digit();
            if let Some(from) = input[at..].iter().position(is_digit).map(|found| at + found) {
                let to = input[from..].iter().position(|byte| !is_digit(byte)).map_or(input.len(), |found| from + found);
                drop(input.splice(from..to, TOKENS[draw.below(12)].bytes()));
            }
        }
    }
    input.truncate(LONGEST);
}

/// Feeds a target with its seeds and with what becomes of them.
///
/// # Panics
/// If the target does, with the input.
#[track_caller]
pub(crate) fn each(target: &str, seeds: &[&[u8]], run: impl FnMut(&[u8])) {
    each_of(target, 1, seeds, run);
}

/// The same for one that takes so many times as long as others.
///
/// # Panics
/// If the target does, with the input.
#[track_caller]
pub(crate) fn each_of(target: &str, weight: u64, seeds: &[&[u8]], mut run: impl FnMut(&[u8])) {
    let seed = variable("KEELSON_FUZZ_SEED").unwrap_or(1);
    let cases = variable("KEELSON_FUZZ_CASES").unwrap_or(CASES) / weight;
    let mut draw = Draw(target.bytes().fold(seed, |mixed, byte| mixed.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)));
    println!("{target}: {} seeds and {cases} inputs drawn from seed {seed}", seeds.len());
    let mut fed = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| run(input))).is_err() {
            panic!("{target} breaks on b\"{}\"", input.escape_ascii());
        }
    };
    seeds.iter().for_each(|seed| fed(seed));
    for _ in 0..cases {
        let mut input = seeds[draw.below(seeds.len())].to_vec();
        for _ in 0..=draw.below(5) {
            change(&mut input, seeds, &mut draw);
        }
        fed(&input);
    }
}

/// Text, with what is none of it replaced.
pub(crate) fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}
