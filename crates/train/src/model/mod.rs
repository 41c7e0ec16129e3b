//! The network: its sizes, its forward pass and its gradient.

mod attention;
mod batch;
mod kernels;
mod matrix;
mod network;
mod shape;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Segment, Target};
pub(crate) use kernels::Dropout;
pub(crate) use matrix::flush_denormals;
pub use network::{Loss, Network, Workspace};
pub use shape::{Layout, Parameter, Shape};
