//! The part of the live tests that is their bed.

#[path = "../../live/agent.rs"]
pub(crate) mod agent;
#[path = "../../live/api.rs"]
pub(crate) mod api;
#[path = "../../live/bed.rs"]
pub(crate) mod bed;
#[path = "../../live/containerd.rs"]
pub(crate) mod containerd;
#[path = "../../live/enclosure.rs"]
pub(crate) mod enclosure;
#[path = "../../live/image.rs"]
pub(crate) mod image;
#[path = "../../live/requirements.rs"]
pub(crate) mod requirements;
#[path = "../../live/site.rs"]
pub(crate) mod site;
#[path = "../../live/wait.rs"]
pub(crate) mod wait;
