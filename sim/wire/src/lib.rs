//! The models as real HTTP and gRPC servers, over simulated or real sockets.

pub mod apiserver;
pub mod cli;
pub mod cri;
pub mod csi;
pub mod interposer;
pub mod stage;
