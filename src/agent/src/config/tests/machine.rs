//! What the machine has a say in.

use super::*;

#[test]
fn node_is_named_as_the_machine_or_as_it_is_told() {
    // NODE-003: component-helpers/node/util/hostname.go, GetHostname
    let of = |flags: &str, hostname: &str| {
        let machine = Machine { hostname: hostname.to_owned(), ..machine() };
        let command_line = [vec!["--kubeconfig=/k".to_owned()], vec![flags.to_owned()]].concat();
        match assemble(&command_line, Sources { config: Some(config_file("")), drop_ins: None }, &machine) {
            Ok(Invocation::Run(resolved)) => Ok(resolved.kubelet.node.name.to_string()),
            Ok(Invocation::Print(text)) => Ok(text),
            Err(error) => Err(error.problems[0].message.clone()),
        }
    };
    assert_eq!(of("--v=1", " Worker-1\n"), Ok("worker-1".to_owned()));
    assert_eq!(of("--hostname-override= Node-A ", "worker-1"), Ok("node-a".to_owned()));
    assert_eq!(of("--v=1", " \n"), Err("empty hostname is invalid".to_owned()));
    assert_eq!(of("--hostname-override= ", "worker-1"), Err("empty hostname is invalid".to_owned()));
}

#[test]
fn reserved_cpus_are_the_machines() {
    // NODE-144: cmd/kubelet/app/server.go, getReservedCPUs
    let config = || Sources { config: Some(config_file("reservedSystemCPUs: 7-8")), drop_ins: None };
    let of = |online: &str| {
        let machine = Machine { online_cpus: online.to_owned(), ..machine() };
        assemble(&args("--kubeconfig=/k"), config(), &machine).err().map(|error| error.problems[0].message.clone())
    };
    let words = |online: &str| Some(format!("reserved-cpus: 7-8 is not a subset of online-cpus: {online}"));
    assert_eq!(of("0-7\n"), words("0-7"));
    assert_eq!(of("0-3,7,6\n"), words("0-3,6-7"));
    assert_eq!(of("0-8\n"), None);
    assert_eq!(of(""), None, "the kernel does not tell");
}

#[test]
fn limited_swap_needs_cgroup_v2() {
    // NODE-146, NODE-147: cmd/kubelet/app/server.go, run
    let start = |cgroup_v2: bool| {
        let fields = config_file("failCgroupV1: false\nfailSwapOn: false\nmemorySwap: {swapBehavior: LimitedSwap}");
        let machine = Machine { cgroup_v2, ..machine() };
        assemble(&args("--kubeconfig=/k"), Sources { config: Some(fields), drop_ins: None }, &machine)
    };
    let error = start(false).expect_err("v1");
    assert_eq!(error.problems[0].message, "swap feature is enabled and LimitedSwap but it is only supported with cgroupv2");
    assert!(start(true).is_ok());
}
