//! What a machine must have for the live tests, and what it lacks.

use std::path::{Path, PathBuf};

/// Where the static busybox is.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// Where Debian, and everybody else, puts CNI plugins.
const CNI_PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Variable that names the directory of another containerd than the machine's: with it are `ctr` and its shim.
const CONTAINERD_BIN: &str = "KEELSON_CONTAINERD_BIN";

/// What the tests need of the machine.
pub(crate) struct Machine {
    /// The container runtime.
    pub(crate) containerd: PathBuf,
    /// Its client.
    pub(crate) ctr: PathBuf,
    /// The directory of the CNI plugins.
    pub(crate) cni_plugins: PathBuf,
    /// `kubectl`, if there is one.
    pub(crate) kubectl: Option<PathBuf>,
}

/// Looks at the machine.
///
/// # Errors
/// All that is missing, in one line.
pub(crate) fn machine() -> Result<Machine, String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    // Those of util-linux, coreutils and iproute2 set up namespaces; the rest is the runtime.
    for program in ["runc", "unshare", "nsenter", "timeout", "ip"] {
        if program_named(program).is_none() {
            missing.push(program.to_owned());
        }
    }
    let mut of_containerd = |program: &str| {
        let found = match std::env::var_os(CONTAINERD_BIN) {
            Some(place) => Some(Path::new(&place).join(program)).filter(|path| path.is_file()),
            None => program_named(program),
        };
        if found.is_none() {
            missing.push(program.to_owned());
        }
        found
    };
    let (containerd, ctr) = (of_containerd("containerd"), of_containerd("ctr"));
    of_containerd("containerd-shim-runc-v2");
    let plugins = ["bridge", "host-local", "loopback"];
    let cni_plugins = CNI_PLUGINS.map(PathBuf::from).into_iter().find(|dir| plugins.iter().all(|p| dir.join(p).exists()));
    if cni_plugins.is_none() {
        missing.push("CNI plugins".to_owned());
    }
    if !is_static(Path::new(BUSYBOX)) {
        missing.push("busybox-static".to_owned());
    }
    match (containerd, ctr, cni_plugins) {
        (Some(containerd), Some(ctr), Some(cni_plugins)) if missing.is_empty() => {
            Ok(Machine { containerd, ctr, cni_plugins, kubectl: program_named("kubectl") })
        }
        _ => Err(missing.join(", ")),
    }
}

/// The program of that name in PATH, or where administrators' programs are.
fn program_named(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    places.map(|place| place.join(name)).find(|program| program.is_file())
}

/// Whether a program needs no interpreter, so that it runs in an image that holds nothing else.
fn is_static(program: &Path) -> bool {
    const INTERPRETER: [u8; 4] = [3, 0, 0, 0];
    let Ok(elf) = std::fs::read(program) else { return false };
    // The program headers of a 64-bit ELF file: where they are, how large each is, how many.
    let number = |at: usize, length: usize| {
        let bytes = elf.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (Some(at), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else { return false };
    elf.starts_with(b"\x7fELF\x02\x01") && (0..count).all(|n| !elf[at + n * size..].starts_with(&INTERPRETER))
}
