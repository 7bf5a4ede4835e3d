//! Decides what users are told of a pull: of one that failed why, of one that worked how long it took.
//! Upstream: pkg/kubelet/images/image_manager.go (evalCRIPullErr), k8s.io/apimachinery/pkg/util/errors (NewAggregate), Go's time.Duration.
//! Differs: nothing on purpose.

use std::time::Duration;

/// The reason and the message that the container's status shows (POD-201, CRI-040).
pub(super) fn of_failed_pull(image: &str, error: &str) -> (&'static str, String) {
    for (reason, what) in
        [("RegistryUnavailable", "the registry is unavailable"), ("SignatureValidationFailed", "the signature validation failed")]
    {
        if let Some(rest) = error.strip_prefix(reason) {
            return (reason, format!("image pull failed for {image} because {what}{rest}"));
        }
    }
    ("ErrImagePull", error.to_owned())
}

/// What went wrong with several credentials: each once, in brackets if they are many.
pub(super) fn aggregate(errors: &[String]) -> String {
    let mut told: Vec<&str> = Vec::new();
    for error in errors {
        if !told.contains(&error.as_str()) {
            told.push(error);
        }
    }
    match told.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A duration as Go prints it, cut to milliseconds: `800ms`, `1.2s`, `1m2.5s`.
pub(super) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (hours, minutes, rest) = (millis / 3_600_000, millis / 60_000 % 60, millis % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CRI-040: TestEvalCRIPullErr (image_manager_test.go)
    #[test]
    fn runtime_may_name_the_reason_of_a_failed_pull() {
        let of = |error: &str| of_failed_pull("test", error);
        let owned = |reason, message: &str| (reason, message.to_owned());
        assert_eq!(of("pull failed"), owned("ErrImagePull", "pull failed"));
        assert_eq!(
            of("RegistryUnavailable"),
            owned("RegistryUnavailable", "image pull failed for test because the registry is unavailable")
        );
        assert_eq!(
            of("RegistryUnavailable: more details"),
            owned("RegistryUnavailable", "image pull failed for test because the registry is unavailable: more details")
        );
        assert_eq!(
            of("SignatureValidationFailed"),
            owned("SignatureValidationFailed", "image pull failed for test because the signature validation failed")
        );
        assert_eq!(of("pull failed: RegistryUnavailable").0, "ErrImagePull");
    }

    // TestPluralAggregate, TestDedupe (apimachinery/pkg/util/errors/errors_test.go)
    #[test]
    fn errors_are_told_once_each() {
        let of = |errors: &[&str]| aggregate(&errors.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["err"]), "err");
        assert_eq!(of(&["abc", "abc"]), "abc");
        assert_eq!(of(&["abc", "123"]), "[abc, 123]");
    }

    #[test]
    fn durations_are_as_go_prints_them() {
        for (millis, printed) in [(0, "0s"), (800, "800ms"), (1200, "1.2s"), (62_500, "1m2.5s"), (3_600_000, "1h0m0s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), printed);
        }
    }
}
