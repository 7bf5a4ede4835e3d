//! What documents say must be so: links lead somewhere, and the README's scenario is one that holds.

use model::scenario::Scenario;
use model::scenario::run::run;

use crate::source::{files_below, root, text_of};

/// The targets of a page's links within the repository.
fn local_links(page: &str) -> Vec<&str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with('#')).collect()
}

#[test]
fn links_lead_to_files_that_exist() {
    let mut broken = Vec::new();
    for path in files_below(".").into_iter().filter(|path| path.ends_with(".md")) {
        let page = text_of(&path).unwrap_or_default();
        let folder = root().join(&path).parent().expect("a file lies in a folder").to_path_buf();
        let missing =
            local_links(&page).into_iter().filter(|link| !folder.join(link.split('#').next().unwrap_or_default()).exists());
        broken.extend(missing.map(|link| format!("{path}: the link to {link} leads nowhere")));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn scenario_of_the_readme_holds() {
    let readme = text_of("README.md").expect("there is a README");
    let yaml = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it shows a scenario");
    let scenario = Scenario::parse("README.md", yaml).expect("the scenario can be read");
    for seed in 1..=5 {
        let (verdict, _) = run(&scenario, seed, |_| {});
        assert!(verdict.held(), "seed {seed}: {verdict}");
    }
}

#[test]
fn local_links_are_found() {
    assert_eq!(local_links("[a](b.md) [c](https://d) [e](f/g.md#h) [i](#j)"), ["b.md", "f/g.md#h"]);
}
