//! What a watch shows while something else is done.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;

use anyhow::Context as _;
use serde_json::Value;

use super::control_plane::ControlPlane;

/// A watch of a real API server, which ends with this.
pub(super) struct Watch {
    child: Child,
    file: PathBuf,
}

impl Watch {
    /// Shows what happens from now on to what is listed at that path.
    pub(super) fn start(plane: &ControlPlane, name: &str, path: &str) -> anyhow::Result<Self> {
        let listed: Value = serde_json::from_str(&plane.raw(path)?)?;
        let version = listed["metadata"]["resourceVersion"].as_str().context("a list has a version")?;
        let file = plane.directory.join(format!("{name}.watch"));
        let raw = format!("--raw={path}?watch=true&resourceVersion={version}");
        let child = plane.command(&["get", &raw]).stdout(File::create(&file)?).spawn()?;
        Ok(Self { child, file })
    }

    /// The events so far.
    pub(super) fn events(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(&self.file)?;
        // The last line may not be written to its end yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}
