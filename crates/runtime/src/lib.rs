//! The actix actors: node, partition, agent, journal and healing stages.
