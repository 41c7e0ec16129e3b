//! Anomalies in, diagnosis out, by rules. Pure.
