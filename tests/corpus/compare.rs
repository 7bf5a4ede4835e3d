//! Where what was seen differs from a recording.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The part, and the place in it.
    pub(super) path: String,
    /// What the kubelet did there.
    pub(super) kubelet: String,
    /// What ours did.
    pub(super) ours: String,
}

const ABSENT: &str = "(absent)";

/// Where a part differs from every one of its recordings.
pub(super) fn differences(part: &str, recordings: &Value, ours: &Value) -> Vec<Difference> {
    let mut recordings = recordings.as_array().into_iter().flatten().map(|recorded| {
        let mut found = Vec::new();
        match part {
            "events" => events(recorded, ours, &mut found),
            "transitions" => each_pod(recorded, ours, &mut found, steps),
            "runtime" => each_pod(recorded, ours, &mut found, deeds),
            _ => tree(recorded, ours, "", &mut found),
        }
        found
    });
    let mut all = recordings.next().unwrap_or_default();
    for other in recordings {
        keep_common(&mut all, &other);
    }
    for one in &mut all {
        one.path = format!("{part}/{}", one.path);
    }
    all
}

/// Whether a place is another, or lies in it: what one side has not at all, another may have otherwise in some part.
fn is_in(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '[']))
}

/// Keeps of differences those that are among others too, at the same place, around it or in it.
pub(super) fn keep_common(all: &mut Vec<Difference>, other: &[Difference]) {
    all.retain_mut(|one| {
        let same = other.iter().find(|same| same.path == one.path);
        let same = same.or_else(|| other.iter().find(|same| is_in(&same.path, &one.path) || is_in(&one.path, &same.path)));
        if let Some(same) = same.filter(|_| one.path.ends_with(" missing") || one.path.ends_with(" more")) {
            one.kubelet = in_both(&one.kubelet, &same.kubelet);
            one.ours = in_both(&one.ours, &same.ours);
            return one.kubelet != "-" || one.ours != "-";
        }
        same.is_some()
    });
}

/// Of two lists of values, those that are in both.
fn in_both(a: &str, b: &str) -> String {
    let b: BTreeSet<&str> = b.split(" , ").collect();
    let both: Vec<&str> = a.split(" , ").filter(|value| *value != "-" && b.contains(value)).collect();
    listed(&both)
}

fn listed(values: &[impl AsRef<str>]) -> String {
    if values.is_empty() { "-".to_owned() } else { values.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" , ") }
}

fn told(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn push(found: &mut Vec<Difference>, path: impl Into<String>, kubelet: impl Into<String>, ours: impl Into<String>) {
    found.push(Difference { path: path.into(), kubelet: kubelet.into(), ours: ours.into() });
}

/// At the topmost place where one side is missing, else at the leaf.
fn tree(a: &Value, b: &Value, path: &str, found: &mut Vec<Difference>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for key in x.keys().chain(y.keys()).collect::<BTreeSet<_>>() {
                let path = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
                match (x.get(key), y.get(key)) {
                    (Some(x), Some(y)) => tree(x, y, &path, found),
                    (x, y) => push(found, path, x.map_or(ABSENT.into(), told), y.map_or(ABSENT.into(), told)),
                }
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() && x.iter().chain(y).any(|item| item.is_object()) => {
            x.iter().zip(y).enumerate().for_each(|(at, (x, y))| tree(x, y, &format!("{path}[{at}]"), found));
        }
        _ if a != b => push(found, path, told(a), told(b)),
        _ => {}
    }
}

/// What is told by one side only, other messages, and other counts; how often within a factor of two means nothing.
fn events(a: &Value, b: &Value, found: &mut Vec<Difference>) {
    let keys = |a: &Value, b: &Value| -> BTreeSet<String> {
        [a, b].iter().filter_map(|side| side.as_object()).flat_map(|side| side.keys().cloned()).collect()
    };
    let null = Value::Null;
    let of = |side: &Value, key: &str| side.get(key).unwrap_or(&null).clone();
    for who in keys(a, b) {
        let (a, b) = (of(a, &who), of(b, &who));
        for field in keys(&a, &b) {
            let (a, b) = (of(&a, &field), of(&b, &field));
            for key in keys(&a, &b) {
                event(&of(&a, &key), &of(&b, &key), &format!("{who}/{field}/{key}"), found);
            }
        }
    }
}

fn event(a: &Value, b: &Value, path: &str, found: &mut Vec<Difference>) {
    let messages = |side: &Value| -> BTreeMap<String, u64> {
        let all = side.as_object().into_iter().flatten();
        all.filter_map(|(message, count)| Some((message.clone(), count.as_u64()?))).collect()
    };
    let (ma, mb) = (messages(a), messages(b));
    let names = |side: &BTreeMap<String, u64>, other: &BTreeMap<String, u64>| -> Vec<String> {
        side.keys().filter(|message| !other.contains_key(*message)).cloned().collect()
    };
    if ma.is_empty() || mb.is_empty() {
        let all =
            |side: &BTreeMap<String, u64>| if side.is_empty() { ABSENT.to_owned() } else { listed(&names(side, &BTreeMap::new())) };
        return push(found, path, all(&ma), all(&mb));
    }
    let (oa, ob) = (names(&ma, &mb), names(&mb, &ma));
    if !oa.is_empty() || !ob.is_empty() {
        push(found, format!("{path}/message"), listed(&oa), listed(&ob));
    }
    let (na, nb) = (ma.values().sum::<u64>(), mb.values().sum::<u64>());
    if na.abs_diff(nb) >= 2 && na.max(nb) > 2 * na.min(nb) {
        push(found, format!("{path}/count"), na.to_string(), nb.to_string());
    }
    if let Some(odd) = b.get("<odd>") {
        push(found, format!("{path}/odd"), "-", odd.to_string());
    }
}

fn each_pod(a: &Value, b: &Value, found: &mut Vec<Difference>, compare: fn(&[Value], &[Value], &str, &mut Vec<Difference>)) {
    let pods: BTreeSet<&String> = [a, b].iter().filter_map(|side| side.as_object()).flat_map(|side| side.keys()).collect();
    for pod in pods {
        let list = |side: &Value| side.get(pod).and_then(Value::as_array).cloned().unwrap_or_default();
        compare(&list(a), &list(b), pod, found);
    }
}

/// The step in which each value of each facet was first seen.
fn first(steps: &[Value]) -> Vec<((String, String), usize)> {
    let mut out: Vec<((String, String), usize)> = Vec::new();
    let mut known = BTreeSet::new();
    for (at, step) in steps.iter().enumerate() {
        for pair in step.as_array().into_iter().flatten() {
            let pair = (told(&pair[0]), told(&pair[1]));
            if known.insert(pair.clone()) {
                out.push((pair, at));
            }
        }
    }
    out
}

/// Values that one side never reports, and orders that contradict.
fn steps(a: &[Value], b: &[Value], pod: &str, found: &mut Vec<Difference>) {
    let (fa, fb) = (first(a), first(b));
    let mut facets: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    fa.iter().for_each(|((facet, value), _)| facets.entry(facet).or_default().0.push(value));
    fb.iter().for_each(|((facet, value), _)| facets.entry(facet).or_default().1.push(value));
    for (facet, (va, vb)) in facets {
        if facet.ends_with("restartCount") || facet == "observedGeneration" {
            if va.is_empty() != vb.is_empty() {
                push(found, format!("{pod}/{facet}"), listed(&va), listed(&vb));
            }
            continue;
        }
        let (oa, ob): (Vec<&str>, Vec<&str>) = (
            va.iter().filter(|value| !vb.contains(value)).copied().collect(),
            vb.iter().filter(|value| !va.contains(value)).copied().collect(),
        );
        only(&format!("{pod}/{facet}"), &oa, &ob, found);
    }
    orders(&fa, &fb, pod, found);
}

/// What one side has that the other lacks, each for itself.
fn only(path: &str, a: &[impl AsRef<str>], b: &[impl AsRef<str>], found: &mut Vec<Difference>) {
    if !a.is_empty() {
        push(found, format!("{path} missing"), listed(a), "-");
    }
    if !b.is_empty() {
        push(found, format!("{path} more"), "-", listed(b));
    }
}

/// The container that a facet is of.
fn container(facet: &str) -> Option<&str> {
    facet.split(' ').find(|word| word.starts_with("c="))
}

fn orders(fa: &[((String, String), usize)], fb: &[((String, String), usize)], pod: &str, found: &mut Vec<Difference>) {
    const COUNTERS: [&str; 3] = ["phase with", "restartCount", "observedGeneration"];
    let in_b: BTreeMap<_, _> = fb.iter().map(|(pair, at)| (pair, *at)).collect();
    let common: Vec<_> = fa
        .iter()
        .filter(|((facet, _), _)| !COUNTERS.iter().any(|counter| facet.contains(counter)))
        .filter_map(|(pair, at)| Some((pair, *at, *in_b.get(pair)?)))
        .collect();
    let mut known = BTreeSet::new();
    for (n, (x, xa, xb)) in common.iter().enumerate() {
        for (y, ya, yb) in &common[n + 1..] {
            if let (Some(one), Some(other)) = (container(&x.0), container(&y.0))
                && one != other
            {
                continue;
            }
            let contradict = (xa < ya && xb > yb) || (xa > ya && xb < yb);
            let (earlier, later) = if xa < ya { (x, y) } else { (y, x) };
            let path = format!("{pod}/order of {} and {}", earlier.0, later.0);
            if contradict && known.len() < 4 && known.insert(path.clone()) {
                let order = format!("{} {} < {} {}", earlier.0, earlier.1, later.0, later.1);
                push(found, path, order, "the other way round");
            }
        }
    }
}

/// The number of the attempt that a deed was done to.
fn attempt(deed: &str) -> u64 {
    deed.split('#').nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// What only one side did up to the attempt that both made, how many attempts, and orders that contradict.
fn deeds(a: &[Value], b: &[Value], pod: &str, found: &mut Vec<Difference>) {
    let texts = |side: &[Value]| side.iter().map(told).collect::<Vec<_>>();
    let (a, b) = (texts(a), texts(b));
    let top = |side: &[String]| side.iter().map(|deed| attempt(deed)).max().unwrap_or(0);
    let both = top(&a).min(top(&b));
    let cut = |side: &[String]| {
        let mut seen = BTreeSet::new();
        side.iter().filter(|deed| attempt(deed) <= both && seen.insert(*deed)).cloned().collect::<Vec<_>>()
    };
    let (sa, sb) = (cut(&a), cut(&b));
    let missing =
        |side: &[String], other: &[String]| -> Vec<String> { side.iter().filter(|deed| !other.contains(deed)).cloned().collect() };
    let (oa, ob) = (missing(&sa, &sb), missing(&sb, &sa));
    only(&format!("{pod}/deeds"), &oa, &ob, found);
    if top(&a).abs_diff(top(&b)) > 1 {
        push(found, format!("{pod}/attempts"), top(&a).to_string(), top(&b).to_string());
    }
    let common: Vec<&String> = sa.iter().filter(|deed| sb.contains(deed)).collect();
    let at = |deed: &String| sb.iter().position(|other| other == deed);
    let contradiction =
        (0..common.len()).flat_map(|x| (x + 1..common.len()).map(move |y| (x, y))).find(|(x, y)| at(common[*x]) > at(common[*y]));
    if let Some((x, y)) = contradiction {
        push(found, format!("{pod}/order"), format!("{} < {}", common[x], common[y]), "the other way round");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(part: &str, recordings: &Value, ours: &Value) -> Vec<String> {
        differences(part, recordings, ours).into_iter().map(|one| one.path).collect()
    }

    // Either recording is right; what is neither of them differs, even if the two have nothing in common there.
    #[test]
    fn what_is_like_no_recording_differs_though_these_differ_in_structure() {
        let (with, without) = (json!({"p": {"last": {"code": 1}}}), json!({"p": {}}));
        let recordings = json!([without, with]);
        assert_eq!(paths("status", &recordings, &with), Vec::<String>::new());
        assert_eq!(paths("status", &recordings, &without), Vec::<String>::new());
        assert_eq!(paths("status", &recordings, &json!({"p": {"last": {"code": 2}}})), ["status/p/last"]);
        assert_eq!(paths("status", &json!([with, without]), &json!({"p": {"last": {"code": 2}}})), ["status/p/last/code"]);
        let lists = json!([{"ips": [{"ip": "a"}]}, {"ips": [{"ip": "a"}, {"ip": "b"}]}]);
        assert_eq!(paths("status", &lists, &json!({"ips": [{"ip": "c"}]})), ["status/ips[0]/ip"]);
    }
}
