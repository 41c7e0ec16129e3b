//! The byte ledger, the leases and the one actor that owns the engine thread.
