//! Metrics in, baselines, health and anomalies out. Pure.
