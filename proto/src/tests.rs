use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cri::*;

/// JSON to message, over the wire's bytes, and back to JSON.
fn there_and_back<M: Message + Default + Serialize + DeserializeOwned>(text: &str) -> Value {
    let message: M = serde_json::from_str(text).expect("golden JSON is a message");
    let decoded = M::decode(message.encode_to_vec().as_slice()).expect("what we encode decodes");
    serde_json::to_value(&decoded).expect("a message is JSON")
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("golden JSON")
}

/// The field numbers of a message's bytes, in order.
fn numbers<M: Message>(message: &M) -> Vec<u32> {
    let bytes = message.encode_to_vec();
    let mut rest = bytes.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (number, wire_type) = prost::encoding::decode_key(&mut rest).expect("a key");
        found.push(number);
        prost::encoding::skip_field(wire_type, number, &mut rest, Default::default()).expect("a field");
    }
    found
}

#[test]
fn sandbox_config_of_a_real_kubelet_survives_the_wire_unchanged() {
    let golden = include_str!("../testdata/sandbox.json");
    assert_eq!(there_and_back::<PodSandboxConfig>(golden), value(golden));
}

#[test]
fn container_config_of_a_real_kubelet_survives_the_wire_unchanged() {
    let golden = include_str!("../testdata/container.json");
    assert_eq!(there_and_back::<ContainerConfig>(golden), value(golden));
}

#[test]
fn empty_message_that_is_present_stays_present() {
    let text = r#"{"linux":{"security_context":{"run_as_user":{}}}}"#;
    assert_eq!(there_and_back::<ContainerConfig>(text), value(text));
}

#[test]
fn json_names_that_are_not_snake_case_are_upstreams() {
    let text = r#"{"mounts":[{"uidMappings":[{"length":1}],"gidMappings":[{"length":2}]}],"CDI_devices":[{"name":"v/c=n"}]}"#;
    assert_eq!(there_and_back::<ContainerConfig>(text), value(text));
    let text = r#"{"psi":{"Full":{"Total":1,"Avg10":0.5},"Some":{"Avg60":1.5,"Avg300":2.5}}}"#;
    assert_eq!(there_and_back::<CpuUsage>(text), value(text));
}

#[test]
fn bytes_that_are_not_text_survive_json() {
    let answer = ExecSyncResponse { stdout: vec![0xff, 0, b'a'], stderr: b"plain".to_vec(), exit_code: 3 };
    let json = serde_json::to_value(&answer).expect("JSON");
    assert_eq!(json, json!({"stdout": [255, 0, 97], "stderr": "plain", "exit_code": 3}));
    assert_eq!(serde_json::from_value::<ExecSyncResponse>(json).expect("a message"), answer);
}

#[test]
fn field_numbers_out_of_sequence_are_upstreams() {
    let image = ImageSpec {
        image: "a".into(),
        annotations: [("k".into(), "v".into())].into(),
        user_specified_image: "b".into(),
        runtime_handler: "c".into(),
        image_ref: "d".into(),
    };
    assert_eq!(numbers(&image), [1, 2, 18, 19, 20]);
    let one = Some(Int64Value { value: 1 });
    let sandbox = LinuxSandboxSecurityContext { run_as_user: one, run_as_group: one, ..Default::default() };
    assert_eq!(numbers(&sandbox), [3, 8]);
    let container = LinuxContainerSecurityContext {
        run_as_user: one,
        run_as_group: one,
        no_new_privs: true,
        seccomp: Some(SecurityProfile::default()),
        apparmor: Some(SecurityProfile::default()),
        supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
        ..Default::default()
    };
    assert_eq!(numbers(&container), [5, 11, 12, 15, 16, 17]);
    let config =
        ContainerConfig { cdi_devices: vec![CdiDevice::default()], stop_signal: Signal::Sigterm as i32, ..Default::default() };
    assert_eq!(numbers(&config), [17, 18]);
    assert_eq!(numbers(&Namespace { options: Some(NamespaceOption::default()) }), [2]);
}

#[test]
fn bytes_on_the_wire_are_upstreams() {
    let stop = StopContainerRequest { container_id: "ab".into(), timeout: 30 };
    assert_eq!(stop.encode_to_vec(), [0x0a, 2, b'a', b'b', 0x10, 30]);
    let spec = ImageSpec { user_specified_image: "x".into(), ..Default::default() };
    assert_eq!(spec.encode_to_vec(), [0x92, 0x01, 1, b'x']);
}

#[test]
fn enum_numbers_and_names_are_upstreams() {
    assert_eq!(Signal::Sigterm as i32, 23);
    assert_eq!(Signal::Sigrtmax as i32, 65);
    assert_eq!(Signal::from_str_name("SIGRTMAXMINUS14"), Some(Signal::Sigrtmaxminus14));
    assert_eq!(NamespaceMode::Target as i32, 3);
    assert_eq!(ContainerState::ContainerExited.as_str_name(), "CONTAINER_EXITED");
    assert_eq!(PodSandboxState::SandboxNotready as i32, 1);
    assert_eq!(CgroupDriver::Cgroupfs as i32, 1);
    assert_eq!(security_profile::ProfileType::Localhost as i32, 2);
}

#[test]
fn debug_output_of_credentials_hides_every_secret() {
    let auth = AuthConfig {
        username: "me".into(),
        password: "hunter2".into(),
        auth: "aHVudGVyMg".into(),
        server_address: "there".into(),
        identity_token: "hunter3".into(),
        registry_token: "hunter4".into(),
    };
    let pull = PullImageRequest { auth: Some(auth), ..Default::default() };
    let text = format!("{pull:?}");
    assert!(text.contains("me") && text.contains("there"), "{text}");
    assert!(!text.contains("hunter") && !text.contains("aHVudGVyMg"), "{text}");
}
