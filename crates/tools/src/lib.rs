//! The tool trait, registry, limits and idempotency; SQL and HTTP tools declared in TOML.
