//! Decides how a hostPath is checked before it is mounted.
//! Upstream: pkg/volume/hostpath/host_path.go.
//! Differs: nothing on purpose.

use k8s_openapi::api::core::v1::Volume;

use super::Trouble;
use crate::action::VolumeSetup;

/// VTY-006: without a type there is nothing to check, hence nothing to do.
pub(super) fn setup(volume: &Volume) -> Result<Option<VolumeSetup>, Trouble> {
    let Some(source) = &volume.host_path else { return Ok(None) };
    if source.path.split('/').any(|element| element == "..") {
        return Err(Trouble::Failed(format!("invalid HostPath `{}`: must not contain '..'", source.path)));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    let check = || VolumeSetup::HostPath { path: source.path.clone(), kind: kind.to_owned() };
    Ok((!kind.is_empty()).then(check))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(path: &str, kind: &str) -> Volume {
        serde_json::from_value(json!({"name": "v", "hostPath": {"path": path, "type": kind}})).unwrap()
    }

    // VTY-006
    #[test]
    fn host_path_is_checked_only_if_it_has_a_type() {
        assert!(setup(&volume("/var/log", "")).unwrap().is_none());
        let Ok(Some(VolumeSetup::HostPath { path, kind })) = setup(&volume("/data", "DirectoryOrCreate")) else {
            panic!("it is checked")
        };
        assert_eq!((path.as_str(), kind.as_str()), ("/data", "DirectoryOrCreate"));
    }

    // VTY-006
    #[test]
    fn host_path_must_not_step_back() {
        let trouble = setup(&volume("/data/../etc", "Directory")).unwrap_err();
        assert_eq!(trouble, Trouble::Failed("invalid HostPath `/data/../etc`: must not contain '..'".to_owned()));
        assert!(setup(&volume("/data/..hidden", "")).is_ok());
    }
}
