//! The envelope and every event that flows over a topic, with its JSON form and schema. Does no IO.
