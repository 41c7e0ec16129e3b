//! Diagnosis in, recovery plan out: policies, breakers, budgets. Pure.
