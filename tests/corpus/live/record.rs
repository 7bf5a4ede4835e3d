//! What containerd has written down of a sandbox or container: what it was told to make, and what it made of that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::seen::Made;

/// A sandbox or container.
pub(super) struct Record {
    /// The namespace of its pod.
    pub(super) namespace: String,
    /// Its pod.
    pub(super) pod: String,
    /// Its name; `None` for a sandbox.
    pub(super) container: Option<String>,
    /// Which attempt.
    pub(super) attempt: u64,
    config: Value,
    spec: Value,
    handler: String,
}

impl Record {
    /// Reads what `ctr containers info` says.
    pub(super) fn read(text: &str) -> Option<Self> {
        let info: Value = serde_json::from_str(text).ok()?;
        let label = |name: &str| info["Labels"][name].as_str().map(str::to_owned);
        let is_container = label("io.cri-containerd.kind")? == "container";
        let extensions = info["Extensions"].as_object()?;
        let metadata = extensions.iter().find(|(name, _)| name.ends_with(".metadata")).map(|(_, extension)| {
            let bytes = STANDARD.decode(extension["value"].as_str().unwrap_or_default()).unwrap_or_default();
            serde_json::from_slice::<Value>(&bytes).unwrap_or_default()
        })?;
        let metadata = metadata.get("Metadata").unwrap_or(&metadata);
        let config = metadata["Config"].clone();
        Some(Self {
            namespace: label("io.kubernetes.pod.namespace")?,
            pod: label("io.kubernetes.pod.name")?,
            container: if is_container { label("io.kubernetes.container.name") } else { None },
            attempt: config["metadata"]["attempt"].as_u64().unwrap_or(0),
            handler: metadata["RuntimeHandler"].as_str().unwrap_or_default().to_owned(),
            config,
            spec: info["Spec"].clone(),
        })
    }

    /// As what was seen of a case has it.
    pub(super) fn made(self) -> Made {
        let mut made = Made::new(&self.pod, self.container.as_deref(), self.attempt, self.config, &self.handler);
        made.spec = self.spec;
        made
    }
}
