//! Which known name an unknown one was probably meant to be.
//! Upstream: cobra's SuggestionsFor.
//! Differs: serves flags, fields and feature gates alike.

/// The nearest of `known` to `name`, if any is near enough to be worth naming. Case does not count.
#[must_use]
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    known
        .into_iter()
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(name.len()) / 3).clamp(1, 5))
        .map(|(_, candidate)| candidate)
}

/// How many characters have to be added, dropped, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut best = (above[j] + usize::from(ca != cb)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_name_that_was_meant() {
        let known = ["maxPods", "podsPerCore", "maxOpenFiles", "clusterDNS"];
        assert_eq!(nearest("maxpods", known), Some("maxPods"));
        assert_eq!(nearest("maxPdos", known), Some("maxPods"));
        assert_eq!(nearest("clusterDns", known), Some("clusterDNS"));
        assert_eq!(nearest("colour", known), None);
    }
}
