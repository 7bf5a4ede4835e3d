//! Lists of CPUs, such as `0-3,8`.
//! Upstream: k8s.io/utils/cpuset (Parse).
//! Differs: nothing on purpose.

use std::collections::BTreeSet;

/// The CPUs that a text lists; an empty text lists none.
pub(super) fn parse(text: &str) -> Result<BTreeSet<u32>, String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
    let mut cpus = BTreeSet::new();
    for range in text.split(',').filter(|_| !text.is_empty()) {
        match range.split_once('-') {
            None => {
                cpus.insert(number(range)?);
            }
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(format!("invalid range {range:?} ({first} > {last})"));
                }
                cpus.extend(first..=last.min(first.saturating_add(1 << 16)));
            }
        }
    }
    Ok(cpus)
}

/// As upstream prints them (CPUSet.String).
pub(super) fn printed(cpus: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*cpu) => *last = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    let range = |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_printed_as_the_shortest_list() {
        for text in ["", "0", "0-3", "0-1,8", "1,3,5-7"] {
            assert_eq!(printed(&parse(text).unwrap()), text);
        }
        assert_eq!(printed(&parse("3,1,2").unwrap()), "1-3");
    }

    #[test]
    fn ranges_and_single_cpus_add_up() {
        assert_eq!(parse("0-2,8"), Ok(BTreeSet::from([0, 1, 2, 8])));
        assert_eq!(parse(""), Ok(BTreeSet::new()));
        assert!(parse("3-1").is_err());
        assert!(parse("a").is_err());
        assert!(parse("1,").is_err());
    }
}
