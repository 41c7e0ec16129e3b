//! What several scenario tests share.
