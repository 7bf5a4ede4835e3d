//! Decides how much one pod may make of its spec: beyond it that container, volume or probe fails, with words, and nothing else does.
//! Upstream: none: third_party/forked/golang/expansion, pkg/kubelet/kubelet_pods.go and pkg/volume/util/nested_volumes.go have no bounds.
//! Differs: a spec of a few kilobytes can ask upstream for gigabytes; what no kernel or server takes anyway is refused here beforehand.

/// The environment, command, arguments and expanded subPaths of one container. The kernel takes no more than 6 MiB of arguments and
/// environment, whatever the limits of a process say (`bprm_stack_limits`: three quarters of 8 MiB).
pub const CONTAINER_BYTES: usize = 6 << 20;
/// What the containers that one batch starts may take together before the others wait for the next batch: it is all held at once.
pub const BATCH_BYTES: usize = 64 << 20;
/// The commands of all exec probes of a pod, expanded. They are kept as long as the pod is; a spec is itself smaller than this.
pub const PROBE_BYTES: usize = 4 << 20;
/// The headers of one HTTP probe or hook by number: what holds them panics beyond 24,576.
pub const HEADERS: usize = 4096;
/// The headers of one HTTP probe or hook in bytes: servers in Go read no more (`DefaultMaxHeaderBytes`), most others far less.
pub const HEADER_BYTES: usize = 1 << 20;
/// The files of one volume together. Each ConfigMap or Secret has 1 MiB at most; but one can be shown under many names.
pub const VOLUME_BYTES: usize = 32 << 20;
/// The files of one pod's volumes that are being written; the other volumes wait for them.
pub const WRITING_BYTES: usize = 64 << 20;
/// The directories inside a pod's volumes that its containers mount something over: volumes times mounts.
pub const NESTED_BYTES: usize = 1 << 20;
/// The containers of one pod, init containers among them; what an object of the API may be large allows for some 25,000.
pub const CONTAINERS: usize = 5000;
/// What each variable, word, file or directory counts besides its text.
pub const EACH: usize = 32;

/// What is left of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    what: &'static str,
    most: usize,
    left: usize,
}

impl Room {
    fn new(what: &'static str, most: usize) -> Self {
        Self { what, most, left: most }
    }

    /// For [`CONTAINER_BYTES`].
    #[must_use]
    pub fn of_container() -> Self {
        Self::new("environment, command, arguments and subPaths of the container", CONTAINER_BYTES)
    }

    /// For [`PROBE_BYTES`].
    #[must_use]
    pub fn of_probes() -> Self {
        Self::new("commands of the pod's probes", PROBE_BYTES)
    }

    /// For [`VOLUME_BYTES`].
    #[must_use]
    pub fn of_volume() -> Self {
        Self::new("files of the volume", VOLUME_BYTES)
    }

    /// For [`NESTED_BYTES`].
    #[must_use]
    pub fn of_nested() -> Self {
        Self::new("paths that are mounted inside the pod's volumes", NESTED_BYTES)
    }

    /// Takes some of it.
    ///
    /// # Errors
    /// There is not so much left, in words. Then there is nothing left.
    pub fn take(&mut self, bytes: usize) -> Result<(), String> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(format!("the {} take more than {} bytes, the most that is allowed", self.what, self.most))
            }
        }
    }

    /// How much was taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.most - self.left
    }
}

/// Whether a request may have those headers, by their names and values.
///
/// # Errors
/// In words, if there are too many.
pub fn check_headers(headers: &[(String, String)]) -> Result<(), String> {
    if headers.len() > HEADERS {
        return Err(format!("the request has {} headers, more than the {HEADERS} that are allowed", headers.len()));
    }
    let mut room = Room::new("headers of the request", HEADER_BYTES);
    headers.iter().try_for_each(|(name, value)| room.take(name.len() + value.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_a_limit_is_told_and_leaves_nothing() {
        let mut room = Room::of_probes();
        assert_eq!(room.take(PROBE_BYTES - 1), Ok(()));
        assert_eq!(room.taken(), PROBE_BYTES - 1);
        let told = room.take(2).unwrap_err();
        assert_eq!(told, "the commands of the pod's probes take more than 4194304 bytes, the most that is allowed");
        assert!(room.take(1).is_err());
    }

    #[test]
    fn headers_are_bounded_by_number_and_by_bytes() {
        let header = |bytes: usize| ("n".to_owned(), "v".repeat(bytes - 1));
        assert_eq!(check_headers(&vec![header(2); HEADERS]), Ok(()));
        assert!(check_headers(&vec![header(2); HEADERS + 1]).unwrap_err().contains("4097 headers"));
        assert_eq!(check_headers(&[header(HEADER_BYTES)]), Ok(()));
        assert!(check_headers(&[header(HEADER_BYTES), header(1)]).unwrap_err().contains("1048576 bytes"));
    }
}
