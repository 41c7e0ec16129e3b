//! Watches what agents measure of themselves and tells what deviates: metrics in, anomalies out.
//!
//! The formulas of health are those of [`kintsugi_events::health`], which agents score themselves with. This crate
//! does no IO, reads no clock and draws no chance, and knows agents only through their metrics. Its state is bounded
//! and can be serialised, so that it lies in a snapshot beside the position in the log that it has seen.

pub mod settings;

mod baseline;
mod series;
mod window;

mod watch;

pub use baseline::Baseline;
pub use kintsugi_events::health;
pub use series::{Gauge, Series};
pub use settings::{MonitorSettings, Ratios};
pub use watch::{AGENTS_MAX, KINDS_MAX, Monitor, MonitorState, TOOLS_MAX, ToolWindow};
pub use window::{AgentWindow, Gauges};
