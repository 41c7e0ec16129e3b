//! An agent's state and its pure decide and apply. Does no IO, reads no clock and draws no chance.
